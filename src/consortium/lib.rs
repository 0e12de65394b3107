//! The roster of member servers.
