//! Which servers we talk to at all: everyone (`open`) or the members of the consortium.
//!
//! Asked on every path: before a request goes out, when one comes in, and for the server of every person
//! who is invited or whose event arrives through a third server.

use std::{collections::BTreeSet, sync::Arc};

use arc_swap::ArcSwap;
use ruma::{OwnedServerName, ServerName};

/// `federation.enabled` and `federation.mode`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No other server.
    Closed,
    /// Every server.
    Open,
    /// Only these.
    Consortium(BTreeSet<OwnedServerName>),
}

/// The mode in force. The roster may change while the server runs.
pub struct Admission {
    own: OwnedServerName,
    mode: ArcSwap<Mode>,
}

impl Admission {
    /// `own` is always admitted: it is us.
    #[must_use]
    pub fn new(own: OwnedServerName, mode: Mode) -> Self {
        Self {
            own,
            mode: ArcSwap::new(Arc::new(mode)),
        }
    }

    /// Whether `server` may talk to us and be talked to.
    #[must_use]
    pub fn allows(&self, server: &ServerName) -> bool {
        if server == self.own {
            return true;
        }
        match &**self.mode.load() {
            Mode::Closed => false,
            Mode::Open => true,
            Mode::Consortium(members) => members.contains(server),
        }
    }

    /// Puts another mode in force.
    pub fn set(&self, mode: Mode) {
        self.mode.store(Arc::new(mode));
    }

    /// The mode in force.
    #[must_use]
    pub fn mode(&self) -> Arc<Mode> {
        self.mode.load_full()
    }
}

#[cfg(test)]
mod tests {
    use ruma::{owned_server_name, server_name};

    use super::*;

    #[test]
    fn a_consortium_admits_its_members_and_itself() {
        let admission = Admission::new(
            owned_server_name!("us.example"),
            Mode::Consortium([owned_server_name!("friend.example")].into()),
        );
        assert!(admission.allows(server_name!("us.example")));
        assert!(admission.allows(server_name!("friend.example")));
        assert!(!admission.allows(server_name!("other.example")));
        assert!(!admission.allows(server_name!("friend.example:8448")));
        admission.set(Mode::Open);
        assert!(admission.allows(server_name!("other.example")));
        admission.set(Mode::Closed);
        assert!(!admission.allows(server_name!("friend.example")));
    }
}
