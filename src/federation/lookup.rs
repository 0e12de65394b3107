//! Rows that are read here without a view: of rooms that we are not in.

use resuni_dag::{Pdu, RoomRules};
use resuni_rooms::{
    Membership, ROOM_NUMBERS, RoomNum, Rooms, USER_NUMBERS, UserNum,
    tables::{OUTLIERS, ROOMS, USER_ROOMS},
};
use ruma::{RoomId, RoomVersionId, UserId};

use crate::error::FederationError;

/// An invite or a knock of one of our users.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    /// Which of the two; or what came after it.
    pub membership: Membership,
    /// The event, if it is kept.
    pub event: Option<Pdu>,
}

/// The rules of a room that we know of, whether or not we are in it.
pub(crate) async fn rules_of(
    rooms: &Rooms,
    room: &RoomId,
) -> Result<Option<&'static RoomRules>, FederationError> {
    let Some(num) = room_num(rooms, room).await? else {
        return Ok(None);
    };
    let Some(row) = rooms.store().snapshot().get(&ROOMS, &num).await? else {
        return Ok(None);
    };
    let version = RoomVersionId::try_from(row.version.as_str()).ok();
    Ok(version.and_then(|version| RoomRules::of(&version)))
}

/// What a user of ours is to a room that we are not in.
pub(crate) async fn pending(
    rooms: &Rooms,
    user: &UserId,
    room: &RoomId,
    rules: &RoomRules,
) -> Result<Option<Pending>, FederationError> {
    let numbers = rooms.store().numbers();
    let user = numbers
        .find(&USER_NUMBERS, user.as_bytes())
        .await?
        .map(UserNum);
    let (Some(user), Some(room)) = (user, room_num(rooms, room).await?) else {
        return Ok(None);
    };
    let snapshot = rooms.store().snapshot();
    let Some(row) = snapshot.get(&USER_ROOMS, &(user, room)).await? else {
        return Ok(None);
    };
    let event = snapshot.get(&OUTLIERS, &row.event).await?;
    let event = event.and_then(|event| Pdu::parse(&event.pdu, rules).ok());
    Ok(Some(Pending {
        membership: row.membership,
        event,
    }))
}

async fn room_num(rooms: &Rooms, room: &RoomId) -> Result<Option<RoomNum>, FederationError> {
    Ok(rooms
        .store()
        .numbers()
        .find(&ROOM_NUMBERS, room.as_bytes())
        .await?
        .map(RoomNum))
}
