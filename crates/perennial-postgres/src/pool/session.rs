use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::{FutureExt, TryStreamExt, pin_mut};
use perennial::{Snapshot, with_causes};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, broadcast};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_postgres::{AsyncMessage, CancelToken, Client, Connection, Notification, Socket};

use crate::pool::notifications::{NOTIFICATION_BACKLOG, Notifications};

/// Waits for the answer to a ping: whether there was one.
pub(crate) type Answer = Pin<Box<dyn Future<Output = bool> + Send>>;

/// A logged-in client, and the task that drives it.
///
/// Dropped, its client lets running queries and streams finish and then says good-bye.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) driver: Arc<Driver>,
}

impl Session {
    /// Starts to drive a connection. `ended` is told when the server or the network ends it.
    pub(crate) fn new<S>(
        client: Client,
        connection: Connection<Socket, S>,
        snapshot: Arc<Snapshot>,
        ended: Arc<Notify>,
    ) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let heard = Arc::new(Heard::default());
        // Ends by itself once the client is dropped and what runs on it has been answered.
        let task =
            tokio::spawn(drive(connection, Hearing(Arc::clone(&heard)), ended)).abort_handle();
        let driver = Arc::new(Driver {
            snapshot,
            cancel: client.cancel_token(),
            task,
            unfit: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            born: Instant::now(),
            heard,
        });
        Self { client, driver }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.driver.snapshot.generation()
    }

    /// Whether it can be used: it is open as far as is known, and has answered its last ping.
    pub(crate) fn is_fit(&self) -> bool {
        !self.client.is_closed() && !self.driver.unfit.load(Ordering::Relaxed)
    }

    /// Sends an empty query now, and returns what waits for its answer: it borrows no client, so
    /// that a check-out meanwhile goes ahead and queues behind.
    pub(crate) fn ping(&self) -> Answer {
        // Sending never waits.
        let sent = self.client.simple_query_raw("").now_or_never();
        Box::pin(async move {
            let Some(Ok(answers)) = sent else {
                return false;
            };
            pin_mut!(answers);
            matches!(answers.try_next().await, Ok(Some(_)))
        })
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("generation", &self.generation())
            .field("fit", &self.is_fit())
            .finish_non_exhaustive()
    }
}

/// What is known of a session without its client: shared with whoever looks after the pool.
pub(crate) struct Driver {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) cancel: CancelToken,
    task: AbortHandle,
    /// Cut, or silent: not to be handed out again.
    unfit: AtomicBool,
    /// Ended by us: its task will see it in a moment.
    cut: AtomicBool,
    retired: AtomicBool,
    born: Instant,
    heard: Arc<Heard>,
}

/// Sessions that nobody holds any more, and that still finish what runs on them.
#[derive(Default)]
pub(crate) struct Leaving(Mutex<Vec<Arc<Driver>>>);

impl Leaving {
    /// Once is enough: a pool may say twice that it drops a connection.
    pub(crate) fn add(&self, driver: &Arc<Driver>) {
        let mut leaving = self.lock();
        leaving.retain(|known| !known.is_finished() && !Arc::ptr_eq(known, driver));
        leaving.push(Arc::clone(driver));
    }

    /// Those that have not finished yet.
    pub(crate) fn open(&self) -> Vec<Arc<Driver>> {
        let mut leaving = self.lock();
        leaving.retain(|driver| !driver.is_finished());
        leaving.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Driver>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came from the server unasked.
#[derive(Default)]
struct Heard {
    error: OnceLock<tokio_postgres::Error>,
    notifications: Mutex<Listening>,
}

#[derive(Default)]
enum Listening {
    /// Nobody has asked for notifications.
    #[default]
    Nobody,
    To(broadcast::Sender<Notification>),
    Ended,
}

impl Heard {
    fn listening(&self) -> MutexGuard<'_, Listening> {
        self.notifications
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Driver {
    /// Why the session ended, once it has ended with an error.
    pub(crate) fn error(&self) -> Option<&tokio_postgres::Error> {
        self.heard.error.get()
    }

    pub(crate) fn notifications(&self) -> Notifications {
        let mut listening = self.heard.listening();
        let sender = match &*listening {
            Listening::To(sender) => sender.clone(),
            Listening::Ended => broadcast::Sender::new(1),
            Listening::Nobody => {
                let sender = broadcast::Sender::new(NOTIFICATION_BACKLOG);
                *listening = Listening::To(sender.clone());
                sender
            }
        };
        Notifications(sender.subscribe())
    }

    /// Says that nobody is to get this session any more; what runs on it is left alone.
    pub(crate) fn give_up(&self) {
        self.unfit.store(true, Ordering::Relaxed);
    }

    /// Closes the connection now, whatever runs on it.
    pub(crate) fn cut(&self) {
        self.give_up();
        self.cut.store(true, Ordering::Relaxed);
        self.task.abort();
    }

    pub(crate) fn age(&self) -> Duration {
        self.born.elapsed()
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// `true` once: a session is counted as retired for its first reason only.
    pub(crate) fn retire(&self) -> bool {
        !self.retired.swap(true, Ordering::Relaxed)
    }
}

/// Held by the task that drives a session: however that ends, so do the notifications.
struct Hearing(Arc<Heard>);

impl Drop for Hearing {
    fn drop(&mut self) {
        *self.0.listening() = Listening::Ended;
    }
}

async fn drive<S>(mut connection: Connection<Socket, S>, heard: Hearing, ended: Arc<Notify>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match poll_fn(|context| connection.poll_message(context)).await {
            Some(Ok(AsyncMessage::Notification(notification))) => {
                if let Listening::To(sender) = &*heard.0.listening() {
                    // An error says that nobody listens any more.
                    let _nobody = sender.send(notification);
                }
            }
            Some(Ok(AsyncMessage::Notice(notice))) => {
                tracing::debug!(severity = notice.severity(), "{}", notice.message());
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::debug!(error = %with_causes(&error), "a connection ended with an error");
                let _first = heard.0.error.set(error);
                // From here on its client is closed: the pool may want to replace it.
                drop(connection);
                ended.notify_one();
                return;
            }
            None => return,
        }
    }
}
