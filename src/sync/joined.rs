//! A room the user is joined to.

use std::{collections::HashSet, fmt::Write};

use resuni_delivery::Unread;
use resuni_rooms::{
    Form, Gaps, Membership, PageQuery, RoomOf, RoomView, Shown, SnapNum, TimelineEvent,
    TimelineToken, Viewer,
    client_format::push_string,
    receipts::{ReceiptRow, receipt_contents},
};
use resuni_store::{Direction, Position};
use ruma::{OwnedUserId, api::client::filter::RoomEventFilter};

use crate::{
    answer::{events, list, typed},
    context::Context,
    error::SyncError,
    filter,
    state::{self, Span},
};

/// Events of a room's timeline when the filter names no number.
const DEFAULT_LIMIT: usize = 10;

/// The most events of a timeline.
pub(crate) fn timeline_limit(filter: &RoomEventFilter) -> usize {
    filter
        .limit
        .and_then(|limit| usize::try_from(u64::from(limit)).ok())
        .unwrap_or(DEFAULT_LIMIT)
}

/// A stretch of a room's timeline for a client.
pub(crate) struct Timeline {
    pub events: Vec<TimelineEvent>,
    /// There is more between the client's token and the first event.
    pub limited: bool,
    /// From where `/messages` goes on backwards.
    pub prev_batch: TimelineToken,
}

impl Context<'_> {
    /// The room's part of the answer; `None` if it has nothing new. Where it has more sticky events than are told now,
    /// `sticky_up_to` says so.
    pub(crate) async fn joined(
        &self,
        room: &RoomOf,
        sticky_up_to: &mut Option<Position>,
    ) -> Result<Option<String>, SyncError> {
        let Some(view) = self.sync.rooms.view_num(room.num).await? else {
            return Ok(None);
        };
        let lazy = filter::lazy(&self.request.filter.room.state);
        // MSC3902: who loads members eagerly is told of the room when all of them are here.
        if !lazy && view.whole_after(self.now.position) {
            return Ok(None);
        }
        let now = view.snapshot_at(self.now.position).await?;
        let known = self.known(&view, room).await?;
        let whole_after = |position| view.whole_after(position);
        let came_whole = known.is_some_and(whole_after) && !view.whole_after(self.now.position);
        let known = known.filter(|_| lazy || !came_whole);
        let mut viewer = view
            .viewer(self.who.user)
            .await?
            .ignoring(self.ignored.clone());
        let timeline = self
            .timeline(&view, &mut viewer, known, self.now.position)
            .await?;
        let span = Span {
            since: self.known_state(&view, known).await?,
            now,
            came_whole,
        };
        let state = self.state(&view, span, &timeline).await?;
        let sticky = self
            .sticky(&view, known, &timeline.events, sticky_up_to)
            .await?;
        let ephemeral = self.ephemeral(&view, room, known).await?;
        let account_data = self.room_account_data(room);
        let quiet = timeline.events.is_empty()
            && !timeline.limited
            && !came_whole
            && state.is_empty()
            && sticky.is_empty()
            && ephemeral.is_empty()
            && account_data.is_empty();
        let full = known.is_none() || self.request.full_state;
        if quiet && !full && !self.read_since(&view, known).await? {
            return Ok(None);
        }
        let members_changed = full
            || came_whole
            || state
                .iter()
                .any(|shown| shown.pdu.kind() == "m.room.member")
            || timeline
                .events
                .iter()
                .any(|event| event.fields().kind_str() == "m.room.member");
        let mut out = String::from("{\"timeline\":");
        self.write_timeline(&mut out, &mut viewer, &timeline)
            .await?;
        self.write_state(&mut out, &view, &state);
        self.write_sticky(&mut out, &mut viewer, &sticky).await?;
        out.push_str(",\"ephemeral\":");
        events(&mut out, &ephemeral);
        out.push_str(",\"account_data\":");
        events(&mut out, &account_data);
        self.write_unread(&mut out, &view).await?;
        if members_changed {
            out.push_str(",\"summary\":");
            self.write_summary(&mut out, &view).await?;
        }
        out.push('}');
        Ok(Some(out))
    }

    /// Up to where the client knows the room: not at all in a first sync, or when the user was not
    /// joined to it at the token.
    async fn known(&self, view: &RoomView, room: &RoomOf) -> Result<Option<Position>, SyncError> {
        let Some(since) = self.since() else {
            return Ok(None);
        };
        if room.row.position <= since {
            return Ok(Some(since));
        }
        let member = view
            .state_at_position(since)
            .await?
            .get("m.room.member", self.who.user.as_str())
            .await?;
        let joined = member.and_then(|member| resuni_rooms::membership_of(&member))
            == Some(Membership::Join);
        Ok(joined.then_some(since))
    }

    async fn known_state(
        &self,
        view: &RoomView,
        known: Option<Position>,
    ) -> Result<SnapNum, SyncError> {
        match known {
            Some(known) if !self.request.full_state => Ok(view.snapshot_at(known).await?),
            _ => Ok(SnapNum::EMPTY),
        }
    }

    /// The newest events up to `end` that the user may see and wants.
    pub(crate) async fn timeline(
        &self,
        view: &RoomView,
        viewer: &mut Viewer,
        known: Option<Position>,
        end: Position,
    ) -> Result<Timeline, SyncError> {
        let wanted = &self.request.filter.room.timeline;
        let nothing = Timeline {
            events: Vec::new(),
            limited: false,
            prev_batch: TimelineToken::live(end),
        };
        if !filter::events_of_room(wanted, view.room_id()) {
            return Ok(nothing);
        }
        let limit = timeline_limit(wanted);
        let keep = |event: &TimelineEvent| filter::pdu(wanted, &event.fields());
        let mut timeline = latest(viewer, (known, end), limit, &self.ignored, keep).await?;
        // A room that is new to the client is limited however short it is: there may be history
        // that its other servers have.
        timeline.limited |= limit > 0 && known.is_none() && self.since().is_some();
        Ok(timeline)
    }

    /// The state events to tell.
    pub(crate) async fn state(
        &self,
        view: &RoomView,
        span: Span,
        timeline: &Timeline,
    ) -> Result<Vec<Shown>, SyncError> {
        let wanted = &self.request.filter.room.state;
        if !filter::events_of_room(wanted, view.room_id()) {
            return Ok(Vec::new());
        }
        let events = &timeline.events;
        let lazy = filter::lazy(wanted);
        let members = (lazy && span.is_first_look()).then(|| state::needed(events, self.who.user));
        let nums = if self.request.use_state_after {
            state::after_timeline(view, span, &members).await?
        } else {
            state::before_timeline(view, span, events, &members).await?
        };
        let mut shown = view.shown(&nums).await?;
        if lazy {
            let start = events
                .first()
                .map_or(span.now, |event| event.row.snap_before);
            let at = if self.request.use_state_after {
                span.now
            } else {
                start
            };
            let more = state::unchanged_senders(view, at, &shown, events).await?;
            shown.extend(more);
        }
        shown.retain(|shown| state::wanted(wanted, shown));
        Ok(shown)
    }

    async fn ephemeral(
        &self,
        view: &RoomView,
        room: &RoomOf,
        known: Option<Position>,
    ) -> Result<Vec<String>, SyncError> {
        let wanted = &self.request.filter.room.ephemeral;
        let mut events = Vec::new();
        if !filter::events_of_room(wanted, view.room_id()) {
            return Ok(events);
        }
        if filter::event(wanted, "m.receipt", None) {
            let from = known.unwrap_or_default();
            let receipts = view
                .receipts_since(from, self.now.position, self.who.user)
                .await?;
            let receipts: Vec<_> = receipts
                .into_iter()
                .filter(|receipt| !self.ignored.contains(&receipt.user_id))
                .collect();
            events.extend(
                receipt_contents(&receipts)
                    .iter()
                    .map(|content| typed("m.receipt", content)),
            );
        }
        if filter::event(wanted, "m.typing", None) {
            let typing = self.sync.typing.now(room.num);
            let seen = self
                .request
                .since
                .filter(|_| known.is_some())
                .map(|since| since.typing);
            let news = match seen {
                Some(seen) => typing.serial > seen,
                None => !typing.users.is_empty(),
            };
            if news {
                let mut users = String::new();
                let quoted: Vec<String> = typing
                    .users
                    .iter()
                    .filter(|user| !self.ignored.contains(*user))
                    .map(|user| quoted(user.as_str()))
                    .collect();
                list(&mut users, &quoted);
                events.push(typed("m.typing", &format!("{{\"user_ids\":{users}}}")));
            }
        }
        Ok(events)
    }

    pub(crate) async fn write_timeline(
        &self,
        out: &mut String,
        viewer: &mut Viewer,
        timeline: &Timeline,
    ) -> Result<(), SyncError> {
        out.push_str("{\"events\":");
        // A client that has all events counts for itself ("Aggregations of child events").
        let form = Form {
            without_relations: !timeline.limited,
            ..self.form()
        };
        out.push_str(&self.cut(viewer.list(&timeline.events, &form).await?));
        let _ = write!(out, ",\"limited\":{},\"prev_batch\":", timeline.limited);
        push_string(out, &timeline.prev_batch.to_string());
        out.push('}');
        Ok(())
    }

    pub(crate) fn write_state(&self, out: &mut String, view: &RoomView, state: &[Shown]) {
        // `state_after` is required even when it is empty: its presence tells that `state` is not meant.
        out.push_str(if self.request.use_state_after {
            ",\"state_after\":"
        } else {
            ",\"state\":"
        });
        let form = self.form();
        let state: Vec<String> = state
            .iter()
            .map(|shown| self.cut(view.shown_json(shown, &form)))
            .collect();
        events(out, &state);
    }

    /// Whether the user has read something since the token, in whatever client: the counts change,
    /// even where the receipt itself is not wanted.
    async fn read_since(
        &self,
        view: &RoomView,
        known: Option<Position>,
    ) -> Result<bool, SyncError> {
        let known = known.unwrap_or_default();
        let receipts = view.receipts_of(self.who.user).await?;
        let new = |row: &ReceiptRow| row.position > known && row.position <= self.now.position;
        Ok(receipts.iter().any(|(_, _, row)| new(row)))
    }

    /// Spec, "Receiving notifications": the counts come with the event that changes them.
    async fn write_unread(&self, out: &mut String, view: &RoomView) -> Result<(), SyncError> {
        self.sync.push.counted(self.now.position).await;
        // The view may be older than the counts.
        let Some(view) = self.sync.rooms.view_num(view.num()).await? else {
            return Ok(());
        };
        let (account, user) = (self.who.account, self.who.user);
        let now = self.now.position;
        let unread = self.sync.push.unread(&view, account, user, now).await?;
        let write = |out: &mut String, counts: Unread| {
            let _ = write!(
                out,
                "{{\"notification_count\":{},\"highlight_count\":{}}}",
                counts.notifications, counts.highlights
            );
        };
        let threads = self
            .request
            .filter
            .room
            .timeline
            .unread_thread_notifications;
        out.push_str(",\"unread_notifications\":");
        write(out, if threads { unread.main } else { unread.total() });
        if threads && !unread.threads.is_empty() {
            for (n, (root, counts)) in unread.threads.into_iter().enumerate() {
                out.push_str(if n == 0 {
                    ",\"unread_thread_notifications\":{"
                } else {
                    ","
                });
                push_string(out, &root);
                out.push(':');
                write(out, counts);
            }
            out.push('}');
        }
        Ok(())
    }

    async fn write_summary(&self, out: &mut String, view: &RoomView) -> Result<(), SyncError> {
        let heroes: Vec<String> = view
            .heroes(self.who.user)
            .await?
            .iter()
            .map(|user| quoted(user.as_str()))
            .collect();
        let _ = write!(
            out,
            "{{\"m.joined_member_count\":{},\"m.invited_member_count\":{},\"m.heroes\":",
            view.joined_count(),
            view.invited_count()
        );
        list(out, &heroes);
        out.push('}');
        Ok(())
    }
}

/// The newest events up to `end`, none that came before `known`, that the user may see and that `wanted` lets through.
/// A client that wants no events is still told whether there were any.
pub(crate) async fn latest(
    viewer: &mut Viewer,
    (known, end): (Option<Position>, Position),
    limit: usize,
    ignored: &HashSet<OwnedUserId>,
    wanted: impl Fn(&TimelineEvent) -> bool + Send + Sync,
) -> Result<Timeline, SyncError> {
    let query = PageQuery {
        from: TimelineToken::live(end),
        to: known.map(TimelineToken::live),
        dir: Direction::Backward,
        limit: limit.max(1),
        gaps: Gaps::Stop,
    };
    let mut page = viewer
        .page(query, |event| {
            let sender = event.fields().sender_str();
            let unseen = !ignored.is_empty()
                && !event.is_state()
                && ignored.iter().any(|user| user.as_str() == sender);
            !unseen && wanted(event)
        })
        .await?;
    if limit == 0 {
        return Ok(Timeline {
            limited: !page.events.is_empty(),
            events: Vec::new(),
            prev_batch: TimelineToken::live(end),
        });
    }
    page.events.reverse();
    let prev_batch = match (page.end, page.events.first()) {
        (Some(end), _) => end,
        (None, Some(first)) => first.before(),
        (None, None) => TimelineToken::live(end),
    };
    Ok(Timeline {
        limited: page.end.is_some() || page.gap.is_some(),
        events: page.events,
        prev_batch,
    })
}

pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    push_string(&mut out, text);
    out
}
