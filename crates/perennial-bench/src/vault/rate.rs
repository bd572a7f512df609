use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use perennial::{
    Ask, CertMaterial, CertSource, LiveCert, Renewal, SHORTEST_FETCH_INTERVAL, SourceError,
};
use perennial_vault::VaultPki;
use tokio::time::Instant;

use super::Place;
use crate::process::cpu_time;

/// Fetches side by side.
pub const IN_FLIGHT: usize = 8;

const LIFE: Duration = Duration::from_secs(3_600);

/// What a number of requests took.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Turn {
    /// A second.
    pub rate: f64,
    /// Microseconds on a core, of this process, for each.
    pub cpu: f64,
}

/// As many of our sources as there are fetches in flight, each with its own connection and login,
/// and the certificates that are renewed from it one after the other.
#[derive(Debug)]
pub struct Ours(Arc<[Vec<LiveCert>]>);

impl Ours {
    /// Starts `each` certificates from each source.
    ///
    /// # Errors
    /// As [`LiveCert::start`].
    pub async fn new(place: &Place, each: usize) -> anyhow::Result<Self> {
        let mut all = Vec::with_capacity(IN_FLIGHT);
        for number in 0..IN_FLIGHT {
            let source = Arc::new(place.source(&format!("app-{number}"), LIFE)?);
            let mut certs = Vec::with_capacity(each);
            for _ in 0..each {
                certs.push(LiveCert::start(FetchOnly(Arc::clone(&source))).await?);
            }
            all.push(certs);
        }
        Ok(Self(all.into()))
    }

    /// Renews every certificate: a new key, the request, every check, and its publication.
    ///
    /// # Errors
    /// A renewal that brings nothing newer.
    pub async fn turn(&self) -> anyhow::Result<Turn> {
        // A certificate is not renewed again sooner.
        tokio::time::sleep(SHORTEST_FETCH_INTERVAL).await;
        let all = Arc::clone(&self.0);
        measure(all[0].len(), move |number, round| {
            let live = all[number][round].clone();
            async move {
                match live.renew_now().await {
                    Renewal::Newer(_) => Ok(()),
                    other => bail!("not renewed: {other:?}"),
                }
            }
        })
        .await
    }
}

/// Without the readings of the mount's issuers, which the bare client does not do either: they are
/// in the figures of [`Hundred`](super::Hundred).
struct FetchOnly(Arc<VaultPki>);

impl CertSource for FetchOnly {
    async fn fetch(&self, ask: Ask<'_>) -> Result<CertMaterial, SourceError> {
        self.0.fetch(ask).await
    }
}

/// Lets each of [`IN_FLIGHT`] tasks do it `each` times, one after the other.
pub(super) async fn measure<F>(
    each: usize,
    request: impl Fn(usize, usize) -> F + Clone + Send + 'static,
) -> anyhow::Result<Turn>
where
    F: Future<Output = anyhow::Result<()>> + Send,
{
    let (began, spent) = (Instant::now(), cpu_time()?);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..IN_FLIGHT {
        let request = request.clone();
        tasks.spawn(async move {
            for round in 0..each {
                request(number, round).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    let (took, spent) = (began.elapsed(), cpu_time()?.saturating_sub(spent));
    let all = (each * IN_FLIGHT) as f64;
    Ok(Turn {
        rate: all / took.as_secs_f64(),
        cpu: 1e6 * spent.as_secs_f64() / all,
    })
}
