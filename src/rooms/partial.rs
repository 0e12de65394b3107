//! Rooms whose state is not all here yet (MSC3706, MSC3902).
//!
//! A server that lets us into a room may leave the members out of its state. Until the whole state was fetched, every
//! state that follows from that one is marked as partial (`Snap::partial`), the room's head says so (`Head::whole_since`),
//! and each event that is judged meanwhile is noted in `PARTIAL_EVENTS`. Members whom an event's auth events tell of are
//! added to the state as they are met, so that their servers and names are known at once. When the state before our join
//! has come, everything noted is judged again, in one go, and the head turns whole.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ops::Deref,
};

use resuni_dag::Pdu;
use resuni_store::{Direction, Position, ScanRange, StoreError};
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId};

use crate::{
    delta::{Judged, Turn},
    error::RoomError,
    line::Line,
    plan::Verdict,
    receive::Refs,
    resolve,
    rooms::Rooms,
    send::again,
    tables::{
        Given, PARTIAL, PARTIAL_EVENTS, PartialEvent, PartialRoom, ROOM_SERVERS, SERVER_ROOMS,
        TOLD_SERVERS, TOPIC_WHOLE, WholeLog,
    },
    types::{EventNum, RoomNum, ServerNum, SnapNum, UserNum, server_of},
    view::RoomView,
    work::{Era, Work},
};

/// Residents that are remembered: who helped us join.
const RESIDENTS: usize = 8;

/// What `send_join` says of a state that it gives without members.
#[derive(Debug, Clone)]
pub struct Omitted {
    /// Who let us in.
    pub resident: OwnedServerName,
    /// `servers_in_room`.
    pub servers: Vec<OwnedServerName>,
}

/// The same, while our join is being written.
pub(crate) struct Told {
    pub resident: OwnedServerName,
    pub servers: HashSet<ServerNum>,
}

/// A state that becomes whole, while that is being written.
#[derive(Default)]
pub(crate) struct Whole {
    /// Servers that had a user in the room at some time since our join.
    pub seen: BTreeSet<ServerNum>,
    /// It was whole before, and is judged again.
    pub again: bool,
}

/// What is missing of a partial room.
#[derive(Debug, Clone)]
pub struct Resync {
    /// Our joins, and those of each one's `prev_events` that we don't have: the state after them is wanted.
    pub wanted: Vec<(OwnedEventId, Vec<OwnedEventId>)>,
    /// Whom to ask, the best first.
    pub servers: Vec<OwnedServerName>,
}

/// A room whose state is all here, or will never be because none of our users is in it any more: what lists of all
/// members are read from.
pub struct WholeRoom(RoomView);

impl Deref for WholeRoom {
    type Target = RoomView;

    fn deref(&self) -> &RoomView {
        &self.0
    }
}

impl Rooms {
    /// The room once its state is whole. Waits for that as long as it takes; the caller sets a limit.
    pub async fn whole(&self, room: &RoomId) -> Result<WholeRoom, RoomError> {
        let mut news = self.partial_news.subscribe();
        loop {
            let view = self.view_known(room).await?;
            if let Some(since) = view.head().whole_since {
                // Whoever is told of it here must find it in a sync too.
                let mut log = self.store.log().watch();
                while *log.borrow_and_update() < since {
                    if log.changed().await.is_err() {
                        break;
                    }
                }
                return Ok(WholeRoom(view));
            }
            if !view.has_server(self.server_name()).await? {
                return Ok(WholeRoom(view));
            }
            if news.changed().await.is_err() {
                return Ok(WholeRoom(view));
            }
        }
    }

    /// A partial room may be whole now, or without anybody of ours.
    pub(crate) fn news_of_partial(&self) {
        self.partial_news.send_modify(|_| ());
    }

    /// All partial rooms: those that somebody has to go on with after a start.
    pub async fn partial_rooms(&self) -> Result<Vec<OwnedRoomId>, RoomError> {
        let reader = self.reader();
        let rows = reader
            .snapshot
            .scan(&PARTIAL, ScanRange::all(), Direction::Forward, usize::MAX)
            .await?;
        let mut rooms = Vec::with_capacity(rows.len());
        for (num, _) in rows {
            rooms.extend(reader.room_row(num).await?.map(|row| row.room_id));
        }
        Ok(rooms)
    }

    /// Whether a server is in one of our partial rooms by what we were told: its users may share a room with ours though
    /// no state says so. Costs a point read for each partial room.
    pub async fn told_of(&self, server: &ServerName) -> Result<bool, RoomError> {
        for room in self.partial_rooms().await? {
            if let Some(view) = self.view(&room).await?
                && view.has_server(server).await?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What is missing of a room; `None` if it is whole, or if nobody of ours is in it.
    pub async fn resync(&self, room: &RoomId) -> Result<Option<Resync>, RoomError> {
        let Some(view) = self.view(room).await?.filter(RoomView::is_partial) else {
            return Ok(None);
        };
        if !view.has_server(self.server_name()).await? {
            return Ok(None);
        }
        let reader = &view.reader;
        let mut wanted = Vec::new();
        for ((_, num), row) in noted(view.snapshot(), view.num()).await? {
            if row.given != Given::Wanted {
                continue;
            }
            let join = reader.pdu(num).await?;
            let mut missing = Vec::new();
            for prev in join.prev_events() {
                let known = match reader.event_num(prev).await? {
                    Some(num) => reader.event_row(num).await?.place.has_state(),
                    None => false,
                };
                if !known {
                    missing.push(prev.clone());
                }
            }
            wanted.push((join.event_id().to_owned(), missing));
        }
        let row = view.snapshot().get(&PARTIAL, &view.num()).await?;
        let mut servers = row.map(|row| row.residents).unwrap_or_default();
        servers.extend(view.servers(usize::MAX).await?);
        let mut seen = HashSet::from([self.server_name().to_owned()]);
        servers.retain(|server| seen.insert(server.clone()));
        Ok(Some(Resync { wanted, servers }))
    }

    /// The state before our join, as another server gives it: the ids of the state after each of the `prev_events` that
    /// were missing. All of it must be known, as outliers at least.
    ///
    /// # Errors
    /// [`RoomError::Forbidden`] for a state that doesn't allow the join: it can't have been that.
    pub async fn give_state(
        &self,
        room: &RoomId,
        join: &EventId,
        states: Vec<Vec<OwnedEventId>>,
    ) -> Result<(), RoomError> {
        let room: OwnedRoomId = room.to_owned();
        let mut lane = self.lanes.enter(&room).await;
        let Some(mut line) = Line::open(self, &mut lane, &room).await? else {
            return Err(RoomError::UnknownRoom(room));
        };
        line.give_state(join, states).await?;
        line.finish(lane).await?.durable().await?;
        Ok(())
    }

    /// Judges again what came while the state was partial, if nothing is missing any more, and makes the room whole.
    /// Whether it is.
    pub async fn complete(&self, room: &RoomId) -> Result<bool, RoomError> {
        again(|| self.try_complete(room)).await
    }

    async fn try_complete(&self, room: &RoomId) -> Result<bool, RoomError> {
        let room: OwnedRoomId = room.to_owned();
        let mut lane = self.lanes.enter(&room).await;
        let Some(mut line) = Line::open(self, &mut lane, &room).await? else {
            return Err(RoomError::UnknownRoom(room));
        };
        if line.work.era != Era::Partial {
            lane.leave(line.live);
            return Ok(true);
        }
        let rows = noted(&line.work.reader.snapshot, line.live.num).await?;
        if rows.iter().any(|(_, row)| row.given == Given::Wanted) {
            lane.leave(line.live);
            return Ok(false);
        }
        line.become_whole(rows).await?;
        line.finish(lane).await?.durable().await?;
        tracing::info!(%room, "the room's state is whole");
        Ok(true)
    }
}

type Noted = ((RoomNum, EventNum), PartialEvent);

async fn noted(snapshot: &resuni_store::Snapshot, room: RoomNum) -> Result<Vec<Noted>, StoreError> {
    let range = ScanRange::prefix(&room);
    snapshot
        .scan(&PARTIAL_EVENTS, range, Direction::Forward, usize::MAX)
        .await
}

/// Notes an event that has to be judged again.
pub(crate) async fn note(
    work: &mut Work<'_>,
    room: RoomNum,
    event: &Judged,
) -> Result<(), StoreError> {
    // A rejected outlier was judged by no state.
    if !event.place.has_state() || event.before == SnapNum::EMPTY {
        return Ok(());
    }
    let live = match work.era {
        Era::Whole => return Ok(()),
        Era::Partial => true,
        Era::History if work.is_partial(event.before).await? => false,
        Era::History => return Ok(()),
    };
    let row = PartialEvent {
        given: event.given,
        live,
    };
    work.batch.put(&PARTIAL_EVENTS, &(room, event.num), &row);
    Ok(())
}

impl Line<'_> {
    /// A partial state, resolved with the members whom these auth events tell of (MSC3902, "Receiving events"): whom it
    /// leaves out is learned, and where it knows better, as of a ban, it still does. Our own users are not learned so: of
    /// them we know.
    pub async fn learn(
        &mut self,
        before: SnapNum,
        auth: &[EventNum],
    ) -> Result<SnapNum, RoomError> {
        self.learn_of(before, auth, None).await
    }

    /// The same with the past of one of our users, who may have been invited before we came.
    pub async fn learn_of(
        &mut self,
        before: SnapNum,
        auth: &[EventNum],
        ours: Option<&UserId>,
    ) -> Result<SnapNum, RoomError> {
        if !self.work.is_partial(before).await? {
            return Ok(before);
        }
        let root = self.work.reader.snap(before).await?.root;
        let (mut unknown, mut other) = (Vec::new(), Vec::new());
        for num in auth {
            let reader = &self.work.reader;
            let row = reader.event_row(*num).await?;
            let refused = row.place == crate::tables::Place::Rejected;
            let Some(key) = row.state_key.filter(|_| !refused) else {
                continue;
            };
            let pdu = reader.pdu_of(*num, &row).await?;
            let own = self.work.rooms.server_name().as_str();
            let wanted = |user| server_of(user) != own || ours == Some(user);
            if !crate::delta::member_of(&pdu).is_some_and(wanted) {
                continue;
            }
            match crate::tree::get(reader, root, key).await? {
                None => unknown.push((key, Some(*num))),
                Some(known) if known != *num => other.push((key, Some(*num))),
                Some(_) => {}
            }
        }
        let learned = self.work.update_state(before, unknown).await?;
        if other.is_empty() {
            return Ok(learned);
        }
        let told = self.work.update_state(learned, other).await?;
        resolve::resolve_states(&mut self.work, &self.live, vec![learned, told]).await
    }

    async fn give_state(
        &mut self,
        join: &EventId,
        states: Vec<Vec<OwnedEventId>>,
    ) -> Result<(), RoomError> {
        let unknown = || RoomError::NotFound(format!("nothing is missing before {join}"));
        let num = self
            .work
            .reader
            .event_num(join)
            .await?
            .ok_or_else(unknown)?;
        let key = (self.live.num, num);
        let row = self.work.reader.snapshot.get(&PARTIAL_EVENTS, &key).await?;
        let row = row
            .filter(|row| row.given == Given::Wanted)
            .ok_or_else(unknown)?;
        let mut snaps = Vec::with_capacity(states.len());
        for ids in states {
            match self.given_state(ids).await? {
                Ok(snap) => snaps.push(snap),
                Err(missing) => {
                    return Err(RoomError::NotFound(format!(
                        "{} events of the state are not known",
                        missing.len()
                    )));
                }
            }
        }
        let given = resolve::resolve_states(&mut self.work, &self.live, snaps).await?;
        let pdu = self.work.reader.pdu(num).await?;
        let refs = Refs::of(&self.work, self.live.num, &pdu).await?;
        let before = self.state_before(&refs.prev, Some(given)).await?;
        if let Verdict::Reject(reason) = self.judge_in(&pdu, &refs.auth, before, false).await? {
            return Err(RoomError::Forbidden(reason));
        }
        let row = PartialEvent {
            given: Given::State(given),
            ..row
        };
        self.work.batch.put(&PARTIAL_EVENTS, &key, &row);
        Ok(())
    }

    /// The servers that a partial room has by what we were told, now and with this batch.
    pub async fn told_servers(&mut self) -> Result<HashSet<ServerNum>, RoomError> {
        if self.whole.is_some() || self.work.era == Era::Whole {
            return Ok(HashSet::new());
        }
        let mut told = self.told_rows().await?;
        if let Some(new) = &self.told {
            told.extend(&new.servers);
        }
        Ok(told)
    }

    async fn told_rows(&self) -> Result<HashSet<ServerNum>, StoreError> {
        let range = ScanRange::prefix(&self.live.num);
        let rows = self
            .work
            .reader
            .snapshot
            .scan(&TOLD_SERVERS, range, Direction::Forward, usize::MAX)
            .await?;
        Ok(rows.into_iter().map(|((_, server), ())| server).collect())
    }

    /// Our join with a partial state: the rows that say so.
    pub async fn write_told(&mut self) -> Result<(), RoomError> {
        let Some(told) = self.told.take() else {
            return Ok(());
        };
        let room = self.live.num;
        let snapshot = self.work.reader.snapshot.clone();
        let old = snapshot.get(&PARTIAL, &room).await?;
        let mut row = old.unwrap_or(PartialRoom {
            since: snapshot.position(),
            residents: Vec::new(),
        });
        row.residents.retain(|resident| *resident != told.resident);
        row.residents.insert(0, told.resident);
        row.residents.truncate(RESIDENTS);
        self.work.batch.put(&PARTIAL, &room, &row);
        for server in told.servers {
            self.work.batch.put(&TOLD_SERVERS, &(room, server), &());
            self.work.batch.put(&SERVER_ROOMS, &(server, room), &());
        }
        Ok(())
    }

    /// The end of a partial room: its rows go, and the log tells.
    pub async fn write_whole(
        &mut self,
        whole: Whole,
        position: Position,
        (servers, memberships): (Vec<(ServerNum, u64, u64)>, Vec<UserNum>),
    ) -> Result<(), RoomError> {
        let room = self.live.num;
        let snapshot = self.work.reader.snapshot.clone();
        let told = self.told_rows().await?;
        let now: HashMap<ServerNum, u64> = servers
            .iter()
            .map(|(server, _, now)| (*server, *now))
            .collect();
        for server in &told {
            self.work.batch.delete(&TOLD_SERVERS, &(room, *server));
            let joined = match now.get(server) {
                Some(joined) => *joined,
                None => snapshot
                    .get(&ROOM_SERVERS, &(room, *server))
                    .await?
                    .unwrap_or(0),
            };
            if joined == 0 {
                self.work.batch.delete(&SERVER_ROOMS, &(*server, room));
            }
        }
        let own = self
            .work
            .server(self.work.rooms.server_name().as_str())
            .await?;
        let mut missed = whole.seen;
        missed.extend(
            servers
                .iter()
                .filter(|(_, before, now)| *before == 0 && *now > 0)
                .map(|(server, ..)| *server),
        );
        missed.retain(|server| *server != own && !told.contains(server));
        let row = snapshot.get(&PARTIAL, &room).await?;
        let log = WholeLog {
            since: match whole.again {
                true => position,
                false => row.map_or(Position(0), |row| row.since),
            },
            missed: missed.into_iter().collect(),
            memberships,
        };
        self.work.batch.delete(&PARTIAL, &room);
        for (key, _) in noted(&snapshot, room).await? {
            self.work.batch.delete(&PARTIAL_EVENTS, &key);
        }
        self.work
            .batch
            .log(position, TOPIC_WHOLE, room.0, log.to_bytes());
        Ok(())
    }

    /// The server of a user who joins with this event.
    pub async fn server_joining(&mut self, pdu: &Pdu) -> Result<Option<ServerNum>, RoomError> {
        let joins = crate::delta::membership_in(pdu) == Some(crate::types::Membership::Join);
        match crate::delta::member_of(pdu).filter(|_| joins) {
            Some(user) => Ok(Some(self.work.server(server_of(user)).await?)),
            None => Ok(None),
        }
    }

    /// The servers that had a user in one state and have not the same in another.
    pub async fn servers_gone(
        &mut self,
        from: SnapNum,
        to: SnapNum,
    ) -> Result<Vec<ServerNum>, RoomError> {
        let mut gone = Vec::new();
        for change in self.work.reader.state_diff(from, to).await? {
            let Some(before) = change.before else {
                continue;
            };
            let pdu = self.work.reader.pdu(before).await?;
            gone.extend(self.server_joining(&pdu).await?);
        }
        Ok(gone)
    }
}

impl RoomView {
    /// The room, if its state is whole.
    pub fn into_whole(self) -> Option<WholeRoom> {
        (!self.is_partial()).then_some(WholeRoom(self))
    }

    /// Whether members are missing from the current state.
    pub fn is_partial(&self) -> bool {
        self.head().whole_since.is_none()
    }

    /// Whether the current state became whole after this position: until then, who loads members eagerly was told nothing.
    pub fn whole_after(&self, position: Position) -> bool {
        self.head().whole_since.is_none_or(|since| since > position)
    }

    /// Whether a user is joined, as far as is known: of a partial room it may be anybody whose server is in it.
    pub async fn may_be_joined(&self, user: &UserId) -> Result<bool, RoomError> {
        match self.member(user).await? {
            Some(membership) => Ok(membership == crate::types::Membership::Join),
            None => Ok(self.is_partial() && self.has_server(user.server_name()).await?),
        }
    }
}

impl Turn {
    /// The servers whose number of joined users changes, with the old number and the new.
    pub async fn servers(
        &self,
        work: &Work<'_>,
        room: RoomNum,
    ) -> Result<Vec<(ServerNum, u64, u64)>, StoreError> {
        let mut changes = Vec::with_capacity(self.servers.len());
        for (server, by) in &self.servers {
            let key = (room, *server);
            let before = work
                .reader
                .snapshot
                .get(&ROOM_SERVERS, &key)
                .await?
                .unwrap_or(0);
            changes.push((*server, before, before.saturating_add_signed(*by)));
        }
        Ok(changes)
    }
}
