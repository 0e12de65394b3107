//! Dev only: what others send, made up at random, against plain models.
//!
//! A [`Target`] takes any bytes and panics when something is wrong: a panic of the code it drives, or an answer that
//! differs from what a plain model says. The same functions are driven in two ways: by the [`runner`], which changes the
//! files of `corpus/` with a seeded generator and needs nothing but stable Rust (`make test` runs it for a short while),
//! and by libFuzzer, which is guided by what the code covers (`guided/`, `make fuzz`).
//!
//! No target needs RocksDB: rooms are kept by the engine in memory.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a target tells of what is wrong by a panic"
)]

pub mod bytes;
pub mod mutate;
pub mod peer;
pub mod runner;
pub mod targets;

/// Something that takes bytes from outside.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its folder in `corpus/`.
    pub name: &'static str,
    /// What it is, for people.
    pub about: &'static str,
    /// Panics when something is wrong.
    pub run: fn(&[u8]),
    /// Words that its inputs are made of, besides bytes.
    pub words: &'static [&'static str],
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target {
        name: "events",
        about: "an event of every room version: read, kept, redacted, judged",
        run: targets::events::run,
        words: targets::events::WORDS,
    },
    Target {
        name: "canonical",
        about: "canonical JSON, against a plain writer of it",
        run: targets::canonical::run,
        words: targets::canonical::WORDS,
    },
    Target {
        name: "names",
        about: "names of servers, rooms, users and events, X-Matrix headers, globs",
        run: targets::names::run,
        words: targets::names::WORDS,
    },
    Target {
        name: "tokens",
        about: "tokens and filters of clients",
        run: targets::tokens::run,
        words: targets::tokens::WORDS,
    },
    Target {
        name: "transactions",
        about: "the body of a transaction, taken in by a whole server",
        run: targets::transactions::run,
        words: targets::transactions::WORDS,
    },
    Target {
        name: "resolution",
        about: "a room with forks, against state resolution over whole states",
        run: targets::resolution::run,
        words: &[],
    },
];

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
