use perennial::with_causes;
use rustify::endpoint::Endpoint;

use super::addresses::{Turn, goes_on};
use super::{Reply, Transport};
use crate::error::{Failure, Step};
use crate::token::Token;

/// Requests that belong together, such as a login and what it was made for.
///
/// Where an address cannot serve one, the next one is asked, and then asked first from now on; in
/// the whole round each is given up at most once. Others that run beside it have rounds of their
/// own.
pub(crate) struct Round<'a> {
    pub(crate) transport: &'a Transport,
    /// Taken with the first request: what went before may have waited for another round.
    turn: Option<Turn>,
}

impl<'a> Round<'a> {
    pub(super) fn new(transport: &'a Transport) -> Self {
        Self {
            transport,
            turn: None,
        }
    }

    /// Sends one request and reads its answer; `Ok` is a success by status.
    ///
    /// # Cancel safety
    /// Dropped half-way, the request may have been carried out.
    pub(crate) async fn send(
        &mut self,
        step: Step,
        endpoint: &impl Endpoint,
        token: Option<&Token>,
    ) -> Result<Reply, Failure> {
        self.send_over(self.transport, step, endpoint, token).await
    }

    /// As [`send`](Self::send), over other connections to the same addresses.
    pub(crate) async fn send_over(
        &mut self,
        transport: &Transport,
        step: Step,
        endpoint: &impl Endpoint,
        token: Option<&Token>,
    ) -> Result<Reply, Failure> {
        let sent = transport.request(step, endpoint, token)?;
        let addresses = &transport.settings.addresses;
        let turn = self.turn.get_or_insert_with(|| addresses.turn());
        let mut base = addresses.at(turn);
        loop {
            let failure = match transport.attempt(base, &sent).await {
                Ok(reply) => return Ok(reply),
                Err(failure) => failure,
            };
            let Some(next) = addresses.next(turn, goes_on(step, &failure)) else {
                return Err(failure);
            };
            tracing::debug!(
                error = %with_causes(&*failure.cause),
                next = next.origin().ascii_serialization(),
                "this vault address cannot serve, asking the next one"
            );
            base = next;
        }
    }
}
