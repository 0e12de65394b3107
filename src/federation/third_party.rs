//! Invites of people of whom only an address is known (server-server API, "Third-party invites"): what happens when an
//! identity server has found out whose it is.

use std::sync::Arc;

use resuni_accounts::Accounts;
use resuni_dag::{SigningKey, VerifyKey, sign_object, verify_json};
use resuni_rooms::{NewEvent, Received, RoomError, RoomView, Rooms, tables::Place};
use ruma::{
    CanonicalJsonObject, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId,
    api::federation::thirdparty::{bind_callback::v1 as bound, exchange_invite::v1 as exchange},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    acl,
    client::{Client, Terms},
    error::FederationError,
    identity::{Address, IdentityServer, IdentityServers, PromisedKey},
    invites::Invites,
    net::WebClient,
    sender::Sender,
};

/// Invites in one call of an identity server. It may be anybody.
const MAX_INVITES: usize = 100;
/// Keys of one invite that are looked at.
const MAX_KEYS: usize = 20;
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
    identity: IdentityServers,
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
    /// The way to identity servers.
    pub web: Arc<WebClient>,
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
            web,
        } = parts;
        Self {
            own,
            key,
            rooms,
            accounts,
            client,
            invites,
            sender,
            identity: IdentityServers::new(web),
        }
    }

    /// Invites somebody of whom our user knows an address only (client-server API, "Third-party invites"). The user whose
    /// it is, if the identity server knows: then they are to be invited as anybody. Otherwise the identity server keeps
    /// the invite and the room is told what it will sign with.
    ///
    /// # Errors
    /// When our user may not invite people to the room, or the identity server refuses.
    pub async fn invite(
        &self,
        room: &RoomId,
        sender: &UserId,
        server: &IdentityServer,
        address: &Address,
    ) -> Result<Option<OwnedUserId>, FederationError> {
        let view = self.rooms.view_for(room, sender).await?;
        let levels = view.power_levels().await?;
        if !levels.user(sender).reaches(levels.invite()) {
            let message = "you may not invite people to this room".to_owned();
            return Err(FederationError::Forbidden(message));
        }
        let known = self.identity.look_up(server, address).await;
        if let Some(user) = known.map_err(|error| refused(server, error))? {
            return Ok(Some(user));
        }
        let invite = self.to_store(&view, sender, address).await?;
        let stored = self.identity.store(server, invite).await;
        let stored = stored.map_err(|error| refused(server, error))?;
        let first = stored.public_keys.first();
        let content = json!({
            "display_name": stored.display_name,
            "public_key": first.map(|key| &key.public_key),
            "key_validity_url": first.map(|key| &key.key_validity_url),
            "public_keys": stored.public_keys,
        });
        let content = serde_json::value::to_raw_value(&content)
            .map_err(|e| FederationError::Internal(e.to_string()))?;
        let event = NewEvent::state("m.room.third_party_invite", &*stored.token, content);
        self.rooms.send(room, sender, event, None).await?;
        Ok(None)
    }

    /// The body of `POST /store-invite`: "Optional fields in the request should be populated to the best of the server's
    /// ability."
    async fn to_store(
        &self,
        view: &RoomView,
        sender: &UserId,
        address: &Address,
    ) -> Result<Value, FederationError> {
        let mut invite = json!({
            "medium": address.medium, "address": address.address,
            "room_id": view.room_id(), "sender": sender,
        });
        for (name, kind, key, field) in [
            ("room_alias", "m.room.canonical_alias", "", "alias"),
            ("room_avatar_url", "m.room.avatar", "", "url"),
            ("room_join_rules", "m.room.join_rules", "", "join_rule"),
            ("room_name", "m.room.name", "", "name"),
            ("room_type", "m.room.create", "", "type"),
            (
                "sender_display_name",
                "m.room.member",
                sender.as_str(),
                "displayname",
            ),
            (
                "sender_avatar_url",
                "m.room.member",
                sender.as_str(),
                "avatar_url",
            ),
        ] {
            let event = view.state(kind, key).await?;
            let content: Option<Map<String, Value>> =
                event.and_then(|event| event.content_as().ok());
            if let Some(value @ Value::String(_)) = content.and_then(|mut all| all.remove(field)) {
                invite[name] = value;
            }
        }
        Ok(invite)
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
        self.still_promised(&promised, &signed).await?;
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

    /// The key that signed is one that the room was promised, and its server says that it still is good: only we, on whose
    /// side the invite was made, may refuse it for that.
    async fn still_promised(
        &self,
        promised: &Map<String, Value>,
        signed: &Value,
    ) -> Result<(), FederationError> {
        for key in promised_keys(promised) {
            if has_signed(&key, signed) && self.identity.is_valid(&key).await {
                return Ok(());
            }
        }
        let message = "no key that the room was promised, and that still is good, has signed this";
        Err(FederationError::Forbidden(message.to_owned()))
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

/// The keys in the content of an `m.room.third_party_invite`: in its list, and the one beside that.
fn promised_keys(promised: &Map<String, Value>) -> Vec<PromisedKey> {
    let listed = promised.get("public_keys").and_then(Value::as_array);
    let listed = listed.into_iter().flatten().cloned();
    let keys = listed.chain([Value::Object(promised.clone())]);
    keys.filter_map(|key| serde_json::from_value(key).ok())
        .take(MAX_KEYS)
        .collect()
}

fn has_signed(key: &PromisedKey, signed: &Value) -> bool {
    let Ok(object) = serde_json::from_value::<CanonicalJsonObject>(signed.clone()) else {
        return false;
    };
    let servers = signed["signatures"].as_object().into_iter().flatten();
    for (server, signatures) in servers {
        let Ok(server) = OwnedServerName::try_from(server.as_str()) else {
            continue;
        };
        for id in signatures.as_object().into_iter().flat_map(Map::keys) {
            let Some(key) = VerifyKey::from_base64(&key.public_key, u64::MAX) else {
                return false;
            };
            let keys = [(server.clone(), [(id.clone(), key)].into())].into();
            if verify_json(&object, &server, &keys, None).is_ok() {
                return true;
            }
        }
    }
    false
}

/// What an identity server refuses is refused to our user; that a token is not known *there* must not sound as if theirs
/// were not known *here*.
fn refused(server: &IdentityServer, error: FederationError) -> FederationError {
    match error {
        FederationError::Remote(remote) => {
            let (name, reason) = (&server.name, remote.error);
            FederationError::Forbidden(format!("the identity server {name} refuses: {reason}"))
        }
        other => other,
    }
}
