use std::net::SocketAddr;
use std::sync::Mutex;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::request::CertRequest;

/// Where the only name there is leads to now.
#[derive(Clone)]
struct Leads(Arc<Mutex<SocketAddr>>);

impl Resolve for Leads {
    fn resolve(&self, _name: Name) -> Resolving {
        let here = *self.0.lock().expect("no test has panicked");
        Box::pin(async move { Ok(Box::new([here].into_iter()) as Addrs) })
    }
}

/// Answers each request with its own name, and keeps every connection open.
async fn vault(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
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
            });
        }
    });
    address
}

#[tokio::test]
async fn name_is_resolved_again_for_each_connection() {
    let leads = Leads(Arc::new(Mutex::new(vault("\"old\"").await)));
    // Without a port, the resolver's counts.
    let address = Url::parse("http://vault.test").expect("a URL");
    let settings = Settings {
        addresses: Arc::new(Addresses::new(vec![address])),
        namespace: None,
        tls: client_config(default_provider(), None).expect("a config"),
        connect_timeout: CONNECT_TIMEOUT,
        request_timeout: REQUEST_TIMEOUT,
    };
    let http = client(&settings).dns_resolver(leads.clone());
    let http = http.build().expect("a client");
    let transport = Transport { http, settings };
    let endpoint = CertRequest::default().issue(None);
    let asked = async || {
        let reply = transport.round().send(Step::Issue, &endpoint, None).await;
        let reply = reply.expect("an answer");
        reply.json::<String>(Step::Issue).expect("a name")
    };

    assert_eq!(asked().await, "old");
    *leads.0.lock().expect("no test has panicked") = vault("\"new\"").await;
    assert_eq!(asked().await, "old", "a connection in use is kept");
    tokio::time::sleep(IDLE_TIMEOUT + Duration::from_millis(100)).await;
    assert_eq!(asked().await, "new");
}
