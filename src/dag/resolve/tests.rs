use std::collections::{BTreeMap, BTreeSet, HashSet};

use proptest::prelude::*;
use ruma::state_res::StateMap;

use super::*;
use crate::testing::{Branch, Room, State};
use crate::{auth_difference, conflicted_subgraph};

/// The auth graph in numbers, as a room would keep it.
struct Graph {
    ids: Vec<OwnedEventId>,
    numbers: HashMap<OwnedEventId, usize>,
    parents: Vec<Vec<usize>>,
    generations: Vec<u32>,
}

impl Graph {
    fn of(room: &Room) -> Self {
        let pdus = crate::topological_order(room.events.values().cloned(), crate::Edges::Auth);
        let ids: Vec<_> = pdus.iter().map(|pdu| pdu.event_id().to_owned()).collect();
        let numbers: HashMap<_, _> = ids.iter().cloned().zip(0..).collect();
        let (mut parents, mut generations) = (Vec::<Vec<usize>>::new(), Vec::<u32>::new());
        for pdu in &pdus {
            let above: Vec<usize> = pdu.auth_events().iter().map(|id| numbers[id]).collect();
            generations.push(above.iter().map(|&n| generations[n] + 1).max().unwrap_or(0));
            parents.push(above);
        }
        Self {
            ids,
            numbers,
            parents,
            generations,
        }
    }

    fn chain(&self, state: &State) -> EventIdSet<OwnedEventId> {
        let mut seen = HashSet::new();
        let mut waiting: Vec<usize> = state.values().map(|id| self.numbers[id]).collect();
        while let Some(n) = waiting.pop() {
            if seen.insert(n) {
                waiting.extend(&self.parents[n]);
            }
        }
        seen.into_iter().map(|n| self.ids[n].clone()).collect()
    }

    fn names(&self, numbers: HashSet<usize>) -> HashSet<OwnedEventId> {
        numbers.into_iter().map(|n| self.ids[n].clone()).collect()
    }
}

fn split(states: &[State]) -> (State, Vec<State>) {
    let agreed = |(key, id): &(&StateKey, &OwnedEventId)| {
        states.iter().all(|state| state.get(*key) == Some(*id))
    };
    let shared: State = states[0]
        .iter()
        .filter(agreed)
        .map(|(key, id)| (key.clone(), id.clone()))
        .collect();
    let forks = states
        .iter()
        .map(|s| {
            s.iter()
                .filter(|(key, _)| !shared.contains_key(*key))
                .map(|(key, id)| (key.clone(), id.clone()))
                .collect()
        })
        .collect();
    (shared, forks)
}

/// What ruma says when it gets everything.
fn resolve_whole(room: &Room, graph: &Graph, states: &[State]) -> State {
    let whole: Vec<StateMap<OwnedEventId>> = states
        .iter()
        .map(|state| state.iter().map(ruma_entry).collect())
        .collect();
    let chains = states.iter().map(|state| graph.chain(state)).collect();
    let resolved = ruma_resolve(
        &room.rules.ruma().authorization,
        room.rules.state_res().unwrap(),
        &whole,
        chains,
        |id| room.get(id),
        |conflicted| {
            let ends: Vec<usize> = conflicted
                .values()
                .flatten()
                .map(|id| graph.numbers[id])
                .collect();
            // All paths, the slow way: a node that is below one end and above another.
            let below = |from: usize| {
                let one =
                    BTreeMap::from([((String::new(), String::new()), graph.ids[from].clone())]);
                graph.chain(&one)
            };
            let reached: Vec<_> = ends.iter().map(|&n| below(n)).collect();
            let on_path = |n: usize| {
                reached.iter().any(|chain| chain.contains(&graph.ids[n]))
                    && ends.iter().any(|&end| below(n).contains(&graph.ids[end]))
            };
            Some(
                (0..graph.ids.len())
                    .filter(|&n| on_path(n))
                    .map(|n| graph.ids[n].clone())
                    .collect(),
            )
        },
    )
    .unwrap();
    resolved
        .into_iter()
        .map(|((kind, key), id)| ((kind.to_string(), key), id))
        .collect()
}

/// The same from the differences, with no event in it that isn't asked for.
fn resolve_difference(room: &Room, graph: &Graph, states: &[State]) -> State {
    let (shared, forks) = split(states);
    let number = |id: &OwnedEventId| graph.numbers[id];
    let sets: Vec<Vec<usize>> = forks
        .iter()
        .map(|fork| fork.values().map(number).collect())
        .collect();
    let generation = |n: usize| graph.generations[n];
    let parents = |n: usize| graph.parents[n].clone();
    let difference = auth_difference(&sets, shared.values().map(number), generation, parents);
    let ends: Vec<usize> = sets
        .iter()
        .flatten()
        .copied()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let mut conflict = Conflict {
        forks,
        auth_difference: graph.names(difference),
        subgraph: graph.names(conflicted_subgraph(&ends, generation, parents)),
        ..Conflict::default()
    };
    let full: Vec<Pdu> = conflict
        .full_set(room.rules)
        .into_iter()
        .filter_map(|id| room.get(id))
        .collect();
    let wanted = base_keys(&full, room.rules);
    conflict.base = shared
        .iter()
        .filter(|(key, _)| wanted.contains(*key))
        .map(|(key, id)| (key.clone(), id.clone()))
        .collect();
    loop {
        let missing = conflict.missing(room.rules);
        if missing.is_empty() {
            break;
        }
        assert!(matches!(
            resolve(&conflict, room.rules),
            Err(ResolveError::Missing(_))
        ));
        for id in missing {
            let pdu = room.get(&id).unwrap();
            assert!(conflict.events.insert(id, pdu).is_none(), "asked for twice");
        }
    }
    let mut resolved = resolve(&conflict, room.rules).unwrap();
    resolved.extend(shared);
    resolved
}

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Say {
        branch: usize,
        line: String,
        late: u64,
    },
    Fork {
        branch: usize,
    },
    Merge {
        a: usize,
        b: usize,
    },
}

const PEOPLE: [&str; 5] = ["alice", "bob@two", "carol@three", "dave@four", "erin@five"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = || prop::sample::select(&PEOPLE[..]);
    let level = prop::sample::select(vec![0, 10, 50, 100]);
    let line = prop_oneof![
        3 => (who(), who(), prop::sample::select(vec!["bans", "kicks", "invites", "unbans"]))
            .prop_map(|(a, b, verb)| format!("{a} {verb} {b}")),
        3 => (who(), prop::sample::select(vec!["joins", "leaves", "knocks"]))
            .prop_map(|(a, verb)| format!("{a} {verb}")),
        3 => (who(), 0..9u8).prop_map(|(a, n)| format!("{a} sets m.room.topic / {{\"topic\":\"{n}\"}}")),
        2 => (who(), prop::sample::select(vec!["public", "invite", "knock", "restricted"]))
            .prop_map(|(a, rule)| format!("{a} rules {rule}")),
        3 => (who(), level.clone(), level.clone(), level.clone(), level)
            .prop_map(|(a, b, c, d, state)| format!(
                "{a} power {{\"users\":{{LISTED\"@bob:two\":{b},\"@carol:three\":{c},\"@dave:four\":{d}}},\
                 \"state_default\":{state}}}"
            )),
    ];
    let step = prop_oneof![
        10 => (0..6usize, line, 0..40u64).prop_map(|(branch, line, late)| Step::Say { branch, line, late }),
        2 => (0..6usize).prop_map(|branch| Step::Fork { branch }),
        2 => (0..6usize, 0..6usize).prop_map(|(a, b)| Step::Merge { a, b }),
    ];
    prop::collection::vec(step, 10..60)
}

/// Merges the branches both ways and compares; answers how many keys were in conflict.
fn merge(room: &Room, branches: &[&Branch]) -> (Branch, usize) {
    let graph = Graph::of(room);
    let states: Vec<State> = branches.iter().map(|b| b.state.clone()).collect();
    let whole = resolve_whole(room, &graph, &states);
    let difference = resolve_difference(room, &graph, &states);
    assert_eq!(difference, whole);
    let conflicts = split(&states)
        .1
        .iter()
        .map(BTreeMap::len)
        .max()
        .unwrap_or(0);
    let heads: BTreeSet<_> = branches
        .iter()
        .flat_map(|b| b.heads.iter().cloned())
        .collect();
    let depth = branches.iter().map(|b| b.depth).max().unwrap_or(0);
    let heads = heads.into_iter().take(crate::limits::PREV_EVENTS).collect();
    (
        Branch {
            state: whole,
            heads,
            depth,
        },
        conflicts,
    )
}

/// Before v12 alice must be listed, or the first change would take her power.
fn listed(version: &str, line: &str) -> String {
    line.replace(
        "LISTED",
        if version == "12" {
            ""
        } else {
            r#""@alice:one":100,"#
        },
    )
}

fn start(version: &str) -> (Room, Branch) {
    let power = r#"alice power {"users":{LISTED"@bob:two":50,"@carol:three":50}}"#;
    let joins = ["bob@two joins", "carol@three joins", "dave@four joins"];
    let first = ["alice creates", "alice joins", "alice rules public"];
    Room::with(
        version,
        &[&first[..], &joins, &[&listed(version, power)]].concat(),
    )
}

fn run(version: &str, steps: &[Step]) -> usize {
    let (mut room, start) = start(version);
    let mut branches = vec![start.clone(), start];
    let mut conflicts = 0;
    for step in steps {
        let count = branches.len();
        match step {
            Step::Say { branch, line, late } => {
                let now = room.clock;
                room.clock = now.saturating_sub(*late);
                // Most lines are refused by somebody's rules: then nothing happens.
                let _ = room.say(&mut branches[branch % count], &listed(version, line));
                room.clock = now + 5;
            }
            Step::Fork { branch } if count < 6 => branches.push(branches[branch % count].clone()),
            Step::Fork { .. } => {}
            Step::Merge { a, b } => {
                let (merged, n) = merge(&room, &[&branches[a % count], &branches[b % count]]);
                conflicts += n;
                branches[a % count] = merged;
            }
        }
    }
    conflicts + merge(&room, &branches.iter().collect::<Vec<_>>()).1
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn differences_resolve_as_whole_states_do_in_version_11(steps in steps()) {
        run("11", &steps);
    }

    #[test]
    fn differences_resolve_as_whole_states_do_in_version_12(steps in steps()) {
        run("12", &steps);
    }
}

/// The test above would show nothing if its rooms never disagreed.
#[test]
fn random_rooms_do_disagree() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let conflicts: usize = (0..10)
        .map(|_| run("11", &steps().new_tree(&mut runner).unwrap().current()))
        .sum();
    assert!(conflicts > 20, "only {conflicts} conflicts");
}

/// Two branches with these lines; who wins is told by the topic or membership at the end.
fn forked(version: &str, left: &[&str], right: &[&str]) -> (Room, State) {
    let (mut room, start) = start(version);
    let mut branches = [start.clone(), start];
    for (branch, lines) in branches.iter_mut().zip([left, right]) {
        for line in lines {
            room.say(branch, line)
                .unwrap_or_else(|e| panic!("`{line}`: {e}"));
        }
    }
    let (merged, _) = merge(&room, &[&branches[0], &branches[1]]);
    (room, merged.state)
}

#[test]
fn a_ban_beats_what_the_banned_did_at_the_same_time() {
    for version in ["11", "12"] {
        let topic = r#"bob@two sets m.room.topic / {"topic":"mine"}"#;
        let (room, state) = forked(version, &["alice bans bob@two"], &[topic]);
        assert!(room.find(&state, "m.room.topic", "").is_none());
        let bob = room.find(&state, "m.room.member", "@bob:two").unwrap();
        assert!(bob.content().get().contains("ban"));
    }
}

#[test]
fn the_later_topic_wins_between_equals() {
    for version in ["11", "12"] {
        let first = r#"bob@two sets m.room.topic / {"topic":"first"}"#;
        let second = r#"alice sets m.room.topic / {"topic":"second"}"#;
        let (room, state) = forked(version, &[first], &[second]);
        let topic = room.find(&state, "m.room.topic", "").unwrap();
        assert!(topic.content().get().contains("second"));
    }
}

#[test]
fn an_event_that_was_not_given_is_named() {
    let (mut room, branch) = Room::with("11", &["alice creates", "alice joins"]);
    let one = room.make(&branch, "alice sets m.one / {}");
    let key = ("m.one".to_owned(), String::new());
    let fork = BTreeMap::from([(key, one.event_id().to_owned())]);
    let mut conflict = Conflict {
        forks: vec![fork, BTreeMap::new()],
        ..Conflict::default()
    };
    assert_eq!(conflict.missing(room.rules), [one.event_id()]);
    conflict
        .events
        .insert(one.event_id().to_owned(), one.clone());
    let missing = conflict.missing(room.rules);
    assert_eq!(
        missing.iter().collect::<BTreeSet<_>>(),
        one.auth_events().iter().collect()
    );
    assert!(matches!(
        resolve(&conflict, room.rules),
        Err(ResolveError::Missing(_))
    ));
}

#[test]
fn nothing_to_resolve() {
    let conflict = Conflict::default();
    assert!(
        resolve(&conflict, crate::testing::rules("11"))
            .unwrap()
            .is_empty()
    );
}
