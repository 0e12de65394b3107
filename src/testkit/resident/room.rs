//! A room that was never lived in: its creator, and as many members as one likes.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use anyhow::{Context as _, bail};
use resuni_dag::{Draft, Pdu, Reference, RoomRules, auth_types, sign};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId};
use serde_json::{Value, json, value::RawValue};

use super::Identity;

/// The version of the room.
const VERSION: RoomVersionId = RoomVersionId::V12;
/// Events that an event follows at the most.
const MAX_PREV: usize = 10;
/// What is said before anybody else joins.
const MESSAGES: usize = 20;

/// What somebody of the made-up server does.
#[derive(Clone, Debug)]
pub struct Deed {
    /// The local part of who does it.
    pub who: String,
    /// The type of the event.
    pub kind: &'static str,
    /// The key of a piece of state.
    pub state_key: Option<String>,
    /// The content.
    pub content: Value,
}

impl Deed {
    /// The creator says something.
    pub fn say(text: &str) -> Self {
        Self {
            who: "creator".to_owned(),
            kind: "m.room.message",
            state_key: None,
            content: json!({ "msgtype": "m.text", "body": text }),
        }
    }

    /// The creator sets a piece of state.
    pub fn set(kind: &'static str, state_key: &str, content: Value) -> Self {
        Self {
            who: "creator".to_owned(),
            kind,
            state_key: Some(state_key.to_owned()),
            content,
        }
    }
}

/// The room as its server knows it. Its state is that after all events, in the order in which they were made or heard.
pub struct MadeUpRoom {
    identity: Identity,
    rules: &'static RoomRules,
    id: Option<OwnedRoomId>,
    events: HashMap<OwnedEventId, Pdu>,
    state: HashMap<(String, String), OwnedEventId>,
    heads: BTreeSet<OwnedEventId>,
    depth: u64,
    clock: u64,
}

impl MadeUpRoom {
    /// A public room with a creator and so many more members.
    pub(super) fn new(identity: Identity, members: usize) -> anyhow::Result<Self> {
        let mut room = Self {
            identity,
            rules: RoomRules::of(&VERSION).context("an unknown room version")?,
            id: None,
            events: HashMap::new(),
            state: HashMap::new(),
            heads: BTreeSet::new(),
            depth: 0,
            clock: 1_700_000_000_000,
        };
        let create = json!({ "room_version": VERSION });
        room.follow(Deed::set("m.room.create", "", create))?;
        room.follow(room.joining("creator"))?;
        let levels = json!({ "users": {}, "state_default": 50 });
        room.follow(Deed::set("m.room.power_levels", "", levels))?;
        let rule = json!({ "join_rule": "public" });
        room.follow(Deed::set("m.room.join_rules", "", rule))?;
        let shared = json!({ "history_visibility": "shared" });
        room.follow(Deed::set("m.room.history_visibility", "", shared))?;
        room.follow(Deed::set("m.room.name", "", json!({ "name": "Everybody" })))?;
        for n in 0..members.saturating_sub(1) {
            room.follow(room.joining(&format!("member{n}")))?;
        }
        for n in 0..MESSAGES {
            room.follow(Deed::say(&format!("before {n}")))?;
        }
        Ok(room)
    }

    /// Somebody of this server joins.
    pub fn joining(&self, who: &str) -> Deed {
        Deed {
            who: who.to_owned(),
            kind: "m.room.member",
            state_key: Some(self.user(who)),
            content: json!({ "membership": "join", "displayname": who }),
        }
    }

    fn user(&self, who: &str) -> String {
        format!("@{who}:{}", self.identity.name)
    }

    pub(super) fn room_id(&self) -> &RoomId {
        // The first event that is made gives it.
        self.id.as_deref().unwrap_or(ruma::room_id!("!none"))
    }

    /// An event after all there is.
    pub(super) fn follow(&mut self, deed: Deed) -> anyhow::Result<String> {
        let pdu = self.sign(deed)?;
        self.lay(&pdu);
        Ok(pdu.json().to_owned())
    }

    /// Events each of which follows what there is now.
    pub(super) fn fork(&mut self, deeds: Vec<Deed>) -> anyhow::Result<Vec<String>> {
        let pdus: Vec<Pdu> = deeds
            .into_iter()
            .map(|deed| self.sign(deed))
            .collect::<anyhow::Result<_>>()?;
        for pdu in &pdus {
            self.lay(pdu);
        }
        Ok(pdus.iter().map(|pdu| pdu.json().to_owned()).collect())
    }

    fn lay(&mut self, pdu: &Pdu) {
        if let Some(state_key) = pdu.state_key() {
            let key = (pdu.kind().to_owned(), state_key.to_owned());
            self.state.insert(key, pdu.event_id().to_owned());
        }
        for prev in pdu.prev_events() {
            self.heads.remove(prev);
        }
        self.id.get_or_insert_with(|| pdu.room_id().to_owned());
        self.heads.insert(pdu.event_id().to_owned());
        self.depth = self.depth.max(pdu.depth());
        self.events.insert(pdu.event_id().to_owned(), pdu.clone());
    }

    fn sign(&mut self, deed: Deed) -> anyhow::Result<Pdu> {
        let sender = OwnedUserId::try_from(self.user(&deed.who))?;
        let content = serde_json::value::to_raw_value(&deed.content)?;
        let draft = self.draft(sender, deed.kind, deed.state_key, content)?;
        let Identity { name, key } = &self.identity;
        Ok(sign(draft, self.rules, name, key)?)
    }

    fn draft(
        &mut self,
        sender: OwnedUserId,
        kind: &str,
        state_key: Option<String>,
        content: Box<RawValue>,
    ) -> anyhow::Result<Draft> {
        let key = state_key.as_deref();
        let auth = auth_types(kind, &sender, key, &content, self.rules).unwrap_or_default();
        let auth = auth.iter().filter_map(|key| self.state.get(key));
        let prev = self.heads.iter().take(MAX_PREV);
        self.clock += 1;
        Ok(Draft {
            room_id: self.id.clone(),
            prev_events: prev.cloned().map(Reference::from).collect(),
            auth_events: auth.cloned().map(Reference::from).collect(),
            sender,
            kind: kind.to_owned(),
            state_key,
            content,
            redacts: None,
            depth: self.depth + 1,
            origin_server_ts: self.clock,
            sticky_ms: None,
        })
    }

    /// The answer to `make_join`.
    pub(super) fn join_template(&mut self, user: &str) -> anyhow::Result<String> {
        let content = RawValue::from_string(r#"{"membership":"join"}"#.to_owned())?;
        let draft = self.draft(
            user.try_into()?,
            "m.room.member",
            Some(user.to_owned()),
            content,
        )?;
        let event = serde_json::to_value(draft.to_object(self.rules)?)?;
        Ok(json!({ "room_version": VERSION, "event": event }).to_string())
    }

    /// The answer to `send_join`, with the state before it.
    pub(super) fn join(&mut self, event: &str, omit_members: bool) -> anyhow::Result<String> {
        let join = Pdu::parse(event, self.rules)?;
        if !join
            .prev_events()
            .iter()
            .all(|prev| self.events.contains_key(prev))
        {
            bail!("the join follows what nobody knows");
        }
        let kept = |pdu: &&Pdu| !omit_members || pdu.kind() != "m.room.member";
        let state: Vec<&Pdu> = self.state_events().filter(kept).collect();
        let chain = self.chain(state.iter().copied().chain([&join]));
        let answer = format!(
            r#"{{"event":{event},"members_omitted":{omit_members},"servers_in_room":["{}"],"state":[{}],"auth_chain":[{}]}}"#,
            self.identity.name,
            list(state),
            list(chain),
        );
        self.lay(&join);
        Ok(answer)
    }

    fn state_events(&self) -> impl Iterator<Item = &Pdu> {
        self.state.values().filter_map(|id| self.events.get(id))
    }

    /// All that the auth events of these lead to.
    fn chain<'a>(&'a self, from: impl Iterator<Item = &'a Pdu>) -> Vec<&'a Pdu> {
        let mut seen = HashSet::new();
        let mut chain = Vec::new();
        let mut waiting: Vec<&OwnedEventId> = from.flat_map(|pdu| pdu.auth_events()).collect();
        while let Some(id) = waiting.pop() {
            if seen.insert(id)
                && let Some(pdu) = self.events.get(id)
            {
                waiting.extend(pdu.auth_events());
                chain.push(pdu);
            }
        }
        chain
    }

    pub(super) fn state_ids(&self) -> String {
        let state = self.state_events().map(Pdu::event_id);
        let chain = self.chain(self.state_events());
        let chain = chain.iter().map(|pdu| pdu.event_id());
        json!({ "pdu_ids": state.collect::<Vec<_>>(), "auth_chain_ids": chain.collect::<Vec<_>>() })
            .to_string()
    }

    pub(super) fn state(&self) -> String {
        let chain = self.chain(self.state_events());
        let state = list(self.state_events());
        format!(r#"{{"pdus":[{state}],"auth_chain":[{}]}}"#, list(chain))
    }

    pub(super) fn auth_chain_answer(&self) -> String {
        format!(
            r#"{{"auth_chain":[{}]}}"#,
            list(self.chain(self.state_events()))
        )
    }

    pub(super) fn event(&self, id: &str) -> Option<String> {
        let pdu = self.events.get(&OwnedEventId::try_from(id).ok()?)?.json();
        let name = &self.identity.name;
        Some(format!(
            r#"{{"origin":"{name}","origin_server_ts":1,"pdus":[{pdu}]}}"#
        ))
    }

    /// What an event follows.
    pub(super) fn follows(&self, id: &str) -> Vec<&str> {
        let id = OwnedEventId::try_from(id).ok();
        let pdu = id.and_then(|id| self.events.get(&id));
        let prev = pdu.map(Pdu::prev_events).unwrap_or_default();
        prev.iter().map(|id| id.as_str()).collect()
    }

    /// These events and those before them up to `earliest`, as the field of an answer; oldest first for
    /// `get_missing_events`.
    pub(super) fn history(
        &self,
        latest: &[&str],
        earliest: &[&str],
        limit: usize,
        field: &str,
    ) -> String {
        let mut waiting: VecDeque<&str> = latest.iter().copied().collect();
        let mut seen: HashSet<&str> = earliest.iter().copied().collect();
        let mut found = Vec::new();
        while let Some(id) = waiting.pop_front() {
            let pdu = OwnedEventId::try_from(id)
                .ok()
                .and_then(|id| self.events.get(&id));
            if let Some(pdu) = pdu.filter(|_| found.len() < limit && seen.insert(id)) {
                waiting.extend(pdu.prev_events().iter().map(|id| id.as_str()));
                found.push(pdu);
            }
        }
        if field == "events" {
            found.reverse();
        }
        let name = &self.identity.name;
        format!(
            r#"{{"origin":"{name}","origin_server_ts":1,"{field}":[{}]}}"#,
            list(found)
        )
    }

    /// An event of another server. It is taken at its word.
    pub(super) fn hear(&mut self, json: &str) {
        if let Ok(pdu) = Pdu::parse(json, self.rules)
            && pdu.room_id() == self.room_id()
        {
            self.lay(&pdu);
        }
    }
}

fn list<'a>(pdus: impl IntoIterator<Item = &'a Pdu>) -> String {
    let texts: Vec<&str> = pdus.into_iter().map(Pdu::json).collect();
    texts.join(",")
}
