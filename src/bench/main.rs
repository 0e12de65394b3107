//! `resuni-bench`: measures any Matrix homeserver through its public API.
//!
//! It starts each server as a real process pair on loopback (two servers that federate over TLS),
//! runs the same bounded loads against both and writes a table with ratios. Beside every rate
//! stand the server's own CPU milliseconds per operation, which hold on a busy machine where rates
//! do not.

mod api;
mod load;
mod measure;
mod report;
mod scenarios;
mod servers;
mod tls;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::{scenarios::Sizes, servers::Kind};

/// The command line.
#[derive(Debug, Parser)]
#[command(
    about = "Measures homeservers side by side through their public API",
    version
)]
struct Args {
    /// Which servers to run, in turn, each alone on the machine.
    #[arg(long, value_delimiter = ',', default_value = "synapse,resuni")]
    servers: Vec<Kind>,
    /// The `resuni` binary (a release build).
    #[arg(long, default_value = "target/release/resuni")]
    resuni: PathBuf,
    /// The Python interpreter of a virtual environment that holds `matrix-synapse`.
    #[arg(long, default_value = "target/synapse-venv/bin/python")]
    synapse_python: PathBuf,
    /// Where to write the report (Markdown). Always printed too.
    #[arg(long)]
    out: Option<PathBuf>,
    /// How much to do.
    #[arg(long, value_enum, default_value = "full")]
    size: Size,
    /// Keep the servers' working folders (configuration, data, logs).
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Size {
    /// A minute or so: to see that everything works.
    Quick,
    /// What `docs/performance.md` shows.
    Full,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        anyhow::bail!("a TLS provider was installed twice");
    }
    let sizes = match args.size {
        Size::Quick => Sizes::quick(),
        Size::Full => Sizes::full(),
    };
    let disk_sync = measure::disk_sync_ms()?;
    let mut results = Vec::new();
    for kind in &args.servers {
        eprintln!("== {kind}: starting two servers");
        let pair =
            servers::Pair::start(*kind, &args.resuni, &args.synapse_python, args.keep).await?;
        results.push(scenarios::run(pair, &sizes).await?);
    }
    let text = report::markdown(&results, disk_sync, &sizes);
    println!("{text}");
    if let Some(out) = args.out {
        std::fs::write(&out, text)?;
        eprintln!("written to {}", out.display());
    }
    Ok(())
}
