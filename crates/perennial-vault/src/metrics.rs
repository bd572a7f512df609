//! Metrics through the `metrics` facade, behind the feature of that name.
//!
//! Their names and units stand on the crate's front page.

#[cfg(feature = "metrics")]
mod facade {
    fn logins(result: &'static str) -> metrics::Counter {
        metrics::counter!("perennial_vault_logins_total", "result" => result)
    }

    /// Both results are there from the start: a counter that begins with 1 shows no increase.
    pub(crate) fn started() {
        logins("ok").increment(0);
        logins("failed").increment(0);
    }

    pub(crate) fn logged_in() {
        logins("ok").increment(1);
    }

    pub(crate) fn login_failed() {
        logins("failed").increment(1);
    }
}

#[cfg(not(feature = "metrics"))]
mod facade {
    pub(crate) fn started() {}
    pub(crate) fn logged_in() {}
    pub(crate) fn login_failed() {}
}

pub(crate) use facade::{logged_in, login_failed, started};
