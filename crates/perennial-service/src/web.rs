//! Metrics, counters and readiness over HTTP.

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

use crate::counters::{Counters, Queries};

/// Everything that the replies are built from.
#[derive(Clone)]
pub(crate) struct Web {
    pub(crate) live: LiveCert,
    pub(crate) queries: Queries,
    pub(crate) recorder: PrometheusHandle,
}

/// The reply to `/counters`. Scripts rely on the field names.
#[derive(Serialize)]
struct Overview {
    generation: Option<u64>,
    /// The serial number in use, decimal as in `pg_stat_ssl`.
    serial: Option<String>,
    /// The same number in hexadecimal, as the CA writes it.
    serial_hex: Option<String>,
    issuer: Option<String>,
    consecutive_failures: u32,
    #[serde(flatten)]
    counters: Counters,
}

impl Web {
    /// Serves requests until the process ends.
    pub(crate) async fn serve(self, listener: TcpListener) {
        loop {
            let Ok((stream, _peer)) = listener.accept().await else {
                continue;
            };
            let web = self.clone();
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let reply = web.reply(request.uri().path());
                    async { Ok::<_, Infallible>(reply) }
                });
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                // Fails if the client has closed the connection.
                let _ = connection.await;
            });
        }
    }

    fn reply(&self, path: &str) -> Response<Full<Bytes>> {
        let (status, text) = match path {
            "/metrics" => (StatusCode::OK, self.recorder.render()),
            "/counters" => match serde_json::to_string(&self.overview()) {
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

    fn overview(&self) -> Overview {
        // All fields from one snapshot, even if it has expired.
        let current = self.live.subscribe().latest();
        let current = current.as_deref();
        Overview {
            generation: current.map(Snapshot::generation),
            serial: current.map(|snapshot| snapshot.serial().to_decimal()),
            serial_hex: current.map(|snapshot| snapshot.serial().to_string()),
            issuer: current.map(|snapshot| snapshot.issuer().to_owned()),
            consecutive_failures: self.live.status().consecutive_failures,
            counters: self.queries.counters(),
        }
    }
}
