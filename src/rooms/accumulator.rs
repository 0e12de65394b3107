//! What the states around an event come to, for comparing them with those of other servers (MSC4500).

use resuni_dag::Lattice;
use resuni_store::StoreError;
use ruma::EventId;

use crate::{
    error::RoomError,
    reader::{Reader, missing_row},
    tables::LATTICE,
    tree::{self, Change},
    types::{NodeNum, SnapNum},
    view::RoomView,
};

/// A state's digest and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateHash {
    /// BLAKE2b-256 of the state's lattice.
    pub digest: [u8; 32],
    /// The number of entries.
    pub count: u64,
}

/// The states before and after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateHashes {
    /// At the event's `prev_events`, resolved.
    pub before: StateHash,
    /// The same unless the event is an accepted state event.
    pub after: StateHash,
}

impl RoomView {
    /// Digests and sizes of the states before and after an event; none where no state is known, as for
    /// outliers, or not all of it (MSC3902).
    pub async fn state_hashes(&self, event: &EventId) -> Result<Option<StateHashes>, RoomError> {
        let Some((_, row)) = self.event_row(event).await? else {
            return Ok(None);
        };
        if !row.place.has_state() || self.lacks_members(row.snap_after).await? {
            return Ok(None);
        }
        let before = self.state_hash(row.snap_before).await?;
        let after = match row.snap_after == row.snap_before {
            true => before,
            false => self.state_hash(row.snap_after).await?,
        };
        Ok(Some(StateHashes { before, after }))
    }

    async fn lacks_members(&self, snap: SnapNum) -> Result<bool, RoomError> {
        Ok(self.reader.snap(snap).await?.partial)
    }

    async fn state_hash(&self, snap: SnapNum) -> Result<StateHash, RoomError> {
        let snap = self.reader.snap(snap).await?;
        Ok(StateHash {
            digest: snap.digest,
            count: snap.count,
        })
    }

    /// The lattice of the state after an event, with its digest and size; none where no state is known.
    /// It is reckoned from the current state's: proportional to what has changed since, and none where that is very much.
    pub async fn accumulator(
        &self,
        event: &EventId,
    ) -> Result<Option<(Lattice, StateHash)>, RoomError> {
        let row = match self.event_row(event).await? {
            Some((_, row)) if row.place.has_state() => row,
            _ => return Ok(None),
        };
        if self.lacks_members(row.snap_after).await? {
            return Ok(None);
        }
        let hash = self.state_hash(row.snap_after).await?;
        let current = self.snapshot().get(&LATTICE, &self.num()).await?;
        let current = current.and_then(|bytes| Lattice::from_bytes(&bytes));
        let mut lattice = current
            .ok_or_else(|| missing_row("lattices", format!("{} has none", self.room_id())))?;
        let changes = self.reader.state_diff(self.snap(), row.snap_after).await?;
        if changes.len() > MOST_CHANGES {
            return Ok(None);
        }
        apply(&self.reader, &mut lattice, changes).await?;
        Ok(Some((lattice, hash)))
    }
}

/// A state that differs in more from the current one is not reckoned for who asks ("deems retroactive computation
/// prohibitive" in the proposal): some tens of milliseconds of hashing.
const MOST_CHANGES: usize = 5_000;

/// How many changes are reckoned before others get their turn: each is a hash of 2 KiB.
const TURN: usize = 256;

/// Makes the lattice of one state that of another, given their trees.
pub(crate) async fn move_between(
    reader: &Reader,
    lattice: &mut Lattice,
    from: NodeNum,
    to: NodeNum,
) -> Result<(), StoreError> {
    let changes = tree::diff(reader, from, to).await?;
    apply(reader, lattice, changes).await
}

async fn apply(
    reader: &Reader,
    lattice: &mut Lattice,
    changes: Vec<Change>,
) -> Result<(), StoreError> {
    for (i, change) in changes.into_iter().enumerate() {
        if i % TURN == TURN - 1 {
            tokio::task::yield_now().await;
        }
        let (kind, key) = reader.state_key(change.key).await?;
        if let Some(event) = change.before {
            lattice.remove(&kind, &key, reader.event_id(event).await?.as_str());
        }
        if let Some(event) = change.after {
            lattice.add(&kind, &key, reader.event_id(event).await?.as_str());
        }
    }
    Ok(())
}
