//! Events and their rules: canonical JSON, hashes, ids, room versions, signatures, auth rules,
//! state resolution, digests.
//!
//! Everything here is a function of its arguments: no clock, no randomness, no disk, no network,
//! no async. Where something is missing, the answer says what.
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

mod acl;
mod auth;
mod error;
mod format;
mod keys;
mod lattice;
pub mod limits;
mod order;
mod owned;
mod pdu;
mod power;
mod redact;
mod reference;
mod resolve;
mod resolve_v1;
mod room;
mod rules;
mod sign;
#[cfg(test)]
mod testing;
mod walk;

pub use acl::{ServerAcl, glob};
pub use auth::{auth_types, check_auth_events, check_state};
pub use error::{AuthError, FormatError, ResolveError, SignatureError};
pub use format::check_nesting;
pub use keys::{SigningKey, VerifyKey, VerifyKeys};
pub use lattice::{Digest, Lattice};
pub use order::{Edges, topological_order};
pub use owned::state_owner;
pub use pdu::Pdu;
pub use power::{Power, PowerLevels, creators, level_in, user_power};
pub use redact::{redact, redact_content_for_client};
pub use reference::Reference;
pub use resolve::{Conflict, StateKey, base_keys, create_event_id, resolve};
pub use room::{HistoryVisibility, JoinRule};
pub use rules::{RoomRules, SUPPORTED};
pub use sign::{
    Draft, Verified, add_signature, cosign, is_whole, required_signatures, sign, sign_json,
    sign_object, verify, verify_by, verify_json, verify_text,
};
pub use walk::{auth_difference, conflicted_subgraph};
