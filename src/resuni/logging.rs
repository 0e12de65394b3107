//! The log, on standard error.

use anyhow::{Context, Result};
use resuni_config::{Log, LogFormat};
use tracing_subscriber::EnvFilter;

/// What dependencies say at a level that is meant for operators: ruma tells of every event it
/// resolves at info. A directive of the operator's for the same target comes later and holds.
const QUIETER: &str = "ruma_state_res=warn";

/// Starts logging for the whole process.
pub(crate) fn start(log: &Log) -> Result<()> {
    let filter = filter(&log.level)?;
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

fn filter(level: &str) -> Result<EnvFilter> {
    let directives = format!("{QUIETER},{level}");
    EnvFilter::builder().parse(directives).with_context(|| {
        format!("log.level: `{level}` is not a level; try \"info\" or \"info,resuni_http=debug\".")
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_quieter_unless_the_operator_asks() {
        let plain = filter("info").unwrap().to_string();
        assert!(
            plain.contains("ruma_state_res=warn") && plain.contains("info"),
            "{plain}"
        );
        let asked = filter("info,ruma_state_res=debug").unwrap().to_string();
        assert!(
            asked.contains("ruma_state_res=debug") && !asked.contains("=warn"),
            "{asked}"
        );
        assert!(filter("info,=,").is_err() || filter("a=b=c").is_err());
    }
}
