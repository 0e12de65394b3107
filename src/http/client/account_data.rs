//! Account data and tags (Client-Server API, "Client Config", "Room Tagging").

use std::sync::Arc;

use axum::extract::State;
use resuni_accounts::{Accounts, Session};
use ruma::{
    UserId,
    api::client::{
        config::{
            get_global_account_data, get_room_account_data, set_global_account_data,
            set_room_account_data,
        },
        tag::{create_tag, delete_tag, get_tags},
    },
};
use serde_json::{Map, Value, json};

use crate::{
    error::ApiError,
    extract::{Answer, RawJson, Reply, Ruma, json_object},
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new()
        .on(get_global)
        .on(set_global)
        .on(get_room)
        .on(set_room)
        .on(remove_global)
        .on(remove_room)
        .on(tags)
        .on(add_tag)
        .on(remove_tag)
}

fn own(caller: &Session, user: &UserId) -> Result<(), ApiError> {
    if caller.user_id == user {
        Ok(())
    } else {
        Err(ApiError::forbidden("This is not your account data."))
    }
}

async fn get(
    accounts: &Accounts,
    caller: &Session,
    room: Option<&str>,
    kind: &str,
) -> Result<RawJson, ApiError> {
    let data = accounts.account_data(caller.account, room, kind).await?;
    let data = data.ok_or_else(|| ApiError::not_found("There is no such account data."))?;
    Ok(RawJson(Box::<str>::from(data).into_string().into()))
}

async fn get_global(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<get_global_account_data::v3::Request>,
) -> Result<RawJson, ApiError> {
    own(&caller, &body.user_id)?;
    get(&accounts, &caller, None, &body.event_type.to_string()).await
}

async fn get_room(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<get_room_account_data::v3::Request>,
) -> Result<RawJson, ApiError> {
    own(&caller, &body.user_id)?;
    let room = Some(body.room_id.as_str());
    get(&accounts, &caller, room, &body.event_type.to_string()).await
}

async fn set_global(
    State(accounts): State<Arc<Accounts>>,
    Ruma {
        body, caller, raw, ..
    }: Ruma<set_global_account_data::v3::Request>,
) -> Answer<set_global_account_data::v3::Response> {
    own(&caller, &body.user_id)?;
    let kind = body.event_type.to_string();
    accounts
        .set_account_data(caller.account, None, &kind, &json_object(&raw)?)
        .await?;
    Ok(Reply(set_global_account_data::v3::Response::new()))
}

async fn set_room(
    State(accounts): State<Arc<Accounts>>,
    Ruma {
        body, caller, raw, ..
    }: Ruma<set_room_account_data::v3::Request>,
) -> Answer<set_room_account_data::v3::Response> {
    own(&caller, &body.user_id)?;
    let (room, kind) = (body.room_id.as_str(), body.event_type.to_string());
    accounts
        .set_account_data(caller.account, Some(room), &kind, &json_object(&raw)?)
        .await?;
    Ok(Reply(set_room_account_data::v3::Response::new()))
}

async fn remove_global(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<remove::global::Request>,
) -> Answer<remove::global::Response> {
    own(&caller, &body.user_id)?;
    accounts
        .remove_account_data(caller.account, None, &body.event_type)
        .await?;
    Ok(Reply(remove::global::Response {}))
}

async fn remove_room(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<remove::room::Request>,
) -> Answer<remove::room::Response> {
    own(&caller, &body.user_id)?;
    let room = Some(body.room_id.as_str());
    accounts
        .remove_account_data(caller.account, room, &body.event_type)
        .await?;
    Ok(Reply(remove::room::Response {}))
}

/// As they were given: of a tag's info ruma would keep the order only.
async fn tags(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<get_tags::v3::Request>,
) -> Result<RawJson, ApiError> {
    own(&caller, &body.user_id)?;
    let tags: Map<String, Value> = accounts.tags(caller.account, body.room_id.as_str()).await?;
    Ok(RawJson::of(&json!({ "tags": tags })))
}

async fn add_tag(
    State(accounts): State<Arc<Accounts>>,
    Ruma {
        body, caller, raw, ..
    }: Ruma<create_tag::v3::Request>,
) -> Answer<create_tag::v3::Response> {
    own(&caller, &body.user_id)?;
    let info = json_object(&raw)?;
    accounts
        .set_tag(caller.account, body.room_id.as_str(), &body.tag, info)
        .await?;
    Ok(Reply(create_tag::v3::Response::new()))
}

async fn remove_tag(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<delete_tag::v3::Request>,
) -> Answer<delete_tag::v3::Response> {
    own(&caller, &body.user_id)?;
    accounts
        .delete_tag(caller.account, body.room_id.as_str(), &body.tag)
        .await?;
    Ok(Reply(delete_tag::v3::Response::new()))
}

/// Removing account data (MSC3391, under its unstable names).
mod remove {
    pub mod global {
        use ruma::{
            OwnedUserId,
            api::{auth_scheme::AccessToken, metadata, request, response},
        };

        metadata! {
            method: DELETE,
            rate_limited: true,
            authentication: AccessToken,
            history: {
                unstable("org.matrix.msc3391") => "/_matrix/client/unstable/org.matrix.msc3391/user/{user_id}/account_data/{event_type}",
            }
        }

        /// Removes what belongs to no room.
        #[request]
        pub struct Request {
            /// Whose it is.
            #[ruma_api(path)]
            pub user_id: OwnedUserId,
            /// Its type.
            #[ruma_api(path)]
            pub event_type: String,
        }

        /// It is not there any more.
        #[response]
        pub struct Response {}
    }

    pub mod room {
        use ruma::{
            OwnedRoomId, OwnedUserId,
            api::{auth_scheme::AccessToken, metadata, request, response},
        };

        metadata! {
            method: DELETE,
            rate_limited: true,
            authentication: AccessToken,
            history: {
                unstable("org.matrix.msc3391") => "/_matrix/client/unstable/org.matrix.msc3391/user/{user_id}/rooms/{room_id}/account_data/{event_type}",
            }
        }

        /// Removes what belongs to a room.
        #[request]
        pub struct Request {
            /// Whose it is.
            #[ruma_api(path)]
            pub user_id: OwnedUserId,
            /// The room.
            #[ruma_api(path)]
            pub room_id: OwnedRoomId,
            /// Its type.
            #[ruma_api(path)]
            pub event_type: String,
        }

        /// It is not there any more.
        #[response]
        pub struct Response {}
    }
}
