//! What others may ask over HTTP: metrics, counters, readiness.

use std::convert::Infallible;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use metrics_exporter_prometheus::PrometheusHandle;
use perennial::{LiveCert, Snapshot};
use serde::Serialize;
use tokio::net::TcpListener;

use crate::load::{Counters, Load};

/// Everything that the answers are made of.
#[derive(Clone)]
pub(crate) struct Web {
    pub(crate) live: LiveCert,
    pub(crate) load: Load,
    pub(crate) recorder: PrometheusHandle,
}

/// What `/counters` shows. Field names are a contract with scripts.
#[derive(Serialize)]
struct Told {
    generation: Option<u64>,
    /// The serial number in use, in base ten as Postgres shows it.
    serial: Option<String>,
    /// The same as the CA writes it.
    serial_hex: Option<String>,
    issuer: Option<String>,
    consecutive_failures: u32,
    #[serde(flatten)]
    counters: Counters,
}

impl Web {
    /// Answers for as long as this process runs.
    pub(crate) async fn serve(self, listener: TcpListener) {
        loop {
            let Ok((stream, _peer)) = listener.accept().await else {
                continue;
            };
            let web = self.clone();
            tokio::spawn(async move {
                let answer = service_fn(|request| {
                    let answer = web.answer(request.uri().path());
                    async { Ok::<_, Infallible>(answer) }
                });
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
                // Whoever asked may have gone.
                let _gone = connection.await;
            });
        }
    }

    fn answer(&self, path: &str) -> Response<Full<Bytes>> {
        let (status, text) = match path {
            "/metrics" => (StatusCode::OK, self.recorder.render()),
            "/counters" => match serde_json::to_string(&self.told()) {
                Ok(json) => (StatusCode::OK, json),
                Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            },
            "/ready" if self.live.is_ready() => (StatusCode::OK, "ready\n".to_owned()),
            "/ready" => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned()),
            _ => (
                StatusCode::NOT_FOUND,
                "/metrics, /counters, /ready\n".to_owned(),
            ),
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        response
    }

    fn told(&self) -> Told {
        // One snapshot for all that is told of it, whether it has expired or not.
        let current = self.live.rotations().latest();
        let current = current.as_deref();
        Told {
            generation: current.map(Snapshot::generation),
            serial: current.map(|snapshot| snapshot.serial().to_decimal()),
            serial_hex: current.map(|snapshot| snapshot.serial().to_string()),
            issuer: current.map(|snapshot| snapshot.issuer().to_owned()),
            consecutive_failures: self.live.status().consecutive_failures,
            counters: self.load.counters(),
        }
    }
}
