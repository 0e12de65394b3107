//! The ground every outgoing connection stands on: which addresses may be reached, how names become
//! addresses, how a connection is opened and how much of an answer is read.

pub mod dial;
pub mod dns;
pub mod guard;
pub mod tls;
pub mod web;

pub use dial::{DialError, Dialer};
pub use dns::{Dns, DnsError};
pub use guard::Guard;
pub use web::{Answer, HttpError, Transport, WebClient};
