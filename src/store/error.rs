//! What can go wrong, in sentences for people.

use std::{path::PathBuf, sync::Arc};

use thiserror::Error;

/// Stored bytes that can't be what they should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Corrupt(String);

impl Corrupt {
    /// `what` says in a few words what was expected and what was found.
    pub fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

/// A read or a wait that could not be served.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A row can't be decoded: the database is damaged, or was written by something else.
    #[error(
        "a row of the table \"{table}\" can't be read: {source}; run `resuni doctor --database`"
    )]
    Corrupt {
        /// The table's name.
        table: &'static str,
        /// What is wrong with the row.
        source: Corrupt,
    },
    /// The storage engine or the disk beneath it answered with an error.
    #[error("the storage engine failed: {0}")]
    Engine(Arc<str>),
    /// An earlier write or sync failed. Nothing is written any more until the process is
    /// started again, because what the disk holds is no longer known.
    #[error(
        "the database takes no more writes since an earlier failure ({0}); look at the disk, then restart"
    )]
    ReadOnly(Arc<str>),
    /// The store was closed.
    #[error("the database is closed")]
    Closed,
}

/// Why a batch was not applied. In every case nothing of it was.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum CommitError {
    /// A guard did not hold: somebody else wrote the row since it was read.
    #[error("a guarded row of the table \"{table}\" has changed meanwhile")]
    Guard {
        /// The table's name.
        table: &'static str,
    },
    /// The batch is larger than [`crate::Batch::MAX_BYTES`].
    #[error("a batch of {bytes} bytes is larger than the limit of {limit}")]
    TooLarge {
        /// What the batch weighs.
        bytes: usize,
        /// What it may weigh.
        limit: usize,
    },
    /// A log entry lies on a position that no reservation attached to the batch holds.
    #[error("the log position {0} was not reserved by the batch that writes it")]
    Unreserved(u64),
    /// The store could not serve the commit.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a database could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has the database open.
    #[error("the database at {path} is in use by another process", path = .0.display())]
    Locked(PathBuf),
    /// A newer Resuni wrote the database and this one can't read it any more.
    #[error(
        "the database has schema {found} and can be read by programs that know schema {needs} or newer; \
         this one knows schema {known}: install a newer Resuni"
    )]
    Newer {
        /// The schema of the database.
        found: u32,
        /// The oldest schema that can read it.
        needs: u32,
        /// The newest schema that this program knows.
        known: u32,
    },
    /// The database was written by another program.
    #[error("this is not a Resuni database ({0}); choose another directory")]
    Foreign(String),
    /// A migration failed; it is tried again at the next start.
    #[error("migration {number} \"{name}\" failed: {source}")]
    Migration {
        /// Its number.
        number: u32,
        /// Its name.
        name: &'static str,
        /// Why it failed.
        source: CommitError,
    },
    /// The engine could not be opened.
    #[error("the database at {path} can't be opened: {reason}", path = .path.display())]
    Engine {
        /// Where it is.
        path: PathBuf,
        /// What the engine says.
        reason: String,
    },
    /// The first reads or writes failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<CommitError> for OpenError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Store(error) => Self::Store(error),
            other => Self::Store(StoreError::Engine(other.to_string().into())),
        }
    }
}
