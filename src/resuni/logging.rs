//! The log, on standard error.

use anyhow::{Context, Result};
use resuni_config::{Log, LogFormat};
use tracing_subscriber::EnvFilter;

/// Starts logging for the whole process.
pub(crate) fn start(log: &Log) -> Result<()> {
    let filter = EnvFilter::builder().parse(&log.level).with_context(|| {
        format!(
            "log.level: `{}` is not a level; try \"info\" or \"info,resuni_http=debug\".",
            log.level
        )
    })?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = match log.format {
        LogFormat::Text => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            subscriber.with_ansi(colours).with_target(false).try_init()
        }
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("The log can't be started: {error}"))
}
