//! Who belongs to the consortium.

use std::collections::BTreeSet;

use resuni_federation::Mode;
use ruma::{OwnedServerName, ServerName};

/// A member server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The name of the operator or network, for people.
    pub name: String,
    /// The server.
    pub server_name: OwnedServerName,
    /// A page to send people to.
    pub url: Option<String>,
    /// The country, as in ISO 3166-1.
    pub country: Option<String>,
    /// The main language, as in BCP 47.
    pub language: Option<String>,
}

/// The members in the order of the configuration, and which of them we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roster {
    own: OwnedServerName,
    members: Vec<Member>,
}

/// Why a list is no roster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RosterError {
    /// A server is listed twice.
    #[error("consortium.members lists {0} twice: each server is one member")]
    Twice(OwnedServerName),
}

impl Roster {
    /// The roster as the server `own` has it. It need not be in it.
    ///
    /// # Errors
    /// When a server is listed twice.
    pub fn new(own: OwnedServerName, members: Vec<Member>) -> Result<Self, RosterError> {
        let mut names = BTreeSet::new();
        for member in &members {
            if !names.insert(&member.server_name) {
                return Err(RosterError::Twice(member.server_name.clone()));
            }
        }
        Ok(Self { own, members })
    }

    /// All members.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// This server's name.
    pub fn own_name(&self) -> &ServerName {
        &self.own
    }

    /// What the roster says about this server.
    pub fn own(&self) -> Option<&Member> {
        self.members
            .iter()
            .find(|member| member.server_name == self.own)
    }

    /// The mode of a federation that is open to the members only. Without members that is nobody but ourselves.
    pub fn mode(&self) -> Mode {
        Mode::Consortium(
            self.members
                .iter()
                .map(|member| member.server_name.clone())
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use resuni_federation::Admission;
    use ruma::{owned_server_name, server_name};

    use super::*;

    fn member(name: &str) -> Member {
        Member {
            name: format!("The operator of {name}"),
            server_name: name.try_into().unwrap(),
            url: None,
            country: None,
            language: None,
        }
    }

    #[test]
    fn the_roster_decides_who_is_admitted() {
        let members = vec![member("us.example"), member("them.example")];
        let roster = Roster::new(owned_server_name!("us.example"), members).unwrap();
        assert_eq!(roster.own().unwrap().name, "The operator of us.example");
        let admission = Admission::new(roster.own_name().to_owned(), roster.mode());
        assert!(admission.allows(server_name!("them.example")));
        assert!(!admission.allows(server_name!("else.example")));
    }

    #[test]
    fn an_empty_roster_admits_nobody_else() {
        let roster = Roster::new(owned_server_name!("us.example"), Vec::new()).unwrap();
        assert_eq!(roster.own(), None);
        let admission = Admission::new(roster.own_name().to_owned(), roster.mode());
        assert!(admission.allows(server_name!("us.example")));
        assert!(!admission.allows(server_name!("them.example")));
    }

    #[test]
    fn a_server_is_one_member() {
        let members = vec![member("a.example"), member("a.example")];
        let refused = Roster::new(owned_server_name!("us.example"), members);
        assert_eq!(
            refused,
            Err(RosterError::Twice(owned_server_name!("a.example")))
        );
    }
}
