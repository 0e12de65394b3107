//! Dev only: whole servers as processes, and scenarios with them.
//!
//! A [`World`] is a folder with a private certificate authority. In it [`Server`]s run as real
//! processes on loopback, Resuni's or Synapse's; [`Client`]s talk to them, and a [`Reader`] follows
//! `/sync` as a careful client does. The scenarios are this crate's integration tests.

#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

mod authority;
mod browser;
mod client;
pub mod demo;
mod ports;
mod process;
mod python;
mod reader;
mod resident;
mod resuni;
mod room;
mod synapse;
mod world;

pub use authority::Authority;
pub use browser::{Browser, Page, browser};
pub use client::{CallError, Client, escape, password, sync_path};
pub use ports::Port;
pub use process::{Kind, Server};
pub use python::python;
pub use reader::Reader;
pub use resident::{Deed, MadeUpRoom, Resident};
pub use room::{RoomCopy, agree, agree_within};
pub use world::World;
