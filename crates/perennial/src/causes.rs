use std::error::Error;
use std::fmt::{self, Write};
use std::io;

use rustls::CertificateError;

/// An error with its causes on one line, for logs.
///
/// Line ends and other control characters, which a server's message may contain, become spaces.
///
/// # Example
/// ```
/// let error = perennial::SourceError::denied("no such role");
/// assert_eq!(perennial::with_causes(&error).to_string(), "the source refused: no such role");
/// ```
pub fn with_causes<'a>(error: &'a (dyn Error + 'static)) -> impl fmt::Display + 'a {
    struct Chain<'a>(&'a (dyn Error + 'static));

    impl fmt::Display for Chain<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let mut line = OneLine(f);
            write!(line, "{}", self.0)?;
            let mut cause = unshown(self.0);
            while let Some(error) = cause {
                write!(line, ": {error}")?;
                cause = unshown(error);
            }
            Ok(())
        }
    }

    struct OneLine<'a, 'b>(&'a mut fmt::Formatter<'b>);

    impl Write for OneLine<'_, '_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            for (nth, part) in text.split(char::is_control).enumerate() {
                if nth > 0 {
                    self.0.write_char(' ')?;
                }
                self.0.write_str(part)?;
            }
            Ok(())
        }
    }

    Chain(error)
}

/// The first error of this type among an error and its causes.
///
/// Also looks inside an [`io::Error`] and a [`rustls::Error`], whose `source()` skips the error that
/// they wrap. So it finds why a handshake had no certificate:
/// [`Unavailable`](crate::Unavailable) or [`MaterialError`](crate::MaterialError), from what a
/// connect or an accept returned.
///
/// # Example
/// ```
/// let inner = std::fmt::Error;
/// let outer = std::io::Error::other(std::io::Error::other(inner));
/// assert_eq!(perennial::find_cause(&outer), Some(&inner));
/// ```
pub fn find_cause<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = wrapped(error).or_else(|| error.source());
    }
    None
}

/// What an error wraps and shows as its own text.
fn wrapped<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return error.get_ref().map(|inner| inner as _);
    }
    let other = match error.downcast_ref::<rustls::Error>()? {
        rustls::Error::Other(other) => other,
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => other,
        _ => return None,
    };
    Some(&*other.0)
}

/// The first cause that an error's own text does not show.
fn unshown<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    let mut innermost = error;
    while let Some(inner) = wrapped(innermost) {
        innermost = inner;
    }
    innermost.source()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_of_several_lines_become_one_line() {
        let detail = crate::SourceError::denied("no such role\nDETAIL: x\r\nerror: forged");
        let line = with_causes(&detail).to_string();
        assert_eq!(
            line,
            "the source refused: no such role DETAIL: x  error: forged"
        );
    }

    #[test]
    fn cause_of_a_failed_handshake_is_found_and_shown_whatever_wraps_it() {
        // Trap: neither `rustls::Error` nor `io::Error` has a `source()` that leads to it.
        let last = crate::SourceError::denied("no such role");
        let cause = crate::Unavailable::NothingYet {
            last: Some(crate::RenewError::Source(last)),
        };
        let other = || rustls::OtherError(std::sync::Arc::new(cause.clone()));
        let shown = ": failed to fetch the certificate: the source refused: no such role";
        for error in [
            rustls::Error::Other(other()),
            rustls::Error::InvalidCertificate(CertificateError::Other(other())),
        ] {
            let line = with_causes(&error).to_string();
            assert!(line.ends_with(shown), "{line}");
            let through_a_socket = io::Error::new(io::ErrorKind::InvalidData, error.clone());
            assert_eq!(with_causes(&through_a_socket).to_string(), line);
            for error in [&error as &(dyn Error + 'static), &through_a_socket] {
                let found = find_cause::<crate::Unavailable>(error).unwrap();
                assert_eq!(found.to_string(), "no certificate has been fetched yet");
                assert!(find_cause::<crate::SourceError>(error).is_some());
                assert!(find_cause::<rustls::Error>(error).is_some());
            }
        }
    }
}
