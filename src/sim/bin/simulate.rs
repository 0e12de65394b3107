//! `resuni-simulate`: runs seeds, prints those that fail.

mod entropy;

use std::{
    process::{Command, ExitCode},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Parser;
use resuni_sim::{Plan, run::run_here};

/// The consortium, simulated: whole servers in one process, and a network and disks that fail by a seed.
#[derive(Parser)]
struct Options {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// How many at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Runs this seed only, in this process, and prints what happens. `RUST_LOG` shows what the servers log.
    #[arg(long)]
    seed: Option<u64>,
    /// With `--seed`: so many servers, whatever the seed says.
    #[arg(long, requires = "seed")]
    servers: Option<usize>,
    /// With `--seed`: so many steps, whatever the seed says.
    #[arg(long, requires = "seed")]
    steps: Option<u64>,
    /// With `--seed`: only how it ended.
    #[arg(long, requires = "seed")]
    quiet: bool,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let failed = match options.seed {
        Some(seed) => one(seed, options)?,
        None => many(&options)?,
    };
    Ok(ExitCode::from(u8::from(failed)))
}

/// Runs one seed here. Whether it failed.
fn one(seed: u64, options: Options) -> Result<bool> {
    let mut plan = Plan::of(seed);
    plan.servers = options.servers.unwrap_or(plan.servers);
    plan.steps = options.steps.unwrap_or(plan.steps);
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .without_time()
        .with_writer(std::io::stderr)
        .init();
    let panics = panics();
    entropy::seed(seed);
    // On a thread of its own: its hash maps take their keys after the seed is set.
    let running = {
        let plan = plan.clone();
        std::thread::spawn(move || run_here(&plan))
    };
    let outcome = running.join().ok().context("the simulation panicked")?;
    let mut wrong = panics.lock().map(|all| all.clone()).unwrap_or_default();
    match outcome {
        Ok(outcome) => {
            if !options.quiet {
                for line in &outcome.trace {
                    println!("{line}");
                }
            }
            let (hash, promises) = (outcome.hash, outcome.promises);
            println!("{plan:?}: {promises} events promised, trace {hash:016x}");
            wrong.extend(outcome.wrong);
        }
        Err(error) => wrong.push(format!("{error:#}")),
    }
    for what in &wrong {
        println!("WRONG: {what}");
    }
    Ok(!wrong.is_empty())
}

/// Collects what panics anywhere: a task that does would otherwise only be missing.
fn panics() -> Arc<Mutex<Vec<String>>> {
    let all: Arc<Mutex<Vec<String>>> = Arc::default();
    let keep = Arc::clone(&all);
    std::panic::set_hook(Box::new(move |panic| {
        if let Ok(mut all) = keep.lock() {
            all.push(format!("panic: {panic}"));
        }
    }));
    all
}

/// Runs seeds, each in a process of its own. Whether any failed.
fn many(options: &Options) -> Result<bool> {
    let program = std::env::current_exe()?;
    let next = AtomicU64::new(options.from);
    let (end, failed) = (
        options.from.saturating_add(options.seeds),
        AtomicUsize::new(0),
    );
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= end {
                        return;
                    }
                    let run = Command::new(&program)
                        .args(["--quiet", "--seed", &seed.to_string()])
                        .output();
                    let told = match run {
                        Ok(run) if run.status.success() => continue,
                        Ok(run) => {
                            let (out, err) = (run.stdout, run.stderr);
                            String::from_utf8_lossy(&[out, err].concat()).into_owned()
                        }
                        Err(error) => error.to_string(),
                    };
                    failed.fetch_add(1, Ordering::SeqCst);
                    println!(
                        "seed {seed} fails:\n{told}again: {} --seed {seed}\n",
                        program.display()
                    );
                }
            });
        }
    });
    let failed = failed.into_inner();
    let took = Duration::from_secs(began.elapsed().as_secs());
    println!("{} seeds, {failed} failed, {took:?}", options.seeds);
    Ok(failed > 0)
}
