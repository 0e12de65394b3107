//! Who is in a room (Client-Server API, "Room membership").

use std::sync::Arc;

use axum::extract::State;
use bytes::Bytes;
use resuni_accounts::{Accounts, InviteVerdict, Session};
use resuni_delivery::{Notices, ServiceClient};
use resuni_federation::Federation;
use resuni_rooms::{
    Gaps, MemberDetails, Membership, PageQuery, RoomView, Rooms, StateView, TimelineToken,
    membership_of,
};
use resuni_store::Direction;
use ruma::{
    OwnedRoomId, OwnedRoomOrAliasId, OwnedServerName, RoomAliasId, RoomId, UserId,
    api::client::{
        knock::knock_room,
        membership::{
            ban_user, forget_room, get_member_events,
            invite_user::{self, v3::InvitationRecipient},
            join_room_by_id, join_room_by_id_or_alias, joined_members, joined_rooms, kick_user,
            leave_room, unban_user,
        },
    },
};
use serde::Deserialize;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    appservice::bridged_user,
    directory::{bridged_alias, find_alias},
    remote::Remote,
    rooms::{form, profile, profile_if_local, token, view, view_joined, whole},
};
use crate::{
    error::ApiError,
    extract::{Answer, Policy, RawJson, Reply, Ruma, json_object},
    limits::Class,
    routes::Routes,
};

const EVERY_MEMBERSHIP: [Membership; 5] = [
    Membership::Join,
    Membership::Invite,
    Membership::Knock,
    Membership::Leave,
    Membership::Ban,
];

/// The table of this section.
pub fn routes() -> Routes {
    let joining = Policy::CLIENT.public().class(Class::Join);
    Routes::new()
        .with(
            Policy {
                guests: true,
                ..joining
            },
            join,
        )
        .with(
            Policy {
                guests: true,
                ..joining
            },
            join_by_alias,
        )
        .with(joining, knock)
        .guest(leave)
        .on(forget)
        .with(Policy::CLIENT.public().class(Class::Invite), invite)
        .with(Policy::CLIENT.public(), kick)
        .with(Policy::CLIENT.public(), ban)
        .with(Policy::CLIENT.public(), unban)
        .on(rooms_joined)
        .guest(members)
        .guest(members_joined)
}

/// The profile of the caller, and what they say about their joining or knocking.
async fn details(
    accounts: &Accounts,
    caller: &Session,
    reason: Option<String>,
    via: Vec<OwnedServerName>,
) -> Result<MemberDetails, ApiError> {
    let profile = profile(accounts, &caller.user_id).await?;
    Ok(MemberDetails {
        profile,
        reason,
        via,
        ..MemberDetails::default()
    })
}

fn third_party<T: Serialize>(signed: Option<T>) -> Result<Option<Value>, ApiError> {
    let Some(signed) = signed else {
        return Ok(None);
    };
    let signed = serde_json::to_value(signed).map_err(ApiError::internal)?;
    Ok(Some(Map::from_iter([("signed".to_owned(), signed)]).into()))
}

/// Client-Server API, "Guest Access": guests may only join where the room says so.
pub async fn check_guest(rooms: &Rooms, caller: &Session, room: &RoomId) -> Result<(), ApiError> {
    if !caller.is_guest {
        return Ok(());
    }
    let access = match rooms.view(room).await? {
        Some(view) => view.state("m.room.guest_access", "").await?,
        None => None,
    };
    let content = access.and_then(|event| event.content_as::<Map<String, Value>>().ok());
    let rule = content
        .as_ref()
        .and_then(|content| content.get("guest_access"));
    if rule.and_then(Value::as_str) == Some("can_join") {
        Ok(())
    } else {
        Err(ApiError::guests("This room does not let guests in."))
    }
}

async fn join(
    State(accounts): State<Arc<Accounts>>,
    State(rooms): State<Arc<Rooms>>,
    State(federation): State<Option<Arc<Federation>>>,
    Ruma {
        body, caller, raw, ..
    }: Ruma<join_room_by_id::v3::Request>,
) -> Answer<join_room_by_id::v3::Response> {
    check_guest(&rooms, &caller, &body.room_id).await?;
    let mut details = details(&accounts, &caller, body.reason, Vec::new()).await?;
    details.third_party_invite = third_party(body.third_party_signed)?;
    details.extra = extra(&raw)?;
    let remote = Remote {
        rooms: &rooms,
        federation: federation.as_deref(),
    };
    remote
        .join(&body.room_id, &caller.user_id, &details)
        .await?;
    Ok(Reply(join_room_by_id::v3::Response::new(body.room_id)))
}

async fn join_by_alias(
    State(accounts): State<Arc<Accounts>>,
    State(rooms): State<Arc<Rooms>>,
    State(services): State<Arc<ServiceClient>>,
    State(federation): State<Option<Arc<Federation>>>,
    Ruma {
        body, caller, raw, ..
    }: Ruma<join_room_by_id_or_alias::v3::Request>,
) -> Answer<join_room_by_id_or_alias::v3::Response> {
    if let Ok(alias) = <&RoomAliasId>::try_from(body.room_id_or_alias.as_str()) {
        rooms.bans().may_join(alias.as_str())?;
        bridged_alias(&accounts, &rooms, &services, alias).await?;
    }
    let (room, via) = resolve(
        &rooms,
        federation.as_deref(),
        body.room_id_or_alias,
        body.via,
    )
    .await?;
    check_guest(&rooms, &caller, &room).await?;
    let mut details = details(&accounts, &caller, body.reason, via).await?;
    details.third_party_invite = third_party(body.third_party_signed)?;
    details.extra = extra(&raw)?;
    let remote = Remote {
        rooms: &rooms,
        federation: federation.as_deref(),
    };
    remote.join(&room, &caller.user_id, &details).await?;
    Ok(Reply(join_room_by_id_or_alias::v3::Response::new(room)))
}

async fn knock(
    State(accounts): State<Arc<Accounts>>,
    State(rooms): State<Arc<Rooms>>,
    State(federation): State<Option<Arc<Federation>>>,
    Ruma { body, caller, .. }: Ruma<knock_room::v3::Request>,
) -> Answer<knock_room::v3::Response> {
    let (room, via) = resolve(
        &rooms,
        federation.as_deref(),
        body.room_id_or_alias,
        body.via,
    )
    .await?;
    let details = details(&accounts, &caller, body.reason, via).await?;
    let remote = Remote {
        rooms: &rooms,
        federation: federation.as_deref(),
    };
    remote.knock(&room, &caller.user_id, &details).await?;
    Ok(Reply(knock_room::v3::Response::new(room)))
}

/// The room of an id or an alias, and servers that know it.
async fn resolve(
    rooms: &Rooms,
    federation: Option<&Federation>,
    name: OwnedRoomOrAliasId,
    mut via: Vec<OwnedServerName>,
) -> Result<(OwnedRoomId, Vec<OwnedServerName>), ApiError> {
    match OwnedRoomId::try_from(name) {
        Ok(room) => Ok((room, via)),
        Err(alias) => {
            let (room, servers) = find_alias(rooms, federation, &alias).await?;
            via.extend(servers);
            Ok((room, via))
        }
    }
}

/// What else the client wants in its membership event.
fn extra(raw: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let mut extra = json_object(raw)?;
    extra.remove("third_party_signed");
    Ok(extra)
}

/// Client-Server API, "Server Notices": the invite to the room where the server speaks can't be rejected.
pub async fn check_leaving(
    notices: Option<&Notices>,
    user: &UserId,
    room: &RoomId,
) -> Result<(), ApiError> {
    match notices {
        Some(notices) if notices.must_not_leave(user, room).await? => Err(ApiError::new(
            http::StatusCode::FORBIDDEN,
            ruma::api::error::ErrorCode::CannotLeaveServerNoticeRoom,
            "This is where the server tells you what you should know: the invite can't be rejected.",
        )),
        _ => Ok(()),
    }
}

async fn leave(
    State(rooms): State<Arc<Rooms>>,
    State(notices): State<Option<Arc<Notices>>>,
    State(federation): State<Option<Arc<Federation>>>,
    Ruma { body, caller, .. }: Ruma<leave_room::v3::Request>,
) -> Answer<leave_room::v3::Response> {
    check_leaving(notices.as_deref(), &caller.user_id, &body.room_id).await?;
    let remote = Remote {
        rooms: &rooms,
        federation: federation.as_deref(),
    };
    remote
        .leave(&body.room_id, &caller.user_id, body.reason.as_deref())
        .await?;
    Ok(Reply(leave_room::v3::Response::new()))
}

async fn forget(
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<forget_room::v3::Request>,
) -> Answer<forget_room::v3::Response> {
    rooms.forget(&body.room_id, &caller.user_id).await?;
    Ok(Reply(forget_room::v3::Response::new()))
}

/// Spec, "Invite permission": who does not want to be invited is not.
pub async fn check_invite(
    accounts: &Accounts,
    inviter: &UserId,
    target: &UserId,
) -> Result<(), ApiError> {
    let Some(account) = accounts.find_user(target).await? else {
        return Ok(());
    };
    match accounts.judge_invite(account, inviter).await? {
        InviteVerdict::Block => Err(ApiError::new(
            http::StatusCode::FORBIDDEN,
            "M_INVITE_BLOCKED".into(),
            "This user does not want to be invited.",
        )),
        // To ignore an invite is not to tell.
        InviteVerdict::Allow | InviteVerdict::Ignore => Ok(()),
    }
}

async fn invite(
    State(accounts): State<Arc<Accounts>>,
    State(rooms): State<Arc<Rooms>>,
    State(federation): State<Option<Arc<Federation>>>,
    State(services): State<Arc<ServiceClient>>,
    Ruma { body, caller, .. }: Ruma<invite_user::v3::Request>,
) -> Answer<invite_user::v3::Response> {
    let remote = Remote {
        rooms: &rooms,
        federation: federation.as_deref(),
    };
    let (target, reason) = match body.recipient {
        InvitationRecipient::UserId(target) => (target.user_id, target.reason),
        InvitationRecipient::ThirdPartyId(who) => {
            match remote
                .invite_address(&body.room_id, &caller.user_id, who)
                .await?
            {
                Some(user) => (user, None),
                None => return Ok(Reply(invite_user::v3::Response::new())),
            }
        }
        _ => return Err(ApiError::bad_json("whom to invite is not said")),
    };
    bridged_user(&accounts, &services, &target).await?;
    check_invite(&accounts, &caller.user_id, &target).await?;
    let details = MemberDetails {
        profile: profile_if_local(&accounts, &target).await?,
        reason,
        ..MemberDetails::default()
    };
    remote
        .invite(&body.room_id, &caller.user_id, &target, &details)
        .await?;
    Ok(Reply(invite_user::v3::Response::new()))
}

/// Whether what the person has said is to go too (MSC4293).
fn redacts(body: &[u8]) -> Result<bool, ApiError> {
    #[derive(Deserialize)]
    struct Wanted {
        #[serde(default, rename = "org.matrix.msc4293.redact_events")]
        redact: bool,
    }
    let wanted = serde_json::from_slice(body).map(|wanted: Wanted| wanted.redact);
    wanted.map_err(|error| ApiError::bad_json(error.to_string()))
}

async fn kick(
    State(rooms): State<Arc<Rooms>>,
    Ruma {
        body, caller, raw, ..
    }: Ruma<kick_user::v3::Request>,
) -> Answer<kick_user::v3::Response> {
    let (reason, redact) = (body.reason.as_deref(), redacts(&raw)?);
    rooms
        .kick(
            &body.room_id,
            &caller.user_id,
            &body.user_id,
            reason,
            redact,
        )
        .await?;
    Ok(Reply(kick_user::v3::Response::new()))
}

async fn ban(
    State(rooms): State<Arc<Rooms>>,
    Ruma {
        body, caller, raw, ..
    }: Ruma<ban_user::v3::Request>,
) -> Answer<ban_user::v3::Response> {
    let (reason, redact) = (body.reason.as_deref(), redacts(&raw)?);
    rooms
        .ban(
            &body.room_id,
            &caller.user_id,
            &body.user_id,
            reason,
            redact,
        )
        .await?;
    Ok(Reply(ban_user::v3::Response::new()))
}

async fn unban(
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<unban_user::v3::Request>,
) -> Answer<unban_user::v3::Response> {
    let reason = body.reason.as_deref();
    rooms
        .unban(&body.room_id, &caller.user_id, &body.user_id, reason)
        .await?;
    Ok(Reply(unban_user::v3::Response::new()))
}

async fn rooms_joined(
    State(rooms): State<Arc<Rooms>>,
    Ruma { caller, .. }: Ruma<joined_rooms::v3::Request>,
) -> Answer<joined_rooms::v3::Response> {
    let joined = rooms.rooms_of(&caller.user_id, &[Membership::Join]).await?;
    let joined = joined.into_iter().map(|room| room.room_id).collect();
    Ok(Reply(joined_rooms::v3::Response::new(joined)))
}

/// The member events, now or at a token; of a room that the caller has left, as it was then.
async fn members(
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<get_member_events::v3::Request>,
) -> Result<RawJson, ApiError> {
    let view = view(&rooms, &body.room_id).await?;
    view.readable_state(&caller.user_id).await?;
    // Who was in the room while its members were still arriving waits for them.
    let view = whole(&rooms, &body.room_id).await?;
    let mut state = view.readable_state(&caller.user_id).await?;
    let is_current = state.snap() == view.snap();
    if let (Some(at), true) = (&body.at, is_current) {
        state = state_at(&view, token(at)?).await?;
    }
    let wanted = |name: &str| {
        body.membership
            .as_ref()
            .is_none_or(|wanted| wanted.as_str() == name)
            && body
                .not_membership
                .as_ref()
                .is_none_or(|unwanted| unwanted.as_str() != name)
    };
    let nums: Vec<_> = if body.at.is_none() && is_current {
        let memberships = EVERY_MEMBERSHIP
            .into_iter()
            .filter(|name| wanted(name.as_str()));
        let members = view.members(&memberships.collect::<Vec<_>>()).await?;
        members.into_iter().map(|(_, event)| event).collect()
    } else {
        let mut nums = Vec::new();
        for event in state.member_events().await? {
            if membership_of(&event).is_some_and(|name| wanted(name.as_str())) {
                nums.extend(view.event_row(event.event_id()).await?.map(|(num, _)| num));
            }
        }
        nums
    };
    let events = view.state_json(&nums, &form(&rooms, &caller)).await?;
    Ok(RawJson(Bytes::from(format!(
        r#"{{"chunk":[{}]}}"#,
        events.join(",")
    ))))
}

/// The state after the last event up to a place in the timeline. No state is known of a place before
/// all events, which a first sync that shows the whole room gives as its `prev_batch`: there it is that
/// after the room's founding, the create event and the first join.
async fn state_at(view: &RoomView, at: TimelineToken) -> Result<StateView, ApiError> {
    let query = |dir, limit| PageQuery {
        from: at,
        to: None,
        dir,
        limit,
        gaps: Gaps::Pass,
    };
    let before = view.page(query(Direction::Backward, 1)).await?.events.pop();
    if let Some(event) = before {
        return Ok(view.state_at(&event.event_id()).await?);
    }
    match view.page(query(Direction::Forward, 2)).await?.events.pop() {
        Some(event) => Ok(view.state_at(&event.event_id()).await?),
        None => Err(ApiError::invalid_param("`at` is not a place in this room.")),
    }
}

/// Who is joined, by their names and pictures (`null` for none). For members only.
async fn members_joined(
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<joined_members::v3::Request>,
) -> Result<RawJson, ApiError> {
    view_joined(&rooms, &body.room_id, &caller.user_id).await?;
    let view = whole(&rooms, &body.room_id).await?;
    let mut joined = Map::new();
    for event in view.member_events(&[Membership::Join]).await? {
        let content: Map<String, Value> = event.content_as().unwrap_or_default();
        let text = |key: &str| content.get(key).filter(|value| value.is_string()).cloned();
        let mut member = Map::new();
        for (name, key) in [
            ("display_name", "displayname"),
            ("avatar_url", "avatar_url"),
        ] {
            member.insert(name.to_owned(), text(key).unwrap_or_default());
        }
        if let Some(user) = event.state_key() {
            joined.insert(user.to_owned(), Value::Object(member));
        }
    }
    Ok(RawJson::of(
        &Map::from_iter([("joined".to_owned(), Value::Object(joined))]).into(),
    ))
}
