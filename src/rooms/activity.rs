//! When something last happened in a room: what lists of rooms are ordered by (MSC4186, "Activity ordering").

use resuni_dag::Pdu;
use resuni_store::{Direction, Position, ScanRange, StoreError};
use ruma::{OwnedRoomId, RoomId, UserId};

use crate::{
    error::RoomError,
    page::{Gaps, PageQuery},
    receipts::{RECEIPTS_IN_ORDER, Receipt},
    rooms::Rooms,
    tables::{BUMPS, HEAD, SPACE_CHILDREN},
    types::{EventNum, RoomNum, SnapNum},
    view::RoomView,
    work::Work,
};

/// What moves a room up in a list (MSC4186, `bump_stamp`).
const BUMPING: [&str; 7] = [
    "m.room.create",
    "m.room.message",
    "m.room.encrypted",
    "m.sticker",
    "m.call.invite",
    "m.poll.start",
    "m.beacon_info",
];
/// The same in the names that clients still send.
const BUMPING_UNSTABLE: [&str; 2] = [
    "org.matrix.msc3381.poll.start",
    "org.matrix.msc3672.beacon_info",
];
/// Events that are looked through in a room that nothing was written down of.
const LOOKED_BACK: usize = 50;
/// Children of a space that are looked at.
const MAX_CHILDREN: usize = 10_000;

fn bumps(kind: &str) -> bool {
    BUMPING.contains(&kind) || BUMPING_UNSTABLE.contains(&kind)
}

/// Notes that an event which arrives live moves its room up.
pub(crate) fn put(work: &mut Work<'_>, room: RoomNum, (position, sub): (Position, u32), pdu: &Pdu) {
    if sub == u32::MAX && bumps(pdu.kind()) {
        work.batch.put(&BUMPS, &room, &position);
    }
}

impl Rooms {
    /// When something last happened in each of these rooms; none for rooms that we were never in.
    pub async fn activity(&self, rooms: &[RoomNum]) -> Result<Vec<Option<Position>>, StoreError> {
        let heads = self.store().snapshot().get_many(&HEAD, rooms).await?;
        let last =
            |head: crate::tables::Head| head.position.max(head.whole_since.unwrap_or_default());
        Ok(heads.into_iter().map(|head| head.map(last)).collect())
    }

    /// The number of a room that anything was ever heard of.
    pub async fn room_num(&self, room: &RoomId) -> Result<Option<RoomNum>, StoreError> {
        self.reader().room_num(room).await
    }

    /// The id of the room with this number.
    pub async fn room_id(&self, room: RoomNum) -> Result<Option<OwnedRoomId>, StoreError> {
        let row = self.reader().room_row(room).await?;
        Ok(row.map(|row| row.room_id))
    }

    /// The rooms that the current state of a space links to.
    pub async fn space_links(&self, space: RoomNum) -> Result<Vec<OwnedRoomId>, StoreError> {
        let range = ScanRange::prefix(&space);
        let rows = self
            .store()
            .snapshot()
            .scan(&SPACE_CHILDREN, range, Direction::Forward, MAX_CHILDREN)
            .await?;
        let ids = rows.into_iter();
        Ok(ids.filter_map(|((_, id), _)| id.try_into().ok()).collect())
    }
}

impl RoomView {
    /// The position of the newest event that moved the room up in lists. Of rooms that are older than this note, it is
    /// looked for among the newest events.
    pub async fn bump_stamp(&self) -> Result<Option<Position>, RoomError> {
        if let Some(position) = self.snapshot().get(&BUMPS, &self.num()).await? {
            return Ok(Some(position));
        }
        let newest = PageQuery {
            from: self.end(),
            to: None,
            dir: Direction::Backward,
            limit: LOOKED_BACK,
            gaps: Gaps::Stop,
        };
        let page = self.page(newest).await?;
        let bumping = page
            .events
            .iter()
            .find(|event| bumps(event.fields().kind_str()));
        Ok(bumping.map(|event| event.token.position))
    }

    /// The newest receipts of one user, one for each type and thread.
    pub async fn own_receipts(&self, user: &UserId) -> Result<Vec<Receipt>, RoomError> {
        let rows = self.receipts_of(user).await?;
        let keys: Vec<_> = rows
            .iter()
            .map(|(_, _, row)| (self.num(), row.position))
            .collect();
        let receipts = self.snapshot().get_many(&RECEIPTS_IN_ORDER, &keys).await?;
        Ok(receipts.into_iter().flatten().collect())
    }

    /// Type, state key and event of a state without its members, for the cost of [`RoomView::state_diff_lazily`].
    pub async fn settings_named(
        &self,
        snap: SnapNum,
    ) -> Result<Vec<(String, String, EventNum)>, RoomError> {
        let settings = self.reader.settings(self.num(), snap).await?;
        let mut named = Vec::with_capacity(settings.len());
        for (key, event) in settings.iter() {
            let (kind, state_key) = self.reader.state_key(*key).await?;
            named.push((kind, state_key, *event));
        }
        Ok(named)
    }

    /// Type and state key of the keys on which two states differ, with the event of the second. Proportional to the
    /// difference.
    pub async fn state_diff_named(
        &self,
        before: SnapNum,
        after: SnapNum,
    ) -> Result<Vec<(String, String, Option<EventNum>)>, RoomError> {
        let changes = self.reader.state_diff(before, after).await?;
        let mut named = Vec::with_capacity(changes.len());
        for change in changes {
            let (kind, state_key) = self.reader.state_key(change.key).await?;
            named.push((kind, state_key, change.after));
        }
        Ok(named)
    }
}
