//! Which state events a client lacks.
//!
//! A client knows the state at `since`. The timeline it gets begins at some event; the state just
//! before that event, less what it knows, is `state`. Where the timeline alone would leave it with
//! another state than the room's (forks and their resolution, events left out by a filter), the
//! right events are told as well, so that what the client ends with is the room's current state.

use std::collections::BTreeSet;

use resuni_rooms::{EventNum, RoomView, Shown, SnapNum, TimelineEvent};
use ruma::UserId;

use crate::{error::SyncError, filter};

/// Between which states.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    /// What the client knows; `SnapNum::EMPTY` for nothing.
    pub since: SnapNum,
    /// The room's state at the end of the answer.
    pub now: SnapNum,
}

/// The events for `state`, before the timeline.
pub(crate) async fn before_timeline(
    view: &RoomView,
    span: Span,
    timeline: &[TimelineEvent],
) -> Result<Vec<EventNum>, SyncError> {
    let start = timeline
        .first()
        .map_or(span.now, |event| event.row.snap_before);
    let told: BTreeSet<EventNum> = timeline.iter().map(|event| event.row.event).collect();
    let mut state = Vec::new();
    if span.since != start {
        state.extend(
            view.state_diff(span.since, start)
                .await?
                .into_iter()
                .filter_map(|change| change.after),
        );
    }
    if start != span.now {
        for change in view.state_diff(start, span.now).await? {
            let Some(after) = change.after.filter(|after| !told.contains(after)) else {
                continue;
            };
            match state
                .iter_mut()
                .find(|event| Some(**event) == change.before)
            {
                Some(event) => *event = after,
                None => state.push(after),
            }
        }
        // What the client knew and still holds needs no telling.
        state.retain(|event| !told.contains(event));
    }
    Ok(state)
}

/// The events for `state_after` (v1.16, MSC4222): all that changed, in the timeline or not.
pub(crate) async fn after_timeline(
    view: &RoomView,
    span: Span,
) -> Result<Vec<EventNum>, SyncError> {
    if span.since == span.now {
        return Ok(Vec::new());
    }
    Ok(view
        .state_diff(span.since, span.now)
        .await?
        .into_iter()
        .filter_map(|change| change.after)
        .collect())
}

/// Leaves out the members that a lazily loading client does not need: all but its own and those of
/// the timeline's senders; adds those senders' where they did not change (spec, "Lazy-loading room
/// members").
pub(crate) async fn lazily(
    view: &RoomView,
    at: SnapNum,
    state: Vec<Shown>,
    timeline: &[TimelineEvent],
    user: &UserId,
) -> Result<Vec<Shown>, SyncError> {
    let senders: BTreeSet<&str> = timeline
        .iter()
        .map(|event| event.fields().sender_str())
        .collect();
    let mut found = BTreeSet::new();
    let mut kept = Vec::with_capacity(state.len());
    for shown in state {
        let member = shown
            .pdu
            .state_key()
            .filter(|_| shown.pdu.kind() == "m.room.member");
        if let Some(member) = member {
            if member != user.as_str() && !senders.contains(member) {
                continue;
            }
            found.insert(member.to_owned());
        }
        kept.push(shown);
    }
    let state = view.state_at_snap(at);
    let mut missing = Vec::new();
    for sender in senders
        .into_iter()
        .filter(|sender| !found.contains(*sender))
    {
        missing.extend(state.num("m.room.member", sender).await?);
    }
    let told: BTreeSet<EventNum> = timeline.iter().map(|event| event.row.event).collect();
    missing.retain(|event| !told.contains(event));
    kept.extend(view.shown(&missing).await?);
    Ok(kept)
}

/// Whether the filter lets a state event through.
pub(crate) fn wanted(filter: &ruma::api::client::filter::RoomEventFilter, shown: &Shown) -> bool {
    filter::event(filter, shown.pdu.kind(), Some(shown.pdu.sender()))
}
