//! How many logins go on side by side, by the server's own log.

use std::collections::BTreeSet;

/// The most TCP logins that were under way at one moment.
///
/// From `connection received`, which the new backend says first, to `connection authorized` or
/// whatever else it says instead.
pub(super) fn most_at_once(log: &str) -> usize {
    let mut under_way = BTreeSet::new();
    let mut most = 0;
    for line in log.lines() {
        let Some(pid) = pid(line) else { continue };
        if line.contains("connection received: host=127.0.0.1") {
            under_way.insert(pid);
            most = most.max(under_way.len());
        } else if !line.contains("connection authenticated") {
            under_way.remove(pid);
        }
    }
    most
}

/// How many logins were begun over TCP.
pub(super) fn begun(log: &str) -> usize {
    log.matches("connection received: host=127.0.0.1").count()
}

/// The number in brackets of `2026-11-22 21:30:30.123 UTC [4711] …`.
fn pid(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once(" [")?;
    let (pid, _) = rest.split_once(']')?;
    Some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
2026-11-22 21:30:30.001 UTC [1] LOG:  connection received: host=127.0.0.1 port=4
2026-11-22 21:30:30.002 UTC [1] app@app LOG:  connection authenticated: identity=\"CN=app\"
2026-11-22 21:30:30.002 UTC [2] LOG:  connection received: host=127.0.0.1 port=5
2026-11-22 21:30:30.003 UTC [1] app@app LOG:  connection authorized: user=app database=app SSL
2026-11-22 21:30:30.004 UTC [3] LOG:  connection received: host=[local]
2026-11-22 21:30:30.004 UTC [4] LOG:  connection received: host=127.0.0.1 port=6
2026-11-22 21:30:30.005 UTC [2] LOG:  could not accept SSL connection: certificate verify failed
2026-11-22 21:30:30.006 UTC [5] LOG:  connection received: host=127.0.0.1 port=7
\tcontinued
";

    #[test]
    fn logins_over_tcp_are_counted_from_the_first_word_to_the_verdict() {
        assert_eq!(most_at_once(LOG), 2);
        assert_eq!(begun(LOG), 4);
    }
}
