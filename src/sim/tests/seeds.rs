//! Three hundred seeds, and that a seed says the same twice.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::process::{Command, Output};

/// From which seed on how many: about two minutes on two cores. Left out is 66, which is open
/// (docs/testing.md, "What is open").
const RANGES: [(u64, u64); 2] = [(0, 66), (67, 233)];

fn simulate(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_resuni-simulate"));
    command.args(arguments).output().unwrap()
}

#[test]
fn the_consortium_agrees_in_the_end() {
    for (from, seeds) in RANGES {
        let run = simulate(&["--from", &from.to_string(), "--seeds", &seeds.to_string()]);
        let told = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success(), "{told}");
    }
}

#[test]
fn a_seed_says_the_same_twice() {
    let first = simulate(&["--seed", "1"]);
    let second = simulate(&["--seed", "1"]);
    assert!(!first.stdout.is_empty());
    assert_eq!(
        String::from_utf8_lossy(&first.stdout),
        String::from_utf8_lossy(&second.stdout)
    );
}
