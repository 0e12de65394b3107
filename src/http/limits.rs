//! How often somebody may ask: which class a request belongs to is its route's policy, each caller
//! has a bucket per class, and the operator may switch it all off.

use std::{net::IpAddr, time::Duration};

pub use resuni_accounts::limits::Rate;
use resuni_accounts::{OwnRate, limits::Limiter};
use resuni_store::SharedClock;
use ruma::OwnedUserId;

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
    use std::sync::Arc;

    use http::StatusCode;
    use resuni_store::SystemClock;

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
}
