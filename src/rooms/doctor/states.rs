//! States and their trees.

use std::collections::HashMap;

use resuni_store::ScanRange;

use super::{Doctor, Rows};
use crate::{
    error::RoomError,
    tables::{NODES, Node, SNAPS},
    tree::LEAF_MAX,
    types::NodeNum,
};

impl Doctor<'_> {
    /// Each tree has the nodes that it names, and as many entries as it says.
    pub(super) async fn states(&mut self) -> Result<(), RoomError> {
        let mut counts = HashMap::from([(NodeNum::EMPTY, 0)]);
        let mut rows = Rows::of(&SNAPS, ScanRange::all());
        while let Some(page) = rows.next(&self.reader).await? {
            for (num, snap) in page {
                self.count(snap.root, &mut counts).await?;
                let count = counts.get(&snap.root).copied();
                self.expect(count == Some(snap.count), || {
                    format!(
                        "the state {} says it has {} entries; there are {count:?}",
                        num.0, snap.count
                    )
                });
            }
        }
        Ok(())
    }

    /// Counts the entries below a node. A node that many trees share is read once.
    async fn count(
        &mut self,
        root: NodeNum,
        counts: &mut HashMap<NodeNum, u64>,
    ) -> Result<(), RoomError> {
        let mut todo = vec![root];
        while let Some(num) = todo.last().copied() {
            if counts.contains_key(&num) {
                todo.pop();
                continue;
            }
            let Some(node) = self.reader.snapshot.get(&NODES, &num).await? else {
                self.find(|| format!("the state node {} is missing", num.0));
                counts.insert(num, 0);
                continue;
            };
            match node {
                Node::Leaf(entries) => {
                    self.expect((1..=LEAF_MAX).contains(&entries.len()), || {
                        format!("the state node {} has {} entries", num.0, entries.len())
                    });
                    counts.insert(num, entries.len() as u64);
                }
                Node::Branch { count, children } => {
                    let unknown: Vec<NodeNum> = children
                        .into_iter()
                        .filter(|child| !counts.contains_key(child))
                        .collect();
                    if !unknown.is_empty() {
                        todo.extend(unknown);
                        continue;
                    }
                    let sum = children.iter().filter_map(|child| counts.get(child)).sum();
                    self.expect(count == sum, || {
                        format!("the state node {} says {count} and has {sum}", num.0)
                    });
                    counts.insert(num, sum);
                }
            }
        }
        Ok(())
    }
}
