use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;

use crate::auth::Auth;
use crate::builder::{BuildError, address, distinct, namespace, positive, setting, trusted};
use crate::token::Tokens;
use crate::transport::{
    CONNECT_TIMEOUT, REQUEST_TIMEOUT, Settings, Transport, client_config, default_provider,
};

/// A way to Vault, and the token that serves on it.
#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) transport: Arc<Transport>,
    pub(crate) tokens: Arc<Tokens>,
}

/// What an [`Access`] is made of; what is not set has a default, or is missing.
#[derive(Default)]
pub(crate) struct AccessSettings {
    pub(crate) addresses: Vec<String>,
    pub(crate) ca_pem: Option<Vec<u8>>,
    pub(crate) namespace: Option<String>,
    pub(crate) auth: Option<Auth>,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) request_timeout: Option<Duration>,
    pub(crate) provider: Option<Arc<CryptoProvider>>,
}

impl AccessSettings {
    pub(crate) fn open(self) -> Result<Access, BuildError> {
        let addresses = self.addresses.iter().map(|text| address(text));
        let addresses = distinct(addresses.collect::<Result<_, _>>()?)?;
        let auth = self.auth.ok_or(BuildError::Missing { field: "auth" })?;
        let namespace = self.namespace.as_deref().map(namespace).transpose()?;
        let roots = self.ca_pem.as_deref().map(|pem| trusted("ca_pem", pem));
        let provider = self.provider.unwrap_or_else(default_provider);
        let tls = client_config(provider, roots.transpose()?.map(|(store, _)| store))
            .map_err(|error| BuildError::Client(error.into()))?;
        let timeout = |field, set: Option<Duration>, default| match set {
            Some(timeout) => positive(field, timeout),
            None => Ok(default),
        };
        let transport = Transport::new(Settings {
            addresses: Arc::new(addresses),
            namespace,
            tls,
            connect_timeout: timeout("connect_timeout", self.connect_timeout, CONNECT_TIMEOUT)?,
            request_timeout: timeout("request_timeout", self.request_timeout, REQUEST_TIMEOUT)?,
        })
        .map_err(|error| BuildError::Client(error.into()))?;
        Ok(Access {
            transport: Arc::new(transport),
            tokens: Arc::new(Tokens::new(auth.checked()?)),
        })
    }

    /// That of another source, unless something is set that it would pass over.
    pub(crate) fn yield_to(self, shared: Access) -> Result<Access, BuildError> {
        const TAKES: &str = "nothing with `another`: that asks over the first source's connections";
        let set = [
            ("address", !self.addresses.is_empty()),
            ("ca_pem", self.ca_pem.is_some()),
            ("namespace", self.namespace.is_some()),
            ("auth", self.auth.is_some()),
            ("connect_timeout", self.connect_timeout.is_some()),
            ("request_timeout", self.request_timeout.is_some()),
            ("provider", self.provider.is_some()),
        ];
        if let Some((field, _)) = set.into_iter().find(|(_, is_set)| *is_set) {
            return Err(setting(field, "set", TAKES));
        }
        if shared.tokens.is_of_a_certificate() {
            let takes = "no `another`: each certificate logs in for itself";
            return Err(setting("auth", "a TLS certificate", takes));
        }
        Ok(shared)
    }
}
