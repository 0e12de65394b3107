use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::testing::{Branch, Room, State};

/// What all states agree on, and what each has besides.
fn conflict(room: &Room, states: &[&State]) -> Conflict {
    let agreed =
        |key: &StateKey, id: &OwnedEventId| states.iter().all(|state| state.get(key) == Some(id));
    let part = |state: &State, wanted: bool| -> State {
        state
            .iter()
            .filter(|(key, id)| agreed(key, id) == wanted)
            .map(|(key, id)| (key.clone(), id.clone()))
            .collect()
    };
    Conflict {
        base: part(states[0], true),
        forks: states.iter().map(|state| part(state, false)).collect(),
        auth_difference: HashSet::new(),
        subgraph: HashSet::new(),
        events: room.events.clone(),
    }
}

fn resolved(room: &Room, states: &[&State]) -> State {
    let conflict = conflict(room, states);
    let mut state = conflict.base.clone();
    state.extend(crate::resolve(&conflict, room.rules).unwrap());
    state
}

const START: &[&str] = &[
    "alice creates",
    "alice joins",
    "alice rules public",
    "bob@two joins",
    r#"alice power {"users":{"@alice:one":100,"@bob:two":50}}"#,
];

/// Two lines of history after `START`, and what they resolve to.
fn forked(left: &[&str], right: &[&str]) -> (Room, State) {
    let (mut room, start) = Room::with("1", START);
    let mut ends = Vec::new();
    for lines in [left, right] {
        let mut branch = start.clone();
        for line in lines {
            room.say(&mut branch, line)
                .unwrap_or_else(|e| panic!("`{line}` is refused: {e}"));
        }
        ends.push(branch.state);
    }
    let state = resolved(&room, &[&ends[0], &ends[1]]);
    (room, state)
}

fn content(room: &Room, state: &State, kind: &str, key: &str) -> String {
    room.find(state, kind, key)
        .map(|pdu| pdu.content().get().to_owned())
        .unwrap_or_default()
}

#[test]
fn the_deeper_topic_wins() {
    let (room, state) = forked(
        &[r#"alice sets m.room.topic / {"topic":"shallow"}"#],
        &[
            "bob@two sends m.room.message {}",
            r#"bob@two sets m.room.topic / {"topic":"deep"}"#,
        ],
    );
    assert_eq!(
        content(&room, &state, "m.room.topic", ""),
        r#"{"topic":"deep"}"#
    );
}

#[test]
fn a_topic_that_is_not_allowed_any_more_loses() {
    // Bob's topic is deeper, but alice took his power away on the other side.
    let (room, state) = forked(
        &[
            r#"alice sets m.room.topic / {"topic":"hers"}"#,
            r#"alice power {"users":{"@alice:one":100}}"#,
        ],
        &[
            "bob@two sends m.room.message {}",
            "bob@two sends m.room.message {}",
            r#"bob@two sets m.room.topic / {"topic":"his"}"#,
        ],
    );
    assert_eq!(
        content(&room, &state, "m.room.topic", ""),
        r#"{"topic":"hers"}"#
    );
}

#[test]
fn power_levels_are_taken_up_to_the_first_that_is_not_allowed() {
    // The shallowest goes first and decides about the others: alice's takes bob's power away, so that
    // his is not allowed although it is deeper.
    let (room, state) = forked(
        &[r#"alice power {"users":{"@alice:one":100}}"#],
        &[
            "bob@two sends m.room.message {}",
            r#"bob@two power {"users":{"@alice:one":100,"@bob:two":50},"users_default":7}"#,
        ],
    );
    let levels = content(&room, &state, "m.room.power_levels", "");
    assert_eq!(levels, r#"{"users":{"@alice:one":100}}"#);
}

#[test]
fn what_only_one_state_has_is_no_conflict() {
    let (room, state) = forked(
        &[r#"alice sets m.room.name / {"name":"x"}"#],
        &["carol joins"],
    );
    assert_eq!(content(&room, &state, "m.room.name", ""), r#"{"name":"x"}"#);
    let carol = content(&room, &state, "m.room.member", "@carol:one");
    assert!(carol.contains("join"), "{carol}");
}

#[test]
fn members_are_judged_by_the_resolved_power() {
    // The ban is deeper than the joins it follows, and allowed.
    let (room, state) = forked(
        &["alice bans bob@two"],
        &[r#"bob@two joins {"displayname":"Bob"}"#],
    );
    let bob = content(&room, &state, "m.room.member", "@bob:two");
    // Both have the same depth: the hash of their ids decides which is looked at first, and a ban
    // allows no join after it.
    let (ban, join) = (bob.contains("ban"), bob.contains("Bob"));
    assert!(ban || join);
    let both = room
        .events
        .values()
        .filter(|pdu| pdu.is("m.room.member", "@bob:two") && pdu.depth() == START.len() as u64 + 1);
    let first = both.max_by_key(|pdu| sha1(pdu.event_id())).unwrap();
    // If the join is first, the ban follows it; if the ban is, it stands.
    assert!(first.content().get().contains("ban") || ban);
}

/// The specification's words, without differences: all passes over whole states.
fn by_the_book(room: &Room, states: &[&State]) -> State {
    let keys: BTreeSet<&StateKey> = states.iter().flat_map(|state| state.keys()).collect();
    let mut result = State::new();
    let mut conflicts: Vec<(&StateKey, Vec<Pdu>)> = Vec::new();
    for key in keys {
        let ids: BTreeSet<_> = states.iter().filter_map(|state| state.get(key)).collect();
        if ids.len() == 1 {
            result.extend(ids.into_iter().map(|id| (key.clone(), id.clone())));
        } else {
            let mut pdus: Vec<Pdu> = ids.into_iter().map(|id| room.get(id).unwrap()).collect();
            pdus.sort_by(|a, b| {
                let by_hash = sha1(b.event_id()).cmp(&sha1(a.event_id()));
                a.depth().cmp(&b.depth()).then(by_hash)
            });
            conflicts.push((key, pdus));
        }
    }
    let allowed = |state: &State, pdu: &Pdu| {
        check_state(pdu, room.rules, |kind, key| room.find(state, kind, key)).is_ok()
    };
    for kind in ["m.room.power_levels", "m.room.join_rules", "m.room.member"] {
        let before = result.clone();
        for (key, pdus) in conflicts.iter().filter(|(key, _)| key.0 == kind) {
            let mut state = before.clone();
            for (i, pdu) in pdus.iter().enumerate() {
                if i > 0 && !allowed(&state, pdu) {
                    break;
                }
                state.insert((*key).clone(), pdu.event_id().to_owned());
            }
            result.insert((*key).clone(), state[*key].clone());
        }
    }
    let before = result.clone();
    for (key, pdus) in &conflicts {
        if !["m.room.power_levels", "m.room.join_rules", "m.room.member"].contains(&&*key.0) {
            let last = pdus.iter().rev().find(|pdu| allowed(&before, pdu));
            let id = last.unwrap_or(&pdus[0]).event_id().to_owned();
            result.insert((*key).clone(), id);
        }
    }
    result
}

const PEOPLE: [&str; 4] = ["alice", "bob@two", "carol@three", "dave"];

fn lines() -> impl Strategy<Value = Vec<(usize, String)>> {
    let who = || prop::sample::select(&PEOPLE[..]);
    let line = prop_oneof![
        (
            who(),
            who(),
            prop::sample::select(vec!["bans", "kicks", "invites"])
        )
            .prop_map(|(a, b, verb)| format!("{a} {verb} {b}")),
        (who(), prop::sample::select(vec!["joins", "leaves"]))
            .prop_map(|(a, v)| format!("{a} {v}")),
        (who(), 0..9u8).prop_map(|(a, n)| format!("{a} sets m.room.topic / {{\"topic\":\"{n}\"}}")),
        (who(), prop::sample::select(vec!["public", "invite"]))
            .prop_map(|(a, rule)| format!("{a} rules {rule}")),
        (who(), prop::sample::select(vec![0, 50, 100])).prop_map(|(a, n)| format!(
            r#"{a} power {{"users":{{"@alice:one":100,"@bob:two":{n}}}}}"#
        )),
        who().prop_map(|a| format!("{a} sends m.room.message {{}}")),
    ];
    prop::collection::vec((0..3usize, line), 5..40)
}

proptest! {
    #[test]
    fn differences_resolve_as_the_book_says(lines in lines()) {
        let (mut room, start) = Room::with("1", START);
        let mut branches: Vec<Branch> = vec![start; 3];
        for (branch, line) in lines {
            let _refused = room.say(&mut branches[branch], &line);
        }
        let states: Vec<&State> = branches.iter().map(|branch| &branch.state).collect();
        let state = resolved(&room, &states);
        prop_assert_eq!(&state, &by_the_book(&room, &states));
        // In whatever order the states come.
        let turned: Vec<&State> = states.iter().rev().copied().collect();
        prop_assert_eq!(state, resolved(&room, &turned));
    }
}
