//! Events of our own users.

use std::collections::BTreeMap;

use resuni_dag::{Pdu, PowerLevels, ServerAcl, creators, state_owner};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, Int, OwnedEventId, OwnedRoomId, OwnedUserId,
    RoomId, UserId,
};

use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::{
    error::RoomError,
    events::{NewEvent, TxnKey},
    line::Line,
    policy::Policy,
    relations, relationships,
    rooms::Rooms,
    tables::TXNS,
    types::{EventHash, EventNum},
};

/// How often a batch that met another writer's is made anew. Lanes keep writers apart, so this is for writers that were
/// dropped half-way.
const ATTEMPTS: usize = 3;

/// Does something again that met another writer's batch. Nothing of the attempt was written.
pub(crate) async fn again<T, A>(attempt: impl Fn() -> A) -> Result<T, RoomError>
where
    A: Future<Output = Result<T, RoomError>>,
{
    for _ in 1..ATTEMPTS {
        match attempt().await {
            Err(RoomError::Contended) => {}
            done => return done,
        }
    }
    attempt().await
}

impl Rooms {
    /// Sends an event into a room we are in. A known transaction, and state that is so already, are answered with the event
    /// that is there.
    pub async fn send(
        &self,
        room: &RoomId,
        sender: &UserId,
        event: NewEvent,
        txn: Option<TxnKey>,
    ) -> Result<OwnedEventId, RoomError> {
        let event = checked(event)?;
        self.check_bans(room, sender, &event).await?;
        // To come and go is not to be there: bridges and invites do that for people too.
        if event.kind != "m.room.member" {
            self.presence().active(sender);
        }
        again(|| self.try_send(room, sender, event.clone(), txn.clone())).await
    }

    async fn try_send(
        &self,
        room: &RoomId,
        sender: &UserId,
        event: NewEvent,
        txn: Option<TxnKey>,
    ) -> Result<OwnedEventId, RoomError> {
        let room: OwnedRoomId = room.to_owned();
        let mut lane = self.lanes.enter(&room).await;
        let line = Line::open(self, &mut lane, &room).await?;
        let mut line = line
            .filter(|line| line.live.head.is_some())
            .ok_or(RoomError::UnknownRoom(room))?;
        check_request(&line, &event).await?;
        if let Some(done) = already(&line, sender, &event, txn.as_ref()).await? {
            lane.leave(line.live);
            self.settle().await?;
            return Ok(done);
        }
        relations::check(&line.work.reader, line.live.num, sender, &event).await?;
        relationships::check(self, &line.work.reader, line.live.num, &event).await?;
        check_redaction(&line, sender, &event).await?;
        if let Some(policy) = self.policy_for(&line, &event).await? {
            let (event, ..) = line.prepare(sender, event).await?;
            lane.leave(line.live);
            return self.send_asking(&policy, event, txn).await;
        }
        match line.say(sender, event, txn).await {
            Ok(id) => {
                line.finish(lane).await?.durable().await?;
                Ok(id)
            }
            Err(error) => Err(error),
        }
    }

    /// Sends an event once the room's policy server has signed it. It is asked outside the lane, so that a slow one
    /// holds up nobody else; whatever comes in meanwhile stands beside the event.
    async fn send_asking(
        &self,
        policy: &Policy,
        event: Pdu,
        txn: Option<TxnKey>,
    ) -> Result<OwnedEventId, RoomError> {
        let event = self.asked(policy, event).await?;
        again(|| self.send_asked(event.clone(), txn.clone())).await
    }

    async fn send_asked(&self, event: Pdu, txn: Option<TxnKey>) -> Result<OwnedEventId, RoomError> {
        let room = event.room_id().to_owned();
        let id = event.event_id().to_owned();
        let mut lane = self.lanes.enter(&room).await;
        let mut line = Line::open(self, &mut lane, &room)
            .await?
            .ok_or(RoomError::UnknownRoom(room))?;
        let redacted = event.redacts(line.work.rules);
        if let Some(txn) = &txn
            && let Some(done) =
                known_txn(&line, event.sender(), event.kind(), redacted, txn).await?
        {
            let done = line.work.reader.event_id(done).await?;
            lane.leave(line.live);
            self.settle().await?;
            return Ok(done);
        }
        line.say_prepared(event, txn).await?;
        line.finish(lane).await?.durable().await?;
        Ok(id)
    }
}

/// What the auth rules don't ask of an event, but we ask of our own.
pub(crate) fn checked(mut event: NewEvent) -> Result<NewEvent, RoomError> {
    if event.kind.is_empty() {
        return Err(RoomError::bad("M_INVALID_PARAM", "an event needs a type"));
    }
    if event.kind == "m.room.redaction" && event.redacts.is_none() {
        event.redacts = Some(redacts_in_content(&event)?);
    }
    Ok(event)
}

/// A redaction sent as any other event names its target in the content in every room version (client-server API,
/// `PUT /rooms/{roomId}/send/{eventType}/{txnId}`).
fn redacts_in_content(event: &NewEvent) -> Result<OwnedEventId, RoomError> {
    #[derive(serde::Deserialize)]
    struct Content {
        redacts: OwnedEventId,
    }
    serde_json::from_str(event.content.get())
        .map(|content: Content| content.redacts)
        .map_err(|_| {
            RoomError::bad(
                "M_BAD_JSON",
                "a redaction names the event it redacts in `redacts`",
            )
        })
}

/// What the auth rules would refuse whoever sends it: a mistake in the request and not a lack of power.
async fn check_request(line: &Line<'_>, event: &NewEvent) -> Result<(), RoomError> {
    state_owner(&event.kind, event.state_key.as_deref(), line.work.rules)
        .map_err(|error| RoomError::bad("M_BAD_JSON", error.0))?;
    check_acl(line, event)?;
    check_levels(line, event).await
}

/// Access control that would shut us out of our own room: nobody here could take it back.
fn check_acl(line: &Line<'_>, event: &NewEvent) -> Result<(), RoomError> {
    if event.kind != "m.room.server_acl" || event.state_key.as_deref() != Some("") {
        return Ok(());
    }
    let ours = line.work.rooms.server_name();
    if ServerAcl::read(&event.content).allows(ours) {
        return Ok(());
    }
    Err(RoomError::bad(
        "M_BAD_JSON",
        format!("this list would shut out {ours}, the server that you are on"),
    ))
}

/// Who may redact what: with the redact level anything, without it what one has sent oneself (client-server API,
/// "Redactions"). The auth rules do not ask, and servers let a redaction take effect when its sender is of the same server
/// as the target's (room version 3, "Handling redactions"): among our own users it is for us to say.
async fn check_redaction(
    line: &Line<'_>,
    sender: &UserId,
    event: &NewEvent,
) -> Result<(), RoomError> {
    let (Some(target), Some(head)) = (&event.redacts, line.live.head.as_ref()) else {
        return Ok(());
    };
    let reader = &line.work.reader;
    let num = reader.event_num_of(EventHash::of(target)).await?;
    let row = match num {
        Some(num) => Some(reader.event_row(num).await?),
        None => None,
    };
    if row.as_ref().is_some_and(|row| row.room != line.live.num) {
        return Err(RoomError::bad(
            "M_INVALID_PARAM",
            "this event is in another room",
        ));
    }
    let own = match &row {
        Some(row) => reader.user_num(sender).await? == Some(row.sender),
        None => false,
    };
    if own {
        return Ok(());
    }
    let create = reader.state_pdu(head.snap, "m.room.create", "").await?;
    let create = create.ok_or_else(|| RoomError::Inconsistent("no create event".into()))?;
    let levels = reader
        .state_pdu(head.snap, "m.room.power_levels", "")
        .await?;
    let levels = PowerLevels::read(&create, levels.as_ref(), line.work.rules)
        .map_err(|error| RoomError::Forbidden(error.to_string()))?;
    if levels.user(sender).reaches(levels.redact()) {
        return Ok(());
    }
    Err(match row {
        Some(_) => RoomError::Forbidden("you may redact only what you have sent yourself".into()),
        None => RoomError::NotFound(format!("there is no event {target} in this room")),
    })
}

/// Power levels are integers. Up to room version 9 the auth rules take strings of digits from those who sent such before;
/// nobody need send more of them.
fn check_numbers(content: &RawValue) -> Result<(), RoomError> {
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Levels {
        ban: Int,
        invite: Int,
        kick: Int,
        redact: Int,
        events_default: Int,
        state_default: Int,
        users_default: Int,
        events: BTreeMap<String, Int>,
        notifications: BTreeMap<String, Int>,
        users: BTreeMap<OwnedUserId, Int>,
    }
    serde_json::from_str::<Levels>(content.get())
        .map(|_| ())
        .map_err(|error| {
            RoomError::bad("M_BAD_JSON", format!("these are no power levels: {error}"))
        })
}

/// A creator whom power levels list, in a room whose creators stand above them (v12, MSC4289).
async fn check_levels(line: &Line<'_>, event: &NewEvent) -> Result<(), RoomError> {
    let levels = event.kind == "m.room.power_levels" && event.state_key.as_deref() == Some("");
    let Some(head) = line.live.head.as_ref().filter(|_| levels) else {
        return Ok(());
    };
    check_numbers(&event.content)?;
    if !line.work.rules.creators_are_privileged() {
        return Ok(());
    }
    #[derive(serde::Deserialize)]
    struct Content {
        #[serde(default)]
        users: BTreeMap<String, IgnoredAny>,
    }
    let Ok(content) = serde_json::from_str::<Content>(event.content.get()) else {
        return Ok(());
    };
    let reader = &line.work.reader;
    let Some(create) = reader.state_pdu(head.snap, "m.room.create", "").await? else {
        return Ok(());
    };
    let creators = creators(&create, line.work.rules).map_err(|e| RoomError::Inconsistent(e.0))?;
    match creators
        .iter()
        .find(|user| content.users.contains_key(user.as_str()))
    {
        Some(creator) => Err(RoomError::bad(
            "M_INVALID_PARAM",
            format!("{creator} is a creator of the room and can't be listed in its power levels"),
        )),
        None => Ok(()),
    }
}

/// The event that answers a request without sending anything.
async fn already(
    line: &Line<'_>,
    sender: &UserId,
    event: &NewEvent,
    txn: Option<&TxnKey>,
) -> Result<Option<OwnedEventId>, RoomError> {
    let reader = &line.work.reader;
    if let Some(txn) = txn
        && let Some(num) =
            known_txn(line, sender, &event.kind, event.redacts.as_deref(), txn).await?
    {
        return Ok(Some(reader.event_id(num).await?));
    }
    let (Some(state_key), Some(head)) = (&event.state_key, &line.live.head) else {
        return Ok(None);
    };
    if event.sticky_ms.is_some() {
        // The same again lasts longer.
        return Ok(None);
    }
    let Some(current) = reader.state_pdu(head.snap, &event.kind, state_key).await? else {
        return Ok(None);
    };
    let same = current.sender() == sender && same_content(&current, event);
    Ok(same.then(|| current.event_id().to_owned()))
}

/// The event of a transaction that was carried out. Another path is another transaction (client-server API, "Transaction
/// identifiers"), and in that of a redaction is what it redacts.
async fn known_txn(
    line: &Line<'_>,
    sender: &UserId,
    kind: &str,
    redacted: Option<&EventId>,
    txn: &TxnKey,
) -> Result<Option<EventNum>, RoomError> {
    let Some(user) = line.work.reader.user_num(sender).await? else {
        return Ok(None);
    };
    let key = (
        user,
        line.live.num,
        txn.device.clone(),
        kind.to_owned(),
        txn.txn.clone(),
    );
    let reader = &line.work.reader;
    let Some(done) = reader.snapshot.get(&TXNS, &key).await? else {
        return Ok(None);
    };
    if redacted.is_some() {
        let row = reader.event_row(done).await?;
        if reader.pdu_of(done, &row).await?.redacts(line.work.rules) != redacted {
            return Ok(None);
        }
    }
    Ok(Some(done))
}

fn same_content(current: &Pdu, event: &NewEvent) -> bool {
    let Ok(content) = serde_json::from_str::<CanonicalJsonObject>(event.content.get()) else {
        return false;
    };
    serde_json::from_str::<CanonicalJsonValue>(current.content().get())
        .is_ok_and(|c| c == CanonicalJsonValue::Object(content))
}
