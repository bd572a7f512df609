use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use tokio::sync::{broadcast, mpsc, watch};

use super::{LiveCert, Shared, Writer};
use crate::clock::{Clock, Steadiness};
use crate::error::{RenewError, StartError};
use crate::gate::{DynGate, Gate};
use crate::material::{CertMaterial, Usage};
use crate::observe::{Event, Published, Renewal, Signals};
use crate::renewer::{Memory, Renewer};
use crate::schedule::RenewalSchedule;
use crate::snapshot::Snapshot;
use crate::source::CertSource;
use crate::tls::{TlsPolicy, TlsSettings, default_provider};

const START_TIMEOUT: Duration = Duration::from_secs(30);
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);

/// Settings of a [`LiveCert`].
///
/// # Defaults
/// `start_timeout` 30 s, `fetch_timeout` 30 s, [`RenewalSchedule::new`], [`TlsSettings::new`],
/// [`Usage::Client`], no gate, the name `default`, the crypto provider of the feature that is on.
#[must_use]
pub struct LiveCertBuilder {
    start_timeout: Duration,
    fetch_timeout: Duration,
    provider: Option<Arc<CryptoProvider>>,
    tls: TlsSettings,
    usage: Usage,
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
            usage: Usage::default(),
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

    /// TLS versions, and how servers are verified.
    pub fn tls(mut self, settings: TlsSettings) -> Self {
        self.tls = settings;
        self
    }

    /// What the certificate is used for; a leaf that does not allow it is refused.
    pub fn usage(mut self, usage: Usage) -> Self {
        self.usage = usage;
        self
    }

    /// When to renew.
    pub fn renewal(mut self, schedule: RenewalSchedule) -> Self {
        self.schedule = schedule;
        self
    }

    /// Tests each new certificate before it is published.
    pub fn gate(mut self, gate: impl Gate) -> Self {
        self.gate = Some(Box::new(gate));
        self
    }

    /// The name of this certificate in logs and metrics, for processes with several.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// A clock that a test controls.
    #[cfg(any(test, feature = "test-util"))]
    pub fn clock(mut self, clock: &crate::testing::TestClock) -> Self {
        self.clock = clock.clock();
        self
    }

    /// As [`LiveCert::start`], with these settings.
    ///
    /// # Errors
    /// As [`LiveCert::start`]; [`StartError::Setting`] for a timeout of zero or a TLS setting
    /// that cannot be used.
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
                let last = live.shared.published.borrow().renewal.last_error.clone();
                Err(StartError::TimedOut { after, last })
            }
        }
    }

    /// Starts renewing and returns at once; [`LiveCert::wait_valid`] waits for the first certificate.
    ///
    /// For programs that must come up even if the source is down. No failure ends the renewer.
    ///
    /// # Errors
    /// [`StartError::Setting`] for a setting that cannot be used, [`StartError::NoProvider`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start_lazy(self, source: impl CertSource) -> Result<LiveCert, StartError> {
        positive("fetch_timeout", self.fetch_timeout)?;
        let tls = Arc::new(self.tls_policy()?);
        let (commands, inbox) = mpsc::unbounded_channel();
        let (publisher, published) = watch::channel(Published::default());
        let signals = Signals::new(self.name);
        let events = signals.events().downgrade();
        let renewer = Renewer {
            source: Arc::new(source),
            gate: self.gate,
            schedule: self.schedule,
            tls: Arc::clone(&tls),
            clock: self.clock.clone(),
            fetch_timeout: self.fetch_timeout,
            published: publisher,
            signals,
            memory: Memory::default(),
        };
        let task = tokio::spawn(renewer.run(inbox));
        let writer = Writer::Renewer {
            commands,
            task: task.abort_handle(),
        };
        Ok(live(self.clock, tls, published, events, writer))
    }

    /// As [`LiveCert::fixed`], with these settings.
    ///
    /// # Errors
    /// As [`LiveCert::fixed`]; [`StartError::Setting`] for a TLS setting that cannot be used.
    pub fn fixed(self, material: CertMaterial) -> Result<LiveCert, StartError> {
        let tls = Arc::new(self.tls_policy()?);
        let snapshot = Snapshot::build(&Arc::new(material), None, self.clock.moment(), &tls)
            .map_err(|error| StartError::Failed(RenewError::Material(error)))?
            .warn_if_not_yet_valid(self.clock.now());
        let (publisher, published) = watch::channel(Published {
            snapshot: Some(Arc::new(snapshot)),
            renewal: Renewal::default(),
        });
        let events = broadcast::Sender::new(1);
        let weak = events.downgrade();
        let writer = Writer::Fixed {
            _published: publisher,
            _events: events,
        };
        Ok(live(self.clock, tls, published, weak, writer))
    }

    fn tls_policy(&self) -> Result<TlsPolicy, StartError> {
        let provider = self.provider.clone().or_else(default_provider);
        let provider = provider.ok_or(StartError::NoProvider)?;
        TlsPolicy::new(provider, self.tls.clone(), self.usage)
    }
}

fn live(
    clock: Clock,
    tls: Arc<TlsPolicy>,
    published: watch::Receiver<Published>,
    events: broadcast::WeakSender<Event>,
    writer: Writer,
) -> LiveCert {
    let steadiness = Mutex::new(Steadiness::new(clock.moment()));
    LiveCert {
        shared: Arc::new(Shared {
            clock,
            tls,
            steadiness,
            published,
            events,
            writer,
        }),
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
        return Err(StartError::Setting {
            field,
            got: Some(format!("{got:?}")),
            problem: "expected more than zero".to_owned(),
            cause: None,
        });
    }
    Ok(())
}

/// Waits for the first snapshot or the first permanent error, whichever comes first.
pub(super) async fn first_certificate(live: &LiveCert) -> Result<(), RenewError> {
    let mut published = live.shared.published.clone();
    let decided = published.wait_for(|published| {
        published.snapshot.is_some() || published.renewal.permanent_error().is_some()
    });
    // The channel closes only with the renewer.
    let decided = decided.await.map_err(|_closed| RenewError::Stopped)?;
    match decided.renewal.permanent_error() {
        Some(error) if decided.snapshot.is_none() => Err(error.clone()),
        _ => Ok(()),
    }
}
