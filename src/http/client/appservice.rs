//! What application services ask and are asked (Application Service API, "Pinging"; Client-Server
//! API, "Third-party networks").

use std::{collections::BTreeMap, sync::Arc};

use axum::extract::State;
use resuni_accounts::{Accounts, AppService};
use resuni_delivery::{PingError, ServiceClient};
use ruma::UserId;
use ruma::api::client::{
    appservice::request_ping,
    thirdparty::{
        get_location_for_protocol, get_location_for_room_alias, get_protocol, get_protocols,
        get_user_for_protocol, get_user_for_user_id,
    },
};
use serde_json::{Map, Value};

use http::StatusCode;

use crate::{
    error::ApiError,
    extract::{Answer, RawJson, Reply, Ruma},
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new()
        .on(ping)
        .on(protocols)
        .on(protocol)
        .on(locations)
        .on(users)
        .on(location_of_alias)
        .on(user_of_id)
}

/// Where nobody here has this name, the application service that keeps it for itself is asked: it may make the user now
/// (Application Service API, "Querying").
pub async fn bridged_user(
    accounts: &Accounts,
    services: &ServiceClient,
    user: &UserId,
) -> Result<(), ApiError> {
    if user.server_name() != accounts.server_name() || accounts.find_user(user).await?.is_some() {
        return Ok(());
    }
    for service in accounts.appservices().iter() {
        let asked = service.owns_user(user) && service.registration().url.is_some();
        if asked && services.has_user(service, user.as_str()).await {
            break;
        }
    }
    Ok(())
}

async fn ping(
    State(client): State<Arc<ServiceClient>>,
    Ruma { body, caller, .. }: Ruma<request_ping::v1::Request>,
) -> Answer<request_ping::v1::Response> {
    if caller.id() != body.appservice_id {
        return Err(ApiError::forbidden("This is another application service."));
    }
    let transaction = body.transaction_id.as_ref().map(|id| id.as_str());
    match client.ping(&caller, transaction).await {
        Ok(duration) => Ok(Reply(request_ping::v1::Response::new(duration))),
        Err(error) => Err(failed(error)),
    }
}

fn failed(error: PingError) -> ApiError {
    let message = error.to_string();
    let answer = |status, code: &str| ApiError::new(status, code.into(), message.clone());
    match error {
        PingError::NoUrl => answer(StatusCode::BAD_REQUEST, "M_URL_NOT_SET"),
        PingError::Connection(_) => answer(StatusCode::BAD_GATEWAY, "M_CONNECTION_FAILED"),
        PingError::Timeout => answer(StatusCode::GATEWAY_TIMEOUT, "M_CONNECTION_TIMEOUT"),
        PingError::Status { status, body } => answer(StatusCode::BAD_GATEWAY, "M_BAD_STATUS")
            .with("status", status.as_u16())
            .with("body", body),
    }
}

/// The services that bridge to a network, or all that bridge to any.
fn bridges<'a>(
    accounts: &'a Accounts,
    protocol: Option<&'a str>,
) -> impl Iterator<Item = &'a Arc<AppService>> {
    accounts.appservices().iter().filter(move |service| {
        let protocols = service.registration().protocols.as_deref();
        protocols.is_some_and(|own| {
            protocol.map_or(!own.is_empty(), |protocol| {
                own.iter().any(|p| p == protocol)
            })
        })
    })
}

/// What tells a network of a service from those of others (`instance_id` in a protocol, `third_party_instance_id` in a
/// question to the directory).
pub fn instance_id(service: &AppService, network: &str) -> String {
    format!("{}|{network}", service.id())
}

/// A protocol, its instances of all services together.
async fn described(
    accounts: &Accounts,
    client: &ServiceClient,
    protocol: &str,
) -> Option<Map<String, Value>> {
    let mut found: Option<Map<String, Value>> = None;
    for service in bridges(accounts, Some(protocol)) {
        let path = ["protocol", protocol];
        let Some(Value::Object(mut said)) = client.third_party(service, &path, &[]).await else {
            continue;
        };
        if let Some(Value::Array(instances)) = said.get_mut("instances") {
            for instance in instances.iter_mut().filter_map(Value::as_object_mut) {
                let network = instance.get("network_id").and_then(Value::as_str);
                let id = instance_id(service, network.unwrap_or_default());
                instance.insert("instance_id".to_owned(), id.into());
            }
        }
        match &mut found {
            None => found = Some(said),
            Some(found) => {
                if let (Some(Value::Array(all)), Some(Value::Array(more))) =
                    (found.get_mut("instances"), said.get("instances"))
                {
                    all.extend(more.iter().cloned());
                }
            }
        }
    }
    found
}

async fn protocols(
    State(accounts): State<Arc<Accounts>>,
    State(client): State<Arc<ServiceClient>>,
    _: Ruma<get_protocols::v3::Request>,
) -> RawJson {
    let names = bridges(&accounts, None)
        .flat_map(|service| service.registration().protocols.iter().flatten().cloned());
    let names: std::collections::BTreeSet<String> = names.collect();
    let mut all = BTreeMap::new();
    for name in names {
        if let Some(protocol) = described(&accounts, &client, &name).await {
            all.insert(name, Value::Object(protocol));
        }
    }
    RawJson::of(&Value::Object(all.into_iter().collect()))
}

async fn protocol(
    State(accounts): State<Arc<Accounts>>,
    State(client): State<Arc<ServiceClient>>,
    Ruma { body, .. }: Ruma<get_protocol::v3::Request>,
) -> Result<RawJson, ApiError> {
    let protocol = described(&accounts, &client, &body.protocol).await;
    protocol
        .map(|protocol| RawJson::of(&Value::Object(protocol)))
        .ok_or_else(|| ApiError::not_found("There is no bridge to this network."))
}

/// What all services have found.
async fn lookup(
    accounts: &Accounts,
    client: &ServiceClient,
    protocol: Option<&str>,
    path: &[&str],
    fields: &[(&str, &str)],
) -> RawJson {
    let mut found = Vec::new();
    for service in bridges(accounts, protocol) {
        if let Some(Value::Array(more)) = client.third_party(service, path, fields).await {
            found.extend(more);
        }
    }
    RawJson::of(&Value::Array(found))
}

fn pairs(fields: &BTreeMap<String, String>) -> Vec<(&str, &str)> {
    // The token is ours and not for bridges.
    let fields = fields.iter().filter(|(key, _)| *key != "access_token");
    fields
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect()
}

async fn locations(
    State(accounts): State<Arc<Accounts>>,
    State(client): State<Arc<ServiceClient>>,
    Ruma { body, .. }: Ruma<get_location_for_protocol::v3::Request>,
) -> RawJson {
    let (name, fields) = (body.protocol.as_str(), pairs(&body.fields));
    lookup(&accounts, &client, Some(name), &["location", name], &fields).await
}

async fn users(
    State(accounts): State<Arc<Accounts>>,
    State(client): State<Arc<ServiceClient>>,
    Ruma { body, .. }: Ruma<get_user_for_protocol::v3::Request>,
) -> RawJson {
    let (name, fields) = (body.protocol.as_str(), pairs(&body.fields));
    lookup(&accounts, &client, Some(name), &["user", name], &fields).await
}

async fn location_of_alias(
    State(accounts): State<Arc<Accounts>>,
    State(client): State<Arc<ServiceClient>>,
    Ruma { body, .. }: Ruma<get_location_for_room_alias::v3::Request>,
) -> RawJson {
    let fields = [("alias", body.alias.as_str())];
    lookup(&accounts, &client, None, &["location"], &fields).await
}

async fn user_of_id(
    State(accounts): State<Arc<Accounts>>,
    State(client): State<Arc<ServiceClient>>,
    Ruma { body, .. }: Ruma<get_user_for_user_id::v3::Request>,
) -> RawJson {
    let fields = [("userid", body.userid.as_str())];
    lookup(&accounts, &client, None, &["user"], &fields).await
}
