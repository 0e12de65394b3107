//! A batch in the making: what a writer has decided so far, readable as if it were written.

use std::{collections::HashMap, sync::Arc};

use resuni_dag::{Lattice, Pdu, RoomRules};
use resuni_store::{Applied, Batch, CommitError, Position, StoreError};
use ruma::{EventId, UserId};

use crate::{
    accumulator::move_between,
    cache::AuthEdges,
    reader::Reader,
    relations::index,
    rooms::Rooms,
    tables::{EVENT_IDS, EventRow, LATTICE, NODES, Place, SNAPS, Snap},
    tree::{self, Put},
    types::{
        EVENT_NUMBERS, EventNum, NODE_NUMBERS, NodeNum, ROOM_NUMBERS, RoomNum, SERVER_NUMBERS,
        SNAP_NUMBERS, STATE_KEY_NUMBERS, ServerNum, SnapNum, StateKeyNum, StoredId, USER_NUMBERS,
        UserNum, state_key_name,
    },
};

/// A writer's snapshot and batch. It lives under the lane of its room.
pub(crate) struct Work<'a> {
    pub rooms: &'a Rooms,
    pub reader: Reader,
    pub batch: Batch,
    pub rules: &'static RoomRules,
    /// The state of which the `LATTICE` row is, and its room: where lattices of other states are computed from.
    anchor: Option<(RoomNum, SnapNum)>,
    lattices: Vec<(SnapNum, Arc<Lattice>)>,
    /// Resolutions whose outcome is in this batch or was there before.
    pub resolved: Vec<(Vec<SnapNum>, SnapNum)>,
    /// Relations that this batch brings or takes away.
    pub relations: index::Pending,
    /// What is written is judged again later.
    pub era: Era,
}

/// Whether events that are written now have to be judged again when the room's state is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Era {
    /// They need not be.
    Whole,
    /// They do.
    Partial,
    /// History: if the state before it is partial.
    History,
}

impl<'a> Work<'a> {
    pub fn new(
        rooms: &'a Rooms,
        reader: Reader,
        rules: &'static RoomRules,
        anchor: Option<(RoomNum, SnapNum)>,
    ) -> Self {
        Self {
            rooms,
            reader,
            batch: Batch::new(),
            rules,
            anchor,
            lattices: Vec::new(),
            resolved: Vec::new(),
            relations: index::Pending::default(),
            era: Era::Whole,
        }
    }

    /// Positions of the log, reserved when nothing is left to be waited for. They are given up if the batch is not applied.
    pub fn positions(&mut self, count: usize) -> Vec<Position> {
        let reservation = self
            .rooms
            .store
            .reserve(u32::try_from(count).unwrap_or(u32::MAX));
        let positions = reservation.iter().collect();
        self.batch.attach(reservation);
        positions
    }

    pub async fn room(&mut self, room: &ruma::RoomId) -> Result<RoomNum, StoreError> {
        let name = room.as_str().as_bytes();
        self.rooms
            .store
            .numbers()
            .assign(&ROOM_NUMBERS, name, &mut self.batch)
            .await
            .map(RoomNum)
    }

    pub async fn user(&mut self, user: &UserId) -> Result<UserNum, StoreError> {
        let name = user.as_str().as_bytes();
        self.rooms
            .store
            .numbers()
            .assign(&USER_NUMBERS, name, &mut self.batch)
            .await
            .map(UserNum)
    }

    pub async fn server(&mut self, server: &str) -> Result<ServerNum, StoreError> {
        self.rooms
            .store
            .numbers()
            .assign(&SERVER_NUMBERS, server.as_bytes(), &mut self.batch)
            .await
            .map(ServerNum)
    }

    pub async fn state_key(&mut self, kind: &str, key: &str) -> Result<StateKeyNum, StoreError> {
        let name = state_key_name(kind, key);
        if let Some(num) = self.reader.fresh.state_key_nums.get(&name) {
            return Ok(*num);
        }
        let num = self
            .rooms
            .store
            .numbers()
            .assign(&STATE_KEY_NUMBERS, &name, &mut self.batch)
            .await?;
        let num = StateKeyNum(num);
        self.reader.fresh.state_key_nums.insert(name, num);
        self.reader
            .fresh
            .state_keys
            .insert(num, (kind.to_owned(), key.to_owned()));
        Ok(num)
    }

    /// The number of an event; a new one if we never had it.
    pub async fn event(&mut self, id: &EventId) -> Result<EventNum, StoreError> {
        if let Some(num) = self.reader.event_num(id).await? {
            return Ok(num);
        }
        Ok(self.new_event(id))
    }

    /// A number for an event that we certainly don't have: one that we have just made.
    pub fn new_event(&mut self, id: &EventId) -> EventNum {
        let name = StoredId::of(id);
        let key = name.key();
        let num = EventNum(self.rooms.store.numbers().next(&EVENT_NUMBERS));
        self.reader.fresh.ids.insert(key, num);
        self.reader.fresh.names.insert(num, name);
        self.batch.put(&EVENT_IDS, &key, &num);
        num
    }

    /// From here on this event reads as if it were written.
    pub fn remember(&mut self, num: EventNum, row: EventRow, pdu: Pdu) {
        if row.place != Place::Unchecked {
            let edges = AuthEdges {
                generation: row.generation,
                auth: row.auth.clone(),
            };
            self.reader.caches.edges.insert(num, Arc::new(edges));
        }
        self.reader.fresh.events.insert(num, (row, pdu));
    }

    /// A state with some keys changed: `base` itself if they already are so. What follows from a partial state is partial.
    pub async fn update_state(
        &mut self,
        base: SnapNum,
        puts: Vec<Put>,
    ) -> Result<SnapNum, StoreError> {
        let partial = self.is_partial(base).await?;
        self.make_state(base, puts, partial).await
    }

    /// Whether members are missing from a state.
    pub async fn is_partial(&self, snap: SnapNum) -> Result<bool, StoreError> {
        Ok(self.reader.snap(snap).await?.partial)
    }

    /// The state `base` with some keys changed, said to be partial or whole.
    pub async fn make_state(
        &mut self,
        base: SnapNum,
        puts: Vec<Put>,
        partial: bool,
    ) -> Result<SnapNum, StoreError> {
        let old = self.reader.snap(base).await?;
        let numbers = self.rooms.store.numbers();
        let next = || NodeNum(numbers.next(&NODE_NUMBERS));
        let updated = tree::update(&self.reader, old.root, puts, &next).await?;
        if updated.root == old.root && partial == old.partial {
            return Ok(base);
        }
        for (num, node) in updated.nodes {
            self.batch.put(&NODES, &num, &node);
            self.reader.caches.keep_node(num, node.clone());
            self.reader.fresh.nodes.insert(num, node);
        }
        let mut lattice = Lattice::clone(&*self.lattice(base).await?);
        move_between(&self.reader, &mut lattice, old.root, updated.root).await?;
        let num = SnapNum(numbers.next(&SNAP_NUMBERS));
        let count = old.count.saturating_add_signed(updated.grown);
        let snap = Snap {
            root: updated.root,
            count,
            digest: lattice.digest().0,
            partial,
        };
        self.batch.put(&SNAPS, &num, &snap);
        self.reader.fresh.snaps.insert(num, snap);
        self.lattices.push((num, Arc::new(lattice)));
        Ok(num)
    }

    /// The state with these entries and no others, sharing what it can with `near`.
    pub async fn state_of(
        &mut self,
        near: SnapNum,
        entries: Vec<(StateKeyNum, EventNum)>,
        partial: bool,
    ) -> Result<SnapNum, StoreError> {
        let mut puts: HashMap<StateKeyNum, Option<EventNum>> = self
            .reader
            .state_entries(near)
            .await?
            .into_iter()
            .map(|(key, _)| (key, None))
            .collect();
        puts.extend(entries.into_iter().map(|(key, event)| (key, Some(event))));
        self.make_state(near, puts.into_iter().collect(), partial)
            .await
    }

    /// The accumulator behind a state's digest: kept, or computed from the nearest one that is.
    pub async fn lattice(&self, snap: SnapNum) -> Result<Arc<Lattice>, StoreError> {
        if snap == SnapNum::EMPTY {
            return Ok(Arc::new(Lattice::empty()));
        }
        if let Some((_, lattice)) = self.lattices.iter().find(|(num, _)| *num == snap) {
            return Ok(lattice.clone());
        }
        if let Some(lattice) = self.reader.caches.lattices.get(&snap) {
            return Ok(lattice);
        }
        let (mut lattice, from) = match self.anchor {
            Some((room, anchor)) => (self.anchored(room).await?, anchor),
            None => (Lattice::empty(), SnapNum::EMPTY),
        };
        let (from, to) = (
            self.reader.snap(from).await?.root,
            self.reader.snap(snap).await?.root,
        );
        move_between(&self.reader, &mut lattice, from, to).await?;
        Ok(Arc::new(lattice))
    }

    async fn anchored(&self, room: RoomNum) -> Result<Lattice, StoreError> {
        let row = self.reader.snapshot.get(&LATTICE, &room).await?;
        row.and_then(|bytes| Lattice::from_bytes(&bytes))
            .ok_or_else(|| {
                crate::reader::missing_row("lattices", format!("the room {} has none", room.0))
            })
    }

    /// What these states are known to resolve to.
    pub fn known_resolution(&self, states: &Vec<SnapNum>) -> Option<SnapNum> {
        let own = self
            .resolved
            .iter()
            .find(|(known, _)| known == states)
            .map(|(_, outcome)| *outcome);
        own.or_else(|| self.reader.caches.resolved.get(states))
    }

    /// Applies the batch. What it taught is then remembered for all.
    pub async fn commit(mut self) -> Result<Applied, CommitError> {
        index::settle(&mut self).await?;
        let applied = self.rooms.store.commit(self.batch).await?;
        let caches = &self.reader.caches;
        for (num, snap) in self.reader.fresh.snaps {
            caches.snaps.insert(num, snap);
        }
        for (num, lattice) in self.lattices {
            caches.lattices.insert(num, lattice);
        }
        for (states, outcome) in self.resolved {
            caches.resolved.insert(states, outcome);
        }
        for (num, (row, pdu)) in self.reader.fresh.events {
            if row.state_key.is_some() {
                caches.keep_pdu(num, pdu);
            }
        }
        Ok(applied)
    }

    /// Whether the batch is large enough to be written before more is added, where that is allowed.
    pub fn is_large(&self) -> bool {
        self.batch.bytes() > Batch::MAX_BYTES / 16
    }
}
