use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

/// A random acyclic graph: the parents of node `n` are smaller than `n`.
fn graphs() -> impl Strategy<Value = Vec<Vec<usize>>> {
    (2usize..40).prop_flat_map(|size| {
        (0..size)
            .map(|n| proptest::collection::btree_set(0..n.max(1), 0..=n.min(3)))
            .collect::<Vec<_>>()
            .prop_map(|nodes| {
                let keep = |(n, parents): (usize, std::collections::BTreeSet<usize>)| {
                    parents.into_iter().filter(|&p| p < n).collect()
                };
                nodes.into_iter().enumerate().map(keep).collect()
            })
    })
}

fn generations(graph: &[Vec<usize>]) -> Vec<u32> {
    let mut generations: Vec<u32> = Vec::new();
    for parents in graph {
        generations.push(
            parents
                .iter()
                .map(|&p| generations[p] + 1)
                .max()
                .unwrap_or(0),
        );
    }
    generations
}

/// The nodes and all that they lead to.
fn chain(graph: &[Vec<usize>], from: impl IntoIterator<Item = usize>) -> HashSet<usize> {
    let mut seen = HashSet::new();
    let mut waiting: Vec<usize> = from.into_iter().collect();
    while let Some(node) = waiting.pop() {
        if seen.insert(node) {
            waiting.extend(&graph[node]);
        }
    }
    seen
}

proptest! {
    #[test]
    fn auth_difference_equals_the_full_walk(
        graph in graphs(),
        picks in proptest::collection::vec(proptest::collection::vec(any::<prop::sample::Index>(), 0..6), 1..5),
        shared in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let pick = |picks: &[prop::sample::Index]| -> Vec<usize> {
            picks.iter().map(|i| i.index(graph.len())).collect()
        };
        let sets: Vec<Vec<usize>> = picks.iter().map(|p| pick(p)).collect();
        let shared = pick(&shared);
        let chains: Vec<HashSet<usize>> = sets
            .iter()
            .map(|set| chain(&graph, set.iter().chain(&shared).copied()))
            .collect();
        let expected: HashSet<usize> = (0..graph.len())
            .filter(|n| chains.iter().any(|c| c.contains(n)) && !chains.iter().all(|c| c.contains(n)))
            .collect();
        let generations = generations(&graph);
        let found = auth_difference(
            &sets,
            shared.iter().copied(),
            |n| generations[n],
            |n| graph[n].clone(),
        );
        // Conflicted events are replayed anyway.
        let conflicted: HashSet<usize> = sets.iter().flatten().copied().collect();
        prop_assert!(found.is_superset(&expected));
        prop_assert!(found.difference(&expected).all(|n| conflicted.contains(n)));
    }

    #[test]
    fn subgraph_equals_the_full_walk(
        graph in graphs(),
        picks in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let conflicted: Vec<usize> = picks.iter().map(|i| i.index(graph.len())).collect();
        let below = chain(&graph, conflicted.iter().copied());
        let expected: HashSet<usize> = below
            .into_iter()
            .filter(|&n| chain(&graph, [n]).iter().any(|m| conflicted.contains(m)))
            .collect();
        let generations = generations(&graph);
        let found =
            conflicted_subgraph(&conflicted, |n| generations[n], |n| graph[n].clone());
        prop_assert_eq!(found, expected);
    }
}

/// A long history, and two states that differ at its end.
#[test]
fn the_walk_ends_where_the_chains_meet() {
    let parents = |n: u32| -> Vec<u32> {
        match n {
            0 => vec![],
            1_000_001 | 1_000_002 => vec![1_000_000],
            n => vec![n - 1],
        }
    };
    let generation = |n: u32| n.min(1_000_001);
    let visited = std::cell::Cell::new(0);
    let counted = |n: u32| {
        visited.set(visited.get() + 1);
        parents(n)
    };
    let sets = [vec![1_000_001], vec![1_000_002]];
    let found = auth_difference(&sets, std::iter::empty(), generation, counted);
    assert_eq!(found, HashSet::from([1_000_001, 1_000_002]));
    let path = conflicted_subgraph(&[1_000_001, 1_000_002, 999_990], generation, counted);
    assert_eq!(path.len(), 13);
    assert!(visited.get() < 30, "{} nodes were looked at", visited.get());
}

/// Two states of a large room that differ in a topic: what all members have in common is not looked at, and where it has
/// to be, only until the answer is clear.
#[test]
fn a_large_room_is_not_walked_for_a_small_difference() {
    // The create event, the power levels, a join and the one that took its place; three topics; members.
    let parents = |n: u32| -> Vec<u32> {
        match n {
            0 => vec![],
            1 | 2 => vec![0],
            3 => vec![1, 2],
            5 | 6 => vec![1],
            _ => vec![1, 3],
        }
    };
    let generation = |n: u32| [0, 1, 1, 2, 3, 2, 2].get(n as usize).copied().unwrap_or(3);
    let asked = std::cell::Cell::new(0);
    let members = || (7..1_000_000).inspect(|_| asked.set(asked.get() + 1));
    let found = auth_difference(&[vec![5], vec![6]], members(), generation, parents);
    assert_eq!((found, asked.get()), (HashSet::from([5, 6]), 0));
    // The joins behind one topic are behind every member too.
    let found = auth_difference(&[vec![4], vec![5]], members(), generation, parents);
    assert_eq!(found, HashSet::from([4, 5]));
    assert!(asked.get() < 3, "{} members were looked at", asked.get());
}

#[test]
fn more_states_than_bits_in_a_mask() {
    let sets: Vec<Vec<u32>> = (0..300)
        .map(|n| if n == 299 { vec![1] } else { vec![1, 2] })
        .collect();
    let parents = |n: u32| if n == 0 { vec![] } else { vec![0] };
    let found = auth_difference(&sets, [], |n| n.min(1), parents);
    assert_eq!(found, HashSet::from([2]));
}
