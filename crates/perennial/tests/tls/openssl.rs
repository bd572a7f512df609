//! openssl and curl as peers of the configs for life. `.ci/run interop` runs these tests.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use base64ct::{Base64, Encoding};
use perennial::pki_types::pem::PemObject;
use perennial::pki_types::{CertificateDer, ServerName};
use perennial::rustls::{
    ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection, Stream,
};
use perennial::{Certificate, ClientAuth, LiveCert, Serial, TlsSettings, Usage};

use crate::pki::{Ca, Identity, now};
use crate::rotating::Rotating;
use crate::server::{HOST, name_of};

/// As openssl and curl name them.
const VERSIONS: [(&str, &[&str]); 2] = [
    ("-tls1_2", &["--tls-max", "1.2"]),
    ("-tls1_3", &["--tlsv1.3"]),
];
const PATIENCE: Duration = Duration::from_secs(20);
const SECOND: Duration = Duration::from_secs(1);

/// The files of one peer.
struct Files(tempfile::TempDir);

impl Files {
    fn new(identity: &Identity, trusted: &Ca) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        let block = |label: &str, der: &[u8]| {
            let base64 = Base64::encode_string(der);
            let lines = base64.as_bytes().chunks(64).map(String::from_utf8_lossy);
            let lines: Vec<_> = lines.collect();
            format!(
                "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
                lines.join("\n")
            )
        };
        let write = |name, text| fs::write(files.path(name), text).unwrap();
        write("cert", block("CERTIFICATE", &identity.chain[0]));
        write("key", block("PRIVATE KEY", identity.key.secret_der()));
        write("ca", trusted.pem());
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn builder(usage: Usage) -> perennial::LiveCertBuilder {
    let tls = TlsSettings::new().allow_tls12();
    LiveCert::builder().tls(tls).usage(usage)
}

/// Answers each client with the name that it presented, for as long as the test runs.
fn serve(config: Arc<ServerConfig>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            // A refused client has its alert by then.
            let _ = answer(Arc::clone(&config), stream.unwrap());
        }
    });
    port
}

fn answer(config: Arc<ServerConfig>, mut tcp: TcpStream) -> io::Result<()> {
    tcp.set_read_timeout(Some(PATIENCE))?;
    let mut connection = ServerConnection::new(config).unwrap();
    let mut tls = Stream::new(&mut connection, &mut tcp);
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut buffer = [0; 512];
        let count = tls.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        request.extend(&buffer[..count]);
    }
    let name = name_of(tls.conn.peer_certificates()).unwrap_or_default();
    write!(tls, "HTTP/1.0 200 OK\r\n\r\nclient {name}.\n")?;
    tls.conn.send_close_notify();
    tls.flush()
}

/// What a peer printed.
fn printed(command: &mut Command, input: &str) -> String {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A peer that is refused does not read it.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// What `openssl s_client` printed; with a file, it resumes the session there and keeps the new one.
fn s_client(port: u16, version: &str, files: &Files, session: Option<&Path>) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-ign_eof", "-servername", HOST, version]);
    command.args(["-connect", &format!("127.0.0.1:{port}")]);
    for (option, name) in [("-cert", "cert"), ("-key", "key"), ("-CAfile", "ca")] {
        command.arg(option).arg(files.path(name));
    }
    command.arg("-verify_return_error");
    if let Some(session) = session {
        if session.exists() {
            command.arg("-sess_in").arg(session);
        }
        command.arg("-sess_out").arg(session);
    }
    printed(&mut command, "GET / HTTP/1.0\r\n\r\n")
}

fn curl(port: u16, version: &[&str], files: &Files) -> String {
    let mut command = Command::new("curl");
    command
        .args(["-sS", "--max-time", "20", "-w", "%{certs}"])
        .args(version);
    command.args(["--resolve", &format!("{HOST}:{port}:127.0.0.1")]);
    for (option, name) in [("--cert", "cert"), ("--key", "key"), ("--cacert", "ca")] {
        command.arg(option).arg(files.path(name));
    }
    command.arg(format!("https://{HOST}:{port}/"));
    printed(&mut command, "")
}

/// The serial number of the server's certificate in what a peer printed.
fn serial(printed: &str) -> Serial {
    let leaf = CertificateDer::from_pem_slice(printed.as_bytes());
    let leaf = leaf.unwrap_or_else(|error| panic!("{error}: {printed}"));
    Certificate::from_der(&leaf).unwrap().serial().clone()
}

/// The CAs that the server named, as `openssl s_client` printed them.
fn cas(printed: &str) -> Vec<String> {
    let lines = printed.lines().map(|line| line.replace(' ', ""));
    let lines = lines.skip_while(|line| line != "AcceptableclientcertificateCAnames");
    lines
        .skip(1)
        .take_while(|line| line.starts_with("CN="))
        .collect()
}

#[tokio::test(start_paused = true)]
#[ignore = "needs openssl and curl"]
async fn openssl_and_curl_see_each_new_server_certificate_its_roots_and_no_old_session() {
    let [ca, other] = ["ca", "other"].map(Ca::new);
    let end = now() + 3_600 * SECOND;
    let ann = Files::new(&ca.client_until("ann", end), &ca);
    let bob = Files::new(&other.client_until("bob", end), &ca);
    for (version, curls) in VERSIONS {
        let first = ca.server(HOST, 1).with_roots([&ca]);
        let rotating = Rotating::build(builder(Usage::Server), first).await;
        let required = rotating.live.server_config(ClientAuth::Required, &[]);
        let required = serve(required.unwrap());
        let open = serve(rotating.live.server_config(ClientAuth::None, &[]).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let sessions = ["ann", "bob", "open"].map(|name| folder.path().join(name));
        for (number, roots, is_ann_in, is_bob_in) in [
            (2, vec![&ca], true, false),
            (3, vec![&ca, &other], true, true),
            (4, vec![&other], false, true),
        ] {
            let names: Vec<_> = roots.iter().map(|ca| format!("CN={}", ca.name())).collect();
            let next = ca.server(HOST, number.into()).with_roots(roots);
            rotating.rotate(next).await;
            // Twice: the second one would resume.
            for _ in 0..2 {
                for (at, (files, name, is_in)) in
                    [(&ann, "ann", is_ann_in), (&bob, "bob", is_bob_in)]
                        .into_iter()
                        .enumerate()
                {
                    let answer = format!("client {name}.");
                    let seen = s_client(required, version, files, Some(&sessions[at]));
                    assert_eq!(seen.contains(&answer), is_in, "{version} {number}: {seen}");
                    assert_eq!(serial(&seen), Serial::from_bytes(&[number]));
                    assert_eq!(cas(&seen), names, "{seen}");
                    assert!(!seen.contains("Reused"), "{seen}");
                    let seen = curl(required, curls, files);
                    assert_eq!(seen.contains(&answer), is_in, "{version} {number}: {seen}");
                    if is_in {
                        assert_eq!(serial(&seen), Serial::from_bytes(&[number]));
                    }
                }
                let seen = s_client(open, version, &bob, Some(&sessions[2]));
                assert!(
                    seen.contains("client .") && !seen.contains("Reused"),
                    "{seen}"
                );
                assert_eq!(serial(&seen), Serial::from_bytes(&[number]));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
#[ignore = "needs openssl and curl"]
async fn openssl_whose_certificate_has_expired_is_not_let_in_by_its_session() {
    let ca = Ca::new("ca");
    for (version, _) in VERSIONS {
        let first = ca.server(HOST, 1).with_roots([&ca]);
        let rotating = Rotating::build(builder(Usage::Server), first).await;
        for auth in [ClientAuth::Optional, ClientAuth::Required] {
            let current = rotating.live.current().unwrap();
            let ports = [
                serve(rotating.live.server_config(auth, &[]).unwrap()),
                serve(current.server_config(auth, &[]).unwrap()),
            ];
            let end = now() + 3 * SECOND;
            let files = Files::new(&ca.client_until("ann", end), &ca);
            let sessions = ports.map(|port| files.path(&port.to_string()));
            for (port, session) in ports.iter().zip(&sessions) {
                let seen = s_client(*port, version, &files, Some(session));
                assert!(seen.contains("client ann."), "{seen}");
            }
            thread::sleep(5 * SECOND);
            for (port, session) in ports.iter().zip(&sessions) {
                let seen = s_client(*port, version, &files, Some(session));
                assert!(!seen.contains("\nclient "), "{version} {auth:?}: {seen}");
                assert!(seen.contains("certificate expired"), "{seen}");
            }
        }
    }
}

/// `openssl s_server`, which issues tickets and describes each connection on a page.
struct OpenSsl {
    process: Child,
    port: u16,
}

impl OpenSsl {
    fn start(files: &Files, version: &str) -> Self {
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let mut command = Command::new("openssl");
        command.args(["s_server", "-www", version, "-Verify", "2"]);
        command.args(["-accept", &port.to_string(), "-groups", "P-256"]);
        for (option, name) in [("-cert", "cert"), ("-key", "key"), ("-CAfile", "ca")] {
            command.arg(option).arg(files.path(name));
        }
        let log = files.path(&format!("log{version}"));
        let stderr = fs::File::create(&log).unwrap();
        let command = command.arg("-verify_return_error").stdin(Stdio::null());
        let process = command
            .stdout(stderr.try_clone().unwrap())
            .stderr(stderr)
            .spawn();
        let server = Self {
            process: process.unwrap(),
            port,
        };
        let is_listening = (0..400).any(|_| {
            thread::sleep(SECOND / 20);
            fs::read_to_string(&log).unwrap().contains("ACCEPT")
        });
        assert!(is_listening, "{}", fs::read_to_string(&log).unwrap());
        server
    }

    /// The page, and how the handshake went.
    fn page(&self, config: Arc<ClientConfig>) -> (String, HandshakeKind) {
        let mut tcp = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let name = ServerName::try_from(HOST).unwrap();
        let mut connection = ClientConnection::new(config, name).unwrap();
        let mut tls = Stream::new(&mut connection, &mut tcp);
        tls.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut page = Vec::new();
        // openssl ends it without close_notify.
        let _ = tls.read_to_end(&mut page);
        let kind = connection.handshake_kind().unwrap();
        (String::from_utf8_lossy(&page).into_owned(), kind)
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(start_paused = true)]
#[ignore = "needs openssl and curl"]
async fn openssl_sees_each_new_client_certificate_and_resumes_no_old_one() {
    let ca = Ca::new("ca");
    let files = Files::new(&ca.server(HOST, 7), &ca);
    for (version, _) in VERSIONS {
        let server = OpenSsl::start(&files, version);
        let rotating = Rotating::build(builder(Usage::Client), ca.client("app-1", [&ca])).await;
        let config = rotating.live.client_config(&[]);
        let mut retries = 0;
        for generation in 1..=3_u8 {
            let mut resumed = 0;
            for _ in 0..3 {
                let (page, kind) = server.page(Arc::clone(&config));
                let name = format!("CN=app-{generation}");
                assert!(page.replace(' ', "").contains(&name), "{version}: {page}");
                assert!(page.contains("New, "), "{page}");
                retries += u8::from(kind == HandshakeKind::FullWithHelloRetryRequest);
                // A generation's own resumes, so that this test sees a session that is resumed.
                let current = rotating.live.current().unwrap();
                assert_eq!(current.generation(), generation.into());
                let (page, kind) = server.page(current.client_config());
                assert!(page.replace(' ', "").contains(&name), "{version}: {page}");
                resumed += u8::from(kind == HandshakeKind::Resumed);
            }
            assert_eq!(resumed, 2, "{version}");
            let next = format!("app-{}", generation + 1);
            rotating.rotate(ca.client(&next, [&ca])).await;
        }
        // P-256 alone: TLS 1.3 retries once, TLS 1.2 never.
        assert_eq!(retries, u8::from(version == "-tls1_3"));
    }
}
