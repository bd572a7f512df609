use std::fmt;

/// What a certificate is used for.
///
/// A leaf whose extended key usage allows none of it is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Usage {
    /// To connect to servers; needs roots to verify them with.
    #[default]
    Client,
    /// To accept clients.
    Server,
    /// Both. A leaf that allows only one of them is used, with a warning.
    Both,
}

impl Usage {
    /// Whether servers are verified with the certificate's roots.
    pub(crate) fn verifies_servers(self) -> bool {
        self != Self::Server
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "a TLS client (clientAuth)",
            Self::Server => "a TLS server (serverAuth)",
            Self::Both => "a TLS client and server (clientAuth, serverAuth)",
        })
    }
}
