//! Walks every table of the rooms and says which rows contradict each other.
//!
//! Slow and thorough: it trusts no cache and no count. What it needs in memory is a number for each state node and the
//! members of one room at a time.

mod events;
mod partial;
mod relations;
mod room;
mod states;

use std::sync::Arc;

use resuni_store::{Direction, Key, ScanRange, Store, StoreError, Table, Value};
use ruma::ServerName;

use crate::{
    cache::Caches,
    error::RoomError,
    reader::Reader,
    tables::{EVENTS, HEAD, MEMBERS, ROOM_SERVERS, ROOMS, SERVER_ROOMS, TOLD_SERVERS, USER_ROOMS},
    types::Membership,
};

/// Sentences after which the doctor stops writing them down: the database is then past mending by hand.
const FINDINGS: usize = 1_000;
/// Rows that are read at a time.
const PAGE: usize = 1_000;

/// What is wrong, in sentences; empty if every row agrees with the others. `server` is this server's name: whose
/// users count as local.
pub async fn check(store: &Store, server: &ServerName) -> Result<Vec<String>, RoomError> {
    let reader = Reader {
        store: store.clone(),
        snapshot: store.snapshot(),
        caches: Arc::new(Caches::new()),
        fresh: crate::reader::Fresh::default(),
    };
    let mut doctor = Doctor {
        reader,
        server,
        found: Vec::new(),
        more: 0,
    };
    doctor.events().await?;
    doctor.timelines().await?;
    doctor.marks().await?;
    doctor.relations().await?;
    doctor.states().await?;
    doctor.rooms().await?;
    doctor.partial().await?;
    if doctor.more > 0 {
        let more = doctor.more;
        doctor.found.push(format!("and {more} more findings"));
    }
    Ok(doctor.found)
}

struct Doctor<'a> {
    reader: Reader,
    server: &'a ServerName,
    found: Vec<String>,
    more: usize,
}

impl Doctor<'_> {
    fn find(&mut self, what: impl FnOnce() -> String) {
        match self.found.len() {
            FINDINGS.. => self.more += 1,
            _ => self.found.push(what()),
        }
    }

    /// Says it unless it is so.
    fn expect(&mut self, so: bool, what: impl FnOnce() -> String) {
        if !so {
            self.find(what);
        }
    }

    async fn rooms(&mut self) -> Result<(), RoomError> {
        let mut rows = Rows::of(&ROOMS, ScanRange::all());
        while let Some(page) = rows.next(&self.reader).await? {
            for (num, row) in page {
                let found = self.reader.room_num(&row.room_id).await?;
                self.expect(found == Some(num), || {
                    format!("the room {} has two numbers, or none", row.room_id)
                });
                self.room(num, &row).await?;
            }
        }
        let mut rows = Rows::of(&HEAD, ScanRange::all());
        while let Some(page) = rows.next(&self.reader).await? {
            for (num, _) in page {
                let known = self.reader.room_row(num).await?.is_some();
                self.expect(known, || {
                    format!(
                        "there is a head for room number {}, which is no room",
                        num.0
                    )
                });
            }
        }
        self.lists().await
    }

    /// The lists of users and servers name no room that doesn't name them.
    async fn lists(&mut self) -> Result<(), RoomError> {
        let mut rows = Rows::of(&SERVER_ROOMS, ScanRange::all());
        while let Some(page) = rows.next(&self.reader).await? {
            for ((server, room), ()) in page {
                let snapshot = &self.reader.snapshot;
                let listed = snapshot.contains(&ROOM_SERVERS, &(room, server)).await?
                    || snapshot.contains(&TOLD_SERVERS, &(room, server)).await?;
                self.expect(listed, || {
                    format!(
                        "the server number {} lists a room that it is not in",
                        server.0
                    )
                });
            }
        }
        let mut rows = Rows::of(&USER_ROOMS, ScanRange::all());
        while let Some(page) = rows.next(&self.reader).await? {
            for ((user, room), row) in page {
                // State resolution may take a member event away: its user is then outside.
                let free = row.stripped.is_some() || row.membership == Membership::Leave;
                let member = self
                    .reader
                    .snapshot
                    .get(&MEMBERS, &(room, row.membership, user))
                    .await?;
                self.expect(free || member == Some(row.event), || {
                    format!(
                        "the user number {} lists a room that it is no member of",
                        user.0
                    )
                });
                let known = self.reader.snapshot.contains(&EVENTS, &row.event).await?;
                self.expect(known, || {
                    format!(
                        "the user number {} has a membership without an event",
                        user.0
                    )
                });
            }
        }
        Ok(())
    }
}

/// All rows of a range, page by page.
struct Rows<K: 'static, V: 'static> {
    table: &'static Table<K, V>,
    range: Option<ScanRange>,
}

impl<K: Key, V: Value> Rows<K, V> {
    fn of(table: &'static Table<K, V>, range: ScanRange) -> Self {
        Self {
            table,
            range: Some(range),
        }
    }

    async fn next(&mut self, reader: &Reader) -> Result<Option<Vec<(K, V)>>, StoreError> {
        let Some(range) = self.range.take() else {
            return Ok(None);
        };
        let rows = reader
            .snapshot
            .scan(self.table, range.clone(), Direction::Forward, PAGE)
            .await?;
        if let (PAGE, Some((last, _))) = (rows.len(), rows.last()) {
            self.range = Some(range.and(ScanRange::after(last)));
        }
        Ok(Some(rows))
    }
}
