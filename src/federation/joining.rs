//! Joins under way: one at a time for each room, and what is sent to this server for such a room waits for them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use ruma::{OwnedRoomId, RoomId};

/// How long events wait for a join. Servers give up a transaction after half a minute, the most impatient ones.
const PATIENCE: Duration = Duration::from_secs(15);

/// The joins under way.
#[derive(Debug, Default)]
pub struct Joining {
    rooms: Mutex<HashMap<OwnedRoomId, Arc<tokio::sync::Mutex<()>>>>,
}

impl Joining {
    /// To be locked while somebody joins the room.
    pub fn turn(&self, room: &RoomId) -> Arc<tokio::sync::Mutex<()>> {
        let mut rooms = self.rooms.lock();
        rooms.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(rooms.entry(room.to_owned()).or_default())
    }

    /// Waits for a join under way: the other servers count us in as soon as one of them has taken it, and what they send
    /// then would be dropped, as of a room that we are not in, until we have taken their answer.
    pub async fn settled(&self, room: &RoomId) {
        let turn = self.rooms.lock().get(room).cloned();
        if let Some(turn) = turn
            && tokio::time::timeout(PATIENCE, turn.lock()).await.is_err()
        {
            tracing::debug!(%room, "events came for a room that is still being joined");
        }
    }

    /// Whether somebody joins the room at this moment.
    pub fn is_under_way(&self, room: &RoomId) -> bool {
        let rooms = self.rooms.lock();
        rooms.get(room).is_some_and(|turn| turn.try_lock().is_err())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use ruma::room_id;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_comes_for_a_room_waits_for_its_join() {
        let joining = Arc::new(Joining::default());
        let (room, other) = (room_id!("!a:x"), room_id!("!b:x"));
        assert!(!joining.is_under_way(room));
        let turn = joining.turn(room);
        let held = turn.lock().await;
        assert!(joining.is_under_way(room) && !joining.is_under_way(other));
        joining.settled(other).await;
        let waiting = {
            let joining = Arc::clone(&joining);
            tokio::spawn(async move { joining.settled(room).await })
        };
        tokio::time::sleep(PATIENCE / 2).await;
        assert!(!waiting.is_finished());
        drop(held);
        waiting.await.unwrap();
        assert!(!joining.is_under_way(room));
        // A join that does not end holds nothing up for ever.
        let _held = turn.lock().await;
        joining.settled(room).await;
    }
}
