//! Threads of any depth (MSC2836): an event names its parent in `m.relationship`, and readers walk up and down from one.
//!
//! Unlike the relations of the specification these are also known of events that are here without their place in the
//! history (outliers), since a thread is mostly older than the time a server came into the room.
//!
//! * `walk`: which events of a thread a reader is shown;
//! * here: what is written, and what is known of an event's children.

mod walk;

use std::collections::BTreeMap;

use resuni_dag::Pdu;
use resuni_store::{Batch, Direction, ScanRange, StoreError, Table, TableInfo, versioned};
use ruma::{EventId, OwnedEventId, serde::Base64};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use walk::{Reader, RelationshipsQuery, Walked};

use crate::{
    delta::Judged,
    error::RoomError,
    events::NewEvent,
    reader,
    rooms::Rooms,
    tables::{EVENT_IDS, EVENTS, Place},
    types::{EventHash, EventNum, RoomNum},
    view::{RoomView, StoredEvent},
    work::Work,
};

/// Children by their parent, of events in the timeline and of outliers.
pub static CHILDREN: Table<(RoomNum, EventHash, EventNum), Child> =
    Table::new(0x0268, "children of events");
/// What other servers said of an event's children.
pub static TOLD_CHILDREN: Table<(RoomNum, EventHash), ToldChildren> =
    Table::new(0x0269, "children by what others say");

/// All tables of this file, for the doctor.
pub const TABLES: &[TableInfo] = &[CHILDREN.info(), TOLD_CHILDREN.info()];

/// Children of one event that are counted and shown.
const MAX_CHILDREN: usize = 500;
/// Bytes of a `rel_type`: longer ones relate to nothing.
const NAME_BYTES: usize = 255;
/// Types of children that another server's word is kept of.
const MAX_TYPES: usize = 20;

/// A row of [`CHILDREN`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    /// `m.relationship.rel_type`.
    pub rel_type: String,
}
versioned!(Child, 1);

/// The children of an event: what `unsigned` says of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Children {
    /// How many there are, by their type.
    pub children: BTreeMap<String, u64>,
    /// Base64 of the SHA-256 over their sorted ids.
    #[serde(rename = "children_hash")]
    pub hash: String,
}

impl Children {
    fn count(&self) -> u64 {
        self.children
            .values()
            .fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// Whether another server's word is short enough to be kept.
    fn is_sound(&self) -> bool {
        self.children.len() <= MAX_TYPES
            && self.hash.len() <= 64
            && self.children.keys().all(|name| name.len() <= NAME_BYTES)
    }
}

/// A row of [`TOLD_CHILDREN`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldChildren {
    /// The most that anybody has told of.
    pub most: Children,
    /// Whether they were asked for since: "mark the event as explored afterwards".
    pub explored: bool,
}
versioned!(ToldChildren, 1);

#[derive(Deserialize)]
struct Content {
    #[serde(rename = "m.relationship")]
    relationship: Relationship,
}

#[derive(Deserialize)]
struct Relationship {
    rel_type: String,
    event_id: OwnedEventId,
}

fn relationship_in(content: &str) -> Option<Relationship> {
    if !content.contains("m.relationship") {
        return None;
    }
    let Content { relationship } = serde_json::from_str(content).ok()?;
    (relationship.rel_type.len() <= NAME_BYTES).then_some(relationship)
}

/// The parent of an event. None is its own.
fn parent_of(pdu: &Pdu) -> Option<(OwnedEventId, String)> {
    let found = relationship_in(pdu.content().get())?;
    (found.event_id != pdu.event_id()).then_some((found.event_id, found.rel_type))
}

/// Writes that an event is the child of another, or that it is none because it was refused. That it is redacted changes
/// nothing: "the relationship is preserved", so that a thread does not fall apart.
pub(crate) fn index(work: &mut Work<'_>, room: RoomNum, event: &Judged) {
    if !work.rooms.keeps_relationships() {
        return;
    }
    let Some((parent, rel_type)) = parent_of(&event.pdu) else {
        return;
    };
    let key = (room, EventHash::of(&parent), event.num);
    match event.place {
        Place::Timeline { .. } | Place::Outlier => {
            work.batch.put(&CHILDREN, &key, &Child { rel_type });
        }
        _ => work.batch.delete(&CHILDREN, &key),
    }
}

/// What our own users may relate to: "servers MUST check that they have the event in question", and it is of this room.
pub(crate) async fn check(
    rooms: &Rooms,
    reader: &reader::Reader,
    room: RoomNum,
    event: &NewEvent,
) -> Result<(), RoomError> {
    if !rooms.keeps_relationships() {
        return Ok(());
    }
    let Some(found) = relationship_in(event.content.get()) else {
        return Ok(());
    };
    let known = match reader.event_num(&found.event_id).await? {
        Some(num) => {
            let row = reader.event_row(num).await?;
            row.room == room && matches!(row.place, Place::Timeline { .. } | Place::Outlier)
        }
        None => false,
    };
    match known {
        true => Ok(()),
        false => Err(RoomError::bad(
            "M_UNKNOWN",
            "an event relates to events of its own room that this server knows",
        )),
    }
}

impl Rooms {
    /// From now on relationships are written down, so that threads can be walked.
    pub fn keep_relationships(&self) {
        self.relationships
            .store(true, std::sync::atomic::Ordering::Relaxed);
    }

    pub(crate) fn keeps_relationships(&self) -> bool {
        self.relationships
            .load(std::sync::atomic::Ordering::Relaxed)
    }

    /// The room of an event, if the event is here.
    pub async fn room_with(&self, event: &EventId) -> Result<Option<RoomView>, RoomError> {
        let snapshot = self.store().snapshot();
        let Some(num) = snapshot.get(&EVENT_IDS, &EventHash::of(event)).await? else {
            return Ok(None);
        };
        match snapshot.get(&EVENTS, &num).await? {
            Some(row) => self.view_num(row.room).await,
            None => Ok(None),
        }
    }

    /// Keeps another server's word on the children of an event, if it tells of more than was known; and that they were
    /// asked for.
    pub async fn note_children(
        &self,
        view: &RoomView,
        event: &EventId,
        told: Option<Children>,
        asked: bool,
    ) -> Result<(), RoomError> {
        let key = (view.num(), EventHash::of(event));
        let old = self.store().snapshot().get(&TOLD_CHILDREN, &key).await?;
        let told = told.filter(Children::is_sound);
        let mut new = match (old.clone(), told) {
            (Some(old), Some(told)) if told.count() > old.most.count() => ToldChildren {
                most: told,
                explored: false,
            },
            (Some(old), _) => old,
            (None, Some(told)) if told.count() > 0 => ToldChildren {
                most: told,
                explored: false,
            },
            (None, _) => return Ok(()),
        };
        new.explored |= asked;
        if old.as_ref() != Some(&new) {
            let mut batch = Batch::new();
            batch.put(&TOLD_CHILDREN, &key, &new);
            self.store().commit(batch).await?.durable().await?;
        }
        Ok(())
    }
}

impl RoomView {
    async fn child_rows(&self, event: &EventId) -> Result<Vec<(EventNum, String)>, StoreError> {
        let range = ScanRange::prefix(&(self.num(), EventHash::of(event)));
        let rows = self
            .snapshot()
            .scan(&CHILDREN, range, Direction::Forward, MAX_CHILDREN)
            .await?;
        let rows = rows.into_iter();
        Ok(rows
            .map(|((_, _, num), child)| (num, child.rel_type))
            .collect())
    }

    /// The children of an event that are here, oldest first.
    async fn answers_to(&self, event: &EventId) -> Result<Vec<StoredEvent>, RoomError> {
        let mut children = Vec::new();
        for (num, _) in self.child_rows(event).await? {
            let row = self.reader.event_row(num).await?;
            let pdu = self.reader.pdu_of(num, &row).await?;
            children.push(StoredEvent { num, row, pdu });
        }
        children.sort_by(|a, b| {
            let time = |event: &StoredEvent| event.pdu.origin_server_ts();
            (time(a), a.pdu.event_id()).cmp(&(time(b), b.pdu.event_id()))
        });
        Ok(children)
    }

    async fn tally(&self, event: &EventId) -> Result<Children, RoomError> {
        let mut tally = Children::default();
        let mut ids = Vec::new();
        for (num, rel_type) in self.child_rows(event).await? {
            *tally.children.entry(rel_type).or_default() += 1;
            ids.push(self.reader.event_id(num).await?.to_string());
        }
        ids.sort_unstable();
        let hash = Sha256::digest(ids.concat());
        tally.hash = Base64::<ruma::serde::base64::Standard>::new(hash.to_vec()).encode();
        Ok(tally)
    }

    /// What is known of an event's children, here or by the word of others, whichever is more; and whether there are
    /// some that nobody was asked for.
    pub async fn children_of(&self, event: &EventId) -> Result<(Children, bool), RoomError> {
        let here = self.tally(event).await?;
        let key = (self.num(), EventHash::of(event));
        let told = self.snapshot().get(&TOLD_CHILDREN, &key).await?;
        let Some(told) = told else {
            return Ok((here, false));
        };
        let differs =
            told.most.count() != here.count() || (told.most.hash != here.hash && here.count() > 0);
        let unexplored = differs && !told.explored;
        Ok(match told.most.count() > here.count() {
            true => (told.most, unexplored),
            false => (here, unexplored),
        })
    }
}
