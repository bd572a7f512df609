//! Why something that a passphrase encrypts stays closed, and how much work opening it may be.

/// The most rounds of key derivation: about a second. OWASP recommends 600,000 of SHA-256.
/// A fuzzer must not find slow inputs alone.
const MOST_ROUNDS: u32 = if cfg!(fuzzing) { 10_000 } else { 2_000_000 };

/// Why something stays closed. Never holds a byte of what was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Closed {
    Malformed,
    WrongPassphrase,
    Unsupported(String),
    TooCostly(String),
}

impl Closed {
    /// The problem, and the remedy if converting is one.
    pub(super) fn problem(self, convert: &str) -> String {
        match self {
            Self::Malformed => format!("malformed; convert it with {convert}"),
            Self::WrongPassphrase => "wrong passphrase".to_owned(),
            Self::Unsupported(what) => {
                format!("{what} is not supported; convert it with {convert}")
            }
            Self::TooCostly(what) => {
                format!("{what} would take too long; convert it with {convert}")
            }
        }
    }
}

pub(super) fn check_rounds(rounds: u32) -> Result<(), Closed> {
    if rounds > MOST_ROUNDS {
        let problem = format!("a key derivation of {rounds} rounds (more than {MOST_ROUNDS})");
        return Err(Closed::TooCostly(problem));
    }
    Ok(())
}
