//! Runs a target on its corpus and on changes of it, on stable Rust and without help of the compiler.

use std::{
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    Target,
    mutate::{Chance, mutated},
};

/// How long a target is run.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Changed inputs at the most.
    pub inputs: u64,
    /// Time at the most; a slow machine tries fewer.
    pub time: Duration,
}

/// An input at which a target panicked.
#[derive(Debug)]
pub struct Failure {
    /// The input.
    pub input: Vec<u8>,
    /// What the panic said.
    pub reason: String,
}

/// The folder with the corpus of every target.
#[must_use]
pub fn corpus_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// The inputs of a target, in the order of their names.
///
/// # Errors
/// When the folder can't be read.
pub fn corpus(target: &Target) -> io::Result<Vec<Vec<u8>>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(corpus_folder().join(target.name))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()?;
    paths.sort();
    paths.iter().map(fs::read).collect()
}

/// Runs a target on each input of its corpus and then on changed ones. How many inputs were tried.
///
/// # Errors
/// [`Failure`]: the first input at which it panicked, made smaller as far as that is quick.
pub fn run(target: &Target, corpus: &[Vec<u8>], seed: u64, limits: Limits) -> Result<u64, Failure> {
    let begun = Instant::now();
    let mut chance = Chance::new(seed);
    let mut tried = 0;
    for input in corpus {
        attempt(target, input)?;
        tried += 1;
    }
    for _ in 0..limits.inputs {
        if begun.elapsed() >= limits.time {
            break;
        }
        let input = mutated(corpus, target.words, &mut chance);
        attempt(target, &input).map_err(|failure| smaller(target, failure))?;
        tried += 1;
    }
    Ok(tried)
}

/// Runs a target on one input.
///
/// # Errors
/// [`Failure`] when it panics.
pub fn attempt(target: &Target, input: &[u8]) -> Result<(), Failure> {
    catch_unwind(AssertUnwindSafe(|| (target.run)(input))).map_err(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Failure {
            input: input.to_vec(),
            reason: said.unwrap_or_else(|| "a panic without words".to_owned()),
        }
    })
}

/// Takes parts out of an input as long as it still fails.
fn smaller(target: &Target, mut failure: Failure) -> Failure {
    let (begun, patience) = (Instant::now(), Duration::from_secs(5));
    let mut size = failure.input.len() / 2;
    while size > 0 && begun.elapsed() < patience {
        let mut from = 0;
        while from < failure.input.len() && begun.elapsed() < patience {
            let mut input = failure.input.clone();
            input.drain(from..(from + size).min(failure.input.len()));
            match attempt(target, &input) {
                Err(smaller) => failure = smaller,
                Ok(()) => from += size,
            }
        }
        size /= 2;
    }
    failure
}

impl Failure {
    /// The input, and how to run it again.
    #[must_use]
    pub fn report(&self, target: &Target) -> String {
        let hex: String = self.input.iter().map(|b| format!("{b:02x}")).collect();
        format!(
            "{}: {}\ninput: {:?}\nagain: resuni-fuzz {} --input {}",
            target.name,
            self.reason,
            String::from_utf8_lossy(&self.input),
            target.name,
            if hex.is_empty() { "''" } else { &hex },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_that_fails_is_found_made_small_and_told() {
        let target = Target {
            name: "test",
            about: "",
            run: |input| assert!(!input.contains(&b'!'), "there it is"),
            words: &["a!b"],
        };
        let limits = Limits {
            inputs: 1_000,
            time: Duration::from_secs(60),
        };
        let corpus = [b"good".to_vec()];
        let failure = run(&target, &corpus, 1, limits).unwrap_err();
        assert_eq!(failure.input, b"!");
        let report = failure.report(&target);
        assert!(report.contains("there it is") && report.ends_with("test --input 21"));
        let failure = run(&target, &[b"!".to_vec()], 1, limits).unwrap_err();
        assert_eq!(failure.input, b"!");
    }
}
