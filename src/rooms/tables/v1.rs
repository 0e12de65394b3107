//! Rows of databases made before room versions 1 to 3 were supported (the ids of events in them are hashes) and before
//! there were partial states.

use resuni_store::Position;
use serde::Deserialize;

use super::Place;
use crate::types::{
    EventHash, EventNum, NodeNum, RoomNum, SnapNum, StateKeyNum, StoredId, UserNum,
};

#[derive(Deserialize)]
pub(super) struct EventRow {
    room: RoomNum,
    id: EventHash,
    place: Place,
    snap_before: SnapNum,
    snap_after: SnapNum,
    auth: Vec<EventNum>,
    generation: u32,
    sender: UserNum,
    depth: u64,
    state_key: Option<StateKeyNum>,
}

impl From<EventRow> for super::EventRow {
    fn from(old: EventRow) -> Self {
        Self {
            room: old.room,
            id: StoredId::Hash(old.id),
            place: old.place,
            snap_before: old.snap_before,
            snap_after: old.snap_after,
            auth: old.auth,
            generation: old.generation,
            sender: old.sender,
            depth: old.depth,
            state_key: old.state_key,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct TimelineRow {
    event: EventNum,
    id: EventHash,
    snap_before: SnapNum,
    flags: u8,
    received_ts: u64,
    txn: Option<(String, String)>,
    pdu: String,
}

impl From<TimelineRow> for super::TimelineRow {
    fn from(old: TimelineRow) -> Self {
        Self {
            event: old.event,
            id: StoredId::Hash(old.id),
            snap_before: old.snap_before,
            flags: old.flags,
            received_ts: old.received_ts,
            txn: old.txn,
            pdu: old.pdu,
        }
    }
}

/// Before there were partial states.
#[derive(Deserialize)]
pub(super) struct Head {
    extremities: Vec<EventNum>,
    snap: SnapNum,
    depth: u64,
    position: Position,
    joined: u64,
    invited: u64,
}

impl From<Head> for super::Head {
    fn from(old: Head) -> Self {
        Self {
            extremities: old.extremities,
            snap: old.snap,
            depth: old.depth,
            position: old.position,
            joined: old.joined,
            invited: old.invited,
            whole_since: Some(Position(0)),
        }
    }
}

/// Before there were partial states.
#[derive(Deserialize)]
pub(super) struct Snap {
    root: NodeNum,
    count: u64,
    digest: [u8; 32],
}

impl From<Snap> for super::Snap {
    fn from(old: Snap) -> Self {
        Self {
            root: old.root,
            count: old.count,
            digest: old.digest,
            partial: false,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use resuni_store::Value;

    use super::super as tables;
    use super::*;

    #[test]
    fn old_rows_are_read() {
        let hash = EventHash([7; 32]);
        // Version, event, id, state before, flags, time, no transaction, the JSON.
        let old = postcard::to_allocvec(&(
            (1_u8, EventNum(5), hash, SnapNum(3), 4_u8, 99_u64),
            None::<(String, String)>,
            "{}",
        ));
        let row = tables::TimelineRow::decode(&old.unwrap()).unwrap();
        assert_eq!(
            (row.event, row.id, row.received_ts),
            (EventNum(5), StoredId::Hash(hash), 99)
        );
        assert_eq!(
            tables::TimelineRow::decode(&row_again(hash).encode()).unwrap(),
            row_again(hash)
        );
    }

    fn row_again(hash: EventHash) -> tables::TimelineRow {
        tables::TimelineRow {
            event: EventNum(5),
            id: StoredId::Hash(hash),
            snap_before: SnapNum(3),
            flags: 4,
            received_ts: 99,
            txn: None,
            pdu: "{}".to_owned(),
        }
    }
}
