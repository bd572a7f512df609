//! The server's word on who is logged in with which certificate.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;

use crate::rotations::Log;

const SERIALS: &str = "select s.client_serial::text, count(*)
    from pg_stat_activity a join pg_stat_ssl s using (pid)
    where a.usename = 'app' and s.client_serial is not null
    group by 1";

/// A superuser, and every serial number that it has seen.
pub(crate) struct Witness {
    admin: Client,
    seen: BTreeSet<String>,
}

/// Connections at one moment, as Postgres tells them.
#[derive(Default)]
pub(crate) struct Sight {
    /// By the generation of their certificate.
    pub(crate) by_generation: BTreeMap<u64, i64>,
    /// On a serial number that is none of ours.
    pub(crate) strangers: i64,
}

impl Witness {
    pub(crate) fn new(admin: Client) -> Self {
        Self {
            admin,
            seen: BTreeSet::new(),
        }
    }

    pub(crate) async fn look(&mut self, log: &Log) -> anyhow::Result<Sight> {
        let mut sight = Sight::default();
        for row in self.admin.query(SERIALS, &[]).await? {
            let (serial, count): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
            match log.generation(&serial) {
                Some(generation) => *sight.by_generation.entry(generation).or_default() += count,
                None => sight.strangers += count,
            }
            self.seen.insert(serial);
        }
        Ok(sight)
    }

    /// Every serial number seen so far, in base ten as Postgres shows it.
    pub(crate) fn serials(&self) -> Vec<String> {
        self.seen.iter().cloned().collect()
    }
}
