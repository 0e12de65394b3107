//! Rate limits: many small token buckets, bounded in number.
//!
//! Each bucket is one number: the time at which it would be full again (the generic cell rate
//! algorithm). That makes it small and lock-free, and a forgotten bucket is the same as a full
//! one, so buckets that are not used disappear by themselves.

use std::{
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use quick_cache::sync::Cache;

/// How much is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many at once; at least one.
    pub burst: u32,
    /// How long until one more is allowed. Zero: there is no limit.
    pub interval: Duration,
}

impl Rate {
    /// `per_second` in the long run, and `burst` at once. A rate of zero is no limit.
    pub fn per_second(per_second: f64, burst: u32) -> Self {
        let interval = if per_second > 0.0 {
            Duration::try_from_secs_f64(per_second.recip()).unwrap_or(Duration::MAX)
        } else {
            Duration::ZERO
        };
        Self { burst, interval }
    }

    fn interval_us(&self) -> u64 {
        u64::try_from(self.interval.as_micros()).unwrap_or(u64::MAX / 2)
    }

    /// When a bucket that is full at `full_at` is full again after one is taken, in microseconds.
    fn after_one(&self, full_at: u64, now_ms: u64) -> Result<u64, RetryAfter> {
        let now = now_ms.saturating_mul(1_000);
        let interval = self.interval_us();
        let next = full_at.max(now).saturating_add(interval);
        let latest = now.saturating_add(interval.saturating_mul(self.burst.max(1).into()));
        if next <= latest {
            Ok(next)
        } else {
            Err(RetryAfter {
                ms: (next - latest).div_ceil(1_000).max(1),
            })
        }
    }
}

/// Not now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryAfter {
    /// How long to wait, in milliseconds; at least one.
    pub ms: u64,
}

/// The buckets of many keys: users, devices, addresses.
///
/// At most `capacity` are remembered. When there are more, those that are used least are forgotten,
/// which gives their owners a full bucket again; who hammers at the door is used most and stays.
pub struct Limiter<K> {
    rate: Rate,
    buckets: Cache<K, Arc<AtomicU64>>,
}

impl<K: Clone + Eq + Hash> Limiter<K> {
    /// A limiter for up to `capacity` keys.
    pub fn new(rate: Rate, capacity: usize) -> Self {
        Self {
            rate,
            buckets: Cache::new(capacity),
        }
    }

    /// Takes one from the bucket of `key`, or says when there will be one.
    pub fn take(&self, key: &K, now_ms: u64) -> Result<(), RetryAfter> {
        self.take_at(self.rate, key, now_ms)
    }

    /// The same for a key with a rate of its own.
    pub fn take_at(&self, rate: Rate, key: &K, now_ms: u64) -> Result<(), RetryAfter> {
        if rate.interval.is_zero() {
            return Ok(());
        }
        let bucket = self
            .buckets
            .get_or_insert_with(key, || Ok::<_, ()>(Arc::default()))
            .unwrap_or_default();
        let mut full_at = bucket.load(Relaxed);
        loop {
            let next = rate.after_one(full_at, now_ms)?;
            match bucket.compare_exchange_weak(full_at, next, Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => full_at = other,
            }
        }
    }

    /// Puts back what was taken for something that turned out not to count.
    pub fn give_back(&self, key: &K) {
        if let Some(bucket) = self.buckets.get(key) {
            let interval = self.rate.interval_us();
            let _ = bucket.fetch_update(Relaxed, Relaxed, |full_at| {
                Some(full_at.saturating_sub(interval))
            });
        }
    }

    /// Whether [`Self::take`] would succeed, without taking.
    pub fn peek(&self, key: &K, now_ms: u64) -> Result<(), RetryAfter> {
        match self.buckets.get(key) {
            Some(bucket) if !self.rate.interval.is_zero() => {
                self.rate.after_one(bucket.load(Relaxed), now_ms).map(drop)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(burst: u32, interval_ms: u64) -> Limiter<&'static str> {
        let interval = Duration::from_millis(interval_ms);
        Limiter::new(Rate { burst, interval }, 16)
    }

    #[test]
    fn a_burst_and_then_one_at_a_time() {
        let limiter = limiter(3, 100);
        let start = 1_000_000;
        for _ in 0..3 {
            assert_eq!(limiter.take(&"a", start), Ok(()));
        }
        assert_eq!(limiter.take(&"a", start), Err(RetryAfter { ms: 100 }));
        assert_eq!(limiter.take(&"a", start + 60), Err(RetryAfter { ms: 40 }));
        assert_eq!(limiter.take(&"b", start), Ok(()), "another key");
        assert_eq!(limiter.take(&"a", start + 100), Ok(()));
        assert!(limiter.take(&"a", start + 100).is_err());
        for _ in 0..3 {
            assert_eq!(limiter.take(&"a", start + 10_000), Ok(()), "full again");
        }
        assert!(limiter.take(&"a", start + 10_000).is_err());
    }

    #[test]
    fn a_refusal_costs_nothing_and_neither_does_looking() {
        let limiter = limiter(1, 100);
        assert_eq!(limiter.peek(&"a", 0), Ok(()));
        assert_eq!(limiter.take(&"a", 0), Ok(()));
        for _ in 0..10 {
            assert_eq!(limiter.take(&"a", 50), Err(RetryAfter { ms: 50 }));
            assert_eq!(limiter.peek(&"a", 50), Err(RetryAfter { ms: 50 }));
        }
        assert_eq!(limiter.take(&"a", 100), Ok(()));
    }

    #[test]
    /// Time from a wall clock may step back.
    fn a_clock_that_goes_back_locks_nobody_out_for_longer_than_a_burst() {
        let limiter = limiter(2, 100);
        assert_eq!(limiter.take(&"a", 1_000), Ok(()));
        assert_eq!(limiter.take(&"a", 0), Err(RetryAfter { ms: 1_000 }));
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let limiter = limiter(2, 100);
        limiter.give_back(&"a");
        for _ in 0..10 {
            assert_eq!(limiter.take(&"a", 0), Ok(()));
            limiter.give_back(&"a");
        }
        assert_eq!(limiter.take(&"a", 0), Ok(()));
        assert_eq!(limiter.take(&"a", 0), Ok(()));
        assert!(limiter.take(&"a", 0).is_err());
    }

    #[test]
    fn zero_is_no_limit() {
        let limiter = limiter(1, 0);
        for _ in 0..100 {
            assert_eq!(limiter.take(&"a", 0), Ok(()));
        }
    }

    #[test]
    fn many_at_once_get_no_more_than_the_burst() {
        let limiter = Arc::new(limiter(50, 1_000_000));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let limiter = Arc::clone(&limiter);
                std::thread::spawn(move || {
                    (0..50).filter(|_| limiter.take(&"a", 1).is_ok()).count()
                })
            })
            .collect();
        let taken: usize = threads.into_iter().map(|t| t.join().unwrap()).sum();
        assert_eq!(taken, 50);
    }

    #[test]
    fn rates_in_words() {
        assert_eq!(
            Rate::per_second(10.0, 5).interval,
            Duration::from_millis(100)
        );
        assert!(Rate::per_second(0.0, 5).interval.is_zero());
    }
}
