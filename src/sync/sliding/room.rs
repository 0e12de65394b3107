//! One room in an answer.

use std::{collections::HashSet, fmt::Write};

use resuni_rooms::{
    EventNum, Form, Membership, RoomView, SnapNum, TimelineEvent, UserNum, client_format::stripped,
};
use resuni_store::Position;
use ruma::{OwnedEventId, UserId};

use super::{Look, SlidingForm, connection::Sent, window::Chosen};
use crate::{
    answer::list,
    error::SyncError,
    joined::{Timeline, latest, quoted},
};

pub(super) const MEMBER: &str = "m.room.member";
/// Members that a connection remembers to have sent of a room. Beyond it, it sends them again as they are needed.
const MEMBERS: usize = 100;

/// What is told of a room, and what the client has of it then. The outer none: as before; the inner one: nothing.
#[derive(Default)]
pub(crate) struct Told {
    pub json: Option<String>,
    pub sent: Option<Option<Sent>>,
    /// The events of a room that is new to the client.
    pub events: Vec<OwnedEventId>,
    /// The events of the timeline.
    pub timeline: HashSet<EventNum>,
}

/// Changes of the state: those to tell, and whether what is derived from the state is another.
#[derive(Default)]
pub(super) struct State {
    events: Vec<EventNum>,
    /// Keys that hold nothing any more.
    removed: Vec<(String, String)>,
    pub(super) name: bool,
    pub(super) avatar: bool,
    pub(super) people: bool,
}

/// The span that is told of a room that the user is, or was, joined to.
struct Span<'a> {
    /// What the client has of it.
    known: Option<&'a Sent>,
    /// Up to where it is told.
    end: Position,
    /// More of the timeline is wanted than the client has.
    expanded: bool,
    /// All members have come meanwhile (MSC3902).
    came_whole: bool,
}

impl Look<'_> {
    pub async fn room(&self, chosen: &Chosen) -> Result<Told, SyncError> {
        match chosen.entry.membership {
            Membership::Join => self.present(chosen).await,
            Membership::Invite | Membership::Knock => self.asked(chosen).await,
            Membership::Leave | Membership::Ban => self.past(chosen).await,
        }
    }

    /// A room the user is joined to.
    async fn present(&self, chosen: &Chosen) -> Result<Told, SyncError> {
        let entry = &chosen.entry;
        // Who came back is told of the room anew.
        let sent = self.seen.rooms.get(&chosen.num);
        let known = sent.filter(|sent| sent.joined && entry.since <= sent.up_to);
        let limit = small(chosen.wanted.limit);
        let expanded = known.is_some_and(|sent| limit > sent.limit && sent.have < limit);
        if let Some(sent) = known {
            let news = entry.activity > sent.up_to || sent.is_dm != chosen.is_dm;
            if !news && !expanded && !chosen.other_state && !self.has_read(chosen, sent) {
                let other = sent.limit != limit;
                let now = || Sent {
                    limit,
                    wanted: chosen.wanted.clone(),
                    ..sent.clone()
                };
                return Ok(Told {
                    json: None,
                    sent: other.then(|| Some(now())),
                    ..Told::default()
                });
            }
        }
        let Some(view) = self.sync.rooms.view_num(chosen.num).await? else {
            return Ok(Told::default());
        };
        let end = self.now.position;
        // MSC3902: who wants all members is told of the room when all of them are here.
        if chosen.wanted.all_members() && view.whole_after(end) {
            return Ok(Told::default());
        }
        let span = Span {
            known,
            end,
            expanded,
            came_whole: known.is_some_and(|sent| view.whole_after(sent.up_to))
                && !view.whole_after(end),
        };
        self.write(chosen, &view, span).await
    }

    /// Whether the user has read something in the room that the client does not know of, in whatever client: the
    /// unread counts change, of which only the unstable form tells.
    fn has_read(&self, chosen: &Chosen, sent: &Sent) -> bool {
        let read = |log: &super::stretch::Named| log.read.contains(&chosen.num);
        self.request.form == SlidingForm::Unstable
            && (sent.unread || self.stretch.log.as_ref().is_none_or(read))
    }

    /// An invite or a knock.
    async fn asked(&self, chosen: &Chosen) -> Result<Told, SyncError> {
        if !chosen.entry.listed || self.knows_of(chosen) {
            return Ok(Told::default());
        }
        let rooms = &self.sync.rooms;
        let Some(events) = rooms.stripped_state(self.who.user, chosen.num).await? else {
            return Ok(Told::default());
        };
        let mut out = self.begin(chosen, true);
        let _ = write!(out, ",\"{}\":{events}", self.stripped_name());
        let _ = write!(out, ",\"bump_stamp\":{}}}", chosen.entry.since.0);
        Ok(self.told(chosen, out))
    }

    fn stripped_name(&self) -> &'static str {
        match self.request.form {
            SlidingForm::Accepted => "stripped_state",
            SlidingForm::Unstable => "invite_state",
        }
    }

    /// Whether the client has been told of the membership as it is, which is none of a joined user.
    fn knows_of(&self, chosen: &Chosen) -> bool {
        let sent = self.seen.rooms.get(&chosen.num);
        sent.is_some_and(|sent| !sent.joined && sent.up_to >= chosen.entry.since)
    }

    /// A room the user is in no more, or whose invite came to nothing: up to their leaving, and nothing after it
    /// (CVE-2024-53867).
    async fn past(&self, chosen: &Chosen) -> Result<Told, SyncError> {
        if self.knows_of(chosen) {
            return Ok(Told::default());
        }
        let known = self.seen.rooms.get(&chosen.num);
        let Some(view) = self.sync.rooms.view_num(chosen.num).await? else {
            return self.declined(chosen).await;
        };
        let user = self.who.user;
        let readable = view.readable_state(user).await;
        let was_joined = known.is_some_and(|sent| sent.joined) || readable.is_ok();
        if !was_joined {
            return self.declined(chosen).await;
        }
        let span = Span {
            known: known.filter(|sent| sent.joined),
            end: chosen.entry.since.min(self.now.position),
            expanded: false,
            came_whole: false,
        };
        self.write(chosen, &view, span).await
    }

    /// There is nothing to tell but that the user is not invited any more; who was never told of the invite need not
    /// know of its end.
    async fn declined(&self, chosen: &Chosen) -> Result<Told, SyncError> {
        if !self.seen.rooms.contains_key(&chosen.num) {
            return Ok(Told::default());
        }
        let form = self.form();
        let rooms = &self.sync.rooms;
        let leave = rooms.member_event(self.who.user, chosen.num, &form).await?;
        let mut out = self.begin(chosen, true);
        if let Some(leave) = leave {
            if self.request.form == SlidingForm::Accepted {
                let stripped: Vec<String> = stripped(&leave).into_iter().collect();
                out.push_str(",\"stripped_state\":");
                list(&mut out, &stripped);
            } else {
                let _ = write!(out, ",\"required_state\":[{leave}],\"timeline\":[{leave}]");
            }
        }
        let _ = write!(out, ",\"bump_stamp\":{}}}", chosen.entry.since.0);
        Ok(self.told(chosen, out))
    }

    /// A room of which no timeline is kept up to date.
    fn told(&self, chosen: &Chosen, json: String) -> Told {
        let sent = Sent {
            is_dm: chosen.is_dm,
            ..Sent::of(self.now.position, chosen.wanted.clone())
        };
        Told {
            json: Some(json),
            sent: Some((!chosen.is_farewell()).then_some(sent)),
            ..Told::default()
        }
    }

    /// What every room has.
    fn begin(&self, chosen: &Chosen, initial: bool) -> String {
        let mut out = format!("{{\"initial\":{initial}");
        if self.request.form == SlidingForm::Accepted {
            let _ = write!(
                out,
                ",\"membership\":\"{}\"",
                chosen.entry.membership.as_str()
            );
            if !chosen.lists.is_empty() {
                let lists: Vec<String> = chosen.lists.iter().map(|name| quoted(name)).collect();
                out.push_str(",\"lists\":");
                list(&mut out, &lists);
            }
        }
        out
    }

    pub(super) fn form(&self) -> Form<'_> {
        Form {
            now_ms: self.sync.rooms.now_ms(),
            device: self.who.device.map(|device| device.as_str()),
            without_room_id: true,
            federation: false,
            without_relations: false,
        }
    }

    /// Timeline, state and what is derived from it.
    async fn write(
        &self,
        chosen: &Chosen,
        view: &RoomView,
        span: Span<'_>,
    ) -> Result<Told, SyncError> {
        let initial = span.known.is_none();
        let live = chosen.entry.membership == Membership::Join;
        let mut viewer = view
            .viewer(self.who.user)
            .await?
            .ignoring(self.ignored.clone());
        let known = span.known.filter(|_| !span.expanded).map(|sent| sent.up_to);
        let limit = chosen.wanted.limit;
        let timeline = latest(&mut viewer, (known, span.end), limit, &self.ignored, |_| {
            true
        })
        .await?;
        let mut state = self.state(chosen, view, &span, &timeline).await?;
        let mut members = span
            .known
            .map(|sent| sent.members.clone())
            .unwrap_or_default();
        if timeline.limited || span.known.is_some_and(|sent| !sent.wanted.lazy_members()) {
            // The client forgets its members (MSC4186, "Lazy loaded memberships").
            members.clear();
        }
        let snap = view.snapshot_at(span.end).await?;
        if chosen.wanted.lazy_members() {
            self.needed_members(view, snap, &timeline.events, (&mut state, &mut members))
                .await?;
        }
        if !live {
            let own = view
                .state_at_snap(snap)
                .num(MEMBER, self.who.user.as_str())
                .await?;
            state
                .events
                .extend(own.filter(|own| !state.events.contains(own)));
        }
        let mut out = self.begin(chosen, initial);
        self.write_names(&mut out, view, (snap, initial), &state, live)
            .await?;
        if span.known.is_none_or(|sent| sent.is_dm != chosen.is_dm) && (chosen.is_dm || !initial) {
            let _ = write!(out, ",\"is_dm\":{}", chosen.is_dm);
        }
        self.write_state(&mut out, view, &state).await?;
        let form = Form {
            without_relations: !timeline.limited && !initial && !span.expanded,
            ..self.form()
        };
        out.push_str(",\"timeline\":");
        out.push_str(&viewer.list(&timeline.events, &form).await?);
        self.write_timeline_facts(&mut out, &timeline, span.expanded);
        let bump = match live {
            true => view.bump_stamp().await?.unwrap_or(chosen.entry.since),
            false => chosen.entry.since,
        };
        let _ = write!(out, ",\"bump_stamp\":{}", bump.0);
        if live && self.request.form == SlidingForm::Unstable {
            self.write_unread(&mut out, view).await?;
        }
        out.push('}');
        let before = self.seen.rooms.get(&chosen.num).cloned();
        let sent = Sent {
            up_to: self.now.position,
            have: have(&span, &timeline),
            limit: small(limit),
            wanted: chosen.wanted.clone(),
            members,
            unread: false,
            joined: live,
            is_dm: chosen.is_dm,
            ..before.unwrap_or_else(|| Sent::of(self.now.position, chosen.wanted.clone()))
        };
        let events = timeline.events.iter().filter(|_| initial);
        Ok(Told {
            timeline: timeline
                .events
                .iter()
                .map(|event| event.row.event)
                .collect(),
            events: events.map(TimelineEvent::event_id).collect(),
            json: Some(out),
            sent: Some((live || !chosen.is_farewell()).then_some(sent)),
        })
    }

    /// What changed of the state that is wanted, or all of it.
    async fn state(
        &self,
        chosen: &Chosen,
        view: &RoomView,
        span: &Span<'_>,
        timeline: &Timeline,
    ) -> Result<State, SyncError> {
        let wanted = &chosen.wanted;
        let now = view.snapshot_at(span.end).await?;
        let Some(sent) = span.known else {
            let whole = |kind: &str, key: &str| wanted.state(kind, key);
            return Ok(State {
                events: self.whole(chosen, view, now, whole).await?,
                name: true,
                avatar: true,
                people: true,
                ..State::default()
            });
        };
        let before = view.snapshot_at(sent.up_to).await?;
        let mut state = State {
            people: span.came_whole,
            ..State::default()
        };
        // MSC4186, "Lazy loaded memberships": where nothing is left out, members are told as they change.
        let members = wanted.lazy_members() && !timeline.limited && !span.came_whole;
        for (kind, key, event) in view.state_diff_named(before, now).await? {
            state.name |= kind == "m.room.name";
            state.avatar |= kind == "m.room.avatar";
            state.people |= kind == MEMBER;
            let told = wanted.state(&kind, &key) || members && kind == MEMBER;
            if !told {
                continue;
            }
            match event {
                Some(event) => state.events.push(event),
                None => state.removed.push((kind, key)),
            }
        }
        if chosen.other_state {
            let more =
                |kind: &str, key: &str| wanted.state(kind, key) && !sent.wanted.state(kind, key);
            let more = self.whole(chosen, view, now, more).await?;
            let known = std::mem::take(&mut state.events);
            state.events = more
                .iter()
                .copied()
                .filter(|event| !known.contains(event))
                .collect();
            state.events.extend(known);
        }
        Ok(state)
    }

    /// The events of a state whose type and key are wanted. Costs no more than the state without its members unless all
    /// members are wanted.
    async fn whole(
        &self,
        chosen: &Chosen,
        view: &RoomView,
        snap: SnapNum,
        wanted: impl Fn(&str, &str) -> bool,
    ) -> Result<Vec<EventNum>, SyncError> {
        let mut events = Vec::new();
        if chosen.wanted.all_members() {
            for (kind, key, event) in view.state_diff_named(SnapNum::EMPTY, snap).await? {
                events.extend(event.filter(|_| wanted(&kind, &key)));
            }
        } else {
            for (kind, key, event) in view.settings_named(snap).await? {
                events.extend(wanted(&kind, &key).then_some(event));
            }
            let state = view.state_at_snap(snap);
            for user in chosen.wanted.members().filter(|user| wanted(MEMBER, user)) {
                events.extend(state.num(MEMBER, user).await?);
            }
        }
        // Oldest first, as far as numbers tell.
        events.sort_unstable();
        events.dedup();
        Ok(events)
    }

    /// Adds the members that the timeline needs and the client has not been sent.
    async fn needed_members(
        &self,
        view: &RoomView,
        snap: SnapNum,
        timeline: &[TimelineEvent],
        (state, sent): (&mut State, &mut Vec<UserNum>),
    ) -> Result<(), SyncError> {
        let members = view.state_at_snap(snap);
        let mut needed: Vec<&str> = Vec::new();
        for event in timeline {
            let fields = event.fields();
            needed.push(fields.sender_str());
            if fields.kind_str() == MEMBER {
                needed.extend(fields.state_key_str());
            }
        }
        needed.sort_unstable();
        needed.dedup();
        for user in needed {
            let Ok(id) = <&UserId>::try_from(user) else {
                continue;
            };
            let Some(num) = view.user_num(id).await? else {
                continue;
            };
            if sent.contains(&num) {
                continue;
            }
            if let Some(event) = members.num(MEMBER, user).await? {
                if !state.events.contains(&event) {
                    state.events.push(event);
                }
                sent.push(num);
            }
        }
        if sent.len() > MEMBERS {
            sent.drain(..sent.len() - MEMBERS);
        }
        Ok(())
    }

    async fn write_state(
        &self,
        out: &mut String,
        view: &RoomView,
        state: &State,
    ) -> Result<(), SyncError> {
        let mut events = view.state_json(&state.events, &self.form()).await?;
        if self.request.form == SlidingForm::Accepted {
            let stub = |(kind, key): &(String, String)| {
                format!(
                    "{{\"type\":{},\"state_key\":{}}}",
                    quoted(kind),
                    quoted(key)
                )
            };
            events.extend(state.removed.iter().map(stub));
        }
        if !events.is_empty() {
            out.push_str(",\"required_state\":");
            list(out, &events);
        }
        Ok(())
    }

    fn write_timeline_facts(&self, out: &mut String, timeline: &Timeline, expanded: bool) {
        let since = self.seen.token.map(|token| token.position);
        let is_live = |event: &&TimelineEvent| {
            event.token.sub == u32::MAX && since.is_some_and(|since| event.token.position > since)
        };
        let live = timeline.events.iter().filter(is_live).count();
        let _ = write!(
            out,
            ",\"prev_batch\":\"{}\",\"limited\":{},\"num_live\":{live}",
            timeline.prev_batch, timeline.limited
        );
        if expanded {
            out.push_str(match self.request.form {
                SlidingForm::Accepted => ",\"expanded_timeline\":true",
                SlidingForm::Unstable => ",\"unstable_expanded_timeline\":true",
            });
        }
    }

    async fn write_unread(&self, out: &mut String, view: &RoomView) -> Result<(), SyncError> {
        let push = &self.sync.push;
        let unread = push.unread(view, self.who.account, self.who.user, self.now.position);
        let unread = unread.await?.total();
        let _ = write!(
            out,
            ",\"notification_count\":{},\"highlight_count\":{}",
            unread.notifications, unread.highlights
        );
        Ok(())
    }
}

/// How many of the newest events the client has with this answer.
fn have(span: &Span<'_>, timeline: &Timeline) -> u32 {
    let told = small(timeline.events.len());
    match span.known {
        _ if timeline.limited => told,
        Some(sent) if !span.expanded => sent.have.saturating_add(told),
        // From the first event on, or as far as the user may see.
        _ => u32::MAX,
    }
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
