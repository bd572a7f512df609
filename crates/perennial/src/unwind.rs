use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

/// A future panicked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panicked;

/// Runs code that is not ours, so that its panic does not end the renewer.
///
/// Whatever the future shares is its own to keep in order: nothing of ours is left half-done.
pub(crate) async fn contained<T>(future: impl Future<Output = T>) -> Result<T, Panicked> {
    let mut future = pin!(future);
    poll_fn(
        |context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(poll) => poll.map(Ok),
            Err(_message) => Poll::Ready(Err(Panicked)),
        },
    )
    .await
}
