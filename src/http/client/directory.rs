//! Aliases and the public list (Client-Server API, "Room aliases", "Published room directory").

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use resuni_delivery::ServiceClient;
use resuni_federation::{Client, Federation, Terms};
use resuni_rooms::{DirectoryQuery, Networks, RoomError, Rooms};
use ruma::{
    OwnedRoomAliasId, OwnedRoomId, OwnedServerName, RoomAliasId, UInt,
    api::{
        client::{
            alias::{create_alias, delete_alias, get_alias},
            appservice::set_room_visibility as set_bridged_visibility,
            directory::{
                get_public_rooms, get_public_rooms_filtered, get_room_visibility,
                set_room_visibility,
            },
            room::{Visibility, aliases},
        },
        error::ErrorCode,
        federation::{
            directory::{
                get_public_rooms as remote_rooms, get_public_rooms_filtered as remote_search,
            },
            query::get_room_information,
        },
    },
    directory::RoomNetwork,
};

use resuni_accounts::{Accounts, Session};

use super::appservice::instance_id;
use crate::{
    error::ApiError,
    extract::{Answer, Policy, RawJson, Reply, Ruma},
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new()
        .on(resolve)
        .with(Policy::CLIENT.public(), create)
        .on(delete)
        .on(list)
        .on(public)
        .on(search)
        .on(visibility)
        .with(Policy::CLIENT.public(), publish)
        .on(publish_bridged)
}

/// The room that an alias points at, and servers that know it; an alias of another server is asked
/// of it.
pub async fn find_alias(
    rooms: &Rooms,
    federation: Option<&Federation>,
    alias: &RoomAliasId,
) -> Result<(OwnedRoomId, Vec<OwnedServerName>), ApiError> {
    let unknown = || ApiError::not_found("There is no room of this alias.");
    if alias.server_name() == rooms.server_name() {
        return rooms.resolve_alias(alias).await?.ok_or_else(unknown);
    }
    let request = get_room_information::v1::Request::new(alias.to_owned());
    let client = &federation.ok_or_else(unknown)?.network.client;
    match client
        .send(alias.server_name(), request, Terms::ASKED)
        .await
    {
        Ok(answer) => Ok((answer.room_id, answer.servers)),
        // Whatever is wrong with that server: the alias leads nowhere.
        Err(error) => {
            tracing::debug!(%alias, %error, "an alias of another server");
            Err(unknown())
        }
    }
}

/// An alias of ours that leads nowhere may be one that a bridge makes when it is asked
/// (Application Service API, "Querying").
pub async fn bridged_alias(
    accounts: &Accounts,
    rooms: &Rooms,
    services: &ServiceClient,
    alias: &RoomAliasId,
) -> Result<(), ApiError> {
    if alias.server_name() != rooms.server_name() || rooms.resolve_alias(alias).await?.is_some() {
        return Ok(());
    }
    for service in accounts.appservices().iter() {
        if service.owns_alias(alias.as_str()) && services.has_alias(service, alias.as_str()).await {
            break;
        }
    }
    Ok(())
}

async fn resolve(
    State(accounts): State<Arc<Accounts>>,
    State(rooms): State<Arc<Rooms>>,
    State(services): State<Arc<ServiceClient>>,
    State(federation): State<Option<Arc<Federation>>>,
    Ruma { body, .. }: Ruma<get_alias::v3::Request>,
) -> Answer<get_alias::v3::Response> {
    bridged_alias(&accounts, &rooms, &services, &body.room_alias).await?;
    let (room, servers) = find_alias(&rooms, federation.as_deref(), &body.room_alias).await?;
    Ok(Reply(get_alias::v3::Response::new(room, servers)))
}

/// Aliases in the exclusive namespace of an application service are that service's.
fn check_namespace(
    accounts: &Accounts,
    caller: &Session,
    alias: &OwnedRoomAliasId,
) -> Result<(), ApiError> {
    let service = caller.appservice.as_deref();
    if accounts
        .appservices()
        .is_exclusive_alias(alias.as_str(), service)
    {
        return Err(ApiError::exclusive(
            "This alias is reserved for an application service.",
        ));
    }
    Ok(())
}

async fn create(
    State(accounts): State<Arc<Accounts>>,
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<create_alias::v3::Request>,
) -> Answer<create_alias::v3::Response> {
    check_namespace(&accounts, &caller, &body.room_alias)?;
    match rooms
        .create_alias(&body.room_alias, &body.room_id, &caller.user_id)
        .await
    {
        Ok(()) => Ok(Reply(create_alias::v3::Response::new())),
        // Here, other than in `/createRoom`, the spec has 409 without a code of its own.
        Err(RoomError::InUse(message)) => Err(ApiError::new(
            StatusCode::CONFLICT,
            ErrorCode::Unknown,
            message,
        )),
        Err(error) => Err(error.into()),
    }
}

async fn delete(
    State(accounts): State<Arc<Accounts>>,
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<delete_alias::v3::Request>,
) -> Answer<delete_alias::v3::Response> {
    check_namespace(&accounts, &caller, &body.room_alias)?;
    rooms
        .delete_alias(&body.room_alias, &caller.user_id, caller.is_admin)
        .await?;
    Ok(Reply(delete_alias::v3::Response::new()))
}

async fn list(
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<aliases::v3::Request>,
) -> Answer<aliases::v3::Response> {
    let found = rooms.aliases_for(&body.room_id, &caller.user_id).await?;
    let found = found
        .into_iter()
        .filter_map(|alias| alias.try_into().ok())
        .collect();
    Ok(Reply(aliases::v3::Response::new(found)))
}

fn limit(asked: Option<UInt>) -> Option<usize> {
    asked.and_then(|limit| usize::try_from(u64::from(limit)).ok())
}

async fn page(rooms: &Rooms, query: &DirectoryQuery) -> Result<RawJson, ApiError> {
    let page = rooms.public_rooms(query).await?;
    let json = serde_json::to_vec(&page).map_err(ApiError::internal)?;
    Ok(RawJson(json.into()))
}

/// The client to ask another server for its directory with.
fn elsewhere(federation: Option<&Federation>) -> Result<&Client, ApiError> {
    let off = || ApiError::not_found("Federation is switched off.");
    Ok(&federation.ok_or_else(off)?.network.client)
}

async fn public(
    State(rooms): State<Arc<Rooms>>,
    State(federation): State<Option<Arc<Federation>>>,
    Ruma { body, .. }: Ruma<get_public_rooms::v3::Request>,
) -> Result<RawJson, ApiError> {
    if let Some(server) = body.server.filter(|server| server != rooms.server_name()) {
        let mut request = remote_rooms::v1::Request::new();
        (request.limit, request.since) = (body.limit, body.since);
        let client = elsewhere(federation.as_deref())?;
        let answer = client.answer(&server, request, Terms::ASKED).await?;
        return Ok(RawJson(answer.body));
    }
    let query = DirectoryQuery {
        limit: limit(body.limit),
        since: body.since,
        ..DirectoryQuery::default()
    };
    page(&rooms, &query).await
}

async fn search(
    State(rooms): State<Arc<Rooms>>,
    State(federation): State<Option<Arc<Federation>>>,
    Ruma { body, .. }: Ruma<get_public_rooms_filtered::v3::Request>,
) -> Result<RawJson, ApiError> {
    if let Some(server) = body.server.filter(|server| server != rooms.server_name()) {
        let mut request = remote_search::v1::Request::new();
        (request.limit, request.since) = (body.limit, body.since);
        (request.filter, request.room_network) = (body.filter, body.room_network);
        let client = elsewhere(federation.as_deref())?;
        let answer = client.answer(&server, request, Terms::ASKED).await?;
        return Ok(RawJson(answer.body));
    }
    let networks = match body.room_network {
        RoomNetwork::All => Networks::All,
        RoomNetwork::ThirdParty(instance) => Networks::Bridged(instance),
        _ => Networks::Own,
    };
    let types = &body.filter.room_types;
    let query = DirectoryQuery {
        limit: limit(body.limit),
        since: body.since,
        networks,
        search: body.filter.generic_search_term,
        room_types: (!types.is_empty()).then(|| {
            types
                .iter()
                .map(|kind| kind.as_str().map(str::to_owned))
                .collect()
        }),
    };
    page(&rooms, &query).await
}

async fn visibility(
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, .. }: Ruma<get_room_visibility::v3::Request>,
) -> Answer<get_room_visibility::v3::Response> {
    let visibility = if rooms.is_published(&body.room_id).await? {
        Visibility::Public
    } else {
        Visibility::Private
    };
    Ok(Reply(get_room_visibility::v3::Response::new(visibility)))
}

fn published(visibility: &Visibility) -> Result<bool, ApiError> {
    match visibility {
        Visibility::Public => Ok(true),
        Visibility::Private => Ok(false),
        _ => Err(ApiError::invalid_param(
            "`visibility` is `public` or `private`.",
        )),
    }
}

async fn publish(
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<set_room_visibility::v3::Request>,
) -> Answer<set_room_visibility::v3::Response> {
    let published = published(&body.visibility)?;
    rooms
        .publish(&body.room_id, &caller.user_id, caller.is_admin, published)
        .await?;
    Ok(Reply(set_room_visibility::v3::Response::new()))
}

/// A bridge publishes a room in the directory of its network.
async fn publish_bridged(
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<set_bridged_visibility::v3::Request>,
) -> Answer<set_bridged_visibility::v3::Response> {
    let instance = instance_id(&caller, &body.network_id);
    let published = published(&body.visibility)?;
    rooms
        .publish_bridged(&instance, &body.room_id, published)
        .await?;
    Ok(Reply(set_bridged_visibility::v3::Response::new()))
}
