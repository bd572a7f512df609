//! Counts successful requests in the audit log.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use serde_json::Value;

use super::pki;
use crate::error::TestbedError;

/// Counts from the audit log. Each reading covers only the lines added since the previous one.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    bytes_read: u64,
    pub(super) issued: u64,
    pub(super) logins: u64,
}

impl Tally {
    pub(super) fn read_on(&mut self, log: &Path) -> Result<(), TestbedError> {
        let mut text = String::new();
        let result = File::open(log).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.bytes_read))?;
            file.read_to_string(&mut text)
        });
        match result {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            result => result.map_err(TestbedError::at(log))?,
        };
        // The last line may be incomplete.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        text[..whole].lines().for_each(|line| self.add(line));
        self.bytes_read += whole as u64;
        Ok(())
    }

    /// Counts one entry: a response without an error. A 403 is an error of the entry, a 400 one of its data.
    fn add(&mut self, line: &str) {
        let entry: Value = serde_json::from_str(line).unwrap_or_default();
        let failed = !entry["error"].is_null() || !entry["response"]["data"]["error"].is_null();
        if failed || entry["type"] != "response" {
            return;
        }
        match entry["request"]["path"].as_str() {
            Some(path) if pki::issues_for_clients(path) => self.issued += 1,
            Some(pki::LOGIN) => self.logins += 1,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(lines: &str) -> Tally {
        let log = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(log.path(), lines).unwrap();
        let mut tally = Tally::default();
        tally.read_on(log.path()).unwrap();
        tally
    }

    #[test]
    fn only_successful_responses_of_the_client_role_count() {
        let counted = tally(concat!(
            r#"{"type":"request","request":{"path":"pki_int/sign/app"}}"#,
            "\n",
            r#"{"type":"response","request":{"path":"pki_int/sign/app"}}"#,
            "\n",
            r#"{"type":"response","request":{"path":"pki_int/issue/app"}}"#,
            "\n",
            r#"{"type":"response","request":{"path":"pki_int/issue/server"}}"#,
            "\n",
            r#"{"type":"response","error":"denied","request":{"path":"pki_int/sign/app"}}"#,
            "\n",
            r#"{"type":"response","request":{"path":"pki_int/sign/app"},"response":{"data":{"error":"bad name"}}}"#,
            "\n",
        ));
        assert_eq!((counted.issued, counted.logins), (2, 0));
    }

    #[test]
    fn incomplete_line_is_counted_once_it_is_complete() {
        let line = r#"{"type":"response","request":{"path":"pki_int/sign/app"}}"#;
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut tally = Tally::default();
        std::fs::write(log.path(), &line[..20]).unwrap();
        tally.read_on(log.path()).unwrap();
        assert_eq!(tally.issued, 0);
        std::fs::write(log.path(), format!("{line}\n")).unwrap();
        tally.read_on(log.path()).unwrap();
        tally.read_on(log.path()).unwrap();
        assert_eq!(tally.issued, 1);
    }
}
