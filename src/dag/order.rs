//! Order in the graph.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use ruma::{EventId, OwnedEventId};

use crate::Pdu;

/// Which edges of the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edges {
    /// `prev_events`: the room's history.
    Prev,
    /// `auth_events`: what allows an event.
    Auth,
}

impl Edges {
    fn of(self, pdu: &Pdu) -> &[OwnedEventId] {
        match self {
            Edges::Prev => pdu.prev_events(),
            Edges::Auth => pdu.auth_events(),
        }
    }
}

/// Orders events such that each comes after those it refers to; edges out of the set count for
/// nothing. Where the graph leaves a choice, the one with the lower depth, then the older, then
/// the smaller id comes first, so every server that has the same set gets the same order. An event
/// that is given twice comes once.
///
/// In room versions whose event ids are hashes there are no cycles; events on one would be left
/// out.
pub fn topological_order(pdus: impl IntoIterator<Item = Pdu>, edges: Edges) -> Vec<Pdu> {
    let set: HashMap<OwnedEventId, Pdu> = pdus
        .into_iter()
        .map(|pdu| (pdu.event_id().to_owned(), pdu))
        .collect();
    let mut missing: HashMap<&EventId, usize> = HashMap::new();
    let mut children: HashMap<&EventId, Vec<&Pdu>> = HashMap::new();
    let mut ready = BinaryHeap::new();
    for pdu in set.values() {
        let inside = edges.of(pdu).iter().filter(|id| set.contains_key(*id));
        let mut count = 0;
        for parent in inside {
            children.entry(parent).or_default().push(pdu);
            count += 1;
        }
        missing.insert(pdu.event_id(), count);
        if count == 0 {
            ready.push(Reverse(rank(pdu)));
        }
    }
    let mut order = Vec::with_capacity(set.len());
    while let Some(Reverse((_, _, id))) = ready.pop() {
        order.extend(set.get(id).cloned());
        for child in children.remove(id).into_iter().flatten() {
            if let Some(count) = missing.get_mut(child.event_id()) {
                *count -= 1;
                if *count == 0 {
                    ready.push(Reverse(rank(child)));
                }
            }
        }
    }
    order
}

fn rank(pdu: &Pdu) -> (u64, u64, &EventId) {
    (pdu.depth(), pdu.origin_server_ts(), pdu.event_id())
}

#[cfg(test)]
mod tests;
