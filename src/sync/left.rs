//! A room the user left, was kicked or banned from, or whose invite came to nothing.

use resuni_rooms::{Membership, RoomOf, RoomView, SnapNum, TimelineEvent, membership_of};

use resuni_store::Position;

use crate::{
    answer::events,
    context::Context,
    error::SyncError,
    filter,
    joined::{Timeline, timeline_limit},
    state::Span,
};

impl Context<'_> {
    /// The room up to the user's leaving. Nothing after it is told (CVE-2024-53867).
    pub(crate) async fn left(&self, room: &RoomOf) -> Result<Option<String>, SyncError> {
        let Some(view) = self.sync.rooms.view_num(room.num).await? else {
            return self.declined(room).await;
        };
        let mut known = None;
        if let Some(since) = self.since() {
            let before = view
                .state_at_position(since)
                .await?
                .get("m.room.member", self.who.user.as_str())
                .await?;
            known = before
                .and_then(|member| membership_of(&member))
                .filter(|was| *was == Membership::Join)
                .map(|_| since);
        }
        let end = room.row.position.min(self.now.position);
        let mut viewer = view
            .viewer(self.who.user)
            .await?
            .ignoring(self.ignored.clone());
        // Who declined, and was not in the room in between, had been told what there is up to then.
        let from = match self.since() {
            Some(since) if known.is_none() && !self.was_in_before(&view, end).await? => Some(since),
            _ => known,
        };
        let mut timeline = self.timeline(&view, &mut viewer, from, end).await?;
        self.end_with_leaving(&view, room, &mut timeline).await?;
        let since = match known {
            Some(known) => view.snapshot_at(known).await?,
            None => SnapNum::EMPTY,
        };
        // Who was never in the room learns nothing of its state but their own membership.
        let was_member = known.is_some() || view.readable_state(self.who.user).await.is_ok();
        let state = if was_member {
            let now = view.snapshot_at(end).await?;
            let span = Span {
                since,
                now,
                came_whole: false,
            };
            self.state(&view, span, &timeline).await?
        } else {
            Vec::new()
        };
        let mut out = String::from("{\"timeline\":");
        self.write_timeline(&mut out, &mut viewer, &timeline)
            .await?;
        self.write_state(&mut out, &view, &state);
        out.push_str(",\"account_data\":");
        events(&mut out, &self.room_account_data(room));
        out.push('}');
        Ok(Some(out))
    }

    /// Who declined an invite sees that, and who was banned after they had left sees that too, whatever the history
    /// visibility says of the rest.
    async fn end_with_leaving(
        &self,
        view: &RoomView,
        room: &RoomOf,
        timeline: &mut Timeline,
    ) -> Result<(), SyncError> {
        let wanted = &self.request.filter.room.timeline;
        let last = timeline.events.last().map(|event| event.row.event);
        let limit = timeline_limit(wanted);
        if last == Some(room.row.event) || limit == 0 {
            return Ok(());
        }
        let Some(leaving) = own_leaving(view, room).await? else {
            return Ok(());
        };
        if last.is_none() || filter::pdu(wanted, &leaving.fields()) {
            timeline.events.push(leaving);
        }
        if timeline.events.len() > limit {
            timeline.events.remove(0);
            timeline.limited = true;
            if let Some(first) = timeline.events.first() {
                timeline.prev_batch = first.before();
            }
        }
        Ok(())
    }

    /// Whether the user was joined until the event at this position.
    async fn was_in_before(&self, view: &RoomView, leaving: Position) -> Result<bool, SyncError> {
        let before = view
            .state_at_position(Position(leaving.0.saturating_sub(1)))
            .await?
            .get("m.room.member", self.who.user.as_str())
            .await?;
        Ok(before.and_then(|member| membership_of(&member)) == Some(Membership::Join))
    }

    /// An invite or a knock of a room we are not in has ended: there is nothing to tell but that.
    async fn declined(&self, room: &RoomOf) -> Result<Option<String>, SyncError> {
        if self.since().is_none() {
            return Ok(None);
        }
        let leave = self
            .sync
            .rooms
            .member_event(self.who.user, room.num, &self.form())
            .await?;
        let mut out = String::from("{\"timeline\":");
        events(&mut out, &leave.into_iter().collect::<Vec<_>>());
        let state = if self.request.use_state_after {
            "state_after"
        } else {
            "state"
        };
        out.push_str(&format!(",\"{state}\":{{\"events\":[]}}}}"));
        Ok(Some(out))
    }
}

/// The event with which the user left, if it has a place in the timeline.
async fn own_leaving(view: &RoomView, room: &RoomOf) -> Result<Option<TimelineEvent>, SyncError> {
    match view.pdus(&[room.row.event]).await?.first() {
        Some(leave) => Ok(view.timeline_event(leave.event_id()).await?),
        None => Ok(None),
    }
}
