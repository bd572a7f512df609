use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::{FutureExt, TryStreamExt, pin_mut};
use perennial::{Events, Snapshot, with_causes};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, broadcast};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{AsyncMessage, CancelToken, Client, Connection, Notification};

/// How many notifications a reader may be behind before it misses some.
const NOTIFICATION_BACKLOG: usize = 256;

/// What a session's task needs of its pool.
#[derive(Clone)]
pub(crate) struct PoolSide {
    /// Notified when the session is to be replaced.
    pub(crate) wake: Arc<Notify>,
    /// Notified when the server's role has changed: the other sessions have not noticed it yet.
    pub(crate) role_changed: Arc<Notify>,
    /// The role that a server must have.
    pub(crate) wanted: TargetSessionAttrs,
}

/// A logged-in client and the task that drives it.
///
/// When it is dropped, running queries and streams finish; then the client sends the Terminate
/// message.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) driver: Arc<Driver>,
}

impl Session {
    /// Starts to drive a connection; wakes the pool when the server or the network ends it.
    pub(crate) fn new<S, T>(
        client: Client,
        connection: Connection<S, T>,
        server: Arc<str>,
        snapshot: Arc<Snapshot>,
        pool: PoolSide,
    ) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let received = Arc::new(Received::default());
        let end = EndOnDrop(Arc::clone(&received));
        // Ends once the client is dropped and everything that runs on it has been answered.
        let task = tokio::spawn(drive(connection, end, pool)).abort_handle();
        let driver = Arc::new(Driver {
            snapshot,
            server,
            cancel: client.cancel_token(),
            task,
            unusable: AtomicBool::new(false),
            aborted: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            connected: Instant::now(),
            received,
        });
        Self { client, driver }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.driver.generation()
    }

    /// Whether it is open as far as is known, and nothing has marked it as unusable.
    pub(crate) fn is_usable(&self) -> bool {
        !self.client.is_closed() && !self.driver.unusable.load(Ordering::Relaxed)
    }

    /// Sends an empty query.
    ///
    /// The ping does not borrow the client: a check-out may happen meanwhile, and its queries queue
    /// behind the ping.
    pub(crate) fn ping(&self) -> Ping {
        // Sending never waits.
        let sent = self.client.simple_query_raw("").now_or_never();
        let answered = async move {
            let Some(Ok(answers)) = sent else {
                return false;
            };
            pin_mut!(answers);
            matches!(answers.try_next().await, Ok(Some(_)))
        };
        Ping {
            driver: Arc::clone(&self.driver),
            answered: Box::pin(answered),
        }
    }
}

/// An empty query that was sent to the server.
pub(crate) struct Ping {
    pub(crate) driver: Arc<Driver>,
    answered: Pin<Box<dyn Future<Output = bool> + Send>>,
}

impl Ping {
    /// Whether the server answered; `false` if the session ended instead.
    pub(crate) async fn answered(self) -> bool {
        self.answered.await
    }

    /// Whether the answer, or the end of the session, has arrived.
    pub(crate) fn is_over(&mut self) -> bool {
        (&mut self.answered).now_or_never().is_some()
    }
}

/// What is known of a session without its client: shared with the background task.
pub(crate) struct Driver {
    pub(crate) snapshot: Arc<Snapshot>,
    /// Host, port and address, for errors.
    pub(crate) server: Arc<str>,
    pub(crate) cancel: CancelToken,
    task: AbortHandle,
    unusable: AtomicBool,
    aborted: AtomicBool,
    retired: AtomicBool,
    connected: Instant,
    received: Arc<Received>,
}

impl Driver {
    pub(crate) fn generation(&self) -> u64 {
        self.snapshot.generation()
    }

    /// The driver's error, once the session has ended with one.
    pub(crate) fn error(&self) -> Option<&tokio_postgres::Error> {
        self.received.error.get()
    }

    pub(crate) fn notifications(&self) -> Events<Notified> {
        let mut listeners = self.received.listeners();
        let sender = match &*listeners {
            Listeners::Some(sender) => sender.clone(),
            Listeners::Ended => broadcast::Sender::new(1),
            Listeners::None => {
                let sender = broadcast::Sender::new(NOTIFICATION_BACKLOG);
                *listeners = Listeners::Some(sender.clone());
                sender
            }
        };
        Events::from_channel(sender.subscribe(), Notified::Missed)
    }

    /// Whether the server had the role that `target_session_attrs` asks for, and has it no more.
    pub(crate) fn role_changed(&self) -> bool {
        let Received {
            other_role,
            is_role_ignored,
            ..
        } = &*self.received;
        other_role.load(Ordering::Relaxed) && !is_role_ignored.load(Ordering::Relaxed)
    }

    /// Takes the present role as the right one: the server was asked for it, and an `on_connect` hook
    /// may set `default_transaction_read_only`.
    pub(crate) fn accept_role(&self) {
        let _polled = self.received.polling();
        let other = self.received.other_role.load(Ordering::Relaxed);
        self.received
            .is_role_ignored
            .store(other, Ordering::Relaxed);
    }

    /// Stops the pool from handing this session out again; what runs on it continues.
    pub(crate) fn mark_unusable(&self) {
        self.unusable.store(true, Ordering::Relaxed);
    }

    /// Closes the connection now, even if a query runs on it.
    pub(crate) fn abort(&self) {
        self.mark_unusable();
        self.aborted.store(true, Ordering::Relaxed);
        self.task.abort();
    }

    pub(crate) fn age(&self) -> Duration {
        self.connected.elapsed()
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// Whether [`abort`](Self::abort) was called: the connection closes in a moment.
    pub(crate) fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::Relaxed)
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// `true` for the first call: a session is counted as retired once.
    pub(crate) fn mark_retired(&self) -> bool {
        !self.retired.swap(true, Ordering::Relaxed)
    }
}

/// An item of [`PgConnection::notifications`](crate::PgConnection::notifications).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Notified {
    /// The server delivered this for a `NOTIFY`.
    Notification(Notification),
    /// This reader was too slow and missed so many notifications.
    Missed(u64),
}

/// What the server sent without a query.
#[derive(Default)]
struct Received {
    error: OnceLock<tokio_postgres::Error>,
    /// Whether the server's role is not the wanted one, as far as it has reported it.
    other_role: AtomicBool,
    is_role_ignored: AtomicBool,
    /// Held while the connection is polled: a caller has its answer before the poll ends, and what
    /// arrived with the answer is recorded after it.
    polling: Mutex<()>,
    listeners: Mutex<Listeners>,
}

#[derive(Default)]
enum Listeners {
    #[default]
    None,
    Some(broadcast::Sender<Notified>),
    Ended,
}

impl Received {
    fn polling(&self) -> MutexGuard<'_, ()> {
        self.polling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listeners(&self) -> MutexGuard<'_, Listeners> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the notifications when the task that drives the session ends, for whatever reason.
struct EndOnDrop(Arc<Received>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        *self.0.listeners() = Listeners::Ended;
    }
}

/// Whether a server with these parameters is not of the wanted role; Postgres reports both since
/// version 14. What is not reported is not held against it.
fn is_other_role(wanted: TargetSessionAttrs, parameter: impl Fn(&str) -> Option<bool>) -> bool {
    let standby = parameter("in_hot_standby");
    let read_only = parameter("default_transaction_read_only");
    match wanted {
        TargetSessionAttrs::ReadWrite => standby == Some(true) || read_only == Some(true),
        TargetSessionAttrs::ReadOnly => standby == Some(false) && read_only == Some(false),
        _ => false,
    }
}

async fn drive<S, T>(mut connection: Connection<S, T>, received: EndOnDrop, pool: PoolSide)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let message = poll_fn(|context| {
            let _polling = received.0.polling();
            let message = connection.poll_message(context);
            // At every poll: the driver returns no message for a changed parameter.
            let on = |name: &str| connection.parameter(name).map(|value| value == "on");
            let is_other = is_other_role(pool.wanted, on);
            let was_other = received.0.other_role.swap(is_other, Ordering::Relaxed);
            if is_other && !was_other {
                pool.wake.notify_one();
                pool.role_changed.notify_one();
            }
            message
        });
        match message.await {
            Some(Ok(AsyncMessage::Notification(notification))) => {
                if let Listeners::Some(sender) = &*received.0.listeners() {
                    // Fails if every reader is gone.
                    let _ = sender.send(Notified::Notification(notification));
                }
            }
            Some(Ok(AsyncMessage::Notice(notice))) => {
                // On one line: a notice may quote what a caller has sent.
                tracing::debug!(notice = %with_causes(&notice), "postgres sent a notice");
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::debug!(error = %with_causes(&error), "a connection ended with an error");
                // Set only here.
                let _ = received.0.error.set(error);
                // Closes the client before the background task looks at it.
                drop(connection);
                pool.wake.notify_one();
                return;
            }
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::task::{Context, Poll};
    use std::thread;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf};
    use tokio_postgres::config::SslMode;
    use tokio_postgres::{Config, NoTls};

    use super::*;

    /// A stream on which a read that finds nothing takes long.
    struct SlowToFindNothing(DuplexStream);

    impl AsyncRead for SlowToFindNothing {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let read = Pin::new(&mut self.0).poll_read(context, buffer);
            if read.is_pending() {
                thread::sleep(Duration::from_millis(200));
            }
            read
        }
    }

    impl AsyncWrite for SlowToFindNothing {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(context, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(context)
        }

        fn poll_shutdown(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(context)
        }
    }

    /// Scenario: N21
    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn role_that_a_hook_has_set_is_accepted_though_the_poll_that_reads_it_goes_on() {
        let live = super::super::model::live().await;
        let (ours, mut theirs) = tokio::io::duplex(4_096);
        tokio::spawn(async move {
            let mut bytes = [0; 1_024];
            let _ = theirs.read(&mut bytes).await.unwrap();
            let hello = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
            theirs.write_all(hello).await.unwrap();
            let _ = theirs.read(&mut bytes).await.unwrap();
            // CommandComplete, ParameterStatus, ReadyForQuery.
            let mut answer = b"C\0\0\0\x08SET\0S\0\0\0\x25".to_vec();
            answer.extend(b"default_transaction_read_only\0on\0Z\0\0\0\x05I");
            theirs.write_all(&answer).await.unwrap();
            let _ = theirs.read(&mut bytes).await;
        });
        let mut config = Config::new();
        config.user("app").ssl_mode(SslMode::Disable);
        let stream = SlowToFindNothing(ours);
        let (client, connection) = config.connect_raw(stream, NoTls).await.unwrap();
        let pool = PoolSide {
            wake: Arc::default(),
            role_changed: Arc::default(),
            wanted: TargetSessionAttrs::ReadWrite,
        };
        let snapshot = live.current().unwrap();
        let session = Session::new(client, connection, "fake".into(), snapshot, pool);
        session.client.batch_execute("SET").await.unwrap();
        session.driver.accept_role();
        let recorded = async {
            while !session.driver.received.other_role.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(30), recorded);
        in_time.await.expect("the parameter is recorded");
        assert!(!session.driver.role_changed());
    }

    /// Scenario: N21
    #[test]
    fn role_is_another_only_if_the_server_says_so() {
        use TargetSessionAttrs::{Any, ReadOnly, ReadWrite};
        let (on, off) = (Some(true), Some(false));
        let table = [
            // in_hot_standby, default_transaction_read_only: other than read-write, than read-only
            (None, None, false, false),
            (off, None, false, false),
            (off, off, false, true),
            (on, off, true, false),
            (off, on, true, false),
            (on, None, true, false),
        ];
        for (standby, read_only, not_writable, not_read_only) in table {
            let parameter = |name: &str| match name {
                "in_hot_standby" => standby,
                _ => read_only,
            };
            assert_eq!(is_other_role(ReadWrite, parameter), not_writable);
            assert_eq!(is_other_role(ReadOnly, parameter), not_read_only);
            assert!(!is_other_role(Any, parameter));
        }
    }
}
