//! The files that make Postgres take certificates only.

use std::path::Path;

/// Who may log in, and how: over the private socket anybody, over TCP a certificate only.
pub(super) const HBA: &str = "\
local     all all              trust
hostssl   all app 127.0.0.1/32 cert clientcert=verify-full map=clients
hostnossl all all all          reject
host      all all all          reject
";

/// Which common name may log in as which user.
pub(super) const IDENT: &str = "\
clients app   app
clients app-2 app
";

/// What is added to the configuration that `initdb` wrote.
///
/// The log says who connected and left. Nothing is synced: the data lives no longer than the test.
pub(super) fn settings(socket: &Path, port: u16) -> String {
    let socket = socket.display();
    format!(
        "
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = '{socket}'
ssl = on
ssl_cert_file = 'server.crt'
ssl_key_file = 'server.key'
ssl_ca_file = 'clients.crt'
max_connections = 300
shared_buffers = 16MB
fsync = off
synchronous_commit = off
full_page_writes = off
wal_level = minimal
max_wal_senders = 0
log_connections = on
log_disconnections = on
log_line_prefix = '%m [%p] %q%u@%d '
"
    )
}
