//! What this server can do (Client-Server API, "API Versions", "Capabilities negotiation").

use std::sync::Arc;

use axum::extract::State;
use resuni_dag::RoomRules;
use resuni_delivery::Mailer;
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
];

/// Features that clients look for by name.
const FEATURES: &[&str] = &[
    // Extended profiles, stable since v1.16.
    "uk.tcpip.msc4133",
    "uk.tcpip.msc4133.stable",
    // Invite filtering by lists.
    "org.matrix.msc4155",
    // Events that are sent later.
    "org.matrix.msc4140",
    // Removing account data.
    "org.matrix.msc3391",
    // Pages of history by the type of their relations.
    "org.matrix.msc3874",
    // Sliding sync.
    "org.matrix.simplified_msc3575",
];

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new().guest(versions).on(capabilities)
}

async fn versions(
    _: Ruma<get_supported_versions::Request>,
) -> Answer<get_supported_versions::Response> {
    let versions = VERSIONS
        .iter()
        .map(|version| (*version).to_owned())
        .collect();
    let mut response = get_supported_versions::Response::new(versions);
    response.unstable_features = FEATURES
        .iter()
        .map(|feature| ((*feature).to_owned(), true))
        .collect();
    Ok(Reply(response))
}

/// Written here: ruma leaves out what has the value that the spec gives it by default, and clients
/// look for it all the same.
async fn capabilities(
    State(settings): State<Arc<Settings>>,
    State(mail): State<Option<Arc<Mailer>>>,
    _: Ruma<get_capabilities::v3::Request>,
) -> RawJson {
    let stability = |rules: &RoomRules| match rules.is_stable() {
        true => json!("stable"),
        false => json!("unstable"),
    };
    let versions: Map<String, Value> = RoomRules::all()
        .iter()
        .map(|rules| (rules.version.to_string(), stability(rules)))
        .collect();
    RawJson::of(&json!({ "capabilities": {
        "m.room_versions": { "default": settings.default_room_version, "available": versions },
        "m.change_password": { "enabled": true },
        "m.set_displayname": { "enabled": true },
        "m.set_avatar_url": { "enabled": true },
        "m.3pid_changes": { "enabled": mail.is_some() },
        "m.get_login_token": { "enabled": true },
        "m.profile_fields": { "enabled": true },
        "m.forget_forced_upon_leave": { "enabled": false },
    } }))
}
