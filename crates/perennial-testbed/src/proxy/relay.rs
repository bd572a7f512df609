use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::{Fault, State};

/// How much one read takes, and how many reads may be on their way at once.
const CHUNK: usize = 16 * 1024;
const UNDER_WAY: usize = 64;

/// One connection through the proxy, counted as open while it lives.
pub(super) struct Relay {
    client: TcpStream,
    state: Arc<State>,
}

/// Bytes and when they are to arrive; no bytes mean that the sender has closed its side.
type Chunk = (Instant, Vec<u8>);

impl Relay {
    pub(super) fn new(client: TcpStream, state: Arc<State>) -> Self {
        state.open.send_modify(|open| *open += 1);
        Self { client, state }
    }

    /// Passes bytes both ways until both sides have closed, or the fault cuts it.
    pub(super) async fn run(mut self, target: SocketAddr) {
        let mut fault = self.state.fault.subscribe();
        let cut = async {
            // Fails only where the proxy is gone, and then this task is too.
            let _ = fault
                .wait_for(|fault| matches!(fault, Fault::Reset | Fault::Refuse))
                .await;
        };
        let seen = self.state.fault.subscribe();
        let mut server = None;
        let result = tokio::select! {
            biased;
            () = cut => Err(io::ErrorKind::ConnectionReset.into()),
            result = pass(&mut self.client, &mut server, target, seen) => result,
        };
        if result.is_err() {
            // What breaks on one side breaks on the other, at once, with what is on its way: a close that waits for
            // unread bytes would look like an orderly end.
            let _ = self.client.set_zero_linger();
            if let Some(server) = server {
                let _ = server.set_zero_linger();
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.open.send_modify(|open| *open -= 1);
    }
}

async fn pass(
    client: &mut TcpStream,
    server: &mut Option<TcpStream>,
    target: SocketAddr,
    mut fault: watch::Receiver<Fault>,
) -> io::Result<()> {
    // A stalled proxy must not make the server wait for a client that says nothing.
    flowing(&mut fault).await;
    let answer = match *fault.borrow() {
        Fault::Answer(bytes) => Some(bytes),
        _ => None,
    };
    if let Some(bytes) = answer {
        return answer_all(client, bytes).await;
    }
    let server = server.insert(TcpStream::connect(target).await?);
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::try_join!(
        one_way(from_client, to_server, fault.clone()),
        one_way(from_server, to_client, fault),
    )?;
    Ok(())
}

/// Says the same whatever is said, until the client has enough of it.
///
/// It is never the one that closes: unread bytes would turn the close into a reset, which can overtake the answer.
async fn answer_all(client: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    while client.read(&mut buffer).await? > 0 {
        client.write_all(bytes).await?;
    }
    Ok(())
}

async fn one_way(
    from: ReadHalf<'_>,
    to: WriteHalf<'_>,
    fault: watch::Receiver<Fault>,
) -> io::Result<()> {
    let (sender, receiver) = mpsc::channel(UNDER_WAY);
    tokio::try_join!(
        read(from, sender, fault.clone()),
        write(to, receiver, fault),
    )?;
    Ok(())
}

async fn read(
    mut from: ReadHalf<'_>,
    sender: mpsc::Sender<Chunk>,
    mut fault: watch::Receiver<Fault>,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        flowing(&mut fault).await;
        let size = from.read(&mut buffer).await?;
        let now = Instant::now();
        let due = match *fault.borrow() {
            Fault::Delay(delay) => now + delay,
            _ => now,
        };
        let sent = sender.send((due, buffer[..size].to_vec())).await;
        if size == 0 || sent.is_err() {
            return Ok(());
        }
    }
}

async fn write(
    mut to: WriteHalf<'_>,
    mut receiver: mpsc::Receiver<Chunk>,
    mut fault: watch::Receiver<Fault>,
) -> io::Result<()> {
    while let Some((due, bytes)) = receiver.recv().await {
        tokio::time::sleep_until(due).await;
        // Also what was read before the stall began stays here.
        flowing(&mut fault).await;
        if bytes.is_empty() {
            return to.shutdown().await;
        }
        to.write_all(&bytes).await?;
    }
    Ok(())
}

/// Waits while the proxy stalls.
async fn flowing(fault: &mut watch::Receiver<Fault>) {
    // Fails only where the proxy is gone, and then this task is too.
    let _ = fault.wait_for(|fault| *fault != Fault::Stall).await;
}
