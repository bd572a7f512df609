//! The usual environment variables, as far as they are safe.

use std::error::Error;
use std::ffi::OsString;

use crate::client::{Vault, VaultBuilder};
use crate::error::{Problem, VaultError};
use crate::login::Auth;
use crate::settings;

/// Variables that would change where a token is sent or what is trusted, and why each is refused.
const REFUSED: [(&str, &str); 7] = [
    (
        "SKIP_VERIFY",
        "certificates are always verified: set CACERT to the CA's file",
    ),
    ("CAPATH", "folders are not supported: set CACERT to a file"),
    ("CACERT_BYTES", "only a file is supported: set CACERT"),
    (
        "TLS_SERVER_NAME",
        "the certificate must be for the name in ADDR",
    ),
    (
        "AGENT_ADDR",
        "agents are not used: to use one, set ADDR to it",
    ),
    (
        "PROXY_ADDR",
        "proxies are not used: to use one, set ADDR to it",
    ),
    ("HTTP_PROXY", "proxies are not used"),
];

impl Vault {
    /// Starts with the usual environment variables; the other settings follow on the builder.
    ///
    /// | variable | setting |
    /// |---|---|
    /// | `ADDR` | the address; must be set |
    /// | `CACERT` | a file with the CA of Vault's own certificate, in PEM |
    /// | `NAMESPACE` | the namespace |
    /// | `TOKEN` | the token, as [`Auth::token`] |
    ///
    /// Each begins with `BAO_` or, where that is unset or empty, with `VAULT_`. Variables that would
    /// change where a token is sent or what is trusted are refused rather than ignored:
    /// `SKIP_VERIFY` (unless it is `false` or `0`), `CAPATH`, `CACERT_BYTES`, `TLS_SERVER_NAME`,
    /// `AGENT_ADDR`, `PROXY_ADDR` and `HTTP_PROXY`. No other variable is read, including plain
    /// `HTTPS_PROXY`.
    ///
    /// # Errors
    /// [`VaultError`], whose text names the variable.
    ///
    /// # Example
    /// ```no_run
    /// use perennial_vault::{Auth, Vault};
    ///
    /// # fn example() -> Result<(), perennial_vault::VaultError> {
    /// let vault = Vault::from_env()?.auth(Auth::kubernetes("app")).build()?;
    /// let source = vault.pki("pki_int").role("app").common_name("app").build()?;
    /// # Ok(()) }
    /// ```
    pub fn from_env() -> Result<VaultBuilder, VaultError> {
        Ok(from(|name| std::env::var_os(name))?)
    }
}

struct Variable {
    name: String,
    text: String,
}

impl Variable {
    /// `None` if it is unset or empty under both names.
    fn find(of: impl Fn(&str) -> Option<OsString>, suffix: &str) -> Result<Option<Self>, Problem> {
        for prefix in ["BAO_", "VAULT_"] {
            let name = format!("{prefix}{suffix}");
            let Some(value) = of(&name).filter(|value| !value.is_empty()) else {
                continue;
            };
            // The value may be a token, so the error does not show it.
            return match value.into_string() {
                Ok(text) => Ok(Some(Self { name, text })),
                Err(_) => Err(refused(name, "it is not UTF-8")),
            };
        }
        Ok(None)
    }
}

fn refused(name: String, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Problem {
    Problem::Variable(name, cause.into())
}

fn from(of: impl Fn(&str) -> Option<OsString>) -> Result<VaultBuilder, Problem> {
    for (suffix, why) in REFUSED {
        if let Some(variable) = Variable::find(&of, suffix)? {
            let is_off = ["0", "f", "false"];
            let is_off = is_off.contains(&variable.text.to_ascii_lowercase().as_str());
            if suffix != "SKIP_VERIFY" || !is_off {
                return Err(refused(variable.name, why));
            }
        }
    }
    let Some(address) = Variable::find(&of, "ADDR")? else {
        let name = "BAO_ADDR or VAULT_ADDR".to_owned();
        return Err(refused(name, "it is not set"));
    };
    // Each value is checked here, so that the error names its variable.
    settings::address(&address.text).map_err(|error| refused(address.name, error))?;
    let mut builder = Vault::builder(address.text);
    if let Some(file) = Variable::find(&of, "CACERT")? {
        let pem = match std::fs::read(&file.text) {
            Ok(pem) => pem,
            Err(error) => return Err(refused(file.name, error)),
        };
        settings::roots("ca_pem", &pem).map_err(|error| refused(file.name, error))?;
        builder = builder.ca_pem(pem);
    }
    if let Some(namespace) = Variable::find(&of, "NAMESPACE")? {
        settings::namespace(&namespace.text).map_err(|error| refused(namespace.name, error))?;
        builder = builder.namespace(namespace.text);
    }
    if let Some(token) = Variable::find(&of, "TOKEN")? {
        let auth = Auth::token(&token.text);
        let auth = auth.checked().map_err(|error| refused(token.name, error))?;
        builder = builder.auth(auth);
    }
    Ok(builder)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::Write;

    use perennial::with_causes;

    use super::*;

    fn with(variables: &[(&str, &str)]) -> Result<VaultBuilder, Problem> {
        let variables: HashMap<&str, &str> = variables.iter().copied().collect();
        from(|name| variables.get(name).map(OsString::from))
    }

    #[test]
    fn each_error_names_its_variable_and_never_a_token() {
        let address = ("VAULT_ADDR", "https://vault.example:8200");
        let table: &[(&[(&str, &str)], &str)] = &[
            (&[], "VAULT_ADDR"),
            (&[("VAULT_ADDR", "")], "VAULT_ADDR"),
            (&[("VAULT_ADDR", "vault.example:8200")], "VAULT_ADDR"),
            (&[("VAULT_ADDR", "http://vault.example:8200")], "VAULT_ADDR"),
            (&[address, ("BAO_ADDR", "ftp://x")], "BAO_ADDR"),
            (&[address, ("VAULT_CACERT", "/nonexistent")], "VAULT_CACERT"),
            (&[address, ("BAO_CACERT", "/dev/null")], "BAO_CACERT"),
            (&[address, ("VAULT_NAMESPACE", "a b")], "VAULT_NAMESPACE"),
            (&[address, ("VAULT_TOKEN", "s.SECRET\u{1}")], "VAULT_TOKEN"),
            (&[address, ("VAULT_SKIP_VERIFY", "1")], "VAULT_SKIP_VERIFY"),
            (&[address, ("BAO_SKIP_VERIFY", "no")], "BAO_SKIP_VERIFY"),
            (&[address, ("VAULT_CAPATH", "/etc/ssl")], "VAULT_CAPATH"),
            (
                &[address, ("VAULT_TLS_SERVER_NAME", "x")],
                "VAULT_TLS_SERVER_NAME",
            ),
            (&[address, ("VAULT_AGENT_ADDR", "x")], "VAULT_AGENT_ADDR"),
            (&[address, ("BAO_PROXY_ADDR", "x")], "BAO_PROXY_ADDR"),
            (&[address, ("VAULT_HTTP_PROXY", "x")], "VAULT_HTTP_PROXY"),
            (
                &[address, ("VAULT_CACERT_BYTES", "x")],
                "VAULT_CACERT_BYTES",
            ),
            // The first name counts.
            (
                &[
                    address,
                    ("BAO_SKIP_VERIFY", "1"),
                    ("VAULT_SKIP_VERIFY", "0"),
                ],
                "BAO_SKIP_VERIFY",
            ),
        ];
        for (variables, name) in table {
            let Err(error) = with(variables) else {
                panic!("{variables:?} is accepted");
            };
            let text = with_causes(&error).to_string();
            assert!(text.contains(name), "{name}: {text}");
            assert!(!format!("{text} {error:?}").contains("SECRET"), "{text}");
        }
    }

    #[test]
    fn safe_variables_are_used_and_bao_comes_first() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::default();
        let ca = params.self_signed(&key).expect("a CA");
        file.write_all(ca.pem().as_bytes()).expect("written");

        let built = with(&[
            ("VAULT_ADDR", "https://other.example"),
            ("BAO_ADDR", "https://vault.example:8200"),
            ("VAULT_CACERT", file.path().to_str().expect("a path")),
            ("VAULT_NAMESPACE", "team1"),
            ("BAO_TOKEN", ""),
            ("VAULT_TOKEN", "s.token"),
            ("VAULT_SKIP_VERIFY", "false"),
        ]);
        let vault = built.expect("safe").build().expect("complete");
        let source = vault.pki("pki").role("app").common_name("app");
        let shown = format!("{:?}", source.build().expect("complete"));
        assert!(shown.contains("https://vault.example:8200"), "{shown}");
        assert!(shown.contains("team1"), "{shown}");
    }
}
