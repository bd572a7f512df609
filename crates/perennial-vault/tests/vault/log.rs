//! All that a process logs, at its finest, through `tracing` and through `log`.

use std::io;
use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::format::FmtSpan;

/// What is in each private key: in PEM, in base64, in hex, and as `Debug` prints bytes.
pub(crate) const KEY_BEGINS: [&str; 10] = [
    "PRIVATE KEY-----",
    // P-256 in PKCS#8.
    "MIGHAgEAMBMGByqGSM49",
    "308187020100301306",
    "48, 129, 135, 2, 1, 0, 48",
    // P-256 in SEC1.
    "MHcCAQEEI",
    "30770201010420",
    "48, 119, 2, 1, 1, 4, 32",
    // RSA with 2048 bits in PKCS#8, whose length varies, and in PKCS#1.
    "ADANBgkqhkiG9w0BAQEFAASC",
    "300d06092a864886f70d010101050004",
    "IBAAKCAQEA",
];

#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Crates that log through `log` instead of `tracing`, such as rustls.
impl ::log::Log for Log {
    fn enabled(&self, _metadata: &::log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &::log::Record<'_>) {
        let line = format!("log {} {}\n", record.target(), record.args());
        self.0.lock().unwrap().extend_from_slice(line.as_bytes());
    }

    fn flush(&self) {}
}

pub(crate) fn capture() -> Log {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(FmtSpan::FULL)
        // Colours would stand between a name and its value.
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    ::log::set_boxed_logger(Box::new(log.clone())).unwrap();
    ::log::set_max_level(::log::LevelFilter::Trace);
    log
}

/// The line of `text` with `secret` in it, up to that.
pub(crate) fn quoted<'a>(text: &'a str, secret: &str) -> Option<&'a str> {
    let at = text.find(secret)?;
    let from = text[..at].rfind('\n').map_or(0, |i| i + 1);
    Some(&text[from..at + secret.len()])
}
