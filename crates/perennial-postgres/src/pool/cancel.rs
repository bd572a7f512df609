use std::sync::Arc;

use tokio_postgres::CancelToken;

use crate::error::ConnectError;
use crate::pool::dialer::Dialer;

/// Cancels what runs on one connection, over a new connection with the current certificate, or
/// with the newest that has logged in while that one is refused.
#[derive(Clone)]
pub struct Cancel {
    pub(crate) token: CancelToken,
    pub(crate) dialer: Arc<Dialer>,
}

impl Cancel {
    /// Asks the server to cancel the query that runs on the connection, if one does.
    ///
    /// The server does not say whether it did: the query ends with SQLSTATE 57014 if so.
    ///
    /// # Errors
    /// The server could not be asked, or not within the connect timeout.
    ///
    /// # Cancel safety
    /// Cancelled, the query may be cancelled or not.
    pub async fn cancel_query(&self) -> Result<(), ConnectError> {
        self.dialer.cancel(&self.token).await
    }
}

impl std::fmt::Debug for Cancel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cancel").finish_non_exhaustive()
    }
}
