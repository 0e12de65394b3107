//! To and from other servers.
