//! Lists of a room's members, the rooms of a user, and what a sync tells of both.

use resuni_dag::Pdu;
use resuni_store::{Direction, Position, ScanRange};
use ruma::{OwnedRoomId, OwnedUserId, UserId};

use crate::client_format::stripped;
use crate::error::RoomError;
use crate::partial::WholeRoom;
use crate::rooms::Rooms;
use crate::state_at::StateView;
use crate::tables::{MEMBERS, ROOMS, USER_ROOMS, UserRoom};
use crate::types::{EventNum, Membership, RoomNum, UserNum};
use crate::view::RoomView;
use crate::visibility::MAX_STEPS;
use crate::visibility::membership_of;

/// How many heroes a room has (spec: `RoomSummary`, `m.heroes`).
pub const HEROES: usize = 5;
/// The most rooms of one user that are read.
pub const MAX_ROOMS: usize = 100_000;

/// What of the state is sent along with an invite or a knock (spec: "Stripped state").
const STRIPPED: [&str; 7] = [
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
];

/// A room of a user.
#[derive(Debug, Clone)]
pub struct RoomOf {
    /// The room's number.
    pub num: RoomNum,
    /// The room's id.
    pub room_id: OwnedRoomId,
    /// What the user is to it, and since when.
    pub row: UserRoom,
}

/// Rooms that two users share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MutualRooms {
    /// A page of them.
    pub rooms: Vec<OwnedRoomId>,
    /// How many there are, on all pages.
    pub count: usize,
    /// What the next page follows; none at the end.
    pub next: Option<RoomNum>,
}

impl Rooms {
    /// The rooms of a user with one of these memberships (all but forgotten ones if `wanted` is empty).
    pub async fn rooms_of(
        &self,
        user: &UserId,
        wanted: &[Membership],
    ) -> Result<Vec<RoomOf>, RoomError> {
        let reader = self.reader();
        let Some(num) = reader.user_num(user).await? else {
            return Ok(Vec::new());
        };
        let rows = reader
            .snapshot
            .scan(
                &USER_ROOMS,
                ScanRange::prefix(&num),
                Direction::Forward,
                MAX_ROOMS,
            )
            .await?;
        let rows: Vec<(RoomNum, UserRoom)> = rows
            .into_iter()
            .map(|((_, room), row)| (room, row))
            .filter(|(_, row)| {
                !row.forgotten && (wanted.is_empty() || wanted.contains(&row.membership))
            })
            .collect();
        let nums: Vec<RoomNum> = rows.iter().map(|(room, _)| *room).collect();
        let rooms = reader.snapshot.get_many(&ROOMS, &nums).await?;
        let joined = rows.into_iter().zip(rooms);
        Ok(joined
            .filter_map(|((num, row), room)| {
                Some(RoomOf {
                    num,
                    room_id: room?.room_id,
                    row,
                })
            })
            .collect())
    }

    /// A user's row for one room, whether or not this server is in it.
    pub async fn user_room(
        &self,
        user: &UserId,
        room: RoomNum,
    ) -> Result<Option<UserRoom>, RoomError> {
        let reader = self.reader();
        match reader.user_num(user).await? {
            Some(user) => Ok(reader.snapshot.get(&USER_ROOMS, &(user, room)).await?),
            None => Ok(None),
        }
    }

    /// Whether two users are joined to a common room: walks the rooms of the first, and stops at the first hit.
    pub async fn share_a_room(&self, a: &UserId, b: &UserId) -> Result<bool, RoomError> {
        let reader = self.reader();
        let (Some(a), Some(b)) = (reader.user_num(a).await?, reader.user_num(b).await?) else {
            return Ok(false);
        };
        let rooms = reader
            .snapshot
            .scan(
                &USER_ROOMS,
                ScanRange::prefix(&a),
                Direction::Forward,
                MAX_ROOMS,
            )
            .await?;
        let joined = |row: &UserRoom| row.membership == Membership::Join;
        for ((_, room), row) in rooms {
            if joined(&row)
                && reader
                    .snapshot
                    .get(&USER_ROOMS, &(b, room))
                    .await?
                    .is_some_and(|row| joined(&row))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The rooms that both users are joined to, in pages of `limit` that follow the room `after`, as far as this server
    /// knows; and how many there are altogether.
    pub async fn mutual_rooms(
        &self,
        a: &UserId,
        b: &UserId,
        after: Option<RoomNum>,
        limit: usize,
    ) -> Result<MutualRooms, RoomError> {
        let reader = self.reader();
        let mut mutual = MutualRooms::default();
        let (Some(a), Some(b)) = (reader.user_num(a).await?, reader.user_num(b).await?) else {
            return Ok(mutual);
        };
        let of_a = ScanRange::prefix(&a);
        let rows = reader
            .snapshot
            .scan(&USER_ROOMS, of_a, Direction::Forward, MAX_ROOMS)
            .await?;
        let joined = |row: &UserRoom| row.membership == Membership::Join;
        let keys: Vec<_> = rows
            .into_iter()
            .filter(|(_, row)| joined(row))
            .map(|((_, room), _)| (b, room))
            .collect();
        let others = reader.snapshot.get_many(&USER_ROOMS, &keys).await?;
        let shared = keys.iter().zip(others);
        let shared: Vec<RoomNum> = shared
            .filter(|(_, row)| row.as_ref().is_some_and(joined))
            .map(|((_, room), _)| *room)
            .collect();
        mutual.count = shared.len();
        let rest = shared
            .into_iter()
            .filter(|room| after.is_none_or(|after| *room > after));
        let mut page: Vec<RoomNum> = rest.take(limit + 1).collect();
        if page.len() > limit {
            page.truncate(limit);
            mutual.next = page.last().copied();
        }
        let rooms = reader.snapshot.get_many(&ROOMS, &page).await?;
        mutual.rooms = rooms.into_iter().flatten().map(|row| row.room_id).collect();
        Ok(mutual)
    }

    /// The stripped state of an invite or a knock of `user`, as a JSON list with the member event at its end: as it was
    /// told by another server, or from the room itself if we are in it. `None` if there is neither.
    pub async fn stripped_state(
        &self,
        user: &UserId,
        room: RoomNum,
    ) -> Result<Option<String>, RoomError> {
        let Some(row) = self.user_room(user, room).await? else {
            return Ok(None);
        };
        if !matches!(row.membership, Membership::Invite | Membership::Knock) {
            return Ok(None);
        }
        let member = self.reader().pdu(row.event).await?;
        let mut events: Vec<String> = match &row.stripped {
            Some(told) => told_state(told, user),
            None => match self.view_num(room).await? {
                Some(view) => view.stripped_state(member.sender(), user).await?,
                None => Vec::new(),
            },
        };
        events.extend(stripped(member.json()));
        Ok(Some(format!("[{}]", events.join(","))))
    }
}

impl WholeRoom {
    /// The members with one of these memberships, with their member events. Proportional to the answer.
    pub async fn members(
        &self,
        wanted: &[Membership],
    ) -> Result<Vec<(UserNum, EventNum)>, RoomError> {
        let mut members = Vec::new();
        for membership in wanted {
            let range = ScanRange::prefix(&(self.num(), *membership));
            let rows = self
                .snapshot()
                .scan(&MEMBERS, range, Direction::Forward, usize::MAX)
                .await?;
            members.extend(rows.into_iter().map(|((_, _, user), event)| (user, event)));
        }
        Ok(members)
    }

    /// The member events of the members with one of these memberships.
    pub async fn member_events(&self, wanted: &[Membership]) -> Result<Vec<Pdu>, RoomError> {
        let nums: Vec<EventNum> = self
            .members(wanted)
            .await?
            .into_iter()
            .map(|(_, event)| event)
            .collect();
        self.pdus(&nums).await
    }
}

impl RoomView {
    /// Joined users, `limit` at most, after `after` in the order of their numbers: for lists that are read in pages.
    /// Of a partial room, those that are known.
    pub async fn joined_users(
        &self,
        after: Option<UserNum>,
        limit: usize,
    ) -> Result<Vec<(UserNum, OwnedUserId)>, RoomError> {
        let prefix = (self.num(), Membership::Join);
        let range = match after {
            Some(user) => ScanRange::after(&(self.num(), Membership::Join, user)).within(&prefix),
            None => ScanRange::prefix(&prefix),
        };
        let rows = self
            .snapshot()
            .scan(&MEMBERS, range, Direction::Forward, limit)
            .await?;
        let mut users = Vec::with_capacity(rows.len());
        for ((_, _, user), _) in rows {
            users.push((user, self.user_id(user).await?));
        }
        Ok(users)
    }

    /// The users a room without a name is named after, for `user`: up to five others who are joined or invited; if
    /// there are none, who left or was banned.
    pub async fn heroes(&self, user: &UserId) -> Result<Vec<OwnedUserId>, RoomError> {
        let own = self.user_num(user).await?;
        let mut heroes = Vec::new();
        for group in [
            [Membership::Join, Membership::Invite],
            [Membership::Leave, Membership::Ban],
        ] {
            for membership in group {
                let range = ScanRange::prefix(&(self.num(), membership));
                let rows = self
                    .snapshot()
                    .scan(&MEMBERS, range, Direction::Forward, HEROES + 1)
                    .await?;
                let others = rows
                    .into_iter()
                    .map(|((_, _, user), _)| user)
                    .filter(|user| Some(*user) != own);
                heroes.extend(others.take(HEROES - heroes.len()));
            }
            if !heroes.is_empty() {
                break;
            }
        }
        let mut users = Vec::with_capacity(heroes.len());
        for hero in heroes {
            users.push(self.user_id(hero).await?);
        }
        users.sort();
        Ok(users)
    }

    /// The stripped state events for an invite or a knock of `user` by `sender`, as JSON objects.
    async fn stripped_state(
        &self,
        sender: &UserId,
        user: &UserId,
    ) -> Result<Vec<String>, RoomError> {
        let inviter = (sender != user).then_some(sender);
        let state = self.stripped_state_pdus(inviter).await?;
        Ok(state
            .iter()
            .filter_map(|event| stripped(event.json()))
            .collect())
    }

    /// The same events as whole PDUs: what other servers get (spec v1.16, MSC4311). With the membership of who invites,
    /// from which clients take their name and picture.
    pub async fn stripped_state_pdus(
        &self,
        inviter: Option<&UserId>,
    ) -> Result<Vec<Pdu>, RoomError> {
        let mut keys = STRIPPED.map(|kind| (kind, "")).to_vec();
        keys.extend(inviter.map(|inviter| ("m.room.member", inviter.as_str())));
        let state = self.states(&keys).await?;
        Ok(state.into_iter().flatten().collect())
    }

    /// The state that `user` may read now: the current one of a member, that at their leaving of one who left, the
    /// current one of a room that the world may read. [`RoomError::Forbidden`] for anybody else.
    pub async fn readable_state(&self, user: &UserId) -> Result<StateView, RoomError> {
        let row = self.user_room(user).await?;
        if self.world_readable().await?
            || row
                .as_ref()
                .is_some_and(|row| row.membership == Membership::Join)
        {
            return Ok(self.state_at_snap(self.snap()));
        }
        if let Some(row) = row.filter(|row| !row.forgotten)
            && let Some(state) = self.state_at_leaving(&row).await?
        {
            return Ok(state);
        }
        Err(RoomError::Forbidden(format!(
            "you are not in the room {}",
            self.room_id()
        )))
    }

    async fn state_at_leaving(&self, row: &UserRoom) -> Result<Option<StateView>, RoomError> {
        if !matches!(row.membership, Membership::Leave | Membership::Ban) {
            return Ok(None);
        }
        // What came after the leaving takes nothing away: a ban, an invite that was declined. Who did nothing but decline
        // never saw the state.
        let mut leaving = row.event;
        for _ in 0..MAX_STEPS {
            let event = self.reader.event_row(leaving).await?;
            let Some(key) = event.state_key.filter(|_| event.room == self.num()) else {
                return Ok(None);
            };
            let root = self.reader.snap(event.snap_before).await?.root;
            let Some(before) = crate::tree::get(&self.reader, root, key).await? else {
                return Ok(None);
            };
            if membership_of(&self.reader.pdu(before).await?) == Some(Membership::Join) {
                return Ok(Some(self.state_at_snap(event.snap_after)));
            }
            leaving = before;
        }
        Ok(None)
    }

    /// The current state of the room at a position, for `members?at=` and the state of a sync.
    pub async fn state_at_position(&self, position: Position) -> Result<StateView, RoomError> {
        Ok(self.state_at_snap(self.snapshot_at(position).await?))
    }
}

impl StateView {
    /// The member events of this state. Proportional to its size.
    pub async fn member_events(&self) -> Result<Vec<Pdu>, RoomError> {
        let mut events = self.all().await?;
        events.retain(|event| event.kind() == "m.room.member" && event.state_key().is_some());
        Ok(events)
    }
}

/// The events of a stripped state that was kept, without the user's own membership: the event itself is at hand.
fn told_state(told: &str, user: &UserId) -> Vec<String> {
    let events: Vec<&serde_json::value::RawValue> = serde_json::from_str(told).unwrap_or_default();
    let others = events.into_iter().map(|event| event.get()).filter(|event| {
        let fields = crate::fields::EventFields::of(event);
        (fields.kind_str(), fields.state_key_str()) != ("m.room.member", Some(user.as_str()))
    });
    others.filter_map(stripped).collect()
}
