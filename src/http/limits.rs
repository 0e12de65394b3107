//! How often somebody may ask: which class a request belongs to is its route's policy, each caller
//! has a bucket per class, and the operator may switch it all off.

use std::{net::IpAddr, time::Duration};

pub use resuni_accounts::limits::Rate;
use resuni_accounts::{OwnRate, limits::Limiter};
use resuni_config::RateLimits;
use resuni_store::SharedClock;
use ruma::{OwnedServerName, OwnedUserId};

use crate::error::ApiError;

/// How many callers are remembered per class.
const CALLERS: usize = 16_384;

/// Kinds of requests that have buckets of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Limited if the spec's metadata says so.
    Other,
    /// Sending an event.
    Send,
    /// Registering an account.
    Register,
    /// Logging in, and whatever else tries a password.
    Login,
    /// Joining or knocking.
    Join,
    /// Inviting, and creating rooms (which may invite).
    Invite,
    /// Uploading, asking for and claiming keys, and messages to devices. The specification limits none of them, but they
    /// are what makes other servers and other people's devices work.
    Keys,
    /// Whatever other servers ask for.
    Federation,
}

/// Whose bucket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    /// Somebody known by their address only. Of an IPv6 address the network counts: one customer
    /// has 2^64 of the rest.
    Address(IpAddr),
    /// A user of this server.
    User(OwnedUserId),
    /// A user of this server who may send as fast as an operator has said.
    Own(OwnedUserId, OwnRate),
    /// Another server.
    Server(OwnedServerName),
    /// Somebody whom the limits don't concern.
    Exempt,
}

impl Who {
    fn normal(self) -> Who {
        match self {
            Who::Address(IpAddr::V6(address)) => {
                let network = u128::from(address) >> 64 << 64;
                Who::Address(IpAddr::V6(network.into()))
            }
            who => who,
        }
    }
}

/// How many requests of each class, per caller.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// [`Class::Other`]
    pub other: Rate,
    /// [`Class::Send`]
    pub send: Rate,
    /// [`Class::Register`]
    pub register: Rate,
    /// [`Class::Login`]
    pub login: Rate,
    /// [`Class::Join`]
    pub join: Rate,
    /// [`Class::Invite`]
    pub invite: Rate,
    /// [`Class::Keys`]
    pub keys: Rate,
    /// [`Class::Federation`]
    pub federation: Rate,
}

impl Rates {
    /// What the settings say; none where they switch the limits off.
    pub fn of(limits: &RateLimits) -> Option<Rates> {
        let rate = |rate: resuni_config::Rate| {
            Rate::per_second(f64::from(rate.per_minute) / 60.0, rate.burst)
        };
        limits.enabled.then(|| Rates {
            other: rate(limits.other),
            send: rate(limits.send),
            register: rate(limits.register),
            login: rate(limits.login),
            join: rate(limits.join),
            invite: rate(limits.invite),
            keys: rate(limits.keys),
            federation: rate(limits.federation),
        })
    }
}

/// The buckets.
pub struct Limits {
    clock: SharedClock,
    buckets: Option<Buckets>,
}

struct Buckets {
    other: Limiter<Who>,
    send: Limiter<Who>,
    register: Limiter<Who>,
    login: Limiter<Who>,
    join: Limiter<Who>,
    invite: Limiter<Who>,
    keys: Limiter<Who>,
    federation: Limiter<Who>,
}

impl Limits {
    /// Full buckets; without rates nothing is ever refused.
    pub fn new(rates: Option<Rates>, clock: SharedClock) -> Limits {
        let limiter = |rate| Limiter::new(rate, CALLERS);
        let buckets = rates.map(|rates| Buckets {
            other: limiter(rates.other),
            send: limiter(rates.send),
            register: limiter(rates.register),
            login: limiter(rates.login),
            join: limiter(rates.join),
            invite: limiter(rates.invite),
            keys: limiter(rates.keys),
            federation: limiter(rates.federation),
        });
        Limits { clock, buckets }
    }

    /// Takes one from the caller's bucket, or says how long to wait. A request of the class
    /// [`Class::Other`] counts only where the spec says that it is limited.
    pub fn take(&self, class: Class, by_the_spec: bool, who: Who) -> Result<(), ApiError> {
        let Some(buckets) = self.buckets.as_ref().filter(|_| who != Who::Exempt) else {
            return Ok(());
        };
        let limiter = match class {
            Class::Other if !by_the_spec => return Ok(()),
            Class::Other => &buckets.other,
            Class::Send => &buckets.send,
            Class::Register => &buckets.register,
            Class::Login => &buckets.login,
            Class::Join => &buckets.join,
            Class::Invite => &buckets.invite,
            Class::Keys => &buckets.keys,
            Class::Federation => &buckets.federation,
        };
        let now = self.clock.now_ms();
        let taken = match who {
            Who::Own(user, own) if class == Class::Send => {
                limiter.take_at(own.rate(), &Who::User(user), now)
            }
            Who::Own(user, _) => limiter.take(&Who::User(user), now),
            who => limiter.take(&who.normal(), now),
        };
        taken.map_err(|wait| ApiError::limit_exceeded(Duration::from_millis(wait.ms)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    };

    use http::StatusCode;
    use resuni_store::{Clock, SystemClock};

    use super::*;

    fn limits(enabled: bool) -> Limits {
        let rate = Rate {
            burst: 5,
            interval: Duration::from_secs(20),
        };
        let rates = Rates {
            other: rate,
            send: rate,
            register: rate,
            login: rate,
            join: rate,
            invite: rate,
            keys: rate,
            federation: rate,
        };
        Limits::new(enabled.then_some(rates), Arc::new(SystemClock))
    }

    fn address(text: &str) -> Who {
        Who::Address(text.parse().unwrap())
    }

    #[test]
    fn a_network_of_ipv6_has_one_bucket_per_class() {
        let limits = limits(true);
        let take = |class, who: String| limits.take(class, true, address(&who));
        for host in 0..5 {
            assert!(take(Class::Register, format!("2001:db8::{host}")).is_ok());
        }
        let refused = take(Class::Register, "2001:db8::ffff:1".to_owned()).unwrap_err();
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(take(Class::Register, "2001:db8:0:1::1".to_owned()).is_ok());
        assert!(take(Class::Login, "2001:db8::1".to_owned()).is_ok());
    }

    #[test]
    fn switched_off_or_exempt_nothing_is_refused() {
        for _ in 0..1000 {
            assert!(
                limits(false)
                    .take(Class::Register, true, address("192.0.2.1"))
                    .is_ok()
            );
            assert!(
                limits(true)
                    .take(Class::Register, true, Who::Exempt)
                    .is_ok()
            );
            assert!(
                limits(true)
                    .take(Class::Other, false, address("192.0.2.1"))
                    .is_ok()
            );
        }
    }

    struct Hand(AtomicU64);

    impl Clock for Hand {
        fn now_ms(&self) -> u64 {
            self.0.load(Relaxed)
        }
    }

    /// What a person does in an hour in which they do nothing else, and what a script does in a second.
    #[test]
    fn a_busy_person_never_waits_and_a_script_does() {
        let clock = Arc::new(Hand(AtomicU64::new(1_000_000_000)));
        let rates = Rates::of(&resuni_config::RateLimits::default());
        let limits = Limits::new(rates, clock.clone());
        let user = || Who::User("@alice:example.org".try_into().unwrap());
        let home = || address("2001:db8::1");
        let fine = |class, who: Who| limits.take(class, true, who).unwrap();
        // Three devices start at once, and load what they show.
        for _ in 0..90 {
            fine(Class::Other, user());
        }
        for _ in 0..3 {
            fine(Class::Login, home());
        }
        fine(Class::Register, home());
        // A message in an encrypted room of a thousand: the keys of all, and one for each device, twenty at a time.
        for _ in 0..300 {
            fine(Class::Keys, user());
        }
        for second in 0..3_600 {
            clock.0.fetch_add(1_000, Relaxed);
            // Typing, a receipt, a search for a name, at each device.
            for _ in 0..3 {
                fine(Class::Other, user());
            }
            // A message, a reaction, an edit.
            for _ in 0..3 {
                fine(Class::Send, user());
            }
            if second % 60 == 0 {
                // An album of pictures; rooms of a space; friends.
                for _ in 0..60 {
                    fine(Class::Send, user());
                }
                for _ in 0..20 {
                    fine(Class::Join, user());
                    fine(Class::Invite, user());
                }
            }
        }
        // A server that has been away sends what it has.
        let far = || Who::Server("other.example".try_into().unwrap());
        for _ in 0..1_000 {
            fine(Class::Federation, far());
        }
        for (class, who) in [
            (Class::Other, user()),
            (Class::Send, user()),
            (Class::Join, user()),
            (Class::Invite, user()),
            (Class::Keys, user()),
            (Class::Login, home()),
            (Class::Register, home()),
            (Class::Federation, far()),
        ] {
            let refused = (0..10_000).find_map(|_| limits.take(class, true, who.clone()).err());
            let refused = refused.unwrap_or_else(|| panic!("{class:?} has no limit"));
            assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
        }
    }
}
