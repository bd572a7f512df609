use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use perennial::{LiveCert, Renewal, Snapshot};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::{Client, Config, NoTls};

use crate::error::{ConnectError, Phase};
use crate::pool::session::Session;
use crate::pool::signals::Signals;
use crate::tls::connector;

/// Runs on each new connection before anybody gets it, replacements included.
pub(crate) type OnConnect = dyn for<'a> Fn(
        &'a Client,
    ) -> Pin<Box<dyn Future<Output = Result<(), tokio_postgres::Error>> + Send + 'a>>
    + Send
    + Sync;

/// How Postgres is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tls,
    /// Where Postgres has no TLS, and no certificate counts; only when explicitly allowed.
    UnixSocket,
}

/// Makes sessions: one snapshot each, within one timeout for everything.
pub(crate) struct Dialer {
    pub(crate) live: LiveCert,
    pub(crate) config: Config,
    pub(crate) transport: Transport,
    pub(crate) connect_timeout: Duration,
    pub(crate) on_connect: Option<Arc<OnConnect>>,
    pub(crate) signals: Arc<Signals>,
    pub(crate) standing: Standing,
    /// Told whenever a session is ended by the other side.
    pub(crate) ended: Arc<Notify>,
}

impl Dialer {
    /// When a connect that begins now must have ended.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.connect_timeout
    }

    /// Connects with the newest certificate that the server takes.
    ///
    /// A refused one is renewed once, by force, and tried once more. While the newest is refused,
    /// the newest that has logged in before serves on, as long as it is valid.
    pub(crate) async fn dial(&self, end: Instant) -> Result<Session, ConnectError> {
        let newest = self.certificate(end).await?;
        // Known to be refused: the replacer goes on trying it, at a pace that the server can bear.
        if let Some(proven) = self.standing.instead_of(&newest, self.live.now()) {
            match self.log_in(&proven, end).await {
                Err(error) if error.is_refusal() => {}
                other => return other,
            }
        }
        let refusal = match self.log_in(&newest, end).await {
            Err(error) if error.is_refusal() => error,
            other => return other,
        };
        let last = match self.renewed(&newest, end).await {
            Some(newer) => match self.log_in(&newer, end).await {
                Err(error) if error.is_refusal() => error,
                other => return other,
            },
            None => refusal,
        };
        match self.standing.instead_of(&newest, self.live.now()) {
            Some(proven) => self.log_in(&proven, end).await,
            None => Err(last),
        }
    }

    /// Connects with the newest certificate or not at all: what a rotation needs.
    pub(crate) async fn dial_newest(&self, end: Instant) -> Result<Session, ConnectError> {
        let newest = self.certificate(end).await?;
        let dialled = self.log_in(&newest, end).await;
        if dialled.as_ref().is_err_and(ConnectError::is_refusal) {
            // The next try is made with what comes of it.
            let _newer = self.renewed(&newest, end).await;
        }
        dialled
    }

    /// A certificate that is valid now; had before the TCP connect, since the server holds a
    /// forked process from there on.
    async fn certificate(&self, end: Instant) -> Result<Arc<Snapshot>, ConnectError> {
        match timeout_at(end, self.live.valid()).await {
            Ok(snapshot) => snapshot.map_err(ConnectError::Certificate),
            Err(_elapsed) => Err(self.timed_out(Phase::Certificate)),
        }
    }

    /// A newer certificate than this refused one, if one forced renewal brings it in time.
    async fn renewed(&self, refused: &Snapshot, end: Instant) -> Option<Arc<Snapshot>> {
        let report = self.live.report_rejected(refused.generation());
        match timeout_at(end, report).await {
            Ok(Renewal::Newer(newer)) => Some(newer),
            _ => None,
        }
    }

    /// Connects with this certificate.
    ///
    /// tokio-postgres' own `connect_timeout` ends with TCP; a server that accepts and says nothing
    /// would hold a pool's slot for ever.
    pub(crate) async fn log_in(
        &self,
        snapshot: &Arc<Snapshot>,
        end: Instant,
    ) -> Result<Session, ConnectError> {
        let connected = match timeout_at(end, self.connect(snapshot)).await {
            Ok(connected) => connected,
            Err(_elapsed) => return Err(self.timed_out(Phase::Server)),
        };
        let generation = snapshot.generation();
        let session = connected.map_err(|error| ConnectError::postgres(error, generation));
        match &session {
            Ok(_) => self.standing.logged_in(snapshot),
            Err(error) if error.is_refusal() => {
                if self.standing.refused(generation) {
                    self.signals.certificate_refused(generation, error);
                }
            }
            Err(_) => {}
        }
        let session = session?;
        if let Some(on_connect) = &self.on_connect {
            // Its panic must not end the task that replaces connections.
            let hook = AssertUnwindSafe(on_connect(&session.client)).catch_unwind();
            match timeout_at(end, hook).await {
                Ok(Ok(done)) => done.map_err(|error| ConnectError::OnConnect(Arc::new(error)))?,
                Ok(Err(_panic)) => return Err(ConnectError::OnConnectPanicked),
                Err(_elapsed) => return Err(self.timed_out(Phase::OnConnect)),
            }
        }
        tracing::debug!(generation, "connected");
        Ok(session)
    }

    async fn connect(&self, snapshot: &Arc<Snapshot>) -> Result<Session, tokio_postgres::Error> {
        let ended = Arc::clone(&self.ended);
        let snapshot = Arc::clone(snapshot);
        match self.transport {
            Transport::Tls => {
                let (client, connection) = self.config.connect(connector(&snapshot)).await?;
                Ok(Session::new(client, connection, snapshot, ended))
            }
            Transport::UnixSocket => {
                let (client, connection) = self.config.connect(NoTls).await?;
                Ok(Session::new(client, connection, snapshot, ended))
            }
        }
    }

    fn timed_out(&self, phase: Phase) -> ConnectError {
        let last = match phase {
            Phase::Certificate => self.live.status().last_error.map(|last| last as _),
            Phase::Server | Phase::OnConnect => None,
        };
        ConnectError::TimedOut {
            after: self.connect_timeout,
            phase,
            last,
        }
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer")
            .field("live", &self.live)
            .field("hosts", &self.config.get_hosts())
            .field("connect_timeout", &self.connect_timeout)
            .finish_non_exhaustive()
    }
}

/// Which certificates this server takes, as far as is known.
#[derive(Debug, Default)]
pub(crate) struct Standing(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// The newest that has logged in.
    proven: Option<Arc<Snapshot>>,
    /// The newest that was refused and has not logged in since.
    refused: Option<u64>,
}

impl Standing {
    /// The newest generation that is refused at present.
    pub(crate) fn refused_generation(&self) -> Option<u64> {
        self.known().refused
    }

    fn logged_in(&self, snapshot: &Arc<Snapshot>) {
        let mut known = self.known();
        let generation = snapshot.generation();
        if known.refused.is_some_and(|refused| refused <= generation) {
            known.refused = None;
        }
        let newer = |proven: &Arc<Snapshot>| generation > proven.generation();
        if known.proven.as_ref().is_none_or(newer) {
            known.proven = Some(Arc::clone(snapshot));
        }
    }

    /// `true` if this is news.
    fn refused(&self, generation: u64) -> bool {
        let mut known = self.known();
        let news = known.refused.is_none_or(|refused| refused < generation);
        if news {
            known.refused = Some(generation);
        }
        news
    }

    /// What to connect with while `newest` is refused: what has logged in before and is valid.
    fn instead_of(&self, newest: &Snapshot, now: SystemTime) -> Option<Arc<Snapshot>> {
        let known = self.known();
        let refused = known.refused?;
        let proven = known.proven.as_ref()?;
        let fits = newest.generation() <= refused
            && proven.generation() < newest.generation()
            && now < proven.not_after();
        fits.then(|| Arc::clone(proven))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
