//! Who of our own people are in the rooms in which something happens: whom an event wakes.

use std::collections::HashMap;

use resuni_rooms::{RoomNum, Rooms, UserNum};
use resuni_store::StoreError;

/// Members of all rooms that are kept. Beyond it all are forgotten, and read again as they are needed.
const MEMBERS: usize = 512 << 10;

/// Our own members of rooms, as the log has it up to where it was followed. Whoever follows tells
/// every change, or clears this.
#[derive(Default)]
pub(crate) struct Audiences {
    /// In the order of their numbers.
    rooms: HashMap<RoomNum, Vec<UserNum>>,
    members: usize,
}

impl Audiences {
    /// Our own members of a room, in the order of their numbers.
    pub async fn of(&mut self, rooms: &Rooms, room: RoomNum) -> Result<&[UserNum], StoreError> {
        if !self.rooms.contains_key(&room) {
            let members = rooms.local_members(room).await?;
            // A room without members takes its place, too.
            if self.members + self.rooms.len() + members.len() > MEMBERS {
                self.clear();
            }
            self.members += members.len();
            self.rooms.insert(room, members);
        }
        Ok(self.rooms.get(&room).map_or(&[], Vec::as_slice))
    }

    /// The membership of one of our users changed. What it is now is read, not told: the room may
    /// have been read when later changes were already applied.
    pub async fn moved(
        &mut self,
        rooms: &Rooms,
        room: RoomNum,
        user: UserNum,
    ) -> Result<(), StoreError> {
        let Some(members) = self.rooms.get_mut(&room) else {
            return Ok(());
        };
        match (
            members.binary_search(&user),
            rooms.is_joined(user, room).await?,
        ) {
            (Err(at), true) => {
                members.insert(at, user);
                self.members += 1;
            }
            (Ok(at), false) => {
                members.remove(at);
                self.members -= 1;
            }
            _ => {}
        }
        Ok(())
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.rooms.clear();
        self.members = 0;
    }
}
