//! Bounded caches of rows that never change, so that a cached row is right whatever snapshot it was read from.

use std::{collections::BTreeMap, sync::Arc};

use quick_cache::{Weighter, sync::Cache};
use resuni_dag::{Lattice, Pdu};

use crate::{
    tables::{Node, Snap},
    types::{EventNum, NodeNum, RoomNum, SnapNum, StateKeyNum},
};

/// Bytes of events kept in memory.
const PDU_BYTES: u64 = 12 << 20;
/// Bytes of state tree nodes kept in memory.
const NODE_BYTES: u64 = 8 << 20;
/// States of which root, size and digest are kept in memory.
const SNAPS: usize = 16 << 10;
/// States of which the 2 KiB lattice is kept in memory.
const LATTICES: usize = 256;
/// Events of which the edges of the auth graph are kept in memory.
const EDGES: usize = 32 << 10;

/// Bytes of states without their members kept in memory.
const SETTINGS_BYTES: u64 = 4 << 20;
/// Resolutions that are remembered.
const RESOLVED: usize = 4096;

/// A state without its member events, by key.
pub(crate) type Settings = (SnapNum, Arc<BTreeMap<StateKeyNum, EventNum>>);

/// An event's place in the auth graph.
#[derive(Debug)]
pub(crate) struct AuthEdges {
    pub generation: u32,
    pub auth: Vec<EventNum>,
}

/// Weighs what is kept by its bytes.
#[derive(Clone)]
pub(crate) struct Bytes;

impl Weighter<EventNum, Pdu> for Bytes {
    fn weight(&self, _: &EventNum, pdu: &Pdu) -> u64 {
        // The JSON, its content once more, and the parsed ids.
        512 + 2 * pdu.json().len() as u64
    }
}

impl Weighter<NodeNum, Arc<Node>> for Bytes {
    fn weight(&self, _: &NodeNum, node: &Arc<Node>) -> u64 {
        match &**node {
            Node::Leaf(entries) => 64 + 16 * entries.len() as u64,
            Node::Branch { .. } => 64 + 16 * 8,
        }
    }
}

impl Weighter<RoomNum, Settings> for Bytes {
    fn weight(&self, _: &RoomNum, (_, state): &Settings) -> u64 {
        128 + 24 * state.len() as u64
    }
}

/// All of them.
pub(crate) struct Caches {
    /// Events as they were signed, without the mark of a rejection: the reader sets it from the row.
    pdus: Cache<EventNum, Pdu, Bytes>,
    nodes: Cache<NodeNum, Arc<Node>, Bytes>,
    pub snaps: Cache<SnapNum, Snap>,
    pub lattices: Cache<SnapNum, Arc<Lattice>>,
    pub edges: Cache<EventNum, Arc<AuthEdges>>,
    /// Of each room the state of which this was asked last.
    pub settings: Cache<RoomNum, Settings, Bytes>,
    /// What sets of states, each in order, resolve to.
    pub resolved: Cache<Vec<SnapNum>, SnapNum>,
}

impl Caches {
    pub fn new() -> Self {
        Self {
            pdus: Cache::with_weighter((PDU_BYTES / 2048) as usize, PDU_BYTES, Bytes),
            nodes: Cache::with_weighter((NODE_BYTES / 256) as usize, NODE_BYTES, Bytes),
            snaps: Cache::new(SNAPS),
            lattices: Cache::new(LATTICES),
            edges: Cache::new(EDGES),
            settings: Cache::with_weighter((SETTINGS_BYTES / 512) as usize, SETTINGS_BYTES, Bytes),
            resolved: Cache::new(RESOLVED),
        }
    }

    pub fn pdu(&self, num: EventNum) -> Option<Pdu> {
        self.pdus.get(&num)
    }

    pub fn keep_pdu(&self, num: EventNum, pdu: Pdu) {
        self.pdus.insert(num, pdu);
    }

    pub fn node(&self, num: NodeNum) -> Option<Arc<Node>> {
        self.nodes.get(&num)
    }

    pub fn keep_node(&self, num: NodeNum, node: Arc<Node>) {
        self.nodes.insert(num, node);
    }
}
