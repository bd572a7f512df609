use std::error::Error;
use std::fmt::{self, Write};
use std::io;

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
            let mut cause = self.0.source();
            while let Some(error) = cause {
                write!(line, ": {error}")?;
                cause = error.source();
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
/// Also looks inside an [`io::Error`], whose `source()` skips the error that it wraps: TLS errors
/// that come through a socket are wrapped so.
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
        let wrapped = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
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
}
