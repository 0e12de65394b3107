//! The roster of member servers, who may federate by it, and how each of them can be reached.
//!
//! The roster is the operator's configuration. In `federation.mode = "consortium"` it is the list of
//! those who are let in: [`Roster::mode`] is given to the federation, which asks it on every path.
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

mod roster;
mod status;

pub use roster::{Member, Roster, RosterError};
pub use status::{Consortium, MemberStatus, Reachability, Status};
