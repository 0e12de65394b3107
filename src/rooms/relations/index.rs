//! What is derived from relations, so that a count, the newest edit or the newest event of a thread is a point read
//! however many relations there are.
//!
//! A row is there as long as its event is not redacted ("Aggregations of child events": when a child event is redacted,
//! the relationship is broken). Everything is written when the batch is whole ([`settle`]), because one batch may hold a
//! relation and its redaction, or many events of one thread.

use std::collections::{BTreeMap, BTreeSet};

use resuni_dag::Pdu;
use resuni_store::{Direction, Position, ScanRange, StoreError, Table, TableInfo, versioned};
use serde::{Deserialize, Serialize};

use crate::{
    tables::{RELATIONS, Relation},
    types::{EventHash, EventNum, RoomNum, UserNum},
    work::Work,
};

/// Relations by their type, in timeline order, and who sent them.
pub static BY_TYPE: Table<(RoomNum, EventHash, String, Position, u32), UserNum> =
    Table::new(0x0250, "relations by type");
/// How much relates to an event. No row: nothing does.
pub static AGGREGATES: Table<(RoomNum, EventHash), Aggregate> = Table::new(0x0251, "aggregates");
/// Edits by their sender, oldest first as the spec counts: by `origin_server_ts`, then by event id.
pub static EDITS: Table<(RoomNum, EventHash, UserNum, u64, String), EventNum> =
    Table::new(0x0252, "edits");
/// Threads by the place of their newest event.
pub static THREADS: Table<(RoomNum, Position, u32), ThreadRow> = Table::new(0x0253, "threads");
/// How many events of a thread are a user's.
pub static PARTICIPANTS: Table<(RoomNum, EventHash, UserNum), u64> =
    Table::new(0x0254, "participants of threads");
/// Annotations by their sender, event type and key, so that nobody sends the same one twice.
pub static ANNOTATIONS: Table<(RoomNum, EventHash, UserNum, String, EventNum), ()> =
    Table::new(0x0255, "annotations");

/// All tables of this file, for the doctor.
pub const TABLES: &[TableInfo] = &[
    BY_TYPE.info(),
    AGGREGATES.info(),
    EDITS.info(),
    THREADS.info(),
    PARTICIPANTS.info(),
    ANNOTATIONS.info(),
];

/// A row of [`AGGREGATES`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aggregate {
    /// Relations of any type.
    pub all: u64,
    /// Edits that are well formed.
    pub edits: u64,
    /// `m.reference`.
    pub references: u64,
    /// `m.thread`.
    pub threaded: u64,
    /// The place of the newest event of the thread.
    pub newest: Option<(Position, u32)>,
}
versioned!(Aggregate, 1);

/// A row of [`THREADS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadRow {
    /// The event that the thread hangs on.
    pub root: EventHash,
}
versioned!(ThreadRow, 1);

/// An event that relates to another.
#[derive(Debug, Clone)]
pub(crate) struct Related {
    pub target: EventHash,
    pub relation: Relation,
    /// Set for an edit that has what an edit needs.
    pub edit: Option<(u64, String)>,
}

impl Related {
    pub fn of(pdu: &Pdu, event: EventNum, sender: UserNum) -> Option<Self> {
        let (target, relation) = super::relation_of(pdu, event, sender)?;
        let edit = (relation.rel_type == "m.replace" && is_edit(pdu))
            .then(|| (pdu.origin_server_ts(), pdu.event_id().to_string()));
        Some(Self {
            target,
            relation,
            edit,
        })
    }
}

/// "Validity of replacement events", as far as the edit itself tells: it is no state event, and has its new content
/// (which an encrypted one has inside).
fn is_edit(pdu: &Pdu) -> bool {
    let new_content = || {
        crate::fields::member(pdu.content().get(), "m.new_content")
            .is_some_and(|content| content.starts_with('{'))
    };
    !pdu.is_state() && (pdu.kind() == "m.room.encrypted" || new_content())
}

/// The name under which an annotation is found again.
pub(crate) fn annotation(kind: &str, key: &str) -> String {
    format!("{kind}\0{key}")
}

type Spot = (RoomNum, EventHash, Position, u32);

/// Relations that a batch brings or takes away.
#[derive(Default)]
pub(crate) struct Pending(BTreeMap<Spot, Change>);

struct Change {
    related: Related,
    /// Whether the rows were there before the batch, and whether they are after it.
    before: bool,
    after: bool,
}

impl Pending {
    pub fn add(&mut self, room: RoomNum, spot: (Position, u32), related: Related) {
        self.set(room, spot, related, true);
    }

    pub fn remove(&mut self, room: RoomNum, spot: (Position, u32), related: Related) {
        self.set(room, spot, related, false);
    }

    fn set(&mut self, room: RoomNum, (position, sub): (Position, u32), related: Related, to: bool) {
        let change = self
            .0
            .entry((room, related.target, position, sub))
            .or_insert(Change {
                related,
                before: !to,
                after: to,
            });
        change.after = to;
    }
}

/// What changes for one target.
#[derive(Default)]
struct Turn {
    all: i64,
    edits: i64,
    references: i64,
    threaded: i64,
    /// Events of the thread that came, and that went.
    came: BTreeSet<(Position, u32)>,
    went: BTreeSet<(Position, u32)>,
}

/// Writes what the batch's relations change. Called once, when nothing more is added to the batch.
pub(crate) async fn settle(work: &mut Work<'_>) -> Result<(), StoreError> {
    let pending = std::mem::take(&mut work.relations);
    let mut turns: BTreeMap<(RoomNum, EventHash), Turn> = BTreeMap::new();
    let mut participants: BTreeMap<(RoomNum, EventHash, UserNum), i64> = BTreeMap::new();
    for (spot, change) in pending.0 {
        let by = match (change.before, change.after) {
            (false, true) => 1,
            (true, false) => -1,
            _ => continue,
        };
        rows(work, spot, &change.related, by > 0);
        let (room, target, position, sub) = spot;
        let turn = turns.entry((room, target)).or_default();
        turn.all += by;
        turn.edits += if change.related.edit.is_some() { by } else { 0 };
        match change.related.relation.rel_type.as_str() {
            "m.reference" => turn.references += by,
            "m.thread" => {
                turn.threaded += by;
                let places = if by > 0 {
                    &mut turn.came
                } else {
                    &mut turn.went
                };
                places.insert((position, sub));
                *participants
                    .entry((room, target, change.related.relation.sender))
                    .or_default() += by;
            }
            _ => {}
        }
    }
    for (key, by) in participants {
        let old = work.reader.snapshot.get(&PARTICIPANTS, &key).await?;
        match old.unwrap_or(0).saturating_add_signed(by) {
            0 => work.batch.delete(&PARTICIPANTS, &key),
            count => work.batch.put(&PARTICIPANTS, &key, &count),
        }
    }
    for (key, turn) in turns {
        aggregate(work, key, turn).await?;
    }
    Ok(())
}

/// The rows of one relation.
fn rows(work: &mut Work<'_>, (room, target, position, sub): Spot, related: &Related, there: bool) {
    let Relation {
        rel_type,
        event,
        kind,
        sender,
        key,
    } = &related.relation;
    let plain = (room, target, position, sub);
    let typed = (room, target, rel_type.clone(), position, sub);
    let edit = related
        .edit
        .as_ref()
        .map(|(ts, id)| (room, target, *sender, *ts, id.clone()));
    let annotation = key
        .as_ref()
        .filter(|_| rel_type == "m.annotation")
        .map(|key| (room, target, *sender, annotation(kind, key), *event));
    let batch = &mut work.batch;
    if there {
        batch.put(&RELATIONS, &plain, &related.relation);
        batch.put(&BY_TYPE, &typed, sender);
        if let Some(edit) = edit {
            batch.put(&EDITS, &edit, event);
        }
        if let Some(annotation) = annotation {
            batch.put(&ANNOTATIONS, &annotation, &());
        }
    } else {
        batch.delete(&RELATIONS, &plain);
        batch.delete(&BY_TYPE, &typed);
        if let Some(edit) = edit {
            batch.delete(&EDITS, &edit);
        }
        if let Some(annotation) = annotation {
            batch.delete(&ANNOTATIONS, &annotation);
        }
    }
}

async fn aggregate(
    work: &mut Work<'_>,
    key: (RoomNum, EventHash),
    turn: Turn,
) -> Result<(), StoreError> {
    let old = work.reader.snapshot.get(&AGGREGATES, &key).await?;
    let old = old.unwrap_or_default();
    let newest = newest(work, key, old.newest, &turn).await?;
    if newest != old.newest {
        if let Some((position, sub)) = old.newest {
            work.batch.delete(&THREADS, &(key.0, position, sub));
        }
        if let Some((position, sub)) = newest {
            let row = ThreadRow { root: key.1 };
            work.batch.put(&THREADS, &(key.0, position, sub), &row);
        }
    }
    let new = Aggregate {
        all: old.all.saturating_add_signed(turn.all),
        edits: old.edits.saturating_add_signed(turn.edits),
        references: old.references.saturating_add_signed(turn.references),
        threaded: old.threaded.saturating_add_signed(turn.threaded),
        newest,
    };
    if new.all == 0 {
        work.batch.delete(&AGGREGATES, &key);
    } else {
        work.batch.put(&AGGREGATES, &key, &new);
    }
    Ok(())
}

/// The place of the thread's newest event after the batch: one that came, the one that was, or, where that one went, the
/// newest of those before it.
async fn newest(
    work: &Work<'_>,
    (room, target): (RoomNum, EventHash),
    old: Option<(Position, u32)>,
    turn: &Turn,
) -> Result<Option<(Position, u32)>, StoreError> {
    let came = turn.came.last().copied();
    let Some(gone) = old.filter(|place| turn.went.contains(place)) else {
        return Ok(came.max(old));
    };
    let prefix = (room, target, "m.thread".to_owned());
    let mut end = gone;
    loop {
        let range =
            ScanRange::before(&(room, target, "m.thread".to_owned(), end.0, end.1)).within(&prefix);
        let rows = work
            .reader
            .snapshot
            .scan(&BY_TYPE, range, Direction::Backward, 1)
            .await?;
        let Some((key, _)) = rows.first() else {
            return Ok(came);
        };
        end = (key.3, key.4);
        if !turn.went.contains(&end) {
            return Ok(came.max(Some(end)));
        }
    }
}
