//! Questions about people and rooms of ours (Server-Server API, "Querying for information",
//! "Published Room Directory", "Server implementation").

use std::sync::Arc;

use axum::extract::State;
use resuni_accounts::Accounts;
use resuni_delivery::ServiceClient;
use ruma::api::federation::{
    directory::{get_public_rooms, get_public_rooms_filtered},
    discovery::get_server_version::v1 as version,
    openid::get_openid_userinfo,
    query::{get_profile_information, get_room_information},
    space::get_hierarchy,
};

use super::On;
use crate::{
    client::bridged_user,
    error::ApiError,
    extract::{Answer, RawJson, Reply, Ruma},
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new()
        .on(profile)
        .on(directory)
        .on(public_rooms)
        .on(search)
        .on(openid)
        .on(implementation)
        .on(hierarchy)
}

async fn profile(
    On(federation): On,
    State(accounts): State<Arc<Accounts>>,
    State(services): State<Arc<ServiceClient>>,
    Ruma { body, .. }: Ruma<get_profile_information::v1::Request>,
) -> Answer<get_profile_information::v1::Response> {
    bridged_user(&accounts, &services, &body.user_id).await?;
    Ok(Reply(federation.serve.profile(body).await?))
}

async fn directory(
    On(federation): On,
    Ruma { body, .. }: Ruma<get_room_information::v1::Request>,
) -> Answer<get_room_information::v1::Response> {
    Ok(Reply(federation.serve.directory(body).await?))
}

async fn public_rooms(
    On(federation): On,
    Ruma { body, .. }: Ruma<get_public_rooms::v1::Request>,
) -> Answer<get_public_rooms::v1::Response> {
    Ok(Reply(federation.serve.public_rooms(body).await?))
}

async fn search(
    On(federation): On,
    Ruma { body, .. }: Ruma<get_public_rooms_filtered::v1::Request>,
) -> Answer<get_public_rooms_filtered::v1::Response> {
    Ok(Reply(federation.serve.public_rooms_filtered(body).await?))
}

async fn hierarchy(
    On(federation): On,
    Ruma { body, caller, .. }: Ruma<get_hierarchy::v1::Request>,
) -> Result<RawJson, ApiError> {
    let answer = federation
        .serve
        .hierarchy(&caller, &body.room_id, body.suggested_only)
        .await?;
    RawJson::written(&answer)
}

async fn implementation(On(_): On, _: Ruma<version::Request>) -> Answer<version::Response> {
    let mut response = version::Response::new();
    let mut server = version::Server::new();
    server.name = Some("Resuni".to_owned());
    server.version = Some(env!("CARGO_PKG_VERSION").to_owned());
    response.server = Some(server);
    Ok(Reply(response))
}

/// Who an OpenID token was given to.
async fn openid(
    On(_): On,
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, .. }: Ruma<get_openid_userinfo::v1::Request>,
) -> Answer<get_openid_userinfo::v1::Response> {
    let user = accounts.openid_user(&body.access_token).await?;
    let user = user.ok_or_else(|| ApiError::unknown_token(false))?;
    Ok(Reply(get_openid_userinfo::v1::Response::new(user)))
}
