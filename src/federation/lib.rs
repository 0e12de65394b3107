//! To and from other servers.
//!
//! `net` is the guarded ground, `discovery` finds servers, `client` sends them signed requests, `keys`
//! and `incoming` say who signed what. On that stand: `sender`, our events to others; `ingest` and
//! `fetch`, theirs to us and what they build on; `handshake` and `invites`, into rooms and out; `serve`, the
//! answers to what others ask. [`Federation`] holds the parts; each can be used alone.

mod acl;
pub mod admission;
mod auth_chain;
mod backfill;
pub mod backoff;
mod by_time;
mod checks;
pub mod client;
mod destinations;
pub mod discovery;
pub mod divergence;
mod edus;
pub mod error;
mod federation;
pub mod fetch;
pub mod handshake;
pub mod identity;
pub mod incoming;
pub mod ingest;
pub mod invites;
mod joining;
mod key_cache;
pub mod keys;
mod lookup;
pub mod media;
pub mod net;
pub mod network;
mod policy;
pub mod relationships;
pub mod resync;
pub mod sender;
pub mod serve;
pub mod spaces;
pub mod tables;
mod template;
pub mod third_party;
pub mod unverified;
pub mod xmatrix;

pub use admission::{Admission, Mode};
pub use backoff::{Backoff, Failing};
pub use client::{Client, Terms};
pub use destinations::Destination;
pub use discovery::Discovery;
pub use divergence::{Comparison, Divergences, Parting};
pub use error::{FederationError, RemoteError};
pub use federation::{Federation, FederationParts, FederationStats};
pub use handshake::{Handshake, Joined};
pub use incoming::{Authenticator, Incoming};
pub use key_cache::{KeyCache, PublicKeys};
pub use keys::{Keys, Needed, OldKey};
pub use network::{Network, NetworkConfig, NetworkError, web_client};

/// What we call ourselves to other servers.
pub const USER_AGENT: &str = concat!("Resuni/", env!("CARGO_PKG_VERSION"));
