use std::net::SocketAddr;
use std::sync::Mutex;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::*;

/// Resolves every name to one address, which can change.
#[derive(Clone)]
struct Resolver(Arc<Mutex<SocketAddr>>);

impl Resolve for Resolver {
    fn resolve(&self, _name: Name) -> Resolving {
        let here = *self.0.lock().expect("no test has panicked");
        Box::pin(async move { Ok(Box::new([here].into_iter()) as Addrs) })
    }
}

/// Answers each request with its own name until the client closes the connection.
async fn vault(name: &'static str) -> (SocketAddr, Arc<Notify>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    let closed = Arc::new(Notify::new());
    let closes = Arc::clone(&closed);
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let closes = Arc::clone(&closes);
            tokio::spawn(async move {
                let mut request = [0; 4_096];
                while connection.read(&mut request).await.is_ok_and(|n| n > 0) {
                    let length = name.len();
                    let reply =
                        format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{name}");
                    if connection.write_all(reply.as_bytes()).await.is_err() {
                        break;
                    }
                }
                closes.notify_one();
            });
        }
    });
    (address, closed)
}

/// Scenario: S9
#[tokio::test]
async fn name_is_resolved_again_for_each_connection() {
    let (old, closed) = vault("\"old\"").await;
    let resolver = Resolver(Arc::new(Mutex::new(old)));
    // Without a port in the URL, the resolver's is used.
    let address = Url::parse("http://vault.test").expect("a URL");
    let settings = TransportSettings {
        addresses: Arc::new(Addresses::new(vec![address])),
        namespace: None,
        tls: client_config(default_provider(), None).expect("a config"),
        connect_timeout: CONNECT_TIMEOUT,
        request_timeout: REQUEST_TIMEOUT,
    };
    let http = client(&settings).dns_resolver(resolver.clone());
    let http = http.build().expect("a client");
    let transport = Transport { http, settings };
    let ask = async || {
        let request = Request::get(Operation::Issue, "pki/issue/app".to_owned());
        let reply = transport.round().send(&request, None).await;
        let reply = reply.expect("an answer");
        reply.json::<String>(Operation::Issue).expect("a name")
    };

    assert_eq!(ask().await, "old");
    let (new, _) = vault("\"new\"").await;
    *resolver.0.lock().expect("no test has panicked") = new;
    assert_eq!(ask().await, "old", "a connection in use is kept");
    let idle = tokio::time::timeout(IDLE_TIMEOUT * 6, closed.notified()).await;
    idle.expect("an idle connection is closed");
    assert_eq!(ask().await, "new");
}
