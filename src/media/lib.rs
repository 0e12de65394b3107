//! Files that people upload, and copies of those of other servers, on the local disk or in a bucket.
//!
//! A file is kept under the hash of its bytes, so that equal files are kept once; what is known of
//! it (type, name, who uploaded it) is a row in the store under its `mxc://` address. The bytes are
//! there before the row is, so a row never points at a file that is not there; a crash in between
//! leaves bytes that nobody asks for. Thumbnails are files of their own, found by the hash of the
//! file they are of.

#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

mod error;
mod picture;
mod previews;
mod promises;
mod quarantine;
mod rows;
mod shelf;
pub mod tables;
#[cfg(test)]
mod tests;
mod thumbnails;

use std::{io::ErrorKind, ops::Range, path::PathBuf, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use rand::{TryRng as _, rngs::SysRng};
use resuni_store::{Batch, SharedClock, Store};
use ruma::{OwnedServerName, OwnedUserId, ServerName};
use sha2::{Digest as _, Sha256};
use tokio::{
    fs::{self, File},
    io::AsyncWriteExt as _,
    sync::{Mutex, RwLock, RwLockReadGuard, watch},
};

pub use error::MediaError;
pub use picture::{Wanted, dimensions};
pub use previews::{Answer, PreviewConfig, PreviewError, Previews, Web};
pub use quarantine::FileFound;
pub use shelf::{BucketConfig, FileStream};
pub use tables::{MediaRow, TABLES};

use shelf::Shelf;
use tables::MEDIA;
use thumbnails::Workshop;

/// The longest content type and the longest file name, in bytes.
const TEXT_BYTES: usize = 1024;
/// The longest id that a file of another server may have, in bytes.
const ID_BYTES: usize = 255;

/// How files are kept.
#[derive(Clone, Debug)]
pub struct MediaConfig {
    /// This server's name.
    pub server_name: OwnedServerName,
    /// The folder for the bytes.
    pub folder: PathBuf,
    /// The largest file, in bytes.
    pub max_bytes: u64,
    /// Whether files that come from now on are for signed-in readers only (client-server API, "Content repository":
    /// the freeze).
    pub authenticated_only: bool,
    /// The most that one user may have uploaded, in bytes.
    pub max_bytes_per_user: Option<u64>,
    /// How long files of other servers are kept after somebody looked at them, in milliseconds; none: for ever.
    pub keep_remote_ms: Option<u64>,
    /// How long files of ours are kept that nobody ever looked at; none: for ever.
    pub keep_unseen_ms: Option<u64>,
    /// Where the bytes are, if not in the folder. Files arrive there all the same.
    pub bucket: Option<BucketConfig>,
}

impl MediaConfig {
    /// For files of this server, in this folder, up to 50 MiB each.
    pub fn new(server_name: OwnedServerName, folder: impl Into<PathBuf>) -> Self {
        Self {
            server_name,
            folder: folder.into(),
            max_bytes: 50 * 1024 * 1024,
            authenticated_only: false,
            max_bytes_per_user: None,
            keep_remote_ms: None,
            keep_unseen_ms: None,
            bucket: None,
        }
    }
}

/// What comes with a file.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// Its `Content-Type`, as its uploader says.
    pub content_type: Option<String>,
    /// Its name, as its uploader says.
    pub filename: Option<String>,
    /// Who uploaded it; none for files of other servers.
    pub uploader: Option<OwnedUserId>,
}

/// The files of this server.
pub struct Media {
    config: MediaConfig,
    store: Store,
    clock: SharedClock,
    workshop: Workshop,
    shelf: Shelf,
    /// Held to read between the putting away of bytes and the row that needs them; held to write where bytes are removed.
    settled: RwLock<()>,
    /// Held where a row is written and what its uploader has used.
    rows: Mutex<()>,
    /// Counts the promised files that came.
    arrived: watch::Sender<u64>,
}

impl Media {
    /// Opens the folder. What an earlier run had not finished is removed.
    ///
    /// # Errors
    /// When the folder can't be made or read.
    pub async fn open(
        config: MediaConfig,
        store: Store,
        clock: SharedClock,
    ) -> Result<Arc<Self>, MediaError> {
        let media = Self {
            shelf: Shelf::open(&config.folder, config.bucket.as_ref())?,
            config,
            store,
            clock,
            workshop: Workshop::default(),
            settled: RwLock::default(),
            rows: Mutex::default(),
            arrived: watch::Sender::new(0),
        };
        let incoming = media.incoming();
        match fs::remove_dir_all(&incoming).await {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        fs::create_dir_all(&incoming).await?;
        media.count().await?;
        Ok(Arc::new(media))
    }

    /// This server's name: the first part of the addresses of its own files.
    pub fn server_name(&self) -> &ServerName {
        &self.config.server_name
    }

    /// The largest file, in bytes.
    pub fn max_bytes(&self) -> u64 {
        self.config.max_bytes
    }

    /// Whether files that come from now on are for signed-in readers only.
    pub fn authenticated_only(&self) -> bool {
        self.config.authenticated_only
    }

    fn incoming(&self) -> PathBuf {
        self.config.folder.join("incoming")
    }

    /// Keeps a file of one of our users; answers the id of its address.
    ///
    /// # Errors
    /// [`MediaError::TooLarge`] as soon as it is, [`MediaError::Broken`] when it ends too early.
    pub async fn upload<E: std::fmt::Display>(
        &self,
        about: About,
        body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<String, MediaError> {
        let id = new_id()?;
        let server = self.config.server_name.clone();
        self.keep(&server, &id, about, body).await?;
        Ok(id)
    }

    /// Keeps a file under an address: that of another server's, when its bytes were fetched.
    ///
    /// # Errors
    /// As [`Media::upload`].
    pub async fn keep<E: std::fmt::Display>(
        &self,
        server: &ServerName,
        id: &str,
        about: About,
        body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<MediaRow, MediaError> {
        let (row, settling) = self.row(about, body).await?;
        let address = (server.to_string(), id.to_owned());
        self.note(Batch::new(), &address, &row, settling).await?;
        Ok(row)
    }

    /// Writes the bytes; what is then to be noted of them, and what keeps them until it is.
    async fn row<E: std::fmt::Display>(
        &self,
        about: About,
        body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<(MediaRow, RwLockReadGuard<'_, ()>), MediaError> {
        let too_long = |text: &Option<String>| text.as_ref().is_some_and(|t| t.len() > TEXT_BYTES);
        if too_long(&about.content_type) || too_long(&about.filename) {
            return Err(MediaError::Invalid(
                "The name or the type of the file is too long.",
            ));
        }
        let limit = match (&about.uploader, self.config.max_bytes_per_user) {
            // What does not fit is not read to its end, and leaves nothing.
            (Some(user), Some(quota)) => {
                let left = quota.saturating_sub(self.used_by(user).await?);
                left.min(self.config.max_bytes)
            }
            _ => self.config.max_bytes,
        };
        let (hash, bytes, settling) = self.write(body, limit).await?;
        let row = MediaRow {
            hash,
            bytes,
            content_type: about.content_type,
            filename: about.filename,
            uploader: about.uploader,
            created_ms: self.clock.now_ms(),
            authenticated_only: self.config.authenticated_only,
        };
        Ok((row, settling))
    }

    /// Writes the bytes to where their hash says, for good. Until what is answered goes, they are not removed.
    async fn write<E: std::fmt::Display>(
        &self,
        mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
        limit: u64,
    ) -> Result<([u8; 32], u64, RwLockReadGuard<'_, ()>), MediaError> {
        let arriving = Arriving(
            self.incoming()
                .join(URL_SAFE_NO_PAD.encode(random::<18>()?)),
        );
        let mut file = File::create_new(&arriving.0).await?;
        let (mut hasher, mut bytes) = (Sha256::new(), 0_u64);
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| MediaError::Broken(error.to_string()))?;
            bytes = bytes.saturating_add(chunk.len() as u64);
            if bytes > limit {
                return Err(self.too_much(limit));
            }
            hasher.update(&chunk);
            file.write_all(&chunk).await?;
        }
        file.sync_all().await?;
        drop(file);
        let hash = hasher.finalize().into();
        let settling = self.settled.read().await;
        self.shelf.put(&arriving.0, &hash).await?;
        Ok((hash, bytes, settling))
    }

    fn too_much(&self, limit: u64) -> MediaError {
        match self.config.max_bytes_per_user {
            Some(quota) if limit < self.config.max_bytes => MediaError::Quota { limit: quota },
            _ => MediaError::TooLarge { limit },
        }
    }

    /// What is known of the file at an address, if it is kept here.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn find(
        &self,
        server: &ServerName,
        id: &str,
    ) -> Result<Option<MediaRow>, MediaError> {
        if !is_id(id) {
            return Ok(None);
        }
        let key = (server.to_string(), id.to_owned());
        Ok(self.store.snapshot().get(&MEDIA, &key).await?)
    }

    /// The bytes of a file from the first of the range up to its end.
    ///
    /// # Errors
    /// When they can't be read.
    pub async fn read(&self, row: &MediaRow, range: Range<u64>) -> Result<FileStream, MediaError> {
        self.shelf.read(&row.hash, range).await
    }

    /// All bytes of a file, in memory.
    ///
    /// # Errors
    /// When they can't be read.
    pub async fn all(&self, row: &MediaRow) -> Result<Vec<u8>, MediaError> {
        let mut parts = self.read(row, 0..row.bytes).await?;
        let mut bytes = Vec::new();
        while let Some(part) = parts.try_next().await? {
            bytes.extend_from_slice(&part);
        }
        Ok(bytes)
    }
}

/// Whether this can be the id of a file (Client-Server API, "Matrix Content (`mxc://`) URIs").
pub fn is_id(id: &str) -> bool {
    (1..=ID_BYTES).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// A file that has not arrived whole: removed when its upload ends early.
struct Arriving(PathBuf);

impl Drop for Arriving {
    fn drop(&mut self) {
        // Where it was renamed there is nothing to remove.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// An id that nobody guesses.
fn new_id() -> Result<String, MediaError> {
    Ok(URL_SAFE_NO_PAD.encode(random::<18>()?))
}

fn random<const N: usize>() -> Result<[u8; N], MediaError> {
    let mut bytes = [0; N];
    SysRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| MediaError::Random(error.to_string()))?;
    Ok(bytes)
}
