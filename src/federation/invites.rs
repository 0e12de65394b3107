//! Invites between servers, both ways, and those that are taken back (server-server API, "Inviting to
//! a room").

use std::sync::Arc;

use resuni_accounts::{Accounts, InviteVerdict};
use resuni_dag::{Pdu, RoomRules, SigningKey, cosign, sign_object};
use resuni_rooms::{
    Membership, NewEvent, OutOfBand, Received, RoomError, RoomView, Rooms, client_format,
    membership_of,
};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, RoomVersionId, ServerName,
    UserId,
    api::federation::membership::{RawStrippedState, create_invite::v2 as invite},
};
use serde_json::{Map, Value, value::RawValue};

use crate::{
    acl,
    admission::Admission,
    checks::Checker,
    client::{Client, Terms},
    error::FederationError,
    handshake::raw,
    lookup,
};

/// Events of a stripped state that are looked at.
const MAX_STRIPPED: usize = 100;
const TERMS: Terms = Terms::ASKED.up_to(256 << 10);

/// `PUT /v1/invite`: the event itself, with the stripped state in it. ruma's has only some of the event's fields.
mod invite_v1 {
    use resuni_dag::Pdu;
    use ruma::{
        OwnedEventId, OwnedRoomId, RoomId,
        api::{federation::authentication::ServerSignatures, metadata, request, response},
    };
    use serde::{Deserialize, Deserializer, Serialize};
    use serde_json::{Value, json, value::RawValue};

    metadata! {
        method: PUT,
        rate_limited: false,
        authentication: ServerSignatures,
        path: "/_matrix/federation/v1/invite/{room}/{event_id}",
    }

    #[request]
    pub struct Request {
        #[ruma_api(path)]
        pub room: OwnedRoomId,
        #[ruma_api(path)]
        pub event_id: OwnedEventId,
        #[ruma_api(body)]
        pub event: Value,
    }

    #[response]
    pub struct Response {
        #[ruma_api(body)]
        #[serde(with = "with_status")]
        pub event: Box<RawValue>,
    }

    #[derive(Deserialize, Serialize)]
    struct Signed {
        event: Box<RawValue>,
    }

    /// "`[200, { "event": … }]`".
    mod with_status {
        use serde::Serializer;

        use super::{Deserialize as _, Deserializer, RawValue, Serialize as _, Signed};

        pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Box<RawValue>, D::Error> {
            let (_, signed) = <(u16, Signed)>::deserialize(from)?;
            Ok(signed.event)
        }

        pub fn serialize<S: Serializer>(event: &RawValue, to: S) -> Result<S::Ok, S::Error> {
            let event = event.to_owned();
            (200, Signed { event }).serialize(to)
        }
    }

    pub fn request(
        room: &RoomId,
        event: &Pdu,
        stripped: impl Iterator<Item = String>,
    ) -> Result<Request, serde_json::Error> {
        let state = stripped.map(|event| serde_json::from_str::<Value>(&event));
        let state = state.collect::<Result<Vec<_>, _>>()?;
        let mut body: Value = serde_json::from_str(event.json())?;
        body["unsigned"] = json!({ "invite_room_state": state });
        Ok(Request {
            room: room.to_owned(),
            event_id: event.event_id().to_owned(),
            event: body,
        })
    }
}

/// Sends and takes invites.
pub struct Invites {
    own: OwnedServerName,
    key: Arc<SigningKey>,
    rooms: Arc<Rooms>,
    accounts: Arc<Accounts>,
    client: Arc<Client>,
    checker: Checker,
    admission: Arc<Admission>,
}

/// The parts of [`Invites`].
pub struct InvitesParts {
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
    /// Checks events.
    pub checker: Checker,
    /// Who may federate.
    pub admission: Arc<Admission>,
}

impl Invites {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: InvitesParts) -> Self {
        let InvitesParts {
            own,
            key,
            rooms,
            accounts,
            client,
            checker,
            admission,
        } = parts;
        Self {
            own,
            key,
            rooms,
            accounts,
            client,
            checker,
            admission,
        }
    }

    /// Invites a user of another server into a room that this server is in. The event is in the room
    /// only once the other server has signed it.
    ///
    /// # Errors
    /// When the rules forbid it or the other server refuses or does not answer.
    pub async fn send(
        &self,
        room: &RoomId,
        sender: &UserId,
        target: &UserId,
        mut content: Map<String, Value>,
    ) -> Result<OwnedEventId, FederationError> {
        let server = target.server_name();
        if !self.admission.allows(server) {
            return Err(FederationError::NotAdmitted(server.to_owned()));
        }
        content.insert("membership".to_owned(), "invite".into());
        let content = serde_json::value::to_raw_value(&content)
            .map_err(|e| FederationError::bad_json(e.to_string()))?;
        let event = NewEvent::state("m.room.member", target.as_str(), content);
        let (object, version) = self.rooms.template(room, sender, event).await?;
        let view = self.rooms.view_known(room).await?;
        let rules = view.rules();
        let event = sign_object(object, rules, &self.own, &self.key).map_err(RoomError::from)?;
        let event = self.rooms.signed_by_policy(&view, event).await?;
        let answer = self.offer(server, &view, &event, version).await?;
        let bad = |reason: String| FederationError::bad_answer(server, reason);
        let signed = Pdu::parse(answer.get(), rules).map_err(|e| bad(e.to_string()))?;
        // The same event: what the hash covers can't have changed, and signatures only been added.
        if signed.event_id() != event.event_id() {
            return Err(bad("it signed another event".to_owned()));
        }
        let event_id = event.event_id().to_owned();
        // Its signatures are checked, so that nobody can make the room carry broken ones.
        let checked = self
            .checker
            .check(room, rules, vec![answer, raw(&event)?])
            .await;
        let event = checked.into_iter().flatten().next().unwrap_or(event);
        match self.rooms.receive(room, event).await? {
            Received::Accepted { .. } | Received::Known => Ok(event_id),
            Received::Rejected { reason } => Err(FederationError::Forbidden(reason)),
            Received::SoftFailed => Err(FederationError::Forbidden(
                "the room changed meanwhile".to_owned(),
            )),
            Received::Missing { .. } => Err(FederationError::Internal(
                "an event of ours has lost its place".to_owned(),
            )),
        }
    }

    /// Offers an invite to the invited user's server. The event as it gives it back.
    async fn offer(
        &self,
        server: &ServerName,
        view: &RoomView,
        event: &Pdu,
        version: RoomVersionId,
    ) -> Result<Box<RawValue>, FederationError> {
        let state = view.stripped_state_pdus(Some(event.sender())).await?;
        let is_old = matches!(version, RoomVersionId::V1 | RoomVersionId::V2);
        let pdus = state.iter().map(|pdu| raw(pdu).map(RawStrippedState::Pdu));
        let request = invite::Request::new(
            view.room_id().to_owned(),
            event.event_id().to_owned(),
            version,
            raw(event)?,
            pdus.collect::<Result<_, _>>()?,
        );
        match self.client.send(server, request, TERMS).await {
            Ok(answer) => Ok(answer.event),
            // A server that does not know version 2 of this endpoint is asked by version 1, which has no room for the
            // room's version and so serves rooms of versions 1 and 2 only (`PUT /v1/invite`).
            Err(FederationError::Remote(refusal)) if is_old && refusal.is_unrecognized() => {
                let stripped = state
                    .iter()
                    .filter_map(|pdu| client_format::stripped(pdu.json()));
                let request = invite_v1::request(view.room_id(), event, stripped)
                    .map_err(|e| FederationError::Internal(e.to_string()))?;
                Ok(self.client.send(server, request, TERMS).await?.event)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes an invite of one of our users, signs it and gives it back (`PUT /v2/invite`).
    ///
    /// # Errors
    /// When the invite is malformed, not for a user of ours, or not from the server it says.
    pub async fn take(
        &self,
        origin: &ServerName,
        request: invite::Request,
    ) -> Result<invite::Response, FederationError> {
        let rules = RoomRules::of(&request.room_version).ok_or_else(|| {
            FederationError::IncompatibleRoomVersion(request.room_version.clone())
        })?;
        let event = self.checked_invite(origin, &request, rules).await?;
        let target = self.local_target(&event).await?;
        self.rooms
            .bans()
            .may_invite(event.sender(), &target, Some(&request.room_id))?;
        if let Some(account) = self.accounts.find_user(&target).await?
            && self.accounts.judge_invite(account, event.sender()).await? == InviteVerdict::Block
        {
            return Err(FederationError::InviteBlocked);
        }
        let view = self.rooms.view(&request.room_id).await?;
        if let Some(view) = &view {
            acl::require(view, origin).await?;
        }
        let (has_create, stripped) = stripped_of(
            &self.checker,
            &request.room_id,
            rules,
            request.invite_room_state,
        )
        .await;
        // MSC4311: a room of version 12 proves its id by its create event.
        if rules.room_id_is_create_hash() && !has_create {
            let message = "the create event is missing from invite_room_state".to_owned();
            return Err(FederationError::BadRequest {
                errcode: "M_MISSING_PARAM",
                message,
            });
        }
        let signed = cosign(&event, rules, &self.own, &self.key).map_err(RoomError::from)?;
        let in_room = match &view {
            Some(view) => !view.local_members(1).await?.is_empty(),
            None => false,
        };
        // In a room that we are in, the invite comes as any other event when its server sends it on.
        if !in_room {
            let invite = OutOfBand {
                user: &target,
                room: &request.room_id,
                version: &request.room_version,
                stripped: Some(json_list(&stripped)),
                event: signed.clone(),
            };
            self.rooms.record_invite(invite).await?;
        }
        Ok(invite::Response::new(raw(&signed)?))
    }

    async fn checked_invite(
        &self,
        origin: &ServerName,
        request: &invite::Request,
        rules: &'static RoomRules,
    ) -> Result<Pdu, FederationError> {
        let parsed = Pdu::parse(request.event.get(), rules)
            .map_err(|e| FederationError::bad_json(e.to_string()))?;
        if parsed.event_id() != request.event_id || parsed.room_id() != request.room_id {
            return Err(FederationError::invalid(
                "the event is not the one in the path",
            ));
        }
        if parsed.kind() != "m.room.member" || membership_of(&parsed) != Some(Membership::Invite) {
            return Err(FederationError::invalid("the event is not an invite"));
        }
        if parsed.sender().server_name() != origin {
            return Err(FederationError::Forbidden(
                "the inviter is not of your server".to_owned(),
            ));
        }
        let raws = vec![request.event.clone()];
        match self
            .checker
            .check(&request.room_id, rules, raws)
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

    async fn local_target(&self, event: &Pdu) -> Result<OwnedUserId, FederationError> {
        let target = event
            .state_key()
            .and_then(|key| UserId::parse(key).ok())
            .filter(|user| user.server_name() == self.own)
            .ok_or_else(|| FederationError::invalid("the invited user is not of this server"))?;
        // Only an active account has a profile.
        match self.accounts.profile(target.localpart()).await? {
            Some(_) => Ok(target),
            None => Err(FederationError::Forbidden(
                "there is no such user".to_owned(),
            )),
        }
    }

    /// Events of a room that we are not in: only the end of an invite or a knock means anything.
    pub async fn receive(
        &self,
        origin: &ServerName,
        room: &OwnedRoomId,
        raws: Vec<Box<RawValue>>,
    ) -> Vec<(OwnedEventId, Result<(), String>)> {
        let Ok(Some(rules)) = lookup::rules_of(&self.rooms, room).await else {
            tracing::debug!(%origin, %room, events = raws.len(), "events of a room that we are not in");
            return Vec::new();
        };
        let mut results = Vec::new();
        for checked in self.checker.check(room, rules, raws).await {
            match checked {
                Ok(pdu) => {
                    let id = pdu.event_id().to_owned();
                    results.push((id, self.end(pdu, rules).await.map_err(|e| e.to_string())));
                }
                Err(dropped) => {
                    results.extend(dropped.event_id.map(|id| (id, Err(dropped.reason))));
                }
            }
        }
        results
    }

    /// An invite is taken back, or a knock refused. Without the room's state nobody can say who may do
    /// that; who invited may, and for a knock anybody, since it changes nothing but what our user hoped for.
    async fn end(&self, pdu: Pdu, rules: &RoomRules) -> Result<(), FederationError> {
        let elsewhere = || FederationError::Forbidden("this server is not in the room".to_owned());
        if membership_of(&pdu) != Some(Membership::Leave) {
            return Err(elsewhere());
        }
        let target = self.local_target(&pdu).await.map_err(|_| elsewhere())?;
        let pending = lookup::pending(&self.rooms, &target, pdu.room_id(), rules).await?;
        let pending = pending.ok_or_else(elsewhere)?;
        let by_inviter = pending
            .event
            .is_some_and(|invite| invite.sender() == pdu.sender());
        match pending.membership {
            Membership::Invite if !by_inviter => Err(elsewhere()),
            Membership::Invite | Membership::Knock => {
                let room = pdu.room_id().to_owned();
                let leave = OutOfBand {
                    user: &target,
                    room: &room,
                    version: &rules.version,
                    stripped: None,
                    event: pdu,
                };
                Ok(self.rooms.record_remote_leave(leave).await?)
            }
            _ => Err(elsewhere()),
        }
    }
}

/// JSON objects as a JSON list.
pub(crate) fn json_list(objects: &[String]) -> String {
    format!("[{}]", objects.join(","))
}

/// What another server says about a room, as clients are shown it: whether a valid create event is in
/// it, and the events pruned to the stripped schema.
///
/// Entries that are whole events are checked as such ("Entries which are improperly signed or formatted
/// SHOULD be removed"); older servers send stripped ones, which only pass where the room's version does not
/// hang its id on the create event.
pub(crate) async fn stripped_of(
    checker: &Checker,
    room: &RoomId,
    rules: &'static RoomRules,
    state: Vec<RawStrippedState>,
) -> (bool, Vec<String>) {
    let (mut whole, mut stripped) = (Vec::new(), Vec::new());
    for event in state.into_iter().take(MAX_STRIPPED) {
        match event {
            RawStrippedState::Pdu(pdu) => whole.push(pdu),
            other => {
                let text = serde_json::to_string(&other).unwrap_or_default();
                if !rules.room_id_is_create_hash() {
                    stripped.extend(client_format::stripped(&text));
                }
            }
        }
    }
    let mut has_create = false;
    for checked in checker.check(room, rules, whole).await {
        match checked {
            Ok(pdu) if pdu.is_state() => {
                has_create |= pdu.is("m.room.create", "");
                stripped.extend(client_format::stripped(pdu.json()));
            }
            Ok(_) => {}
            Err(dropped) => {
                tracing::debug!(%room, reason = dropped.reason, "an event of a stripped state was dropped");
            }
        }
    }
    (has_create, stripped)
}
