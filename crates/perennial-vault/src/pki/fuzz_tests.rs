//! Gives the fuzz target access to what reads a reply; with a test, so that it keeps compiling.

#![expect(clippy::expect_used, reason = "a fuzz target fails by panicking")]

use http::{HeaderMap, HeaderValue, StatusCode, header};
use perennial::with_causes;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::*;
use crate::http::Sent;
use crate::issuers;
use crate::login::{Auth, CredentialId, granted};

/// Reads replies as a source does that requested `app` with the DNS name `app.test`.
pub struct Reader {
    source: VaultPki,
    key: NewKey,
    sent: Sent,
}

/// What the requests sent, and no error may repeat; the seeds of the fuzz target hold it.
const SECRET: &str = "s.FUZZEDFUZZEDFUZZED";

impl Reader {
    /// A source whose signing requests were made with this key (PEM).
    pub fn new(key: &str) -> Self {
        let vault = Vault::builder("http://localhost").auth(Auth::token("unused"));
        let vault = vault.build().expect("nothing is missing");
        let source = vault.pki("pki").role("app").common_name("app");
        let source = source.dns_name("app.test").ttl(Duration::from_secs(3_600));
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes());
        Self {
            source: source.build().expect("nothing is missing"),
            key: NewKey {
                key: key.expect("a key in PEM").into(),
                request: String::new(),
            },
            sent: Sent::new([SECRET]),
        }
    }

    /// Reads one reply as the answer to each operation.
    ///
    /// # Panics
    /// On a bug, or if an error's text is not one line of bounded length.
    pub fn read(&self, status: u16, date: &[u8], retry_after: &[u8], body: &[u8]) {
        let Ok(status) = StatusCode::from_u16(status) else {
            return;
        };
        let headers = [(header::DATE, date), (header::RETRY_AFTER, retry_after)];
        let headers: HeaderMap = headers
            .into_iter()
            .filter_map(|(name, value)| Some((name, HeaderValue::from_bytes(value).ok()?)))
            .collect();
        for operation in [
            Operation::Sign,
            Operation::Issue,
            Operation::Login,
            Operation::RenewToken,
            Operation::LookUpWrapping,
            Operation::Unwrap,
            Operation::ReadIssuers,
            Operation::Revoke,
        ] {
            let body = Zeroizing::new(body.to_vec());
            let headers = headers.clone();
            let reply = Reply::of(operation, "pki/sign/app", status, headers, body, &self.sent);
            if let Err(failure) = reply.and_then(|reply| self.take(operation, &reply)) {
                check_text(failure);
            }
        }
    }

    fn take(&self, operation: Operation, reply: &Reply) -> Result<(), Failure> {
        let ttl = self.source.request.ttl;
        match operation {
            Operation::Sign => drop(self.source.material(Some(&self.key), reply, ttl, None)?),
            Operation::Issue => drop(self.source.material(None, reply, ttl, None)?),
            Operation::Login | Operation::RenewToken => {
                let id = CredentialId::of([b"fuzz".as_slice()]);
                let token = Token::of(granted(operation, reply)?, id);
                // Only a panic matters.
                let _ = token.renewal_due();
            }
            Operation::ReadIssuers => issuers::read_reply(reply)?,
            Operation::LookUpWrapping | Operation::Unwrap | Operation::Revoke => {}
        }
        Ok(())
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

fn check_text(failure: Failure) {
    if let Verdict::BeyondCa { expires, .. } = failure.verdict {
        // Only a panic matters.
        let _ = shortened(expires);
    }
    let line = failure.problem.to_string();
    assert!(!line.contains(char::is_control), "{line:?}");
    assert!(!line.contains(SECRET), "{line:?}");
    let whole = with_causes(&SourceError::from(failure)).to_string();
    assert!(whole.len() < 10_000, "{} bytes", whole.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_replies_become_errors_of_bounded_length() {
        let key = rcgen::KeyPair::generate().expect("a key").serialize_pem();
        let reader = Reader::new(&key);
        let long = "x\n".repeat(9_000);
        let echo = format!(r#"{{"errors":["cannot parse {SECRET}"],"data":"{SECRET}"}}"#);
        for body in [
            "",
            "{}",
            "<html>",
            "{\"errors\":[\"sealed\"]}",
            &long,
            &echo,
        ] {
            for status in [200, 400, 403, 503] {
                reader.read(status, b"", b"", body.as_bytes());
            }
        }
    }
}
