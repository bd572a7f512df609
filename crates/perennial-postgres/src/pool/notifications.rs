use tokio::sync::broadcast;
use tokio_postgres::Notification;

/// How many notifications a slow reader may be behind before it misses some.
pub const NOTIFICATION_BACKLOG: usize = 256;

/// Something that came out of [`Notifications`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Notified {
    /// What `NOTIFY` sent.
    Notification(Notification),
    /// This reader was too slow, and this many notifications are gone.
    Missed(u64),
}

/// What `LISTEN` on one session brings, from here on.
///
/// A session that is exchanged or closed listens no more: then this ends. For a listener that
/// lasts, take a dedicated connection, and say `LISTEN` again after
/// [`PgConnection::refresh`](crate::PgConnection::refresh).
#[derive(Debug)]
pub struct Notifications(pub(crate) broadcast::Receiver<Notification>);

impl Notifications {
    /// The next notification; `None` once the session has ended.
    ///
    /// # Cancel safety
    /// Cancelled, it loses nothing.
    pub async fn next(&mut self) -> Option<Notified> {
        match self.0.recv().await {
            Ok(notification) => Some(Notified::Notification(notification)),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Notified::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}
