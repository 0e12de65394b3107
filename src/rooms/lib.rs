//! The only writer of room data: lanes, ingest, timelines, state, membership, receipts, visibility, directory.
//!
//! No network: where events are missing, it answers [`Received::Missing`] and the caller brings them. The way of an event
//! is `send` or `receive` → `plan` (may it?) → `delta` (what is written?) → one batch, guarded on the room's head.
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

mod accumulator;
mod activity;
mod adopt;
pub mod aliases;
mod backfill;
mod bans;
mod build;
mod cache;
mod clear;
pub mod client_format;
mod client_view;
mod create;
mod create_content;
mod delta;
pub mod directory;
pub mod doctor;
mod error;
mod events;
pub mod fields;
mod found;
mod heal;
mod interest;
mod lane;
mod line;
mod lookup;
mod members;
mod membership;
pub mod moderation;
mod outliers;
mod page;
mod partial;
mod plan;
pub mod policy;
pub mod presence;
mod profiles;
mod reader;
pub mod receipts;
mod receive;
mod relations;
mod relationships;
mod replay;
pub mod reports;
mod resolve;
mod rooms;
mod send;
mod settings;
pub mod spaces;
mod state_at;
mod sticky;
pub mod tables;
mod template;
pub mod tree;
mod types;
pub mod typing;
mod upgrade;
mod upgrade_content;
mod view;
mod visibility;
mod work;

pub use accumulator::{StateHash, StateHashes};
pub use adopt::OutOfBand;
pub use backfill::{Backfilled, MAX_BACKFILL};
pub use bans::{Ban, BanKind, Bans};
pub use client_view::Form;
pub use create_content::{CreateRoom, InitialState, MemberProfile, Preset};
pub use directory::{DirectoryPage, DirectoryQuery, Networks, RoomSummary};
pub use error::RoomError;
pub use events::{NewEvent, Received, TxnKey};
pub use heal::{JudgedAgain, MAX_AGAIN};
pub use lookup::Context;
pub use members::{HEROES, MutualRooms, RoomOf};
pub use membership::{MemberDetails, RestrictedJoin};
pub use moderation::{
    JobStatus, MadeAdmin, Redaction, RedactionJob, RedactionReport, RoomDescription, RoomOrder,
    RoomsQuery, Shutdown, ShutdownJob, ShutdownReport,
};
pub use outliers::Outliers;
pub use page::{Gap, Gaps, MAX_PAGE, Page, PageQuery, TimelineEvent};
pub use partial::{Omitted, Resync, WholeRoom};
pub use policy::{Policy, PolicyAsker};
pub use presence::{Presence, PresenceNow, PresenceState};
pub use receipts::{Receipt, ReceiptKind};
pub use relations::{RelationsPage, RelationsQuery, ThreadsQuery, relation};
pub use relationships::{Children, Reader as ThreadReader, RelationshipsQuery, Walked};
pub use rooms::{Rooms, RoomsConfig};
pub use state_at::{StateChange, StateView};
pub use sticky::{MAX_STICKY_MS, StickyPage};
pub use types::*;
pub use typing::{Typing, TypingNow};
pub use upgrade::UpgradeRoom;
pub use view::{RoomView, Shown, StoredEvent};
pub use visibility::{ServerViewer, Viewer, membership_of};

/// All tables of this crate, for the doctor.
pub const TABLES: &[&[resuni_store::TableInfo]] = &[
    tables::TABLES,
    relations::index::TABLES,
    relationships::TABLES,
    aliases::TABLES,
    directory::TABLES,
    receipts::TABLES,
    reports::TABLES,
    moderation::blocked::TABLES,
];

#[cfg(test)]
mod tests;
