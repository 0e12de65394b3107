//! One writer at a time for each room.
//!
//! A lane holds what the last writer left: the room's head. It is a copy; the guard of every batch is the row. A
//! writer takes the copy out when it enters and puts the new one back when its batch was applied, so that a
//! writer that fails or is dropped half-way leaves none and the next one reads the row.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use resuni_dag::RoomRules;
use ruma::{OwnedEventId, OwnedRoomId};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::{
    error::RoomError,
    reader::Reader,
    rooms::rules_of,
    tables::Head,
    types::{EventNum, RoomNum},
};

/// Rooms whose lanes are remembered; those in use are kept beyond it.
const LANES: usize = 4096;

/// A forward extremity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tip {
    pub event: EventNum,
    pub id: OwnedEventId,
    pub depth: u64,
}

/// The head of a room, with what each writer needs of the rows it points at.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    pub num: RoomNum,
    pub room_id: OwnedRoomId,
    pub rules: &'static RoomRules,
    /// The row; `None` for a room we were never in.
    pub head: Option<Head>,
    /// The head's extremities, in its order.
    pub tips: Vec<Tip>,
}

impl Live {
    /// Reads a room's head; `None` if we have nothing of the room.
    pub async fn read(reader: &Reader, num: RoomNum) -> Result<Option<Self>, RoomError> {
        let Some(row) = reader.room_row(num).await? else {
            return Ok(None);
        };
        let head = reader.head(num).await?;
        let mut tips = Vec::new();
        for event in head.iter().flat_map(|head| &head.extremities) {
            let row = reader.event_row(*event).await?;
            tips.push(Tip {
                event: *event,
                id: row.id.to_id(),
                depth: row.depth,
            });
        }
        Ok(Some(Self {
            num,
            room_id: row.room_id,
            rules: rules_of(&row.version)?,
            head,
            tips,
        }))
    }
}

/// The lanes of all rooms, by room id, so that a room has its lane before it has a number.
pub(crate) struct Lanes(Mutex<HashMap<OwnedRoomId, Arc<AsyncMutex<Option<Live>>>>>);

/// The right to write in a room.
pub(crate) struct Lane {
    slot: OwnedMutexGuard<Option<Live>>,
}

impl Lanes {
    pub fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    /// Waits for its turn.
    pub async fn enter(&self, room: &OwnedRoomId) -> Lane {
        let slot = {
            let mut lanes = self.0.lock();
            if lanes.len() >= LANES && !lanes.contains_key(room) {
                // Nobody holds or waits for a lane that only the map points at.
                lanes.retain(|_, slot| Arc::strong_count(slot) > 1);
            }
            lanes.entry(room.clone()).or_default().clone()
        };
        Lane {
            slot: slot.lock_owned().await,
        }
    }
}

impl Lane {
    /// What the last writer left.
    pub fn take(&mut self) -> Option<Live> {
        self.slot.take()
    }

    /// What this writer leaves: only after its batch was applied.
    pub fn leave(mut self, live: Live) {
        *self.slot = Some(live);
    }
}
