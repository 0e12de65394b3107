//! `/events` and `/initialSync`, which `/sync` has replaced: the events of rooms one after the other, and rooms as they
//! are now.

use std::fmt::Write;

use resuni_rooms::{
    Form, Gaps, Membership, PageQuery, RoomNum, RoomOf, RoomView, TimelineToken, Viewer,
    client_format::{Unsigned, push_string, write_client_event},
};
use resuni_store::{Direction, Position};
use ruma::{OwnedRoomId, RoomId};
use tokio::time::{Duration, Instant};

use crate::{
    MAX_TIMEOUT, Sync, SyncToken, Who,
    answer::{list, typed},
    changes::Changes,
    error::SyncError,
    token::BadToken,
};

/// The most events of one answer; the next one goes on after the last of them.
const MAX_EVENTS: usize = 100;

/// What a client asks `/events` for.
#[derive(Debug, Clone, Default)]
pub struct StreamRequest {
    /// `end` of the answer before; none: what comes from now on.
    pub from: Option<SyncToken>,
    /// A room that the user may read, joined to it or not; none: all rooms they are joined to.
    pub room: Option<OwnedRoomId>,
    /// How long to wait for an event. Nothing waits longer than [`MAX_TIMEOUT`].
    pub timeout: Duration,
}

impl StreamRequest {
    /// Reads `from`: `end` of an answer of `/events` or `/initialSync`, or the `end` of a room's messages in the latter,
    /// with which old clients begin to look into a room.
    pub fn place(text: &str) -> Result<SyncToken, BadToken> {
        text.parse().or_else(|_| {
            let messages: TimelineToken = text.parse().map_err(|_| BadToken)?;
            Ok(SyncToken::at(messages.position, 0))
        })
    }
}

/// Events by the position they arrived at.
type Arrived = Vec<(Position, String)>;

impl Sync {
    /// The body of an answer of `/events`.
    pub async fn stream(&self, who: Who<'_>, request: &StreamRequest) -> Result<String, SyncError> {
        let start = request.from.unwrap_or_else(|| self.now());
        if start.position > self.now().position {
            return Err(SyncError::TokenFromTheFuture);
        }
        let deadline = Instant::now() + request.timeout.min(MAX_TIMEOUT);
        let user = self.rooms.user_num(who.user).await?;
        // Registered before the first look, so that nothing falls between look and wait.
        let waiter = self.waiters.register(user, who.account);
        let mut stopping = self.stopping.subscribe();
        let mut log = self.rooms.store().log().watch();
        loop {
            log.borrow_and_update();
            let now = self.now();
            let rooms = self.followed(who, request, start, now).await?;
            let mut events = self.came(who, request, &rooms, (start, now)).await?;
            let end = end_of(&mut events, start, now);
            let all = request.room.is_none();
            let told = self.ephemeral_came(who, &rooms, all, (start, end)).await?;
            if !events.is_empty()
                || !told.is_empty()
                || *stopping.borrow()
                || Instant::now() >= deadline
            {
                let events = events.into_iter().map(|(_, json)| json);
                return Ok(chunk(start, end, events.chain(told).collect()));
            }
            tokio::select! {
                () = waiter.woken() => {}
                // Nobody is woken for a room that they are not in.
                _ = log.changed(), if request.room.is_some() => {}
                () = tokio::time::sleep_until(deadline) => {}
                _ = stopping.changed() => {}
            }
        }
    }

    /// What came between two tokens: of each room one more than an answer holds, at most.
    async fn came(
        &self,
        who: Who<'_>,
        request: &StreamRequest,
        rooms: &[RoomNum],
        (since, now): (SyncToken, SyncToken),
    ) -> Result<Arrived, SyncError> {
        let mut events = Vec::new();
        for room in rooms {
            let Some(view) = self.rooms.view_num(*room).await? else {
                continue;
            };
            if request.room.is_some() {
                view.readable_state(who.user).await?;
            }
            let mut viewer = self.eyes(who, &view).await?;
            let query = PageQuery {
                from: TimelineToken::live(since.position),
                to: Some(TimelineToken::live(now.position)),
                dir: Direction::Forward,
                limit: MAX_EVENTS + 1,
                gaps: Gaps::Pass,
            };
            // History that was fetched since is no news.
            let live = |token: TimelineToken| token == TimelineToken::live(token.position);
            let page = viewer.page(query, |event| live(event.token)).await?;
            for event in page.events {
                let json = viewer.json(&event, &self.form_for(who)).await?;
                events.push((event.token.position, json));
            }
        }
        Ok(events)
    }

    /// The rooms to look into.
    async fn followed(
        &self,
        who: Who<'_>,
        request: &StreamRequest,
        since: SyncToken,
        now: SyncToken,
    ) -> Result<Vec<RoomNum>, SyncError> {
        if let Some(room) = &request.room {
            return Ok(vec![self.rooms.view_known(room).await?.num()]);
        }
        let log = self.rooms.store().log();
        let rooms = match log.recent(since.position, now.position) {
            Some(entries) => {
                let named: Vec<_> = Changes::of(&entries).rooms.into_iter().collect();
                self.rooms.rooms_of_among(who.user, &named).await?
            }
            None => self.rooms.rooms_of(who.user, &[Membership::Join]).await?,
        };
        let joined = rooms
            .into_iter()
            .filter(|room| room.row.membership == Membership::Join);
        Ok(joined.map(|room| room.num).collect())
    }

    async fn eyes(&self, who: Who<'_>, view: &RoomView) -> Result<Viewer, SyncError> {
        let ignored = self.accounts.ignored_users(who.account).await?;
        Ok(view.viewer(who.user).await?.ignoring(ignored))
    }

    fn form_for<'a>(&self, who: Who<'a>) -> Form<'a> {
        Form {
            now_ms: self.rooms.now_ms(),
            device: who.device.map(|device| device.as_str()),
            ..Form::default()
        }
    }

    /// The body of an answer of `/initialSync`: all rooms, each with its newest `limit` events; with `archived` those
    /// that the user has left, too.
    pub async fn initial(
        &self,
        who: Who<'_>,
        limit: usize,
        archived: bool,
    ) -> Result<String, SyncError> {
        let now = self.now();
        let mut rooms = Vec::new();
        for room in self.rooms.rooms_of(who.user, &[]).await? {
            let left = matches!(room.row.membership, Membership::Leave | Membership::Ban);
            if left && !archived {
                continue;
            }
            rooms.extend(self.room_now(who, &room, limit).await?);
        }
        let snapshot = self.rooms.store().snapshot();
        let data = self
            .accounts
            .account_data_of(&snapshot, who.account, None)
            .await?;
        let data: Vec<String> = data
            .iter()
            .map(|change| typed(&change.event.kind, change.event.content.get()))
            .collect();
        let mut out = String::from("{\"end\":");
        push_string(&mut out, &now.to_string());
        out.push_str(",\"presence\":");
        list(&mut out, &self.present_to(who).await?);
        out.push_str(",\"rooms\":");
        list(&mut out, &rooms);
        out.push_str(",\"account_data\":");
        list(&mut out, &data);
        out.push('}');
        Ok(out)
    }

    /// The body of an answer of `/rooms/{roomId}/initialSync`, for who is or was in the room, and for everybody where
    /// the world may read.
    pub async fn initial_of_room(
        &self,
        who: Who<'_>,
        room: &RoomId,
        limit: usize,
    ) -> Result<String, SyncError> {
        let view = self.rooms.view_known(room).await?;
        let row = view.user_room(who.user).await?;
        let membership = row.as_ref().map(|row| row.membership);
        let until = match row {
            Some(row) if row.membership != Membership::Join => Some(row.position),
            _ => None,
        };
        self.room_info(who, &view, membership, until, limit).await
    }

    /// One room of `/initialSync`; none for one that is not here.
    async fn room_now(
        &self,
        who: Who<'_>,
        room: &RoomOf,
        limit: usize,
    ) -> Result<Option<String>, SyncError> {
        let membership = room.row.membership;
        if matches!(membership, Membership::Invite | Membership::Knock) {
            let state = self.rooms.stripped_state(who.user, room.num).await?;
            let mut out = String::from("{\"room_id\":");
            push_string(&mut out, room.room_id.as_str());
            let _ = write!(out, ",\"membership\":\"{}\"", membership.as_str());
            if let Some(invite) = self.rooms.invite_event(who.user, room.num).await? {
                let unsigned = Unsigned {
                    now_ms: self.rooms.now_ms(),
                    ..Unsigned::default()
                };
                out.push_str(",\"invite\":");
                let id = Some(&*room.room_id);
                write_client_event(&mut out, invite.event_id(), id, invite.json(), &unsigned);
            }
            let _ = write!(out, ",\"state\":{}}}", state.as_deref().unwrap_or("[]"));
            return Ok(Some(out));
        }
        let Some(view) = self.rooms.view_num(room.num).await? else {
            return Ok(None);
        };
        let until = (membership != Membership::Join).then_some(room.row.position);
        let info = self.room_info(who, &view, Some(membership), until, limit);
        Ok(Some(info.await?))
    }

    /// A room as the user may see it, up to where they left it.
    async fn room_info(
        &self,
        who: Who<'_>,
        view: &RoomView,
        membership: Option<Membership>,
        until: Option<Position>,
        limit: usize,
    ) -> Result<String, SyncError> {
        let state = view.readable_state(who.user).await?;
        let state = view
            .state_json(&state.nums().await?, &self.form_for(who))
            .await?;
        let end = until.map_or_else(|| view.end(), TimelineToken::live);
        let query = PageQuery {
            from: end,
            to: None,
            dir: Direction::Backward,
            limit,
            gaps: Gaps::Pass,
        };
        let mut viewer = self.eyes(who, view).await?;
        let mut page = viewer.page(query, |_| true).await?;
        page.events.reverse();
        let messages = viewer.list(&page.events, &self.form_for(who)).await?;
        let published = self.rooms.is_published(view.room_id()).await?;
        let mut out = String::from("{\"room_id\":");
        push_string(&mut out, view.room_id().as_str());
        if let Some(membership) = membership {
            let _ = write!(out, ",\"membership\":\"{}\"", membership.as_str());
        }
        out.push_str(",\"messages\":{");
        if let Some(start) = page.end {
            let _ = write!(out, "\"start\":\"{start}\",");
        }
        let _ = write!(out, "\"end\":\"{end}\",\"chunk\":{messages}}},\"state\":");
        list(&mut out, &state);
        let visibility = if published { "public" } else { "private" };
        let _ = write!(out, ",\"visibility\":\"{visibility}\",\"account_data\":");
        let snapshot = self.rooms.store().snapshot();
        let room = Some(view.room_id().as_str());
        let data = self
            .accounts
            .account_data_of(&snapshot, who.account, room)
            .await?;
        let data: Vec<String> = data
            .iter()
            .map(|change| typed(&change.event.kind, change.event.content.get()))
            .collect();
        list(&mut out, &data);
        out.push('}');
        Ok(out)
    }
}

/// Where the answer ends: behind the last event of as many as it holds. What is not in the log comes with the answer that
/// ends at the end of it.
fn end_of(events: &mut Arrived, start: SyncToken, now: SyncToken) -> SyncToken {
    events.sort_by_key(|(position, _)| *position);
    let cut = events.len() > MAX_EVENTS;
    events.truncate(MAX_EVENTS);
    match events.last() {
        Some((position, _)) if cut => SyncToken::at(*position, start.typing),
        _ => now,
    }
}

fn chunk(start: SyncToken, end: SyncToken, events: Vec<String>) -> String {
    let mut out = String::from("{\"start\":");
    push_string(&mut out, &start.to_string());
    out.push_str(",\"end\":");
    push_string(&mut out, &end.to_string());
    out.push_str(",\"chunk\":");
    list(&mut out, &events);
    out.push('}');
    out
}
