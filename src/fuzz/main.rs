//! `resuni-fuzz`: runs the targets for as long as one likes, or one of them on one input.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use clap::Parser;
use resuni_fuzz::{
    TARGETS, Target,
    runner::{self, Failure, Limits},
};

/// The command line.
#[derive(Debug, Parser)]
#[command(
    about = "Feeds the server's parts with what nobody sane would send",
    version
)]
struct Args {
    /// Which target; all of them, if none is named.
    target: Option<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Where the changes begin; the same seed makes the same inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// One input in hexadecimal digits, instead of the corpus.
    #[arg(long)]
    input: Option<String>,
    /// One input in a file, instead of the corpus.
    #[arg(long)]
    file: Option<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    // Making an input smaller takes many panics.
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    let targets = match &args.target {
        None => TARGETS.iter().collect(),
        Some(name) => vec![resuni_fuzz::target(name).with_context(|| unknown(name))?],
    };
    let input = match (&args.input, &args.file) {
        (Some(hex), _) => Some(bytes(hex)?),
        (None, Some(path)) => Some(std::fs::read(path)?),
        (None, None) => None,
    };
    for target in targets {
        if let Err(failure) = run(target, &args, input.as_deref())? {
            eprintln!("{}", failure.report(target));
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn run(target: &Target, args: &Args, input: Option<&[u8]>) -> anyhow::Result<Result<(), Failure>> {
    if let Some(input) = input {
        return Ok(runner::attempt(target, input));
    }
    let limits = Limits {
        inputs: u64::MAX,
        time: Duration::from_secs(args.seconds),
    };
    let corpus = runner::corpus(target)
        .with_context(|| format!("the corpus of {} can't be read", target.name))?;
    let outcome = runner::run(target, &corpus, args.seed, limits);
    if let Ok(tried) = outcome {
        println!("{}: {tried} inputs ({})", target.name, target.about);
    }
    Ok(outcome.map(drop))
}

fn unknown(name: &str) -> String {
    let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    format!("{name} is none of: {}", names.join(", "))
}

fn bytes(hex: &str) -> anyhow::Result<Vec<u8>> {
    if !hex.len().is_multiple_of(2) || !hex.is_ascii() {
        bail!("an input is an even number of hexadecimal digits");
    }
    let pairs = (0..hex.len()).step_by(2).map(|at| &hex[at..at + 2]);
    Ok(pairs
        .map(|pair| u8::from_str_radix(pair, 16))
        .collect::<Result<_, _>>()?)
}
