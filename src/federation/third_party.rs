//! Invites of people of whom only an address is known (server-server API, "Third-party invites"): what happens when an
//! identity server has found out whose it is.

use std::sync::Arc;

use resuni_accounts::Accounts;
use resuni_dag::{SigningKey, sign_object};
use resuni_rooms::{NewEvent, Received, RoomError, RoomView, Rooms, tables::Place};
use ruma::{
    OwnedServerName, RoomId, ServerName, UserId,
    api::federation::thirdparty::{bind_callback::v1 as bound, exchange_invite::v1 as exchange},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    acl,
    client::{Client, Terms},
    error::FederationError,
    invites::Invites,
    sender::Sender,
};

/// Invites in one call of an identity server. It may be anybody.
const MAX_INVITES: usize = 100;
const TERMS: Terms = Terms::ASKED.up_to(64 << 10);

/// The request with all that the specification wants in its body: that of ruma leaves the room out.
mod exchanged {
    use ruma::{
        OwnedRoomId, OwnedUserId,
        api::{federation::authentication::ServerSignatures, metadata, request, response},
    };
    use serde_json::Value;

    metadata! {
        method: PUT,
        rate_limited: false,
        authentication: ServerSignatures,
        path: "/_matrix/federation/v1/exchange_third_party_invite/{room}",
    }

    #[request]
    pub struct Request {
        #[ruma_api(path)]
        pub room: OwnedRoomId,
        #[serde(rename = "type")]
        pub kind: String,
        pub room_id: OwnedRoomId,
        pub sender: OwnedUserId,
        pub state_key: OwnedUserId,
        pub content: Value,
    }

    #[response]
    pub struct Response {}
}

/// Turns third-party invites into invites.
pub struct ThirdPartyInvites {
    own: OwnedServerName,
    key: Arc<SigningKey>,
    rooms: Arc<Rooms>,
    accounts: Arc<Accounts>,
    client: Arc<Client>,
    invites: Arc<Invites>,
    sender: Arc<Sender>,
}

/// The parts of [`ThirdPartyInvites`].
pub struct ThirdPartyParts {
    /// Our name.
    pub own: OwnedServerName,
    /// Our key.
    pub key: Arc<SigningKey>,
    /// The rooms.
    pub rooms: Arc<Rooms>,
    /// Our people.
    pub accounts: Arc<Accounts>,
    /// Sends requests.
    pub client: Arc<Client>,
    /// Invites of people of other servers.
    pub invites: Arc<Invites>,
    /// Passes events on.
    pub sender: Arc<Sender>,
}

/// What an identity server signed: that this user has the address for which the token was given out.
#[derive(Deserialize)]
struct Signed {
    mxid: String,
    token: String,
}

impl ThirdPartyInvites {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: ThirdPartyParts) -> Self {
        let ThirdPartyParts {
            own,
            key,
            rooms,
            accounts,
            client,
            invites,
            sender,
        } = parts;
        Self {
            own,
            key,
            rooms,
            accounts,
            client,
            invites,
            sender,
        }
    }

    /// `PUT /v1/3pid/onbind`: an address is one of our users', who was invited by it. An invite that can't be made
    /// stands in the way of no other.
    ///
    /// # Errors
    /// When the user is none of ours.
    pub async fn bound(&self, request: bound::Request) -> Result<(), FederationError> {
        let user = &request.mxid;
        let ours = user.server_name() == self.own
            && self.accounts.profile(user.localpart()).await?.is_some();
        if !ours {
            return Err(FederationError::invalid("there is no such user here"));
        }
        for invite in request.invites.iter().take(MAX_INVITES) {
            if let Err(error) = self.bound_one(user, invite).await {
                tracing::info!(room = %invite.room_id, sender = %invite.sender, %user, %error, "a third-party invite could not be made an invite");
            }
        }
        Ok(())
    }

    async fn bound_one(
        &self,
        user: &UserId,
        invite: &bound::ThirdPartyInvite,
    ) -> Result<(), FederationError> {
        let signed: Value = serde_json::from_str(invite.signed.json().get())
            .map_err(|e| FederationError::bad_json(e.to_string()))?;
        if let Some(view) = self.rooms.participating(&invite.room_id).await? {
            return self.issue(&view, &invite.sender, user, signed).await;
        }
        // Only the inviting server can say whether the token is one of the room's.
        let content = json!({
            "membership": "invite",
            "third_party_invite": { "display_name": user.localpart(), "signed": signed },
        });
        let request = exchanged::Request {
            room: invite.room_id.clone(),
            kind: "m.room.member".to_owned(),
            room_id: invite.room_id.clone(),
            sender: invite.sender.clone(),
            state_key: user.to_owned(),
            content,
        };
        let server = invite.sender.server_name();
        self.client.send(server, request, TERMS).await?;
        Ok(())
    }

    /// `PUT /v1/exchange_third_party_invite/{roomId}`: the user's server asks us, where they were invited, to do it.
    ///
    /// # Errors
    /// When the invite is not for a user of `origin` by one of ours, or the room's rules forbid it.
    pub async fn exchange(
        &self,
        origin: &ServerName,
        request: exchange::Request,
    ) -> Result<(), FederationError> {
        let (sender, target) = (&request.sender, &request.state_key);
        if request.kind.to_string() != "m.room.member" || target.server_name() != origin {
            return Err(FederationError::invalid(
                "this is no invite of a user of your server",
            ));
        }
        if sender.server_name() != self.own {
            return Err(FederationError::Forbidden(format!(
                "{sender} is not a user of this server"
            )));
        }
        let view = self.rooms.participating(&request.room_id).await?;
        let view = view.ok_or_else(|| {
            let room = &request.room_id;
            FederationError::NotFound(format!("this server is not in the room {room}"))
        })?;
        acl::require(&view, origin).await?;
        let content: Value = serde_json::from_str(request.content.json().get())
            .map_err(|e| FederationError::bad_json(e.to_string()))?;
        if content["membership"] != "invite" {
            return Err(FederationError::invalid("the membership is not `invite`"));
        }
        let signed = content["third_party_invite"]["signed"].clone();
        self.issue(&view, sender, target, signed).await
    }

    /// The invite itself. What the identity server signed is checked by the auth rules, with the keys that the room has
    /// beside the token.
    async fn issue(
        &self,
        view: &RoomView,
        sender: &UserId,
        target: &UserId,
        signed: Value,
    ) -> Result<(), FederationError> {
        let said: Signed = serde_json::from_value(signed.clone())
            .map_err(|e| FederationError::bad_json(e.to_string()))?;
        if said.mxid != target.as_str() {
            return Err(FederationError::invalid(
                "the identity server has signed for somebody else",
            ));
        }
        let promised = view.state("m.room.third_party_invite", &said.token).await?;
        let promised = promised.ok_or_else(|| {
            FederationError::Forbidden("the room knows no such third-party invite".to_owned())
        })?;
        let promised: Map<String, Value> = promised.content_as().unwrap_or_default();
        let name = promised.get("display_name").and_then(Value::as_str);
        let third_party = json!({ "display_name": name.unwrap_or_default(), "signed": signed });
        let mut content = Map::from_iter([("third_party_invite".to_owned(), third_party)]);
        if target.server_name() != self.own {
            let invites = &self.invites;
            let sent = invites.send(view.room_id(), sender, target, content);
            return sent.await.map(drop);
        }
        content.insert("membership".to_owned(), "invite".into());
        self.invite_here(view.room_id(), sender, target, content)
            .await
    }

    /// Invites one of our users in the name of whoever made the third-party invite.
    async fn invite_here(
        &self,
        room: &RoomId,
        sender: &UserId,
        target: &UserId,
        content: Map<String, Value>,
    ) -> Result<(), FederationError> {
        let content = serde_json::value::to_raw_value(&content)
            .map_err(|e| FederationError::Internal(e.to_string()))?;
        let event = NewEvent::state("m.room.member", target.as_str(), content);
        let (object, _) = self.rooms.template(room, sender, event).await?;
        let view = self.rooms.view_known(room).await?;
        let event =
            sign_object(object, view.rules(), &self.own, &self.key).map_err(RoomError::from)?;
        let event = self.rooms.signed_by_policy(&view, event).await?;
        let id = event.event_id().to_owned();
        match self.rooms.receive(room, event).await? {
            Received::Accepted { .. } | Received::Known => {}
            Received::Rejected { reason } => return Err(FederationError::Forbidden(reason)),
            _ => {
                let message = "the room changed meanwhile".to_owned();
                return Err(FederationError::Forbidden(message));
            }
        }
        // Events of our own people are sent on by themselves.
        let view = self.rooms.view_known(room).await?;
        if sender.server_name() != self.own
            && let Some((num, row)) = view.event_row(&id).await?
            && let Place::Timeline { position, .. } = row.place
        {
            self.sender.relay(&view, position, num, &self.own).await?;
        }
        Ok(())
    }
}
