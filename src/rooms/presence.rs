//! Who is there: in memory only, as people come, act and fall silent.
//!
//! Spec: client-server API, "Presence". A change moves the same serial as [`Typing`] does, so that
//! one number in a sync token tells of both.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use resuni_store::SharedClock;
use ruma::{OwnedUserId, UserId};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::typing::Typing;

/// Without anything active for so long, somebody who is online becomes unavailable (spec, "Idle
/// timeout"), in milliseconds.
pub const IDLE_MS: u64 = 5 * 60_000;
/// Without a sync for so long, they are offline.
pub const GONE_MS: u64 = 30_000;
/// Whoever was active so recently is "currently active", and their later activity is not told.
pub const ACTIVE_MS: u64 = 60_000;
/// What another server told is taken back when it is not heard of for so long: it may be gone.
const REMOTE_MS: u64 = 30 * 60_000;
/// People who are remembered. Over it, those of whom nothing was heard longest are forgotten.
const MAX_PEOPLE: usize = 50_000;
/// The longest status message in bytes.
pub const MAX_STATUS_BYTES: usize = 1_024;
/// How often the timeouts above are looked at.
const TICK: Duration = Duration::from_secs(5);

/// Whether somebody is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PresenceState {
    /// `online`
    Online,
    /// `unavailable`
    Unavailable,
    /// `offline`
    #[default]
    Offline,
}

impl PresenceState {
    /// The name in the spec.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Unavailable => "unavailable",
            Self::Offline => "offline",
        }
    }

    /// The state of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Online, Self::Unavailable, Self::Offline]
            .into_iter()
            .find(|state| state.as_str() == name)
    }
}

/// What is told of somebody.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PresenceNow {
    /// Whether they are there.
    pub state: PresenceState,
    /// What they say about it.
    pub status: Option<String>,
    /// Milliseconds since they last did something; none if never.
    pub last_active_ago: Option<u64>,
    /// Whether that is so recent that they count as busy here.
    pub currently_active: bool,
}

impl PresenceNow {
    /// The content of an `m.presence` event.
    pub fn content(&self) -> Value {
        let mut content = json!({
            "presence": self.state.as_str(),
            "currently_active": self.currently_active,
        });
        if let Some(ago) = self.last_active_ago {
            content["last_active_ago"] = json!(ago);
        }
        if let Some(status) = &self.status {
            content["status_msg"] = json!(status);
        }
        content
    }
}

#[derive(Debug, Clone, Default)]
struct Person {
    state: PresenceState,
    status: Option<String>,
    last_active: Option<u64>,
    currently_active: bool,
    serial: u64,
    local: bool,
    /// Syncs that are under way, and when the last one ended (of another server: was heard of).
    syncing: usize,
    last_seen: u64,
}

impl Person {
    fn now(&self, now: u64) -> PresenceNow {
        PresenceNow {
            state: self.state,
            status: self.status.clone(),
            last_active_ago: self.last_active.map(|at| now.saturating_sub(at)),
            currently_active: self.currently_active && self.state == PresenceState::Online,
        }
    }

    /// They did something.
    fn active(&mut self, now: u64) -> bool {
        self.last_active = Some(now);
        self.become_state(PresenceState::Online)
            | !std::mem::replace(&mut self.currently_active, true)
    }

    fn become_state(&mut self, state: PresenceState) -> bool {
        if state != PresenceState::Online {
            self.currently_active = false;
        }
        std::mem::replace(&mut self.state, state) != state
    }

    /// What time alone changes.
    fn pass(&mut self, now: u64) -> bool {
        let since = |at: u64| now.saturating_sub(at);
        let silent = since(self.last_active.unwrap_or_default());
        if self.local && self.syncing == 0 && since(self.last_seen) > GONE_MS
            || !self.local && since(self.last_seen) > REMOTE_MS
        {
            return self.become_state(PresenceState::Offline);
        }
        if !self.local || self.state != PresenceState::Online {
            return false;
        }
        if silent > IDLE_MS {
            return self.become_state(PresenceState::Unavailable);
        }
        silent > ACTIVE_MS && std::mem::replace(&mut self.currently_active, false)
    }
}

#[derive(Default)]
struct People {
    people: HashMap<OwnedUserId, Person>,
    by_serial: BTreeMap<u64, OwnedUserId>,
}

/// Who is there, of our own users and of those whose servers tell us.
pub struct Presence {
    clock: SharedClock,
    typing: Arc<Typing>,
    enabled: AtomicBool,
    people: Mutex<People>,
    changed: watch::Sender<u64>,
}

/// A sync that is under way; its user is there at least until it ends.
pub struct Syncing<'a> {
    presence: &'a Presence,
    user: &'a UserId,
}

impl Drop for Syncing<'_> {
    fn drop(&mut self) {
        let now = self.presence.clock.now_ms();
        if let Some(person) = self.presence.people.lock().people.get_mut(self.user) {
            person.syncing = person.syncing.saturating_sub(1);
            person.last_seen = now;
        }
    }
}

impl Presence {
    /// Nobody is there yet. Serials are those of `typing`.
    pub fn new(clock: SharedClock, typing: Arc<Typing>) -> Self {
        Self {
            clock,
            typing,
            enabled: AtomicBool::new(true),
            people: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }

    /// Switched off, nobody is ever there, and nothing is kept.
    pub fn enable(&self, enabled: bool) {
        self.enabled.store(enabled, Ordering::Relaxed);
    }

    fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    /// Changes somebody; wakes whoever watches if `change` says that it matters.
    fn change(&self, user: &UserId, local: bool, change: impl FnOnce(&mut Person, u64) -> bool) {
        if !self.is_enabled() {
            return;
        }
        let now = self.clock.now_ms();
        let mut people = self.people.lock();
        let person = people.people.entry(user.to_owned()).or_insert(Person {
            local,
            last_seen: now,
            ..Person::default()
        });
        let serial = if change(person, now) {
            people.touch(user, &self.typing)
        } else {
            None
        };
        people.shrink();
        drop(people);
        if let Some(serial) = serial {
            self.changed.send_replace(serial);
            self.typing.wake();
        }
    }

    /// One of our users says how they are.
    pub fn set(&self, user: &UserId, state: PresenceState, status: Option<String>) {
        self.change(user, true, |person, now| {
            person.last_seen = now;
            let said = person.status != status;
            person.status = status;
            let changed = match state {
                PresenceState::Online => person.active(now),
                other => person.become_state(other),
            };
            said | changed
        });
    }

    /// One of our users did something.
    pub fn active(&self, user: &UserId) {
        self.change(user, true, Person::active);
    }

    /// One of our users syncs. `state` is what their client says about them: `offline` leaves them
    /// as they are.
    pub fn sync<'a>(&'a self, user: &'a UserId, state: PresenceState) -> Option<Syncing<'a>> {
        if state == PresenceState::Offline || !self.is_enabled() {
            return None;
        }
        self.change(user, true, |person, now| {
            person.syncing += 1;
            person.last_seen = now;
            match (state, person.state) {
                // To be connected is not to be busy: a client that polls does not end idleness.
                (PresenceState::Online, PresenceState::Offline) => person.active(now),
                (PresenceState::Online, _) => false,
                (other, _) => person.become_state(other),
            }
        });
        Some(Syncing {
            presence: self,
            user,
        })
    }

    /// Another server tells of a user of its own.
    pub fn receive(&self, user: &UserId, told: PresenceNow) {
        self.change(user, false, |person, now| {
            person.last_seen = now;
            person.last_active = told.last_active_ago.map(|ago| now.saturating_sub(ago));
            person.currently_active = told.currently_active;
            let said = person.status != told.status;
            person.status = told.status;
            let changed = std::mem::replace(&mut person.state, told.state) != told.state;
            said | changed
        });
    }

    /// How somebody is.
    pub fn of(&self, user: &UserId) -> Option<PresenceNow> {
        let now = self.clock.now_ms();
        let people = self.people.lock();
        people.people.get(user).map(|person| person.now(now))
    }

    /// Who changed after `serial`, newest first, `limit` at most.
    pub fn changed_since(&self, serial: u64, limit: usize) -> Vec<OwnedUserId> {
        let people = self.people.lock();
        let changed = people.by_serial.range(serial.saturating_add(1)..).rev();
        changed.map(|(_, user)| user.clone()).take(limit).collect()
    }

    /// Who is there now, whose change is newest first, `limit` at most.
    pub fn present(&self, limit: usize) -> Vec<OwnedUserId> {
        let people = self.people.lock();
        let there = |user: &&OwnedUserId| {
            let person = people.people.get(*user);
            person.is_some_and(|person| person.state != PresenceState::Offline)
        };
        let all = people.by_serial.values().rev();
        all.filter(there).take(limit).cloned().collect()
    }

    /// Wakes on every change; the value is its serial.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Lets the time pass: people fall idle and go. Runs until it is dropped.
    pub async fn run(&self) {
        loop {
            tokio::time::sleep(TICK).await;
            self.pass();
        }
    }

    fn pass(&self) {
        let now = self.clock.now_ms();
        let mut people = self.people.lock();
        let changed: Vec<OwnedUserId> = people
            .people
            .iter_mut()
            .filter(|(_, person)| person.state != PresenceState::Offline)
            .filter_map(|(user, person)| person.pass(now).then(|| user.clone()))
            .collect();
        let mut newest = None;
        for user in changed {
            newest = people.touch(&user, &self.typing);
        }
        drop(people);
        if let Some(serial) = newest {
            self.changed.send_replace(serial);
            self.typing.wake();
        }
    }
}

impl People {
    /// The serial is taken under this lock, so whoever has read it finds the change.
    fn touch(&mut self, user: &UserId, typing: &Typing) -> Option<u64> {
        let person = self.people.get_mut(user)?;
        self.by_serial.remove(&person.serial);
        person.serial = typing.next_serial();
        self.by_serial.insert(person.serial, user.to_owned());
        Some(person.serial)
    }

    fn shrink(&mut self) {
        while self.people.len() > MAX_PEOPLE {
            match self.by_serial.pop_first() {
                Some((_, user)) => self.people.remove(&user),
                // Nobody of whom anything was told: forget somebody.
                None => {
                    let Some(user) = self.people.keys().next().cloned() else {
                        return;
                    };
                    self.people.remove(&user)
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use resuni_store::Clock;
    use ruma::user_id;

    use super::*;

    struct HandClock(AtomicU64);

    impl Clock for HandClock {
        fn now_ms(&self) -> u64 {
            self.0.load(Ordering::SeqCst)
        }
    }

    fn presence() -> (Arc<HandClock>, Presence) {
        let clock = Arc::new(HandClock(AtomicU64::new(1_000_000)));
        let shared: SharedClock = clock.clone();
        let typing = Arc::new(Typing::new(shared.clone()));
        (clock, Presence::new(shared, typing))
    }

    fn state(presence: &Presence, user: &UserId) -> PresenceState {
        presence.of(user).unwrap_or_default().state
    }

    #[test]
    fn who_does_nothing_falls_idle_and_who_stops_syncing_is_gone() {
        let (clock, presence) = presence();
        let user = user_id!("@a:h");
        let syncing = presence.sync(user, PresenceState::Online);
        let pass = |ms: u64| {
            clock.0.fetch_add(ms, Ordering::SeqCst);
            presence.pass();
        };
        assert_eq!(state(&presence, user), PresenceState::Online);
        assert!(presence.of(user).unwrap().currently_active);
        pass(ACTIVE_MS + 1);
        assert!(!presence.of(user).unwrap().currently_active);
        assert_eq!(state(&presence, user), PresenceState::Online);
        pass(IDLE_MS);
        assert_eq!(state(&presence, user), PresenceState::Unavailable);
        // To be connected is not to be active; to send something is.
        drop(presence.sync(user, PresenceState::Online));
        assert_eq!(state(&presence, user), PresenceState::Unavailable);
        presence.active(user);
        assert_eq!(state(&presence, user), PresenceState::Online);
        drop(syncing);
        pass(GONE_MS);
        assert_eq!(state(&presence, user), PresenceState::Online);
        pass(1);
        assert_eq!(state(&presence, user), PresenceState::Offline);
    }

    #[test]
    fn changes_are_found_by_their_serial_and_activity_alone_is_none() {
        let (_, presence) = presence();
        let (a, b) = (user_id!("@a:h"), user_id!("@b:h"));
        let start = presence.typing.serial();
        presence.set(a, PresenceState::Online, Some("here".into()));
        let first = presence.typing.serial();
        presence.active(a);
        presence.set(a, PresenceState::Online, Some("here".into()));
        assert_eq!(presence.typing.serial(), first);
        presence.receive(
            b,
            PresenceNow {
                state: PresenceState::Unavailable,
                ..PresenceNow::default()
            },
        );
        assert_eq!(presence.changed_since(start, 10), [b, a]);
        assert_eq!(presence.changed_since(first, 10), [b]);
        assert_eq!(presence.present(1), [b]);
    }

    #[test]
    fn an_offline_sync_says_nothing_and_switched_off_nothing_is_kept() {
        let (_, presence) = presence();
        let user = user_id!("@a:h");
        assert!(presence.sync(user, PresenceState::Offline).is_none());
        assert_eq!(presence.of(user), None);
        presence.enable(false);
        presence.set(user, PresenceState::Online, None);
        assert_eq!(presence.of(user), None);
    }
}
