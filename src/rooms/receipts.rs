//! Read receipts: how far each person has read, per thread.
//!
//! Spec: client-server API, "Receipts". One row per (room, user, type, thread), and an index by log
//! position, so that a sync reads exactly what is new. `m.fully_read` is account data and not here.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use resuni_store::{
    Batch, CommitError, Direction, Position, ScanRange, Table, TableInfo, Topic, versioned,
};
use ruma::{EventId, OwnedEventId, OwnedUserId, RoomId, ServerName, UserId};
use serde::{Deserialize, Serialize};

use crate::client_format::push_string;
use crate::error::RoomError;
use crate::rooms::Rooms;
use crate::tables::Place;
use crate::types::{Membership, RoomNum, TimelineToken, USER_NUMBERS, UserNum};
use crate::view::RoomView;

/// The newest receipt of each person, type and thread (`""` for unthreaded).
pub static RECEIPTS: Table<(RoomNum, UserNum, ReceiptKind, String), ReceiptRow> =
    Table::new(0x0243, "receipts");
/// The same receipts in the order in which they came.
pub static RECEIPTS_IN_ORDER: Table<(RoomNum, Position), Receipt> =
    Table::new(0x0244, "receipts in order");

/// The tables of this file.
pub const TABLES: &[TableInfo] = &[RECEIPTS.info(), RECEIPTS_IN_ORDER.info()];

/// A receipt changed; the scope is the room, the payload a [`ReceiptLog`].
pub const TOPIC_RECEIPT: Topic = Topic(0x0202);

/// The log entry of a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptLog {
    /// Whose.
    pub user: UserNum,
    /// Of which type: a private one is for its owner only.
    pub kind: ReceiptKind,
    /// Whether the user is ours, so that it is sent on to other servers.
    pub local: bool,
}

impl ReceiptLog {
    /// As bytes for the log.
    pub fn to_bytes(self) -> Vec<u8> {
        // Postcard fails only on types it can't write; these are numbers.
        postcard::to_allocvec(&self).unwrap_or_default()
    }

    /// From the log; `None` if the entry is of another topic's shape.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }
}

/// Who may see a receipt. The numbers are part of the disk layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum ReceiptKind {
    /// `m.read`
    Read = 1,
    /// `m.read.private`: never leaves its owner.
    ReadPrivate = 2,
}

impl ReceiptKind {
    /// The name in the spec.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "m.read",
            Self::ReadPrivate => "m.read.private",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Read, Self::ReadPrivate]
            .into_iter()
            .find(|kind| kind.as_str() == name)
    }
}

impl resuni_store::Key for ReceiptKind {
    fn encode(&self, out: &mut Vec<u8>) {
        (*self as u8).encode(out);
    }
    fn decode(input: &mut &[u8]) -> Result<Self, resuni_store::Corrupt> {
        match u8::decode(input)? {
            1 => Ok(Self::Read),
            2 => Ok(Self::ReadPrivate),
            _ => Err(resuni_store::Corrupt::new("receipt kind")),
        }
    }
}

/// A row of [`RECEIPTS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptRow {
    /// Where [`RECEIPTS_IN_ORDER`] has it.
    pub position: Position,
    /// The place in the timeline of the event that was read, `(position, sub)`.
    pub read_up_to: (Position, u32),
    /// That event.
    pub event_id: OwnedEventId,
}
versioned!(ReceiptRow, 1);

/// A row of [`RECEIPTS_IN_ORDER`]: a receipt as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Whose.
    pub user_id: OwnedUserId,
    /// The type.
    pub kind: ReceiptKind,
    /// `main` or the id of the thread's root; `None` when unthreaded.
    pub thread: Option<String>,
    /// The event that was read.
    pub event_id: OwnedEventId,
    /// When, by the server of the user, in milliseconds.
    pub ts: u64,
}
versioned!(Receipt, 1);

/// The most receipts that one reader is given of a room at once: the newest ones.
pub const MAX_RECEIPTS: usize = 2_000;
/// How often a receipt is tried again when another of the same user came in between.
const ATTEMPTS: usize = 8;

impl Rooms {
    /// Notes a receipt of one of our users. An older one than is known already changes nothing, and the answer is
    /// `false`. The event has to be in the room's timeline and visible to the user.
    pub async fn set_receipt(
        &self,
        room: &RoomId,
        user: &UserId,
        kind: ReceiptKind,
        thread: Option<&str>,
        event_id: &EventId,
    ) -> Result<bool, RoomError> {
        let view = self
            .view(room)
            .await?
            .ok_or_else(|| RoomError::UnknownRoom(room.to_owned()))?;
        if view.member(user).await? != Some(Membership::Join) {
            return Err(RoomError::Forbidden("you are not in this room".into()));
        }
        check_thread(thread)?;
        let receipt = Receipt {
            user_id: user.to_owned(),
            kind,
            thread: thread.map(str::to_owned),
            event_id: event_id.to_owned(),
            ts: self.now_ms(),
        };
        let read = view.place_in_timeline(event_id).await?;
        let read =
            read.ok_or_else(|| RoomError::NotFound("this event is not in the room".into()))?;
        // The main timeline takes all: clients of old said so of what is in threads.
        if let Some(root) = thread.filter(|thread| *thread != "main")
            && !view.is_related(event_id, root).await?
        {
            return Err(RoomError::bad(
                "M_INVALID_PARAM",
                "this event is not related to the thread",
            ));
        }
        self.write_receipt(&view, receipt, Some(read), true).await
    }

    /// Notes a public receipt that the server `origin` told us of. What it may not say is passed over: receipts of
    /// other servers' users, and of people who are not in the room.
    ///
    /// The event may be one that is still on its way, or history that is not here: such a receipt is shown, as the
    /// newest if it was made last, but the user has not read further here than before.
    pub async fn receive_receipt(
        &self,
        origin: &ServerName,
        room: &RoomId,
        receipt: Receipt,
    ) -> Result<bool, RoomError> {
        if receipt.user_id.server_name() != origin
            || receipt.kind != ReceiptKind::Read
            || check_thread(receipt.thread.as_deref()).is_err()
        {
            return Ok(false);
        }
        let Some(view) = self.view(room).await? else {
            return Ok(false);
        };
        if !view.may_be_joined(&receipt.user_id).await? {
            return Ok(false);
        }
        let read = view.place_in_timeline(&receipt.event_id).await?;
        self.write_receipt(&view, receipt, read, false).await
    }

    /// Writes a receipt unless a newer one is known: by the place in the timeline, or where that of the event is not
    /// known by the time.
    async fn write_receipt(
        &self,
        view: &RoomView,
        receipt: Receipt,
        read: Option<TimelineToken>,
        local: bool,
    ) -> Result<bool, RoomError> {
        let room = view.num();
        for _ in 0..ATTEMPTS {
            let snapshot = self.store().snapshot();
            let mut batch = Batch::new();
            let user = UserNum(
                self.store()
                    .numbers()
                    .assign(&USER_NUMBERS, receipt.user_id.as_bytes(), &mut batch)
                    .await?,
            );
            let key = (
                room,
                user,
                receipt.kind,
                receipt.thread.clone().unwrap_or_default(),
            );
            let old = snapshot.get(&RECEIPTS, &key).await?;
            let before = old.as_ref().map(|old| TimelineToken {
                position: old.read_up_to.0,
                sub: old.read_up_to.1,
            });
            let is_newer = match (&old, read) {
                (None, _) => true,
                (_, Some(read)) => before.is_none_or(|before| read > before),
                (Some(old), None) => {
                    let key = (room, old.position);
                    let shown = snapshot.get(&RECEIPTS_IN_ORDER, &key).await?;
                    shown.is_none_or(|shown| shown.ts < receipt.ts)
                }
            };
            if !is_newer {
                return Ok(false);
            }
            let read = read.or(before).unwrap_or(TimelineToken {
                position: Position(0),
                sub: 0,
            });
            match old {
                Some(old) => {
                    batch.guard_equals(&RECEIPTS, &key, &old);
                    batch.delete(&RECEIPTS_IN_ORDER, &(room, old.position));
                }
                None => batch.guard_absent(&RECEIPTS, &key),
            }
            let reservation = self.store().reserve(1);
            let position = reservation.first();
            let row = ReceiptRow {
                position,
                read_up_to: (read.position, read.sub),
                event_id: receipt.event_id.clone(),
            };
            batch.put(&RECEIPTS, &key, &row);
            batch.put(&RECEIPTS_IN_ORDER, &(room, position), &receipt);
            batch.log(
                position,
                TOPIC_RECEIPT,
                room.0,
                ReceiptLog {
                    user,
                    kind: receipt.kind,
                    local,
                }
                .to_bytes(),
            );
            batch.attach(reservation);
            match self.store().commit_durable(batch).await {
                Ok(()) => return Ok(true),
                Err(CommitError::Guard { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(RoomError::Contended)
    }
}

impl RoomView {
    /// The receipts that came after `since` up to `up_to`, oldest first, private ones of `reader` only; when there
    /// are more than [`MAX_RECEIPTS`], the newest.
    pub async fn receipts_since(
        &self,
        since: Position,
        up_to: Position,
        reader: &UserId,
    ) -> Result<Vec<Receipt>, RoomError> {
        let room = self.num();
        let range = ScanRange::after(&(room, since)).within(&room);
        let range = match up_to.0.checked_add(1) {
            Some(end) => range.and(ScanRange::before(&(room, Position(end)))),
            None => range,
        };
        let rows = self
            .snapshot()
            .scan(&RECEIPTS_IN_ORDER, range, Direction::Backward, MAX_RECEIPTS)
            .await?;
        let shown =
            |receipt: &Receipt| receipt.kind == ReceiptKind::Read || receipt.user_id == reader;
        Ok(rows
            .into_iter()
            .rev()
            .map(|(_, receipt)| receipt)
            .filter(shown)
            .collect())
    }

    /// The receipts of one user in the room, e.g. to know what they have read.
    pub async fn receipts_of(
        &self,
        user: &UserId,
    ) -> Result<Vec<(ReceiptKind, Option<String>, ReceiptRow)>, RoomError> {
        let Some(user) = self.user_num(user).await? else {
            return Ok(Vec::new());
        };
        let range = ScanRange::prefix(&(self.num(), user));
        let rows = self
            .snapshot()
            .scan(&RECEIPTS, range, Direction::Forward, MAX_RECEIPTS)
            .await?;
        Ok(rows
            .into_iter()
            .map(|((_, _, kind, thread), row)| (kind, (!thread.is_empty()).then_some(thread), row))
            .collect())
    }

    /// The place of an event in this room's timeline.
    pub async fn place_in_timeline(
        &self,
        event_id: &EventId,
    ) -> Result<Option<TimelineToken>, RoomError> {
        Ok(self
            .event_row(event_id)
            .await?
            .and_then(|(_, row)| match row.place {
                Place::Timeline { position, sub } => Some(TimelineToken { position, sub }),
                _ => None,
            }))
    }
}

/// The contents of the `m.receipt` events for these receipts, event → type → user → `{ts, thread_id}`: one, and more
/// only where a user has read the same event in more than one thread.
pub fn receipt_contents(receipts: &[Receipt]) -> Vec<String> {
    let mut said: BTreeMap<_, usize> = BTreeMap::new();
    let mut contents: Vec<Vec<&Receipt>> = Vec::new();
    for receipt in receipts {
        let times = said
            .entry((&receipt.event_id, receipt.kind, &receipt.user_id))
            .or_default();
        match contents.get_mut(*times) {
            Some(content) => content.push(receipt),
            None => contents.push(vec![receipt]),
        }
        *times += 1;
    }
    contents
        .iter()
        .map(|receipts| content_of(receipts))
        .collect()
}

/// As [`receipt_contents`], in one event: where somebody has read the same event in more than one thread, the newest
/// receipt. None where there are no receipts.
pub fn receipt_content(receipts: &[Receipt]) -> Option<String> {
    let mut newest: BTreeMap<_, &Receipt> = BTreeMap::new();
    for receipt in receipts {
        newest.insert((&receipt.event_id, receipt.kind, &receipt.user_id), receipt);
    }
    let receipts: Vec<&Receipt> = newest.into_values().collect();
    (!receipts.is_empty()).then(|| content_of(&receipts))
}

fn content_of(receipts: &[&Receipt]) -> String {
    let mut events: BTreeMap<&EventId, BTreeMap<ReceiptKind, Vec<&Receipt>>> = BTreeMap::new();
    for receipt in receipts {
        events
            .entry(&receipt.event_id)
            .or_default()
            .entry(receipt.kind)
            .or_default()
            .push(receipt);
    }
    let mut out = String::from("{");
    separated(&mut out, events, |out, (event_id, kinds)| {
        push_string(out, event_id.as_str());
        out.push_str(":{");
        separated(out, kinds, |out, (kind, receipts)| {
            let _ = write!(out, "\"{}\":{{", kind.as_str());
            separated(out, receipts, |out, receipt| {
                push_string(out, receipt.user_id.as_str());
                let _ = write!(out, ":{{\"ts\":{}", receipt.ts);
                if let Some(thread) = &receipt.thread {
                    out.push_str(",\"thread_id\":");
                    push_string(out, thread);
                }
                out.push('}');
            });
            out.push('}');
        });
        out.push('}');
    });
    out.push('}');
    out
}

fn separated<T>(
    out: &mut String,
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut String, T),
) {
    for (n, item) in items.into_iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        write(out, item);
    }
}

/// A thread is `main` or named by the event it began with.
fn check_thread(thread: Option<&str>) -> Result<(), RoomError> {
    match thread {
        None | Some("main") => Ok(()),
        Some(root) if root.starts_with('$') && root.len() <= resuni_dag::limits::ID_BYTES => Ok(()),
        Some(_) => Err(RoomError::bad(
            "M_INVALID_PARAM",
            "thread_id must be \"main\" or the id of an event",
        )),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use ruma::{event_id, user_id};
    use serde_json::{Value, json};

    use super::*;

    fn receipt(user: &UserId, event: &EventId, kind: ReceiptKind, thread: Option<&str>) -> Receipt {
        Receipt {
            user_id: user.to_owned(),
            kind,
            thread: thread.map(str::to_owned),
            event_id: event.to_owned(),
            ts: 7,
        }
    }

    #[test]
    fn one_content_unless_an_event_was_read_twice() {
        let (a, b, e) = (user_id!("@a:h"), user_id!("@b:h"), event_id!("$e"));
        let receipts = [
            receipt(a, e, ReceiptKind::Read, None),
            receipt(a, e, ReceiptKind::Read, Some("main")),
            receipt(a, e, ReceiptKind::ReadPrivate, None),
            receipt(b, e, ReceiptKind::Read, None),
            receipt(b, event_id!("$f"), ReceiptKind::Read, Some("$r")),
        ];
        let contents: Vec<Value> = receipt_contents(&receipts)
            .iter()
            .map(|c| serde_json::from_str(c).unwrap())
            .collect();
        assert_eq!(
            contents,
            [
                json!({"$e": {"m.read": {"@a:h": {"ts": 7}, "@b:h": {"ts": 7}}, "m.read.private": {"@a:h": {"ts": 7}}}, "$f": {"m.read": {"@b:h": {"ts": 7, "thread_id": "$r"}}}}),
                json!({"$e": {"m.read": {"@a:h": {"ts": 7, "thread_id": "main"}}}}),
            ]
        );
        assert!(receipt_contents(&[]).is_empty());
    }
}
