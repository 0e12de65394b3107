//! `resuni serve`: start in order, answer, stop in order.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use resuni_config::{Config, Loaded, Origin};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::SettingsFile;
use crate::data::DataDir;
use crate::listen::Bound;
use crate::parts::Parts;
use crate::stop::{self, Reason, Signals, Wish};
use crate::{figures, logging, settings};

/// Serves until it is told to stop.
pub(crate) fn serve(file: &SettingsFile, exit_on_stdin_eof: bool) -> Result<ExitCode> {
    let started = Instant::now();
    let loaded = settings::load(file)?;
    logging::start(&loaded.config.log)?;
    announce(&loaded);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("The threads can't be started.")?;
    let outcome = runtime.block_on(run(&loaded.config, started, exit_on_stdin_eof));
    // Blocking work that is still under way (a password hash) is not waited for.
    runtime.shutdown_timeout(Duration::from_millis(200));
    // Said in the log, as that is where an operator looks for why a server is gone.
    Ok(match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("stopped: {error:#}");
            ExitCode::FAILURE
        }
    })
}

fn announce(loaded: &Loaded) {
    match &loaded.origin {
        Origin::File(path) => tracing::info!(file = %path.display(), "settings read"),
        Origin::Environment => tracing::info!("settings read from the environment"),
        Origin::Local => tracing::info!(
            "no --config: serving this machine only, with open registration and without \
             federation; `resuni config example` prints a file to start from"
        ),
    }
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
}

async fn run(config: &Config, started: Instant, exit_on_stdin_eof: bool) -> Result<()> {
    let mut signals = Signals::listen(exit_on_stdin_eof)?;
    let data = DataDir::open(&config.data_dir)?;
    // Bound before the database is opened: a port that is taken is the commonest mistake.
    let listeners = config
        .listeners()
        .iter()
        .map(Bound::bind)
        .collect::<Result<Vec<_>>>()?;
    let stopping = CancellationToken::new();
    let mut serving = JoinSet::new();
    if let Some(address) = config.metrics.listener {
        let bound = Bound::bind(&figures::listener(address))?;
        let figures = figures::start()?;
        tracing::info!("figures for Prometheus at {}/metrics", bound.url());
        serving.spawn(bound.serve(figures.router(), stopping.clone()));
        serving.spawn(figures.keep(stopping.clone()));
    }
    let parts = Parts::open(config, &data, stopping.clone()).await?;

    let mut reload = Vec::new();
    for listener in listeners {
        tracing::info!("listening on {}", listener.url());
        reload.extend(listener.reloader());
        serving.spawn(listener.serve(parts.router(), stopping.clone()));
    }
    tracing::info!(
        server_name = %config.server_name,
        base_url = config.base_url(),
        data = %config.data_dir.display(),
        "ready after {} ms", started.elapsed().as_millis()
    );

    let (reason, failed) = tokio::select! {
        reason = wait(&mut signals, &reload) => (reason.to_string(), None),
        error = parts.failed() => ("the database failed".to_owned(), Some(error)),
    };
    tracing::info!("stopping: {reason}");
    let began = Instant::now();
    stopping.cancel();
    let drained = tokio::select! {
        () = drain(&mut serving) => true,
        () = tokio::time::sleep(stop::WITHIN) => false,
        () = signals.insisted() => false,
    };
    if !drained {
        tracing::warn!("requests that were still under way are given up");
    }
    parts.close().await;
    tracing::info!(
        "stopped: {reason}; it took {} ms",
        began.elapsed().as_millis()
    );
    match failed {
        // Nothing that was acknowledged is lost: what could not be made durable was not.
        Some(error) => Err(anyhow::Error::new(error).context(
            "The database takes no more writes. Look at the disk (space, errors), then start again.",
        )),
        None => Ok(()),
    }
}

async fn wait(signals: &mut Signals, reload: &[impl Fn() -> Result<()>]) -> Reason {
    loop {
        match signals.next().await {
            Wish::Stop(reason) => return reason,
            Wish::Reload => {
                for listener in reload {
                    match listener() {
                        Ok(()) => tracing::info!("SIGHUP: certificate read again"),
                        Err(error) => {
                            tracing::error!("SIGHUP: the old certificate stays: {error:#}")
                        }
                    }
                }
            }
        }
    }
}

async fn drain(serving: &mut JoinSet<()>) {
    while let Some(ended) = serving.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a listener failed");
        }
    }
}
