//! Which state events a client lacks.
//!
//! A client knows the state at `since`. The timeline it gets begins at some event; the state just
//! before that event, less what it knows, is `state`. Where the timeline alone would leave it with
//! another state than the room's (forks and their resolution, events left out by a filter), the
//! right events are told as well, so that what the client ends with is the room's current state.

use std::collections::BTreeSet;

use resuni_rooms::{EventNum, RoomView, Shown, SnapNum, StateChange, TimelineEvent};
use ruma::UserId;

use crate::{error::SyncError, filter};

/// Between which states.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    /// What the client knows; `SnapNum::EMPTY` for nothing.
    pub since: SnapNum,
    /// The room's state at the end of the answer.
    pub now: SnapNum,
    /// Between them the members arrived that a partial join (MSC3902) had left out: they are no news.
    pub came_whole: bool,
}

impl Span {
    /// Whether a client that loads members lazily is told of those alone that it needs. In what follows it keeps its
    /// list by what changes, senders or not (spec, "Lazy-loading room members").
    pub fn is_first_look(&self) -> bool {
        self.since == SnapNum::EMPTY || self.came_whole
    }
}

/// Whose member events are wanted: everybody's, or, for the first look of a client that loads members
/// lazily, only its own and those of the timeline's senders.
pub(crate) type Members<'a> = Option<BTreeSet<&'a str>>;

/// The users whose member events a lazily loading client needs.
pub(crate) fn needed<'a>(timeline: &'a [TimelineEvent], user: &'a UserId) -> BTreeSet<&'a str> {
    let mut needed: BTreeSet<&str> = timeline
        .iter()
        .map(|event| event.fields().sender_str())
        .collect();
    needed.insert(user.as_str());
    needed
}

async fn diff(
    view: &RoomView,
    before: SnapNum,
    after: SnapNum,
    members: &Members<'_>,
) -> Result<Vec<StateChange>, SyncError> {
    Ok(match members {
        None => view.state_diff(before, after).await?,
        Some(users) => view.state_diff_lazily(before, after, users).await?,
    })
}

/// The events for `state`, before the timeline.
pub(crate) async fn before_timeline(
    view: &RoomView,
    span: Span,
    timeline: &[TimelineEvent],
    members: &Members<'_>,
) -> Result<Vec<EventNum>, SyncError> {
    let start = timeline
        .first()
        .map_or(span.now, |event| event.row.snap_before);
    let told: BTreeSet<EventNum> = timeline.iter().map(|event| event.row.event).collect();
    let mut state = Vec::new();
    if span.since != start {
        state.extend(
            diff(view, span.since, start, members)
                .await?
                .into_iter()
                .filter_map(|change| change.after),
        );
    }
    if start != span.now {
        for change in diff(view, start, span.now, members).await? {
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
    members: &Members<'_>,
) -> Result<Vec<EventNum>, SyncError> {
    if span.since == span.now {
        return Ok(Vec::new());
    }
    Ok(diff(view, span.since, span.now, members)
        .await?
        .into_iter()
        .filter_map(|change| change.after)
        .collect())
}

/// The member events of the timeline's senders that did not change, and that a lazily loading client
/// may still lack (spec, "Lazy-loading room members").
pub(crate) async fn unchanged_senders(
    view: &RoomView,
    at: SnapNum,
    state: &[Shown],
    timeline: &[TimelineEvent],
) -> Result<Vec<Shown>, SyncError> {
    let found: BTreeSet<&str> = state
        .iter()
        .filter(|shown| shown.pdu.kind() == "m.room.member")
        .filter_map(|shown| shown.pdu.state_key())
        .collect();
    let senders: BTreeSet<&str> = timeline
        .iter()
        .map(|event| event.fields().sender_str())
        .filter(|sender| !found.contains(sender))
        .collect();
    let state = view.state_at_snap(at);
    let mut missing = Vec::new();
    for sender in senders {
        let mut member = state.num("m.room.member", sender).await?;
        if member.is_none() {
            // In a partial room somebody may be met for the first time when they say something.
            let first = timeline
                .iter()
                .find(|event| event.fields().sender_str() == sender);
            if let Some(event) = first {
                let at = view.state_at_snap(event.row.snap_before);
                member = at.num("m.room.member", sender).await?;
            }
        }
        missing.extend(member);
    }
    let told: BTreeSet<EventNum> = timeline.iter().map(|event| event.row.event).collect();
    missing.retain(|event| !told.contains(event));
    Ok(view.shown(&missing).await?)
}

/// Whether the filter lets a state event through.
pub(crate) fn wanted(filter: &ruma::api::client::filter::RoomEventFilter, shown: &Shown) -> bool {
    filter::event(filter, shown.pdu.kind(), Some(shown.pdu.sender()))
}
