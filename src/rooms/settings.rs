//! A room's state without its members: what a client that loads members lazily is told of a large room, for a cost that
//! does not grow with its members.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use resuni_store::StoreError;

use crate::{
    error::RoomError,
    reader::{Reader, missing_row},
    state_at::StateChange,
    tree,
    types::{EventNum, RoomNum, STATE_KEY_NUMBERS, SnapNum, StateKeyNum, split_state_key_name},
    view::RoomView,
};

const MEMBER: &str = "m.room.member";

impl RoomView {
    /// As [`RoomView::state_diff`], without the member events of all but these users (spec, "Lazy-loading room members").
    /// From nothing to a state, it costs as much as that state has events that are no members, and as it differs from
    /// the one that was asked for before.
    pub async fn state_diff_lazily(
        &self,
        before: SnapNum,
        after: SnapNum,
        users: &BTreeSet<&str>,
    ) -> Result<Vec<StateChange>, RoomError> {
        let mut wanted = BTreeSet::new();
        for user in users {
            wanted.extend(self.reader.state_key_num(MEMBER, user).await?);
        }
        if before == SnapNum::EMPTY {
            return Ok(self.whole_lazily(after, wanted).await?);
        }
        let mut changes = Vec::new();
        for change in self.reader.state_diff(before, after).await? {
            if wanted.contains(&change.key) || !self.reader.is_member_key(change.key).await? {
                changes.push(StateChange {
                    before: change.before,
                    after: change.after,
                });
            }
        }
        Ok(changes)
    }

    async fn whole_lazily(
        &self,
        snap: SnapNum,
        wanted: BTreeSet<StateKeyNum>,
    ) -> Result<Vec<StateChange>, StoreError> {
        let settings = self.reader.settings(self.num(), snap).await?;
        let mut events: Vec<EventNum> = settings.values().copied().collect();
        let root = self.reader.snap(snap).await?.root;
        for key in wanted {
            events.extend(tree::get(&self.reader, root, key).await?);
        }
        // Oldest first, as far as numbers tell.
        events.sort_unstable();
        let set = |event| StateChange {
            before: None,
            after: Some(event),
        };
        Ok(events.into_iter().map(set).collect())
    }
}

impl Reader {
    /// A state without its members: from that of the room which was asked for last, and the difference.
    pub(crate) async fn settings(
        &self,
        room: RoomNum,
        snap: SnapNum,
    ) -> Result<Arc<BTreeMap<StateKeyNum, EventNum>>, StoreError> {
        let known = self.caches.settings.get(&room);
        let (from, known) = known.unwrap_or_else(|| (SnapNum::EMPTY, Arc::default()));
        if from == snap {
            return Ok(known);
        }
        let mut settings = BTreeMap::clone(&known);
        for change in self.state_diff(from, snap).await? {
            if self.is_member_key(change.key).await? {
                continue;
            }
            match change.after {
                Some(event) => settings.insert(change.key, event),
                None => settings.remove(&change.key),
            };
        }
        let settings = Arc::new(settings);
        let entry = (snap, settings.clone());
        self.caches.settings.insert(room, entry);
        Ok(settings)
    }

    async fn is_member_key(&self, key: StateKeyNum) -> Result<bool, StoreError> {
        let name = self.store.numbers().name(&STATE_KEY_NUMBERS, key.0).await?;
        let kind = name.as_deref().and_then(split_state_key_name);
        kind.map(|(kind, _)| kind == MEMBER).ok_or_else(|| {
            missing_row(
                "names",
                format!("the state key {} has no valid name", key.0),
            )
        })
    }
}
