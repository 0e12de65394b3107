//! Servers that want into a room by way of us, and out.

use std::{sync::Arc, time::Duration};

use resuni_dag::{Pdu, cosign};
use resuni_rooms::{
    EventNum, Membership, NewEvent, Received, RestrictedJoin, RoomError, RoomView, StateView,
    membership_of, tables::Place,
};
use ruma::{
    EventId, OwnedUserId, RoomId, RoomVersionId, ServerName, UserId,
    api::federation::membership::{
        RawStrippedState, create_join_event::v2 as send_join, create_knock_event::v1 as send_knock,
        create_leave_event::v2 as send_leave, prepare_join_event::v1 as make_join,
        prepare_knock_event::v1 as make_knock, prepare_leave_event::v1 as make_leave,
    },
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::{Serve, history::raws};
use crate::{auth_chain, error::FederationError, handshake::raw};

/// How long a server may take to take our answer to its `send_join` in, before it is sent events that build on it.
const END_FORK_AFTER: Duration = Duration::from_secs(1);
/// Servers named in `servers_in_room`.
const MAX_SERVERS: usize = 100_000;

impl Serve {
    /// `GET /v1/make_join/{roomId}/{userId}`.
    ///
    /// # Errors
    /// 403 when the user may not join, 400 when this server can't tell or the version is not supported there.
    pub async fn make_join(
        &self,
        origin: &ServerName,
        request: make_join::Request,
    ) -> Result<make_join::Response, FederationError> {
        let view = self
            .room_for(origin, &request.room_id, &request.user_id)
            .await?;
        require_whole(&view)?;
        let version = supported(&view, &request.ver)?;
        let mut content = json!({ "membership": "join" });
        if let Some(user) = self.authoriser(&view, &request.user_id).await? {
            content["join_authorised_via_users_server"] = json!(user);
        }
        let event = self.template(&view, &request.user_id, &content).await?;
        let mut response = make_join::Response::new(event);
        response.room_version = Some(version);
        Ok(response)
    }

    /// `GET /v1/make_leave/{roomId}/{userId}`.
    ///
    /// # Errors
    /// 403 when there is nothing to leave.
    pub async fn make_leave(
        &self,
        origin: &ServerName,
        request: make_leave::Request,
    ) -> Result<make_leave::Response, FederationError> {
        let view = self
            .room_for(origin, &request.room_id, &request.user_id)
            .await?;
        let content = json!({ "membership": "leave" });
        let event = self.template(&view, &request.user_id, &content).await?;
        Ok(make_leave::Response::new(Some(version_of(&view)?), event))
    }

    /// `GET /v1/make_knock/{roomId}/{userId}`.
    ///
    /// # Errors
    /// 403 when the room takes no knocks, 400 when the version is not supported there.
    pub async fn make_knock(
        &self,
        origin: &ServerName,
        request: make_knock::Request,
    ) -> Result<make_knock::Response, FederationError> {
        let view = self
            .room_for(origin, &request.room_id, &request.user_id)
            .await?;
        require_whole(&view)?;
        let version = supported(&view, &request.ver)?;
        require_knockable(&view).await?;
        let content = json!({ "membership": "knock" });
        let event = self.template(&view, &request.user_id, &content).await?;
        Ok(make_knock::Response::new(version, event))
    }

    /// `PUT /v2/send_join/{roomId}/{eventId}`.
    ///
    /// # Errors
    /// 400 when the event is not the join it should be, 403 when the room forbids it.
    pub async fn send_join(
        &self,
        origin: &ServerName,
        request: send_join::Request,
    ) -> Result<send_join::Response, FederationError> {
        let view = self.whole_room(origin, &request.room_id).await?;
        let servers = view.servers(MAX_SERVERS).await?;
        let own = Own {
            origin,
            path_event: &request.event_id,
            membership: Membership::Join,
        };
        let event = self.own_event(&view, own, &request.pdu).await?;
        let event = self.vouch(&view, event).await?;
        let event = self.checked(&view, event).await?;
        let num = self.accept(&view, origin, event.clone()).await?;
        // A view of its own: the first is from before the join.
        let view = self.rooms.view_known(&request.room_id).await?;
        self.end_fork_soon(view.room_id());
        let before = view.state_before(event.event_id()).await?;
        let mut room_state = send_join::RoomState::new();
        room_state.event = Some(raw(&event)?);
        if request.omit_members {
            let kept = self.without_members(&view, &before, event.sender()).await?;
            room_state.members_omitted = true;
            room_state.servers_in_room = Some(servers.iter().map(ToString::to_string).collect());
            room_state.state = raws(&view.pdus(&kept).await?)?;
            let mut around = kept.clone();
            around.push(num);
            let mut chain = auth_chain::of(&view, &around).await?;
            chain.retain(|event| !kept.contains(event));
            room_state.auth_chain = raws(&view.pdus(&chain).await?)?;
        } else {
            let state = before.nums().await?;
            let mut around = state.clone();
            around.push(num);
            let chain = auth_chain::of(&view, &around).await?;
            room_state.state = raws(&view.pdus(&state).await?)?;
            room_state.auth_chain = raws(&view.pdus(&chain).await?)?;
        }
        Ok(send_join::Response::new(room_state))
    }

    /// What came into the room since `make_join`, or was on its way from servers that did not know of the join yet,
    /// is no part of what the joining server gets, and if nobody says anything more it never learns of it. So the
    /// fork, if there is one, is ended once that server has had the time to take our answer in.
    fn end_fork_soon(&self, room: &RoomId) {
        let (rooms, room) = (Arc::clone(&self.rooms), room.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(END_FORK_AFTER).await;
            if let Err(error) = rooms.end_fork(&room).await {
                tracing::info!(%room, %error, "a fork could not be ended after a join");
            }
        });
    }

    /// `PUT /v2/send_leave/{roomId}/{eventId}`.
    ///
    /// # Errors
    /// As [`Serve::send_join`].
    pub async fn send_leave(
        &self,
        origin: &ServerName,
        request: send_leave::Request,
    ) -> Result<send_leave::Response, FederationError> {
        let view = self.room(origin, &request.room_id).await?;
        let own = Own {
            origin,
            path_event: &request.event_id,
            membership: Membership::Leave,
        };
        let event = self.own_event(&view, own, &request.pdu).await?;
        let event = self.checked(&view, event).await?;
        self.accept(&view, origin, event).await?;
        Ok(send_leave::Response::new())
    }

    /// `PUT /v1/send_knock/{roomId}/{eventId}`.
    ///
    /// # Errors
    /// As [`Serve::send_join`].
    pub async fn send_knock(
        &self,
        origin: &ServerName,
        request: send_knock::Request,
    ) -> Result<send_knock::Response, FederationError> {
        let view = self.whole_room(origin, &request.room_id).await?;
        let own = Own {
            origin,
            path_event: &request.event_id,
            membership: Membership::Knock,
        };
        let event = self.own_event(&view, own, &request.pdu).await?;
        require_knockable(&view).await?;
        let event = self.checked(&view, event).await?;
        self.accept(&view, origin, event).await?;
        let state = view.stripped_state_pdus(None).await?;
        let state = state.iter().map(|pdu| raw(pdu).map(RawStrippedState::Pdu));
        Ok(send_knock::Response::new(state.collect::<Result<_, _>>()?))
    }

    /// The room, for a user of the server that asks.
    async fn room_for(
        &self,
        origin: &ServerName,
        room: &RoomId,
        user: &UserId,
    ) -> Result<RoomView, FederationError> {
        if user.server_name() != origin {
            return Err(FederationError::Forbidden(format!(
                "{user} is not a user of {origin}"
            )));
        }
        self.room(origin, room).await
    }

    /// Who of our users lets somebody into a restricted room; nobody where nobody has to.
    async fn authoriser(
        &self,
        view: &RoomView,
        user: &UserId,
    ) -> Result<Option<OwnedUserId>, FederationError> {
        let refuse = |errcode, message: &str| {
            Err(FederationError::BadRequest {
                errcode,
                message: message.to_owned(),
            })
        };
        match self.rooms.restricted_join(view, user).await? {
            RestrictedJoin::NotNeeded => Ok(None),
            RestrictedJoin::Authorised(by) => Ok(Some(by)),
            RestrictedJoin::NobodyMayInvite => refuse(
                "M_UNABLE_TO_GRANT_JOIN",
                "nobody of this server may invite to the room",
            ),
            RestrictedJoin::Unknown => refuse(
                "M_UNABLE_TO_AUTHORISE_JOIN",
                "this server can't tell whether the user is in one of the rooms that may join",
            ),
            RestrictedJoin::Refused => Err(FederationError::Forbidden(
                "the user is in none of the rooms whose members may join".to_owned(),
            )),
        }
    }

    /// The event for the other server to sign.
    async fn template(
        &self,
        view: &RoomView,
        user: &UserId,
        content: &serde_json::Value,
    ) -> Result<Box<RawValue>, FederationError> {
        let content = serde_json::value::to_raw_value(content)
            .map_err(|e| FederationError::Internal(e.to_string()))?;
        let event = NewEvent::state("m.room.member", user.as_str(), content);
        let (object, _version) = self.rooms.template(view.room_id(), user, event).await?;
        serde_json::value::to_raw_value(&object)
            .map_err(|e| FederationError::Internal(e.to_string()))
    }

    /// A member event that a server sends about its own user (server-server API, v2 `send_join` and
    /// its kin: what "the receiving server MUST" validate).
    async fn own_event(
        &self,
        view: &RoomView,
        own: Own<'_>,
        json: &RawValue,
    ) -> Result<Pdu, FederationError> {
        let pdu = Pdu::parse(json.get(), view.rules())
            .map_err(|e| FederationError::bad_json(e.to_string()))?;
        let refuse = |message: &str| Err(FederationError::invalid(message));
        if pdu.event_id() != own.path_event || pdu.room_id() != view.room_id() {
            return refuse("the event is not the one in the path");
        }
        if membership_of(&pdu) != Some(own.membership) {
            return refuse("the event is not of the right type and membership");
        }
        if pdu.state_key() != Some(pdu.sender().as_str()) {
            return refuse("the event's sender and state key are not the same");
        }
        if pdu.sender().server_name() != own.origin {
            return Err(FederationError::Forbidden(
                "the sender is not of your server".to_owned(),
            ));
        }
        Ok(pdu)
    }

    /// Adds our signature to a join that one of our users is said to authorise, if it is so.
    async fn vouch(&self, view: &RoomView, pdu: Pdu) -> Result<Pdu, FederationError> {
        #[derive(Deserialize)]
        struct Content {
            join_authorised_via_users_server: Option<OwnedUserId>,
        }
        let content: Content = pdu
            .content_as()
            .map_err(|e| FederationError::bad_json(e.to_string()))?;
        let Some(by) = content.join_authorised_via_users_server else {
            return Ok(pdu);
        };
        if by.server_name() != self.own {
            return Ok(pdu);
        }
        // Whoever it names, our word is that the user may join now: asked again, since the template.
        self.authoriser(view, pdu.sender()).await?;
        Ok(cosign(&pdu, view.rules(), &self.own, &self.key).map_err(RoomError::from)?)
    }

    async fn checked(&self, view: &RoomView, pdu: Pdu) -> Result<Pdu, FederationError> {
        let raws = vec![raw(&pdu)?];
        match self
            .checker
            .check(view.room_id(), view.rules(), raws)
            .await
            .into_iter()
            .next()
        {
            Some(Ok(pdu)) => Ok(pdu),
            Some(Err(dropped)) => Err(FederationError::invalid(dropped.reason)),
            None => Err(FederationError::Internal(
                "a check had no result".to_owned(),
            )),
        }
    }

    /// Takes the event into the room, and passes it on to the other servers there: "The resident server must
    /// also send the event to other servers participating in the room".
    async fn accept(
        &self,
        view: &RoomView,
        origin: &ServerName,
        pdu: Pdu,
    ) -> Result<EventNum, FederationError> {
        let event_id = pdu.event_id().to_owned();
        let received = self.rooms.receive(view.room_id(), pdu).await?;
        match received {
            Received::Accepted { .. } | Received::Known => {}
            Received::Rejected { reason } => return Err(FederationError::Forbidden(reason)),
            Received::SoftFailed => {
                let message = "the room's current state forbids it".to_owned();
                return Err(FederationError::Forbidden(message));
            }
            Received::Missing { .. } => {
                return Err(FederationError::invalid(
                    "the event refers to events unknown here",
                ));
            }
        }
        let view = self.rooms.view_known(view.room_id()).await?;
        let (num, row) = view.event_row(&event_id).await?.ok_or_else(|| {
            FederationError::Internal("an event that was accepted is gone".to_owned())
        })?;
        let Place::Timeline { position, .. } = row.place else {
            return Err(FederationError::Forbidden(
                "the event was refused before".to_owned(),
            ));
        };
        if matches!(received, Received::Accepted { .. }) {
            self.sender.relay(&view, position, num, origin).await?;
        }
        Ok(num)
    }

    /// The state without member events, but for the joining user's and those that the room is named
    /// after where it has no name (MSC3706).
    async fn without_members(
        &self,
        view: &RoomView,
        state: &StateView,
        joining: &UserId,
    ) -> Result<Vec<EventNum>, FederationError> {
        let mut named = false;
        for kind in ["m.room.name", "m.room.canonical_alias"] {
            named |= state.num(kind, "").await?.is_some();
        }
        let heroes = match named {
            true => Vec::new(),
            false => view.heroes(joining).await?,
        };
        let heroes: Vec<&UserId> = heroes.iter().map(AsRef::as_ref).collect();
        Ok(state.nums_without_members(&heroes).await?)
    }
}

/// What a server's own member event has to be.
#[derive(Clone, Copy)]
struct Own<'a> {
    origin: &'a ServerName,
    path_event: &'a EventId,
    membership: Membership,
}

/// MSC3902: who has no full answer gives none, so that another server is tried.
pub(super) fn require_whole(view: &RoomView) -> Result<(), FederationError> {
    if view.is_partial() {
        let room = view.room_id();
        let message = format!("this server does not have all members of the room {room} yet");
        return Err(FederationError::NotFound(message));
    }
    Ok(())
}

fn version_of(view: &RoomView) -> Result<RoomVersionId, FederationError> {
    RoomVersionId::try_from(view.version()).map_err(|e| FederationError::Internal(e.to_string()))
}

fn supported(
    view: &RoomView,
    versions: &[RoomVersionId],
) -> Result<RoomVersionId, FederationError> {
    let version = version_of(view)?;
    if versions.contains(&version) {
        Ok(version)
    } else {
        Err(FederationError::IncompatibleRoomVersion(version))
    }
}

async fn require_knockable(view: &RoomView) -> Result<(), FederationError> {
    if view.rules().knocking() && view.join_rule().await?.knockable() {
        Ok(())
    } else {
        Err(FederationError::Forbidden(
            "this room takes no knocks".to_owned(),
        ))
    }
}
