//! Into and out of rooms by way of a server that is in them: joins, knocks, and leaving what one never
//! was in (server-server API, "Joining Rooms", "Knocking upon a room", "Leaving Rooms").

use std::{collections::HashSet, sync::Arc, time::Duration};

use resuni_dag::{Draft, Pdu, Reference, RoomRules, SUPPORTED, SigningKey, sign};
use resuni_rooms::{Omitted, OutOfBand, Received, RestrictedJoin, RoomError, Rooms};
use resuni_store::SharedClock;
use ruma::{
    OwnedServerName, RoomId, RoomVersionId, ServerName, UserId,
    api::federation::membership::{
        RawStrippedState, create_join_event::v2 as send_join, create_knock_event::v1 as send_knock,
        create_leave_event::v2 as send_leave, prepare_join_event::v1 as make_join,
        prepare_knock_event::v1 as make_knock, prepare_leave_event::v1 as make_leave,
    },
};
use serde_json::{Map, Value, value::RawValue};

use crate::{
    checks::Checker,
    client::{Client, Terms},
    error::FederationError,
    invites::{json_list, stripped_of},
    joining::Joining,
    keys::Needed,
    lookup,
    resync::Resyncs,
    template::{self, Expected},
    unverified::Notes,
};

/// Servers that are tried for one join.
const MAX_SERVERS: usize = 10;
/// Events of a room's state, or of its auth chain, that are accepted.
const MAX_STATE: usize = 200_000;
/// Servers of one room.
const MAX_IN_ROOM: usize = 100_000;
/// Time for a server to prepare an event.
const MAKE_TERMS: Terms = Terms::ASKED
    .within(Duration::from_secs(20))
    .up_to(256 << 10);
const LEAVE_TERMS: Terms = Terms::ASKED
    .within(Duration::from_secs(10))
    .up_to(256 << 10);

/// Whom and what a handshake is about.
#[derive(Clone, Debug)]
pub struct Handshake<'a> {
    /// The room.
    pub room: &'a RoomId,
    /// Our user.
    pub user: &'a UserId,
    /// Servers to try, in this order.
    pub via: &'a [OwnedServerName],
    /// What the user wants in the content of the event: display name, avatar, reason.
    pub content: Map<String, Value>,
}

/// How a join ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// The user is in the room.
    Yes,
    /// Another of our users came into the room meanwhile: this join is a local one now.
    ServerIsIn,
}

/// What a server says that left out the members: "`servers_in_room` […] Required if `members_omitted` is true".
fn omitted(server: &ServerName, servers: Option<Vec<String>>) -> Result<Omitted, String> {
    let servers =
        servers.ok_or("it left out the members and does not say which servers there are")?;
    if servers.len() > MAX_IN_ROOM {
        return Err("it names too many servers".to_owned());
    }
    let mut servers: Vec<OwnedServerName> = servers
        .into_iter()
        .filter_map(|name| OwnedServerName::try_from(name).ok())
        .collect();
    // It is in the room whether or not it says so: it let us in.
    servers.push(server.to_owned());
    Ok(Omitted {
        resident: server.to_owned(),
        servers,
    })
}

/// Makes handshakes.
pub struct Handshakes {
    own: OwnedServerName,
    key: Arc<SigningKey>,
    rooms: Arc<Rooms>,
    client: Arc<Client>,
    checker: Checker,
    clock: SharedClock,
    resyncs: Arc<Resyncs>,
    notes: Arc<Notes>,
    /// One join per room at a time.
    joining: Arc<Joining>,
}

impl Handshakes {
    /// Signs as `own` with `key`.
    #[must_use]
    pub fn new(
        own: OwnedServerName,
        key: Arc<SigningKey>,
        rooms: Arc<Rooms>,
        client: Arc<Client>,
        checker: Checker,
        (clock, resyncs, notes): (SharedClock, Arc<Resyncs>, Arc<Notes>),
        joining: Arc<Joining>,
    ) -> Self {
        Self {
            own,
            key,
            rooms,
            client,
            checker,
            clock,
            resyncs,
            notes,
            joining,
        }
    }

    /// Joins a room that this server is not in.
    ///
    /// # Errors
    /// That of the server whose word counts most: one that knows the room and forbids it before one that
    /// does not know it or is out of reach.
    pub async fn join(&self, handshake: Handshake<'_>) -> Result<Joined, FederationError> {
        let handshake = &handshake;
        let turn = self.joining.turn(handshake.room);
        let _turn = turn.lock().await;
        if let Some(view) = self.rooms.participating(handshake.room).await? {
            // Who asks us although we are in the room can only mean a restricted one, in which another
            // server has to vouch for the user.
            match self.rooms.restricted_join(&view, handshake.user).await? {
                RestrictedJoin::NobodyMayInvite | RestrictedJoin::Unknown => {}
                _ => return Ok(Joined::ServerIsIn),
            }
        }
        self.each_server(handshake, |server| async move {
            self.join_by(&server, handshake).await
        })
        .await?;
        Ok(Joined::Yes)
    }

    /// Knocks on a room that this server is not in.
    ///
    /// # Errors
    /// As [`Handshakes::join`].
    pub async fn knock(&self, handshake: Handshake<'_>) -> Result<(), FederationError> {
        let handshake = &handshake;
        self.each_server(handshake, |server| async move {
            self.knock_by(&server, handshake).await
        })
        .await
    }

    /// Declines an invite or takes a knock back. When no server helps, it is done here alone, so that
    /// nobody is stuck with an invite of a server that is gone.
    ///
    /// # Errors
    /// When it can't be written.
    pub async fn leave(&self, handshake: Handshake<'_>) -> Result<(), FederationError> {
        let handshake = &handshake;
        let told = self
            .each_server(handshake, |server| async move {
                self.leave_by(&server, handshake).await
            })
            .await;
        let (version, event) = match told {
            Ok(told) => told,
            Err(error) => {
                tracing::info!(room = %handshake.room, %error, "left without the help of another server");
                self.leave_alone(handshake).await?
            }
        };
        let leave = OutOfBand {
            user: handshake.user,
            room: handshake.room,
            version: &version,
            stripped: None,
            event,
        };
        Ok(self.rooms.record_remote_leave(leave).await?)
    }

    /// The event that ends an invite or a knock here when no server takes it: it follows the one it ends,
    /// and no other server ever sees it.
    async fn leave_alone(
        &self,
        handshake: &Handshake<'_>,
    ) -> Result<(RoomVersionId, Pdu), FederationError> {
        let unknown = || {
            let message = format!("{} is not invited to {}", handshake.user, handshake.room);
            FederationError::NotFound(message)
        };
        let rules = lookup::rules_of(&self.rooms, handshake.room)
            .await?
            .ok_or_else(unknown)?;
        let pending = lookup::pending(&self.rooms, handshake.user, handshake.room, rules).await?;
        let before = pending
            .and_then(|pending| pending.event)
            .ok_or_else(unknown)?;
        let mut content = handshake.content.clone();
        content.insert("membership".to_owned(), "leave".into());
        let content = serde_json::value::to_raw_value(&content)
            .map_err(|e| FederationError::bad_json(e.to_string()))?;
        let before_it = Reference::to(&before, rules).map_err(RoomError::from)?;
        let draft = Draft {
            room_id: Some(handshake.room.to_owned()),
            sender: handshake.user.to_owned(),
            kind: "m.room.member".to_owned(),
            state_key: Some(handshake.user.to_string()),
            content,
            redacts: None,
            prev_events: vec![before_it.clone()],
            auth_events: vec![before_it],
            depth: before.depth().saturating_add(1),
            origin_server_ts: self.clock.now_ms(),
            sticky_ms: None,
        };
        let event = sign(draft, rules, &self.own, &self.key).map_err(RoomError::from)?;
        Ok((rules.version.clone(), event))
    }

    /// Tries one server after the other.
    async fn each_server<T, A>(
        &self,
        handshake: &Handshake<'_>,
        attempt: impl Fn(OwnedServerName) -> A,
    ) -> Result<T, FederationError>
    where
        A: Future<Output = Result<T, FederationError>>,
    {
        let mut tried = HashSet::new();
        let mut refusal: Option<FederationError> = None;
        let servers = handshake.via.iter().filter(|server| **server != self.own);
        for server in servers
            .filter(|server| tried.insert((*server).clone()))
            .take(MAX_SERVERS)
        {
            match attempt(server.clone()).await {
                Ok(done) => return Ok(done),
                Err(error) => {
                    tracing::info!(%server, room = %handshake.room, %error, "a handshake failed");
                    let heavier = refusal
                        .as_ref()
                        .is_none_or(|old| weight(&error) > weight(old));
                    if heavier {
                        refusal = Some(error);
                    }
                }
            }
        }
        Err(refusal.unwrap_or_else(|| {
            let message = format!("no server is known that is in the room {}", handshake.room);
            FederationError::NotFound(message)
        }))
    }

    async fn join_by(
        &self,
        server: &ServerName,
        handshake: &Handshake<'_>,
    ) -> Result<(), FederationError> {
        let mut request =
            make_join::Request::new(handshake.room.to_owned(), handshake.user.to_owned());
        request.ver = supported();
        let made = self.client.send(server, request, MAKE_TERMS).await?;
        let version = made.room_version.unwrap_or(RoomVersionId::V1);
        let rules = rules_of(&version)?;
        let join = self.sign(server, handshake, "join", &made.event, rules)?;
        let mut request = send_join::Request::new(
            handshake.room.to_owned(),
            join.event_id().to_owned(),
            raw(&join)?,
        );
        // MSC3706. A room whose state we have needs no other.
        let inside = self.rooms.participating(handshake.room).await?;
        request.omit_members = inside.is_none_or(|view| view.is_partial());
        let omit_members = request.omit_members;
        let answer = self
            .client
            .send(server, request, Terms::STATE)
            .await?
            .room_state;
        if answer.state.len() > MAX_STATE || answer.auth_chain.len() > MAX_STATE {
            return Err(FederationError::bad_answer(
                server,
                "the room's state is too large",
            ));
        }
        let bad = |reason: &str| FederationError::bad_answer(server, reason);
        let omitted = match answer.members_omitted {
            false => None,
            true if !omit_members => {
                return Err(bad("it left out the members, which it was not asked to"));
            }
            true => Some(omitted(server, answer.servers_in_room).map_err(|reason| bad(&reason))?),
        };
        let join = self
            .countersigned(server, join, answer.event, rules)
            .await?;
        if self.rooms.participating(handshake.room).await?.is_some() {
            return match self.rooms.receive(handshake.room, join).await? {
                Received::Rejected { reason } => Err(FederationError::Forbidden(reason)),
                _ => Ok(()),
            };
        }
        let mut lacking = Vec::new();
        let state = self.checked(handshake.room, rules, answer.state, &mut lacking);
        let state = state.await;
        let auth_chain = self.checked(handshake.room, rules, answer.auth_chain, &mut lacking);
        let auth_chain = auth_chain.await;
        check_state(&state, &version).map_err(|reason| bad(&reason))?;
        let is_partial = omitted.is_some();
        let at = join.event_id().to_owned();
        self.rooms
            .adopt(join, &version, state, auth_chain, omitted)
            .await?;
        self.notes.note(handshake.room, &at, lacking).await;
        if is_partial {
            self.resyncs.start(handshake.room);
        }
        Ok(())
    }

    /// The join as the resident server gave it back, with its signature where the room is restricted.
    async fn countersigned(
        &self,
        server: &ServerName,
        join: Pdu,
        returned: Option<Box<RawValue>>,
        rules: &'static RoomRules,
    ) -> Result<Pdu, FederationError> {
        // Our own event passes the checks unless the signature of who authorises it is required.
        let candidates = returned.into_iter().chain([raw(&join)?]).collect();
        let checked = self.checker.check(join.room_id(), rules, candidates).await;
        checked
            .into_iter()
            .flatten()
            .find(|pdu| pdu.event_id() == join.event_id())
            .ok_or_else(|| FederationError::bad_answer(server, "it did not sign the join"))
    }

    async fn knock_by(
        &self,
        server: &ServerName,
        handshake: &Handshake<'_>,
    ) -> Result<(), FederationError> {
        let mut request =
            make_knock::Request::new(handshake.room.to_owned(), handshake.user.to_owned());
        request.ver = supported();
        let made = self.client.send(server, request, MAKE_TERMS).await?;
        let version = made.room_version;
        let rules = rules_of(&version)?;
        let knock = self.sign(server, handshake, "knock", &made.event, rules)?;
        let request = send_knock::Request::new(
            handshake.room.to_owned(),
            knock.event_id().to_owned(),
            raw(&knock)?,
        );
        let answer = self
            .client
            .send(server, request, MAKE_TERMS.up_to(2 << 20))
            .await?;
        let state = self
            .stripped(handshake.room, rules, answer.knock_room_state)
            .await;
        let knock = OutOfBand {
            user: handshake.user,
            room: handshake.room,
            version: &version,
            stripped: Some(json_list(&state)),
            event: knock,
        };
        Ok(self.rooms.record_knock(knock).await?)
    }

    async fn leave_by(
        &self,
        server: &ServerName,
        handshake: &Handshake<'_>,
    ) -> Result<(RoomVersionId, Pdu), FederationError> {
        let request =
            make_leave::Request::new(handshake.room.to_owned(), handshake.user.to_owned());
        let made = self.client.send(server, request, LEAVE_TERMS).await?;
        let version = made.room_version.unwrap_or(RoomVersionId::V1);
        let rules = rules_of(&version)?;
        let leave = self.sign(server, handshake, "leave", &made.event, rules)?;
        let request = send_leave::Request::new(
            handshake.room.to_owned(),
            leave.event_id().to_owned(),
            raw(&leave)?,
        );
        self.client.send(server, request, LEAVE_TERMS).await?;
        Ok((version, leave))
    }

    fn sign(
        &self,
        server: &ServerName,
        handshake: &Handshake<'_>,
        membership: &str,
        made: &RawValue,
        rules: &RoomRules,
    ) -> Result<Pdu, FederationError> {
        let expected = Expected {
            room: handshake.room,
            user: handshake.user,
            membership,
            server,
        };
        let content = handshake.content.clone();
        let draft = template::draft(made, expected, rules, content, self.clock.now_ms())
            .map_err(|reason| FederationError::bad_answer(server, reason))?;
        sign(draft, rules, &self.own, &self.key).map_err(|e| FederationError::bad_answer(server, e))
    }

    async fn checked(
        &self,
        room: &RoomId,
        rules: &'static RoomRules,
        raws: Vec<Box<RawValue>>,
        lacking: &mut Vec<Needed>,
    ) -> Vec<Pdu> {
        let checked = self.checker.check(room, rules, raws).await;
        checked
            .into_iter()
            .filter_map(|event| match event {
                Ok(pdu) => Some(pdu),
                Err(dropped) => {
                    tracing::info!(%room, event = ?dropped.event_id, reason = dropped.reason, "an event of the room's state was dropped");
                    lacking.extend(dropped.needs);
                    None
                }
            })
            .collect()
    }

    async fn stripped(
        &self,
        room: &RoomId,
        rules: &'static RoomRules,
        state: Vec<RawStrippedState>,
    ) -> Vec<String> {
        stripped_of(&self.checker, room, rules, state).await.1
    }
}

/// The versions that a room may have for us to enter it.
fn supported() -> Vec<RoomVersionId> {
    SUPPORTED
        .iter()
        .filter_map(|version| RoomVersionId::try_from(*version).ok())
        .collect()
}

fn rules_of(version: &RoomVersionId) -> Result<&'static RoomRules, FederationError> {
    RoomRules::of(version).ok_or_else(|| FederationError::IncompatibleRoomVersion(version.clone()))
}

pub(crate) fn raw(pdu: &Pdu) -> Result<Box<RawValue>, FederationError> {
    RawValue::from_string(pdu.json().to_owned())
        .map_err(|e| FederationError::Internal(e.to_string()))
}

/// A state is a map, begins with the room's create event, and is of the version that was promised.
fn check_state(state: &[Pdu], version: &RoomVersionId) -> Result<(), String> {
    let mut keys = HashSet::new();
    for event in state {
        let Some(state_key) = event.state_key() else {
            return Err(format!(
                "{} is in the state and is no state event",
                event.event_id()
            ));
        };
        if !keys.insert((event.kind(), state_key)) {
            return Err(format!("the state holds {} twice", event.kind()));
        }
    }
    #[derive(serde::Deserialize)]
    struct Create {
        room_version: Option<RoomVersionId>,
    }
    let create = state.iter().find(|event| event.is("m.room.create", ""));
    let create = create.ok_or("the state has no create event")?;
    let create: Create = create.content_as().map_err(|e| e.to_string())?;
    if create.room_version.unwrap_or(RoomVersionId::V1) == *version {
        Ok(())
    } else {
        Err(format!("the room is not of version {version}, as was said"))
    }
}

/// Which of several refusals is passed on.
fn weight(error: &FederationError) -> u8 {
    match error {
        FederationError::Remote(remote) => {
            match (remote.status.as_u16(), remote.errcode.as_deref()) {
                (_, Some("M_INCOMPATIBLE_ROOM_VERSION")) => 6,
                (403, _) => 5,
                (_, Some("M_UNABLE_TO_AUTHORISE_JOIN" | "M_UNABLE_TO_GRANT_JOIN")) => 4,
                (404, _) => 2,
                (status, _) if status >= 500 => 1,
                _ => 3,
            }
        }
        FederationError::IncompatibleRoomVersion(_) => 6,
        FederationError::Unreachable { .. } | FederationError::BackedOff { .. } => 0,
        _ => 1,
    }
}
