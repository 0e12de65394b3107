//! Dev only: the load generator that measures any homeserver.

fn main() {}
