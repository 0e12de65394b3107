//! How long to leave a server alone that does not answer.
//!
//! One state per destination, shared by everything that nobody waits for: the outgoing queues, key
//! fetches, look-ups of missing events. A request that a person waits for may pass (it is rare, and the
//! person asks now), and its outcome counts.

use std::collections::HashMap;

use parking_lot::Mutex;
use resuni_store::SharedClock;
use ruma::{OwnedServerName, ServerName};

/// The first pause, in milliseconds: a server that restarts is back within seconds.
const FIRST_MS: u64 = 1_000;
/// The pause once the failure is no longer fresh …
const STEADY_MS: u64 = 20_000;
/// … up to this many failures.
const STEADY_UNTIL: u32 = 20;
/// The longest pause: a day.
const LONGEST_MS: u64 = 24 * 3_600_000;
/// How many servers are remembered. When full, those whose pause is over are forgotten.
const CAPACITY: usize = 50_000;

/// The pauses of every destination.
pub struct Backoff {
    clock: SharedClock,
    states: Mutex<HashMap<OwnedServerName, State>>,
}

#[derive(Clone, Copy)]
struct State {
    failures: u32,
    until_ms: u64,
    since_ms: u64,
    last_ms: u64,
}

/// Since when a server does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failing {
    /// The first time, in milliseconds since 1970.
    pub since_ms: u64,
    /// The last time.
    pub last_ms: u64,
    /// How long it is left alone since then, in milliseconds.
    pub pause_ms: u64,
}

impl Backoff {
    /// No destination is paused yet.
    #[must_use]
    pub fn new(clock: SharedClock) -> Self {
        Self {
            clock,
            states: Mutex::default(),
        }
    }

    /// Milliseconds until `server` may be tried again; `None` when it may be tried now.
    #[must_use]
    pub fn wait_ms(&self, server: &ServerName) -> Option<u64> {
        let until = self.states.lock().get(server)?.until_ms;
        until.checked_sub(self.clock.now_ms()).filter(|ms| *ms > 0)
    }

    /// `server` answered, or sent us something: it is there.
    ///
    /// Returns whether it had been counted as failing.
    pub fn success(&self, server: &ServerName) -> bool {
        self.states.lock().remove(server).is_some()
    }

    /// `server` did not answer. Failures that come while it is paused (several requests that were under
    /// way at once) count as one. Returns the pause in milliseconds.
    pub fn failure(&self, server: &ServerName) -> u64 {
        let now = self.clock.now_ms();
        let mut states = self.states.lock();
        if states.len() >= CAPACITY && !states.contains_key(server) {
            states.retain(|_, state| state.until_ms > now);
        }
        let state = states.entry(server.to_owned()).or_insert(State {
            failures: 0,
            until_ms: 0,
            since_ms: now,
            last_ms: now,
        });
        if state.until_ms > now {
            return state.until_ms - now;
        }
        let pause = pause_ms(state.failures);
        state.failures = state.failures.saturating_add(1);
        // Spread by up to a fifth, so that a thousand servers do not all return in the same second.
        let spread = pause / 5;
        let jitter = if spread == 0 {
            0
        } else {
            rand::random::<u64>() % spread
        };
        state.until_ms = now + pause - jitter;
        state.last_ms = now;
        state.until_ms - now
    }

    /// Since when a server does not answer; `None` while it does.
    #[must_use]
    pub fn failure_of(&self, server: &ServerName) -> Option<Failing> {
        let state = *self.states.lock().get(server)?;
        Some(Failing {
            since_ms: state.since_ms,
            last_ms: state.last_ms,
            pause_ms: state.until_ms.saturating_sub(state.last_ms),
        })
    }

    /// The servers that do not answer.
    #[must_use]
    pub fn failing(&self) -> Vec<OwnedServerName> {
        self.states.lock().keys().cloned().collect()
    }

    /// How many destinations are paused now.
    #[must_use]
    pub fn paused(&self) -> usize {
        let now = self.clock.now_ms();
        self.states
            .lock()
            .values()
            .filter(|state| state.until_ms > now)
            .count()
    }
}

/// 1, 2, 4, 8, 16 seconds, then 20 for some five minutes, so that a server that was restarted or moved
/// gets what it missed soon after it is back; then doubling up to a day, so that a dead one costs little.
pub(crate) fn pause_ms(failures: u32) -> u64 {
    let pause = match failures {
        0..=4 => FIRST_MS << failures,
        5..=STEADY_UNTIL => STEADY_MS,
        _ => STEADY_MS << (failures - STEADY_UNTIL).min(13),
    };
    pause.min(LONGEST_MS)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use ruma::server_name;

    use super::*;

    struct Hands(AtomicU64);

    impl resuni_store::Clock for Hands {
        fn now_ms(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn pauses_grow_to_a_day_and_end_with_a_sign_of_life() {
        let clock = Arc::new(Hands(AtomicU64::new(1_000_000)));
        let backoff = Backoff::new(clock.clone());
        let server = server_name!("a.example");
        assert_eq!(backoff.wait_ms(server), None);

        let first = backoff.failure(server);
        assert!(first <= FIRST_MS && first > FIRST_MS / 2);
        assert_eq!(
            backoff.failure(server),
            first,
            "failures under way together count once"
        );
        assert_eq!(backoff.paused(), 1);

        let mut last = first;
        for _ in 0..40 {
            clock
                .0
                .fetch_add(backoff.wait_ms(server).unwrap(), Ordering::Relaxed);
            assert_eq!(backoff.wait_ms(server), None);
            let next = backoff.failure(server);
            assert!(next + next / 4 >= last, "{last} then {next}");
            last = next;
        }
        assert!(last <= LONGEST_MS && last > LONGEST_MS / 2);

        assert!(backoff.success(server));
        assert_eq!(backoff.wait_ms(server), None);
        assert!(backoff.failure(server) <= FIRST_MS);
    }

    #[test]
    fn fresh_failures_are_retried_within_half_a_minute() {
        let pauses: Vec<u64> = (0..5).map(pause_ms).collect();
        assert_eq!(pauses, [1_000, 2_000, 4_000, 8_000, 16_000]);
        assert_eq!(pause_ms(20), 20_000);
        assert_eq!(pause_ms(21), 40_000);
        assert_eq!(pause_ms(40), LONGEST_MS);
    }
}
