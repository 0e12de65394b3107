//! Finding again what a server missed.

use std::collections::{HashMap, HashSet};

use resuni_rooms::{
    RoomNum, SERVER_NUMBERS, ServerNum,
    tables::{EventLog, SERVER_ROOMS, TOPIC_EVENT},
};
use resuni_store::{Direction, Position, ScanRange, Snapshot};
use ruma::ServerName;

use super::{Shared, is_ours, put_out, queue::Item, sticky};
use crate::{
    error::FederationError,
    tables::{NEWEST, Newest},
};

/// Log entries that are looked through for one server. When there are more, it gets the newest event of
/// each room, and fetches what lies before it as it likes.
const MAX_ENTRIES: usize = 20_000;
/// Events that are sent one by one. When there are more, as above.
const MAX_ITEMS: usize = 2_000;
/// Log entries read at once.
const PAGE: usize = 1_000;
/// Rooms read at once.
const ROOM_PAGE: usize = 500;

/// Our events in `(after, up_to]` that `server` is to be sent, oldest first.
pub(super) async fn missed(
    shared: &Shared,
    server: &ServerName,
    after: Position,
    up_to: Position,
) -> Result<Vec<Item>, FederationError> {
    let number = shared
        .store
        .numbers()
        .find(&SERVER_NUMBERS, server.as_bytes())
        .await?;
    let Some(number) = number.map(ServerNum) else {
        return Ok(Vec::new());
    };
    let snapshot = shared.store.snapshot();
    let mut missed = Missed::default();
    if one_by_one(
        shared,
        &snapshot,
        (server, number),
        (after, up_to),
        &mut missed,
    )
    .await?
    {
        return Ok(missed.in_rooms);
    }
    let mut items = newest_of_each_room(shared, &snapshot, number, after, up_to).await?;
    items.extend(missed.put_out);
    items.sort_by_key(|item| (item.position, item.event));
    items.dedup_by_key(|item| item.event);
    Ok(items)
}

/// What was found in the log.
#[derive(Default)]
struct Missed {
    /// All of it.
    in_rooms: Vec<Item>,
    /// The part that puts the server's users out: no later event of these rooms would tell it.
    put_out: Vec<Item>,
}

/// Whether that is all that was missed.
async fn one_by_one(
    shared: &Shared,
    snapshot: &Snapshot,
    (name, server): (&ServerName, ServerNum),
    (after, up_to): (Position, Position),
    missed: &mut Missed,
) -> Result<bool, FederationError> {
    let mut in_room: HashMap<RoomNum, bool> = HashMap::new();
    let mut at = after;
    for _ in 0..MAX_ENTRIES / PAGE {
        let entries = shared.store.log().read(at, up_to, PAGE).await?;
        for entry in entries.iter().filter(|entry| entry.topic == TOPIC_EVENT) {
            let Some(log) = EventLog::from_bytes(&entry.payload) else {
                continue;
            };
            let room = RoomNum(entry.scope);
            if sticky::may_join(&log)
                && let Some(view) = shared.rooms.view_num(room).await?
                && sticky::joining(&view, &log)
                    .await?
                    .is_some_and(|joins| joins == name)
            {
                let ours = sticky::ours(shared, &view, entry.position).await?;
                missed.in_rooms.extend(ours);
            }
            if !is_ours(&log) {
                continue;
            }
            let is_in = match in_room.get(&room) {
                Some(is_in) => *is_in,
                None => {
                    let is_in = snapshot.contains(&SERVER_ROOMS, &(server, room)).await?;
                    in_room.insert(room, is_in);
                    is_in
                }
            };
            let item = Item {
                position: entry.position,
                room,
                event: log.event,
            };
            // By now a server that somebody was put out of the room on may have nobody in it.
            let puts_out = log.target.is_some()
                && match shared.rooms.view_num(room).await? {
                    Some(view) => put_out(&view, &log).await?.is_some_and(|out| out == name),
                    None => false,
                };
            if puts_out {
                missed.put_out.push(item);
            }
            if is_in || puts_out {
                missed.in_rooms.push(item);
            }
        }
        match entries.last() {
            _ if missed.in_rooms.len() > MAX_ITEMS => return Ok(false),
            Some(last) if entries.len() == PAGE => at = last.position,
            _ => return Ok(true),
        }
    }
    Ok(false)
}

async fn newest_of_each_room(
    shared: &Shared,
    snapshot: &Snapshot,
    server: ServerNum,
    after: Position,
    up_to: Position,
) -> Result<Vec<Item>, FederationError> {
    let mut rooms: HashSet<RoomNum> = HashSet::new();
    let mut range = ScanRange::prefix(&server);
    loop {
        let page = snapshot
            .scan(&SERVER_ROOMS, range, Direction::Forward, ROOM_PAGE)
            .await?;
        rooms.extend(page.iter().map(|((_, room), ())| *room));
        match page.last() {
            Some((last, ())) if page.len() == ROOM_PAGE => {
                range = ScanRange::after(last).within(&server);
            }
            _ => break,
        }
    }
    let rooms: Vec<RoomNum> = rooms.into_iter().collect();
    // Events that others do not find by themselves, as they find what lies before the newest.
    let mut items = Vec::new();
    for room in &rooms {
        if let Some(view) = shared.rooms.view_num(*room).await? {
            items.extend(sticky::ours(shared, &view, up_to).await?);
        }
    }
    let written = snapshot.get_many(&NEWEST, &rooms).await?;
    let unwritten: HashMap<RoomNum, Newest> = shared.newest.lock().clone();
    let newest = rooms.into_iter().zip(written).filter_map(|(room, row)| {
        let newest = unwritten.get(&room).copied().or(row)?;
        // Newer than `up_to` is in the queue already, and older was delivered.
        (newest.position > after && newest.position <= up_to).then_some(Item {
            position: newest.position,
            room,
            event: newest.event,
        })
    });
    items.extend(newest);
    items.sort_by_key(|item| item.position);
    Ok(items)
}
