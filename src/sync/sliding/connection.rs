//! Connections: what each has been sent.
//!
//! A connection remembers what its client certainly has, and what the answer after that would add. The client shows
//! that it has an answer by coming back with its `pos`; coming back with the one before, it gets the answer again, made
//! anew. All of it is in memory only: a connection that is not known any more ends with `M_UNKNOWN_POS`, and the client
//! begins another, which costs it one window.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use resuni_accounts::AccountNum;
use resuni_rooms::{RoomNum, UserNum};
use resuni_store::Position;

use super::request::Wanted;
use crate::{SyncError, SyncToken, Who};

/// Connections of one device; the one that was used least recently gives way.
const OF_DEVICE: usize = 8;
/// Connections and their rooms of all devices together: beyond it, those that were used least recently give way.
const WEIGHT: usize = 4 << 20;

/// Extensions that tell of rooms.
pub(crate) const OF_ROOMS: usize = 4;

/// What a client has of a room.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    /// All that happened up to here.
    pub up_to: Position,
    /// So many of the newest events, without a gap.
    pub have: u32,
    /// The limit that they were sent by.
    pub limit: u32,
    /// What is kept up to date of the state.
    pub wanted: Arc<Wanted>,
    /// Members that were sent because the timeline needed them, and did not change since.
    pub members: Vec<UserNum>,
    /// What extensions tell of the room (account data, receipts, typing, sticky events) has been sent up to here; none where it has
    /// been sent as far as the connection goes, as is so with most.
    pub behind: Option<Box<[Option<Position>; OF_ROOMS]>>,
    /// The unread counts are others than were told.
    pub unread: bool,
    /// Whether the user was joined.
    pub joined: bool,
    /// Whether it was told to be a direct chat.
    pub is_dm: bool,
}

impl Sent {
    /// A room of which nothing but its name is told yet.
    pub fn of(up_to: Position, wanted: Arc<Wanted>) -> Self {
        Self {
            up_to,
            have: 0,
            limit: 0,
            wanted,
            members: Vec::new(),
            behind: None,
            unread: false,
            joined: false,
            is_dm: false,
        }
    }

    /// Up to where an extension (by its number in [`Seen::extensions`]) has told of the room, if that is not as far as
    /// the connection goes.
    pub fn is_behind(&self, extension: usize) -> Option<Position> {
        self.behind.as_ref()?.get(extension).copied()?
    }

    pub fn set_behind(&mut self, extension: usize, position: Option<Position>) {
        let mut behind = self.behind.take().unwrap_or_default();
        behind[extension] = position;
        self.behind = Some(behind).filter(|behind| behind.iter().any(Option::is_some));
    }
}

/// What the client of a connection has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Up to where the connection goes; none before the first answer.
    pub token: Option<SyncToken>,
    pub rooms: HashMap<RoomNum, Sent>,
    /// Extensions of rooms that were on: account data, receipts, typing, sticky events.
    pub extensions: [bool; OF_ROOMS],
    /// Changes of subscriptions to threads up to here.
    pub threads: Position,
}

/// What an answer adds.
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub token: Option<SyncToken>,
    /// A none: the client has nothing of the room any more.
    pub rooms: HashMap<RoomNum, Option<Sent>>,
    pub extensions: [bool; OF_ROOMS],
    pub threads: Position,
}

#[derive(Default)]
struct Connection {
    /// What the client has, and the number of the answer it has it from: 0 before the first.
    seen: (u64, Arc<Seen>),
    /// The answer that it may have got.
    next: Option<(u64, Step)>,
    /// Counts the requests: only the newest may answer.
    turn: u64,
    /// When it was last used, by the count of all uses.
    used: u64,
}

impl Connection {
    fn weight(&self) -> usize {
        let next = self.next.as_ref().map_or(0, |(_, step)| step.rooms.len());
        1 + self.seen.1.rooms.len() + next
    }

    /// The client has got the answer that was made last.
    fn confirm(&mut self, number: u64, step: Step) {
        let seen = Arc::make_mut(&mut self.seen.1);
        for (room, sent) in step.rooms {
            match sent {
                Some(sent) => drop(seen.rooms.insert(room, sent)),
                None => drop(seen.rooms.remove(&room)),
            }
        }
        seen.token = step.token;
        seen.extensions = step.extensions;
        seen.threads = step.threads;
        self.seen.0 = number;
    }
}

/// Whose connection, and which.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ConnKey {
    device: (AccountNum, String),
    name: String,
}

impl ConnKey {
    pub fn of(who: Who<'_>, name: &str) -> Self {
        let device = who.device.map(|device| device.to_string());
        Self {
            device: (who.account, device.unwrap_or_default()),
            name: name.to_owned(),
        }
    }
}

/// A request's place in its connection.
pub(crate) struct Turn {
    key: ConnKey,
    turn: u64,
    /// What its client has.
    pub seen: Arc<Seen>,
}

/// All connections of all devices.
pub(crate) struct Connections {
    table: Mutex<Table>,
}

struct Table {
    devices: HashMap<(AccountNum, String), HashMap<String, Connection>>,
    weight: usize,
    /// Numbers of answers and uses, from one that no process before had.
    next: u64,
}

impl Connections {
    /// `start` is random, so that positions of an earlier process are not taken for ours.
    pub fn new(start: u64) -> Self {
        Self {
            table: Mutex::new(Table {
                devices: HashMap::new(),
                weight: 0,
                next: start >> 1 | 1,
            }),
        }
    }

    /// Begins the connection, or goes on with it from `pos`.
    pub fn enter(&self, key: ConnKey, pos: Option<&str>) -> Result<Turn, SyncError> {
        let mut table = self.table.lock();
        let turn = table.number();
        let Some(pos) = pos else {
            table.remove(&key);
            table.make_room(&key);
            let connection = Connection {
                turn,
                used: turn,
                ..Connection::default()
            };
            let seen = connection.seen.1.clone();
            table.weight += connection.weight();
            let device = table.devices.entry(key.device.clone()).or_default();
            device.insert(key.name.clone(), connection);
            return Ok(Turn { key, turn, seen });
        };
        let number = parse_pos(pos).ok_or(SyncError::UnknownPos)?;
        let connection = table.get(&key).ok_or(SyncError::UnknownPos)?;
        let weight = connection.weight();
        match connection.next.take() {
            Some((next, step)) if next == number => connection.confirm(next, step),
            next => connection.next = next,
        }
        if connection.seen.0 != number {
            return Err(SyncError::UnknownPos);
        }
        (connection.turn, connection.used) = (turn, turn);
        let seen = connection.seen.1.clone();
        let weighs = connection.weight();
        table.weight = table.weight + weighs - weight;
        Ok(Turn { key, turn, seen })
    }

    /// Keeps what an answer adds, and gives it its `pos`. A request that another one of the same connection has
    /// overtaken gets none: its client has given it up.
    pub fn answer(&self, turn: &Turn, step: Step) -> Result<String, SyncError> {
        let mut table = self.table.lock();
        let number = table.number();
        let position = step.token.map_or(0, |token| token.position.0);
        let connection = table.get(&turn.key);
        let connection = connection
            .filter(|connection| connection.turn == turn.turn)
            .ok_or(SyncError::UnknownPos)?;
        let weight = connection.weight();
        connection.next = Some((number, step));
        let weighs = connection.weight();
        table.weight = table.weight + weighs - weight;
        table.shrink(&turn.key);
        Ok(format!("s{position}_{number}"))
    }
}

impl Table {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn get(&mut self, key: &ConnKey) -> Option<&mut Connection> {
        self.devices.get_mut(&key.device)?.get_mut(&key.name)
    }

    fn remove(&mut self, key: &ConnKey) {
        let Some(device) = self.devices.get_mut(&key.device) else {
            return;
        };
        if let Some(connection) = device.remove(&key.name) {
            self.weight -= connection.weight();
        }
        if device.is_empty() {
            self.devices.remove(&key.device);
        }
    }

    /// Ends the device's least recently used connection if it has as many as it may.
    fn make_room(&mut self, key: &ConnKey) {
        let Some(device) = self.devices.get(&key.device) else {
            return;
        };
        let oldest = device.iter().min_by_key(|(_, connection)| connection.used);
        if let (true, Some((name, _))) = (device.len() >= OF_DEVICE, oldest) {
            let oldest = ConnKey {
                device: key.device.clone(),
                name: name.clone(),
            };
            self.remove(&oldest);
        }
    }

    /// Ends connections that were not used for long, until half as much is left, so that the next ones cost nothing.
    fn shrink(&mut self, keep: &ConnKey) {
        if self.weight <= WEIGHT {
            return;
        }
        let mut used: Vec<(u64, ConnKey)> = Vec::new();
        for (device, connections) in &self.devices {
            used.extend(connections.iter().map(|(name, connection)| {
                let (device, name) = (device.clone(), name.clone());
                (connection.used, ConnKey { device, name })
            }));
        }
        used.sort_unstable_by_key(|(used, _)| *used);
        for (_, key) in used {
            if self.weight <= WEIGHT / 2 {
                break;
            }
            if key != *keep {
                self.remove(&key);
            }
        }
    }
}

/// `s{position}_{number}`: the first part is what `/messages` and `/relations` read (MSC4186), the second the answer.
fn parse_pos(pos: &str) -> Option<u64> {
    let (position, number) = pos.strip_prefix('s')?.split_once('_')?;
    position.parse::<u64>().ok()?;
    number.parse().ok()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use ruma::{device_id, user_id};

    use super::*;

    fn key(account: u64, name: &str) -> ConnKey {
        let who = Who {
            user: user_id!("@a:h"),
            account: AccountNum(account),
            device: Some(device_id!("D")),
        };
        ConnKey::of(who, name)
    }

    fn step(position: u64) -> Step {
        let token = SyncToken::at(Position(position), 0);
        Step {
            token: Some(token),
            ..Step::default()
        }
    }

    fn position(turn: &Turn) -> Option<u64> {
        turn.seen.token.map(|token| token.position.0)
    }

    #[test]
    fn an_answer_counts_once_its_position_comes_back() {
        let all = Connections::new(7);
        let first = all.enter(key(1, ""), None).unwrap();
        assert_eq!(position(&first), None);
        let one = all.answer(&first, step(1)).unwrap();
        assert!(one.starts_with("s1_"));
        let second = all.enter(key(1, ""), Some(&one)).unwrap();
        assert_eq!(position(&second), Some(1));
        let lost = all.answer(&second, step(2)).unwrap();
        // The answer was lost: the client comes back with what it has, as often as it likes.
        for _ in 0..2 {
            let again = all.enter(key(1, ""), Some(&one)).unwrap();
            assert_eq!(position(&again), Some(1));
            let two = all.answer(&again, step(3)).unwrap();
            assert_ne!(two, lost);
        }
        // The answer that was made anew is the one that counts.
        assert!(all.enter(key(1, ""), Some(&lost)).is_err());
    }

    #[test]
    fn positions_of_others_and_of_earlier_processes_are_unknown() {
        let all = Connections::new(7);
        let turn = all.enter(key(1, ""), None).unwrap();
        let pos = all.answer(&turn, step(1)).unwrap();
        for other in [key(2, ""), key(1, "x")] {
            assert!(all.enter(other, Some(&pos)).is_err());
        }
        assert!(
            Connections::new(8_000)
                .enter(key(1, ""), Some(&pos))
                .is_err()
        );
        for bad in ["", "s1", "1_2", "s_1", "s1_x"] {
            assert!(all.enter(key(1, ""), Some(bad)).is_err(), "{bad}");
        }
        assert!(all.enter(key(1, ""), Some(&pos)).is_ok());
    }

    #[test]
    fn a_request_that_was_overtaken_answers_nothing() {
        let all = Connections::new(7);
        let turn = all.enter(key(1, ""), None).unwrap();
        let pos = all.answer(&turn, step(1)).unwrap();
        let slow = all.enter(key(1, ""), Some(&pos)).unwrap();
        let quick = all.enter(key(1, ""), Some(&pos)).unwrap();
        let next = all.answer(&quick, step(2)).unwrap();
        assert!(all.answer(&slow, step(3)).is_err());
        assert_eq!(
            position(&all.enter(key(1, ""), Some(&next)).unwrap()),
            Some(2)
        );
    }

    #[test]
    fn a_device_has_so_many_connections() {
        let all = Connections::new(7);
        let pos: Vec<String> = (0..=OF_DEVICE)
            .map(|n| {
                let turn = all.enter(key(1, &n.to_string()), None).unwrap();
                all.answer(&turn, step(1)).unwrap()
            })
            .collect();
        assert!(all.enter(key(1, "0"), Some(&pos[0])).is_err());
        assert!(all.enter(key(1, "1"), Some(&pos[1])).is_ok());
        let table = all.table.lock();
        let device = table.devices.values().next().unwrap();
        assert_eq!(device.len(), OF_DEVICE);
        let weight: usize = device.values().map(Connection::weight).sum();
        assert_eq!(table.weight, weight);
    }
}
