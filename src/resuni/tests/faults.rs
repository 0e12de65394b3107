//! docs/security.md names tests: they have to be there.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The faults in the list.
const LINES: usize = 132;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn sources(folder: &Path, out: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(std::fs::read_to_string(path).unwrap());
        }
    }
}

/// Names of functions that are tests.
fn tests() -> BTreeSet<String> {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let mut names = BTreeSet::new();
    for file in &files {
        let mut is_test = false;
        for line in file.lines().map(str::trim) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| is_test) {
                names.extend(rest.split('(').next().map(str::to_owned));
                is_test = false;
            }
        }
    }
    names
}

#[test]
fn every_fault_of_the_list_has_its_tests_or_a_reason() {
    let page = std::fs::read_to_string(root().join("docs/security.md")).unwrap();
    let tests = tests();
    let mut lines = 0;
    for row in page.lines() {
        let mut cells = row.trim_matches('|').split(" | ").map(str::trim);
        let Some(number) = cells.next().and_then(|cell| cell.parse::<usize>().ok()) else {
            continue;
        };
        lines += 1;
        assert_eq!(number, lines, "the rows are in order");
        let named = cells.nth(1).unwrap_or_default();
        for name in named.split('`').skip(1).step_by(2) {
            // Other things in code style have a slash or a capital letter, or are a command.
            let is_a_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            if name.chars().all(is_a_name) {
                assert!(
                    tests.contains(name),
                    "line {number}: no test is called {name}"
                );
            }
        }
    }
    assert_eq!(lines, LINES);
}
