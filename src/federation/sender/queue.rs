//! What one destination is still to be sent.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use resuni_rooms::{EventNum, RoomNum};
use resuni_store::Position;
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId,
    api::federation::transactions::edu::Edu, serde::Raw,
};
use tokio::sync::Notify;

/// Events of a destination that are held in memory. When there are more, it is behind: they are found
/// again from the log when it answers.
const MAX_PENDING: usize = 1_000;
/// Ephemeral messages of a destination that are held. When there are more, the oldest go.
const MAX_EDUS: usize = 1_000;

/// An event to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub position: Position,
    pub room: RoomNum,
    pub event: EventNum,
}

/// What an ephemeral message is about: a newer one about the same thing takes the place of an older.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Whether somebody types.
    Typing(OwnedRoomId, OwnedUserId),
    /// How far somebody has read, in a thread or in all.
    Receipt(OwnedRoomId, OwnedUserId, Option<String>),
    /// Whether somebody is there.
    Presence(OwnedUserId),
    /// Nothing that could be replaced.
    Event(OwnedEventId),
    /// Each by itself.
    Single,
}

/// An ephemeral message to be sent.
#[derive(Clone, Debug)]
pub struct Ephemeral {
    /// What it is about.
    pub subject: Subject,
    /// The message.
    pub edu: Raw<Edu>,
}

/// The queue of one destination.
pub(super) struct Queue {
    pub server: OwnedServerName,
    state: Mutex<State>,
    /// Ends a pause early: the server is back.
    pub returned: Notify,
}

#[derive(Default)]
struct State {
    pending: VecDeque<Item>,
    edus: VecDeque<Ephemeral>,
    /// Messages on disk.
    stored: usize,
    /// Everything up to here was delivered, and what came after is not all in `pending`.
    behind: Option<Position>,
    /// What a worker took and has not delivered yet: everything up to here was.
    floor: Option<Position>,
    working: bool,
}

/// What a worker is to do next.
pub(super) enum Work {
    /// Nothing: it may end.
    Nothing,
    /// Find what the destination missed in `(after, up_to]`.
    CatchUp { after: Position, up_to: Position },
    /// Send these.
    Send {
        items: Vec<Item>,
        edus: Vec<Ephemeral>,
        /// There are messages on disk.
        stored: bool,
    },
}

impl Queue {
    pub fn new(server: OwnedServerName, behind: Option<Position>, stored: usize) -> Arc<Self> {
        let state = State {
            behind,
            stored,
            ..State::default()
        };
        Arc::new(Self {
            server,
            state: Mutex::new(state),
            returned: Notify::new(),
        })
    }

    /// Adds an event. Whether a worker has to be started.
    pub fn push(&self, item: Item) -> bool {
        let mut state = self.state.lock();
        if state.pending.len() >= MAX_PENDING {
            let first = state
                .pending
                .front()
                .map_or(item.position, |first| first.position);
            let delivered = Position(first.0.saturating_sub(1));
            // Already behind since before: that is where it goes on.
            state.behind.get_or_insert(delivered);
            state.pending.clear();
        }
        state.pending.push_back(item);
        !std::mem::replace(&mut state.working, true)
    }

    /// Adds an ephemeral message. Whether a worker has to be started.
    pub fn push_edu(&self, edu: Ephemeral) -> bool {
        let mut state = self.state.lock();
        if edu.subject != Subject::Single {
            state.edus.retain(|old| old.subject != edu.subject);
        }
        if state.edus.len() >= MAX_EDUS {
            state.edus.pop_front();
        }
        state.edus.push_back(edu);
        !std::mem::replace(&mut state.working, true)
    }

    /// Counts a message that was put on disk. Whether a worker has to be started.
    pub fn push_stored(&self) -> bool {
        let mut state = self.state.lock();
        state.stored += 1;
        !std::mem::replace(&mut state.working, true)
    }

    /// Messages on disk were taken; `None` when there are none at all.
    pub fn took_stored(&self, count: Option<usize>) {
        let mut state = self.state.lock();
        state.stored = count.map_or(0, |count| state.stored.saturating_sub(count));
    }

    /// How many messages are on disk.
    pub fn stored(&self) -> usize {
        self.state.lock().stored
    }

    /// Marks a worker as started. Whether it has to be.
    pub fn start(&self) -> bool {
        !std::mem::replace(&mut self.state.lock().working, true)
    }

    /// The next thing to do. `dispatched` is how far the log has been handed out to queues.
    pub fn next(&self, dispatched: Position, max_items: usize, max_edus: usize) -> Work {
        let mut state = self.state.lock();
        if let Some(after) = state.behind.take() {
            // What is in `pending` came later; between the two there is nothing for this server.
            let up_to = match state.pending.front() {
                Some(first) => Position(first.position.0.saturating_sub(1)),
                None => dispatched,
            };
            state.floor = Some(after);
            return Work::CatchUp { after, up_to };
        }
        let items: Vec<Item> = {
            let count = state.pending.len().min(max_items);
            state.pending.drain(..count).collect()
        };
        let count = state.edus.len().min(max_edus);
        let edus: Vec<Ephemeral> = state.edus.drain(..count).collect();
        state.floor = items
            .first()
            .map(|item| Position(item.position.0.saturating_sub(1)));
        let stored = state.stored > 0;
        if items.is_empty() && edus.is_empty() && !stored {
            state.working = false;
            return Work::Nothing;
        }
        Work::Send {
            items,
            edus,
            stored,
        }
    }

    /// Everything taken was delivered, up to and including what had this position.
    pub fn delivered(&self, up_to: Option<Position>) {
        self.state.lock().floor = up_to;
    }

    /// The destination does not answer for so long that what was taken is dropped: it is found again
    /// from the log.
    pub fn fall_behind(&self) {
        let mut state = self.state.lock();
        if let Some(floor) = state.floor.take() {
            state.behind = Some(state.behind.map_or(floor, |behind| behind.min(floor)));
            state.pending.clear();
        }
    }

    /// Everything up to here was delivered; `None` when everything was.
    pub fn delivered_up_to(&self) -> Option<Position> {
        let state = self.state.lock();
        let pending = state
            .pending
            .front()
            .map(|first| Position(first.position.0.saturating_sub(1)));
        [state.floor, state.behind, pending]
            .into_iter()
            .flatten()
            .min()
    }

    /// Events and messages that wait, without those that are to be found again in the log.
    pub fn len(&self) -> usize {
        let state = self.state.lock();
        state.pending.len() + state.edus.len() + state.stored
    }

    /// Whether nothing waits and nobody works.
    pub fn is_idle(&self) -> bool {
        let state = self.state.lock();
        !state.working
            && state.behind.is_none()
            && state.pending.is_empty()
            && state.edus.is_empty()
            && state.stored == 0
    }
}

#[cfg(test)]
#[expect(clippy::panic, reason = "tests")]
mod tests {
    use ruma::owned_server_name;

    use super::*;

    fn item(position: u64) -> Item {
        Item {
            position: Position(position),
            room: RoomNum(1),
            event: EventNum(position),
        }
    }

    #[test]
    fn events_leave_in_order_and_count_once_delivered() {
        let queue = Queue::new(owned_server_name!("a.test"), None, 0);
        assert_eq!(queue.delivered_up_to(), None);
        assert!(queue.push(item(5)), "the first one starts a worker");
        assert!(!queue.push(item(7)));
        assert_eq!(queue.delivered_up_to(), Some(Position(4)));
        let Work::Send { items, .. } = queue.next(Position(9), 1, 100) else {
            panic!()
        };
        assert_eq!(items, [item(5)]);
        assert_eq!(
            queue.delivered_up_to(),
            Some(Position(4)),
            "under way is not delivered"
        );
        queue.delivered(None);
        assert_eq!(queue.delivered_up_to(), Some(Position(6)));
        let Work::Send { items, .. } = queue.next(Position(9), 50, 100) else {
            panic!()
        };
        assert_eq!(items, [item(7)]);
        queue.delivered(None);
        assert!(matches!(queue.next(Position(9), 50, 100), Work::Nothing));
        assert_eq!(queue.delivered_up_to(), None);
        assert!(queue.is_idle());
        assert!(
            queue.push(item(9)),
            "a new worker is needed after the first has ended"
        );
    }

    #[test]
    fn a_queue_that_is_too_long_is_found_again_from_the_log() {
        let queue = Queue::new(owned_server_name!("a.test"), None, 0);
        for position in 10..10 + MAX_PENDING as u64 + 5 {
            queue.push(item(position));
        }
        assert_eq!(queue.delivered_up_to(), Some(Position(9)));
        let Work::CatchUp { after, up_to } = queue.next(Position(5_000), 50, 100) else {
            panic!()
        };
        assert_eq!(
            (after, up_to),
            (Position(9), Position(9 + MAX_PENDING as u64))
        );
        assert_eq!(queue.delivered_up_to(), Some(Position(9)));
        queue.fall_behind();
        let Work::CatchUp { after, up_to } = queue.next(Position(5_000), 50, 100) else {
            panic!()
        };
        assert_eq!(
            (after, up_to),
            (Position(9), Position(5_000)),
            "nothing is left out"
        );
    }

    #[test]
    fn only_the_newest_word_about_a_thing_is_sent() {
        let queue = Queue::new(owned_server_name!("a.test"), None, 0);
        let subject = || {
            Subject::Typing(
                ruma::owned_room_id!("!r:a.test"),
                ruma::owned_user_id!("@u:a.test"),
            )
        };
        for _ in 0..3 {
            let edu = Raw::from_json(Box::<serde_json::value::RawValue>::default());
            queue.push_edu(Ephemeral {
                subject: subject(),
                edu,
            });
        }
        assert_eq!(queue.len(), 1);
    }
}
