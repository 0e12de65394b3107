//! Addresses that are given out before their file comes (client-server API, `POST /media/v1/create`).

use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use resuni_store::{Batch, CommitError, Direction, ScanRange};
use ruma::{ServerName, UserId};

use crate::{
    About, Media, MediaError, is_id, new_id,
    tables::{MEDIA, MediaRow, PROMISES, PROMISES_OF, Promise},
};

/// Addresses that a user may hold without a file.
const MAX_PROMISES: usize = 100;
/// How long one is held, in milliseconds.
const HELD_MS: u64 = 24 * 60 * 60 * 1000;
/// The longest that somebody waits for a file.
const MAX_WAIT: Duration = Duration::from_secs(60);

impl Media {
    /// Gives out an address: its id, and until when a file may come.
    ///
    /// # Errors
    /// [`MediaError::TooManyPromises`] for who holds too many.
    pub async fn promise(&self, user: &UserId) -> Result<(String, u64), MediaError> {
        let now = self.clock.now_ms();
        let snapshot = self.store.snapshot();
        let range = ScanRange::prefix(&user.to_string());
        let held = snapshot
            .scan(&PROMISES_OF, range, Direction::Forward, MAX_PROMISES)
            .await?;
        let ids: Vec<String> = held.into_iter().map(|((_, id), ())| id).collect();
        let rows = snapshot.get_many(&PROMISES, &ids).await?;
        let mut batch = Batch::new();
        let mut count = ids.len();
        for (id, row) in ids.into_iter().zip(rows) {
            if row.is_none_or(|row| row.expires_ms <= now) {
                batch.delete(&PROMISES, &id);
                batch.delete(&PROMISES_OF, &(user.to_string(), id));
                count -= 1;
            }
        }
        if count >= MAX_PROMISES {
            return Err(MediaError::TooManyPromises);
        }
        let id = new_id()?;
        let promise = Promise {
            user: user.to_owned(),
            expires_ms: now + HELD_MS,
        };
        batch.put(&PROMISES, &id, &promise);
        batch.put(&PROMISES_OF, &(user.to_string(), id.clone()), &());
        self.store.commit_durable(batch).await?;
        Ok((id, promise.expires_ms))
    }

    /// Keeps the file for an address that was given out.
    ///
    /// # Errors
    /// [`MediaError::Taken`] when there is one, [`MediaError::NotYours`] for another's address, [`MediaError::Unknown`]
    /// for one that was never given out or has expired; and as [`Media::upload`].
    pub async fn fulfil<E: std::fmt::Display>(
        &self,
        server: &ServerName,
        id: &str,
        about: About,
        body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<MediaRow, MediaError> {
        let promise = self.promised(server, id).await?;
        let promise = match promise {
            _ if self.find(server, id).await?.is_some() => return Err(MediaError::Taken),
            Some(promise) => promise,
            None => return Err(MediaError::Unknown),
        };
        if about.uploader.as_ref() != Some(&promise.user) {
            return Err(MediaError::NotYours);
        }
        let key = (server.to_string(), id.to_owned());
        let (row, settling) = self.row(about, body).await?;
        let mut batch = Batch::new();
        // Of two uploads at once the first one counts.
        batch.guard_absent(&MEDIA, &key);
        batch.delete(&PROMISES, &key.1);
        batch.delete(&PROMISES_OF, &(promise.user.to_string(), key.1.clone()));
        match self.note(batch, &key, &row, settling).await {
            Err(MediaError::Commit(CommitError::Guard { .. })) => return Err(MediaError::Taken),
            done => done?,
        }
        self.arrived.send_modify(|count| *count += 1);
        Ok(row)
    }

    /// The address's promise, while it holds.
    async fn promised(&self, server: &ServerName, id: &str) -> Result<Option<Promise>, MediaError> {
        if server != self.server_name() || !is_id(id) {
            return Ok(None);
        }
        let row = self.store.snapshot().get(&PROMISES, &id.to_owned()).await?;
        Ok(row.filter(|row| row.expires_ms > self.clock.now_ms()))
    }

    /// As [`Media::find`]; for a file that was promised it waits.
    ///
    /// # Errors
    /// [`MediaError::NotYetUploaded`] when it did not come in time.
    pub async fn wait_for(
        &self,
        server: &ServerName,
        id: &str,
        timeout: Duration,
    ) -> Result<Option<MediaRow>, MediaError> {
        let mut arrived = self.arrived.subscribe();
        let deadline = tokio::time::Instant::now() + timeout.min(MAX_WAIT);
        loop {
            arrived.mark_unchanged();
            if let Some(row) = self.find(server, id).await? {
                return Ok(Some(row));
            }
            if self.promised(server, id).await?.is_none() {
                // It may have come between the two looks.
                return self.find(server, id).await;
            }
            tokio::select! {
                changed = arrived.changed() => if changed.is_err() { return Ok(None) },
                () = tokio::time::sleep_until(deadline) => return Err(MediaError::NotYetUploaded),
            }
        }
    }
}
