use std::sync::Arc;
use std::time::Duration;

use perennial::{Ask, CertSource, LiveCert, Why};
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

/// As many of our sources as there are fetches in flight, each with its own connection and login.
#[derive(Debug)]
pub struct Ours(Arc<[VaultPki]>);

impl Ours {
    /// Logs in.
    ///
    /// # Errors
    /// As [`CertSource::fetch`].
    pub async fn new(place: &Place) -> anyhow::Result<Self> {
        let source = |number| place.source(&format!("app-{number}"), LIFE);
        let sources: Result<Vec<_>, _> = (0..IN_FLIGHT).map(source).collect();
        let ours = Self(sources?.into());
        ours.turn(1).await?;
        Ok(ours)
    }

    /// Renews `each` times with each source: a new key, the request, every check up to a snapshot.
    ///
    /// # Errors
    /// As [`CertSource::fetch`], and what the checks refuse.
    pub async fn turn(&self, each: usize) -> anyhow::Result<Turn> {
        let sources = self.0.clone();
        measure(each, move |number| {
            let sources = sources.clone();
            async move {
                let material = sources[number].fetch(Ask::new(Why::Due, None)).await?;
                LiveCert::fixed(material)?.current()?;
                Ok(())
            }
        })
        .await
    }
}

/// Lets each of [`IN_FLIGHT`] tasks do it `each` times, one after the other.
pub(super) async fn measure<F>(
    each: usize,
    request: impl Fn(usize) -> F + Clone + Send + 'static,
) -> anyhow::Result<Turn>
where
    F: Future<Output = anyhow::Result<()>> + Send,
{
    let (began, spent) = (Instant::now(), cpu_time()?);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..IN_FLIGHT {
        let request = request.clone();
        tasks.spawn(async move {
            for _ in 0..each {
                request(number).await?;
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
