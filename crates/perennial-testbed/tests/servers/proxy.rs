//! Each fault of the proxy, in front of an echo server.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use perennial_testbed::{Fault, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

const DEADLINE: Duration = Duration::from_secs(5);

async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    address
}

async fn proxy() -> Proxy {
    Proxy::start(echo().await).await.unwrap()
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.addr()).await.unwrap()
}

async fn round_trip(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"ping").await?;
    let mut answer = [0; 4];
    timeout(DEADLINE, stream.read_exact(&mut answer))
        .await
        .unwrap()?;
    assert_eq!(&answer, b"ping");
    Ok(())
}

async fn is_reset(stream: &mut TcpStream) -> bool {
    let read = timeout(DEADLINE, stream.read(&mut [0; 4])).await.unwrap();
    read.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

async fn until(condition: impl AsyncFn() -> bool) {
    let reached = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, reached)
        .await
        .expect("the condition is reached");
}

#[tokio::test]
async fn proxy_without_fault_passes_everything_and_counts_connections() {
    let proxy = proxy().await;
    let (mut one, mut two) = (connect(&proxy).await, connect(&proxy).await);
    round_trip(&mut one).await.unwrap();
    round_trip(&mut two).await.unwrap();
    assert_eq!((proxy.connections(), proxy.accepted()), (2, 2));

    // Bytes still come back after the client has closed its side.
    one.write_all(b"last").await.unwrap();
    one.shutdown().await.unwrap();
    let mut rest = Vec::new();
    timeout(DEADLINE, one.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(rest, b"last");
    until(async || proxy.connections() == 1).await;
    assert_eq!(proxy.accepted(), 2);
}

#[tokio::test]
async fn delay_holds_in_each_direction() {
    let proxy = proxy().await;
    let mut stream = connect(&proxy).await;
    let delay = Duration::from_millis(50);
    proxy.set(Fault::Delay(delay)).await.unwrap();
    let start = Instant::now();
    round_trip(&mut stream).await.unwrap();
    assert!(start.elapsed() >= delay * 2, "{:?}", start.elapsed());

    // A delay does not limit the rate: bytes sent together arrive together.
    let start = Instant::now();
    let (mut from, mut to) = stream.split();
    let sent = vec![7; 1 << 20];
    let mut back = vec![0; 1 << 20];
    let (write, read) = tokio::join!(to.write_all(&sent), from.read_exact(&mut back));
    write.unwrap();
    read.unwrap();
    assert_eq!(sent, back);
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn stall_accepts_and_passes_nothing_until_it_ends() {
    let proxy = proxy().await;
    let mut old = connect(&proxy).await;
    round_trip(&mut old).await.unwrap();
    proxy.set(Fault::Stall).await.unwrap();

    let mut new = connect(&proxy).await;
    for stream in [&mut old, &mut new] {
        stream.write_all(b"ping").await.unwrap();
        let silent = timeout(Duration::from_millis(100), stream.read_u8()).await;
        assert!(silent.is_err(), "a byte came through a stalled proxy");
    }
    proxy.set(Fault::None).await.unwrap();
    for stream in [&mut old, &mut new] {
        let mut answer = [0; 4];
        timeout(DEADLINE, stream.read_exact(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&answer, b"ping");
    }
}

#[tokio::test]
async fn answer_sends_the_same_bytes_on_new_connections() {
    let proxy = proxy().await;
    let mut old = connect(&proxy).await;
    round_trip(&mut old).await.unwrap();
    proxy.set(Fault::Answer(b"HTTP")).await.unwrap();

    let mut new = connect(&proxy).await;
    for _ in 0..2 {
        new.write_all(b"ping").await.unwrap();
        let mut answer = [0; 4];
        timeout(DEADLINE, new.read_exact(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&answer, b"HTTP");
    }
    round_trip(&mut old).await.unwrap();
    proxy.set(Fault::None).await.unwrap();
    round_trip(&mut connect(&proxy).await).await.unwrap();
}

#[tokio::test]
async fn reset_cuts_existing_and_new_connections() {
    let proxy = proxy().await;
    let mut old = connect(&proxy).await;
    round_trip(&mut old).await.unwrap();
    proxy.set(Fault::Reset).await.unwrap();
    assert_eq!(proxy.connections(), 0);
    assert!(is_reset(&mut old).await);
    if let Ok(mut new) = TcpStream::connect(proxy.addr()).await {
        assert!(is_reset(&mut new).await);
    }
    proxy.set(Fault::None).await.unwrap();
    round_trip(&mut connect(&proxy).await).await.unwrap();
}

#[tokio::test]
async fn refuse_closes_the_port_and_none_opens_it_again() {
    let proxy = proxy().await;
    let mut old = connect(&proxy).await;
    round_trip(&mut old).await.unwrap();
    proxy.set(Fault::Refuse).await.unwrap();
    assert!(is_reset(&mut old).await);
    let refused = TcpStream::connect(proxy.addr()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    proxy.set(Fault::None).await.unwrap();
    round_trip(&mut connect(&proxy).await).await.unwrap();
}

#[tokio::test]
async fn stopped_server_looks_like_a_reset() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = closed.local_addr().unwrap();
    drop(closed);
    let proxy = Proxy::start(target).await.unwrap();
    assert!(is_reset(&mut connect(&proxy).await).await);
}

#[tokio::test]
async fn drop_closes_the_port_and_every_connection() {
    let proxy = proxy().await;
    let address = proxy.addr();
    let mut stream = connect(&proxy).await;
    round_trip(&mut stream).await.unwrap();
    drop(proxy);
    let end = timeout(DEADLINE, stream.read(&mut [0; 4])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)));
    until(async || TcpStream::connect(address).await.is_err()).await;
}
