//! Clocks that go wrong.

use std::sync::atomic::{AtomicI64, Ordering};

use resuni_store::Clock;
use tokio::time::Instant;

/// What the true time was when the simulation began, in milliseconds since the Unix epoch.
const BEGAN_MS: i64 = 1_800_000_000_000;

/// The clock of one machine: simulated time, and how wrong it is.
#[derive(Debug)]
pub struct SkewedClock {
    began: Instant,
    skew_ms: AtomicI64,
}

impl SkewedClock {
    /// A clock that is right. `began` is the simulated start.
    #[must_use]
    pub fn new(began: Instant) -> Self {
        Self {
            began,
            skew_ms: AtomicI64::new(0),
        }
    }

    /// From now on it is wrong by so many milliseconds.
    pub fn set_skew(&self, skew_ms: i64) {
        self.skew_ms.store(skew_ms, Ordering::Relaxed);
    }
}

impl Clock for SkewedClock {
    fn now_ms(&self) -> u64 {
        let passed = i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX);
        let now = BEGAN_MS + passed + self.skew_ms.load(Ordering::Relaxed);
        u64::try_from(now).unwrap_or_default()
    }
}
