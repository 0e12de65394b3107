//! A state as a persistent tree from state keys to events.
//!
//! The keys are mixed, so that they spread evenly, and the tree branches 16 ways by four bits of the mixed key after
//! the other. A subtree of up to [`LEAF_MAX`] entries is one leaf; so the shape follows from the entries alone and not from
//! the way they came. Nodes are numbered and never change: an update writes the few nodes on its path and shares all
//! others, and two trees are compared by walking only where their numbers differ.

use std::{future::Future, pin::Pin, sync::Arc};

use resuni_store::StoreError;

use crate::{
    tables::Node,
    types::{EventNum, NodeNum, StateKeyNum},
};

/// The most entries of a leaf.
pub const LEAF_MAX: usize = 32;
const BITS: u32 = 4;

/// Where nodes are read from.
pub trait Nodes: Sync {
    /// The node with this number, which is not `NodeNum::EMPTY`.
    fn node(&self, num: NodeNum) -> impl Future<Output = Result<Arc<Node>, StoreError>> + Send;
}

/// A key whose event differs between two trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: StateKeyNum,
    /// Its event in the first tree.
    pub before: Option<EventNum>,
    /// Its event in the second tree.
    pub after: Option<EventNum>,
}

/// What an update made.
#[derive(Debug, Default)]
pub struct Updated {
    /// The root of the new tree; the old one if nothing changed.
    pub root: NodeNum,
    /// The nodes that have to be written.
    pub nodes: Vec<(NodeNum, Arc<Node>)>,
    /// How the number of entries changed.
    pub grown: i64,
}

type Entry = (StateKeyNum, EventNum);
/// A key and its new event, or `None` to remove it.
pub type Put = (StateKeyNum, Option<EventNum>);

/// A bijection on 64 bits (the finaliser of SplitMix64): different keys stay different, so a tree is at most 16 levels deep.
fn mix(key: StateKeyNum) -> u64 {
    let mut x = key.0;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn slot(key: StateKeyNum, level: u32) -> usize {
    (mix(key) >> (64 - BITS * (level + 1)) & 15) as usize
}

/// The event of a key.
pub async fn get(
    nodes: &impl Nodes,
    root: NodeNum,
    key: StateKeyNum,
) -> Result<Option<EventNum>, StoreError> {
    let (mut at, mut level) = (root, 0);
    while at != NodeNum::EMPTY {
        match &*nodes.node(at).await? {
            Node::Leaf(entries) => {
                let found = entries.binary_search_by_key(&mix(key), |(key, _)| mix(*key));
                return Ok(found.ok().map(|i| entries[i].1));
            }
            Node::Branch { children, .. } => at = children[slot(key, level)],
        }
        level += 1;
    }
    Ok(None)
}

/// All entries, in the order of their mixed keys.
pub async fn entries(nodes: &impl Nodes, root: NodeNum) -> Result<Vec<Entry>, StoreError> {
    let mut all = Vec::new();
    let mut todo = vec![root];
    while let Some(at) = todo.pop() {
        if at == NodeNum::EMPTY {
            continue;
        }
        match &*nodes.node(at).await? {
            Node::Leaf(entries) => all.extend_from_slice(entries),
            Node::Branch { children, .. } => todo.extend(children.iter().rev()),
        }
    }
    Ok(all)
}

/// The keys on which two trees differ.
pub async fn diff(nodes: &impl Nodes, a: NodeNum, b: NodeNum) -> Result<Vec<Change>, StoreError> {
    let mut changes = Vec::new();
    let mut todo = vec![(a, b)];
    while let Some((a, b)) = todo.pop() {
        if a == b {
            continue;
        }
        let branches = match (a, b) {
            (NodeNum::EMPTY, _) | (_, NodeNum::EMPTY) => None,
            _ => Some((nodes.node(a).await?, nodes.node(b).await?)),
        };
        match branches.as_ref().map(|(a, b)| (&**a, &**b)) {
            Some((Node::Branch { children: a, .. }, Node::Branch { children: b, .. })) => {
                todo.extend(a.iter().copied().zip(b.iter().copied()).rev());
            }
            // One of them is small: the other is hardly larger where they meet, or all of it is news.
            _ => merge_diff(
                &entries(nodes, a).await?,
                &entries(nodes, b).await?,
                &mut changes,
            ),
        }
    }
    Ok(changes)
}

/// Walks two lists in the order of their mixed keys side by side.
fn merge_diff(a: &[Entry], b: &[Entry], changes: &mut Vec<Change>) {
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    loop {
        let first = [a.peek(), b.peek()]
            .into_iter()
            .flatten()
            .map(|(key, _)| *key);
        let Some(key) = first.min_by_key(|key| mix(*key)) else {
            return;
        };
        let before = a.next_if(|entry| entry.0 == key).map(|entry| entry.1);
        let after = b.next_if(|entry| entry.0 == key).map(|entry| entry.1);
        if before != after {
            changes.push(Change { key, before, after });
        }
    }
}

/// The tree with these keys set or removed. A key may be listed once.
pub async fn update(
    nodes: &impl Nodes,
    root: NodeNum,
    mut puts: Vec<Put>,
    next: &(dyn Fn() -> NodeNum + Sync),
) -> Result<Updated, StoreError> {
    puts.sort_unstable_by_key(|(key, _)| mix(*key));
    let mut made = Vec::new();
    let (sub, grown) = update_node(nodes, root, 0, &puts, next, &mut made).await?;
    let root = sub.number(next, &mut made);
    Ok(Updated {
        root,
        nodes: made,
        grown,
    })
}

/// A subtree that is kept, or that is new and gets its number when it is known to stay.
enum Sub {
    Kept(NodeNum),
    New(Node),
}

impl Sub {
    fn number(
        self,
        next: &(dyn Fn() -> NodeNum + Sync),
        made: &mut Vec<(NodeNum, Arc<Node>)>,
    ) -> NodeNum {
        match self {
            Self::Kept(num) => num,
            Self::New(node) => {
                let num = next();
                made.push((num, Arc::new(node)));
                num
            }
        }
    }
}

type Step<'a> = Pin<Box<dyn Future<Output = Result<(Sub, i64), StoreError>> + Send + 'a>>;

fn update_node<'a, N: Nodes>(
    nodes: &'a N,
    at: NodeNum,
    level: u32,
    puts: &'a [Put],
    next: &'a (dyn Fn() -> NodeNum + Sync),
    made: &'a mut Vec<(NodeNum, Arc<Node>)>,
) -> Step<'a> {
    Box::pin(async move {
        let node = match at {
            NodeNum::EMPTY => None,
            at => Some(nodes.node(at).await?),
        };
        let (count, children) = match node.as_deref() {
            None => return Ok(update_leaf(at, &[], level, puts, next, made)),
            Some(Node::Leaf(entries)) => {
                return Ok(update_leaf(at, entries, level, puts, next, made));
            }
            Some(Node::Branch { count, children }) => (*count, children),
        };
        let mut subs: [Option<Sub>; 16] = Default::default();
        let (mut grown, mut changed) = (0, false);
        for group in puts.chunk_by(|a, b| slot(a.0, level) == slot(b.0, level)) {
            let slot = slot(group[0].0, level);
            let (sub, by) =
                update_node(nodes, children[slot], level + 1, group, next, made).await?;
            grown += by;
            changed |= !matches!(sub, Sub::Kept(num) if num == children[slot]);
            subs[slot] = Some(sub);
        }
        if !changed {
            return Ok((Sub::Kept(at), 0));
        }
        let count = count.saturating_add_signed(grown);
        if count <= LEAF_MAX as u64 {
            return Ok((Sub::New(collapse(nodes, children, subs).await?), grown));
        }
        let mut children = *children;
        for (child, sub) in children.iter_mut().zip(subs) {
            if let Some(sub) = sub {
                *child = sub.number(next, made);
            }
        }
        Ok((Sub::New(Node::Branch { count, children }), grown))
    })
}

/// The branch as a leaf. Its children are leaves, since they hold no more entries than it does.
async fn collapse(
    nodes: &impl Nodes,
    children: &[NodeNum; 16],
    subs: [Option<Sub>; 16],
) -> Result<Node, StoreError> {
    let mut all = Vec::with_capacity(LEAF_MAX);
    for (child, sub) in children.iter().zip(subs) {
        match sub {
            Some(Sub::New(Node::Leaf(entries))) => all.extend(entries),
            Some(Sub::Kept(num)) => all.extend(entries(nodes, num).await?),
            _ => all.extend(entries(nodes, *child).await?),
        }
    }
    Ok(Node::Leaf(all))
}

fn update_leaf(
    at: NodeNum,
    old: &[Entry],
    level: u32,
    puts: &[Put],
    next: &(dyn Fn() -> NodeNum + Sync),
    made: &mut Vec<(NodeNum, Arc<Node>)>,
) -> (Sub, i64) {
    let mut merged = Vec::with_capacity(old.len() + puts.len());
    let mut rest = old;
    for (key, event) in puts {
        let smaller = rest
            .iter()
            .take_while(|(old, _)| mix(*old) < mix(*key))
            .count();
        merged.extend_from_slice(&rest[..smaller]);
        rest = &rest[smaller..];
        if rest.first().is_some_and(|(old, _)| old == key) {
            rest = &rest[1..];
        }
        merged.extend(event.map(|event| (*key, event)));
    }
    merged.extend_from_slice(rest);
    if merged == old {
        return (Sub::Kept(at), 0);
    }
    let grown = merged.len() as i64 - old.len() as i64;
    (build(merged, level, next, made), grown)
}

/// A subtree of these entries, which are in order.
fn build(
    entries: Vec<Entry>,
    level: u32,
    next: &(dyn Fn() -> NodeNum + Sync),
    made: &mut Vec<(NodeNum, Arc<Node>)>,
) -> Sub {
    if entries.is_empty() {
        return Sub::Kept(NodeNum::EMPTY);
    }
    if entries.len() <= LEAF_MAX {
        return Sub::New(Node::Leaf(entries));
    }
    let mut children = [NodeNum::EMPTY; 16];
    for group in entries.chunk_by(|a, b| slot(a.0, level) == slot(b.0, level)) {
        children[slot(group[0].0, level)] =
            build(group.to_vec(), level + 1, next, made).number(next, made);
    }
    Sub::New(Node::Branch {
        count: entries.len() as u64,
        children,
    })
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, HashMap},
        sync::atomic::{AtomicU64, Ordering},
    };

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Kept(HashMap<NodeNum, Arc<Node>>, AtomicU64);

    impl Nodes for Kept {
        async fn node(&self, num: NodeNum) -> Result<Arc<Node>, StoreError> {
            Ok(self.0[&num].clone())
        }
    }

    impl Kept {
        /// Updates as `rooms` does, and says how many nodes that wrote.
        fn update(&mut self, root: NodeNum, puts: Vec<Put>) -> (NodeNum, usize) {
            let next = || NodeNum(self.1.fetch_add(1, Ordering::Relaxed) + 1);
            let updated = now(update(self, root, puts, &next)).unwrap();
            let written = updated.nodes.len();
            self.0.extend(updated.nodes);
            (updated.root, written)
        }
        fn model(&self, root: NodeNum) -> BTreeMap<u64, u64> {
            now(entries(self, root))
                .unwrap()
                .into_iter()
                .map(|(k, e)| (k.0, e.0))
                .collect()
        }
    }

    /// Nothing here waits.
    fn now<T>(future: impl Future<Output = T>) -> T {
        let mut future = Box::pin(future);
        match future
            .as_mut()
            .poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
        {
            std::task::Poll::Ready(value) => value,
            std::task::Poll::Pending => panic!("the tree waited"),
        }
    }

    type Steps = Vec<Vec<(u64, Option<u64>)>>;

    fn steps() -> impl Strategy<Value = Steps> {
        let put = (
            1..200u64,
            prop_oneof![3 => (1..50u64).prop_map(Some), 2 => Just(None)],
        );
        prop::collection::vec(prop::collection::vec(put, 0..80), 1..8)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn behaves_like_a_map(steps in steps()) {
            let mut kept = Kept::default();
            let (mut root, mut model) = (NodeNum::EMPTY, BTreeMap::new());
            let mut history = vec![(root, model.clone())];
            for step in steps {
                let step: BTreeMap<u64, Option<u64>> = step.into_iter().collect();
                for (key, event) in &step {
                    match event {
                        Some(event) => model.insert(*key, *event),
                        None => model.remove(key),
                    };
                }
                let puts = step.into_iter().map(|(k, e)| (StateKeyNum(k), e.map(EventNum))).collect();
                root = kept.update(root, puts).0;
                prop_assert_eq!(&kept.model(root), &model);
                history.push((root, model.clone()));
            }
            for key in 1..200 {
                let found = now(get(&kept, root, StateKeyNum(key))).unwrap();
                prop_assert_eq!(found.map(|e| e.0), model.get(&key).copied());
            }
            // Old trees are as they were, and any two differ as their models do.
            for (a, model_a) in &history {
                prop_assert_eq!(&kept.model(*a), model_a);
                for (b, model_b) in &history {
                    let mut changes: Vec<_> = now(diff(&kept, *a, *b)).unwrap();
                    changes.sort_by_key(|c| c.key);
                    let keys: std::collections::BTreeSet<_> = model_a.keys().chain(model_b.keys()).collect();
                    let expected: Vec<_> = keys.into_iter()
                        .map(|k| Change {
                            key: StateKeyNum(*k),
                            before: model_a.get(k).copied().map(EventNum),
                            after: model_b.get(k).copied().map(EventNum),
                        })
                        .filter(|c| c.before != c.after)
                        .collect();
                    prop_assert_eq!(changes, expected);
                }
            }
            // The shape follows from the entries: built at once, each node is the same.
            let puts = model.iter().map(|(k, e)| (StateKeyNum(*k), Some(EventNum(*e)))).collect();
            let fresh = kept.update(NodeNum::EMPTY, puts).0;
            prop_assert!(same_shape(&kept, root, fresh));
        }
    }

    fn same_shape(kept: &Kept, a: NodeNum, b: NodeNum) -> bool {
        if a == NodeNum::EMPTY || b == NodeNum::EMPTY {
            return a == b;
        }
        match (&*kept.0[&a], &*kept.0[&b]) {
            (Node::Leaf(a), Node::Leaf(b)) => a == b,
            (
                Node::Branch {
                    count: x,
                    children: a,
                },
                Node::Branch {
                    count: y,
                    children: b,
                },
            ) => x == y && a.iter().zip(b).all(|(a, b)| same_shape(kept, *a, *b)),
            _ => false,
        }
    }

    #[test]
    fn an_update_of_a_large_state_writes_its_path_only() {
        let mut kept = Kept::default();
        let all = (1..=20_000)
            .map(|k| (StateKeyNum(k), Some(EventNum(k))))
            .collect();
        let (root, written) = kept.update(NodeNum::EMPTY, all);
        assert!(written > 600, "{written}");
        let (changed, written) =
            kept.update(root, vec![(StateKeyNum(77), Some(EventNum(1_000_000)))]);
        assert!(written <= 4, "{written} nodes for one change");
        assert_eq!(now(diff(&kept, root, changed)).unwrap().len(), 1);
        let (same, written) =
            kept.update(changed, vec![(StateKeyNum(77), Some(EventNum(1_000_000)))]);
        assert_eq!((same, written), (changed, 0));
    }
}
