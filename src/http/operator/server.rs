//! The server itself, in the form of Synapse's admin API.

use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::extract::{Operator, Sent};
use crate::{error::ApiError, extract::RawJson, routes::Routes};

/// The table of these endpoints.
pub fn routes() -> Routes {
    const UPDATES: &str = "/_synapse/admin/v1/background_updates/enabled";
    Routes::new()
        .operator(Method::GET, "/_synapse/admin/v1/server_version", version)
        .operator(Method::GET, UPDATES, updates)
        .operator(Method::POST, UPDATES, switch_updates)
        .operator(
            Method::GET,
            "/_synapse/admin/v1/background_updates/status",
            updates_status,
        )
}

async fn version(_: Operator) -> RawJson {
    let version = concat!("Resuni ", env!("CARGO_PKG_VERSION"));
    RawJson::of(&json!({ "server_version": version }))
}

/// Migrations are done before the server listens: there is nothing that could be held back.
async fn updates(_: Operator) -> RawJson {
    RawJson::of(&json!({ "enabled": true }))
}

#[derive(Deserialize)]
struct Updates {
    enabled: bool,
}

async fn switch_updates(_: Operator, Sent(wanted): Sent<Updates>) -> Result<RawJson, ApiError> {
    if !wanted.enabled {
        return Err(ApiError::invalid_param(
            "This server has no background updates that could be held back.",
        ));
    }
    Ok(RawJson::of(&json!({ "enabled": true })))
}

async fn updates_status(_: Operator) -> RawJson {
    RawJson::of(&json!({ "enabled": true, "current_updates": {} }))
}
