use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use tokio::sync::{broadcast, mpsc, watch};

use super::{FETCH_TIMEOUT, LiveCert, START_TIMEOUT, Shared, Writer};
use crate::attempt::Attempts;
use crate::clock::Clock;
use crate::error::{RenewError, StartError};
use crate::gate::{DynGate, Gate};
use crate::material::CertMaterial;
use crate::renewer::Renewer;
use crate::schedule::RenewalSchedule;
use crate::signals::Signals;
use crate::snapshot::Snapshot;
use crate::source::CertSource;
use crate::status::Progress;
use crate::tls::{TlsPolicy, TlsSettings, default_provider};

/// Settings of a [`LiveCert`].
///
/// # Defaults
/// `start_timeout` [`START_TIMEOUT`], `fetch_timeout` [`FETCH_TIMEOUT`], the policy
/// [`RenewalSchedule::new`], [`TlsSettings::new`], no gate, the name `default`, the crypto provider of
/// the feature that is on.
#[must_use]
pub struct LiveCertBuilder {
    start_timeout: Duration,
    fetch_timeout: Duration,
    provider: Option<Arc<CryptoProvider>>,
    tls: TlsSettings,
    schedule: RenewalSchedule,
    gate: Option<Box<dyn DynGate>>,
    name: Arc<str>,
    clock: Clock,
}

impl Default for LiveCertBuilder {
    fn default() -> Self {
        Self {
            start_timeout: START_TIMEOUT,
            fetch_timeout: FETCH_TIMEOUT,
            provider: None,
            tls: TlsSettings::new(),
            schedule: RenewalSchedule::new(),
            gate: None,
            name: "default".into(),
            clock: Clock::default(),
        }
    }
}

impl LiveCertBuilder {
    /// How long [`start`](Self::start) waits for the first certificate.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.start_timeout = timeout;
        self
    }

    /// How long one fetch may take.
    pub fn fetch_timeout(mut self, timeout: Duration) -> Self {
        self.fetch_timeout = timeout;
        self
    }

    /// The crypto provider of keys, checks and TLS configs.
    pub fn provider(mut self, provider: Arc<CryptoProvider>) -> Self {
        self.provider = Some(provider);
        self
    }

    /// How TLS is spoken, and by what servers are verified.
    pub fn tls(mut self, settings: TlsSettings) -> Self {
        self.tls = settings;
        self
    }

    /// When to renew.
    pub fn renewal(mut self, schedule: RenewalSchedule) -> Self {
        self.schedule = schedule;
        self
    }

    /// What tries each new certificate out before anybody gets it.
    pub fn gate(mut self, gate: impl Gate) -> Self {
        self.gate = Some(Box::new(gate));
        self
    }

    /// What this certificate is called in logs and metrics, where a process has several.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// A clock that tests move.
    #[cfg(any(test, feature = "test-util"))]
    pub fn clock(mut self, clock: &crate::testing::TestClock) -> Self {
        self.clock = clock.clock();
        self
    }

    /// As [`LiveCert::start`], with these settings.
    ///
    /// # Errors
    /// As [`LiveCert::start`]; [`StartError::Setting`] for a timeout of zero, [`StartError::Tls`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    ///
    /// # Cancel safety
    /// Cancelled, it leaves nothing behind.
    pub async fn start(self, source: impl CertSource) -> Result<LiveCert, StartError> {
        let after = self.start_timeout;
        positive("start_timeout", after)?;
        let live = self.start_lazy(source)?;
        match tokio::time::timeout(after, first_certificate(&live)).await {
            Ok(Ok(())) => Ok(live),
            Ok(Err(permanent)) => Err(StartError::Failed(permanent)),
            Err(_elapsed) => {
                let last = live.shared.progress.borrow().last_error.clone();
                Err(StartError::TimedOut { after, last })
            }
        }
    }

    /// Starts renewing and returns at once; [`LiveCert::valid`] waits for the first certificate.
    ///
    /// For programs that must come up even if the source is down. No failure ends the renewer.
    ///
    /// # Errors
    /// [`StartError::Setting`] for a timeout of zero, [`StartError::NoProvider`],
    /// [`StartError::Tls`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start_lazy(self, source: impl CertSource) -> Result<LiveCert, StartError> {
        positive("fetch_timeout", self.fetch_timeout)?;
        let tls = self.tls_policy()?;
        let (commands, inbox) = mpsc::unbounded_channel();
        let (snapshot_sender, snapshots) = watch::channel(None);
        let (progress_sender, progress) = watch::channel(Progress::default());
        let signals = Signals::new(self.name);
        let events = signals.events().downgrade();
        let renewer = Renewer {
            attempts: Attempts {
                source: Arc::new(source),
                gate: self.gate,
                schedule: self.schedule,
                tls,
                clock: self.clock.clone(),
                fetch_timeout: self.fetch_timeout,
                snapshots: snapshot_sender,
                progress: progress_sender,
                signals,
                held: None,
                marks: Vec::new(),
            },
            commands: inbox,
            ticker: self.clock.follow(),
            forced: None,
            last_fetch: tokio::time::Instant::now(),
            refusal_told: 0,
        };
        let task = tokio::spawn(renewer.run());
        Ok(LiveCert {
            shared: Arc::new(Shared {
                clock: self.clock,
                snapshots,
                progress,
                events,
                writer: Writer::Renewer {
                    commands,
                    task: task.abort_handle(),
                },
            }),
        })
    }

    /// As [`LiveCert::fixed`], with these settings.
    ///
    /// # Errors
    /// As [`LiveCert::fixed`]; [`StartError::Tls`].
    pub fn fixed(self, material: CertMaterial) -> Result<LiveCert, StartError> {
        let tls = self.tls_policy()?;
        let snapshot = Snapshot::build(&material, None, self.clock.now(), &tls)
            .map_err(|error| StartError::Failed(Arc::new(RenewError::Material(error))))?;
        let (snapshot_sender, snapshots) = watch::channel(Some(Arc::new(snapshot)));
        let (progress_sender, progress) = watch::channel(Progress::default());
        let events = broadcast::Sender::new(1);
        Ok(LiveCert {
            shared: Arc::new(Shared {
                clock: self.clock,
                snapshots,
                progress,
                events: events.downgrade(),
                writer: Writer::Fixed {
                    _snapshots: snapshot_sender,
                    _progress: progress_sender,
                    _events: events,
                },
            }),
        })
    }

    fn tls_policy(&self) -> Result<TlsPolicy, StartError> {
        let provider = self.provider.clone().or_else(default_provider);
        let provider = provider.ok_or(StartError::NoProvider)?;
        TlsPolicy::new(provider, self.tls.clone()).map_err(StartError::Tls)
    }
}

impl fmt::Debug for LiveCertBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveCertBuilder")
            .field("start_timeout", &self.start_timeout)
            .field("fetch_timeout", &self.fetch_timeout)
            .field("schedule", &self.schedule)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

fn positive(field: &'static str, got: Duration) -> Result<(), StartError> {
    if got.is_zero() {
        return Err(StartError::Setting { field, got });
    }
    Ok(())
}

/// Waits for the first snapshot or the first permanent error, whichever comes first.
async fn first_certificate(live: &LiveCert) -> Result<(), Arc<RenewError>> {
    let mut snapshots = live.shared.snapshots.clone();
    let mut progress = live.shared.progress.clone();
    // A channel closes only with the renewer, and that ends, while there is a handle, only with the
    // runtime: then nobody waits for this any more.
    let published = async {
        let closed = snapshots.wait_for(Option::is_some).await.is_err();
        if closed {
            std::future::pending::<()>().await;
        }
    };
    let failed = async {
        let failed = progress.wait_for(|p| p.permanent_error().is_some()).await;
        let error = failed.ok().and_then(|progress| progress.permanent_error());
        match error {
            Some(permanent) => permanent,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = published => Ok(()),
        permanent = failed => Err(permanent),
    }
}
