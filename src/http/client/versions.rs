//! What this server can do (Client-Server API, "API Versions", "Capabilities negotiation").

use std::sync::Arc;

use axum::extract::State;
use resuni_accounts::{Accounts, Rendezvous};
use resuni_dag::RoomRules;
use resuni_delivery::Mailer;
use resuni_federation::relationships::Relationships;
use ruma::api::client::discovery::{get_capabilities, get_supported_versions};
use serde_json::{Map, Value, json};

use crate::{
    extract::{Answer, RawJson, Reply, Ruma},
    routes::Routes,
    state::Settings,
};

/// The versions of the specification that clients may count on.
const VERSIONS: &[&str] = &[
    "r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10",
    "v1.11", "v1.12", "v1.13", "v1.14", "v1.15", "v1.16", "v1.17", "v1.18", "v1.19",
];

/// Features that clients look for by name.
const FEATURES: &[&str] = &[
    // Extended profiles, stable since v1.16.
    "uk.tcpip.msc4133",
    "uk.tcpip.msc4133.stable",
    // Rooms shared with somebody, stable since v1.19.
    "uk.half-shot.msc2666.query_mutual_rooms",
    "uk.half-shot.msc2666.query_mutual_rooms.stable",
    // Locking and suspending by operators, stable since v1.18.
    "uk.timedout.msc4323",
    // Invites blocked, stable since v1.18, and filtered by lists.
    "org.matrix.msc4380",
    "org.matrix.msc4380.stable",
    "org.matrix.msc4155",
    // Devices that receive while nobody holds them.
    "org.matrix.msc3814",
    // Redactions through `/send` in all room versions, stable since v1.18.
    "com.beeper.msc4169",
    // Policy servers, stable since v1.18.
    "org.matrix.msc4284",
    // Timelines follow the graph: what came late for a gap stands where the gap was.
    "org.matrix.msc4445.initial_sync_timeline_topological_ordering",
    // Events that are sent later.
    "org.matrix.msc4140",
    // Events that reach everybody for a while.
    "org.matrix.msc4354",
    // Kicks and bans that redact.
    "org.matrix.msc4293",
    // Removing account data.
    "org.matrix.msc3391",
    // Pages of history by the type of their relations.
    "org.matrix.msc3874",
    // What was redacted, for those who may redact.
    "fi.mau.msc2815",
    // A reason for the invites to a new room.
    "uk.timedout.msc4491.create_room_invite_reasons",
    // Sliding sync.
    "org.matrix.simplified_msc3575",
];

const RENDEZVOUS: &[&str] = &["org.matrix.msc4108", "io.element.msc4388"];

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new().guest(versions).on(capabilities)
}

/// Features by name that depend on the settings.
fn optional(accounts: &Accounts) -> impl Iterator<Item = &'static str> {
    let rules = accounts.optional_rules();
    let both = [
        (rules.threads, "org.matrix.msc4306"),
        (rules.encrypted, "org.matrix.msc4028"),
    ];
    both.into_iter()
        .filter_map(|(has, name)| has.then_some(name))
}

async fn versions(
    State(rendezvous): State<Option<Arc<Rendezvous>>>,
    State(accounts): State<Arc<Accounts>>,
    State(relationships): State<Option<Arc<Relationships>>>,
    _: Ruma<get_supported_versions::Request>,
) -> Answer<get_supported_versions::Response> {
    let versions = VERSIONS
        .iter()
        .map(|version| (*version).to_owned())
        .collect();
    let mut response = get_supported_versions::Response::new(versions);
    // Signing in by a QR code, where the operator has switched it on.
    let rendezvous = rendezvous.iter().flat_map(|_| RENDEZVOUS);
    response.unstable_features = FEATURES
        .iter()
        .chain(rendezvous)
        .copied()
        .chain(optional(&accounts))
        .chain(relationships.map(|_| "org.matrix.msc2836"))
        .map(|feature| (feature.to_owned(), true))
        .collect();
    Ok(Reply(response))
}

/// Written here: ruma leaves out what has the value that the spec gives it by default, and clients
/// look for it all the same.
async fn capabilities(
    State(settings): State<Arc<Settings>>,
    State(mail): State<Option<Arc<Mailer>>>,
    Ruma { caller, .. }: Ruma<get_capabilities::v3::Request>,
) -> RawJson {
    let stability = |rules: &RoomRules| match rules.is_stable() {
        true => json!("stable"),
        false => json!("unstable"),
    };
    let versions: Map<String, Value> = RoomRules::all()
        .iter()
        .map(|rules| (rules.version.to_string(), stability(rules)))
        .collect();
    let mut answer = json!({ "capabilities": {
        "m.room_versions": { "default": settings.default_room_version, "available": versions },
        "m.change_password": { "enabled": true },
        "m.set_displayname": { "enabled": true },
        "m.set_avatar_url": { "enabled": true },
        "m.3pid_changes": { "enabled": mail.is_some() },
        "m.get_login_token": { "enabled": true },
        "m.profile_fields": { "enabled": true },
        "m.forget_forced_upon_leave": { "enabled": false },
    } });
    // "Should be omitted altogether" for those who may do neither.
    if caller.is_admin {
        let both = json!({ "suspend": true, "lock": true });
        answer["capabilities"]["m.account_moderation"] = both;
    }
    RawJson::of(&answer)
}
