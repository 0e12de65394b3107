//! The client-server API, one file per section of the spec.

mod account;
mod account_data;
mod devices;
mod filter;
mod profile;
mod push_rules;
mod register;
mod session;
mod uia;
mod versions;

use crate::routes::Routes;

/// The tables of all sections.
pub fn routes() -> Routes {
    [
        account::routes,
        account_data::routes,
        devices::routes,
        filter::routes,
        profile::routes,
        push_rules::routes,
        register::routes,
        session::routes,
        versions::routes,
    ]
    .into_iter()
    .fold(Routes::new(), |all, section| all.merge(section()))
}
