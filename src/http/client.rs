//! The client-server API, one file per section of the spec.

mod account;
mod account_data;
mod admin;
mod appservice;
mod backup;
mod contacts;
mod dehydrated;
mod delayed;
mod devices;
mod directory;
mod fallback;
mod files;
mod filter;
mod keys;
mod media;
mod membership;
mod messages;
mod mutual_rooms;
mod notifications;
mod old_sync;
mod presence;
mod profile;
mod push_rules;
mod receipts;
mod register;
mod relations;
mod remote;
mod remote_keys;
mod rendezvous;
mod reports;
mod rooms;
mod rooms_create;
mod search;
mod send;
mod session;
mod sliding;
mod spaces;
mod state;
mod sync;
mod threads;
mod to_device;
mod uia;
mod versions;
mod voip;

pub use account::end_account;
pub use admin::where_seen;
pub use appservice::bridged_user;
pub use contacts::contacts_of;
pub use files::{Asked, Files, disposition};
pub use media::wanted;
pub use remote::Remote;
pub use rooms::{profile as member_profile, profile_if_local, whole};
pub use voip::rtc_transports;

use crate::routes::Routes;

/// The tables of all sections.
pub fn routes() -> Routes {
    [
        account::routes,
        account_data::routes,
        admin::routes,
        appservice::routes,
        backup::routes,
        contacts::routes,
        dehydrated::routes,
        delayed::routes,
        devices::routes,
        directory::routes,
        fallback::routes,
        filter::routes,
        keys::routes,
        media::routes,
        membership::routes,
        messages::routes,
        mutual_rooms::routes,
        notifications::routes,
        old_sync::routes,
        presence::routes,
        profile::routes,
        push_rules::routes,
        receipts::routes,
        register::routes,
        relations::routes,
        rendezvous::routes,
        reports::routes,
        rooms_create::routes,
        search::routes,
        send::routes,
        session::routes,
        sliding::routes,
        spaces::routes,
        state::routes,
        sync::routes,
        threads::routes,
        to_device::routes,
        versions::routes,
        voip::routes,
    ]
    .into_iter()
    .fold(Routes::new(), |all, section| all.merge(section()))
}
