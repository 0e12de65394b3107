//! What is noted of files: which rows need which bytes, and how much each user has uploaded.
//!
//! Bytes go when the last row that needs them goes. Between bytes that are put away and the row that says so nothing is
//! removed (`settled`), so an upload never loses its bytes to the end of another file that was equal.

use std::collections::HashMap;

use resuni_store::{Batch, Direction, ScanRange, Snapshot};
use ruma::ServerName;
use tokio::sync::RwLockReadGuard;

use crate::{
    Media, MediaError,
    tables::{MEDIA, MediaRow, SEEN, THUMBNAILS, USED, USES},
};

/// Rows read at a time.
const PAGE: usize = 500;
/// The row of [`USED`] that says that there is one for everybody: no user is called so.
const COUNTED: &str = "";
/// How often it is written that somebody looked at a file, in milliseconds.
const SEEN_EVERY_MS: u64 = 24 * 60 * 60 * 1000;

/// The address of a file: server and id.
pub(crate) type Address = (String, String);

/// A row of [`USES`] that a file has.
fn use_of((server, id): &Address, row: &MediaRow) -> ([u8; 32], String) {
    (row.hash, format!("{server}/{id}"))
}

/// A row of [`USES`] that a thumbnail has. No server is called so.
pub(crate) fn use_of_thumbnail(
    hash: [u8; 32],
    (of, width, height, bits): &([u8; 32], u32, u32, u8),
) -> ([u8; 32], String) {
    let of = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, of);
    (hash, format!("\u{1}{of}/{width}x{height}/{bits}"))
}

impl Media {
    /// Notes a file, and what its uploader has used with it. The batch may hold guards and more; where it is refused, the
    /// bytes that were put away for it go again.
    pub(crate) async fn note(
        &self,
        batch: Batch,
        address: &Address,
        row: &MediaRow,
        settling: RwLockReadGuard<'_, ()>,
    ) -> Result<(), MediaError> {
        let noted = self.write_row(batch, address, row).await;
        drop(settling);
        if noted.is_err() {
            let _alone = self.settled.write().await;
            self.remove_unused(row.hash).await?;
        }
        noted
    }

    async fn write_row(
        &self,
        mut batch: Batch,
        address: &Address,
        row: &MediaRow,
    ) -> Result<(), MediaError> {
        let applied = {
            let _turn = self.rows.lock().await;
            let snapshot = self.store.snapshot();
            if let Some(user) = &row.uploader {
                let user = user.to_string();
                let used = snapshot.get(&USED, &user).await?.unwrap_or_default();
                let used = used.saturating_add(row.bytes);
                self.check_quota(used)?;
                batch.put(&USED, &user, &used);
            }
            if let Some(old) = snapshot.get(&MEDIA, address).await? {
                batch.delete(&USES, &use_of(address, &old));
            }
            batch.put(&MEDIA, address, row);
            batch.put(&USES, &use_of(address, row), &());
            self.store.commit(batch).await?
        };
        Ok(applied.durable().await?)
    }

    fn check_quota(&self, used: u64) -> Result<(), MediaError> {
        match self.config.max_bytes_per_user {
            Some(limit) if used > limit => Err(MediaError::Quota { limit }),
            _ => Ok(()),
        }
    }

    /// How much this user has uploaded, in bytes.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn used_by(&self, user: &ruma::UserId) -> Result<u64, MediaError> {
        let used = self.store.snapshot().get(&USED, &user.to_string()).await?;
        Ok(used.unwrap_or_default())
    }

    /// Notes that somebody looked at a file, once a day.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn seen(&self, server: &ServerName, id: &str) -> Result<(), MediaError> {
        let address = (server.to_string(), id.to_owned());
        let now = self.clock.now_ms();
        let before = self.store.snapshot().get(&SEEN, &address).await?;
        if before.is_some_and(|before| now < before.saturating_add(SEEN_EVERY_MS)) {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.put(&SEEN, &address, &now);
        // A day that is forgotten in a crash is no harm: nobody waits for the disk.
        let _ = self.store.commit(batch).await?;
        Ok(())
    }

    /// Removes files: their rows, and the bytes that no other row needs.
    ///
    /// # Errors
    /// When the store or the disk fails. Rows go first: what stays are bytes that nobody asks for.
    pub async fn remove(&self, addresses: &[Address]) -> Result<(), MediaError> {
        let _alone = self.settled.write().await;
        let mut hashes = Vec::new();
        {
            let _turn = self.rows.lock().await;
            let snapshot = self.store.snapshot();
            let mut batch = Batch::new();
            let mut less: HashMap<String, u64> = HashMap::new();
            for address in addresses {
                let Some(row) = snapshot.get(&MEDIA, address).await? else {
                    continue;
                };
                batch.delete(&MEDIA, address);
                batch.delete(&SEEN, address);
                batch.delete(&USES, &use_of(address, &row));
                hashes.push(row.hash);
                if let Some(user) = &row.uploader {
                    *less.entry(user.to_string()).or_default() += row.bytes;
                }
            }
            for (user, bytes) in less {
                let used = snapshot.get(&USED, &user).await?.unwrap_or_default();
                batch.put(&USED, &user, &used.saturating_sub(bytes));
            }
            self.store.commit_durable(batch).await?;
        }
        for hash in hashes {
            self.remove_unused(hash).await?;
        }
        Ok(())
    }

    /// Removes bytes and the thumbnails of them, unless a row needs them.
    async fn remove_unused(&self, hash: [u8; 32]) -> Result<(), MediaError> {
        if is_used(&self.store.snapshot(), hash).await? {
            return Ok(());
        }
        let of = ScanRange::prefix(&hash);
        let thumbnails = self
            .store
            .snapshot()
            .scan(&THUMBNAILS, of, Direction::Forward, PAGE)
            .await?;
        let mut batch = Batch::new();
        for (key, made) in &thumbnails {
            batch.delete(&THUMBNAILS, key);
            if let Some(hash) = made.hash {
                batch.delete(&USES, &use_of_thumbnail(hash, key));
            }
        }
        self.store.commit_durable(batch).await?;
        let snapshot = self.store.snapshot();
        for hash in thumbnails.into_iter().filter_map(|(_, made)| made.hash) {
            if !is_used(&snapshot, hash).await? {
                self.shelf.remove(&hash).await?;
            }
        }
        self.shelf.remove(&hash).await
    }

    /// Removes what the settings say is too old: files of other servers that nobody looked at lately, and files of ours
    /// that nobody ever looked at. Answers how many.
    ///
    /// # Errors
    /// When the store or the disk fails.
    pub async fn forget_old(&self) -> Result<usize, MediaError> {
        let config = &self.config;
        if config.keep_remote_ms.is_none() && config.keep_unseen_ms.is_none() {
            return Ok(0);
        }
        let (mut range, mut removed) = (ScanRange::all(), 0);
        loop {
            let snapshot = self.store.snapshot();
            let page = snapshot
                .scan(&MEDIA, range, Direction::Forward, PAGE)
                .await?;
            let Some((last, _)) = page.last() else {
                return Ok(removed);
            };
            range = ScanRange::after(last);
            let addresses: Vec<Address> = page.iter().map(|(key, _)| key.clone()).collect();
            let seen = snapshot.get_many(&SEEN, &addresses).await?;
            let old: Vec<Address> = page
                .into_iter()
                .zip(seen)
                .filter(|((address, row), seen)| self.is_too_old(address, row, *seen))
                .map(|((address, _), _)| address)
                .collect();
            removed += old.len();
            self.remove(&old).await?;
        }
    }

    fn is_too_old(&self, (server, _): &Address, row: &MediaRow, seen: Option<u64>) -> bool {
        let now = self.clock.now_ms();
        let ended = |since: u64, keep: Option<u64>| {
            keep.is_some_and(|keep| now > since.saturating_add(keep))
        };
        if server != self.server_name().as_str() {
            return ended(
                row.created_ms.max(seen.unwrap_or_default()),
                self.config.keep_remote_ms,
            );
        }
        // Pictures of previews have nobody who uploaded them, and an end of their own.
        let uploaded = row.uploader.is_some();
        uploaded && seen.is_none() && ended(row.created_ms, self.config.keep_unseen_ms)
    }

    /// Makes the rows that a database of an older version lacks: which bytes are needed by what, and what each user has
    /// used. May be cut short and run again.
    pub(crate) async fn count(&self) -> Result<(), MediaError> {
        let counted = COUNTED.to_owned();
        if self.store.snapshot().get(&USED, &counted).await?.is_some() {
            return Ok(());
        }
        let mut used: HashMap<String, u64> = HashMap::new();
        let mut range = ScanRange::all();
        loop {
            let snapshot = self.store.snapshot();
            let page = snapshot
                .scan(&MEDIA, range, Direction::Forward, PAGE)
                .await?;
            let Some((last, _)) = page.last() else { break };
            range = ScanRange::after(last);
            let mut batch = Batch::new();
            for (address, row) in &page {
                batch.put(&USES, &use_of(address, row), &());
                if let Some(user) = &row.uploader {
                    *used.entry(user.to_string()).or_default() += row.bytes;
                }
            }
            self.store.commit_durable(batch).await?;
        }
        let mut range = ScanRange::all();
        loop {
            let snapshot = self.store.snapshot();
            let page = snapshot
                .scan(&THUMBNAILS, range, Direction::Forward, PAGE)
                .await?;
            let Some((last, _)) = page.last() else { break };
            range = ScanRange::after(last);
            let mut batch = Batch::new();
            for (key, made) in &page {
                if let Some(hash) = made.hash {
                    batch.put(&USES, &use_of_thumbnail(hash, key), &());
                }
            }
            self.store.commit_durable(batch).await?;
        }
        let rows: Vec<_> = used.into_iter().collect();
        for page in rows.chunks(PAGE) {
            let mut batch = Batch::new();
            for (user, bytes) in page {
                batch.put(&USED, user, bytes);
            }
            self.store.commit_durable(batch).await?;
        }
        let mut batch = Batch::new();
        batch.put(&USED, &counted, &0);
        Ok(self.store.commit_durable(batch).await?)
    }
}

async fn is_used(snapshot: &Snapshot, hash: [u8; 32]) -> Result<bool, MediaError> {
    let range = ScanRange::prefix(&hash);
    let rows = snapshot.scan(&USES, range, Direction::Forward, 1).await?;
    Ok(!rows.is_empty())
}
