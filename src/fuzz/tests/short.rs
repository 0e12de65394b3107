//! A short run of every target: its corpus, and a few changes of it that are always the same.

#![expect(clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use resuni_fuzz::{
    TARGETS,
    runner::{self, Limits},
};

/// The inputs are the same in every run; only how many of them fit into the time differs.
const LIMITS: Limits = Limits {
    inputs: 20_000,
    time: Duration::from_secs(6),
};

fn short(name: &str) {
    let target = resuni_fuzz::target(name).expect("a target");
    let corpus = runner::corpus(target).expect("a corpus");
    assert!(corpus.len() > 1, "the corpus of {name} is empty");
    if let Err(failure) = runner::run(target, &corpus, 1, LIMITS) {
        panic!("{}", failure.report(target));
    }
}

#[test]
fn events() {
    short("events");
}

#[test]
fn canonical() {
    short("canonical");
}

#[test]
fn names() {
    short("names");
}

#[test]
fn tokens() {
    short("tokens");
}

#[test]
fn transactions() {
    short("transactions");
}

#[test]
fn resolution() {
    short("resolution");
}

#[test]
fn no_target_is_forgotten_here_or_by_libfuzzer() {
    let here = include_str!("short.rs");
    let guided = include_str!("../guided/Cargo.toml");
    for target in TARGETS {
        assert!(here.contains(&format!("short(\"{}\")", target.name)));
        assert!(guided.contains(&format!("name = \"{}\"", target.name)));
    }
}
