//! The arrows between the crates are those of the table in `docs/architecture.md`, and no others.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

type Arrows = BTreeMap<String, BTreeSet<String>>;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// The table: a crate in the first column, what it may use in the last. "all above" are the rows
/// before, "all" every crate that is not for development only.
fn allowed(page: &str) -> Arrows {
    let mut arrows = Arrows::new();
    let mut development = BTreeSet::new();
    let mut everything = Vec::new();
    let rows = page
        .lines()
        .skip_while(|line| !line.starts_with("| crate |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let name = cells[0].trim_matches('`').to_owned();
        if cells[1].starts_with("dev only") {
            development.insert(name.clone());
        }
        let uses = match *cells.last().unwrap() {
            "–" => BTreeSet::new(),
            "all above" => arrows.keys().cloned().collect(),
            "all" => {
                everything.push(name.clone());
                BTreeSet::new()
            }
            list => list.split(',').map(|s| s.trim().to_owned()).collect(),
        };
        assert!(
            arrows.insert(name, uses).is_none(),
            "a crate is in the table twice: {row}"
        );
    }
    let all: BTreeSet<String> = arrows
        .keys()
        .filter(|n| !development.contains(*n))
        .cloned()
        .collect();
    for name in everything {
        let others = all.iter().filter(|n| **n != name).cloned().collect();
        arrows.insert(name, others);
    }
    assert!(
        arrows.len() > 10,
        "the table of crates was not found in docs/architecture.md"
    );
    arrows
}

/// The arrows as they are, from `cargo metadata`: of the code, and of the tests alone.
fn real() -> (Arrows, Arrows) {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(root())
        .output()
        .expect("cargo metadata");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let short = |name: &str| name.strip_prefix("resuni-").unwrap_or(name).to_owned();
    let (mut code, mut tests) = (Arrows::new(), Arrows::new());
    for package in metadata["packages"].as_array().unwrap() {
        let name = short(package["name"].as_str().unwrap());
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        let (only_tests, always): (Vec<_>, Vec<_>) = dependencies
            .filter(|d| d["path"].is_string())
            .partition(|d| d["kind"] == "dev");
        let names = |list: Vec<&serde_json::Value>| {
            list.into_iter()
                .map(|d| short(d["name"].as_str().unwrap()))
                .collect()
        };
        code.insert(name.clone(), names(always));
        tests.insert(name, names(only_tests));
    }
    (code, tests)
}

/// Everything below a crate: what its tests may use to build the ground that they stand on.
fn below(allowed: &Arrows, name: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut to_visit = vec![name.to_owned()];
    while let Some(name) = to_visit.pop() {
        for other in allowed.get(&name).into_iter().flatten() {
            if found.insert(other.clone()) {
                to_visit.push(other.clone());
            }
        }
    }
    found
}

fn is_development(package: &str) -> bool {
    matches!(package, "testkit" | "bench" | "sim")
}

#[test]
fn arrows_go_down_only() {
    let page = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let allowed = allowed(&page);
    let mut wrong = Vec::new();
    let (code, tests) = real();
    for (name, uses) in tests {
        let may = below(&allowed, &name);
        wrong.extend(
            uses.iter()
                .filter(|other| **other != name && !may.contains(*other) && !is_development(other))
                .map(|other| format!("the tests of {name} use {other}, which is not below it")),
        );
    }
    for (name, uses) in code {
        match allowed.get(&name) {
            None => wrong.push(format!("the crate {name} is not in the table")),
            Some(may) => wrong.extend(
                uses.difference(may)
                    .map(|other| format!("{name} → {other} is not in the table")),
            ),
        }
    }
    assert!(
        wrong.is_empty(),
        "docs/architecture.md disagrees:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_table_is_read_as_it_is_meant() {
    let page = "| crate | its one job | may use |\n|---|---|---|\n\
        | `dag` | events | – |\n| `store` | tables | – |\n| `rooms` | rooms | dag, store |\n\
        | `http` | routers | all above |\n| `a` | x | – |\n| `b` | x | – |\n| `c` | x | – |\n\
        | `d` | x | – |\n| `e` | x | – |\n| `f` | x | – |\n| `resuni` | the binary | all |\n\
        | `testkit` | dev only: tests | dag |\n\nprose\n| `not` | this | – |\n";
    let arrows = allowed(page);
    assert_eq!(arrows.len(), 12);
    assert_eq!(arrows["http"].len(), 3);
    assert!(arrows["resuni"].contains("f") && !arrows["resuni"].contains("testkit"));
    assert!(!arrows["resuni"].contains("resuni"));
}
