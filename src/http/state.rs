//! The parts that handlers may name.

use std::sync::Arc;

use axum::extract::FromRef;
use ipnet::IpNet;
use resuni_accounts::{Accounts, Rendezvous, Turn};
use resuni_delivery::{DelayedEvents, Mailer, Notices, Push, ServiceClient};
use resuni_federation::{Federation, relationships::Relationships};
use resuni_media::{Media, Previews};
use resuni_rooms::Rooms;
use resuni_search::Search;
use resuni_sync::Sync;
use ruma::{OwnedServerName, OwnedUserId, RoomVersionId};

use crate::limits::Limits;

/// What the routers need to know from the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This server's name.
    pub server_name: OwnedServerName,
    /// Where clients reach it, without a slash at the end; told in `/.well-known/matrix/client`.
    pub public_baseurl: Option<String>,
    /// Where other servers reach it, told in `/.well-known/matrix/server`.
    pub well_known_server: Option<OwnedServerName>,
    /// Whom to ask, told in `/.well-known/matrix/support`.
    pub support: Support,
    /// Whether operators' tools are served over HTTP.
    pub admin_api: bool,
    /// Who may register.
    pub registration: Registration,
    /// Servers for calls between people who can't reach each other.
    pub turn: Option<Turn>,
    /// Services that give out tokens for group calls over LiveKit.
    pub livekit_services: Vec<String>,
    /// The version of new rooms.
    pub default_room_version: RoomVersionId,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
}

/// Who helps people of this server.
#[derive(Clone, Debug, Default)]
pub struct Support {
    /// A page.
    pub page: Option<String>,
    /// E-mail addresses of the operators.
    pub emails: Vec<String>,
    /// User ids of the operators.
    pub users: Vec<OwnedUserId>,
}

/// Who may register.
#[derive(Clone, Debug, Default)]
pub struct Registration {
    /// Whether people may register themselves.
    pub enabled: bool,
    /// Whether they need a token from the operator.
    pub require_token: bool,
    /// Whether they need an e-mail address.
    pub require_email: bool,
    /// Whether there are guests.
    pub guests: bool,
}

/// All parts. The binary fills it; a handler takes only what it names (`State<Arc<Accounts>>`).
#[derive(Clone)]
pub struct AppState {
    /// From the configuration.
    pub settings: Arc<Settings>,
    /// Local people.
    pub accounts: Arc<Accounts>,
    /// All rooms.
    pub rooms: Arc<Rooms>,
    /// Other servers; none where federation is switched off.
    pub federation: Option<Arc<Federation>>,
    /// Files.
    pub media: Arc<Media>,
    /// What links lead to; none where that is switched off.
    pub previews: Option<Arc<Previews>>,
    /// What people are told of.
    pub push: Arc<Push>,
    /// Events that are sent later.
    pub delayed: Arc<DelayedEvents>,
    /// Mail, where the operator has set it up.
    pub mail: Option<Arc<Mailer>>,
    /// Bridges and bots.
    pub services: Arc<ServiceClient>,
    /// Where devices meet before a login; none where that is switched off.
    pub rendezvous: Option<Arc<Rendezvous>>,
    /// Threads of any depth (MSC2836); none where that is switched off.
    pub relationships: Option<Arc<Relationships>>,
    /// What operators tell people; none where that is switched off.
    pub notices: Option<Arc<Notices>>,
    /// What is found by its words.
    pub search: Arc<Search>,
    /// What devices have not seen yet.
    pub sync: Arc<Sync>,
    /// Who may ask how often.
    pub limits: Arc<Limits>,
}

macro_rules! part {
    ($($field:ident: $part:ty,)*) => {$(
        impl FromRef<AppState> for $part {
            fn from_ref(state: &AppState) -> Self {
                state.$field.clone()
            }
        }
    )*};
}

part! {
    settings: Arc<Settings>,
    accounts: Arc<Accounts>,
    rooms: Arc<Rooms>,
    federation: Option<Arc<Federation>>,
    media: Arc<Media>,
    previews: Option<Arc<Previews>>,
    push: Arc<Push>,
    delayed: Arc<DelayedEvents>,
    mail: Option<Arc<Mailer>>,
    services: Arc<ServiceClient>,
    rendezvous: Option<Arc<Rendezvous>>,
    relationships: Option<Arc<Relationships>>,
    notices: Option<Arc<Notices>>,
    search: Arc<Search>,
    sync: Arc<Sync>,
    limits: Arc<Limits>,
}
