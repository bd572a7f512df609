use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use rustls::{Error, RootCertStore};
use rustls_pki_types::UnixTime;

use super::roots::{OldRoot, TrustedRoots, in_overlap};

/// What is made of the roots of one generation, while old ones are trusted too and afterwards.
pub(super) struct Stages<T> {
    /// The roots that stay trusted.
    roots: Arc<RootCertStore>,
    /// Made of them.
    lasting: T,
    /// Trusted until their overlap ends, oldest first.
    old: Vec<OldRoot>,
    /// At index `i`: made of the old roots from `i` on too; only when it is needed.
    overlapping: Vec<OnceLock<T>>,
    overlap: Duration,
}

impl<T> Stages<T> {
    /// `roots` are those that stay trusted beside the old ones of `trusted`.
    pub(super) fn new(
        roots: Arc<RootCertStore>,
        trusted: &TrustedRoots,
        overlap: Duration,
        make: impl Fn(Arc<RootCertStore>) -> Result<T, Error>,
    ) -> Result<Self, Error> {
        let old = trusted.old.clone();
        let stages = Self {
            lasting: make(Arc::clone(&roots))?,
            roots,
            overlapping: old.iter().map(|_| OnceLock::new()).collect(),
            old,
            overlap,
        };
        // A maker that refuses the roots of today must refuse the material, not a handshake.
        if !stages.old.is_empty() {
            stages.with_old_from(0, make)?;
        }
        Ok(stages)
    }

    pub(super) fn lasting(&self) -> &T {
        &self.lasting
    }

    /// By the handshake's clock: an overlap ends without a rotation.
    pub(super) fn at(
        &self,
        now: UnixTime,
        make: impl Fn(Arc<RootCertStore>) -> Result<T, Error>,
    ) -> Result<&T, Error> {
        let now = system_time(now);
        let is_trusted = |old: &OldRoot| in_overlap(old.missing_since, now, self.overlap);
        match self.old.iter().position(is_trusted) {
            Some(first) => self.with_old_from(first, make),
            None => Ok(&self.lasting),
        }
    }

    fn with_old_from(
        &self,
        first: usize,
        make: impl Fn(Arc<RootCertStore>) -> Result<T, Error>,
    ) -> Result<&T, Error> {
        let made = &self.overlapping[first];
        if let Some(stage) = made.get() {
            return Ok(stage);
        }
        let mut roots = RootCertStore::clone(&self.roots);
        for old in &self.old[first..] {
            roots.add(old.root.clone())?;
        }
        let stage = make(Arc::new(roots))?;
        Ok(made.get_or_init(|| stage))
    }
}

pub(super) fn system_time(time: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs())
}
