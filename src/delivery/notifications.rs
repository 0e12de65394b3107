//! The list of notifications (`GET /notifications`).
//!
//! There is no such list on disk: it is the notes of the user's rooms, merged from the newest on. A
//! page costs one seek for each room of the user and one for each note that is looked at.

use std::collections::BinaryHeap;

use resuni_accounts::{AccountNum, Following, ThreadName};
use resuni_rooms::{Form, Membership, RoomNum, RoomView, TimelineToken};
use resuni_store::{Direction, Position, ScanRange};
use ruma::{OwnedRoomId, UserId, push::Action};

use crate::{
    Push,
    counts::{ReadUpTo, root_of, subjects},
    error::DeliveryError,
    rules::Case,
    tables::{NOTES, Note, Subject},
};

/// The most notifications of a page.
pub const MAX_NOTIFICATIONS: usize = 100;
/// Notes that are looked at for one page; what is not among them is on the next one.
const BUDGET: usize = 5_000;

/// Something the user was notified about.
#[derive(Debug, Clone)]
pub struct Notification {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The actions of the rule that matches.
    pub actions: Vec<Action>,
    /// The event as the user sees it, a JSON object.
    pub event: String,
    /// Whether they have read it.
    pub read: bool,
    /// When it came to this server, in milliseconds since 1970.
    pub ts: u64,
}

/// A page of the list, newest first.
#[derive(Debug, Clone, Default)]
pub struct NotificationsPage {
    /// The notifications.
    pub notifications: Vec<Notification>,
    /// Where the next page begins; none at the end.
    pub next: Option<Position>,
}

/// A room of the list: who reads it, and its next note.
struct Source {
    view: RoomView,
    read: ReadUpTo,
    subjects: Vec<Subject>,
    note: Note,
}

impl Push {
    /// What somebody was notified about before `from`; only what was highlighted if `highlights`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn notifications(
        &self,
        (account, user): (AccountNum, &UserId),
        device: Option<&str>,
        from: Option<Position>,
        limit: usize,
        highlights: bool,
    ) -> Result<NotificationsPage, DeliveryError> {
        let limit = limit.clamp(1, MAX_NOTIFICATIONS);
        let from = from.unwrap_or(Position(u64::MAX));
        let mut sources: Vec<Source> = Vec::new();
        let mut newest = BinaryHeap::new();
        for room in self.rooms.rooms_of(user, &[Membership::Join]).await? {
            let Some(view) = self.rooms.view_num(room.num).await? else {
                continue;
            };
            let Some((position, note)) = note_before(&view, room.num, from).await? else {
                continue;
            };
            let (Some(read), Some(num)) =
                (ReadUpTo::of(&view, user).await?, view.user_num(user).await?)
            else {
                continue;
            };
            let subjects = subjects(&self.accounts, &self.defaults, &view, account, num).await?;
            newest.push((position, sources.len()));
            sources.push(Source {
                view,
                read,
                subjects,
                note,
            });
        }
        let mut page = NotificationsPage::default();
        for _ in 0..BUDGET {
            let Some((position, at)) = newest.pop() else {
                page.next = None;
                return Ok(page);
            };
            page.next = Some(position);
            let Some(source) = sources.get_mut(at) else {
                continue;
            };
            let note = std::mem::take(&mut source.note);
            if source.concerns(&note, highlights)
                && let Some(notification) = self
                    .notification_of(source, &note, position, (account, user), device)
                    .await?
            {
                page.notifications.push(notification);
            }
            if let Some((position, note)) =
                note_before(&source.view, source.view.num(), position).await?
            {
                source.note = note;
                newest.push((position, at));
            }
            if page.notifications.len() >= limit {
                break;
            }
        }
        if newest.is_empty() {
            page.next = None;
        }
        Ok(page)
    }

    async fn notification_of(
        &self,
        source: &Source,
        note: &Note,
        position: Position,
        (account, user): (AccountNum, &UserId),
        device: Option<&str>,
    ) -> Result<Option<Notification>, DeliveryError> {
        let view = &source.view;
        let Some(event) = view.event_at(TimelineToken::live(position)).await? else {
            return Ok(None);
        };
        let mut viewer = view.viewer(user).await?;
        if !viewer.sees(&event).await? {
            return Ok(None);
        }
        let form = Form {
            now_ms: self.rooms.now_ms(),
            device,
            without_room_id: true,
            ..Form::default()
        };
        let pdu = view.pdus(&[event.row.event]).await?.into_iter().next();
        let Some(pdu) = pdu.filter(|pdu| pdu.sender() != user) else {
            return Ok(None);
        };
        let rules = self.accounts.push_rules(account).await?;
        let name = crate::follow::display_name(view, user).await?;
        let case = Case::new(view, &pdu, self.nobody.clone()).await?;
        let root = root_of(&self.store, note.thread).await?.unwrap_or_default();
        let thread = ThreadName {
            room: view.room_id().to_string(),
            root: root.clone(),
        };
        let follows = self.accounts.follows_thread(account, &thread).await? != Following::No;
        let verdict = case
            .for_person(user, name.unwrap_or_default(), follows, &rules.global)
            .await;
        // They may have changed their rules since.
        let actions = match verdict.notify {
            true => verdict.actions,
            false => vec![Action::Notify],
        };
        let snapshot = view.snapshot();
        let read = source.read.in_thread(snapshot, note.thread, &root).await?;
        Ok(Some(Notification {
            room_id: view.room_id().to_owned(),
            actions,
            ts: event.row.received_ts,
            event: viewer.json(&event, &form).await?,
            read: read >= position,
        }))
    }
}

impl Source {
    /// Whether the note is of a notification for this reader.
    fn concerns(&self, note: &Note, highlights: bool) -> bool {
        let own = note
            .moved
            .iter()
            .filter(|(subject, _, _)| self.subjects.contains(subject));
        let sum: i32 = own
            .map(|(_, n, h)| i32::from(if highlights { *h } else { *n }))
            .sum();
        sum > 0
    }
}

async fn note_before(
    view: &RoomView,
    room: RoomNum,
    before: Position,
) -> Result<Option<(Position, Note)>, DeliveryError> {
    let range = ScanRange::before(&(room, before)).within(&room);
    let rows = view
        .snapshot()
        .scan(&NOTES, range, Direction::Backward, 1)
        .await?;
    Ok(rows.into_iter().next().map(|((_, at), note)| (at, note)))
}
