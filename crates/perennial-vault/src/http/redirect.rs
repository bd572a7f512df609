//! Which redirects are followed; pure.

use http::{HeaderValue, StatusCode};
use reqwest::Url;

/// Where a redirect leads.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hop {
    /// To a configured origin.
    Follow(Url),
    /// To another; the token is not sent there.
    Elsewhere { origin: String },
    /// `Location` is missing or not a URL.
    Nowhere,
}

/// The two redirects that keep method and body; Vault sends no others.
pub(super) fn is_one(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
    )
}

/// Reads `location`, relative to the requested URL.
pub(super) fn hop(configured: &[Url], requested: &Url, location: Option<&HeaderValue>) -> Hop {
    let target = location
        .and_then(|value| value.to_str().ok())
        .and_then(|text| requested.join(text).ok());
    let Some(mut target) = target else {
        return Hop::Nowhere;
    };
    if configured.iter().all(|url| url.origin() != target.origin()) {
        return Hop::Elsewhere {
            // Scheme, host and port; no user, path or query, which may hold anything.
            origin: target.origin().ascii_serialization(),
        };
    }
    // The client would turn a user name into a header, which Vault reads as a token.
    if target.set_username("").is_err() || target.set_password(None).is_err() {
        return Hop::Nowhere;
    }
    Hop::Follow(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: S9
    #[test]
    fn only_the_configured_origins_are_followed() {
        let url = |text: &str| Url::parse(text).expect("a URL");
        let configured = [
            url("https://vault.example:8200/"),
            url("https://10.0.0.6:8200/"),
        ];
        let requested = Url::parse("https://vault.example:8200/v1/pki/sign/app").expect("a URL");
        let follow = |to: &str| Hop::Follow(Url::parse(to).expect("a URL"));
        let elsewhere = |origin: &str| Hop::Elsewhere {
            origin: origin.to_owned(),
        };
        let table = [
            (
                "https://vault.example:8200/v1/pki/sign/app",
                follow("https://vault.example:8200/v1/pki/sign/app"),
            ),
            (
                "https://10.0.0.6:8200/v1/x",
                follow("https://10.0.0.6:8200/v1/x"),
            ),
            ("/v1/x", follow("https://vault.example:8200/v1/x")),
            (
                "https://u:p@vault.example:8200/v1/x",
                follow("https://vault.example:8200/v1/x"),
            ),
            (
                "https://10.0.0.7:8200/v1/x?y=secret",
                elsewhere("https://10.0.0.7:8200"),
            ),
            (
                "http://vault.example:8200/v1/x",
                elsewhere("http://vault.example:8200"),
            ),
            (
                "https://vault.example:8201/v1/x",
                elsewhere("https://vault.example:8201"),
            ),
            (
                "https://vault.example/v1/x",
                elsewhere("https://vault.example"),
            ),
            ("//evil.example/v1/x", elsewhere("https://evil.example")),
            (
                "https://vault.example:8200@evil.example/",
                elsewhere("https://evil.example"),
            ),
            (r"\\evil.example\x", elsewhere("https://evil.example")),
            ("https://", Hop::Nowhere),
        ];
        for (location, expected) in table {
            let value = HeaderValue::from_str(location).expect("a header value");
            assert_eq!(
                hop(&configured, &requested, Some(&value)),
                expected,
                "{location}"
            );
        }
        assert_eq!(hop(&configured, &requested, None), Hop::Nowhere);
    }
}
