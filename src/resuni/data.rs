//! The data folder: one process at a time, readable by nobody else, with the signing key in it.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use resuni_dag::SigningKey;

const KEY_FILE: &str = "signing.key";

/// The data folder, locked for this process until it is dropped.
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// Another process has the folder.
#[derive(Debug, thiserror::Error)]
#[error("The data folder {} is in use by another resuni.", .0.display())]
pub(crate) struct InUse(PathBuf);

impl DataDir {
    /// Makes the folder if there is none, and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("The data folder {} can't be made.", path.display()))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("lock"))
            .with_context(|| format!("The data folder {} can't be written to.", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(InUse(path.to_owned()).into()),
            Err(TryLockError::Error(error)) => {
                Err(error).context("The data folder can't be locked.")
            }
        }
    }

    /// Where the database is.
    pub(crate) fn database(&self) -> PathBuf {
        self.path.join("database")
    }

    /// Where uploaded files are.
    pub(crate) fn media(&self) -> PathBuf {
        self.path.join("media")
    }

    /// The socket for the operator's commands while the server runs.
    pub(crate) fn operator_socket(path: &Path) -> PathBuf {
        path.join("operator.socket")
    }

    /// The key that this server signs its events with; made on the first start.
    pub(crate) fn signing_key(&self) -> Result<SigningKey> {
        let path = self.path.join(KEY_FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => read_key(&path, &text),
            Err(error) if error.kind() == ErrorKind::NotFound => new_key(&path),
            Err(error) => Err(error)
                .with_context(|| format!("The signing key {} can't be read.", path.display())),
        }
    }
}

fn read_key(path: &Path, text: &str) -> Result<SigningKey> {
    let mode = std::fs::metadata(path)?.mode();
    if mode & 0o077 != 0 {
        bail!(
            "The signing key {} can be read by others, who could then speak as this server. \
             Run: chmod 600 {0}",
            path.display()
        );
    }
    SigningKey::from_text(text)
        .with_context(|| format!("{} does not hold a signing key.", path.display()))
}

/// Written beside and renamed, so that a crash leaves a whole key or none.
fn new_key(path: &Path) -> Result<SigningKey> {
    let seed: [u8; 32] = rand::random();
    let version = format!("a_{:08x}", rand::random::<u32>());
    let key = SigningKey::generate(&version, seed).context("A signing key can't be made.")?;
    let part = path.with_extension("part");
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&part)?;
        writeln!(file, "{}", key.to_text().trim_end())?;
        file.sync_all()?;
        std::fs::rename(&part, path)?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    };
    write().with_context(|| format!("The signing key {} can't be written.", path.display()))?;
    tracing::info!(key = key.key_id(), path = %path.display(), "made this server's signing key");
    Ok(key)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_key_is_made_once_and_kept_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        let data = DataDir::open(&path).unwrap();
        let first = data.signing_key().unwrap();
        assert_eq!(data.signing_key().unwrap().to_text(), first.to_text());

        let file = path.join(KEY_FILE);
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(
            data.signing_key()
                .err()
                .unwrap()
                .to_string()
                .contains("chmod 600")
        );
    }

    #[test]
    fn two_processes_do_not_share_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let first = DataDir::open(folder.path()).unwrap();
        let second = DataDir::open(folder.path()).err().unwrap();
        assert!(second.downcast_ref::<InUse>().is_some());
        drop(first);
        DataDir::open(folder.path()).unwrap();
    }
}
