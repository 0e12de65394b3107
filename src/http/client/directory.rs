//! Aliases and the public list (Client-Server API, "Room aliases", "Published room directory").

use std::sync::Arc;

use axum::extract::State;
use http::StatusCode;
use resuni_rooms::{DirectoryQuery, RoomError, Rooms};
use ruma::{
    OwnedRoomAliasId, UInt,
    api::{
        client::{
            alias::{create_alias, delete_alias, get_alias},
            directory::{
                get_public_rooms, get_public_rooms_filtered, get_room_visibility,
                set_room_visibility,
            },
            room::{Visibility, aliases},
        },
        error::ErrorCode,
    },
};

use resuni_accounts::{Accounts, Session};

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
}

fn unknown() -> ApiError {
    ApiError::not_found("There is no room of this alias.")
}

async fn resolve(
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, .. }: Ruma<get_alias::v3::Request>,
) -> Answer<get_alias::v3::Response> {
    let (room, servers) = rooms.resolve_alias(&body.room_alias).await?.ok_or_else(unknown)?;
    Ok(Reply(get_alias::v3::Response::new(room, servers)))
}

/// Aliases in the exclusive namespace of an application service are that service's.
fn check_namespace(
    accounts: &Accounts,
    caller: &Session,
    alias: &OwnedRoomAliasId,
) -> Result<(), ApiError> {
    let service = caller.appservice.as_deref();
    if accounts.appservices().is_exclusive_alias(alias.as_str(), service) {
        return Err(ApiError::exclusive("This alias is reserved for an application service."));
    }
    Ok(())
}

async fn create(
    State(accounts): State<Arc<Accounts>>,
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<create_alias::v3::Request>,
) -> Answer<create_alias::v3::Response> {
    check_namespace(&accounts, &caller, &body.room_alias)?;
    match rooms.create_alias(&body.room_alias, &body.room_id, &caller.user_id).await {
        Ok(()) => Ok(Reply(create_alias::v3::Response::new())),
        // Here, other than in `/createRoom`, the spec has 409 without a code of its own.
        Err(RoomError::InUse(message)) => {
            Err(ApiError::new(StatusCode::CONFLICT, ErrorCode::Unknown, message))
        }
        Err(error) => Err(error.into()),
    }
}

async fn delete(
    State(accounts): State<Arc<Accounts>>,
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<delete_alias::v3::Request>,
) -> Answer<delete_alias::v3::Response> {
    check_namespace(&accounts, &caller, &body.room_alias)?;
    rooms.delete_alias(&body.room_alias, &caller.user_id, caller.is_admin).await?;
    Ok(Reply(delete_alias::v3::Response::new()))
}

async fn list(
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<aliases::v3::Request>,
) -> Answer<aliases::v3::Response> {
    let found = rooms.aliases_for(&body.room_id, &caller.user_id).await?;
    let found = found.into_iter().filter_map(|alias| alias.try_into().ok()).collect();
    Ok(Reply(aliases::v3::Response::new(found)))
}

fn limit(asked: Option<UInt>) -> Option<usize> {
    asked.and_then(|limit| usize::try_from(u64::from(limit)).ok())
}

/// A page of this server's directory, or of another's.
async fn page(
    rooms: &Rooms,
    server: Option<&ruma::ServerName>,
    query: &DirectoryQuery,
) -> Result<RawJson, ApiError> {
    if server.is_some_and(|server| server != rooms.server_name()) {
        return Err(ApiError::not_found("The directory of that server can't be read."));
    }
    let page = rooms.public_rooms(query).await?;
    let json = serde_json::to_vec(&page).map_err(ApiError::internal)?;
    Ok(RawJson(json.into()))
}

async fn public(
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, .. }: Ruma<get_public_rooms::v3::Request>,
) -> Result<RawJson, ApiError> {
    let query = DirectoryQuery {
        limit: limit(body.limit),
        since: body.since,
        ..DirectoryQuery::default()
    };
    page(&rooms, body.server.as_deref(), &query).await
}

async fn search(
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, .. }: Ruma<get_public_rooms_filtered::v3::Request>,
) -> Result<RawJson, ApiError> {
    let types = &body.filter.room_types;
    let query = DirectoryQuery {
        limit: limit(body.limit),
        since: body.since,
        search: body.filter.generic_search_term,
        room_types: (!types.is_empty()).then(|| {
            types.iter().map(|kind| kind.as_str().map(str::to_owned)).collect()
        }),
    };
    page(&rooms, body.server.as_deref(), &query).await
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

async fn publish(
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<set_room_visibility::v3::Request>,
) -> Answer<set_room_visibility::v3::Response> {
    let published = body.visibility == Visibility::Public;
    rooms.publish(&body.room_id, &caller.user_id, caller.is_admin, published).await?;
    Ok(Reply(set_room_visibility::v3::Response::new()))
}
