//! Who is typing: in memory only, for as long as each notification is good for.
//!
//! Spec: client-server API, "Typing Notifications". A change moves a serial; a reader keeps the one
//! it has seen and asks for the rooms that changed since. Serials start at the time of the process's
//! start, so that one from before a restart is older than all after it.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;
use resuni_store::SharedClock;
use ruma::{OwnedUserId, UserId};
use tokio::sync::watch;

use crate::types::RoomNum;

/// The longest time that one notification counts, in milliseconds, whatever the client asks for.
pub const MAX_TIMEOUT_MS: u64 = 120_000;
/// How long a notification of another server counts: its EDU names no timeout and is renewed.
pub const REMOTE_TIMEOUT_MS: u64 = 30_000;
/// How many may type in a room at once; more are not shown.
const MAX_PER_ROOM: usize = 100;
/// How many rooms are kept. Over it, those in which nobody types are forgotten, oldest change first.
const MAX_ROOMS: usize = 20_000;

/// Who types in which room.
pub struct Typing {
    clock: SharedClock,
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// Until when (in milliseconds) whom counts; no room without typists.
    active: HashMap<RoomNum, BTreeMap<OwnedUserId, u64>>,
    /// The last change of each room that had typists.
    serials: HashMap<RoomNum, u64>,
    by_serial: BTreeMap<u64, RoomNum>,
    serial: u64,
}

/// Who types in a room now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TypingNow {
    /// The serial of the room's last change; 0 when there was none.
    pub serial: u64,
    /// The users, sorted.
    pub users: Vec<OwnedUserId>,
}

impl Typing {
    /// Nobody types yet.
    pub fn new(clock: SharedClock) -> Self {
        let serial = clock.now_ms();
        Self {
            clock,
            state: Mutex::new(State {
                serial,
                ..State::default()
            }),
            changed: watch::Sender::new(serial),
        }
    }

    /// Notes that `user` types for the next `timeout_ms` milliseconds, or with `None` that they stopped.
    /// Whether the list of the room's typists changed.
    pub fn set(&self, room: RoomNum, user: &UserId, timeout_ms: Option<u64>) -> bool {
        let now = self.clock.now_ms();
        let mut state = self.state.lock();
        state.expire(now);
        let changed = match timeout_ms {
            Some(timeout) => state.start(room, user, now + timeout.min(MAX_TIMEOUT_MS)),
            None => state.stop(room, user),
        };
        if changed {
            state.touch(room);
        }
        state.shrink();
        let serial = state.serial;
        drop(state);
        // Sent on every call: the expiry loop must learn of a later deadline too.
        self.changed.send_replace(serial);
        changed
    }

    /// Who types in the room.
    pub fn now(&self, room: RoomNum) -> TypingNow {
        let now = self.clock.now_ms();
        let state = self.state.lock();
        let users = state.active.get(&room).into_iter().flatten();
        TypingNow {
            serial: state.serials.get(&room).copied().unwrap_or(0),
            users: users
                .filter(|(_, until)| **until > now)
                .map(|(user, _)| user.clone())
                .collect(),
        }
    }

    /// A serial for something else that is told in the same way. [`Typing::wake`] is called when it is there.
    pub(crate) fn next_serial(&self) -> u64 {
        let mut state = self.state.lock();
        state.serial += 1;
        state.serial
    }

    /// Wakes whoever watches.
    pub(crate) fn wake(&self) {
        let serial = self.serial();
        self.changed.send_replace(serial);
    }

    /// The newest serial.
    pub fn serial(&self) -> u64 {
        self.state.lock().serial
    }

    /// The rooms whose list changed after `serial`, oldest change first.
    pub fn changed_since(&self, serial: u64) -> Vec<RoomNum> {
        let state = self.state.lock();
        state
            .by_serial
            .range(serial.saturating_add(1)..)
            .map(|(_, room)| *room)
            .collect()
    }

    /// The serial of the room's last change; 0 when there was none.
    pub fn room_serial(&self, room: RoomNum) -> u64 {
        self.state.lock().serials.get(&room).copied().unwrap_or(0)
    }

    /// Wakes on every change (the value is the newest serial).
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Drops what has run out, and says when (by the clock, in milliseconds) the next one does.
    pub fn expire(&self) -> Option<u64> {
        let mut state = self.state.lock();
        let before = state.serial;
        state.expire(self.clock.now_ms());
        let next = state
            .active
            .values()
            .flat_map(BTreeMap::values)
            .min()
            .copied();
        let serial = state.serial;
        drop(state);
        if serial != before {
            self.changed.send_replace(serial);
        }
        next
    }

    /// Lets notifications run out on time; ends never. One task of the process runs it.
    pub async fn run(&self) {
        let mut changes = self.watch();
        loop {
            // Marked first: a change during `expire` ends the wait below at once.
            changes.mark_unchanged();
            let next = self.expire();
            let wait = next.map(|at| {
                std::time::Duration::from_millis(at.saturating_sub(self.clock.now_ms()).max(1))
            });
            match wait {
                Some(wait) => {
                    let _ = tokio::time::timeout(wait, changes.changed()).await;
                }
                None => {
                    let _ = changes.changed().await;
                }
            }
        }
    }
}

impl State {
    fn start(&mut self, room: RoomNum, user: &UserId, until: u64) -> bool {
        let users = self.active.entry(room).or_default();
        if users.len() >= MAX_PER_ROOM && !users.contains_key(user) {
            return false;
        }
        users.insert(user.to_owned(), until).is_none()
    }

    fn stop(&mut self, room: RoomNum, user: &UserId) -> bool {
        let Some(users) = self.active.get_mut(&room) else {
            return false;
        };
        let changed = users.remove(user).is_some();
        if users.is_empty() {
            self.active.remove(&room);
        }
        changed
    }

    fn touch(&mut self, room: RoomNum) {
        self.serial += 1;
        if let Some(old) = self.serials.insert(room, self.serial) {
            self.by_serial.remove(&old);
        }
        self.by_serial.insert(self.serial, room);
    }

    fn expire(&mut self, now: u64) {
        let mut expired = Vec::new();
        self.active.retain(|room, users| {
            let before = users.len();
            users.retain(|_, until| *until > now);
            if users.len() != before {
                expired.push(*room);
            }
            !users.is_empty()
        });
        for room in expired {
            self.touch(room);
        }
    }

    fn shrink(&mut self) {
        if self.serials.len() <= MAX_ROOMS {
            return;
        }
        let idle = self
            .by_serial
            .iter()
            .filter(|(_, room)| !self.active.contains_key(room));
        let idle: Vec<(u64, RoomNum)> = idle
            .map(|(serial, room)| (*serial, *room))
            .take(MAX_ROOMS / 10)
            .collect();
        for (serial, room) in idle {
            self.by_serial.remove(&serial);
            self.serials.remove(&room);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use resuni_store::Clock;
    use ruma::user_id;

    use super::*;

    #[derive(Debug)]
    struct HandClock(AtomicU64);

    impl Clock for HandClock {
        fn now_ms(&self) -> u64 {
            self.0.load(Ordering::SeqCst)
        }
    }

    fn typing() -> (Arc<HandClock>, Typing) {
        let clock = Arc::new(HandClock(AtomicU64::new(1_000)));
        (clock.clone(), Typing::new(clock))
    }

    #[test]
    fn typists_come_and_go() {
        let (clock, typing) = typing();
        let (room, alice, bob) = (RoomNum(1), user_id!("@alice:h"), user_id!("@bob:h"));
        let start = typing.serial();
        assert!(typing.set(room, alice, Some(500)));
        assert!(
            !typing.set(room, alice, Some(1_000)),
            "a renewal is no news"
        );
        assert!(typing.set(room, bob, Some(100)));
        assert_eq!(typing.now(room).users, [alice, bob]);
        assert_eq!(typing.changed_since(start), [room]);

        let seen = typing.serial();
        clock.0.store(1_200, Ordering::SeqCst);
        assert_eq!(
            typing.now(room).users,
            [alice],
            "what has run out isn't shown, swept or not"
        );
        assert_eq!(typing.expire(), Some(2_000));
        assert_eq!(typing.changed_since(seen), [room]);

        let seen = typing.serial();
        assert!(typing.set(room, alice, None));
        assert!(!typing.set(room, alice, None));
        assert_eq!(
            typing.now(room),
            TypingNow {
                serial: seen + 1,
                users: vec![]
            }
        );
        assert_eq!(typing.room_serial(RoomNum(2)), 0);
        assert!(
            !typing.set(RoomNum(2), alice, None),
            "a room without typists leaves no trace"
        );
        assert_eq!(typing.changed_since(0), [room]);
    }

    #[test]
    fn rooms_and_typists_are_bounded() {
        let (clock, typing) = typing();
        for n in 0..=MAX_PER_ROOM {
            let user = UserId::parse(format!("@u{n}:h")).unwrap_or_else(|_| unreachable!());
            typing.set(RoomNum(1), &user, Some(10));
        }
        assert_eq!(typing.now(RoomNum(1)).users.len(), MAX_PER_ROOM);
        clock.0.store(5_000, Ordering::SeqCst);
        let mut state = typing.state.lock();
        state.expire(5_000);
        for n in 2..=(MAX_ROOMS as u64 + 1) {
            state.touch(RoomNum(n));
        }
        state.shrink();
        assert!(state.serials.len() <= MAX_ROOMS);
        assert_eq!(state.serials.len(), state.by_serial.len());
    }

    #[tokio::test]
    async fn the_loop_wakes_waiters_when_a_notification_runs_out() {
        let (clock, typing) = typing();
        let typing = Arc::new(typing);
        typing.set(RoomNum(1), user_id!("@a:h"), Some(50));
        let mut changes = typing.watch();
        let looping = tokio::spawn({
            let typing = typing.clone();
            async move { typing.run().await }
        });
        clock.0.store(1_051, Ordering::SeqCst);
        changes.changed().await.unwrap_or_else(|_| unreachable!());
        assert!(typing.now(RoomNum(1)).users.is_empty());
        looping.abort();
    }
}
