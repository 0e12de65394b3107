//! Where the bytes of files are: in a folder of this machine, or in a bucket of an object store that speaks S3.
//!
//! Either way they are under the SHA-256 of what they are, `ab/cdef…`, so equal files are kept once. A file arrives in
//! a folder of this machine first: only when it is whole is it known where it goes.

use std::{
    fmt::Write as _,
    io::{ErrorKind, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use object_store::{
    GetOptions, ObjectStore, ObjectStoreExt as _,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    buffered::BufWriter,
};
use tokio::{
    fs::{self, File},
    io::{AsyncReadExt as _, AsyncSeekExt as _},
};
use tokio_util::io::ReaderStream;

use crate::MediaError;

/// The bytes of a file, as they come.
pub type FileStream = BoxStream<'static, Result<Bytes, std::io::Error>>;

/// A bucket for the bytes.
#[derive(Clone)]
pub struct BucketConfig {
    /// Its name.
    pub bucket: String,
    /// Where the object store is; none for Amazon's of the region.
    pub endpoint: Option<String>,
    /// The region, which is part of each signature.
    pub region: String,
    /// Who we are there.
    pub access_key_id: String,
    /// How we prove it.
    pub secret_access_key: String,
    /// What the names of our objects begin with.
    pub prefix: String,
}

impl std::fmt::Debug for BucketConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BucketConfig")
            .field("bucket", &self.bucket)
            .finish_non_exhaustive()
    }
}

/// Where the bytes are.
pub(crate) enum Shelf {
    Folder(PathBuf),
    Bucket {
        store: Arc<dyn ObjectStore>,
        prefix: String,
    },
}

/// `ab/cdef…`, so that no folder gets too large.
fn name_of(hash: &[u8; 32]) -> String {
    let mut name = String::with_capacity(65);
    for (n, byte) in hash.iter().enumerate() {
        if n == 1 {
            name.push('/');
        }
        // Writing to a string does not fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

fn far(error: object_store::Error) -> MediaError {
    match error {
        object_store::Error::NotFound { .. } => MediaError::Unknown,
        error => MediaError::Bucket(error.to_string()),
    }
}

impl Shelf {
    /// The bucket, if one is named, and else the folder.
    pub fn open(folder: &Path, bucket: Option<&BucketConfig>) -> Result<Self, MediaError> {
        let Some(config) = bucket else {
            return Ok(Self::Folder(folder.to_owned()));
        };
        // Whoever came first has chosen the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&config.bucket)
            .with_region(&config.region)
            .with_access_key_id(&config.access_key_id)
            .with_secret_access_key(&config.secret_access_key)
            .with_config(AmazonS3ConfigKey::DisableBulkDelete, "true");
        if let Some(endpoint) = &config.endpoint {
            builder = builder
                .with_endpoint(endpoint)
                .with_allow_http(endpoint.starts_with("http://"));
        }
        Ok(Self::Bucket {
            store: Arc::new(builder.build().map_err(far)?),
            prefix: config.prefix.clone(),
        })
    }

    /// Puts a file that has arrived where its hash says, for good. The arrived file may be gone afterwards.
    pub async fn put(&self, arrived: &Path, hash: &[u8; 32]) -> Result<(), MediaError> {
        match self {
            Self::Folder(root) => {
                let path = root.join(name_of(hash));
                let folder = path.parent().unwrap_or(root);
                fs::create_dir_all(folder).await?;
                fs::rename(arrived, &path).await?;
                // The new name, and the folder's own, have to be on disk too.
                sync_folder(folder).await?;
                Ok(sync_folder(root).await?)
            }
            Self::Bucket { store, prefix } => {
                let path = object_store::path::Path::from(format!("{prefix}{}", name_of(hash)));
                // What has this name has these bytes.
                match store.head(&path).await {
                    Ok(_) => return Ok(()),
                    Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(far(error)),
                }
                let mut file = File::open(arrived).await?;
                // In parts where it is large; an object is there when it is whole.
                let mut writer = BufWriter::new(Arc::clone(store), path);
                tokio::io::copy(&mut file, &mut writer)
                    .await
                    .map_err(|error| MediaError::Bucket(error.to_string()))?;
                tokio::io::AsyncWriteExt::shutdown(&mut writer)
                    .await
                    .map_err(|error| MediaError::Bucket(error.to_string()))
            }
        }
    }

    /// A part of a file.
    pub async fn read(&self, hash: &[u8; 32], range: Range<u64>) -> Result<FileStream, MediaError> {
        if range.is_empty() {
            return Ok(stream::empty().boxed());
        }
        match self {
            Self::Folder(root) => {
                let opened = File::open(root.join(name_of(hash))).await;
                let mut file = opened.map_err(|error| match error.kind() {
                    ErrorKind::NotFound => MediaError::Unknown,
                    _ => error.into(),
                })?;
                if range.start > 0 {
                    file.seek(SeekFrom::Start(range.start)).await?;
                }
                let part = file.take(range.end - range.start);
                Ok(ReaderStream::new(part).boxed())
            }
            Self::Bucket { store, prefix } => {
                let path = object_store::path::Path::from(format!("{prefix}{}", name_of(hash)));
                let options = GetOptions {
                    range: Some(range.into()),
                    ..GetOptions::default()
                };
                let got = store.get_opts(&path, options).await.map_err(far)?;
                Ok(got.into_stream().map_err(std::io::Error::other).boxed())
            }
        }
    }

    /// Removes a file. That it was not there is no error.
    pub async fn remove(&self, hash: &[u8; 32]) -> Result<(), MediaError> {
        match self {
            Self::Folder(root) => match fs::remove_file(root.join(name_of(hash))).await {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
                _ => Ok(()),
            },
            Self::Bucket { store, prefix } => {
                let path = object_store::path::Path::from(format!("{prefix}{}", name_of(hash)));
                match store.delete(&path).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                    Err(error) => Err(far(error)),
                }
            }
        }
    }
}

async fn sync_folder(folder: &Path) -> Result<(), std::io::Error> {
    File::open(folder).await?.sync_all().await
}
