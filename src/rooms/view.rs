//! One room at one moment: what everything that reads a room reads it through.
//!
//! A view is one snapshot of the store and takes no lane. Its *current state* is that of the room's
//! head; pages of the timeline end at the log's watermark unless they are asked for by a token.

use std::collections::BTreeSet;

use resuni_dag::{HistoryVisibility, JoinRule, Pdu, PowerLevels, RoomRules};
use resuni_store::{Direction, Position, ScanRange, Snapshot, StoreError};
use ruma::{EventId, OwnedEventId, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId};

use crate::error::RoomError;
use crate::reader::{Reader, missing_row, stored_pdu};
use crate::rooms::{Rooms, rules_of};
use crate::tables::{
    EVENTS, EventRow, HEAD, Head, LOCAL_MEMBERS, OUTLIERS, Place, REDACTED_OUTLIERS, REDACTIONS,
    ROOM_SERVERS, TIMELINE, TOLD_SERVERS, USER_ROOMS, UserRoom,
};
use crate::types::{
    EventNum, Membership, RoomNum, SERVER_NUMBERS, ServerNum, SnapNum, TimelineToken, UserNum,
};

/// One room at one moment. Cheap to clone; hold it for a request.
#[derive(Clone)]
pub struct RoomView {
    pub(crate) reader: Reader,
    num: RoomNum,
    room_id: ruma::OwnedRoomId,
    version: String,
    rules: &'static RoomRules,
    head: Head,
    server: OwnedServerName,
}

/// An event of a room, wherever it is kept.
#[derive(Debug, Clone)]
pub struct StoredEvent {
    /// Its number.
    pub num: EventNum,
    /// What is known of it.
    pub row: EventRow,
    /// The event as it was signed.
    pub pdu: Pdu,
}

impl StoredEvent {
    /// Its place in the timeline; `None` for outliers, rejected and soft-failed events.
    pub fn token(&self) -> Option<TimelineToken> {
        match self.row.place {
            Place::Timeline { position, sub } => Some(TimelineToken { position, sub }),
            _ => None,
        }
    }
}

/// An event as readers may see it: in its redacted form once it was redacted.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The event, redacted if it was.
    pub pdu: Pdu,
    /// The redaction that applies.
    pub redacted_because: Option<Pdu>,
}

impl Rooms {
    /// The room as it is now; `None` if this server is not in it and never was.
    pub async fn view(&self, room: &RoomId) -> Result<Option<RoomView>, RoomError> {
        let reader = self.reader();
        match reader.room_num(room).await? {
            Some(num) => RoomView::read(self, reader, num).await,
            None => Ok(None),
        }
    }

    /// As [`Rooms::view`], by number.
    pub async fn view_num(&self, room: RoomNum) -> Result<Option<RoomView>, RoomError> {
        RoomView::read(self, self.reader(), room).await
    }

    /// As [`Rooms::view`], or [`RoomError::UnknownRoom`].
    pub async fn view_known(&self, room: &RoomId) -> Result<RoomView, RoomError> {
        self.view(room)
            .await?
            .ok_or_else(|| RoomError::UnknownRoom(room.to_owned()))
    }

    /// Views of several rooms at the same moment, in their order, without those we are not in: for a sync.
    pub async fn views(&self, rooms: &[RoomNum]) -> Result<Vec<RoomView>, RoomError> {
        let reader = self.reader();
        let mut views = Vec::with_capacity(rooms.len());
        for room in rooms {
            views.extend(RoomView::read(self, reader.clone(), *room).await?);
        }
        Ok(views)
    }

    /// The position of the newest event of a room: one point read.
    pub async fn last_position(&self, room: RoomNum) -> Result<Option<Position>, RoomError> {
        Ok(self
            .store()
            .snapshot()
            .get(&HEAD, &room)
            .await?
            .map(|head| head.position))
    }

    /// An event by its id alone, with the room that it is in; none if it is not known, or only the room's name is.
    pub async fn event_anywhere(
        &self,
        event_id: &EventId,
    ) -> Result<Option<(RoomView, EventNum)>, RoomError> {
        let reader = self.reader();
        let Some(num) = reader.event_num(event_id).await? else {
            return Ok(None);
        };
        let room = reader.event_row(num).await?.room;
        Ok(self.view_num(room).await?.map(|view| (view, num)))
    }

    /// The time by the clock that the rooms were opened with, in milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }
}

impl RoomView {
    async fn read(rooms: &Rooms, reader: Reader, num: RoomNum) -> Result<Option<Self>, RoomError> {
        let Some(head) = reader.head(num).await? else {
            return Ok(None);
        };
        let row = reader.room_row(num).await?;
        let row = row.ok_or_else(|| {
            RoomError::Inconsistent(format!("the room {} has a head but no row", num.0))
        })?;
        Ok(Some(Self {
            reader,
            num,
            rules: rules_of(&row.version)?,
            room_id: row.room_id,
            version: row.version,
            head,
            server: rooms.server_name().to_owned(),
        }))
    }

    /// The room's number.
    pub fn num(&self) -> RoomNum {
        self.num
    }

    /// The room's id.
    pub fn room_id(&self) -> &RoomId {
        &self.room_id
    }

    /// The room's version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The rules of that version.
    pub fn rules(&self) -> &'static RoomRules {
        self.rules
    }

    /// The snapshot that is read.
    pub fn snapshot(&self) -> &Snapshot {
        &self.reader.snapshot
    }

    /// The log's watermark when the view was made.
    pub fn watermark(&self) -> Position {
        self.reader.snapshot.position()
    }

    /// The position of the room's newest event.
    pub fn last_position(&self) -> Position {
        self.head.position
    }

    /// The end of the timeline as this view shows it.
    pub fn end(&self) -> TimelineToken {
        TimelineToken::live(self.watermark().max(self.head.position))
    }

    pub(crate) fn head(&self) -> &Head {
        &self.head
    }

    /// The current state.
    pub fn snap(&self) -> SnapNum {
        self.head.snap
    }

    /// MSC4500's digest of the current state: where two servers' digests agree, so do their states. There is none of a
    /// partial state.
    pub async fn state_digest(&self) -> Result<Option<[u8; 32]>, RoomError> {
        let snap = self.reader.snap(self.head.snap).await?;
        Ok((!snap.partial).then_some(snap.digest))
    }

    /// How many have joined, here and on other servers.
    pub fn joined_count(&self) -> u64 {
        self.head.joined
    }

    /// How many are invited.
    pub fn invited_count(&self) -> u64 {
        self.head.invited
    }

    /// The greatest depth in the room.
    pub fn depth(&self) -> u64 {
        self.head.depth
    }

    /// This server's name.
    pub fn server_name(&self) -> &ServerName {
        &self.server
    }

    /// The forward extremities.
    pub async fn extremities(&self) -> Result<Vec<OwnedEventId>, RoomError> {
        let rows = self
            .snapshot()
            .get_many(&EVENTS, &self.head.extremities)
            .await?;
        Ok(rows
            .into_iter()
            .flatten()
            .map(|row| row.id.to_id())
            .collect())
    }

    /// The event of the current state for this type and key.
    pub async fn state(&self, kind: &str, state_key: &str) -> Result<Option<Pdu>, RoomError> {
        Ok(self
            .reader
            .state_pdu(self.head.snap, kind, state_key)
            .await?)
    }

    /// Several events of the current state at once.
    pub async fn states(&self, keys: &[(&str, &str)]) -> Result<Vec<Option<Pdu>>, RoomError> {
        let mut found = Vec::with_capacity(keys.len());
        for (kind, state_key) in keys {
            found.push(self.state(kind, state_key).await?);
        }
        Ok(found)
    }

    /// The whole current state. Proportional to its size.
    pub async fn state_all(&self) -> Result<Vec<Pdu>, RoomError> {
        self.state_at_snap(self.head.snap).all().await
    }

    /// What a user is to the room, by its current state; for our own users in a room that we have left, by what
    /// was told us since.
    pub async fn member(&self, user: &UserId) -> Result<Option<Membership>, RoomError> {
        Ok(self.user_room(user).await?.map(|row| row.membership))
    }

    /// As [`RoomView::member`], with the event and its position.
    pub async fn user_room(&self, user: &UserId) -> Result<Option<UserRoom>, RoomError> {
        match self.user_num(user).await? {
            Some(user) => Ok(self.snapshot().get(&USER_ROOMS, &(user, self.num)).await?),
            None => Ok(None),
        }
    }

    /// Whether the user is joined.
    pub async fn joined(&self, user: &UserId) -> Result<bool, RoomError> {
        Ok(self.member(user).await? == Some(Membership::Join))
    }

    /// The user's number, if they were ever heard of.
    pub async fn user_num(&self, user: &UserId) -> Result<Option<UserNum>, RoomError> {
        Ok(self.reader.user_num(user).await?)
    }

    /// The user with this number.
    pub async fn user_id(&self, user: UserNum) -> Result<OwnedUserId, RoomError> {
        Ok(self.reader.user_id(user).await?)
    }

    /// The power levels of the current state.
    pub async fn power_levels(&self) -> Result<PowerLevels, RoomError> {
        let create = self.state("m.room.create", "").await?;
        let create = create.ok_or_else(|| {
            RoomError::Inconsistent(format!("{} has no create event", self.room_id))
        })?;
        let levels = self.state("m.room.power_levels", "").await?;
        PowerLevels::read(&create, levels.as_ref(), self.rules)
            .map_err(|error| RoomError::Forbidden(error.to_string()))
    }

    /// Whether the user's power is enough for a state event of this type.
    pub async fn may_send_state(&self, user: &UserId, kind: &str) -> Result<bool, RoomError> {
        Ok(self.power_levels().await?.may_send(user, kind, Some("")))
    }

    /// Whether users of other servers than its creator's can be in the room (`m.federate` of its create event).
    pub async fn is_federated(&self) -> Result<bool, RoomError> {
        #[derive(serde::Deserialize)]
        struct Content {
            #[serde(rename = "m.federate")]
            federate: Option<bool>,
        }
        let create = self.state("m.room.create", "").await?;
        let content = create.and_then(|create| create.content_as::<Content>().ok());
        Ok(content.and_then(|content| content.federate) != Some(false))
    }

    /// How one gets into the room.
    pub async fn join_rule(&self) -> Result<JoinRule, RoomError> {
        Ok(JoinRule::of(
            self.state("m.room.join_rules", "").await?.as_ref(),
        ))
    }

    /// Whether events sent now can be read by anybody.
    pub async fn world_readable(&self) -> Result<bool, RoomError> {
        let event = self.state("m.room.history_visibility", "").await?;
        Ok(HistoryVisibility::of(event.as_ref()) == HistoryVisibility::WorldReadable)
    }

    /// Servers with a joined user, `limit` at most; of a partial room also those that we were told are in it.
    pub async fn servers(&self, limit: usize) -> Result<Vec<OwnedServerName>, RoomError> {
        let range = ScanRange::prefix(&self.num);
        let forward = Direction::Forward;
        let rows = self
            .snapshot()
            .scan(&ROOM_SERVERS, range.clone(), forward, limit);
        let mut nums: BTreeSet<_> = rows.await?.into_iter().map(|((_, num), _)| num).collect();
        if self.is_partial() {
            let told = self.snapshot().scan(&TOLD_SERVERS, range, forward, limit);
            nums.extend(told.await?.into_iter().map(|((_, num), ())| num));
        }
        let mut servers = Vec::with_capacity(nums.len());
        for num in nums.into_iter().take(limit) {
            servers.extend(self.server_name_of(num).await?);
        }
        Ok(servers)
    }

    /// The server with this number.
    pub async fn server_name_of(
        &self,
        server: ServerNum,
    ) -> Result<Option<OwnedServerName>, RoomError> {
        let numbers = self.reader.store.numbers();
        let name = numbers.name(&SERVER_NUMBERS, server.0).await?;
        Ok(name.and_then(|name| ServerName::parse(std::str::from_utf8(&name).ok()?).ok()))
    }

    /// Whether a server has a joined user, or in a partial room may have one.
    pub async fn has_server(&self, server: &ServerName) -> Result<bool, RoomError> {
        let numbers = self.reader.store.numbers();
        let num = numbers.find(&SERVER_NUMBERS, server.as_bytes()).await?;
        let Some(num) = num.map(ServerNum) else {
            return Ok(false);
        };
        let (snapshot, key) = (self.snapshot(), (self.num, num));
        Ok(snapshot.contains(&ROOM_SERVERS, &key).await?
            || self.is_partial() && snapshot.contains(&TOLD_SERVERS, &key).await?)
    }

    /// Our own joined users, `limit` at most.
    pub async fn local_members(&self, limit: usize) -> Result<Vec<OwnedUserId>, RoomError> {
        let range = ScanRange::prefix(&self.num);
        let rows = self
            .snapshot()
            .scan(&LOCAL_MEMBERS, range, Direction::Forward, limit)
            .await?;
        let mut users = Vec::with_capacity(rows.len());
        for ((_, user), ()) in rows {
            users.push(self.reader.user_id(user).await?);
        }
        Ok(users)
    }

    /// The number and the row of an event, if it belongs to this room. An event of another room is none, so that
    /// nobody reads one room by the rights they have in another.
    pub async fn event_row(
        &self,
        event_id: &EventId,
    ) -> Result<Option<(EventNum, EventRow)>, RoomError> {
        let Some(num) = self.reader.event_num(event_id).await? else {
            return Ok(None);
        };
        let row = self.reader.event_row(num).await?;
        Ok((row.room == self.num).then_some((num, row)))
    }

    /// Where an event is, by its number.
    pub async fn place_of(&self, event: EventNum) -> Result<Option<Place>, RoomError> {
        let row = self.snapshot().get(&EVENTS, &event).await?;
        Ok(row.filter(|row| row.room == self.num).map(|row| row.place))
    }

    /// An event of this room, in the timeline or not. Whether somebody may see it is another question.
    pub async fn event(&self, event_id: &EventId) -> Result<Option<StoredEvent>, RoomError> {
        let Some((num, row)) = self.event_row(event_id).await? else {
            return Ok(None);
        };
        let pdu = self.reader.pdu_of(num, &row).await?;
        Ok(Some(StoredEvent { num, row, pdu }))
    }

    /// Events by number, as they were signed, in the order of `nums`.
    pub async fn pdus(&self, nums: &[EventNum]) -> Result<Vec<Pdu>, RoomError> {
        Ok(self.reader.pdus(nums).await?)
    }

    /// Events by number as readers may see them. Costs one seek more than [`RoomView::pdus`] where nothing was ever
    /// redacted in the room.
    pub async fn shown(&self, nums: &[EventNum]) -> Result<Vec<Shown>, RoomError> {
        let pdus = self.reader.pdus(nums).await?;
        let mut redactions = vec![None; nums.len()];
        if self.has_redactions().await? {
            let rows = self.snapshot().get_many(&EVENTS, nums).await?;
            for ((num, row), redaction) in nums.iter().zip(rows).zip(&mut redactions) {
                if let Some(row) = row {
                    *redaction = self.redaction_of(*num, row.place).await?;
                }
            }
        }
        let mut shown = Vec::with_capacity(pdus.len());
        for (pdu, redaction) in pdus.into_iter().zip(redactions) {
            shown.push(self.redacted(pdu, redaction).await?);
        }
        Ok(shown)
    }

    /// Whether anything was ever redacted in the room.
    async fn has_redactions(&self) -> Result<bool, RoomError> {
        let range = ScanRange::prefix(&self.num);
        let (snapshot, forward) = (self.snapshot(), Direction::Forward);
        Ok(!snapshot
            .scan(&REDACTIONS, range.clone(), forward, 1)
            .await?
            .is_empty()
            || !snapshot
                .scan(&REDACTED_OUTLIERS, range, forward, 1)
                .await?
                .is_empty())
    }

    /// The redaction that applies to the event at this place.
    async fn redaction_of(
        &self,
        num: EventNum,
        place: Place,
    ) -> Result<Option<EventNum>, RoomError> {
        Ok(match place {
            Place::Timeline { position, sub } => {
                self.snapshot()
                    .get(&REDACTIONS, &(self.num, position, sub))
                    .await?
            }
            _ => {
                self.snapshot()
                    .get(&REDACTED_OUTLIERS, &(self.num, num))
                    .await?
            }
        })
    }

    /// The event as it is shown once `redaction` applies.
    pub(crate) async fn redacted(
        &self,
        pdu: Pdu,
        redaction: Option<EventNum>,
    ) -> Result<Shown, RoomError> {
        Ok(match redaction {
            None => Shown {
                pdu,
                redacted_because: None,
            },
            Some(num) => {
                let redaction = self.reader.pdu(num).await?;
                Shown {
                    pdu: resuni_dag::redact(&pdu, self.rules)?,
                    redacted_because: Some(redaction),
                }
            }
        })
    }
}

impl Reader {
    /// Many events in the order of `nums`: one look into the cache for each, and the rest in two batches of reads.
    pub(crate) async fn pdus(&self, nums: &[EventNum]) -> Result<Vec<Pdu>, StoreError> {
        let mut found: Vec<Option<Pdu>> = nums.iter().map(|num| self.caches.pdu(*num)).collect();
        let absent: Vec<usize> = (0..nums.len()).filter(|at| found[*at].is_none()).collect();
        if !absent.is_empty() {
            let missing: Vec<EventNum> = absent.iter().map(|at| nums[*at]).collect();
            for (at, pdu) in absent.into_iter().zip(self.read_pdus(&missing).await?) {
                found[at] = Some(pdu);
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    async fn read_pdus(&self, nums: &[EventNum]) -> Result<Vec<Pdu>, StoreError> {
        let rows = self.snapshot.get_many(&EVENTS, nums).await?;
        let (mut timeline, mut outliers) = (Vec::new(), Vec::new());
        for (num, row) in nums.iter().zip(&rows) {
            let row = row
                .as_ref()
                .ok_or_else(|| missing_row("events", format!("there is no event {}", num.0)))?;
            match row.place {
                Place::Timeline { position, sub } => timeline.push((row.room, position, sub)),
                _ => outliers.push(*num),
            }
        }
        let mut timeline = self
            .snapshot
            .get_many(&TIMELINE, &timeline)
            .await?
            .into_iter();
        let mut outliers = self
            .snapshot
            .get_many(&OUTLIERS, &outliers)
            .await?
            .into_iter();
        let mut pdus = Vec::with_capacity(nums.len());
        for (num, row) in nums.iter().zip(rows.into_iter().flatten()) {
            let json = match row.place {
                Place::Timeline { .. } => timeline.next().flatten().map(|row| row.pdu),
                _ => outliers.next().flatten().map(|row| row.pdu),
            };
            let json = json.ok_or_else(|| {
                missing_row("timelines", format!("the event {} has no JSON", num.0))
            })?;
            let pdu = stored_pdu(&row.id, json)?;
            self.caches.keep_pdu(*num, pdu.clone());
            pdus.push(pdu);
        }
        Ok(pdus)
    }
}
