//! The settings: one struct, its documentation, its example file.
//!
//! [`Config`] is the manual. Its doc comments are what `resuni config example` prints, and
//! `conf/resuni.toml` in the repository is that text; a test fails when the two differ.
//!
//! A file is read as TOML, then the environment is laid over it: the key `enabled` of the section
//! `federation` is `RESUNI_FEDERATION__ENABLED`. A key nobody knows stops the start, and so does
//! a value that can't be used; the error names the key and says what would do.
#![cfg_attr(
    test,
    expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")
)]

mod calls;
mod check;
mod describe;
mod environment;
mod error;
mod load;
mod mail;
mod push;
mod settings;
mod values;

pub use calls::{Calls, Rendezvous, Turn};
pub use describe::{example, keys};
pub use error::{ConfigError, Problem};
pub use load::{Loaded, Origin, load};
pub use mail::Email;
pub use push::Push;
pub use settings::{
    Appservices, Config, Consortium, Federation, Listener, Log, Media, Member, Metrics, Moderation,
    Outbound, PasswordHashing, RateLimits, Registration, Rooms, S3, Support,
};
pub use values::{FederationMode, HashingCost, LogFormat, MailSecurity, Rate, Secret};
