//! Whether somebody's wish for a renewal leads to a fetch. Pure.

use crate::source::Why;

/// What a caller wants of the renewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// A certificate that is valid; whichever way.
    Valid,
    /// A renewal, now.
    Renewal,
    /// Another certificate than this generation's, which a server has refused.
    NewerThan(u64),
}

/// What the renewer knows when the wish reaches it between two fetches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    /// The generation with which the leaf in use came: other roots alone cure no refusal.
    pub(crate) current: Option<u64>,
    /// The shortest time between two fetches has passed.
    pub(crate) rested: bool,
    /// The last fetch brought nothing new, and the wait that follows is not over.
    pub(crate) pausing: bool,
    /// A fetch was forced for this very generation, or brought it, not long ago.
    pub(crate) forced_before: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Fetch(Why),
    /// What there is now is newer than what was refused.
    HaveNewer,
    Limited,
}

pub(crate) fn admit(wish: Wish, facts: &Facts) -> Admission {
    match wish {
        Wish::NewerThan(refused) if facts.current.is_some_and(|current| current > refused) => {
            Admission::HaveNewer
        }
        _ if !facts.rested => Admission::Limited,
        // An operator may cut a backoff short. A busy pool may not: it would turn the backoff into
        // a storm on the CA.
        Wish::Renewal => Admission::Fetch(Why::Asked),
        _ if facts.pausing => Admission::Limited,
        Wish::Valid if facts.current.is_none() => Admission::Fetch(Why::Start),
        Wish::Valid => Admission::Fetch(Why::Due),
        // A server with an expired CRL refuses every certificate: one new one must do.
        Wish::NewerThan(_) if facts.forced_before => Admission::Limited,
        Wish::NewerThan(_) => Admission::Fetch(Why::Rejected),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wish_has_one_answer() {
        let calm = Facts {
            current: Some(3),
            rested: true,
            pausing: false,
            forced_before: false,
        };
        let cold = Facts {
            current: None,
            ..calm
        };
        let tired = Facts {
            rested: false,
            ..calm
        };
        let failing = Facts {
            pausing: true,
            ..calm
        };
        let forced = Facts {
            forced_before: true,
            ..calm
        };
        let table = [
            (Wish::Valid, calm, Admission::Fetch(Why::Due)),
            (Wish::Valid, cold, Admission::Fetch(Why::Start)),
            (Wish::Valid, tired, Admission::Limited),
            (Wish::Valid, failing, Admission::Limited),
            (Wish::Valid, forced, Admission::Fetch(Why::Due)),
            (Wish::Renewal, calm, Admission::Fetch(Why::Asked)),
            (Wish::Renewal, tired, Admission::Limited),
            (Wish::Renewal, failing, Admission::Fetch(Why::Asked)),
            (Wish::NewerThan(3), calm, Admission::Fetch(Why::Rejected)),
            (Wish::NewerThan(3), tired, Admission::Limited),
            (Wish::NewerThan(3), failing, Admission::Limited),
            (Wish::NewerThan(3), forced, Admission::Limited),
            (Wish::NewerThan(2), forced, Admission::HaveNewer),
            (Wish::NewerThan(2), tired, Admission::HaveNewer),
            (Wish::NewerThan(2), failing, Admission::HaveNewer),
        ];
        for (wish, facts, expected) in table {
            assert_eq!(admit(wish, &facts), expected, "{wish:?} {facts:?}");
        }
    }
}
