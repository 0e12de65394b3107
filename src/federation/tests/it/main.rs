//! Federation from outside: one binary, so that it is linked once.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod authority;
mod devices;
mod divergence;
mod history;
mod hostile;
mod liar;
mod network;
mod part;
mod poison;
mod policy;
mod receipts;
mod sticky;
mod third_party;
mod two_servers;
mod unverified;
