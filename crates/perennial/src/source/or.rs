use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{CacheKey, CertSource, FetchContext, Fetched};
use crate::error::{SourceError, SourceErrorKind};
use crate::snapshot::Snapshot;

/// Fetches from a second source where the first is not configured.
#[derive(Debug)]
pub(super) struct Or<A, B> {
    first: A,
    second: B,
    /// Whether the second answered last, with a certificate or with an error of its own.
    second_answered: AtomicBool,
    /// Whether the second delivered last.
    second_delivered: AtomicBool,
}

impl<A, B> Or<A, B> {
    pub(super) fn new(first: A, second: B) -> Self {
        Self {
            first,
            second,
            second_answered: AtomicBool::new(false),
            second_delivered: AtomicBool::new(false),
        }
    }

    fn note(&self, is_second: bool, answer: &Result<Fetched, SourceError>) {
        self.second_answered.store(is_second, Ordering::Relaxed);
        if answer.is_ok() {
            self.second_delivered.store(is_second, Ordering::Relaxed);
        }
    }
}

impl<A: CertSource, B: CertSource> CertSource for Or<A, B> {
    async fn fetch(&self, context: FetchContext<'_>) -> Result<Fetched, SourceError> {
        let first = match self.first.fetch(context).await {
            Err(error) if is_not_configured(&error) => error,
            answer => {
                self.note(false, &answer);
                return answer;
            }
        };
        let answer = self.second.fetch(context).await;
        self.note(true, &answer);
        match answer {
            Err(second) if is_not_configured(&second) => {
                Err(SourceError::not_configured(Neither { first, second }))
            }
            answer => answer,
        }
    }

    async fn changed(&self) {
        if !self.second_answered.load(Ordering::Relaxed) {
            return self.first.changed().await;
        }
        tokio::select! {
            // The first may have been configured meanwhile, and it takes precedence.
            () = self.first.changed() => {}
            () = self.second.changed() => {}
        }
    }

    /// To the source that delivered it: the renewer publishes nothing but the last delivery.
    fn published(&self, snapshot: &Arc<Snapshot>) {
        if self.second_delivered.load(Ordering::Relaxed) {
            self.second.published(snapshot);
        } else {
            self.first.published(snapshot);
        }
    }

    fn cache_key(&self) -> Option<CacheKey> {
        let keys = [self.first.cache_key(), self.second.cache_key()];
        keys.iter().any(Option::is_some).then(|| {
            let part = |key: &Option<CacheKey>| key.map_or(vec![], |key| key.as_bytes().to_vec());
            let parts = keys.each_ref().map(part);
            CacheKey::of(parts.iter().map(Vec::as_slice))
        })
    }
}

fn is_not_configured(error: &SourceError) -> bool {
    error.kind() == SourceErrorKind::NotConfigured
}

/// An error has one source, so the other one is part of the text.
#[derive(Debug, thiserror::Error)]
#[error("neither source is configured; first: {}", Error::source(first).unwrap_or(first))]
struct Neither {
    first: SourceError,
    #[source]
    second: SourceError,
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::super::testing::{KeyedSource, ask, shown};
    use super::*;
    use crate::testing::{MINUTE, ScriptedSource, Step, TestCa, TestClock, builder, noon};
    use crate::{CertMaterial, FetchReason, source_fn};

    type Counted = (Arc<AtomicUsize>, crate::BoxSource);

    fn counted(answer: fn() -> Result<CertMaterial, SourceError>) -> Counted {
        let fetched = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&fetched);
        let source = source_fn(move || {
            count.fetch_add(1, Ordering::SeqCst);
            async move { answer() }
        });
        (fetched, source.boxed())
    }

    fn unset() -> Result<CertMaterial, SourceError> {
        Err(SourceError::not_configured("APP_TLS is not set"))
    }

    fn issued() -> Result<CertMaterial, SourceError> {
        Ok(TestCa::new().issue(noon(), MINUTE))
    }

    #[tokio::test]
    async fn second_is_fetched_from_only_if_the_first_is_not_configured() {
        type Answer = fn() -> Result<CertMaterial, SourceError>;
        let table: [(Answer, usize); 5] = [
            (unset, 1),
            (issued, 0),
            (|| Err(SourceError::denied("no")), 0),
            (|| Err(SourceError::invalid("half of it")), 0),
            (|| Err(SourceError::unavailable("down")), 0),
        ];
        for (first, wanted) in table {
            let (fetched, second) = counted(issued);
            let _ = counted(first)
                .1
                .or(second)
                .fetch(ask(FetchReason::Start))
                .await;
            assert_eq!(fetched.load(Ordering::SeqCst), wanted);
        }
    }

    #[tokio::test]
    async fn neither_configured_is_not_configured_and_names_both() {
        let (_, third) = counted(|| Err(SourceError::not_configured("no third")));
        let source = counted(unset).1.or(counted(unset).1).or(third);
        let error = source.fetch(ask(FetchReason::Start)).await.unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::NotConfigured);
        let shown = shown(&error);
        for part in ["APP_TLS is not set", "no third"] {
            assert!(shown.contains(part), "{shown}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn change_is_noticed_of_the_source_that_answered_and_of_those_before_it() {
        let changing = |step: fn() -> Step| {
            let source = ScriptedSource::new(&TestClock::starting_at(noon()), [step()]);
            source.then(step);
            source
        };
        let unset = || Step::Fail(SourceError::not_configured("APP_TLS is not set"));
        let issued = || Step::Issue(MINUTE);
        let is_noticed = async |first: fn() -> Step, changed: usize| {
            let sources = [changing(first), changing(issued)];
            let or = sources[0].clone().or(sources[1].clone());
            or.fetch(ask(FetchReason::Start)).await.unwrap();
            sources[changed].set_changed(1);
            tokio::time::timeout(MINUTE, or.changed()).await.is_ok()
        };
        assert!(is_noticed(issued, 0).await);
        assert!(!is_noticed(issued, 1).await);
        assert!(is_noticed(unset, 0).await);
        assert!(is_noticed(unset, 1).await);
    }

    #[tokio::test(start_paused = true)]
    async fn published_is_passed_on_to_the_source_that_delivered() {
        let wall = TestClock::starting_at(noon());
        let unset = ScriptedSource::new(&wall, []);
        unset.then(|| Step::Fail(SourceError::not_configured("APP_TLS is not set")));
        let issuing = ScriptedSource::new(&wall, []);
        for (scripts, expected) in [([&issuing, &unset], [1, 0]), ([&unset, &issuing], [0, 1])] {
            let sources = scripts.map(|script| KeyedSource::new(script, None));
            let [first, second] = sources.clone();
            let source = first.boxed().or(second).boxed();
            let _live = builder(&wall).start(source).await.unwrap();
            let published = sources.map(|source| source.published.lock().unwrap().len());
            assert_eq!(published, expected);
        }
    }

    #[test]
    fn cache_key_is_of_both_in_their_order() {
        let script = ScriptedSource::new(&TestClock::starting_at(noon()), []);
        let of = |key| KeyedSource::new(&script, Some(key));
        let plain = || source_fn(async || unset());
        assert_eq!(plain().or(plain()).cache_key(), None);
        let key = CacheKey::of([b"a".as_slice()]);
        let keyed = crate::keyed_source_fn(key, async || unset());
        assert_eq!(keyed.cache_key(), Some(key));
        let all = [
            of("a").or(of("b")).cache_key(),
            of("b").or(of("a")).cache_key(),
            of("a").or(plain()).cache_key(),
            plain().or(of("a")).cache_key(),
        ];
        for (i, one) in all.iter().enumerate() {
            assert!(one.is_some() && !all[..i].contains(one));
        }
    }
}
