//! Reading rooms: one snapshot of the store, behind the caches. Everything that reads or writes a room reads through this.

use std::{collections::HashMap, sync::Arc};

use resuni_dag::Pdu;
use resuni_store::{Direction, Position, ScanRange, Snapshot, Store, StoreError};
use ruma::{EventId, OwnedEventId, OwnedUserId, RoomId, UserId};

use crate::{
    cache::{AuthEdges, Caches},
    tables::{
        EVENT_IDS, EVENTS, EventRow, HEAD, Head, NODES, Node, OUTLIERS, Place, ROOMS, RoomRow,
        SNAPS, STATE_AT, Snap, TIMELINE,
    },
    tree::{self, Change, Nodes},
    types::{
        EventHash, EventNum, NodeNum, ROOM_NUMBERS, RoomNum, STATE_KEY_NUMBERS, SnapNum,
        StateKeyNum, StoredId, USER_NUMBERS, UserNum, split_state_key_name, state_key_name,
    },
};

/// One snapshot, and the caches. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Reader {
    pub store: Store,
    pub snapshot: Snapshot,
    pub caches: Arc<Caches>,
    /// What a writer has in its batch and no snapshot shows yet. Empty for everybody else.
    pub fresh: Fresh,
}

/// Rows of a batch that is being made.
#[derive(Clone, Default)]
pub(crate) struct Fresh {
    pub ids: HashMap<EventHash, EventNum>,
    pub names: HashMap<EventNum, StoredId>,
    pub events: HashMap<EventNum, (EventRow, Pdu)>,
    pub nodes: HashMap<NodeNum, Arc<Node>>,
    pub snaps: HashMap<SnapNum, Snap>,
    pub state_key_nums: HashMap<Vec<u8>, StateKeyNum>,
    pub state_keys: HashMap<StateKeyNum, (String, String)>,
}

impl Nodes for Reader {
    async fn node(&self, num: NodeNum) -> Result<Arc<Node>, StoreError> {
        if let Some(node) = self.fresh.nodes.get(&num) {
            return Ok(node.clone());
        }
        if let Some(node) = self.caches.node(num) {
            return Ok(node);
        }
        let Some(node) = self.snapshot.get(&NODES, &num).await? else {
            return Err(missing_row(
                "state nodes",
                format!("there is no node {}", num.0),
            ));
        };
        let node = Arc::new(node);
        self.caches.keep_node(num, node.clone());
        Ok(node)
    }
}

/// A row that another row points at is not there.
pub(crate) fn missing_row(table: &'static str, what: String) -> StoreError {
    StoreError::Corrupt {
        table,
        source: resuni_store::Corrupt::new(what),
    }
}

impl Reader {
    /// The number of a room we ever had something of.
    pub async fn room_num(&self, room: &RoomId) -> Result<Option<RoomNum>, StoreError> {
        Ok(self
            .store
            .numbers()
            .find(&ROOM_NUMBERS, room.as_str().as_bytes())
            .await?
            .map(RoomNum))
    }

    pub async fn room_row(&self, room: RoomNum) -> Result<Option<RoomRow>, StoreError> {
        self.snapshot.get(&ROOMS, &room).await
    }

    pub async fn head(&self, room: RoomNum) -> Result<Option<Head>, StoreError> {
        self.snapshot.get(&HEAD, &room).await
    }

    pub async fn user_num(&self, user: &UserId) -> Result<Option<UserNum>, StoreError> {
        Ok(self
            .store
            .numbers()
            .find(&USER_NUMBERS, user.as_str().as_bytes())
            .await?
            .map(UserNum))
    }

    pub async fn user_id(&self, user: UserNum) -> Result<OwnedUserId, StoreError> {
        let name = self.store.numbers().name(&USER_NUMBERS, user.0).await?;
        name.and_then(|name| UserId::parse(std::str::from_utf8(&name).ok()?).ok())
            .ok_or_else(|| missing_row("names", format!("the user {} has no valid name", user.0)))
    }

    /// The number of an event, if it is kept at all: in the timeline, as an outlier, rejected or soft-failed.
    pub async fn event_num(&self, id: &EventId) -> Result<Option<EventNum>, StoreError> {
        self.event_num_of(EventHash::of(id)).await
    }

    pub async fn event_num_of(&self, hash: EventHash) -> Result<Option<EventNum>, StoreError> {
        match self.fresh.ids.get(&hash) {
            Some(num) => Ok(Some(*num)),
            None => self.snapshot.get(&EVENT_IDS, &hash).await,
        }
    }

    pub async fn event_row(&self, num: EventNum) -> Result<EventRow, StoreError> {
        if let Some((row, _)) = self.fresh.events.get(&num) {
            return Ok(row.clone());
        }
        let row = self.snapshot.get(&EVENTS, &num).await?;
        row.ok_or_else(|| missing_row("events", format!("there is no event {}", num.0)))
    }

    /// Its id.
    pub async fn event_id(&self, num: EventNum) -> Result<OwnedEventId, StoreError> {
        if let Some(id) = self.fresh.names.get(&num) {
            return Ok(id.to_id());
        }
        if let Some(pdu) = self.caches.pdu(num) {
            return Ok(pdu.event_id().to_owned());
        }
        Ok(self.event_row(num).await?.id.to_id())
    }

    /// The event as it was signed.
    pub async fn pdu(&self, num: EventNum) -> Result<Pdu, StoreError> {
        match self.caches.pdu(num) {
            Some(pdu) => Ok(pdu),
            None => self.pdu_of(num, &self.event_row(num).await?).await,
        }
    }

    /// The event of a row that was read already.
    pub async fn pdu_of(&self, num: EventNum, row: &EventRow) -> Result<Pdu, StoreError> {
        if let Some((_, pdu)) = self.fresh.events.get(&num) {
            return Ok(pdu.clone());
        }
        if let Some(pdu) = self.caches.pdu(num) {
            return Ok(pdu);
        }
        let json = match row.place {
            Place::Timeline { position, sub } => self
                .snapshot
                .get(&TIMELINE, &(row.room, position, sub))
                .await?
                .map(|row| row.pdu),
            _ => self.snapshot.get(&OUTLIERS, &num).await?.map(|row| row.pdu),
        };
        let json = json
            .ok_or_else(|| missing_row("timelines", format!("the event {} has no JSON", num.0)))?;
        let pdu = stored_pdu(&row.id, json)?;
        self.caches.keep_pdu(num, pdu.clone());
        Ok(pdu)
    }

    /// The event with the mark of a rejection if it was rejected, as the auth rules and state resolution want it.
    pub async fn judged(&self, num: EventNum) -> Result<Pdu, StoreError> {
        let row = self.event_row(num).await?;
        let pdu = self.pdu_of(num, &row).await?;
        Ok(if row.place == Place::Rejected {
            pdu.mark_rejected()
        } else {
            pdu
        })
    }

    /// Its place in the auth graph.
    pub async fn edges(&self, num: EventNum) -> Result<Arc<AuthEdges>, StoreError> {
        if let Some(edges) = self.caches.edges.get(&num) {
            return Ok(edges);
        }
        // Event numbers are never given out twice, so this holds even if the batch with the row is refused.
        let row = self.event_row(num).await?;
        let place = row.place;
        let edges = Arc::new(AuthEdges {
            generation: row.generation,
            auth: row.auth,
        });
        // Those of an event that was not checked are not all known: they are not final.
        if place != Place::Unchecked {
            self.caches.edges.insert(num, edges.clone());
        }
        Ok(edges)
    }

    /// Root, size and digest of a state.
    pub async fn snap(&self, num: SnapNum) -> Result<Snap, StoreError> {
        if num == SnapNum::EMPTY {
            return Ok(Snap {
                root: NodeNum::EMPTY,
                count: 0,
                digest: resuni_dag::Lattice::empty().digest().0,
                partial: false,
            });
        }
        if let Some(snap) = self.fresh.snaps.get(&num) {
            return Ok(*snap);
        }
        if let Some(snap) = self.caches.snaps.get(&num) {
            return Ok(snap);
        }
        let snap = self.snapshot.get(&SNAPS, &num).await?;
        let snap =
            snap.ok_or_else(|| missing_row("states", format!("there is no state {}", num.0)))?;
        self.caches.snaps.insert(num, snap);
        Ok(snap)
    }

    /// The number of a pair of event type and state key, if any state ever held it.
    pub async fn state_key_num(
        &self,
        kind: &str,
        state_key: &str,
    ) -> Result<Option<StateKeyNum>, StoreError> {
        let name = state_key_name(kind, state_key);
        if let Some(num) = self.fresh.state_key_nums.get(&name) {
            return Ok(Some(*num));
        }
        Ok(self
            .store
            .numbers()
            .find(&STATE_KEY_NUMBERS, &name)
            .await?
            .map(StateKeyNum))
    }

    /// Event type and state key.
    pub async fn state_key(&self, num: StateKeyNum) -> Result<(String, String), StoreError> {
        if let Some(names) = self.fresh.state_keys.get(&num) {
            return Ok(names.clone());
        }
        let name = self.store.numbers().name(&STATE_KEY_NUMBERS, num.0).await?;
        name.as_deref()
            .and_then(split_state_key_name)
            .map(|(kind, key)| (kind.into_owned(), key.to_owned()))
            .ok_or_else(|| {
                missing_row(
                    "names",
                    format!("the state key {} has no valid name", num.0),
                )
            })
    }

    /// The event that a state holds for this type and key.
    pub async fn state_event(
        &self,
        snap: SnapNum,
        kind: &str,
        key: &str,
    ) -> Result<Option<EventNum>, StoreError> {
        if snap == SnapNum::EMPTY {
            return Ok(None);
        }
        let Some(key) = self.state_key_num(kind, key).await? else {
            return Ok(None);
        };
        tree::get(self, self.snap(snap).await?.root, key).await
    }

    /// The same, as an event.
    pub async fn state_pdu(
        &self,
        snap: SnapNum,
        kind: &str,
        key: &str,
    ) -> Result<Option<Pdu>, StoreError> {
        match self.state_event(snap, kind, key).await? {
            Some(num) => self.pdu(num).await.map(Some),
            None => Ok(None),
        }
    }

    /// A whole state. Proportional to its size.
    pub async fn state_entries(
        &self,
        snap: SnapNum,
    ) -> Result<Vec<(StateKeyNum, EventNum)>, StoreError> {
        tree::entries(self, self.snap(snap).await?.root).await
    }

    /// The keys on which two states differ. Proportional to the difference.
    pub async fn state_diff(&self, a: SnapNum, b: SnapNum) -> Result<Vec<Change>, StoreError> {
        if a == b {
            return Ok(Vec::new());
        }
        tree::diff(self, self.snap(a).await?.root, self.snap(b).await?.root).await
    }

    /// The current state of a room as it was at a position of the log.
    pub async fn state_at(&self, room: RoomNum, position: Position) -> Result<SnapNum, StoreError> {
        let range =
            ScanRange::before(&(room, Position(position.0.saturating_add(1)))).within(&room);
        let rows = self
            .snapshot
            .scan(&STATE_AT, range, Direction::Backward, 1)
            .await?;
        Ok(rows.first().map_or(SnapNum::EMPTY, |(_, snap)| *snap))
    }
}

/// An event from our own rows.
pub(crate) fn stored_pdu(id: &StoredId, json: String) -> Result<Pdu, StoreError> {
    Pdu::from_canonical(id.to_id(), json)
        .map_err(|error| missing_row("events", format!("the event {id:?}: {error}")))
}
