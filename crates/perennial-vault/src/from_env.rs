//! The usual variables, as far as they are safe.

use std::error::Error;
use std::ffi::OsString;

use crate::auth::Auth;
use crate::builder::{self, BuildError, VaultPkiBuilder};
use crate::pki::VaultPki;

/// What would change where a token goes, or what is trusted, and is not taken.
const NOT_TAKEN: [(&str, &str); 7] = [
    (
        "SKIP_VERIFY",
        "a certificate is always verified: name its CA in CACERT",
    ),
    ("CAPATH", "only a file is taken: name it in CACERT"),
    ("CACERT_BYTES", "only a file is taken: name it in CACERT"),
    (
        "TLS_SERVER_NAME",
        "the certificate must bear the name in ADDR",
    ),
    (
        "AGENT_ADDR",
        "no agent is asked: name it in ADDR if it shall be",
    ),
    (
        "PROXY_ADDR",
        "no proxy is used: name it in ADDR if it shall be",
    ),
    ("HTTP_PROXY", "no proxy is used"),
];

impl VaultPki {
    /// Starts with what the usual variables say; the rest is set on the builder.
    ///
    /// | variable | is |
    /// |---|---|
    /// | `ADDR` | the address; must be set |
    /// | `CACERT` | a file with the CA of Vault's own certificate, in PEM |
    /// | `NAMESPACE` | the namespace |
    /// | `TOKEN` | the token, as [`Auth::token`] |
    ///
    /// Each begins with `BAO_` or, where that is unset or empty, with `VAULT_`. Variables that
    /// would change where a token goes or what is trusted are refused rather than ignored:
    /// `SKIP_VERIFY` (unless it says `false` or `0`), `CAPATH`, `CACERT_BYTES`, `TLS_SERVER_NAME`,
    /// `AGENT_ADDR`, `PROXY_ADDR` and `HTTP_PROXY`. No other is read, plain `HTTPS_PROXY` included.
    ///
    /// # Errors
    /// [`BuildError::Variable`], with the variable's name.
    ///
    /// # Example
    /// ```no_run
    /// use perennial_vault::{Auth, VaultPki};
    ///
    /// # fn example() -> Result<(), perennial_vault::BuildError> {
    /// let source = VaultPki::from_env()?
    ///     .auth(Auth::kubernetes("app"))
    ///     .mount("pki_int")
    ///     .role("app")
    ///     .common_name("app")
    ///     .build()?;
    /// # Ok(()) }
    /// ```
    pub fn from_env() -> Result<VaultPkiBuilder, BuildError> {
        // The caller asks for it by this method's name.
        from(|name| std::env::var_os(name))
    }
}

struct Variable {
    name: String,
    text: String,
}

impl Variable {
    /// `None` if it is unset or empty under both names.
    fn find(
        of: impl Fn(&str) -> Option<OsString>,
        suffix: &str,
    ) -> Result<Option<Self>, BuildError> {
        for prefix in ["BAO_", "VAULT_"] {
            let name = format!("{prefix}{suffix}");
            let Some(value) = of(&name).filter(|value| !value.is_empty()) else {
                continue;
            };
            return match value.into_string() {
                Ok(text) => Ok(Some(Self { name, text })),
                Err(_not_shown) => Err(refused(name, "it is not UTF-8")),
            };
        }
        Ok(None)
    }

    fn refused(self, why: impl Into<Box<dyn Error + Send + Sync>>) -> BuildError {
        refused(self.name, why)
    }
}

fn refused(name: String, cause: impl Into<Box<dyn Error + Send + Sync>>) -> BuildError {
    BuildError::Variable {
        name,
        cause: cause.into(),
    }
}

fn from(of: impl Fn(&str) -> Option<OsString>) -> Result<VaultPkiBuilder, BuildError> {
    for (suffix, why) in NOT_TAKEN {
        if let Some(variable) = Variable::find(&of, suffix)? {
            let says_no = matches!(
                variable.text.as_str(),
                "0" | "f" | "F" | "false" | "FALSE" | "False"
            );
            if suffix != "SKIP_VERIFY" || !says_no {
                return Err(variable.refused(why));
            }
        }
    }
    let Some(address) = Variable::find(&of, "ADDR")? else {
        let name = "BAO_ADDR or VAULT_ADDR".to_owned();
        return Err(refused(name, "it is not set"));
    };
    if let Err(error) = builder::address(&address.text) {
        return Err(address.refused(error));
    }
    let mut settings = VaultPki::builder(address.text);
    if let Some(file) = Variable::find(&of, "CACERT")? {
        let pem = match std::fs::read(&file.text) {
            Ok(pem) => pem,
            Err(error) => return Err(file.refused(error)),
        };
        if let Err(error) = builder::trusted("ca_pem", &pem) {
            return Err(file.refused(error));
        }
        settings = settings.ca_pem(pem);
    }
    if let Some(namespace) = Variable::find(&of, "NAMESPACE")? {
        if let Err(error) = builder::namespace(&namespace.text) {
            return Err(namespace.refused(error));
        }
        settings = settings.namespace(namespace.text);
    }
    if let Some(token) = Variable::find(&of, "TOKEN")? {
        let auth = Auth::token(&token.text);
        if let Err(error) = auth.clone().checked() {
            return Err(token.refused(error));
        }
        settings = settings.auth(auth);
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::Write;

    use perennial::with_causes;

    use super::*;

    fn with(variables: &[(&str, &str)]) -> Result<VaultPkiBuilder, BuildError> {
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
            // What counts is the one that is looked at first.
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
                panic!("{variables:?} is taken");
            };
            let text = with_causes(&error).to_string();
            assert!(text.contains(name), "{name}: {text}");
            assert!(!format!("{text} {error:?}").contains("SECRET"), "{text}");
        }
    }

    #[test]
    fn safe_variables_make_a_source_and_bao_goes_first() {
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
        let builder = built
            .expect("safe")
            .mount("pki")
            .role("app")
            .common_name("app");
        let shown = format!("{:?}", builder.build().expect("complete"));
        assert!(shown.contains("https://vault.example:8200"), "{shown}");
        assert!(shown.contains("team1"), "{shown}");
    }
}
