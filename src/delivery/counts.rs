//! How much somebody has not read: the difference of two rows of a tally.
//!
//! Nothing is written for a member when an event comes, and nothing when somebody reads: what is
//! unread is counted from the place the person has read up to, in a few seeks, however much it is.

use std::collections::BTreeMap;

use resuni_accounts::{AccountNum, Accounts};
use resuni_rooms::{Membership, ReceiptKind, RoomNum, RoomView, UserNum};
use resuni_store::{Direction, Position, ScanRange, Snapshot, Store, StoreError};
use ruma::UserId;

use crate::{
    error::DeliveryError,
    rules::{Defaults, Standing},
    tables::{ACTIVE, MAIN, SENT, Subject, TALLIES, THREAD_NUMBERS, Tally},
};

/// Threads of a room with something unread that are told at most: the most recently active ones.
const THREADS: usize = 500;

/// What is unread in a timeline.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unread {
    /// `notification_count`
    pub notifications: u64,
    /// `highlight_count`
    pub highlights: u64,
}

impl Unread {
    fn of(tally: Tally) -> Self {
        let count = |sum: i64| u64::try_from(sum).unwrap_or(0);
        Self {
            notifications: count(tally.notifications),
            highlights: count(tally.highlights),
        }
    }

    fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// What is unread in a room.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoomUnread {
    /// Outside threads.
    pub main: Unread,
    /// In each thread with something unread, by its root.
    pub threads: BTreeMap<String, Unread>,
}

impl RoomUnread {
    /// All of it together, for clients that know no threads.
    pub fn total(&self) -> Unread {
        let all = self.threads.values().chain([&self.main]);
        all.fold(Unread::default(), |sum, one| Unread {
            notifications: sum.notifications + one.notifications,
            highlights: sum.highlights + one.highlights,
        })
    }
}

/// Up to where somebody has read a room.
pub(crate) struct ReadUpTo {
    /// In all timelines.
    everywhere: Position,
    /// In some, by the root of the thread or `main`.
    threads: BTreeMap<String, Position>,
    user: UserNum,
    room: RoomNum,
}

/// A place in a timeline as a position: history that was laid before the event at `position` has
/// been read, that event itself not.
fn read_position((position, sub): (Position, u32)) -> Position {
    if sub == u32::MAX {
        position
    } else {
        Position(position.0.saturating_sub(1))
    }
}

impl ReadUpTo {
    /// None unless the user is joined.
    pub async fn of(view: &RoomView, user: &UserId) -> Result<Option<Self>, DeliveryError> {
        let Some(num) = view.user_num(user).await? else {
            return Ok(None);
        };
        let Some(row) = view.user_room(user).await? else {
            return Ok(None);
        };
        if row.membership != Membership::Join {
            return Ok(None);
        }
        let mut read = Self {
            everywhere: row.position,
            threads: BTreeMap::new(),
            user: num,
            room: view.num(),
        };
        for (kind, thread, row) in view.receipts_of(user).await? {
            // Both kinds count, whichever is ahead (spec, "Receiving notifications").
            let (ReceiptKind::Read | ReceiptKind::ReadPrivate) = kind;
            let position = read_position(row.read_up_to);
            match thread {
                None => read.everywhere = read.everywhere.max(position),
                Some(thread) => {
                    let known = read.threads.entry(thread).or_default();
                    *known = (*known).max(position);
                }
            }
        }
        Ok(Some(read))
    }

    /// Up to where they have read a thread; `root` is `main` for the timeline outside threads.
    pub async fn in_thread(
        &self,
        snapshot: &Snapshot,
        thread: u64,
        root: &str,
    ) -> Result<Position, StoreError> {
        let receipt = self.threads.get(root).copied().unwrap_or_default();
        let sent = snapshot.get(&SENT, &(self.room, self.user, thread)).await?;
        Ok(self.everywhere.max(receipt).max(sent.unwrap_or_default()))
    }
}

/// The root of a thread, or `main`.
pub(crate) async fn root_of(store: &Store, thread: u64) -> Result<Option<String>, StoreError> {
    if thread == MAIN {
        return Ok(Some("main".to_owned()));
    }
    let name = store.numbers().name(&THREAD_NUMBERS, thread - 1).await?;
    // The name is the room's number and the root.
    Ok(name.and_then(|name| String::from_utf8(name.get(8..)?.to_vec()).ok()))
}

/// Whose tallies make up a person's counts.
pub(crate) async fn subjects(
    accounts: &Accounts,
    defaults: &Defaults,
    view: &RoomView,
    account: AccountNum,
    user: UserNum,
) -> Result<Vec<Subject>, DeliveryError> {
    let rules = accounts.push_rules(account).await?;
    let mut subjects = vec![Subject::Everybody, Subject::User(user)];
    if let Standing::Group(hash) = defaults.standing(&rules, view.room_id()) {
        subjects.push(Subject::Group(hash));
    }
    Ok(subjects)
}

/// The tally of a subject in a thread up to and with a position.
pub(crate) async fn tally(
    snapshot: &Snapshot,
    (room, subject, thread): (RoomNum, Subject, u64),
    up_to: Position,
) -> Result<Tally, StoreError> {
    let end = Position(up_to.0.saturating_add(1));
    let range = ScanRange::before(&(room, subject, thread, end)).within(&(room, subject, thread));
    let rows = snapshot
        .scan(&TALLIES, range, Direction::Backward, 1)
        .await?;
    Ok(rows.first().map(|(_, tally)| *tally).unwrap_or_default())
}

async fn between(
    snapshot: &Snapshot,
    (room, thread): (RoomNum, u64),
    subjects: &[Subject],
    (from, to): (Position, Position),
) -> Result<Unread, StoreError> {
    let mut sum = Tally::default();
    if from < to {
        for subject in subjects {
            let key = (room, *subject, thread);
            let until = tally(snapshot, key, to).await?;
            if until != Tally::default() {
                let read = tally(snapshot, key, from).await?;
                sum.notifications += until.notifications - read.notifications;
                sum.highlights += until.highlights - read.highlights;
            }
        }
    }
    Ok(Unread::of(sum))
}

/// What one of our users has not read of a room, of what came up to `now`.
pub(crate) async fn unread(
    store: &Store,
    view: &RoomView,
    read: &ReadUpTo,
    subjects: &[Subject],
    now: Position,
) -> Result<RoomUnread, DeliveryError> {
    let (snapshot, room) = (view.snapshot(), view.num());
    // Nothing moved a tally after the newest event: who has read that needs no look at any.
    let now = now.min(view.last_position());
    let main = read.in_thread(snapshot, MAIN, "main").await?;
    let mut unread = RoomUnread {
        main: between(snapshot, (room, MAIN), subjects, (main, now)).await?,
        threads: BTreeMap::new(),
    };
    if read.everywhere >= now {
        return Ok(unread);
    }
    let active = ScanRange::after(&(room, read.everywhere)).within(&room);
    let rows = snapshot
        .scan(&ACTIVE, active, Direction::Backward, THREADS)
        .await?;
    for ((_, newest), thread) in rows {
        let Some(root) = root_of(store, thread).await? else {
            continue;
        };
        let from = read.in_thread(snapshot, thread, &root).await?;
        if from >= newest {
            continue;
        }
        let count = between(snapshot, (room, thread), subjects, (from, now)).await?;
        if !count.is_nothing() {
            unread.threads.insert(root, count);
        }
    }
    Ok(unread)
}
