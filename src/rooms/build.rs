//! From what somebody wants to say to an event with its place in the graph, hashed and signed.

use resuni_dag::{Draft, Pdu, Reference, auth_types, limits, sign};
use ruma::{EventId, UserId};

use crate::{
    error::RoomError,
    events::NewEvent,
    lane::{Live, Tip},
    plan::AuthState,
    resolve,
    types::{EventNum, SnapNum},
    work::Work,
};

/// Where a new event goes: after these, in this state.
pub(crate) struct Spot {
    pub prev: Vec<Tip>,
    pub depth: u64,
    pub before: SnapNum,
}

/// The end of the room. Of more forward extremities than an event may name, the newest.
pub(crate) async fn end_of(work: &mut Work<'_>, live: &Live) -> Result<Spot, RoomError> {
    let Some(head) = &live.head else {
        return Ok(Spot {
            prev: Vec::new(),
            depth: 1,
            before: SnapNum::EMPTY,
        });
    };
    let mut prev = live.tips.clone();
    let mut before = head.snap;
    if prev.len() > limits::PREV_EVENTS {
        prev.sort_by_key(|tip| std::cmp::Reverse((tip.depth, tip.event)));
        prev.truncate(limits::PREV_EVENTS);
        before =
            resolve::state_after(work, live, prev.iter().map(|tip| tip.event).collect()).await?;
    }
    let deepest = prev.iter().map(|tip| tip.depth).max().unwrap_or(0);
    Ok(Spot {
        prev,
        depth: deepest.saturating_add(1).min(limits::MAX_INTEGER),
        before,
    })
}

/// A draft at this place, with the numbers of its auth events.
pub(crate) async fn draft(
    work: &Work<'_>,
    live: &Live,
    spot: &Spot,
    sender: &UserId,
    event: NewEvent,
) -> Result<(Draft, Vec<EventNum>), RoomError> {
    let (auth, auth_events) = auth_events(work, spot.before, sender, &event).await?;
    let mut prev_events = Vec::with_capacity(spot.prev.len());
    for tip in &spot.prev {
        prev_events.push(reference(work, tip.event, &tip.id).await?);
    }
    // The id of a room of version 12 is the hash of its create event.
    let derived = event.kind == "m.room.create" && work.rules.room_id_is_create_hash();
    let draft = Draft {
        room_id: (!derived).then(|| live.room_id.clone()),
        sender: sender.to_owned(),
        kind: event.kind,
        state_key: event.state_key,
        content: event.content,
        redacts: event.redacts,
        prev_events,
        auth_events,
        depth: spot.depth,
        sticky_ms: event.sticky_ms,
        origin_server_ts: event.timestamp.unwrap_or_else(|| work.rooms.clock.now_ms()),
    };
    Ok((draft, auth))
}

/// "Auth events selection" of the server-server API.
async fn auth_events(
    work: &Work<'_>,
    before: SnapNum,
    sender: &UserId,
    event: &NewEvent,
) -> Result<(Vec<EventNum>, Vec<Reference>), RoomError> {
    let types = auth_types(
        &event.kind,
        sender,
        event.state_key.as_deref(),
        &event.content,
        work.rules,
    )
    .map_err(|error| RoomError::bad("M_BAD_JSON", error.0))?;
    let (mut nums, mut references) = (
        Vec::with_capacity(types.len()),
        Vec::with_capacity(types.len()),
    );
    for (kind, key) in types {
        if let Some(num) = work.reader.state_event(before, &kind, &key).await? {
            nums.push(num);
            let id = work.reader.event_id(num).await?;
            references.push(reference(work, num, &id).await?);
        }
    }
    Ok((nums, references))
}

/// How the events of this room name another one: with its hash up to version 2.
async fn reference(work: &Work<'_>, num: EventNum, id: &EventId) -> Result<Reference, RoomError> {
    if !work.rules.references_have_hashes() {
        return Ok(id.to_owned().into());
    }
    Ok(Reference::to(&work.reader.pdu(num).await?, work.rules)?)
}

/// Hashed, signed, within the limits, and what the auth rules will look at.
pub(crate) async fn seal(
    work: &Work<'_>,
    draft: Draft,
    before: SnapNum,
) -> Result<(Pdu, AuthState), RoomError> {
    // Events of other servers may be longer in old rooms, ours are not.
    let long = |text: &str, max| text.len() > max;
    if long(&draft.kind, limits::ID_BYTES)
        || draft
            .state_key
            .as_ref()
            .is_some_and(|key| long(key, work.rules.state_key_size()))
    {
        let message = "an event type or a state key is too long".to_owned();
        return Err(RoomError::TooLarge(message));
    }
    let pdu = sign(
        draft,
        work.rules,
        work.rooms.server_name(),
        &work.rooms.config.key,
    )?;
    let state = AuthState::read(&work.reader, before, &pdu, work.rules).await?;
    Ok((pdu, state))
}

/// One more than the greatest generation of the auth events.
pub(crate) async fn generation(work: &Work<'_>, auth: &[EventNum]) -> Result<u32, RoomError> {
    let mut generation = 0;
    for event in auth {
        generation = generation.max(
            work.reader
                .edges(*event)
                .await?
                .generation
                .saturating_add(1),
        );
    }
    Ok(generation)
}
