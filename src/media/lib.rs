//! Files that people upload, and copies of those of other servers, on the local disk.
//!
//! A file is kept under the hash of its bytes, so that equal files are kept once; what is known of
//! it (type, name, who uploaded it) is a row in the store under its `mxc://` address. The bytes are
//! on disk before the row is, so a row never points at a file that is not there; a crash in between
//! leaves bytes that nobody asks for. Thumbnails are files of their own, found by the hash of the
//! file they are of.

#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

mod error;
mod picture;
mod previews;
mod promises;
pub mod tables;
#[cfg(test)]
mod tests;
mod thumbnails;

use std::{
    fmt::Write as _,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use rand::{TryRng as _, rngs::SysRng};
use resuni_store::{Batch, SharedClock, Store};
use ruma::{OwnedServerName, OwnedUserId, ServerName};
use sha2::{Digest as _, Sha256};
use tokio::{
    fs::{self, File},
    io::AsyncWriteExt as _,
    sync::watch,
};

pub use error::MediaError;
pub use picture::{Wanted, dimensions};
pub use previews::{Answer, PreviewConfig, PreviewError, Previews, Web};
pub use tables::{MediaRow, TABLES};

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
            config,
            store,
            clock,
            workshop: Workshop::default(),
            arrived: watch::Sender::new(0),
        };
        let incoming = media.incoming();
        match fs::remove_dir_all(&incoming).await {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        fs::create_dir_all(&incoming).await?;
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

    /// Where bytes with this hash are: `ab/cdef…`, so that no folder gets too large.
    fn path(&self, hash: &[u8; 32]) -> PathBuf {
        let mut name = String::with_capacity(64);
        for byte in hash {
            // Writing to a string does not fail.
            let _ = write!(name, "{byte:02x}");
        }
        let (folder, file) = name.split_at(2);
        self.config.folder.join(folder).join(file)
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
        let row = self.row(about, body).await?;
        let mut batch = Batch::new();
        batch.put(&MEDIA, &(server.to_string(), id.to_owned()), &row);
        self.store.commit_durable(batch).await?;
        Ok(row)
    }

    /// Writes the bytes; what is then to be noted of them.
    async fn row<E: std::fmt::Display>(
        &self,
        about: About,
        body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<MediaRow, MediaError> {
        let too_long = |text: &Option<String>| text.as_ref().is_some_and(|t| t.len() > TEXT_BYTES);
        if too_long(&about.content_type) || too_long(&about.filename) {
            return Err(MediaError::Invalid(
                "The name or the type of the file is too long.",
            ));
        }
        let (hash, bytes) = self.write(body).await?;
        Ok(MediaRow {
            hash,
            bytes,
            content_type: about.content_type,
            filename: about.filename,
            uploader: about.uploader,
            created_ms: self.clock.now_ms(),
            authenticated_only: self.config.authenticated_only,
        })
    }

    /// Writes the bytes to where their hash says, and to the disk for good.
    async fn write<E: std::fmt::Display>(
        &self,
        mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<([u8; 32], u64), MediaError> {
        let arriving = Arriving(
            self.incoming()
                .join(URL_SAFE_NO_PAD.encode(random::<18>()?)),
        );
        let mut file = File::create_new(&arriving.0).await?;
        let (mut hasher, mut bytes) = (Sha256::new(), 0_u64);
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| MediaError::Broken(error.to_string()))?;
            bytes = bytes.saturating_add(chunk.len() as u64);
            if bytes > self.config.max_bytes {
                return Err(MediaError::TooLarge {
                    limit: self.config.max_bytes,
                });
            }
            hasher.update(&chunk);
            file.write_all(&chunk).await?;
        }
        file.sync_all().await?;
        let hash = hasher.finalize().into();
        let path = self.path(&hash);
        let folder = path.parent().unwrap_or(&self.config.folder);
        fs::create_dir_all(folder).await?;
        fs::rename(&arriving.0, &path).await?;
        // The new name, and the folder's own, have to be on disk too.
        sync_folder(folder).await?;
        sync_folder(&self.config.folder).await?;
        Ok((hash, bytes))
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

    /// The bytes of a file.
    ///
    /// # Errors
    /// When they can't be read.
    pub async fn read(&self, row: &MediaRow) -> Result<File, MediaError> {
        Ok(File::open(self.path(&row.hash)).await?)
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
        // After the renaming there is nothing to remove.
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn sync_folder(folder: &Path) -> Result<(), std::io::Error> {
    File::open(folder).await?.sync_all().await
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
