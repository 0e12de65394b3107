//! Each table on disk has a number of its own, and docs/architecture.md names it.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// From here on the numbers are those of tests.
const OF_TESTS: u16 = 0xf000;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn number(text: &str) -> Option<u16> {
    let digits = text.trim_start().strip_prefix("0x")?.get(..4)?;
    u16::from_str_radix(digits, 16).ok()
}

/// The numbers of the tables in the code, and the names they are declared by.
fn declared(folder: &Path, out: &mut BTreeMap<u16, Vec<String>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("examples") && !path.ends_with("tests") {
                declared(&path, out);
            }
            continue;
        }
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        // What stands in a comment is an example, and tests end a file.
        let code: Vec<&str> = text
            .lines()
            .take_while(|line| !line.starts_with("#[cfg(test)]"))
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect();
        let code = code.join("\n");
        for declaration in code.split("static ").skip(1) {
            let Some((name, rest)) = declaration.split_once(": Table<") else {
                continue;
            };
            let given = rest.split_once("Table::new(").map(|(_, after)| after);
            if let Some(number) = given.and_then(number) {
                out.entry(number).or_default().push(name.to_owned());
            }
        }
    }
}

/// The numbers that the table of keys names, one by one or as `first`–`last`.
fn documented() -> BTreeSet<u16> {
    let page = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let mut named = BTreeSet::new();
    for line in page.lines().filter(|line| line.starts_with("| `0x")) {
        let mut first = None;
        for (i, part) in line.split('`').enumerate() {
            match (i % 2, number(part)) {
                (1, Some(number)) => {
                    named.extend(first.take().unwrap_or(number)..=number);
                    first = Some(number);
                }
                // What stands between two numbers says whether they are the ends of a range.
                _ if part == "–" => {}
                _ => first = None,
            }
        }
    }
    named
}

#[test]
fn tables_have_numbers_of_their_own_and_are_documented() {
    let mut tables = BTreeMap::new();
    declared(&root().join("src"), &mut tables);
    tables.retain(|number, _| *number < OF_TESTS);
    assert!(tables.len() > 100, "found {tables:?}");
    for (number, names) in &tables {
        assert_eq!(names.len(), 1, "{number:#06x} is several tables: {names:?}");
    }
    let documented = documented();
    let missing: Vec<_> = tables
        .iter()
        .filter(|(number, _)| !documented.contains(number))
        .collect();
    assert!(
        missing.is_empty(),
        "docs/architecture.md does not name {missing:x?}"
    );
}
