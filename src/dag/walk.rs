//! Walks over the auth graph that go no further than the question needs.
//!
//! Both work on any node that is cheap to copy, so that a caller who numbers its events walks
//! numbers. `generation` is what makes the walks short: it must be greater for an event than for
//! each of its auth events (one more than the greatest of them will do).

use std::collections::{BinaryHeap, HashMap, HashSet};
use std::hash::Hash;

/// As many sets as have a bit in a mask; the first set takes part in every round.
const ROUND: usize = u128::BITS as usize - 1;

/// The auth difference of some states: the events that are in the auth chain of at least one and
/// not of every one (room version 2, "State resolution").
///
/// `sets` holds for each state its events at the keys on which the states differ, `shared` the
/// events that are in all of them; `shared` is asked for only if the answer can depend on it, and only
/// until it doesn't any more: it is as large as the room. Leaving events out of `shared` makes the
/// answer too large.
///
/// An event of a state counts as part of that state's chain, as in Synapse. That makes no
/// difference for conflicted events, those of `sets`, which state resolution takes in anyway: some of
/// them are in the answer although they are in every chain.
pub fn auth_difference<N, P>(
    sets: &[Vec<N>],
    shared: impl IntoIterator<Item = N>,
    generation: impl Fn(N) -> u32,
    parents: impl Fn(N) -> P,
) -> HashSet<N>
where
    N: Copy + Ord + Hash,
    P: IntoIterator<Item = N>,
{
    let Some((first, rest)) = sets.split_first() else {
        return HashSet::new();
    };
    let mut found = HashSet::new();
    // What is in one chain and not in all of them is missing in the first chain or in another, so
    // rounds that all hold the first set find everything.
    for round in rest.chunks(ROUND) {
        difference_of_round(first, round, &generation, &parents, &mut found);
    }
    let conflicted: HashSet<N> = sets.iter().flatten().copied().collect();
    let mut others: HashSet<N> = found.difference(&conflicted).copied().collect();
    if !others.is_empty() {
        found.retain(|node| conflicted.contains(node));
        remove_ancestry(&mut others, shared, &generation, &parents);
        found.extend(others);
    }
    found
}

/// Walks from the newest event to the oldest. When an event is taken up, everything that leads to
/// it was, so its mask of sets is final; when no event that some set misses is waiting, all
/// further events are in every chain.
fn difference_of_round<N, P>(
    first: &[N],
    rest: &[Vec<N>],
    generation: &impl Fn(N) -> u32,
    parents: &impl Fn(N) -> P,
    found: &mut HashSet<N>,
) where
    N: Copy + Ord + Hash,
    P: IntoIterator<Item = N>,
{
    let full: u128 = u128::MAX >> (ROUND - rest.len());
    let mut walk = Walk {
        masks: HashMap::new(),
        waiting: BinaryHeap::new(),
        partial: 0,
        full,
    };
    for (i, set) in std::iter::once(first)
        .chain(rest.iter().map(Vec::as_slice))
        .enumerate()
    {
        for &node in set {
            walk.reach(node, 1 << i, generation);
        }
    }
    while walk.partial > 0 {
        let Some((_, node)) = walk.waiting.pop() else {
            break;
        };
        let mask = walk.masks.get(&node).copied().unwrap_or(full);
        if mask != full {
            found.insert(node);
            walk.partial -= 1;
        }
        for parent in parents(node) {
            walk.reach(parent, mask, generation);
        }
    }
}

struct Walk<N> {
    /// Which sets reach a node, as far as is known.
    masks: HashMap<N, u128>,
    /// Nodes that were reached and not taken up, newest first.
    waiting: BinaryHeap<(u32, N)>,
    /// How many of those some set doesn't reach.
    partial: usize,
    full: u128,
}

impl<N: Copy + Ord + Hash> Walk<N> {
    fn reach(&mut self, node: N, by: u128, generation: &impl Fn(N) -> u32) {
        let mask = self.masks.entry(node).or_insert_with(|| {
            self.waiting.push((generation(node), node));
            self.partial += 1;
            0
        });
        let before = *mask;
        *mask |= by;
        if before != self.full && *mask == self.full {
            self.partial -= 1;
        }
    }
}

/// Takes out of `found` the events of `shared` and everything in their auth chains, walking only
/// where something in `found` can still be reached, and no further than until nothing is left.
fn remove_ancestry<N, P>(
    found: &mut HashSet<N>,
    shared: impl IntoIterator<Item = N>,
    generation: &impl Fn(N) -> u32,
    parents: &impl Fn(N) -> P,
) where
    N: Copy + Ord + Hash,
    P: IntoIterator<Item = N>,
{
    let Some(lowest) = found.iter().map(|&n| generation(n)).min() else {
        return;
    };
    let mut seen = HashSet::new();
    for node in shared {
        let mut waiting = vec![node];
        while let Some(node) = waiting.pop() {
            if found.is_empty() {
                return;
            }
            if seen.insert(node) && generation(node) >= lowest {
                found.remove(&node);
                waiting.extend(parents(node));
            }
        }
    }
}

/// The conflicted state subgraph (room version 12, "State resolution"): the events on the paths of
/// the auth graph that lead from one conflicted event to another, with their ends.
pub fn conflicted_subgraph<N, P>(
    conflicted: &[N],
    generation: impl Fn(N) -> u32,
    parents: impl Fn(N) -> P,
) -> HashSet<N>
where
    N: Copy + Ord + Hash,
    P: IntoIterator<Item = N>,
{
    let ends: HashSet<N> = conflicted.iter().copied().collect();
    let Some(lowest) = ends.iter().map(|&n| generation(n)).min() else {
        return ends;
    };
    // Downwards: everything that a conflicted event reaches and that may still reach another.
    let mut edges: HashMap<N, Vec<N>> = HashMap::new();
    let mut waiting: Vec<N> = ends.iter().copied().collect();
    while let Some(node) = waiting.pop() {
        if edges.contains_key(&node) {
            continue;
        }
        let below: Vec<N> = parents(node)
            .into_iter()
            .filter(|&p| generation(p) >= lowest)
            .collect();
        waiting.extend(&below);
        edges.insert(node, below);
    }
    // Upwards: those that do reach one.
    let mut order: Vec<N> = edges.keys().copied().collect();
    order.sort_unstable_by_key(|&n| (generation(n), n));
    let mut on_path = ends;
    for node in order {
        if edges
            .get(&node)
            .is_some_and(|below| below.iter().any(|p| on_path.contains(p)))
        {
            on_path.insert(node);
        }
    }
    on_path
}

#[cfg(test)]
mod tests;
