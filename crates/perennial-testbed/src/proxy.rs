//! A TCP proxy that goes wrong on demand.

mod relay;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::error::TestbedError;
use crate::port;
use relay::Relay;

/// What a [`Proxy`] does to its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Everything passes.
    #[default]
    None,
    /// Everything passes, so much later; each way on its own, so a round trip takes twice as long.
    Delay(Duration),
    /// Connections are accepted and kept, and not a byte passes, either way, until the fault ends.
    Stall,
    /// Existing and new connections are reset (RST).
    Reset,
    /// Whatever is said on new connections is answered with these bytes, each time; existing connections go on.
    ///
    /// `HTTP/1.1 400` is a server of another kind; `S` and anything is a Postgres with broken TLS; `N` one without.
    Answer(&'static [u8]),
    /// Nobody listens, so that connecting is refused; existing connections are reset.
    Refuse,
}

/// A small TCP proxy on a loopback port. Dropping it closes its port and every connection.
#[derive(Debug)]
#[must_use = "dropping a proxy closes its port"]
pub struct Proxy {
    address: SocketAddr,
    orders: mpsc::Sender<Order>,
    state: Arc<State>,
    task: JoinHandle<()>,
}

type Order = (Fault, oneshot::Sender<io::Result<()>>);

/// What the connections see, and what they tell.
#[derive(Debug)]
struct State {
    fault: watch::Sender<Fault>,
    open: watch::Sender<usize>,
    accepted: AtomicU64,
}

impl Proxy {
    /// Listens on a free loopback port and passes every connection on to `target`.
    ///
    /// # Errors
    /// [`TestbedError::NoPort`], or [`TestbedError::Proxy`] where the port was taken meanwhile.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn start(target: SocketAddr) -> Result<Self, TestbedError> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port::free()?));
        let bound = TcpListener::bind(address).await;
        let listener = bound.map_err(|source| TestbedError::Proxy { address, source })?;
        let state = Arc::new(State {
            fault: watch::Sender::new(Fault::None),
            open: watch::Sender::new(0),
            accepted: AtomicU64::new(0),
        });
        let (orders, inbox) = mpsc::channel(1);
        let task = tokio::spawn(run(listener, address, target, Arc::clone(&state), inbox));
        Ok(Self {
            address,
            orders,
            state,
            task,
        })
    }

    /// Where to connect to. It stays the same through every fault.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Changes what happens to all connections, and returns once it holds.
    ///
    /// # Errors
    /// [`TestbedError::Proxy`] where the port was taken while [`Fault::Refuse`] held.
    ///
    /// # Cancel safety
    /// The fault may hold nevertheless.
    pub async fn set(&self, fault: Fault) -> Result<(), TestbedError> {
        let (done, answer) = oneshot::channel();
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        let result = match self.orders.send((fault, done)).await {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(gone())),
            Err(_) => Err(gone()),
        };
        result.map_err(|source| TestbedError::Proxy {
            address: self.address,
            source,
        })?;
        if matches!(fault, Fault::Reset | Fault::Refuse) {
            // The sender is in our own state, so this cannot fail.
            let _ = self
                .state
                .open
                .subscribe()
                .wait_for(|open| *open == 0)
                .await;
        }
        Ok(())
    }

    /// How many connections are open now.
    pub fn connections(&self) -> usize {
        *self.state.open.borrow()
    }

    /// How many connections were accepted so far, including those that were reset at once.
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
    mut inbox: mpsc::Receiver<Order>,
) {
    let mut listener = Some(listener);
    let mut relays = JoinSet::new();
    loop {
        tokio::select! {
            order = inbox.recv() => {
                let Some((fault, done)) = order else { return };
                let result = listen(&mut listener, fault, address).await;
                if result.is_ok() {
                    state.fault.send_replace(fault);
                }
                // Whoever asked may have stopped waiting.
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

/// Closes or opens the port as the fault wants it.
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
