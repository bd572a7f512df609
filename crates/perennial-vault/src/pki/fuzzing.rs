//! The way to what reads a reply, for the fuzz target; with tests, so that it stays whole.

#![expect(
    clippy::expect_used,
    reason = "a target that cannot be set up has failed"
)]

use http::{HeaderMap, HeaderValue, StatusCode, header};
use perennial::with_causes;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::*;
use crate::auth::granted;
use crate::issuers;

/// Reads replies as a source does that asked for `app` with the DNS name `app.test`.
pub struct Reader {
    source: VaultPki,
    key: NewKey,
}

impl Reader {
    /// One whose signing requests were made with this key (PEM).
    pub fn new(key: &str) -> Self {
        let source = VaultPki::builder("http://localhost")
            .auth(crate::Auth::token("unused"))
            .mount("pki")
            .role("app")
            .common_name("app")
            .dns_name("app.test")
            .ttl(Duration::from_secs(3_600))
            .build();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes());
        Self {
            source: source.expect("nothing is missing"),
            key: NewKey {
                key: key.expect("a key in PEM").into(),
                request: String::new(),
            },
        }
    }

    /// Reads one reply as the answer to each thing that is asked.
    ///
    /// # Panics
    /// That is what is looked for; and if what is told of it is not one line of bounded length.
    pub fn read(&self, status: u16, date: &[u8], retry_after: &[u8], body: &[u8]) {
        let Ok(status) = StatusCode::from_u16(status) else {
            return;
        };
        let headers = [(header::DATE, date), (header::RETRY_AFTER, retry_after)];
        let headers: HeaderMap = headers
            .into_iter()
            .filter_map(|(name, value)| Some((name, HeaderValue::from_bytes(value).ok()?)))
            .collect();
        for step in [
            Step::Sign,
            Step::Issue,
            Step::Login,
            Step::RenewToken,
            Step::LookUpWrapping,
            Step::Unwrap,
            Step::ReadIssuers,
            Step::Revoke,
        ] {
            let body = Zeroizing::new(body.to_vec());
            let reply = Reply::of(step, "pki/sign/app", status, headers.clone(), body);
            if let Err(failure) = reply.and_then(|reply| self.take(step, &reply)) {
                told(failure);
            }
        }
    }

    fn take(&self, step: Step, reply: &Reply) -> Result<(), Failure> {
        let ttl = self.source.request.ttl;
        match step {
            Step::Sign => drop(self.source.material(Some(&self.key), reply, ttl, None)?),
            Step::Issue => drop(self.source.material(None, reply, ttl, None)?),
            Step::Login | Step::RenewToken => {
                let made_of = Fingerprint::of([b"fuzz".as_slice()]);
                let token = Token::of(granted(step, reply)?, made_of);
                let _never = token.renewal_due();
            }
            Step::ReadIssuers => issuers::of_one(reply)?,
            Step::LookUpWrapping | Step::Unwrap | Step::Revoke => {}
        }
        Ok(())
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

fn told(failure: Failure) {
    if let Verdict::BeyondCa { ends, .. } = failure.verdict {
        let _warning = ends_first(ends);
    }
    let line = failure.cause.to_string();
    assert!(!line.contains(char::is_control), "{line:?}");
    let whole = with_causes(&SourceError::from(failure)).to_string();
    assert!(whole.len() < 10_000, "{} bytes", whole.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_that_are_none_are_told_in_bounded_lines() {
        let key = rcgen::KeyPair::generate().expect("a key").serialize_pem();
        let reader = Reader::new(&key);
        let long = "x\n".repeat(9_000);
        for body in ["", "{}", "<html>", "{\"errors\":[\"sealed\"]}", &long] {
            for status in [200, 400, 403, 503] {
                reader.read(status, b"", b"", body.as_bytes());
            }
        }
    }
}
