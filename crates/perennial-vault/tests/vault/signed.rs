//! Tokens of a platform, signed with ES256, which both JWT and Kubernetes logins take.

use std::time::SystemTime;

use base64ct::{Base64UrlUnpadded, Encoding};
use rcgen::{KeyPair, SigningKey};
use serde_json::{Value, json};

pub(crate) struct Platform(KeyPair);

impl Platform {
    pub(crate) fn new() -> Self {
        Self(KeyPair::generate().unwrap())
    }

    pub(crate) fn public_key_pem(&self) -> String {
        self.0.public_key_pem()
    }

    /// A token with these claims, good for ten minutes.
    #[expect(
        clippy::disallowed_methods,
        reason = "a platform has a clock of its own"
    )]
    pub(crate) fn token(&self, mut claims: Value) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap().as_secs();
        claims["iat"] = json!(now);
        claims["exp"] = json!(now + 600);
        let [head, claims] = [json!({ "alg": "ES256", "typ": "JWT" }), claims]
            .map(|part| Base64UrlUnpadded::encode_string(part.to_string().as_bytes()));
        let text = format!("{head}.{claims}");
        let signature = raw(&self.0.sign(text.as_bytes()).unwrap());
        format!("{text}.{}", Base64UrlUnpadded::encode_string(&signature))
    }

    /// The projected token of a pod's service account, of which there have been `n`.
    pub(crate) fn projected(&self, n: u32) -> String {
        self.token(json!({
            "sub": "system:serviceaccount:default:app", "jti": n.to_string(),
            "kubernetes.io": {
                "namespace": "default", "serviceaccount": { "name": "app", "uid": "u1" },
            },
        }))
    }
}

/// Of an ECDSA signature in DER, the two numbers alone, as JWTs have it (RFC 7518, 3.4).
fn raw(der: &[u8]) -> Vec<u8> {
    let r_ends = 4 + usize::from(der[3]);
    let numbers = [&der[4..r_ends], &der[r_ends + 2..]];
    let mut raw = Vec::new();
    for number in numbers {
        let digits = &number[number.len().saturating_sub(32)..];
        raw.resize(raw.len() + 32 - digits.len(), 0);
        raw.extend_from_slice(digits);
    }
    raw
}
