//! Who cares about a room: what those who wait for news ask, by numbers and in few point reads.

use resuni_dag::Pdu;
use resuni_store::{Direction, ScanRange, StoreError};
use ruma::{OwnedUserId, UserId};

use crate::{
    Form, Membership, RoomNum, RoomOf, Rooms, UserNum,
    client_format::{Unsigned, client_event},
    error::RoomError,
    tables::{LOCAL_MEMBERS, ROOMS, USER_ROOMS},
};

impl Rooms {
    /// The user with this number.
    pub async fn user_id(&self, user: UserNum) -> Result<OwnedUserId, StoreError> {
        self.reader().user_id(user).await
    }

    /// Whether a user is joined to any room that we are in: one seek for each room until the first.
    pub async fn is_in_a_room(&self, user: &UserId) -> Result<bool, RoomError> {
        let joined = self.rooms_of(user, &[Membership::Join]).await?;
        Ok(!joined.is_empty())
    }

    /// The event by which a user is invited to a room, whether this server is in it or not.
    pub async fn invite_event(
        &self,
        user: &UserId,
        room: RoomNum,
    ) -> Result<Option<Pdu>, RoomError> {
        match self.user_room(user, room).await? {
            Some(row) if row.membership == Membership::Invite => {
                Ok(Some(self.reader().pdu(row.event).await?))
            }
            _ => Ok(None),
        }
    }

    /// The number of a user who ever was in, or invited to, a room here.
    pub async fn user_num(&self, user: &UserId) -> Result<Option<UserNum>, StoreError> {
        self.reader().user_num(user).await
    }

    /// Whether one of our users is joined to the room: one point read.
    pub async fn is_joined(&self, user: UserNum, room: RoomNum) -> Result<bool, StoreError> {
        self.store()
            .snapshot()
            .contains(&LOCAL_MEMBERS, &(room, user))
            .await
    }

    /// Those of `users` (our own) who are joined to the room: a point read for each.
    pub async fn local_members_among(
        &self,
        room: RoomNum,
        users: &[UserNum],
    ) -> Result<Vec<UserNum>, StoreError> {
        let snapshot = self.store().snapshot();
        let keys: Vec<_> = users.iter().map(|user| (room, *user)).collect();
        let rows = snapshot.get_many(&LOCAL_MEMBERS, &keys).await?;
        Ok(users
            .iter()
            .zip(rows)
            .filter_map(|(user, row)| row.map(|()| *user))
            .collect())
    }

    /// All of our own who are joined to the room, in the order of their numbers. Proportional to how many they are.
    pub async fn local_members(&self, room: RoomNum) -> Result<Vec<UserNum>, StoreError> {
        let (all, forward) = (ScanRange::prefix(&room), Direction::Forward);
        let snapshot = self.store().snapshot();
        let rows = snapshot
            .scan(&LOCAL_MEMBERS, all, forward, usize::MAX)
            .await?;
        Ok(rows.into_iter().map(|((_, user), ())| user).collect())
    }

    /// As `rooms_of`, but only those of `rooms` that are the user's, forgotten ones too: for when few rooms have news.
    pub async fn rooms_of_among(
        &self,
        user: &UserId,
        rooms: &[RoomNum],
    ) -> Result<Vec<RoomOf>, RoomError> {
        let reader = self.reader();
        let Some(user) = reader.user_num(user).await? else {
            return Ok(Vec::new());
        };
        let keys: Vec<_> = rooms.iter().map(|room| (user, *room)).collect();
        let rows = reader.snapshot.get_many(&USER_ROOMS, &keys).await?;
        let ids = reader.snapshot.get_many(&ROOMS, rooms).await?;
        let found = rooms.iter().zip(rows).zip(ids);
        Ok(found
            .filter_map(|((num, row), room)| {
                Some(RoomOf {
                    num: *num,
                    room_id: room?.room_id,
                    row: row?,
                })
            })
            .collect())
    }

    /// The user's member event in a room that we are not in (a declined invite), for its user.
    pub async fn member_event(
        &self,
        user: &UserId,
        room: RoomNum,
        form: &Form<'_>,
    ) -> Result<Option<String>, RoomError> {
        let Some(row) = self.user_room(user, room).await? else {
            return Ok(None);
        };
        let membership = matches!(row.membership, Membership::Leave | Membership::Ban);
        let event = self.reader().pdu(row.event).await;
        let Ok(event) = event else { return Ok(None) };
        let unsigned = Unsigned {
            now_ms: form.now_ms,
            ..Unsigned::default()
        };
        Ok(membership.then(|| client_event(event.event_id(), None, event.json(), &unsigned)))
    }
}
