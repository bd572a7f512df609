//! Connection strings and environment variables as libpq reads them: what psql is given.
//!
//! [`parse`] takes the keyword/value form and URIs (`postgresql://`, `postgres://`), and the
//! variables `PGHOST`, `PGSSLCERT` and so on for what the string leaves out, with libpq's defaults.
//!
//! # What differs from libpq
//! TLS is never weakened, neither by the string nor by the environment.
//!
//! | libpq | here |
//! |---|---|
//! | `sslmode` unset | `verify-full`; libpq's own default is `prefer` |
//! | `sslmode=verify-full` | the same |
//! | `sslmode=verify-ca` | the same, by [`TlsSettings::verify_ca`] |
//! | `sslmode=disable`, `allow`, `prefer`, `require`; from `PGSSLMODE` too | an error |
//! | a Unix socket: a host that begins with `/` or `@`, or no host at all | an error: Postgres has no TLS there |
//! | `sslrootcert=system` | the same, with the feature `system-roots`; `sslmode` must be `verify-full` |
//! | `sslcert`, `sslkey`, `sslrootcert` unset | `postgresql.crt`, `postgresql.key` and `root.crt` in `~/.postgresql`; here all three must exist |
//! | `sslpassword` | the same, with the feature `encrypted-keys` |
//! | `ssl_min_protocol_version` unset | TLS 1.3; `TLSv1.2` allows 1.2 too |
//! | `ssl_max_protocol_version=TLSv1.2`, `sslsni=0`, `sslcertmode=disable`, `gssencmode=require` | an error |
//! | `hostaddr` without `host` | the certificate must name the address; libpq refuses it with `verify-full` |
//! | `target_session_attrs` | `any`, `read-write` and `read-only`; the others are an error |
//! | `service`, `sslcrl`, `sslcrldir`, `require_auth`, `replication`, `PGTZ`, `PGDATESTYLE`, `PGGEQO` | an error that names what to use instead |
//! | `passfile`, `PGPASSFILE` | an error, unless a password is given; `~/.pgpass` is not read |
//! | `sslcompression`, `requirepeer`, `krbsrvname`, `gsslib`, `gssdelegation` | without effect |
//! | a key that is given twice | an error; libpq takes the last |
//! | an empty value | the default; libpq refuses it for some keys |
//!
//! # Example
//! ```no_run
//! use perennial::LiveCert;
//! use perennial_postgres::{CertPool, libpq};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let uri = "postgresql://app@db.internal/app?sslcert=/etc/tls/tls.crt\
//!            &sslkey=/etc/tls/tls.key&sslrootcert=/etc/tls/ca.crt";
//! let libpq = libpq::parse(uri)?;
//! let live = LiveCert::builder().tls(libpq.tls).start(libpq.source).await?;
//! let pool = CertPool::builder(live, libpq.config).build().await?;
//! # Ok(()) }
//! ```

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use perennial::{FileSource, TlsSettings};
use tokio_postgres::Config;
use tokio_postgres::config::{
    ChannelBinding, LoadBalanceHosts, SslMode, SslNegotiation, TargetSessionAttrs,
};

use crate::error::ConnectError;
use keys::{KEYS, Key, Role};

mod keys;
#[cfg(test)]
mod tests;
mod text;

/// What a connection string and the environment configure.
#[derive(Debug)]
#[non_exhaustive]
pub struct Libpq {
    /// `sslcert`, `sslkey` and `sslrootcert`, read again whenever the files change.
    pub source: FileSource,
    /// How servers are verified, for [`LiveCertBuilder::tls`](perennial::LiveCertBuilder::tls).
    pub tls: TlsSettings,
    /// All else, with TLS required.
    pub config: Config,
}

/// Reads a connection string, and the process's environment for what it leaves out.
///
/// With an empty string, the environment alone. Reads no file: the source does, at each fetch.
///
/// # Errors
/// [`ConnectError::Setting`] for what cannot be read or is not supported, names the key or variable.
/// It shows no password, and no part of the string that could be one.
pub fn parse(text: &str) -> Result<Libpq, ConnectError> {
    parse_with(text, |name| std::env::var_os(name))
}

/// As [`parse`], with variables from elsewhere; `|_| None` for none at all.
///
/// The home folder is one of them: `HOME`, or `APPDATA` on Windows.
///
/// # Errors
/// As [`parse`].
pub fn parse_with(
    text: &str,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Libpq, ConnectError> {
    let settings = Settings::read(text, &variable)?;
    Ok(Libpq {
        tls: tls(&settings)?,
        config: config(&settings)?,
        source: source(settings, home(&variable))?,
    })
}

/// The values that were given, by libpq's key.
struct Settings(BTreeMap<&'static str, Given>);

/// One value, and where it came from.
struct Given {
    key: &'static Key,
    /// The key, or the variable.
    field: &'static str,
    text: String,
}

impl Settings {
    fn read(text: &str, variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConnectError> {
        let mut given = BTreeMap::new();
        let pairs = text::pairs(text)?;
        for (place, (name, value)) in pairs.iter().enumerate() {
            let key = keys::find(name).ok_or_else(|| {
                let got = text::unknown(&pairs, place);
                wrong("key", got, keys::nearest(name))
            })?;
            let (field, text) = (key.name, value.clone());
            if given.insert(field, Given { key, field, text }).is_some() {
                return Err(wrong(field, "(given twice)", "one value"));
            }
        }
        for key in KEYS {
            let Some(field) = key.variable.filter(|_| !given.contains_key(key.name)) else {
                continue;
            };
            if let Some(value) = variable(field) {
                let Ok(text) = value.into_string() else {
                    return Err(wrong(field, "(not shown)", "UTF-8"));
                };
                given.insert(key.name, Given { key, field, text });
            }
        }
        // Empty means unset. In the string it also hides the variable, as in libpq.
        given.retain(|_, given| !given.text.is_empty());
        for given in given.values() {
            if let Role::Refused(expected) = given.key.role {
                return Err(given.wrong(expected));
            }
        }
        Ok(Self(given))
    }

    fn get(&self, key: &str) -> Option<&Given> {
        self.0.get(key)
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.get(key).map(|given| given.text.as_str())
    }

    /// `sslrootcert`, if it asks for the system's roots.
    fn system(&self) -> Option<&Given> {
        let roots = self.get("sslrootcert");
        roots.filter(|roots| roots.text == "system")
    }

    /// The value that one of these words stands for.
    fn word<T: Copy>(
        &self,
        key: &str,
        words: &[(&str, T)],
        expected: &'static str,
    ) -> Result<Option<T>, ConnectError> {
        let Some(given) = self.get(key) else {
            return Ok(None);
        };
        let mut words = words.iter();
        let found = words.find(|(word, _)| given.text.eq_ignore_ascii_case(word));
        let (_, value) = found.ok_or_else(|| given.wrong(expected))?;
        Ok(Some(*value))
    }

    fn number(&self, key: &str) -> Result<Option<i32>, ConnectError> {
        let Some(given) = self.get(key) else {
            return Ok(None);
        };
        match given.text.trim().parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(given.wrong("a whole number")),
        }
    }

    /// A number above zero; libpq takes zero and less as unset.
    fn positive(&self, key: &str) -> Result<Option<u32>, ConnectError> {
        let number = self.number(key)?;
        let positive = number.and_then(|number| u32::try_from(number).ok());
        Ok(positive.filter(|number| *number > 0))
    }
}

impl Given {
    /// The parts between commas.
    fn list(&self) -> impl Iterator<Item = &str> {
        self.text.split(',')
    }

    fn wrong(&self, expected: &'static str) -> ConnectError {
        // A value that was forgotten, or a piece of a URI's password, would have these signs in it.
        let could_be_secret =
            is_secret(self.key.name) || self.text.len() > 64 || self.text.contains(['=', '@']);
        let got = if could_be_secret {
            NOT_SHOWN.to_owned()
        } else {
            format!("{:?}", self.text)
        };
        wrong(self.field, got, expected)
    }
}

/// Whether this key, or the one that was meant by it, holds a secret.
fn is_secret(key: &str) -> bool {
    let parts = ["pass", "secret", "_key"];
    parts.iter().any(|part| key.contains(part))
}

fn wrong(field: &'static str, got: impl Into<String>, expected: &'static str) -> ConnectError {
    ConnectError::Setting {
        field,
        got: got.into(),
        expected,
    }
}

const NOT_SHOWN: &str = "(not shown)";
const SSLMODE: &str = "verify-full or verify-ca (TLS is never weakened)";
const TCP_HOST: &str = "a TCP host (Postgres has no TLS on Unix sockets; sslmode is verify-full)";
const HOSTS: &str = "names (in the password of a URI, / is %2F, @ is %40, : is %3A)";
const PORTS: &str = "1 to 65535 (in the password of a URI, / is %2F, @ is %40, : is %3A)";

fn config(settings: &Settings) -> Result<Config, ConnectError> {
    let mut config = Config::new();
    config.ssl_mode(SslMode::Require);
    servers(settings, &mut config)?;
    session(settings, &mut config)?;
    sockets(settings, &mut config)?;
    Ok(config)
}

/// Hosts, their addresses and ports.
fn servers(settings: &Settings, config: &mut Config) -> Result<(), ConnectError> {
    let addresses = settings.get("hostaddr");
    // Without a host, the address is what the server's certificate must name.
    let Some(hosts) = settings.get("host").or(addresses) else {
        return Err(wrong("host", "(none)", TCP_HOST));
    };
    for host in hosts.list() {
        let after = host.trim_start_matches('@');
        if after.contains(['=', '@']) || after.contains(char::is_whitespace) {
            return Err(wrong(hosts.field, NOT_SHOWN, HOSTS));
        }
        if host.is_empty() || host.starts_with(['/', '@']) {
            return Err(wrong(hosts.field, format!("{host:?}"), TCP_HOST));
        }
        config.host(host);
    }
    let count = config.get_hosts().len();
    if let Some(addresses) = addresses {
        for address in addresses.list() {
            let Ok(address) = address.parse::<IpAddr>() else {
                return Err(addresses.wrong("IP addresses"));
            };
            config.hostaddr(address);
        }
        if config.get_hostaddrs().len() != count {
            return Err(addresses.wrong("one address for each host"));
        }
    }
    let Some(ports) = settings.get("port") else {
        return Ok(());
    };
    for port in ports.list().map(str::trim) {
        let port = if port.is_empty() {
            Ok(5432)
        } else {
            port.parse()
        };
        match port {
            Ok(port) if port > 0 => config.port(port),
            // What stands between a colon and a slash may be a password.
            _ => return Err(wrong(ports.field, NOT_SHOWN, PORTS)),
        };
    }
    match config.get_ports().len() {
        1 => Ok(()),
        ports if ports == count => Ok(()),
        _ => Err(ports.wrong("one port, or one for each host")),
    }
}

/// What the server is asked for.
fn session(settings: &Settings, config: &mut Config) -> Result<(), ConnectError> {
    if let Some(user) = settings.text("user") {
        config.user(user);
    }
    if let Some(dbname) = settings.text("dbname") {
        config.dbname(dbname);
    }
    if let Some(password) = settings.text("password") {
        config.password(password);
    } else if let Some(file) = settings.get("passfile") {
        return Err(file.wrong("none (password files are not read; use password)"));
    }
    if let Some(options) = settings.text("options") {
        config.options(options);
    }
    let fallback = || settings.text("fallback_application_name");
    if let Some(name) = settings.text("application_name").or_else(fallback) {
        config.application_name(name);
    }
    let encodings = [("auto", ()), ("utf8", ()), ("utf-8", ()), ("unicode", ())];
    let expected = "UTF8 (tokio-postgres reads no other encoding)";
    settings.word("client_encoding", &encodings, expected)?;

    use TargetSessionAttrs::{Any, ReadOnly, ReadWrite};
    let kinds = [
        ("any", Any),
        ("read-write", ReadWrite),
        ("read-only", ReadOnly),
    ];
    let expected = "any, read-write or read-only (tokio-postgres has no others)";
    if let Some(kind) = settings.word("target_session_attrs", &kinds, expected)? {
        config.target_session_attrs(kind);
    }
    let orders = [
        ("disable", LoadBalanceHosts::Disable),
        ("random", LoadBalanceHosts::Random),
    ];
    if let Some(order) = settings.word("load_balance_hosts", &orders, "disable or random")? {
        config.load_balance_hosts(order);
    }
    let bindings = [
        ("disable", ChannelBinding::Disable),
        ("prefer", ChannelBinding::Prefer),
        ("require", ChannelBinding::Require),
    ];
    let expected = "disable, prefer or require";
    if let Some(binding) = settings.word("channel_binding", &bindings, expected)? {
        config.channel_binding(binding);
    }
    Ok(())
}

/// How TCP connections are made and watched, and how TLS begins on them.
fn sockets(settings: &Settings, config: &mut Config) -> Result<(), ConnectError> {
    if let Some(timeout) = settings.positive("connect_timeout")? {
        config.connect_timeout(seconds(timeout));
    }
    // Alone among these in milliseconds.
    if let Some(timeout) = settings.positive("tcp_user_timeout")? {
        config.tcp_user_timeout(Duration::from_millis(timeout.into()));
    }
    if let Some(keepalives) = settings.number("keepalives")? {
        config.keepalives(keepalives != 0);
    }
    if let Some(idle) = settings.positive("keepalives_idle")? {
        config.keepalives_idle(seconds(idle));
    }
    if let Some(interval) = settings.positive("keepalives_interval")? {
        config.keepalives_interval(seconds(interval));
    }
    if let Some(count) = settings.positive("keepalives_count")? {
        config.keepalives_retries(count);
    }
    let ways = [
        ("postgres", SslNegotiation::Postgres),
        ("direct", SslNegotiation::Direct),
    ];
    if let Some(way) = settings.word("sslnegotiation", &ways, "postgres or direct")? {
        config.ssl_negotiation(way);
    }
    let modes = [("disable", ()), ("prefer", ())];
    let expected = "disable or prefer (connections are encrypted by TLS, not by GSS)";
    settings.word("gssencmode", &modes, expected)?;
    Ok(())
}

fn seconds(number: u32) -> Duration {
    Duration::from_secs(number.into())
}

fn tls(settings: &Settings) -> Result<TlsSettings, ConnectError> {
    let mut tls = TlsSettings::new();
    let modes = [("verify-full", false), ("verify-ca", true)];
    let verify_ca = settings.word("sslmode", &modes, SSLMODE)? == Some(true);
    if verify_ca {
        tls = tls.verify_ca();
    }
    if let Some(system) = settings.system() {
        if let Some(mode) = settings.get("sslmode").filter(|_| verify_ca) {
            return Err(mode.wrong("verify-full, because sslrootcert is system"));
        }
        tls = with_system_roots(tls, system)?;
    }
    // Below 1.2 nothing is spoken, whatever the least is.
    let least = [
        ("TLSv1", true),
        ("TLSv1.1", true),
        ("TLSv1.2", true),
        ("TLSv1.3", false),
    ];
    let expected = "TLSv1.2 or TLSv1.3";
    if settings.word("ssl_min_protocol_version", &least, expected)? == Some(true) {
        tls = tls.allow_tls12();
    }
    let expected = "TLSv1.3 (a lower maximum is not supported)";
    settings.word("ssl_max_protocol_version", &[("TLSv1.3", ())], expected)?;
    let expected = "1 (the host's name is always sent)";
    settings.word("sslsni", &[("1", ())], expected)?;
    let modes = [("allow", ()), ("require", ())];
    let expected = "require or allow (a client certificate is always presented)";
    settings.word("sslcertmode", &modes, expected)?;
    Ok(tls)
}

/// Where libpq looks for what `sslcert`, `sslkey` and `sslrootcert` do not name.
fn home(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let (name, folder) = if cfg!(windows) {
        ("APPDATA", "postgresql")
    } else {
        ("HOME", ".postgresql")
    };
    let home = variable(name).filter(|home| !home.is_empty())?;
    Some(PathBuf::from(home).join(folder))
}

fn source(mut settings: Settings, home: Option<PathBuf>) -> Result<FileSource, ConnectError> {
    let file = |key, default| match (settings.text(key), &home) {
        (Some(file), _) => Ok(PathBuf::from(file)),
        (None, Some(home)) => Ok(home.join(default)),
        (None, None) => Err(wrong(key, "(none)", "a file, since HOME is not set")),
    };
    let chain = file("sslcert", "postgresql.crt")?;
    let key = file("sslkey", "postgresql.key")?;
    let source = match settings.system() {
        Some(_) => FileSource::without_roots(chain, key),
        None => FileSource::new(chain, key, file("sslrootcert", "root.crt")?),
    };
    // Not `C:\`.
    let engine = |key: &&Given| key.text.find(':').is_some_and(|at| at > 1);
    if let Some(key) = settings.get("sslkey").filter(engine) {
        return Err(key.wrong("a file (OpenSSL's engines are not supported)"));
    }
    match settings.0.remove("sslpassword") {
        Some(password) => with_passphrase(source, password),
        None => Ok(source),
    }
}

#[cfg(feature = "encrypted-keys")]
fn with_passphrase(source: FileSource, password: Given) -> Result<FileSource, ConnectError> {
    Ok(source.passphrase(password.text))
}

#[cfg(not(feature = "encrypted-keys"))]
fn with_passphrase(_: FileSource, password: Given) -> Result<FileSource, ConnectError> {
    Err(password.wrong("none (it needs the feature encrypted-keys of perennial-postgres)"))
}

#[cfg(feature = "system-roots")]
fn with_system_roots(tls: TlsSettings, _: &Given) -> Result<TlsSettings, ConnectError> {
    Ok(tls.system_roots())
}

#[cfg(not(feature = "system-roots"))]
fn with_system_roots(_: TlsSettings, system: &Given) -> Result<TlsSettings, ConnectError> {
    Err(system.wrong("a file (system needs the feature system-roots of perennial-postgres)"))
}
