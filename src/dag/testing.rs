//! Rooms for tests, in a small notation.
//!
//! A line is an event: who, what, and what about it. People are `alice` (`@alice:one`) or
//! `bob@two` (`@bob:two`).
//!
//! ```text
//! alice creates {"m.federate": false}
//! alice joins            (leaves, knocks; with JSON: more content)
//! alice invites bob@two  (kicks, bans, unbans)
//! alice rules public     (the join rule)
//! alice power {"users": {…}}
//! alice sends m.room.message {"body": "hi"}
//! alice sets m.room.topic / {"topic": "…"}     (the state key between the type and the content)
//! ```

use std::collections::{BTreeMap, HashMap};

use ruma::{EventId, OwnedEventId, RoomVersionId, server_name};
use serde_json::{Value, json};

use crate::{
    AuthError, Draft, Pdu, Reference, RoomRules, SigningKey, StateKey, auth_types,
    check_auth_events, check_state, sign,
};

pub(crate) type State = BTreeMap<StateKey, OwnedEventId>;

pub(crate) fn rules(version: &str) -> &'static RoomRules {
    RoomRules::of(&RoomVersionId::try_from(version).unwrap()).unwrap()
}

pub(crate) fn key() -> SigningKey {
    SigningKey::generate("1", [7; 32]).unwrap()
}

/// `bob@two` → `@bob:two`, `alice` → `@alice:one`.
pub(crate) fn user(name: &str) -> String {
    match name.split_once('@') {
        Some((name, server)) => format!("@{name}:{server}"),
        None => format!("@{name}:one"),
    }
}

/// All events of a room that were ever made, whichever branch they are on.
pub(crate) struct Room {
    pub rules: &'static RoomRules,
    pub events: HashMap<OwnedEventId, Pdu>,
    pub clock: u64,
}

/// A line of history: its last event and the state after it.
#[derive(Clone, Default)]
pub(crate) struct Branch {
    pub state: State,
    pub heads: Vec<OwnedEventId>,
    pub depth: u64,
}

/// What a line of the notation says.
struct Said {
    sender: String,
    kind: String,
    state_key: Option<String>,
    content: Value,
}

impl Room {
    pub fn new(version: &str) -> Self {
        Self {
            rules: rules(version),
            events: HashMap::new(),
            clock: 1_000_000,
        }
    }

    /// A room with one branch, in which all of these lines must be allowed.
    pub fn with(version: &str, lines: &[&str]) -> (Self, Branch) {
        let mut room = Self::new(version);
        let mut branch = Branch::default();
        for line in lines {
            room.say(&mut branch, line)
                .unwrap_or_else(|e| panic!("`{line}` is refused: {e}"));
        }
        (room, branch)
    }

    /// Makes the event at the end of the branch and, if the rules allow it, adds it.
    pub fn say(&mut self, branch: &mut Branch, line: &str) -> Result<Pdu, AuthError> {
        let pdu = self.make(branch, line);
        self.check(branch, &pdu)?;
        self.append(branch, &pdu);
        Ok(pdu)
    }

    /// Makes the event, allowed or not.
    pub fn make(&mut self, branch: &Branch, line: &str) -> Pdu {
        let mut said = parse(line);
        if said.kind == "m.room.create" {
            let version = || self.rules.version.as_str().into();
            said.content
                .as_object_mut()
                .unwrap()
                .entry("room_version")
                .or_insert_with(version);
        }
        let content = serde_json::value::to_raw_value(&said.content).unwrap();
        let sender = said.sender.as_str().try_into().unwrap();
        let create = said.kind == "m.room.create";
        let wanted = auth_types(
            &said.kind,
            sender,
            said.state_key.as_deref(),
            &content,
            self.rules,
        )
        .unwrap_or_default();
        self.clock += 1;
        let room_id = match self.create_of(branch) {
            Some(create) => Some(create.room_id().to_owned()),
            _ if self.rules.room_id_is_create_hash() => None,
            _ => Some("!room:one".try_into().unwrap()),
        };
        let draft = Draft {
            room_id: room_id.filter(|_| !(create && self.rules.room_id_is_create_hash())),
            sender: sender.to_owned(),
            kind: said.kind,
            state_key: said.state_key,
            content,
            redacts: None,
            prev_events: branch.heads.iter().map(|id| self.to(id)).collect(),
            auth_events: wanted
                .iter()
                .filter_map(|key| branch.state.get(key))
                .map(|id| self.to(id))
                .collect(),
            depth: branch.depth + 1,
            origin_server_ts: self.clock,
            sticky_ms: None,
        };
        sign(draft, self.rules, server_name!("one"), &key()).unwrap()
    }

    fn to(&self, id: &EventId) -> Reference {
        Reference::to(&self.events[id], self.rules).unwrap()
    }

    pub fn check(&self, branch: &Branch, pdu: &Pdu) -> Result<(), AuthError> {
        check_auth_events(pdu, self.rules, |id| self.events.get(id).cloned())?;
        check_state(pdu, self.rules, |kind, key| {
            self.find(&branch.state, kind, key)
        })
    }

    pub fn append(&mut self, branch: &mut Branch, pdu: &Pdu) {
        self.events.insert(pdu.event_id().to_owned(), pdu.clone());
        branch.heads = vec![pdu.event_id().to_owned()];
        branch.depth += 1;
        if let Some(key) = pdu.state_key() {
            let key = (pdu.kind().to_owned(), key.to_owned());
            branch.state.insert(key, pdu.event_id().to_owned());
        }
    }

    pub fn find(&self, state: &State, kind: &str, key: &str) -> Option<Pdu> {
        self.get(state.get(&(kind.to_owned(), key.to_owned()))?)
    }

    pub fn get(&self, id: &EventId) -> Option<Pdu> {
        self.events.get(id).cloned()
    }

    pub fn create_of(&self, branch: &Branch) -> Option<Pdu> {
        self.find(&branch.state, "m.room.create", "")
    }
}

fn parse(line: &str) -> Said {
    let (words, content) = match line.find('{') {
        Some(at) => (&line[..at], serde_json::from_str(&line[at..]).unwrap()),
        None => (line, json!({})),
    };
    let mut words = words.split_whitespace();
    let sender = user(words.next().unwrap());
    let verb = words.next().unwrap();
    let object = words.next();
    let with = |mut content: Value, key: &str, value: &str| {
        content
            .as_object_mut()
            .unwrap()
            .entry(key)
            .or_insert_with(|| value.into());
        content
    };
    let said = |kind: &str, state_key: Option<String>, content: Value| Said {
        sender: sender.clone(),
        kind: kind.to_owned(),
        state_key,
        content,
    };
    let member = |whom: String, membership: &str| {
        said(
            "m.room.member",
            Some(whom),
            with(content.clone(), "membership", membership),
        )
    };
    let whom = || user(object.unwrap());
    match verb {
        "creates" => said(
            "m.room.create",
            Some(String::new()),
            with(content.clone(), "creator", &sender),
        ),
        "joins" => member(sender.clone(), "join"),
        "leaves" => member(sender.clone(), "leave"),
        "knocks" => member(sender.clone(), "knock"),
        "invites" => member(whom(), "invite"),
        "kicks" | "unbans" => member(whom(), "leave"),
        "bans" => member(whom(), "ban"),
        "rules" => said(
            "m.room.join_rules",
            Some(String::new()),
            with(content.clone(), "join_rule", object.unwrap()),
        ),
        "power" => said("m.room.power_levels", Some(String::new()), content.clone()),
        "sends" => said(object.unwrap(), None, content.clone()),
        "sets" => {
            let key = words.next().unwrap().trim_start_matches('/');
            said(object.unwrap(), Some(key.to_owned()), content.clone())
        }
        other => panic!("what does `{other}` mean?"),
    }
}
