use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::strike::Sent;
use crate::error::{Failure, Problem};
use crate::verdict::{Operation, Outcome, outcome};

/// How many of a refusal's `errors` are kept, and how many characters of each.
const KEPT_MESSAGES: usize = 4;
const KEPT_CHARACTERS: usize = 400;

/// An answer that is a success by its status.
///
/// Not `Debug`: the body of a login holds the token.
pub(crate) struct Reply {
    headers: HeaderMap,
    body: Zeroizing<Vec<u8>>,
    /// What its texts must not repeat.
    sent: Sent,
}

impl Reply {
    /// An answer other than 2xx is a failure, with the verdict on it.
    pub(crate) fn of(
        operation: Operation,
        path: &str,
        status: StatusCode,
        headers: HeaderMap,
        body: Zeroizing<Vec<u8>>,
        sent: &Sent,
    ) -> Result<Self, Failure> {
        if status.is_success() {
            let sent = sent.clone();
            return Ok(Self {
                headers,
                body,
                sent,
            });
        }
        let messages = messages(&body);
        let Outcome { verdict, remedy } =
            outcome(operation, status, messages.as_deref(), date(&headers));
        Err(Failure {
            verdict,
            retry_after: retry_after(&headers),
            problem: Arc::new(Problem::Refused {
                operation,
                path: path.to_owned(),
                status: status.as_u16(),
                messages: presentable(&messages.unwrap_or_default(), sent),
                remedy,
            }),
        })
    }

    /// Parses the body.
    pub(crate) fn json<T: DeserializeOwned>(&self, operation: Operation) -> Result<T, Failure> {
        // serde's error is not kept, since it can quote a value.
        serde_json::from_slice(&self.body).map_err(|_error| {
            let problem = "it is not the JSON that vault sends \
                           (is the address vault's own, and not a proxy's or a portal's?)";
            Failure::unusable(Problem::Unusable(operation, problem))
        })
    }

    /// Parses the body's `data`.
    pub(crate) fn data<T: DeserializeOwned>(&self, operation: Operation) -> Result<T, Failure> {
        #[derive(Deserialize)]
        struct Envelope<T> {
            data: T,
        }
        let envelope: Envelope<T> = self.json(operation)?;
        Ok(envelope.data)
    }

    /// Texts of this answer as they may be shown, logged and kept.
    pub(crate) fn presentable(&self, texts: &[String]) -> Vec<String> {
        presentable(texts, &self.sent)
    }

    /// The server's clock, if the answer has a `Date`.
    pub(crate) fn date(&self) -> Option<SystemTime> {
        date(&self.headers)
    }
}

fn date(headers: &HeaderMap) -> Option<SystemTime> {
    let text = headers.get(header::DATE)?.to_str().ok()?;
    httpdate::parse_http_date(text).ok()
}

/// Seconds, or a date (RFC 9110, 10.2.3), which is compared with the server's own clock.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    until.duration_since(date(headers)?).ok()
}

/// Vault's `errors`; `None` if the body does not have that form.
fn messages(body: &[u8]) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<String>,
    }
    let parsed: Errors = serde_json::from_slice(body).ok()?;
    Some(parsed.errors)
}

/// Each on one line, bounded, without characters that could forge a line in a log, and without what
/// was sent.
fn presentable(messages: &[String], sent: &Sent) -> Vec<String> {
    messages
        .iter()
        .take(KEPT_MESSAGES)
        .map(|message| {
            let message = sent.strike(message);
            let words: Vec<&str> = message
                .split(|c: char| c.is_whitespace() || c.is_control())
                .filter(|word| !word.is_empty())
                .collect();
            words.join(" ").chars().take(KEPT_CHARACTERS).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(header::HeaderName, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn retry_after_is_read_in_seconds_and_as_a_date() {
        let now = "Sun, 06 Nov 1994 08:49:37 GMT";
        let later = "Sun, 06 Nov 1994 08:50:07 GMT";
        let table = [
            (headers(&[(header::RETRY_AFTER, "9")]), Some(9)),
            (headers(&[(header::RETRY_AFTER, " 0 ")]), Some(0)),
            (
                headers(&[(header::RETRY_AFTER, later), (header::DATE, now)]),
                Some(30),
            ),
            (
                headers(&[(header::RETRY_AFTER, now), (header::DATE, later)]),
                None,
            ),
            (headers(&[(header::RETRY_AFTER, later)]), None),
            (headers(&[(header::RETRY_AFTER, "-1")]), None),
            (headers(&[(header::RETRY_AFTER, "soon")]), None),
            (headers(&[]), None),
        ];
        for (headers, seconds) in table {
            assert_eq!(
                retry_after(&headers),
                seconds.map(Duration::from_secs),
                "{headers:?}"
            );
        }
    }

    #[test]
    fn messages_are_bounded_and_keep_to_one_line() {
        let long = "x".repeat(10_000);
        let texts = vec![
            "1 error occurred:\n\t* permission denied\n\n".to_owned(),
            "two\r\nERROR forged".to_owned(),
            long,
            String::new(),
            "the fifth".to_owned(),
        ];
        let shown = presentable(&texts, &Sent::default());
        assert_eq!(shown.len(), KEPT_MESSAGES);
        assert_eq!(shown[0], "1 error occurred: * permission denied");
        assert_eq!(shown[1], "two ERROR forged");
        assert_eq!(shown[2].len(), KEPT_CHARACTERS);
    }

    #[test]
    fn body_that_is_not_vaults_has_no_messages() {
        assert_eq!(messages(b"<html>Bad Gateway</html>"), None);
        assert_eq!(messages(b""), None);
        assert_eq!(messages(br#"{"initialized":true}"#), None);
        assert_eq!(messages(br#"{"errors":[]}"#), Some(vec![]));
    }
}
