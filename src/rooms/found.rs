//! A room begins: its first events, in one batch.

use resuni_dag::{RoomRules, sign};
use resuni_store::Batch;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, UserId};

use crate::{
    build::{self, Spot},
    error::RoomError,
    events::NewEvent,
    lane::{Lane, Live},
    line::Line,
    rooms::{Rooms, rules_of},
    send::checked,
    tables::{ROOMS, RoomRow},
    types::{RoomNum, SnapNum},
    work::Work,
};

impl Rooms {
    /// Makes a room of these events, each by one of our users: all of them or no room. The first is the create event;
    /// it is sent by `creator` and gives a room of version 12 its id. `room_id` is the id of a room of an
    /// earlier version, new and never used.
    pub async fn found(
        &self,
        version: &RoomVersionId,
        room_id: Option<OwnedRoomId>,
        creator: &UserId,
        create: NewEvent,
        rest: Vec<(OwnedUserId, NewEvent)>,
    ) -> Result<OwnedRoomId, RoomError> {
        self.found_with(version, room_id, creator, create, rest, |_, _, _| {})
            .await
    }

    /// As [`Rooms::found`], with more rows in the same batch.
    pub(crate) async fn found_with(
        &self,
        version: &RoomVersionId,
        room_id: Option<OwnedRoomId>,
        creator: &UserId,
        create: NewEvent,
        rest: Vec<(OwnedUserId, NewEvent)>,
        also: impl FnOnce(&mut Batch, &RoomId, RoomNum) + Send,
    ) -> Result<OwnedRoomId, RoomError> {
        let rules = rules_of(version.as_str())?;
        // The create event of version 12 has to be made twice the same, so its time is chosen here.
        let create = NewEvent {
            timestamp: Some(create.timestamp.unwrap_or_else(|| self.clock.now_ms())),
            ..create
        };
        let room_id = match room_id {
            Some(id) if !rules.room_id_is_create_hash() => id,
            _ => self.room_id_of(rules, creator, create.clone()).await?,
        };
        let mut lane = self.lanes.enter(&room_id).await;
        let mut line = self.begin(&mut lane, &room_id, rules).await?;
        if line.live.head.is_some() {
            return Err(RoomError::InUse(format!(
                "there is a room {room_id} already"
            )));
        }
        line.say(creator, create, None).await?;
        for (sender, event) in rest {
            line.say(&sender, checked(event)?, None).await?;
        }
        also(&mut line.work.batch, &room_id, line.live.num);
        line.finish(lane).await?.durable().await?;
        Ok(room_id)
    }

    /// The id of the room that this create event makes (room version 12, "Room IDs as hashes of create events").
    pub(crate) async fn room_id_of(
        &self,
        rules: &'static RoomRules,
        creator: &UserId,
        create: NewEvent,
    ) -> Result<OwnedRoomId, RoomError> {
        let nowhere = OwnedRoomId::try_from("!nowhere")
            .map_err(|_| RoomError::Inconsistent("a room id can't be read".to_owned()))?;
        let live = Live {
            num: RoomNum(0),
            room_id: nowhere,
            rules,
            head: None,
            tips: Vec::new(),
        };
        let work = Work::new(self, self.reader(), rules, None);
        let spot = Spot {
            prev: Vec::new(),
            depth: 1,
            before: SnapNum::EMPTY,
        };
        let (draft, _) = build::draft(&work, &live, &spot, creator, create).await?;
        let pdu = sign(draft, rules, self.server_name(), &self.config.key)?;
        Ok(pdu.room_id().to_owned())
    }

    /// A room that we may have nothing of yet.
    pub(crate) async fn begin(
        &self,
        lane: &mut Lane,
        room_id: &RoomId,
        rules: &'static RoomRules,
    ) -> Result<Line<'_>, RoomError> {
        if let Some(line) = Line::open(self, lane, room_id).await? {
            return Ok(line);
        }
        let mut work = Work::new(self, self.reader(), rules, None);
        let num = work.room(room_id).await?;
        let row = RoomRow {
            room_id: room_id.to_owned(),
            version: rules.version.to_string(),
        };
        work.batch.put(&ROOMS, &num, &row);
        let live = Live {
            num,
            room_id: room_id.to_owned(),
            rules,
            head: None,
            tips: Vec::new(),
        };
        Ok(Line::of(work, live))
    }
}
