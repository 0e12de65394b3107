//! What is wrong with a configuration, said to the operator.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

/// Why the settings can't be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("The configuration file {} can't be read: {source}.", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("The configuration file {} is not valid TOML.\n{message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column and what was expected.
        message: String,
    },
    /// Keys that nobody knows, or values that can't be used.
    #[error("{}", list(.0))]
    Problems(Vec<Problem>),
}

/// One thing to mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The full name of the key, such as `federation.mode`, or the environment variable.
    pub key: String,
    /// What is wrong with it.
    pub what: String,
    /// What would do instead.
    pub remedy: String,
}

impl Problem {
    pub(crate) fn new(
        key: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            key: key.into(),
            what: what.into(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.key, self.what, self.remedy)
    }
}

fn list(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(Problem::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}
