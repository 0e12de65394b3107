//! What an event in the timeline does to other events: it redacts them, or relates to them.
//!
//! * `index`: what is written for a relation;
//! * `bundle`: what a reader is told with an event ("Aggregations of child events");
//! * `pages`: the relations of an event and the threads of a room, page by page;
//! * `rules`: what our own users may not send;
//! * `thread`: which thread an event is in.

mod bundle;
pub mod index;
mod pages;
mod rules;
mod thread;

use resuni_dag::{Pdu, PowerLevels};
use resuni_store::{Direction, Position, ScanRange, StoreError};
use ruma::{EventId, OwnedEventId};
use serde::Deserialize;

use crate::{
    clear,
    delta::Judged,
    error::RoomError,
    tables::{HELD_REDACTIONS, Place, REDACTED_OUTLIERS, REDACTIONS, Relation},
    types::{EventHash, EventNum, RoomNum, SnapNum, UserNum},
    work::Work,
};

pub(crate) use bundle::Bundling;
pub use pages::{RelationsPage, RelationsQuery, ThreadsQuery};
pub(crate) use rules::check;
pub use thread::relation;

use index::Related;

/// Redactions that wait for the same target and are looked at when it comes.
const HELD: usize = 32;

/// Bytes of a `rel_type` or an annotation's `key` that are kept in the index: longer ones relate to nothing.
const NAME_BYTES: usize = 255;

type Spot = (Position, u32);

/// Writes the redactions and relations that follow from an event at its place in the timeline.
pub(crate) async fn put(
    work: &mut Work<'_>,
    room: RoomNum,
    (num, hash): (EventNum, EventHash),
    sender: UserNum,
    spot: Spot,
    event: &Judged,
) -> Result<(), RoomError> {
    // First of all, so that a redaction that waited for this event finds it related.
    if let Some(related) = Related::of(&event.pdu, num, sender) {
        work.relations.add(room, spot, related);
    }
    if let Some(target) = event.pdu.redacts(work.rules) {
        redact(work, room, (num, &event.pdu, event.before), target).await?;
    }
    if !event.new {
        let known = (room, num);
        if let Some(redaction) = work.reader.snapshot.get(&REDACTED_OUTLIERS, &known).await? {
            work.batch.delete(&REDACTED_OUTLIERS, &known);
            put_redaction(work, room, (num, event.place), redaction).await?;
        }
        redact_by_held(work, room, (num, hash), event).await?;
    }
    clear::begin(work, room, spot, event).await?;
    if spot.1 != u32::MAX {
        clear::late(work, (room, sender), spot, event).await?;
    }
    Ok(())
}

/// "Handling redactions" of room version 3 and later: a redaction takes effect once it and its target are known, if its
/// sender has the redact level or is of the target's server. Before that the auth rules asked the like (rule 11 of v1), so
/// that a redaction in the timeline applies.
async fn redact(
    work: &mut Work<'_>,
    room: RoomNum,
    (num, redaction, state): (EventNum, &Pdu, SnapNum),
    target: &EventId,
) -> Result<(), StoreError> {
    let hash = EventHash::of(target);
    if let Some(target) = work.reader.event_num_of(hash).await? {
        let row = work.reader.event_row(target).await?;
        if row.room != room {
            return Ok(());
        }
        if matches!(row.place, Place::Timeline { .. } | Place::Outlier) {
            let pdu = work.reader.pdu_of(target, &row).await?;
            if may_redact(work, redaction, state, &pdu).await? {
                put_redaction(work, room, (target, row.place), num).await?;
            }
            return Ok(());
        }
        if row.place != Place::Unchecked {
            return Ok(());
        }
    }
    work.batch.put(&HELD_REDACTIONS, &(room, hash, num), &());
    Ok(())
}

/// The redactions that came before their target, an event that gets its place in the timeline or among the outliers.
pub(crate) async fn redact_by_held(
    work: &mut Work<'_>,
    room: RoomNum,
    (num, hash): (EventNum, EventHash),
    target: &Judged,
) -> Result<(), StoreError> {
    let range = ScanRange::prefix(&(room, hash));
    let held = work
        .reader
        .snapshot
        .scan(&HELD_REDACTIONS, range, Direction::Forward, HELD)
        .await?;
    let mut redacted = false;
    for (key, ()) in held {
        let row = work.reader.event_row(key.2).await?;
        let redaction = work.reader.pdu_of(key.2, &row).await?;
        if !redacted && may_redact(work, &redaction, row.snap_before, &target.pdu).await? {
            put_redaction(work, room, (num, target.place), key.2).await?;
            redacted = true;
        }
        work.batch.delete(&HELD_REDACTIONS, &key);
    }
    Ok(())
}

/// Takes back what an event wrote at its place: it turned out to be forbidden.
pub(crate) async fn take_back(
    work: &mut Work<'_>,
    room: RoomNum,
    (num, sender): (EventNum, UserNum),
    spot: Spot,
    pdu: &Pdu,
) -> Result<(), StoreError> {
    let snapshot = work.reader.snapshot.clone();
    let own = (room, spot.0, spot.1);
    if snapshot.contains(&REDACTIONS, &own).await? {
        work.batch.delete(&REDACTIONS, &own);
    } else if let Some(related) = Related::of(pdu, num, sender) {
        work.relations.remove(room, spot, related);
    }
    clear::take_back(work, room, num, pdu).await?;
    let Some(hash) = pdu.redacts(work.rules).map(EventHash::of) else {
        return Ok(());
    };
    work.batch.delete(&HELD_REDACTIONS, &(room, hash, num));
    let Some(target) = work.reader.event_num_of(hash).await? else {
        return Ok(());
    };
    let row = work.reader.event_row(target).await?;
    if let Place::Timeline { position, sub } = row.place {
        let key = (room, position, sub);
        if snapshot.get(&REDACTIONS, &key).await? == Some(num) {
            unredact(work, room, target, (position, sub)).await?;
        }
    } else if snapshot.get(&REDACTED_OUTLIERS, &(room, target)).await? == Some(num) {
        work.batch.delete(&REDACTED_OUTLIERS, &(room, target));
    }
    Ok(())
}

/// The event at this place is redacted no more.
pub(crate) async fn unredact(
    work: &mut Work<'_>,
    room: RoomNum,
    num: EventNum,
    (position, sub): Spot,
) -> Result<(), StoreError> {
    work.batch.delete(&REDACTIONS, &(room, position, sub));
    let row = work.reader.event_row(num).await?;
    let pdu = work.reader.pdu_of(num, &row).await?;
    if let Some(related) = Related::of(&pdu, num, row.sender) {
        work.relations.add(room, (position, sub), related);
    }
    Ok(())
}

/// The first redaction that applies is kept.
pub(crate) async fn put_redaction(
    work: &mut Work<'_>,
    room: RoomNum,
    (target, place): (EventNum, Place),
    redaction: EventNum,
) -> Result<(), StoreError> {
    if let Place::Timeline { position, sub } = place {
        let key = (room, position, sub);
        if !work.reader.snapshot.contains(&REDACTIONS, &key).await? {
            work.batch.put(&REDACTIONS, &key, &redaction);
            let row = work.reader.event_row(target).await?;
            let pdu = work.reader.pdu_of(target, &row).await?;
            if let Some(related) = Related::of(&pdu, target, row.sender) {
                work.relations.remove(room, (position, sub), related);
            }
        }
    } else if !work
        .reader
        .snapshot
        .contains(&REDACTED_OUTLIERS, &(room, target))
        .await?
    {
        work.batch
            .put(&REDACTED_OUTLIERS, &(room, target), &redaction);
    }
    Ok(())
}

async fn may_redact(
    work: &Work<'_>,
    redaction: &Pdu,
    state: SnapNum,
    target: &Pdu,
) -> Result<bool, StoreError> {
    if work.rules.redactions_are_authorised() {
        return Ok(true);
    }
    let Some(create) = work.reader.state_pdu(state, "m.room.create", "").await? else {
        return Ok(false);
    };
    let levels = work
        .reader
        .state_pdu(state, "m.room.power_levels", "")
        .await?;
    let levels = PowerLevels::read(&create, levels.as_ref(), work.rules);
    Ok(levels.is_ok_and(|levels| levels.may_redact(redaction.sender(), target.sender())))
}

#[derive(Deserialize)]
struct Content {
    #[serde(rename = "m.relates_to")]
    relates_to: RelatesTo,
}

#[derive(Deserialize)]
struct RelatesTo {
    rel_type: String,
    event_id: OwnedEventId,
    #[serde(default)]
    key: Option<String>,
}

/// "Relationship definition" of the client-server API: `m.relates_to` with a `rel_type` and an `event_id`.
fn relation_of(pdu: &Pdu, event: EventNum, sender: UserNum) -> Option<(EventHash, Relation)> {
    if !pdu.content().get().contains("m.relates_to") {
        return None;
    }
    let RelatesTo {
        rel_type,
        event_id,
        key,
    } = pdu.content_as::<Content>().ok()?.relates_to;
    if rel_type.len() > NAME_BYTES || key.as_ref().is_some_and(|key| key.len() > NAME_BYTES) {
        return None;
    }
    let relation = Relation {
        rel_type,
        event,
        kind: pdu.kind().to_owned(),
        sender,
        key,
    };
    Some((EventHash::of(&event_id), relation))
}
