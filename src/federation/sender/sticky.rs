//! Sticky events (MSC4354) for servers that would not get them as others: those that join while they last, and those that
//! were away for so long that they get only the newest event of each room.

use resuni_rooms::{
    Membership, RoomView, membership_of,
    tables::{EventLog, flags},
};
use resuni_store::Position;
use ruma::OwnedServerName;

use super::{Shared, queue::Item};
use crate::error::FederationError;

/// Sticky events of a room that one server is sent when it joins: the newest.
const MOST: usize = 500;

/// Whether an entry of the log may be the join of somebody of another server.
pub(super) fn may_join(log: &EventLog) -> bool {
    const WANTED: u8 = flags::MEMBER | flags::STATE_CHANGED;
    log.flags & WANTED == WANTED && log.flags & (flags::LOCAL | flags::OUT_OF_BAND) == 0
}

/// The server of the user whose join the entry is.
pub(super) async fn joining(
    view: &RoomView,
    log: &EventLog,
) -> Result<Option<OwnedServerName>, FederationError> {
    let Some(target) = log.target else {
        return Ok(None);
    };
    let pdus = view.pdus(&[log.event]).await?;
    if pdus.first().and_then(membership_of) != Some(Membership::Join) {
        return Ok(None);
    }
    Ok(Some(view.user_id(target).await?.server_name().to_owned()))
}

/// Our events in the room that are still sticky, in the order in which they were sent, to be delivered as if they had been
/// sent at `position`: queues are in the order of the log, and begin there again when the server does not answer.
pub(super) async fn ours(
    shared: &Shared,
    view: &RoomView,
    position: Position,
) -> Result<Vec<Item>, FederationError> {
    let events = view.own_sticky(shared.rooms.now_ms(), MOST).await?;
    let item = |event| Item {
        position,
        room: view.num(),
        event,
    };
    Ok(events.into_iter().map(item).collect())
}
