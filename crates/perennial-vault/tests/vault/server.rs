//! A scripted Vault: it answers by a closure, and records its requests.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub(crate) struct Server {
    address: SocketAddr,
    scheme: &'static str,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    requests: Mutex<Vec<Request>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(n, _)| n == name);
        found.next().map(|(_, value)| value.as_str())
    }

    pub(crate) fn is_login(&self) -> bool {
        self.path.ends_with("/login") || self.path.contains("/login/")
    }

    pub(crate) fn is_renewal(&self) -> bool {
        self.path == "/v1/auth/token/renew-self"
    }

    pub(crate) fn is_unwrapping(&self) -> bool {
        self.path == "/v1/sys/wrapping/unwrap"
    }

    pub(crate) fn is_lookup(&self) -> bool {
        self.path == "/v1/sys/wrapping/lookup"
    }

    pub(crate) fn is_revocation(&self) -> bool {
        self.path.ends_with("/revoke")
    }

    /// The kind of request, in one word.
    pub(crate) fn step(&self) -> &'static str {
        match self {
            _ if self.is_login() => "login",
            _ if self.is_renewal() => "renew",
            _ if self.is_lookup() => "look up",
            _ if self.is_unwrapping() => "unwrap",
            _ if self.is_revocation() => "revoke",
            _ => "sign",
        }
    }
}

pub(crate) enum Reply {
    Answer {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: String,
    },
    /// Never answers.
    Hang,
    /// The head of a success, then bytes without end.
    Endless { status: u16 },
}

impl Reply {
    pub(crate) fn json(status: u16, body: impl Into<String>) -> Self {
        Self::Answer {
            status,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    pub(crate) fn errors(status: u16, errors: &[&str]) -> Self {
        Self::json(status, serde_json::json!({ "errors": errors }).to_string())
    }

    pub(crate) fn redirect(to: impl Into<String>) -> Self {
        Self::json(307, "").with("Location", to)
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        if let Self::Answer { headers, .. } = &mut self {
            headers.push((name, value.into()));
        }
        self
    }
}

impl Server {
    /// Plain HTTP.
    pub(crate) async fn start(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::launch(None, Arc::new(script)).await
    }

    /// HTTPS.
    pub(crate) async fn start_tls(
        tls: ServerConfig,
        script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::launch(Some(TlsAcceptor::from(Arc::new(tls))), Arc::new(script)).await
    }

    async fn launch(
        tls: Option<TlsAcceptor>,
        script: Arc<dyn Fn(&Request) -> Reply + Send + Sync>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            scheme: if tls.is_some() { "https" } else { "http" },
            seen: Arc::default(),
        };
        let seen = Arc::clone(&server.seen);
        // Ends with the test's runtime.
        tokio::spawn(async move {
            loop {
                let (stream, _peer) = listener.accept().await.unwrap();
                seen.connections.fetch_add(1, Ordering::SeqCst);
                let (seen, script, tls) = (Arc::clone(&seen), Arc::clone(&script), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &seen, &*script).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &seen, &*script).await;
                            }
                        }
                    }
                });
            }
        });
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.seen.requests.lock().unwrap().clone()
    }

    pub(crate) fn steps(&self) -> Vec<&'static str> {
        self.requests().iter().map(Request::step).collect()
    }

    pub(crate) fn renewals(&self) -> usize {
        self.requests().iter().filter(|r| r.is_renewal()).count()
    }

    pub(crate) fn revocations(&self) -> usize {
        self.requests().iter().filter(|r| r.is_revocation()).count()
    }

    pub(crate) fn logins(&self) -> usize {
        self.requests().iter().filter(|r| r.is_login()).count()
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    seen: &Seen,
    script: &(dyn Fn(&Request) -> Reply + Send + Sync),
) {
    let Some(request) = read(&mut stream).await else {
        return;
    };
    let reply = script(&request);
    seen.requests.lock().unwrap().push(request);
    // A client that closes early is part of the script.
    let _ = write(&mut stream, reply).await;
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<Request> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let text = String::from_utf8(bytes[..head].to_vec()).ok()?;
    let mut lines = text.lines();
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length = headers
        .iter()
        .find(|(name, _)| name == "content-length")
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0);
    while bytes.len() < head + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    Some(Request {
        path,
        headers,
        body: String::from_utf8_lossy(&bytes[head..]).into_owned(),
    })
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), reply: Reply) -> std::io::Result<()> {
    match reply {
        Reply::Hang => pending().await,
        Reply::Endless { status } => {
            let head = format!("HTTP/1.1 {status} Scripted\r\nConnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            loop {
                stream.write_all(&[b' '; 65_536]).await?;
            }
        }
        Reply::Answer {
            status,
            headers,
            body,
        } => {
            let mut head = format!("HTTP/1.1 {status} Scripted\r\nConnection: close\r\n");
            for (name, value) in headers {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            head.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
            stream.write_all(head.as_bytes()).await?;
            stream.shutdown().await
        }
    }
}
