use std::sync::Arc;

use tokio::time::timeout;
use tokio_postgres::{CancelToken, NoTls};

use crate::error::{ConnectError, Phase};
use crate::pool::dialer::{Dialer, Transport};
use crate::tls::connector;

/// Cancels what runs on one connection, over a new connection with the current certificate.
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
        let after = self.dialer.connect_timeout;
        let asked = async {
            let snapshot = self.dialer.live.current();
            let snapshot = snapshot.map_err(ConnectError::Certificate)?;
            let answer = match self.dialer.transport {
                Transport::Tls => self.token.cancel_query(connector(&snapshot)).await,
                Transport::UnixSocket => self.token.cancel_query(NoTls).await,
            };
            answer.map_err(|error| ConnectError::postgres(error, snapshot.generation()))
        };
        timeout(after, asked)
            .await
            .unwrap_or(Err(ConnectError::TimedOut {
                after,
                phase: Phase::Server,
                last: None,
            }))
    }
}

impl std::fmt::Debug for Cancel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cancel").finish_non_exhaustive()
    }
}
