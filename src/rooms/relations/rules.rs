//! Relations that our own users may not send. What comes from other servers is as it is.

use resuni_store::{Direction, ScanRange};
use ruma::UserId;

use super::{
    Content,
    bundle::relates,
    index::{ANNOTATIONS, annotation},
};
use crate::{
    error::RoomError,
    events::NewEvent,
    fields::EventFields,
    reader::Reader,
    types::{EventHash, RoomNum},
};

/// "Avoiding duplicate annotations" and "Validation of `m.thread` relationships" of the client-server API.
pub(crate) async fn check(
    reader: &Reader,
    room: RoomNum,
    sender: &UserId,
    event: &NewEvent,
) -> Result<(), RoomError> {
    if event.state_key.is_some() || !event.content.get().contains("m.relates_to") {
        return Ok(());
    }
    let Ok(Content { relates_to }) = serde_json::from_str::<Content>(event.content.get()) else {
        return Ok(());
    };
    let target = EventHash::of(&relates_to.event_id);
    if let (Some(key), "m.annotation") = (&relates_to.key, relates_to.rel_type.as_str())
        && let Some(user) = reader.user_num(sender).await?
    {
        let range = ScanRange::prefix(&(room, target, user, annotation(&event.kind, key)));
        let same = reader
            .snapshot
            .scan(&ANNOTATIONS, range, Direction::Forward, 1)
            .await?;
        if !same.is_empty() {
            return Err(RoomError::bad(
                "M_DUPLICATE_ANNOTATION",
                "you have reacted to this event in this way already",
            ));
        }
    }
    let Some(num) = reader.event_num_of(target).await? else {
        return Ok(());
    };
    let row = reader.event_row(num).await?;
    if row.room != room {
        return Err(RoomError::bad(
            "M_UNKNOWN",
            "an event relates to events of its own room only",
        ));
    }
    if relates_to.rel_type == "m.thread" {
        let pdu = reader.pdu_of(num, &row).await?;
        if relates(&EventFields::of(pdu.json())) {
            return Err(RoomError::bad(
                "M_UNKNOWN",
                "a thread can't hang on an event that relates to another one",
            ));
        }
    }
    Ok(())
}
