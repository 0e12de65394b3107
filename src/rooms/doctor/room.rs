//! One room: its head, and everything that is derived from its current state.

use std::collections::{BTreeMap, BTreeSet};

use resuni_dag::Lattice;
use resuni_store::{Direction, ScanRange};
use ruma::UserId;

use super::{Doctor, Rows};
use crate::{
    delta::{links, membership_in},
    error::RoomError,
    tables::{
        EVENTS, Head, LATTICE, LOCAL_MEMBERS, MEMBERS, Place, ROOM_SERVERS, RoomRow, SERVER_ROOMS,
        SPACE_CHILDREN, STATE_AT, USER_ROOMS,
    },
    types::{EventNum, Membership, RoomNum, SERVER_NUMBERS, ServerNum, UserNum, server_of},
};

/// What the tables should say of a room's members.
#[derive(Default)]
struct Derived {
    members: BTreeMap<UserNum, (Membership, EventNum)>,
    local: BTreeSet<UserNum>,
    servers: BTreeMap<ServerNum, u64>,
    children: BTreeMap<String, EventNum>,
}

impl Derived {
    fn count(&self, which: Membership) -> u64 {
        self.members
            .values()
            .filter(|(membership, _)| *membership == which)
            .count() as u64
    }
}

impl Doctor<'_> {
    pub(super) async fn room(&mut self, num: RoomNum, row: &RoomRow) -> Result<(), RoomError> {
        let room = &row.room_id;
        let derived = match self.reader.head(num).await? {
            Some(head) => {
                self.head(num, row, &head).await?;
                let derived = self.derive(num, row, &head).await?;
                let (joined, invited) = (
                    derived.count(Membership::Join),
                    derived.count(Membership::Invite),
                );
                self.expect((head.joined, head.invited) == (joined, invited), || {
                    format!("the room {room} counts {} joined and {} invited; there are {joined} and {invited}", head.joined, head.invited)
                });
                derived
            }
            None => Derived::default(),
        };
        self.members(num, row, &derived).await?;
        self.servers(num, row, &derived).await
    }

    async fn head(&mut self, num: RoomNum, row: &RoomRow, head: &Head) -> Result<(), RoomError> {
        let room = &row.room_id;
        self.expect(!head.extremities.is_empty(), || {
            format!("the room {room} has no forward extremity")
        });
        for event in &head.extremities {
            let found = self.reader.snapshot.get(&EVENTS, event).await?;
            let fine = found.is_some_and(|event| {
                event.room == num && matches!(event.place, Place::Timeline { .. })
            });
            self.expect(fine, || {
                format!(
                    "the forward extremity number {} of the room {room} is not in its timeline",
                    event.0
                )
            });
        }
        let newest = self
            .reader
            .snapshot
            .scan(&STATE_AT, ScanRange::prefix(&num), Direction::Backward, 1)
            .await?;
        let newest = newest
            .first()
            .map(|((_, position), snap)| (*position, *snap));
        let fine =
            newest.is_some_and(|(position, snap)| position <= head.position && snap == head.snap);
        self.expect(fine, || {
            format!("the current state of the room {room} is not the newest of its history")
        });
        Ok(())
    }

    /// Computes the digest from the state itself, and collects the members on the way.
    async fn derive(
        &mut self,
        num: RoomNum,
        row: &RoomRow,
        head: &Head,
    ) -> Result<Derived, RoomError> {
        let room = &row.room_id;
        let mut lattice = Lattice::empty();
        let mut derived = Derived::default();
        for (key, event) in self.reader.state_entries(head.snap).await? {
            let (kind, key) = self.reader.state_key(key).await?;
            let found = self.reader.snapshot.get(&EVENTS, &event).await?;
            let Some(found) = found.filter(|found| found.room == num) else {
                self.find(|| format!("the state of the room {room} has the event number {}, which is not its own", event.0));
                continue;
            };
            self.expect(found.place != Place::Rejected, || {
                format!(
                    "the state of the room {room} has the rejected event {:?}",
                    found.id
                )
            });
            lattice.add(&kind, &key, found.id.to_id().as_str());
            if kind == "m.space.child" && links(&self.reader.pdu(event).await?) {
                derived.children.insert(key, event);
            } else if kind == "m.room.member"
                && let Ok(user) = UserId::parse(&key)
                && let Some(membership) = membership_in(&self.reader.pdu(event).await?)
            {
                self.derive_member(&mut derived, &user, membership, event)
                    .await?;
            }
        }
        let snap = self.reader.snap(head.snap).await?;
        self.expect(lattice.digest().0 == snap.digest, || {
            format!("the digest of the room {room} is not that of its state")
        });
        let kept = self.reader.snapshot.get(&LATTICE, &num).await?;
        let same = kept.is_some_and(|kept| kept == lattice.to_bytes());
        self.expect(same, || {
            format!("the lattice of the room {room} is not that of its state")
        });
        Ok(derived)
    }

    async fn derive_member(
        &mut self,
        derived: &mut Derived,
        user: &UserId,
        membership: Membership,
        event: EventNum,
    ) -> Result<(), RoomError> {
        let Some(num) = self.reader.user_num(user).await? else {
            self.find(|| format!("the member {user} has no number"));
            return Ok(());
        };
        derived.members.insert(num, (membership, event));
        if membership == Membership::Join {
            let server = server_of(user);
            if let Some(server) = self
                .reader
                .store
                .numbers()
                .find(&SERVER_NUMBERS, server.as_bytes())
                .await?
            {
                *derived.servers.entry(ServerNum(server)).or_default() += 1;
            }
            if server == self.server.as_str() {
                derived.local.insert(num);
            }
        }
        Ok(())
    }

    async fn members(
        &mut self,
        num: RoomNum,
        row: &RoomRow,
        derived: &Derived,
    ) -> Result<(), RoomError> {
        let room = &row.room_id;
        let mut found = BTreeMap::new();
        let mut rows = Rows::of(&MEMBERS, ScanRange::prefix(&num));
        while let Some(page) = rows.next(&self.reader).await? {
            for ((_, membership, user), event) in page {
                let twice = found.insert(user, (membership, event)).is_some();
                self.expect(!twice, || {
                    format!(
                        "the user number {} is a member of the room {room} twice",
                        user.0
                    )
                });
            }
        }
        self.expect(found == derived.members, || {
            format!("the members of the room {room} are not those of its state")
        });
        let mut local = BTreeSet::new();
        let mut rows = Rows::of(&LOCAL_MEMBERS, ScanRange::prefix(&num));
        while let Some(page) = rows.next(&self.reader).await? {
            local.extend(page.into_iter().map(|((_, user), ())| user));
        }
        let mut children = BTreeMap::new();
        let mut rows = Rows::of(&SPACE_CHILDREN, ScanRange::prefix(&num));
        while let Some(page) = rows.next(&self.reader).await? {
            children.extend(page.into_iter().map(|((_, child), event)| (child, event)));
        }
        self.expect(children == derived.children, || {
            format!("the children of the space {room} are not those of its state")
        });
        self.expect(local == derived.local, || {
            format!("the local members of the room {room} are not those of its state")
        });
        for (user, (membership, event)) in &derived.members {
            let row = self.reader.snapshot.get(&USER_ROOMS, &(*user, num)).await?;
            // A row with stripped state tells of an invite that came while we were not in the room.
            let fine = row.is_some_and(|row| {
                row.stripped.is_some() || (row.membership == *membership && row.event == *event)
            });
            self.expect(fine, || {
                format!(
                    "the user number {} and the room {room} don't agree on a membership",
                    user.0
                )
            });
        }
        Ok(())
    }

    async fn servers(
        &mut self,
        num: RoomNum,
        row: &RoomRow,
        derived: &Derived,
    ) -> Result<(), RoomError> {
        let room = &row.room_id;
        let mut servers = BTreeMap::new();
        let mut rows = Rows::of(&ROOM_SERVERS, ScanRange::prefix(&num));
        while let Some(page) = rows.next(&self.reader).await? {
            servers.extend(
                page.into_iter()
                    .map(|((_, server), joined)| (server, joined)),
            );
        }
        self.expect(servers == derived.servers, || {
            format!("the servers of the room {room} are not those of its members")
        });
        for server in servers.keys() {
            let listed = self
                .reader
                .snapshot
                .contains(&SERVER_ROOMS, &(*server, num))
                .await?;
            self.expect(listed, || {
                format!(
                    "the server number {} doesn't list the room {room}",
                    server.0
                )
            });
        }
        Ok(())
    }
}
