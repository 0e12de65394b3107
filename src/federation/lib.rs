//! To and from other servers.
//!
//! `net` is the guarded ground, `discovery` finds servers, `client` sends them signed requests, `keys`
//! and `incoming` say who signed what.

pub mod admission;
pub mod backoff;
pub mod client;
pub mod discovery;
pub mod error;
pub mod incoming;
pub mod keys;
pub mod net;
pub mod network;
pub mod xmatrix;

pub use admission::{Admission, Mode};
pub use backoff::Backoff;
pub use client::{Client, Terms};
pub use discovery::Discovery;
pub use error::{FederationError, RemoteError};
pub use incoming::{Authenticator, Incoming};
pub use keys::{Keys, Needed, OldKey};
pub use network::{Network, NetworkConfig, NetworkError};

/// What we call ourselves to other servers.
pub const USER_AGENT: &str = concat!("Resuni/", env!("CARGO_PKG_VERSION"));
