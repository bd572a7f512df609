use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use perennial::{LiveCert, Renewal, Snapshot};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::{CancelToken, Client, Config, NoTls};

use crate::error::{ConnectError, Phase};
use crate::pool::rotation::CANCEL_GRACE;
use crate::pool::session::{Driver, Leaving, Session};
use crate::pool::signals::Signals;
use crate::pool::standing::Standing;
use crate::pool::status::RetireReason;
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
    pub(crate) leaving: Leaving,
    /// Told whenever a session is ended by the other side.
    pub(crate) ended: Arc<Notify>,
}

impl Dialer {
    /// When a connect that begins now must have ended.
    pub(crate) fn deadline(&self) -> Instant {
        after(self.connect_timeout)
    }

    /// Counts a session that is about to be dropped: it finishes what runs on it, says good-bye, and
    /// is remembered until then.
    pub(crate) fn let_go(&self, driver: &Arc<Driver>, reason: RetireReason) {
        self.signals.retired(driver, reason);
        self.leaving.add(driver);
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
    ///
    /// In its last moments a renewal is waited for, but not for so long that no time is left to
    /// connect with what there is.
    async fn certificate(&self, end: Instant) -> Result<Arc<Snapshot>, ConnectError> {
        if let Ok(renewed) = timeout(part_until(end), self.live.valid()).await {
            return renewed.map_err(ConnectError::Certificate);
        }
        if let Ok(current) = self.live.current() {
            return Ok(current);
        }
        match timeout_at(end, self.live.valid()).await {
            Ok(snapshot) => snapshot.map_err(ConnectError::Certificate),
            Err(_elapsed) => Err(self.timed_out(Phase::Certificate)),
        }
    }

    /// A newer certificate than this refused one, if one forced renewal brings it in time.
    async fn renewed(&self, refused: &Snapshot, end: Instant) -> Option<Arc<Snapshot>> {
        let report = self.live.report_rejected(refused.generation());
        match timeout(part_until(end), report).await {
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
        if let Err(error) = self.prepare(&session, end).await {
            if !matches!(error, ConnectError::OnConnect(_)) {
                // Not answered: it may hang in a lock, and would stay there, one more with each try.
                let _asked = timeout(CANCEL_GRACE, self.cancel(&session.driver.cancel)).await;
                session.driver.cut();
            }
            return Err(error);
        }
        tracing::debug!(generation, "connected");
        Ok(session)
    }

    async fn prepare(&self, session: &Session, end: Instant) -> Result<(), ConnectError> {
        let Some(on_connect) = &self.on_connect else {
            return Ok(());
        };
        // Its panic, in the call or in the future, must not end the task that replaces connections.
        let hook = AssertUnwindSafe(async { on_connect(&session.client).await }).catch_unwind();
        match timeout_at(end, hook).await {
            Ok(Ok(done)) => done.map_err(|error| ConnectError::OnConnect(Arc::new(error))),
            Ok(Err(_panic)) => Err(ConnectError::OnConnectPanicked),
            Err(_elapsed) => Err(self.timed_out(Phase::OnConnect)),
        }
    }

    /// Asks the server to cancel what runs on a session, with a certificate that it takes now.
    pub(crate) async fn cancel(&self, token: &CancelToken) -> Result<(), ConnectError> {
        let asked = async {
            let snapshot = self.live.current().map_err(ConnectError::Certificate)?;
            let snapshot = self.standing.best(snapshot, self.live.now());
            let answer = match self.transport {
                Transport::Tls => {
                    let connector = connector(&snapshot, Some(&self.live));
                    token.cancel_query(connector).await
                }
                Transport::UnixSocket => token.cancel_query(NoTls).await,
            };
            answer.map_err(|error| ConnectError::postgres(error, snapshot.generation()))
        };
        match timeout(self.connect_timeout, asked).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(self.timed_out(Phase::Server)),
        }
    }

    async fn connect(&self, snapshot: &Arc<Snapshot>) -> Result<Session, tokio_postgres::Error> {
        let ended = Arc::clone(&self.ended);
        let snapshot = Arc::clone(snapshot);
        match self.transport {
            Transport::Tls => {
                let connector = connector(&snapshot, Some(&self.live));
                let (client, connection) = self.config.connect(connector).await?;
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

/// The moment after so long, or one that nobody lives to see.
pub(crate) fn after(wait: Duration) -> Instant {
    const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);
    Instant::now() + wait.min(NEVER)
}

/// What may be spent on a renewal, so that there is time to connect afterwards.
fn part_until(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now()) / 2
}
