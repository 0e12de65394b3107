//! Thumbnails: made once for each file, size and method, off the async threads, and kept like files.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use futures_util::stream;
use parking_lot::Mutex;
use resuni_store::Batch;
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

use crate::{
    Media, MediaError,
    picture::{self, Wanted},
    rows::use_of_thumbnail,
    tables::{MediaRow, THUMBNAILS, ThumbnailRow, USES},
};

/// Pictures that are worked on at a time.
const AT_ONCE: usize = 2;
/// The largest file that is made a thumbnail of, in bytes.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// The sizes that thumbnails are made in: those the spec recommends.
const SIZES: [(u32, u32); 5] = [(32, 32), (96, 96), (320, 240), (640, 480), (800, 600)];

type Key = ([u8; 32], u32, u32, u8);

/// Who makes thumbnails.
pub(crate) struct Workshop {
    permits: Arc<Semaphore>,
    /// One maker for each thumbnail; the others wait for it.
    turns: Mutex<HashMap<Key, Arc<AsyncMutex<()>>>>,
}

impl Default for Workshop {
    fn default() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(AT_ONCE)),
            turns: Mutex::default(),
        }
    }
}

impl Workshop {
    fn turn(&self, key: Key) -> Arc<AsyncMutex<()>> {
        let mut turns = self.turns.lock();
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(key).or_default())
    }
}

impl Media {
    /// A thumbnail of a file as a row to read it by: the file's own where it is no larger than what is asked for.
    ///
    /// # Errors
    /// [`MediaError::NoPicture`] for what is no picture, [`MediaError::TooManyPixels`] for one that is too large.
    pub async fn thumbnail(&self, row: &MediaRow, wanted: Wanted) -> Result<MediaRow, MediaError> {
        let Some((width, height)) = SIZES
            .into_iter()
            .find(|(width, height)| *width >= wanted.width && *height >= wanted.height)
        else {
            // Nothing smaller than what is asked for may be given.
            return picture::check(row.content_type.as_deref()).map(|()| row.clone());
        };
        let wanted = Wanted {
            width,
            height,
            ..wanted
        };
        let key = (row.hash, width, height, wanted.bits());
        let turn = self.workshop.turn(key);
        let _turn = turn.lock().await;
        let made = match self.store.snapshot().get(&THUMBNAILS, &key).await? {
            Some(made) => made,
            None => self.make(row, wanted, key).await?,
        };
        Ok(match made.hash {
            None => row.clone(),
            Some(hash) => MediaRow {
                hash,
                bytes: made.bytes,
                content_type: Some(made.content_type),
                filename: None,
                ..row.clone()
            },
        })
    }

    async fn make(
        &self,
        row: &MediaRow,
        wanted: Wanted,
        key: Key,
    ) -> Result<ThumbnailRow, MediaError> {
        if row.bytes > MAX_BYTES {
            return Err(MediaError::TooManyPixels);
        }
        let permit = self.workshop.permits.clone().acquire_owned().await;
        let bytes = self.all(row).await?;
        let made = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            picture::thumbnail(&bytes, wanted)
        })
        .await
        .map_err(|_| MediaError::NoPicture)??;
        let mut batch = Batch::new();
        let _settling;
        let made = match made {
            None => ThumbnailRow {
                hash: None,
                bytes: row.bytes,
                content_type: row.content_type.clone().unwrap_or_default(),
            },
            Some(made) => {
                let bytes = stream::iter([Ok::<_, std::io::Error>(Bytes::from(made.bytes))]);
                let (hash, bytes, settling) = self.write(bytes, MAX_BYTES).await?;
                _settling = settling;
                batch.put(&USES, &use_of_thumbnail(hash, &key), &());
                ThumbnailRow {
                    hash: Some(hash),
                    bytes,
                    content_type: made.content_type.to_owned(),
                }
            }
        };
        batch.put(&THUMBNAILS, &key, &made);
        self.store.commit_durable(batch).await?;
        Ok(made)
    }
}
