//! Takes a connection string apart, by the rules of libpq's own parser (`fe-connect.c`).
//!
//! tokio-postgres has such a parser too, which knows no `sslcert` and differs from libpq: it accepts
//! no empty value, looks for a URI's `@` behind the path, and reads `+` and `%` otherwise.

use super::{is_secret, wrong};
use crate::error::ConnectError;

const WHOLE: &str = "connection string";

/// The pairs of key and value, in their order; keys are not checked.
pub(super) fn pairs(text: &str) -> Result<Vec<(String, String)>, ConnectError> {
    let uri = ["postgresql://", "postgres://"]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix));
    match uri {
        Some(rest) => of_uri(rest),
        None => of_words(text),
    }
}

/// `key = value`, separated by blanks; quotes around a value, and backslashes in it.
fn of_words(text: &str) -> Result<Vec<(String, String)>, ConnectError> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    let mut rest = skip_blanks(text);
    while !rest.is_empty() {
        let end = rest.find(|letter| letter == '=' || is_blank(letter));
        let (key, after) = rest.split_at(end.unwrap_or(rest.len()));
        let Some(after) = skip_blanks(after).strip_prefix('=') else {
            // Not quoted: it may be the second word of a password.
            let after = match pairs.last() {
                Some((key, _)) => format!("after {}", name_of(key)),
                None => "at its start".to_owned(),
            };
            let expected = "key=value (a value with spaces in single quotes)";
            return Err(wrong(WHOLE, after, expected));
        };
        let (value, after) = value(skip_blanks(after)).ok_or_else(|| {
            let expected = "a single quote at the end of the value";
            wrong(WHOLE, format!("after {}", name_of(key)), expected)
        })?;
        pairs.push((key.to_owned(), value));
        rest = skip_blanks(after);
    }
    Ok(pairs)
}

/// The value at the start, and what follows it; `None` if a quote is not closed.
fn value(text: &str) -> Option<(String, &str)> {
    let (quoted, text) = match text.strip_prefix('\'') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => value.extend(letters.next().map(|(_, letter)| letter)),
            '\'' if quoted => return Some((value, &text[at + 1..])),
            letter if !quoted && is_blank(letter) => return Some((value, &text[at..])),
            letter => value.push(letter),
        }
    }
    (!quoted).then_some((value, ""))
}

/// C's `isspace`, which a non-breaking space is not.
fn is_blank(letter: char) -> bool {
    letter.is_ascii_whitespace() || letter == '\u{b}'
}

fn skip_blanks(text: &str) -> &str {
    text.trim_start_matches(is_blank)
}

/// `user:password@host:port,host:port/dbname?key=value&key=value`, every part optional.
fn of_uri(text: &str) -> Result<Vec<(String, String)>, ConnectError> {
    let mut pairs = Vec::new();
    let mut keep = |key: &str, value: &str| {
        if !value.is_empty() {
            pairs.push((key.to_owned(), decoded(value)?));
        }
        Ok::<_, ConnectError>(())
    };
    let mut rest = text;
    // As in libpq, a slash ends the search and a question mark does not.
    if let Some(at) = rest
        .find(['@', '/'])
        .filter(|at| rest[*at..].starts_with('@'))
    {
        let login = &rest[..at];
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        keep("user", user)?;
        keep("password", password)?;
        rest = &rest[at + 1..];
    }
    let (servers, after) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for server in servers.split(',') {
        let (host, port) = host_and_port(server)?;
        hosts.push(host);
        ports.push(port);
    }
    keep("host", &hosts.join(","))?;
    keep("port", &ports.join(","))?;

    let (path, query) = after.split_once('?').unwrap_or((after, ""));
    keep("dbname", path.strip_prefix('/').unwrap_or(path))?;
    // One & at the end separates nothing.
    for pair in query.split_terminator('&') {
        pairs.push(of_query(pair)?);
    }
    Ok(pairs)
}

fn host_and_port(server: &str) -> Result<(&str, &str), ConnectError> {
    let Some(inside) = server.strip_prefix('[') else {
        return Ok(server.split_once(':').unwrap_or((server, "")));
    };
    match inside.split_once(']') {
        Some((host, "")) if !host.is_empty() => Ok((host, "")),
        Some((host, port)) if !host.is_empty() && port.starts_with(':') => Ok((host, &port[1..])),
        _ => {
            let expected = "an IPv6 address as [::1] or [::1]:5432";
            Err(wrong("host", "in brackets", expected))
        }
    }
}

fn of_query(pair: &str) -> Result<(String, String), ConnectError> {
    let expected = "key=value, separated by & (inside a value, = is %3D and & is %26)";
    let between = pair
        .split_once('=')
        .filter(|(_, value)| !value.contains('='));
    let (key, value) = between.ok_or_else(|| wrong(WHOLE, "in the part after ?", expected))?;
    let (key, value) = (decoded(key)?, decoded(value)?);
    // As libpq does, for URIs that were written for JDBC.
    if key == "ssl" && value == "true" {
        return Ok(("sslmode".to_owned(), "require".to_owned()));
    }
    Ok((key, value))
}

/// Each `%` and two digits as the byte that they write.
fn decoded(text: &str) -> Result<String, ConnectError> {
    let wrong = || {
        let expected = "% and two hexadecimal digits, UTF-8, without %00 (% itself is %25)";
        wrong(WHOLE, "in its % signs", expected)
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let [high, low, after @ ..] = after else {
            return Err(wrong());
        };
        let digit = |digit: &u8| char::from(*digit).to_digit(16);
        let byte = digit(high)
            .zip(digit(low))
            .map(|(high, low)| high * 16 + low);
        match byte.and_then(|byte| u8::try_from(byte).ok()) {
            Some(byte) if byte != 0 => bytes.push(byte),
            _ => return Err(wrong()),
        }
        rest = after;
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(_) => Err(wrong()),
    }
}

/// A key as errors may show it: what stands there could be a piece of a password, or a whole URI.
pub(super) fn name_of(key: &str) -> String {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    if key.is_empty() || key.len() > 32 || !key.chars().all(is_name) {
        return "what is not a key".to_owned();
    }
    key.to_owned()
}

/// The key of this place as errors may show it, which depends on the key before it.
pub(super) fn unknown(pairs: &[(String, String)], place: usize) -> String {
    let before = place.checked_sub(1).and_then(|place| pairs.get(place));
    match before {
        Some((before, _)) if is_secret(before) => format!("after {before}"),
        _ => pairs
            .get(place)
            .map_or(String::new(), |(key, _)| name_of(key)),
    }
}
