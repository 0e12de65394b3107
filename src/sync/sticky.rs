//! Sticky events (MSC4354): of each joined room those that came since the token, however many other events did. Who joins
//! is told all of them, whatever the history visibility: so is a user who may see nothing of the time before.

use std::collections::HashSet;

use resuni_rooms::{EventNum, Form, RoomView, TimelineEvent, Viewer};
use resuni_store::Position;
use ruma::OwnedUserId;

use crate::{context::Context, error::SyncError};

/// Sticky events of a room in one answer; more come with the next.
pub(crate) const MOST: usize = 100;

/// Those of a room that came in `(since, now]`, without what stands in the answer's `timeline` and what ignored users
/// sent; and the position after which there are more.
pub(crate) async fn new(
    view: &RoomView,
    (since, now): (Position, Position),
    now_ms: u64,
    timeline: &HashSet<EventNum>,
    ignored: &HashSet<OwnedUserId>,
) -> Result<(Vec<TimelineEvent>, Option<Position>), SyncError> {
    let mut page = view.sticky((since, now), now_ms, MOST).await?;
    page.events.retain(|event| {
        let sender = event.fields().sender_str();
        !timeline.contains(&event.row.event) && ignored.iter().all(|user| user.as_str() != sender)
    });
    Ok((page.events, page.more))
}

impl Context<'_> {
    /// The sticky events of a room that the client lacks. The filter does not apply to them, but to the timeline: what it
    /// leaves out there is told here.
    pub(crate) async fn sticky(
        &self,
        view: &RoomView,
        known: Option<Position>,
        timeline: &[TimelineEvent],
        up_to: &mut Option<Position>,
    ) -> Result<Vec<TimelineEvent>, SyncError> {
        let since = match (known, self.request.since) {
            (Some(_), Some(since)) => since.sticky,
            _ => Position(0),
        };
        let shown = timeline.iter().map(|event| event.row.event).collect();
        let (now, now_ms) = (self.now.position, self.sync.rooms.now_ms());
        let (events, more) = new(view, (since, now), now_ms, &shown, &self.ignored).await?;
        if let Some(more) = more {
            // The next answer begins there for all rooms: what some of them have told already is told again.
            *up_to = Some(up_to.map_or(more, |up_to| up_to.min(more)));
        }
        Ok(events)
    }

    /// Writes the section, if there is anything in it.
    pub(crate) async fn write_sticky(
        &self,
        out: &mut String,
        viewer: &mut Viewer,
        events: &[TimelineEvent],
    ) -> Result<(), SyncError> {
        if events.is_empty() {
            return Ok(());
        }
        let form = Form {
            without_relations: true,
            ..self.form()
        };
        out.push_str(",\"msc4354_sticky\":{\"events\":");
        out.push_str(&self.cut(viewer.list(events, &form).await?));
        out.push('}');
        Ok(())
    }
}
