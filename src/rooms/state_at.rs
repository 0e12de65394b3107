//! The state of a room at an event or at a position of the log, and the difference of two states.

use std::collections::HashSet;

use resuni_dag::Pdu;
use resuni_store::{Direction, Position, ScanRange};
use ruma::{EventId, UserId};

use crate::error::RoomError;
use crate::tables::MEMBERS;
use crate::types::{EventNum, SnapNum};
use crate::view::RoomView;

/// One state of a room.
#[derive(Clone)]
pub struct StateView {
    view: RoomView,
    snap: SnapNum,
}

/// A state key on which two states differ.
#[derive(Debug, Clone)]
pub struct StateChange {
    /// The event of the first state.
    pub before: Option<EventNum>,
    /// The event of the second state.
    pub after: Option<EventNum>,
}

impl RoomView {
    /// The state of this number.
    pub fn state_at_snap(&self, snap: SnapNum) -> StateView {
        StateView {
            view: self.clone(),
            snap,
        }
    }

    /// The state before an event of this room. [`RoomError::NotFound`] if the event is unknown, or none is known of
    /// (an outlier).
    pub async fn state_before(&self, event_id: &EventId) -> Result<StateView, RoomError> {
        self.state_around(event_id, false).await
    }

    /// The state after an event of this room, the event included: what clients are told as the state "at" it.
    pub async fn state_at(&self, event_id: &EventId) -> Result<StateView, RoomError> {
        self.state_around(event_id, true).await
    }

    async fn state_around(&self, event_id: &EventId, after: bool) -> Result<StateView, RoomError> {
        let not_found = || RoomError::NotFound(format!("the state at {event_id} is not known"));
        let (_, row) = self.event_row(event_id).await?.ok_or_else(not_found)?;
        if !row.place.has_state() {
            return Err(not_found());
        }
        Ok(self.state_at_snap(if after {
            row.snap_after
        } else {
            row.snap_before
        }))
    }

    /// The current state of the room as it was at a position of the log.
    pub async fn snapshot_at(&self, position: Position) -> Result<SnapNum, RoomError> {
        Ok(self.reader.state_at(self.num(), position).await?)
    }

    /// The keys on which two states differ. Proportional to the difference.
    pub async fn state_diff(
        &self,
        before: SnapNum,
        after: SnapNum,
    ) -> Result<Vec<StateChange>, RoomError> {
        let changes = self.reader.state_diff(before, after).await?;
        Ok(changes
            .into_iter()
            .map(|change| StateChange {
                before: change.before,
                after: change.after,
            })
            .collect())
    }
}

impl StateView {
    /// Its number.
    pub fn snap(&self) -> SnapNum {
        self.snap
    }

    /// Whether members are missing from it (MSC3902).
    pub async fn is_partial(&self) -> Result<bool, RoomError> {
        Ok(self.view.reader.snap(self.snap).await?.partial)
    }

    /// MSC4500's digest of it: two servers whose digests are equal hold the same state. There is none of a partial state.
    pub async fn digest(&self) -> Result<Option<resuni_dag::Digest>, RoomError> {
        let snap = self.view.reader.snap(self.snap).await?;
        Ok((!snap.partial).then_some(resuni_dag::Digest(snap.digest)))
    }

    /// How many events it has.
    pub async fn count(&self) -> Result<u64, RoomError> {
        Ok(self.view.reader.snap(self.snap).await?.count)
    }

    /// The event of this type and key.
    pub async fn get(&self, kind: &str, state_key: &str) -> Result<Option<Pdu>, RoomError> {
        Ok(self
            .view
            .reader
            .state_pdu(self.snap, kind, state_key)
            .await?)
    }

    /// The number of the event of this type and key.
    pub async fn num(&self, kind: &str, state_key: &str) -> Result<Option<EventNum>, RoomError> {
        Ok(self
            .view
            .reader
            .state_event(self.snap, kind, state_key)
            .await?)
    }

    /// The numbers of all its events, oldest first (as far as numbers tell).
    pub async fn nums(&self) -> Result<Vec<EventNum>, RoomError> {
        let entries = self.view.reader.state_entries(self.snap).await?;
        let mut nums: Vec<EventNum> = entries.into_iter().map(|(_, event)| event).collect();
        nums.sort_unstable();
        Ok(nums)
    }

    /// The numbers of its events but for the members, and the member events of these users. Members are told by the
    /// index of them: no event is read.
    pub async fn nums_without_members(&self, but: &[&UserId]) -> Result<Vec<EventNum>, RoomError> {
        let reader = &self.view.reader;
        let range = ScanRange::prefix(&self.view.num());
        let members = reader
            .snapshot
            .scan(&MEMBERS, range, Direction::Forward, usize::MAX)
            .await?;
        let members: HashSet<EventNum> = members.into_iter().map(|(_, event)| event).collect();
        let mut nums = Vec::new();
        for (key, event) in reader.state_entries(self.snap).await? {
            // The few that are members in this state and not in the current one are told by their keys.
            if !members.contains(&event) && reader.state_key(key).await?.0 != "m.room.member" {
                nums.push(event);
            }
        }
        for user in but {
            nums.extend(self.num("m.room.member", user.as_str()).await?);
        }
        nums.sort_unstable();
        Ok(nums)
    }

    /// All its events.
    pub async fn all(&self) -> Result<Vec<Pdu>, RoomError> {
        Ok(self.view.reader.pdus(&self.nums().await?).await?)
    }
}
