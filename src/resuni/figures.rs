//! Figures for Prometheus, on a listener of their own: they say who talks to whom and how much, so
//! they are not for everybody who reaches the server.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;
use tokio_util::sync::CancellationToken;

/// Upper bounds of the histograms' buckets, in seconds: from a commit without a sync to a slow
/// request to another server.
const SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];
/// How often what was recorded is drained into the buckets; without it memory would grow until
/// somebody asks for the figures.
const UPKEEP: Duration = Duration::from_secs(5);

/// Begins to collect figures for the whole process. Nothing is collected before, nor without it.
pub(crate) fn start() -> Result<Figures> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)
        .context("The figures' buckets are wrong.")?
        .install_recorder()
        .context("The figures can't be collected.")?;
    let process = Collector::default();
    process.describe();
    metrics::gauge!("resuni_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(Figures { handle, process })
}

/// What is collected.
#[derive(Clone)]
pub(crate) struct Figures {
    handle: PrometheusHandle,
    process: Collector,
}

impl Figures {
    /// Answers `/metrics`.
    pub(crate) fn router(&self) -> Router {
        let figures = self.clone();
        let answer = move || {
            figures.process.collect();
            let text = figures.handle.render();
            let kind = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
            std::future::ready((kind, text).into_response())
        };
        Router::new().route("/metrics", get(answer))
    }

    /// Keeps memory bounded until `stop`.
    pub(crate) async fn keep(self, stop: CancellationToken) {
        while stop
            .run_until_cancelled(tokio::time::sleep(UPKEEP))
            .await
            .is_some()
        {
            self.handle.run_upkeep();
        }
    }
}

/// The listener of the settings, in the form of the others.
pub(crate) fn listener(address: SocketAddr) -> resuni_config::Listener {
    resuni_config::Listener {
        address: address.ip(),
        port: address.port(),
        ..resuni_config::Listener::default()
    }
}
