//! What is done with one room, in the form of Synapse's admin API.

use std::sync::Arc;

use axum::extract::State;
use http::{Method, StatusCode};
use resuni_accounts::Accounts;
use resuni_federation::Federation;
use resuni_rooms::{JobStatus, MemberDetails, Membership, RoomError, Rooms, Shutdown, ShutdownJob};
use ruma::{
    OwnedRoomId, OwnedRoomOrAliasId, OwnedUserId, RoomAliasId, RoomId, api::error::ErrorCode,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::{Named, Operator, Sent};
use crate::{
    client::{Remote, member_profile},
    error::ApiError,
    extract::RawJson,
    routes::Routes,
};

/// The table of these endpoints.
pub fn routes() -> Routes {
    const BLOCK: &str = "/_synapse/admin/v1/rooms/{room}/block";
    Routes::new()
        .operator(Method::GET, BLOCK, blocked)
        .operator(Method::PUT, BLOCK, block)
        .operator(
            Method::DELETE,
            "/_synapse/admin/v1/rooms/{room}",
            shut_down_now,
        )
        .operator(
            Method::DELETE,
            "/_synapse/admin/v2/rooms/{room}",
            begin_shutdown,
        )
        .operator(
            Method::GET,
            "/_synapse/admin/v2/rooms/{room}/delete_status",
            shutdowns_of,
        )
        .operator(
            Method::GET,
            "/_synapse/admin/v2/rooms/delete_status/{id}",
            shutdown_status,
        )
        .operator(
            Method::POST,
            "/_synapse/admin/v1/rooms/{room}/make_room_admin",
            make_admin,
        )
        .operator(Method::POST, "/_synapse/admin/v1/join/{room}", join)
}

async fn blocked(
    _: Operator,
    State(rooms): State<Arc<Rooms>>,
    Named(room): Named<OwnedRoomId>,
) -> Result<RawJson, ApiError> {
    Ok(RawJson::of(&match rooms.blocked(&room).await? {
        Some(row) => json!({ "block": true, "user_id": row.by }),
        None => json!({ "block": false }),
    }))
}

#[derive(Deserialize)]
struct Block {
    block: bool,
}

async fn block(
    Operator(by): Operator,
    State(rooms): State<Arc<Rooms>>,
    Named(room): Named<OwnedRoomId>,
    Sent(wanted): Sent<Block>,
) -> Result<RawJson, ApiError> {
    rooms.block(&room, &by.user_id, wanted.block).await?;
    Ok(RawJson::of(&json!({ "block": wanted.block })))
}

#[derive(Deserialize)]
struct Delete {
    new_room_user_id: Option<OwnedUserId>,
    room_name: Option<String>,
    message: Option<String>,
    #[serde(default)]
    block: bool,
    purge: Option<bool>,
    #[serde(default)]
    force_purge: bool,
}

impl Delete {
    fn how(self, rooms: &Rooms, by: &OwnedUserId) -> Result<Shutdown, ApiError> {
        let own = rooms.server_name();
        let invalid = |why: &'static str| Err(ApiError::invalid_param(why));
        // Left out it would mean yes elsewhere. Here what was said is kept either way, and who asks for its end in so
        // many words must not believe that it came.
        if self.purge == Some(true) || self.force_purge {
            return invalid(
                "This server keeps what was said in a room. Set purge to false to take everybody out of it.",
            );
        }
        if let Some(user) = &self.new_room_user_id
            && user.server_name() != own
        {
            return invalid("The new_room_user_id has to be a user of this server.");
        }
        let name = self.room_name;
        let message = self.message;
        Ok(Shutdown {
            by: by.clone(),
            block: self.block,
            new_room_by: self.new_room_user_id,
            name: name.unwrap_or_else(|| "Content Violation Notification".to_owned()),
            message: message.unwrap_or_else(|| {
                "Sharing illegal content on this server is not permitted and rooms in violation will be blocked."
                    .to_owned()
            }),
        })
    }
}

async fn shut_down_now(
    Operator(by): Operator,
    State(rooms): State<Arc<Rooms>>,
    Named(room): Named<OwnedRoomId>,
    Sent(wanted): Sent<Delete>,
) -> Result<RawJson, ApiError> {
    let how = wanted.how(&rooms, &by.user_id)?;
    // A room that is not known here can be blocked before it is.
    let known = rooms.view(&room).await?.is_some();
    if !known && !how.block {
        return Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            ErrorCode::Unknown,
            "There is no such room here.",
        ));
    }
    let report = rooms.shut_down(&room, &how, |_| ()).await?;
    RawJson::written(&report)
}

async fn begin_shutdown(
    Operator(by): Operator,
    State(rooms): State<Arc<Rooms>>,
    Named(room): Named<OwnedRoomId>,
    Sent(wanted): Sent<Delete>,
) -> Result<RawJson, ApiError> {
    let how = wanted.how(&rooms, &by.user_id)?;
    let id = rooms.begin_shutdown(&room, how).await?;
    Ok(RawJson::of(&json!({ "delete_id": id })))
}

fn described(job: &ShutdownJob) -> Value {
    let (status, error) = match &job.status {
        JobStatus::Active => ("active", None),
        JobStatus::Complete => ("complete", None),
        JobStatus::Failed(error) => ("failed", Some(error)),
    };
    let mut described = json!({
        "delete_id": job.id,
        "room_id": job.about,
        "status": status,
        "shutdown_room": job.report,
    });
    if let Some(error) = error {
        described["error"] = error.as_str().into();
    }
    described
}

fn no_job() -> ApiError {
    ApiError::not_found(
        "There is no such deletion, or it was a day ago, or before the last restart.",
    )
}

async fn shutdowns_of(
    _: Operator,
    State(rooms): State<Arc<Rooms>>,
    Named(room): Named<OwnedRoomId>,
) -> Result<RawJson, ApiError> {
    let jobs = rooms.shutdowns().about(&room);
    if jobs.is_empty() {
        return Err(no_job());
    }
    let jobs: Vec<Value> = jobs.iter().map(described).collect();
    Ok(RawJson::of(&json!({ "results": jobs })))
}

async fn shutdown_status(
    _: Operator,
    State(rooms): State<Arc<Rooms>>,
    Named(id): Named<String>,
) -> Result<RawJson, ApiError> {
    let job = rooms.shutdowns().of_id(&id).ok_or_else(no_job)?;
    Ok(RawJson::of(&described(&job)))
}

/// The room that an id or an alias of this server names.
async fn resolved(rooms: &Rooms, named: &OwnedRoomOrAliasId) -> Result<OwnedRoomId, ApiError> {
    if let Ok(room) = <&RoomId>::try_from(named.as_str()) {
        return Ok(room.to_owned());
    }
    let unknown = || ApiError::not_found("There is no such room alias here.");
    let alias = <&RoomAliasId>::try_from(named.as_str()).map_err(|_| unknown())?;
    let found = rooms.resolve_alias(alias).await?;
    found.map(|(room, _)| room).ok_or_else(unknown)
}

#[derive(Deserialize)]
struct Whom {
    user_id: Option<OwnedUserId>,
}

async fn make_admin(
    Operator(by): Operator,
    State(accounts): State<Arc<Accounts>>,
    State(rooms): State<Arc<Rooms>>,
    State(federation): State<Option<Arc<Federation>>>,
    Named(room): Named<OwnedRoomOrAliasId>,
    Sent(wanted): Sent<Whom>,
) -> Result<RawJson, ApiError> {
    let room = resolved(&rooms, &room).await?;
    let user = wanted.user_id.unwrap_or(by.user_id);
    let made = rooms.make_admin(&room, &user).await?;
    if made.needs_invite {
        let remote = Remote {
            rooms: &rooms,
            federation: federation.as_deref(),
        };
        let details = MemberDetails {
            profile: crate::client::profile_if_local(&accounts, &user).await?,
            ..MemberDetails::default()
        };
        remote.invite(&room, &made.by, &user, &details).await?;
    }
    Ok(RawJson::of(&json!({})))
}

#[derive(Deserialize)]
struct Join {
    user_id: OwnedUserId,
}

/// Makes one of our users join; where they need an invite, the operator gives it if they can.
async fn join(
    Operator(by): Operator,
    State(accounts): State<Arc<Accounts>>,
    State(rooms): State<Arc<Rooms>>,
    State(federation): State<Option<Arc<Federation>>>,
    Named(room): Named<OwnedRoomOrAliasId>,
    Sent(wanted): Sent<Join>,
) -> Result<RawJson, ApiError> {
    let user = wanted.user_id;
    let account = accounts.local_account(&user).await?;
    accounts.active(account).await?;
    let room = resolved(&rooms, &room).await?;
    let remote = Remote {
        rooms: &rooms,
        federation: federation.as_deref(),
    };
    let details = MemberDetails {
        profile: member_profile(&accounts, &user).await?,
        ..MemberDetails::default()
    };
    if needs_invite(&rooms, &room, &by.user_id, &user).await? {
        remote.invite(&room, &by.user_id, &user, &details).await?;
    }
    remote.join(&room, &user, &details).await?;
    Ok(RawJson::of(&json!({ "room_id": room })))
}

/// Whether a join would need the operator's invite, who is in the room.
async fn needs_invite(
    rooms: &Rooms,
    room: &RoomId,
    by: &OwnedUserId,
    user: &OwnedUserId,
) -> Result<bool, RoomError> {
    let Some(view) = rooms.view(room).await? else {
        return Ok(false);
    };
    let is_in = matches!(
        view.member(user).await?,
        Some(Membership::Join | Membership::Invite)
    );
    let open = view.summary().await?.join_rule == "public";
    Ok(!is_in && !open && view.joined(by).await?)
}
