//! Every key of libpq, up to PostgreSQL 18, and what becomes of it.

/// A key of libpq.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) variable: Option<&'static str>,
    pub(super) role: Role,
}

/// What becomes of a key.
#[derive(Clone, Copy)]
pub(super) enum Role {
    /// Read by name.
    Read,
    /// Has no effect on a connection by TLS with a client certificate.
    NoEffect,
    /// Not supported, and why or what to use instead.
    Refused(&'static str),
}
use Role::{NoEffect, Read, Refused};

const NO_SERVICE: &str = "none (services are not read; write the settings here)";
const NO_LIST: &str = "none (for revocation lists, use TlsSettings::server_verifier)";
const NO_OAUTH: &str = "none (the login is by certificate)";
const NO_SCRAM_KEY: &str = "none (use password)";
const VERSION_3: &str = "none (tokio-postgres speaks protocol 3.0)";
const BY_OPTIONS: &str = "none (set the parameter by PGOPTIONS, as in -c TimeZone=UTC)";

pub(super) const KEYS: &[Key] = &[
    key("host", "PGHOST", Read),
    key("hostaddr", "PGHOSTADDR", Read),
    key("port", "PGPORT", Read),
    key("dbname", "PGDATABASE", Read),
    key("user", "PGUSER", Read),
    key("password", "PGPASSWORD", Read),
    key("passfile", "PGPASSFILE", Read),
    key("connect_timeout", "PGCONNECT_TIMEOUT", Read),
    key("application_name", "PGAPPNAME", Read),
    key("fallback_application_name", "", Read),
    key("options", "PGOPTIONS", Read),
    key("client_encoding", "PGCLIENTENCODING", Read),
    key("target_session_attrs", "PGTARGETSESSIONATTRS", Read),
    key("load_balance_hosts", "PGLOADBALANCEHOSTS", Read),
    key("keepalives", "", Read),
    key("keepalives_idle", "", Read),
    key("keepalives_interval", "", Read),
    key("keepalives_count", "", Read),
    key("tcp_user_timeout", "", Read),
    key("channel_binding", "PGCHANNELBINDING", Read),
    key("sslmode", "PGSSLMODE", Read),
    key("sslnegotiation", "PGSSLNEGOTIATION", Read),
    key("sslcert", "PGSSLCERT", Read),
    key("sslkey", "PGSSLKEY", Read),
    key("sslpassword", "", Read),
    key("sslrootcert", "PGSSLROOTCERT", Read),
    key("sslcertmode", "PGSSLCERTMODE", Read),
    key("sslsni", "PGSSLSNI", Read),
    key("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION", Read),
    key("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION", Read),
    key("gssencmode", "PGGSSENCMODE", Read),
    key("sslcompression", "PGSSLCOMPRESSION", NoEffect),
    key("requirepeer", "PGREQUIREPEER", NoEffect),
    key("krbsrvname", "PGKRBSRVNAME", NoEffect),
    key("gsslib", "PGGSSLIB", NoEffect),
    key("gssdelegation", "PGGSSDELEGATION", NoEffect),
    key("service", "PGSERVICE", Refused(NO_SERVICE)),
    key("servicefile", "", Refused(NO_SERVICE)),
    key("sslcrl", "PGSSLCRL", Refused(NO_LIST)),
    key("sslcrldir", "PGSSLCRLDIR", Refused(NO_LIST)),
    key(
        "require_auth",
        "PGREQUIREAUTH",
        Refused("none (tokio-postgres cannot restrict how the server authenticates)"),
    ),
    key(
        "replication",
        "",
        Refused("none (tokio-postgres has no replication connections)"),
    ),
    key(
        "sslkeylogfile",
        "",
        Refused("none (keys of TLS sessions are not written)"),
    ),
    key(
        "min_protocol_version",
        "PGMINPROTOCOLVERSION",
        Refused(VERSION_3),
    ),
    key(
        "max_protocol_version",
        "PGMAXPROTOCOLVERSION",
        Refused(VERSION_3),
    ),
    key("scram_client_key", "", Refused(NO_SCRAM_KEY)),
    key("scram_server_key", "", Refused(NO_SCRAM_KEY)),
    key("oauth_issuer", "", Refused(NO_OAUTH)),
    key("oauth_client_id", "", Refused(NO_OAUTH)),
    key("oauth_client_secret", "", Refused(NO_OAUTH)),
    key("oauth_scope", "", Refused(NO_OAUTH)),
    // Variables alone, which libpq sends as the session's parameters.
    key("PGTZ", "PGTZ", Refused(BY_OPTIONS)),
    key("PGDATESTYLE", "PGDATESTYLE", Refused(BY_OPTIONS)),
    key("PGGEQO", "PGGEQO", Refused(BY_OPTIONS)),
];

const fn key(name: &'static str, variable: &'static str, role: Role) -> Key {
    let variable = if variable.is_empty() {
        None
    } else {
        Some(variable)
    };
    Key {
        name,
        variable,
        role,
    }
}

/// The key of this name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The key that was most likely meant: one begins with the other, then fewest changes.
pub(super) fn nearest(name: &str) -> &'static str {
    let near = KEYS.iter().min_by_key(|key| {
        let begins = key.name.starts_with(name) || name.starts_with(key.name);
        (!begins, changes(name, key.name))
    });
    near.map_or("a key of libpq", |key| key.name)
}

/// How many letters are to be added, removed or replaced (Levenshtein).
fn changes(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, letter) in from.bytes().enumerate() {
        let mut left = line + 1;
        let mut next = vec![left];
        for (above, other) in row.windows(2).zip(to.bytes()) {
            if let [diagonal, above] = above {
                let replaced = diagonal + usize::from(letter != other);
                left = replaced.min(left + 1).min(above + 1);
                next.push(left);
            }
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}
