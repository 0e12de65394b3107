//! A room as a list of events with the states around them, all of it worked out the long way.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use resuni_dag::{
    Conflict, Draft, Pdu, Reference, RoomRules, StateKey, auth_types, check_auth_events,
    check_state, limits, sign,
};
use resuni_rooms::Rooms;
use ruma::{
    EventId, OwnedEventId, RoomId, RoomVersionId, UserId,
    events::StateEventType,
    state_res::{StateMap, resolve as resolve_whole, utils::event_id_set::EventIdSet},
};
use serde_json::{Value, json};

use crate::{
    bytes::Bytes,
    peer::{key, me, peer},
};

/// A state by type and key.
pub type State = BTreeMap<StateKey, OwnedEventId>;

/// Versions with each way of state resolution, of event ids and of auth rules.
const VERSIONS: [&str; 8] = ["1", "2", "3", "6", "8", "10", "11", "12"];
/// Events that the bytes make.
const MAX_EVENTS: usize = 48;
/// Those who act: the creator, moderators to begin with, and others.
const PEOPLE: [&str; 6] = [
    "@alice:peer.test",
    "@bob:peer.test",
    "@carol:two.test",
    "@dave:three.test",
    "@erin:four.test",
    "@frank:peer.test",
];
const LEVELS: [i64; 5] = [0, 10, 50, 75, 100];

/// An event and what the rules say of it.
pub struct Node {
    /// The event.
    pub pdu: Pdu,
    /// The state before it.
    pub before: State,
    /// The state after it.
    pub after: State,
    /// Whether its auth events or the state before it forbid it.
    pub rejected: bool,
}

/// The room.
pub struct Model {
    rules: &'static RoomRules,
    /// In an order in which each follows what it builds on.
    pub nodes: Vec<Node>,
    numbers: HashMap<OwnedEventId, usize>,
    /// The number of the join by which our server comes in.
    join: usize,
}

/// What somebody does.
struct Deed {
    sender: &'static str,
    kind: &'static str,
    state_key: Option<String>,
    content: Value,
}

impl Model {
    /// The room that these bytes make.
    pub fn of(bytes: &mut Bytes<'_>) -> Self {
        let version = RoomVersionId::try_from(bytes.pick(&VERSIONS)).unwrap();
        let mut model = Self {
            rules: RoomRules::of(&version).unwrap(),
            nodes: Vec::new(),
            numbers: HashMap::new(),
            join: 0,
        };
        model.begin();
        while !bytes.is_empty() && model.nodes.len() < model.join + MAX_EVENTS {
            let parents = model.parents(bytes);
            let deed = model.deed(bytes);
            let (skew, stale) = (bytes.byte(), bytes.byte());
            model.add(&parents, deed, skew, stale);
        }
        let ends = model.ends();
        let words = message("@alice:peer.test");
        model.add(&ends, words, 0, 0);
        model
    }

    fn begin(&mut self) {
        let alice = PEOPLE[0];
        let mut create = json!({ "room_version": self.rules.version });
        if !self.rules.creator_is_sender() {
            create["creator"] = json!(alice);
        }
        self.follow(state(alice, "m.room.create", "", create));
        self.follow(member(alice, alice, "join"));
        self.follow(levels(
            alice,
            self.rules,
            &[(PEOPLE[1], 50), (PEOPLE[2], 50)],
            50,
        ));
        let rules = json!({ "join_rule": "public" });
        self.follow(state(alice, "m.room.join_rules", "", rules));
        for person in &PEOPLE[1..4] {
            self.follow(member(person, person, "join"));
        }
        self.follow(member(me().as_str(), me().as_str(), "join"));
        self.join = self.nodes.len() - 1;
        assert!(self.nodes.iter().all(|node| !node.rejected));
    }

    /// After the newest event.
    fn follow(&mut self, deed: Deed) {
        let parents: Vec<usize> = self.nodes.len().checked_sub(1).into_iter().collect();
        self.add(&parents, deed, 0, 0);
    }

    /// Mostly one of the newest events, sometimes several.
    fn parents(&self, bytes: &mut Bytes<'_>) -> Vec<usize> {
        let how = bytes.byte();
        let count = match how % 8 {
            0..=4 => 1,
            5 | 6 => 2,
            _ => 3,
        };
        let window = (self.nodes.len() - self.join).min(if how < 128 { 4 } else { 256 });
        let parents: BTreeSet<usize> = (0..count)
            .map(|_| self.nodes.len() - 1 - bytes.below(window))
            .collect();
        parents.into_iter().collect()
    }

    /// All events that none follows, as many as an event may follow.
    fn ends(&self) -> Vec<usize> {
        let ends = self.all_ends(self.nodes.len());
        ends.into_iter().take(limits::PREV_EVENTS).collect()
    }

    fn all_ends(&self, of: usize) -> Vec<usize> {
        let nodes = &self.nodes[..of];
        let followed: HashSet<&OwnedEventId> = nodes
            .iter()
            .flat_map(|node| node.pdu.prev_events())
            .collect();
        (0..of)
            .filter(|n| !followed.contains(&nodes[*n].pdu.event_id().to_owned()))
            .collect()
    }

    /// Whether the last event follows all others.
    pub fn ties_all(&self) -> bool {
        self.all_ends(self.nodes.len()).len() == 1
    }

    fn deed(&self, bytes: &mut Bytes<'_>) -> Deed {
        let who = bytes.pick(&PEOPLE);
        let what = bytes.byte() % 16;
        let on = bytes.byte();
        let other = PEOPLE[usize::from(on) % PEOPLE.len()];
        match what {
            0 => message(who),
            1 | 2 => state(who, "m.room.topic", "", json!({ "topic": on })),
            3 | 4 => member(who, other, "ban"),
            5 => member(who, other, "leave"),
            6 => member(who, other, "invite"),
            7 => member(who, who, "knock"),
            8 | 9 => member(who, who, "join"),
            10 => {
                let rule = ["public", "invite", "knock", "restricted"][usize::from(on) % 4];
                state(who, "m.room.join_rules", "", json!({ "join_rule": rule }))
            }
            11 => state(who, "m.odd\0type", other, json!({})),
            12 => state(who, "m.odd", &format!("type\0{other}"), json!({})),
            _ => {
                let second = PEOPLE[usize::from(on >> 4) % PEOPLE.len()];
                let level = |n: u8| LEVELS[usize::from(n) % LEVELS.len()];
                let users = [(other, level(on >> 3)), (second, level(on >> 5))];
                levels(who, self.rules, &users, level(on >> 1))
            }
        }
    }

    fn add(&mut self, parents: &[usize], deed: Deed, skew: u8, stale: u8) {
        let before = self.resolve(parents);
        // Some choose their auth events from another state than the one they speak in.
        let chosen = match stale {
            0..224 => &before,
            _ => {
                let others = self.nodes.len() - self.join;
                &self.nodes[self.join + usize::from(stale) % others].after
            }
        };
        let Some(pdu) = self.event(parents, chosen, deed, skew) else {
            return;
        };
        if self.numbers.contains_key(pdu.event_id()) {
            return;
        }
        let rejected = self.forbids(&pdu, &before);
        let mut after = before.clone();
        if let (Some(state_key), false) = (pdu.state_key(), rejected) {
            let key = (pdu.kind().to_owned(), state_key.to_owned());
            after.insert(key, pdu.event_id().to_owned());
        }
        self.numbers
            .insert(pdu.event_id().to_owned(), self.nodes.len());
        self.nodes.push(Node {
            pdu,
            before,
            after,
            rejected,
        });
    }

    fn event(&self, parents: &[usize], auth: &State, deed: Deed, skew: u8) -> Option<Pdu> {
        let create = deed.kind == "m.room.create";
        let content = serde_json::value::to_raw_value(&deed.content).unwrap();
        let sender = <&UserId>::try_from(deed.sender).unwrap();
        let wanted = auth_types(
            deed.kind,
            sender,
            deed.state_key.as_deref(),
            &content,
            self.rules,
        );
        let room_id = match self.nodes.first() {
            Some(create) => Some(create.pdu.room_id().to_owned()),
            None if self.rules.room_id_is_create_hash() => None,
            None => Some(RoomId::parse("!room:peer.test").unwrap()),
        };
        let to = |pdu: &Pdu| Reference::to(pdu, self.rules).unwrap();
        let depth = parents.iter().map(|n| self.nodes[*n].pdu.depth()).max();
        let draft = Draft {
            room_id: room_id.filter(|_| !(create && self.rules.room_id_is_create_hash())),
            sender: sender.to_owned(),
            kind: deed.kind.to_owned(),
            state_key: deed.state_key,
            content,
            redacts: None,
            sticky_ms: None,
            prev_events: parents.iter().map(|n| to(&self.nodes[*n].pdu)).collect(),
            auth_events: wanted
                .ok()?
                .iter()
                .filter_map(|key| auth.get(key))
                .map(|id| to(&self.get(id).unwrap()))
                .collect(),
            depth: depth.unwrap_or(0) + 1 + u64::from(skew % 3),
            origin_server_ts: 1_700_000_000_000 + 100 * self.nodes.len() as u64
                - u64::from(skew) * 10,
        };
        Some(sign(draft, self.rules, peer(), &key(peer())).unwrap())
    }

    /// Checks 4 and 5 of "Checks performed on receipt of a PDU".
    fn forbids(&self, pdu: &Pdu, before: &State) -> bool {
        let create = self.nodes.first().map(|node| node.pdu.clone());
        let by_auth: Vec<Pdu> = pdu
            .auth_events()
            .iter()
            .filter_map(|id| self.get(id))
            // No event names it in room version 12.
            .chain(create.filter(|_| self.rules.room_id_is_create_hash()))
            .collect();
        check_auth_events(pdu, self.rules, |id| self.get(id)).is_err()
            || check_state(pdu, self.rules, |kind, key| {
                by_auth.iter().find(|event| event.is(kind, key)).cloned()
            })
            .is_err()
            || check_state(pdu, self.rules, |kind, key| self.find(before, kind, key)).is_err()
    }

    fn find(&self, state: &State, kind: &str, key: &str) -> Option<Pdu> {
        let id = state.get(&(kind.to_owned(), key.to_owned()))?;
        self.get(id)
    }

    /// The event, with the mark if it is rejected.
    fn get(&self, id: &EventId) -> Option<Pdu> {
        let node = &self.nodes[*self.numbers.get(id)?];
        let pdu = node.pdu.clone();
        Some(if node.rejected {
            pdu.mark_rejected()
        } else {
            pdu
        })
    }

    /// The state after all of these events.
    fn resolve(&self, parents: &[usize]) -> State {
        let mut states: Vec<&State> = Vec::new();
        for parent in parents {
            let state = &self.nodes[*parent].after;
            if !states.contains(&state) {
                states.push(state);
            }
        }
        match &states[..] {
            [] => State::new(),
            [only] => (*only).clone(),
            _ if self.rules.state_res().is_none() => self.resolve_v1(&states),
            _ => self.resolve_v2(&states),
        }
    }

    /// State resolution v1 looks at no auth chains; what it does with a conflict is tested by itself against the words
    /// of the specification (`resuni_dag`).
    fn resolve_v1(&self, states: &[&State]) -> State {
        let agreed = |key: &StateKey, id: &OwnedEventId| {
            states.iter().all(|state| state.get(key) == Some(id))
        };
        let part = |state: &State, wanted: bool| -> State {
            let entries = state.iter().filter(|(key, id)| agreed(key, id) == wanted);
            entries.map(|(key, id)| (key.clone(), id.clone())).collect()
        };
        let conflict = Conflict {
            base: part(states[0], true),
            forks: states.iter().map(|state| part(state, false)).collect(),
            events: self
                .nodes
                .iter()
                .filter_map(|node| self.get(node.pdu.event_id()))
                .map(|pdu| (pdu.event_id().to_owned(), pdu))
                .collect(),
            ..Conflict::default()
        };
        let mut resolved = conflict.base.clone();
        resolved.extend(resuni_dag::resolve(&conflict, self.rules).unwrap());
        resolved
    }

    fn resolve_v2(&self, states: &[&State]) -> State {
        let whole: Vec<StateMap<OwnedEventId>> = states
            .iter()
            .map(|state| {
                let entry = |((kind, key), id): (&StateKey, &OwnedEventId)| {
                    (
                        (StateEventType::from(kind.as_str()), key.clone()),
                        id.clone(),
                    )
                };
                state.iter().map(entry).collect()
            })
            .collect();
        let chains = states
            .iter()
            .map(|state| self.chain(state.values()).into_iter().collect())
            .collect();
        let resolved = resolve_whole(
            &self.rules.ruma().authorization,
            self.rules.state_res().unwrap(),
            &whole,
            chains,
            |id| self.get(id),
            |conflicted| Some(self.subgraph(conflicted.values().flatten().cloned().collect())),
        );
        let entry = |((kind, key), id): ((StateEventType, String), OwnedEventId)| {
            ((kind.to_string(), key), id)
        };
        resolved.unwrap().into_iter().map(entry).collect()
    }

    /// These events and all that their auth events lead to.
    fn chain<'a>(&self, from: impl Iterator<Item = &'a OwnedEventId>) -> HashSet<OwnedEventId> {
        let mut seen = HashSet::new();
        let mut waiting: Vec<OwnedEventId> = from.cloned().collect();
        while let Some(id) = waiting.pop() {
            if seen.insert(id.clone()) {
                waiting.extend_from_slice(self.get(&id).unwrap().auth_events());
            }
        }
        seen
    }

    /// All events that one conflicted event leads to and that lead to another.
    fn subgraph(&self, conflicted: Vec<OwnedEventId>) -> EventIdSet<OwnedEventId> {
        let below = self.chain(conflicted.iter());
        let leads_to_one = |id: &OwnedEventId| {
            let chain = self.chain(std::iter::once(id));
            conflicted.iter().any(|end| chain.contains(end))
        };
        below.into_iter().filter(leads_to_one).collect()
    }

    /// Brings our server into the room.
    pub async fn adopt(&self, rooms: &Rooms) {
        let join = &self.nodes[self.join];
        let state = join.before.values().map(|id| self.get(id).unwrap());
        let chain = self.nodes[..self.join].iter().map(|node| node.pdu.clone());
        let (version, pdu) = (&self.rules.version, join.pdu.clone());
        rooms
            .adopt(pdu, version, state.collect(), chain.collect(), None)
            .await
            .unwrap();
    }

    /// The room's id.
    pub fn room(&self) -> &RoomId {
        self.nodes[0].pdu.room_id()
    }

    /// What happened after our join.
    pub fn later(&self) -> &[Node] {
        &self.nodes[self.join + 1..]
    }

    /// Whether this is an event of the room.
    pub fn knows(&self, id: &EventId) -> bool {
        self.numbers.contains_key(id)
    }

    /// That two states are the same; what differs is said.
    pub fn assert_equal(&self, ours: &State, expected: &State, at: &Pdu) {
        let keys: BTreeSet<&StateKey> = ours.keys().chain(expected.keys()).collect();
        for key in keys {
            let json = |id: Option<&OwnedEventId>| {
                let pdu = id.and_then(|id| self.get(id));
                pdu.map(|pdu| pdu.json().to_owned())
            };
            let (ours, expected) = (ours.get(key), expected.get(key));
            assert!(
                ours == expected,
                "version {}, {key:?} at {}\nours: {:?}\nexpected: {:?}",
                self.rules.version.as_str(),
                at.json(),
                json(ours),
                json(expected),
            );
        }
    }
}

fn message(sender: &'static str) -> Deed {
    Deed {
        sender,
        kind: "m.room.message",
        state_key: None,
        content: json!({ "body": "" }),
    }
}

fn state(sender: &'static str, kind: &'static str, key: &str, content: Value) -> Deed {
    Deed {
        sender,
        kind,
        state_key: Some(key.to_owned()),
        content,
    }
}

fn member(sender: &'static str, whose: &str, membership: &str) -> Deed {
    let content = json!({ "membership": membership });
    state(sender, "m.room.member", whose, content)
}

fn levels(
    sender: &'static str,
    rules: &RoomRules,
    users: &[(&str, i64)],
    state_default: i64,
) -> Deed {
    let mut all: BTreeMap<&str, i64> = users.iter().copied().collect();
    // The creator is above all levels in room version 12, and may not be listed.
    match rules.room_id_is_create_hash() {
        true => drop(all.remove(PEOPLE[0])),
        false => drop(all.insert(PEOPLE[0], 100)),
    }
    let content = json!({ "users": all, "state_default": state_default,
        "events": { "m.room.power_levels": 50, "m.room.join_rules": 50 }, "invite": 0 });
    state(sender, "m.room.power_levels", "", content)
}
