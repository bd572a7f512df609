//! A path as errors, logs and `Debug` show it.

use std::path::Path;

use crate::material::formats;

/// The longest path that is shown: Linux opens no longer one (PATH_MAX).
const LONGEST: usize = 4_096;

/// The length from which a text of base64's letters alone may be a key.
const KEY_LIKE: usize = 40;

/// The path as text, unless it may be a key that was given instead of its path.
pub(super) fn shown(path: &Path) -> String {
    let text = path.as_os_str().as_encoded_bytes();
    if text.len() > LONGEST || may_be_secret(text) {
        return "a path that is too long, or content where a path belongs".to_owned();
    }
    path.display().to_string()
}

/// Whether a text looks like content rather than a path.
pub(super) fn may_be_secret(text: &[u8]) -> bool {
    let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=-_".contains(byte);
    let is_key_like = text.len() >= KEY_LIKE && text.iter().all(is_letter);
    // A path has a dot or begins at the root, almost always.
    (is_key_like && !text.starts_with(b"/"))
        || text.iter().any(u8::is_ascii_control)
        || text.windows(5).any(|window| window == b"-----")
        || formats::is_content(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_shown_and_content_is_not() {
        let docker = format!("/var/lib/docker/volumes/{}/_data", "5a".repeat(32));
        for path in ["/etc/tls/tls.key", "tls.key", "./keys/app", &docker] {
            assert_eq!(shown(Path::new(path)), path);
        }
        let half_a_key = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49/wEHBG0wawIBAQQg";
        let content = [half_a_key, "-----BEGIN", "two\nlines", &"a/".repeat(3_000)];
        for text in content {
            assert!(!shown(Path::new(text)).contains(&text[..8]), "{text}");
        }
    }
}
