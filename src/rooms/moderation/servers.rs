//! Which servers share rooms with ours.

use resuni_store::{Direction, ScanRange};
use ruma::{OwnedRoomId, OwnedServerName, ServerName};

use crate::error::RoomError;
use crate::rooms::Rooms;
use crate::tables::{ROOMS, SERVER_ROOMS};
use crate::types::{RoomNum, SERVER_NUMBERS, ServerNum};

impl Rooms {
    /// The servers with a joined user in a room that is known here, ours among them. A seek for each.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn servers(&self) -> Result<Vec<OwnedServerName>, RoomError> {
        let snapshot = self.store().snapshot();
        let (mut range, mut found) = (ScanRange::all(), Vec::new());
        loop {
            let rows = snapshot
                .scan(&SERVER_ROOMS, range, Direction::Forward, 1)
                .await?;
            let Some(((server, _), ())) = rows.into_iter().next() else {
                return Ok(found);
            };
            range = ScanRange::after(&(server, RoomNum(u64::MAX)));
            let name = self.store().numbers().name(&SERVER_NUMBERS, server.0);
            let name = name.await?.unwrap_or_default();
            let name = std::str::from_utf8(&name).unwrap_or_default();
            found.extend(ServerName::parse(name));
        }
    }

    /// The rooms in which a server has a joined user, `limit` at most.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn rooms_with(
        &self,
        server: &ServerName,
        limit: usize,
    ) -> Result<Vec<OwnedRoomId>, RoomError> {
        let numbers = self.store().numbers();
        let Some(num) = numbers.find(&SERVER_NUMBERS, server.as_bytes()).await? else {
            return Ok(Vec::new());
        };
        let snapshot = self.store().snapshot();
        let range = ScanRange::prefix(&ServerNum(num));
        let rows = snapshot
            .scan(&SERVER_ROOMS, range, Direction::Forward, limit)
            .await?;
        let nums: Vec<RoomNum> = rows.into_iter().map(|((_, room), ())| room).collect();
        let rooms = snapshot.get_many(&ROOMS, &nums).await?;
        Ok(rooms.into_iter().flatten().map(|row| row.room_id).collect())
    }
}
