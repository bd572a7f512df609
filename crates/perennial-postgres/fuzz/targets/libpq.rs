//! A connection string, and two variables beside it; a password stands somewhere in the string.
#![no_main]

use std::ffi::OsString;

use libfuzzer_sys::fuzz_target;
use perennial_postgres::libpq;
use perennial_postgres::tokio_postgres::config::{Host, SslMode};

/// Parts the input; in no text.
const SPLIT: char = '\u{1}';
/// What no error may show, and the signs that stand for it: as a key's value, and in a URI.
const SECRET: &str = "S3CRET";
const OF_KEY: (char, &str) = ('\u{2}', "password='S3CRET'");
const OF_URI: (char, &str) = ('\u{3}', ":S3CRET@");

fuzz_target!(|data: &str| {
    let mut parts = data.splitn(4, SPLIT);
    let mut part = || parts.next().unwrap_or_default();
    let text = part().replace(OF_KEY.0, OF_KEY.1);
    let text = text.replace(OF_URI.0, OF_URI.1);
    let (mode, host) = (part(), part());
    let variable = |name: &str| match name {
        "PGSSLMODE" => Some(OsString::from(mode)),
        "PGHOST" => Some(OsString::from(host)),
        "HOME" => Some(OsString::from("/home/app")),
        _ => None,
    };
    match libpq::parse_with(&text, variable) {
        Ok(libpq) => {
            assert_eq!(libpq.config.get_ssl_mode(), SslMode::Require);
            let hosts = libpq.config.get_hosts();
            assert!(!hosts.is_empty());
            assert!(hosts.iter().all(|host| matches!(host, Host::Tcp(_))));
        }
        Err(error) => assert!(!error.to_string().contains(SECRET), "{error}"),
    }
});
