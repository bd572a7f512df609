//! A TCP proxy that injects faults on demand.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::error::TestbedError;
use crate::server::free_port;

/// What a [`Proxy`] does to its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Everything passes.
    #[default]
    None,
    /// Everything passes with this delay in each direction; a round trip takes twice as long.
    Delay(Duration),
    /// Connections are accepted and kept, but no byte passes in either direction until the fault ends.
    Stall,
    /// Existing and new connections are reset (RST).
    Reset,
    /// Every message on a new connection is answered with these bytes; existing connections continue.
    ///
    /// `HTTP/1.1 400` imitates a different kind of server, `S` plus garbage a Postgres with broken TLS, `N` a Postgres
    /// without TLS.
    Answer(&'static [u8]),
    /// The port is closed, so connecting is refused; existing connections are reset.
    Refuse,
}

/// A small TCP proxy on a loopback port. Dropping it closes its port and every connection.
#[derive(Debug)]
#[must_use = "dropping a proxy closes its port"]
pub struct Proxy {
    address: SocketAddr,
    requests: mpsc::Sender<Request>,
    state: Arc<State>,
    task: JoinHandle<()>,
}

/// A new fault, and where to report that it holds.
type Request = (Fault, oneshot::Sender<io::Result<()>>);

/// Shared by the proxy and its connections.
#[derive(Debug)]
struct State {
    fault: watch::Sender<Fault>,
    open: watch::Sender<usize>,
    accepted: AtomicU64,
}

impl Proxy {
    /// Listens on a free loopback port and forwards every connection to `target`.
    ///
    /// # Errors
    /// [`TestbedError::NoPort`], or [`TestbedError::Proxy`] if the port was taken in the meantime.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn start(target: SocketAddr) -> Result<Self, TestbedError> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let bound = TcpListener::bind(address).await;
        let listener = bound.map_err(|source| TestbedError::Proxy { address, source })?;
        let state = Arc::new(State {
            fault: watch::Sender::new(Fault::None),
            open: watch::Sender::new(0),
            accepted: AtomicU64::new(0),
        });
        let (requests, inbox) = mpsc::channel(1);
        let task = tokio::spawn(run(listener, address, target, Arc::clone(&state), inbox));
        Ok(Self {
            address,
            requests,
            state,
            task,
        })
    }

    /// The proxy's address. It does not change.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Sets the fault for all connections, and returns once it holds.
    ///
    /// # Errors
    /// [`TestbedError::Proxy`] if the port was taken during [`Fault::Refuse`].
    ///
    /// # Cancel safety
    /// The fault may still take effect.
    pub async fn set(&self, fault: Fault) -> Result<(), TestbedError> {
        let (done, answer) = oneshot::channel();
        let ended = || io::Error::from(io::ErrorKind::BrokenPipe);
        let result = match self.requests.send((fault, done)).await {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(ended())),
            Err(_) => Err(ended()),
        };
        result.map_err(|source| TestbedError::Proxy {
            address: self.address,
            source,
        })?;
        if matches!(fault, Fault::Reset | Fault::Refuse) {
            // `self` holds the sender, so this cannot fail.
            let _ = self
                .state
                .open
                .subscribe()
                .wait_for(|open| *open == 0)
                .await;
        }
        Ok(())
    }

    /// The number of open connections.
    pub fn connections(&self) -> usize {
        *self.state.open.borrow()
    }

    /// The number of connections accepted so far, including those that were reset at once.
    pub fn accepted(&self) -> u64 {
        self.state.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The task owns the listener and every connection.
        self.task.abort();
    }
}

async fn run(
    listener: TcpListener,
    address: SocketAddr,
    target: SocketAddr,
    state: Arc<State>,
    mut inbox: mpsc::Receiver<Request>,
) {
    let mut listener = Some(listener);
    let mut relays = JoinSet::new();
    loop {
        tokio::select! {
            request = inbox.recv() => {
                let Some((fault, done)) = request else { return };
                let result = listen(&mut listener, fault, address).await;
                if result.is_ok() {
                    state.fault.send_replace(fault);
                }
                // The caller may have stopped waiting.
                let _ = done.send(result);
            }
            accepted = accept(listener.as_ref()) => {
                let Ok((client, _)) = accepted else { continue };
                state.accepted.fetch_add(1, Ordering::Relaxed);
                let relay = Relay::new(client, Arc::clone(&state));
                relays.spawn(relay.run(target));
            }
            Some(_) = relays.join_next() => {}
        }
    }
}

/// Closes or opens the port, depending on the fault.
async fn listen(
    listener: &mut Option<TcpListener>,
    fault: Fault,
    address: SocketAddr,
) -> io::Result<()> {
    if fault == Fault::Refuse {
        *listener = None;
    } else if listener.is_none() {
        *listener = Some(TcpListener::bind(address).await?);
    }
    Ok(())
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// Bytes per read.
const CHUNK: usize = 16 * 1024;
/// Reads that may be in flight at once.
const IN_FLIGHT: usize = 64;

/// One connection through the proxy, counted as open until it is dropped.
struct Relay {
    client: TcpStream,
    state: Arc<State>,
}

/// Bytes, and when to deliver them; no bytes mean that the sender has closed its side.
type Chunk = (Instant, Vec<u8>);

impl Relay {
    fn new(client: TcpStream, state: Arc<State>) -> Self {
        state.open.send_modify(|open| *open += 1);
        Self { client, state }
    }

    /// Passes bytes both ways until both sides have closed or a fault cuts the connection.
    async fn run(mut self, target: SocketAddr) {
        let mut fault = self.state.fault.subscribe();
        let cut = async {
            // Fails only after the proxy was dropped, and that ends this task too.
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
            // Reset both sides at once and drop the bytes in flight: a close that waits for unread bytes would look
            // like an orderly end.
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
    // Do not connect to the server during a stall: it would wait for a client that sends nothing.
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

/// Answers every message with the same bytes until the client closes.
///
/// Never closes first: unread bytes would turn the close into a reset, which can overtake the answer.
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
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
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
        // A stall also holds bytes that were read before it began.
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
    // Fails only after the proxy was dropped, and that ends this task too.
    let _ = fault.wait_for(|fault| *fault != Fault::Stall).await;
}
