//! Files that nobody is given any more, by the word of an operator; and what operators see of files.
//!
//! What is quarantined is the bytes, so whoever uploads them again, here or elsewhere, gains nothing; and the address, so
//! that a file of another server that is not here is not fetched either. The bytes stay on disk.

use std::collections::HashSet;

use resuni_store::{Batch, Direction, ScanRange};
use ruma::{OwnedUserId, ServerName, UserId};

use crate::{
    Media, MediaError,
    rows::Address,
    tables::{MEDIA, MediaRow, PROTECTED, QUARANTINED, QUARANTINED_ADDRESSES, Quarantined, SEEN},
};

/// Rows read, and files removed, at a time.
const PAGE: usize = 500;

/// A file as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileFound {
    /// The server of its address.
    pub server: String,
    /// The id of its address.
    pub id: String,
    /// What is known of it.
    pub row: MediaRow,
    /// When somebody last looked at it, to the day, in milliseconds since 1970.
    pub seen_ms: Option<u64>,
    /// The operator who quarantined it.
    pub quarantined_by: Option<OwnedUserId>,
    /// Whether it is not to be quarantined.
    pub protected: bool,
}

impl FileFound {
    /// When it was last of use: when somebody looked at it, or came to be.
    pub fn used_ms(&self) -> u64 {
        self.row.created_ms.max(self.seen_ms.unwrap_or_default())
    }

    /// Its address.
    pub fn address(&self) -> Address {
        (self.server.clone(), self.id.clone())
    }
}

impl Media {
    /// Nothing, of an address whose file may be given; asked before it is looked for.
    ///
    /// # Errors
    /// [`MediaError::Unknown`] when it is quarantined.
    pub async fn check_address(&self, server: &ServerName, id: &str) -> Result<(), MediaError> {
        let address = (server.to_string(), id.to_owned());
        let snapshot = self.store.snapshot();
        match snapshot.contains(&QUARANTINED_ADDRESSES, &address).await? {
            true => Err(MediaError::Unknown),
            false => Ok(()),
        }
    }

    /// Nothing, of a file that may be given; asked of what was found.
    ///
    /// # Errors
    /// [`MediaError::Unknown`] when its bytes are quarantined.
    pub async fn check_bytes(&self, row: &MediaRow) -> Result<(), MediaError> {
        let snapshot = self.store.snapshot();
        match snapshot.contains(&QUARANTINED, &row.hash).await? {
            true => Err(MediaError::Unknown),
            false => Ok(()),
        }
    }

    /// Quarantines a file, whether or not it is here. Answers whether it is now: a protected one is not.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn quarantine(&self, address: &Address, by: &UserId) -> Result<bool, MediaError> {
        let snapshot = self.store.snapshot();
        if snapshot.contains(&PROTECTED, address).await? {
            return Ok(false);
        }
        let row = Quarantined {
            by: by.to_owned(),
            since_ms: self.clock.now_ms(),
        };
        let mut batch = Batch::new();
        batch.put(&QUARANTINED_ADDRESSES, address, &row);
        if let Some(file) = snapshot.get(&MEDIA, address).await? {
            batch.put(&QUARANTINED, &file.hash, &row);
        }
        self.store.commit_durable(batch).await?;
        Ok(true)
    }

    /// Ends a quarantine: of the address, and of the bytes that are there.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn unquarantine(&self, address: &Address) -> Result<(), MediaError> {
        let snapshot = self.store.snapshot();
        let mut batch = Batch::new();
        batch.delete(&QUARANTINED_ADDRESSES, address);
        if let Some(file) = snapshot.get(&MEDIA, address).await? {
            batch.delete(&QUARANTINED, &file.hash);
        }
        Ok(self.store.commit_durable(batch).await?)
    }

    /// Protects a file from being quarantined, or no longer.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn protect(&self, address: &Address, protect: bool) -> Result<(), MediaError> {
        let mut batch = Batch::new();
        match protect {
            true => batch.put(&PROTECTED, address, &()),
            false => batch.delete(&PROTECTED, address),
        }
        Ok(self.store.commit_durable(batch).await?)
    }

    /// A file that is here.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn file(&self, address: &Address) -> Result<Option<FileFound>, MediaError> {
        match self.store.snapshot().get(&MEDIA, address).await? {
            Some(row) => self.described(address.clone(), row).await.map(Some),
            None => Ok(None),
        }
    }

    async fn described(&self, address: Address, row: MediaRow) -> Result<FileFound, MediaError> {
        let snapshot = self.store.snapshot();
        let of_address = snapshot.get(&QUARANTINED_ADDRESSES, &address).await?;
        let quarantined = match of_address {
            Some(row) => Some(row),
            None => snapshot.get(&QUARANTINED, &row.hash).await?,
        };
        Ok(FileFound {
            seen_ms: snapshot.get(&SEEN, &address).await?,
            protected: snapshot.contains(&PROTECTED, &address).await?,
            quarantined_by: quarantined.map(|quarantined| quarantined.by),
            server: address.0,
            id: address.1,
            row,
        })
    }

    /// The files of our users, or copies of those of others, that an operator looks for. Reads all of them.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn files(
        &self,
        ours: bool,
        wanted: impl Fn(&MediaRow) -> bool,
    ) -> Result<Vec<FileFound>, MediaError> {
        let own = self.server_name().to_string();
        let (mut range, mut found) = (ScanRange::all(), Vec::new());
        loop {
            let page = self
                .store
                .snapshot()
                .scan(&MEDIA, range, Direction::Forward, PAGE)
                .await?;
            let Some((last, _)) = page.last() else {
                return Ok(found);
            };
            range = ScanRange::after(last);
            for (address, row) in page {
                if (address.0 == own) == ours && wanted(&row) {
                    found.push(self.described(address, row).await?);
                }
            }
        }
    }

    /// Removes files, some at a time; those in `keep` stay. Answers the ids of those that went.
    ///
    /// # Errors
    /// As [`Media::remove`].
    pub async fn remove_files(
        &self,
        files: &[FileFound],
        keep: &HashSet<Address>,
    ) -> Result<Vec<String>, MediaError> {
        let addresses: Vec<Address> = files
            .iter()
            .map(FileFound::address)
            .filter(|address| !keep.contains(address))
            .collect();
        for page in addresses.chunks(PAGE) {
            self.remove(page).await?;
        }
        Ok(addresses.into_iter().map(|(_, id)| id).collect())
    }
}
