//! The follower that keeps the index of public posts.
//!
//! It answers each entry of the log by the state at that entry, so that working an entry again, after a
//! crash, has the same outcome. What a batch says is then true up to the cursor in it.

use std::collections::HashMap;

use resuni_dag::{HistoryVisibility, Pdu};
use resuni_rooms::{
    EventNum, RoomNum, RoomView, SnapNum, StateView,
    fields::string_member,
    tables::{EventLog, Place, TOPIC_EVENT, flags},
};
use resuni_store::{
    Batch, CommitError, Direction, Follower, LogEntry, Position, ScanRange, StoreError,
};
use ruma::EventId;
use serde_json::Value;

use crate::{
    Feed,
    content::stands_alone,
    error::FeedError,
    names::{PROFILE_USER_ID, RoomKind, is_post},
    tables::{POSTS, PUBLIC_ROOMS, PostRow, PublicRoom, ROOM_POSTS},
};

/// Log entries read at once.
const READ_LIMIT: usize = 256;
/// Positions that are passed without effect before the cursor is written nevertheless: what is read again after a
/// restart, at most.
const PASSED: u64 = 10_000;
/// Posts removed in one batch when a room closes.
const CLOSED_AT_ONCE: usize = 1_000;

/// What the entries at hand come to, before it is written.
#[derive(Default)]
struct Work {
    batch: Batch,
    /// Rooms that were opened or closed in `batch`.
    public: HashMap<RoomNum, bool>,
    views: HashMap<RoomNum, RoomView>,
}

impl Feed {
    /// Keeps the index until the store is closed.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn run(&self) -> Result<(), FeedError> {
        let mut follower = self.follower.lock().await;
        let mut watermark = self.store.log().watch();
        let mut seen = follower.cursor();
        loop {
            let up_to = tokio::select! {
                biased;
                moved = watermark.wait_for(|up_to| *up_to > seen) => match moved {
                    Ok(up_to) => *up_to,
                    Err(_) => return Ok(()),
                },
                reason = self.store.ended() => return match reason {
                    StoreError::Closed => Ok(()),
                    reason => Err(reason.into()),
                },
            };
            match self.follow(&mut follower, seen, up_to).await {
                Ok(()) => seen = up_to,
                Err(FeedError::Store(StoreError::Closed)) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Works everything that is in the log now; for tests and tools, beside no [`Feed::run`].
    ///
    /// # Errors
    /// When the store fails.
    pub async fn catch_up(&self) -> Result<(), FeedError> {
        let mut follower = self.follower.lock().await;
        let seen = follower.cursor();
        let up_to = self.store.log().watermark();
        self.follow(&mut follower, seen, up_to).await
    }

    async fn follow(
        &self,
        follower: &mut Follower,
        mut seen: Position,
        up_to: Position,
    ) -> Result<(), FeedError> {
        while seen < up_to {
            let entries = self.store.log().read(seen, up_to, READ_LIMIT).await?;
            let Some(last) = entries.last() else { break };
            seen = last.position;
            let mut work = Work::default();
            for entry in &entries {
                self.entry(&mut work, follower, entry).await?;
            }
            // Most of the log is of rooms that are not social: to pass it costs no write.
            if !work.batch.is_empty() || seen.0.saturating_sub(follower.cursor().0) >= PASSED {
                self.write(&mut work, follower, seen).await?;
            }
        }
        Ok(())
    }

    /// Writes what has been found, and that everything up to `done` has had its effect.
    async fn write(
        &self,
        work: &mut Work,
        follower: &mut Follower,
        done: Position,
    ) -> Result<(), CommitError> {
        let mut batch = std::mem::take(&mut work.batch);
        follower.advance(&mut batch, done);
        // Nobody waits for it to be durable: what a crash takes is made again from the log.
        drop(self.store.commit(batch).await?);
        work.public.clear();
        Ok(())
    }

    async fn entry(
        &self,
        work: &mut Work,
        follower: &mut Follower,
        entry: &LogEntry,
    ) -> Result<(), FeedError> {
        if entry.topic != TOPIC_EVENT {
            return Ok(());
        }
        let Some(log) = EventLog::from_bytes(&entry.payload) else {
            tracing::warn!(
                position = entry.position.0,
                "an entry of the log can't be read"
            );
            return Ok(());
        };
        let room = RoomNum(entry.scope);
        if log.flags & flags::OUT_OF_BAND != 0 {
            return Ok(());
        }
        let outcome = match self.kind_of(room).await {
            Ok(Some(kind)) => {
                self.social(work, follower, (room, kind), entry.position, &log)
                    .await
            }
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        match outcome {
            // One event that can't be read is no reason to keep all later ones from the readers.
            Err(error) if error.is_of_one_event() => {
                tracing::warn!(position = entry.position.0, %error, "passed over by the feed");
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// An event in a profile or a group.
    async fn social(
        &self,
        work: &mut Work,
        follower: &mut Follower,
        (room, kind): (RoomNum, RoomKind),
        position: Position,
        log: &EventLog,
    ) -> Result<(), FeedError> {
        let Some(view) = self.view(work, room).await? else {
            return Ok(());
        };
        let changed = log.flags & (flags::STATE_CHANGED | flags::ADOPTED) != 0;
        if changed || !log.memberships.is_empty() {
            let public = is_public(&view, position).await?;
            if public != self.was_public(work, room).await? {
                if public {
                    work.batch.put(&PUBLIC_ROOMS, &room, &PublicRoom { kind });
                } else {
                    self.close(work, follower, room, position).await?;
                }
                work.public.insert(room, public);
            }
        }
        if log.flags & flags::STATE == 0 {
            self.message(work, &view, kind, position, log.event).await?;
        }
        Ok(())
    }

    async fn view(&self, work: &mut Work, room: RoomNum) -> Result<Option<RoomView>, FeedError> {
        if let Some(view) = work.views.get(&room) {
            return Ok(Some(view.clone()));
        }
        let view = self.rooms.view_num(room).await?;
        work.views
            .extend(view.iter().map(|view| (room, view.clone())));
        Ok(view)
    }

    async fn was_public(&self, work: &Work, room: RoomNum) -> Result<bool, StoreError> {
        match work.public.get(&room) {
            Some(public) => Ok(*public),
            None => self.store.snapshot().contains(&PUBLIC_ROOMS, &room).await,
        }
    }

    /// Takes a room's posts out of the index. The room's own row goes last: after a crash in between, the work begins
    /// again.
    async fn close(
        &self,
        work: &mut Work,
        follower: &mut Follower,
        room: RoomNum,
        position: Position,
    ) -> Result<(), FeedError> {
        // What is still in the batch has to be found by the scan.
        self.write(work, follower, Position(position.0.saturating_sub(1)))
            .await?;
        loop {
            let rows = self
                .store
                .snapshot()
                .scan(
                    &ROOM_POSTS,
                    ScanRange::prefix(&room),
                    Direction::Forward,
                    CLOSED_AT_ONCE,
                )
                .await?;
            for (key, _) in &rows {
                work.batch.delete(&POSTS, &key.1);
                work.batch.delete(&ROOM_POSTS, key);
            }
            if rows.len() < CLOSED_AT_ONCE {
                break;
            }
            drop(self.store.commit(std::mem::take(&mut work.batch)).await?);
        }
        work.batch.delete(&PUBLIC_ROOMS, &room);
        Ok(())
    }

    /// An event that is not state: a post, a redaction, or nothing to us.
    async fn message(
        &self,
        work: &mut Work,
        view: &RoomView,
        kind: RoomKind,
        position: Position,
        event: EventNum,
    ) -> Result<(), FeedError> {
        let Some(shown) = view.shown(&[event]).await?.pop() else {
            return Ok(());
        };
        let pdu = shown.pdu;
        if pdu.kind() == "m.room.redaction" {
            if let Some(target) = pdu.redacts(view.rules()) {
                redacted(work, view, target).await?;
            }
            return Ok(());
        }
        let kept = shown.redacted_because.is_none()
            && is_post(pdu.kind())
            && self.was_public(work, view.num()).await?
            && pdu
                .content_as::<Value>()
                .is_ok_and(|content| stands_alone(&content));
        if !kept {
            return Ok(());
        }
        let Some((_, row)) = view.event_row(pdu.event_id()).await? else {
            return Ok(());
        };
        let before = view.state_at_snap(row.snap_before);
        if world_readable(&before).await? && may_post(&before, kind, &pdu).await? {
            let room = view.num();
            work.batch.put(&POSTS, &position, &PostRow { room, event });
            work.batch.put(&ROOM_POSTS, &(room, position), &event);
        }
        Ok(())
    }
}

/// Takes a post that was redacted out of the index. A redaction that came before its post is seen when the post comes.
async fn redacted(work: &mut Work, view: &RoomView, target: &EventId) -> Result<(), FeedError> {
    let Some((num, row)) = view.event_row(target).await? else {
        return Ok(());
    };
    // A place with another `sub` is history, which is not in the log and so not in the index.
    let Place::Timeline {
        position,
        sub: u32::MAX,
    } = row.place
    else {
        return Ok(());
    };
    let shown = view.shown(&[num]).await?;
    if shown.iter().any(|event| event.redacted_because.is_some()) {
        work.batch.delete(&POSTS, &position);
        work.batch.delete(&ROOM_POSTS, &(view.num(), position));
    }
    Ok(())
}

/// Whether anybody may read what is sent after this entry of the log, and we are there to receive it.
async fn is_public(view: &RoomView, position: Position) -> Result<bool, FeedError> {
    let snap: SnapNum = view.snapshot_at(position).await?;
    Ok(
        world_readable(&view.state_at_snap(snap)).await?
            && !view.local_members(1).await?.is_empty(),
    )
}

async fn world_readable(state: &StateView) -> Result<bool, FeedError> {
    let event = state.get("m.room.history_visibility", "").await?;
    Ok(HistoryVisibility::of(event.as_ref()) == HistoryVisibility::WorldReadable)
}

/// Whether what the sender says in the room is a post of it: in somebody's profile, only what they say themselves.
async fn may_post(state: &StateView, kind: RoomKind, post: &Pdu) -> Result<bool, FeedError> {
    if kind == RoomKind::Group {
        return Ok(true);
    }
    for name in PROFILE_USER_ID {
        if let Some(event) = state.get(name, "").await? {
            let user = string_member(event.content().get(), "user_id");
            return Ok(user.as_deref() == Some(post.sender().as_str()));
        }
    }
    let create = state.get("m.room.create", "").await?;
    Ok(create.is_some_and(|create| create.sender() == post.sender()))
}
