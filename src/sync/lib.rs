//! What a device has not seen yet: `/sync` as a function of (user, device, since) over the log.
//!
//! An answer holds what the log has between the client's token and the watermark, so nothing is
//! skipped, whatever was written meanwhile. Its cost follows what changed: the entries of the log
//! since the token where they are still in memory, the user's rooms otherwise.

mod answer;
mod audience;
mod changes;
mod context;
mod device;
mod device_lists;
mod error;
pub mod filter;
mod joined;
mod left;
mod presence;
pub mod sliding;
mod state;
mod sticky;
mod stream;
mod stream_edus;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
mod token;
mod waiters;
mod wanted_fields;

use std::{sync::Arc, time::Duration};

use resuni_accounts::{AccountNum, Accounts};
use resuni_delivery::Push;
use resuni_rooms::{Membership, PresenceState, RoomNum, Rooms, Typing};
use resuni_store::{Position, StoreError};
use ruma::{DeviceId, UserId, api::client::filter::FilterDefinition};
use tokio::{sync::watch, time::Instant};

use self::{
    answer::Answer, audience::Audiences, changes::Changes, context::Context, sliding::Sliding,
    waiters::Waiters,
};
pub use self::{
    device_lists::DeviceLists, error::SyncError, stream::StreamRequest, token::SyncToken,
};

/// The longest a client may wait for something new, in milliseconds: proxies cut longer ones.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(300);

/// So few waiting users are looked up in a room; with more, the room's own people are kept in memory.
const FEW: usize = 64;

/// Who syncs.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    /// The user.
    pub user: &'a UserId,
    /// Their account.
    pub account: AccountNum,
    /// Their device; none for an application service.
    pub device: Option<&'a DeviceId>,
}

/// What a client asks for (spec, `GET /_matrix/client/v3/sync`).
#[derive(Debug, Clone, Default)]
pub struct SyncRequest {
    /// `next_batch` of the answer before; none: everything.
    pub since: Option<SyncToken>,
    /// How long to wait for something new. Nothing waits longer than [`MAX_TIMEOUT`].
    pub timeout: Duration,
    /// What to leave out.
    pub filter: FilterDefinition,
    /// All state of all rooms, even of those without news; answers at once.
    pub full_state: bool,
    /// How the client says that its user is (`set_presence`).
    pub set_presence: PresenceState,
    /// `state_after` in place of `state` (v1.16, MSC4222).
    pub use_state_after: bool,
}

/// Answers syncs and wakes those that wait. One for the process.
pub struct Sync {
    rooms: Arc<Rooms>,
    accounts: Arc<Accounts>,
    typing: Arc<Typing>,
    push: Arc<Push>,
    waiters: Waiters,
    sliding: Sliding,
    stopping: watch::Sender<bool>,
}

impl Sync {
    /// Over these rooms and accounts; `push` counts what is unread. [`Sync::run`] must run for
    /// waiting clients to be woken, and [`Push::run`] for the counts. `random` is a number that no process before had:
    /// positions of sliding syncs begin with it.
    pub fn new(
        rooms: Arc<Rooms>,
        accounts: Arc<Accounts>,
        typing: Arc<Typing>,
        push: Arc<Push>,
        random: u64,
    ) -> Arc<Self> {
        Arc::new(Self {
            rooms,
            accounts,
            typing,
            push,
            waiters: Waiters::default(),
            sliding: Sliding::new(random),
            stopping: watch::Sender::new(false),
        })
    }

    /// Lets every client that waits go, with an empty answer: before the process stops.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// The body of the answer, a JSON object.
    pub async fn sync(&self, who: Who<'_>, request: &SyncRequest) -> Result<String, SyncError> {
        // Coming back with a token acknowledges the messages that were told with it.
        if let (Some(since), Some(device)) = (request.since, who.device) {
            self.accounts
                .delete_to_device(who.account, device, since.to_device)
                .await?;
        }
        let _there = self.rooms.presence().sync(who.user, request.set_presence);
        let deadline = Instant::now() + request.timeout.min(MAX_TIMEOUT);
        let user = self.rooms.user_num(who.user).await?;
        // Registered before the first look, so that nothing falls between look and wait.
        let waiter = self.waiters.register(user, who.account);
        let mut stopping = self.stopping.subscribe();
        loop {
            let now = self.now();
            // In a box: a client that waits costs what the future of this function holds.
            let mut answer = Box::pin(self.answer(who, request, now)).await?;
            let at_once = request.since.is_none() || request.full_state || *stopping.borrow();
            if at_once || !answer.is_empty() || Instant::now() >= deadline {
                if answer.key_counts.is_none() {
                    Box::pin(self.key_counts(who, &mut answer)).await?;
                }
                return Ok(answer.into_json(&now));
            }
            tokio::select! {
                () = waiter.woken() => {}
                () = tokio::time::sleep_until(deadline) => {}
                _ = stopping.changed() => {}
            }
        }
    }

    fn now(&self) -> SyncToken {
        // The typing serial first: what is typed in between is told again rather than lost.
        let typing = self.typing.serial();
        let position = self.rooms.store().log().watermark();
        SyncToken::at(position, typing)
    }

    async fn answer(
        &self,
        who: Who<'_>,
        request: &SyncRequest,
        now: SyncToken,
    ) -> Result<Answer, SyncError> {
        let mut answer = Answer::default();
        if let Some(since) = request.since {
            if since.position > now.position {
                return Err(SyncError::TokenFromTheFuture);
            }
            if !request.full_state && self.is_quiet(who, since, now).await? {
                return Ok(answer);
            }
        }
        let context = Context::new(self, who, request, now).await?;
        context.account_data(&mut answer);
        context.presence(&mut answer).await?;
        context.rooms(&mut answer).await?;
        context.device(&mut answer).await?;
        Ok(answer)
    }

    /// Whether the log and the typing lists have nothing at all since the token: what most waiting
    /// clients are told most of the time, for a few point reads in memory.
    async fn is_quiet(
        &self,
        who: Who<'_>,
        since: SyncToken,
        now: SyncToken,
    ) -> Result<bool, SyncError> {
        if since.is_behind() {
            return Ok(false); // There was more than one answer could hold.
        }
        if since.typing != now.typing
            && (!self.typing.changed_since(since.typing).is_empty()
                || self.presence_changed(who.user, since.typing).await?)
        {
            return Ok(false);
        }
        let Some(entries) = self
            .rooms
            .store()
            .log()
            .recent(since.position, now.position)
        else {
            return Ok(false);
        };
        let changes = Changes::of(&entries);
        if changes.accounts.contains(&who.account) {
            return Ok(false);
        }
        let Some(user) = self.rooms.user_num(who.user).await? else {
            return Ok(true);
        };
        if changes.members.contains(&user) {
            return Ok(false);
        }
        for other in &changes.keys {
            if self.rooms.share_a_room(who.user, other).await? {
                return Ok(false);
            }
        }
        for room in &changes.rooms {
            if self.rooms.is_joined(user, *room).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Wakes waiting clients as the log grows and as people type. Runs until the process ends.
    pub async fn run(self: Arc<Self>) -> Result<(), StoreError> {
        let mut log = self.rooms.store().log().watch();
        let mut typing = self.typing.watch();
        let mut seen = self.now();
        let mut audiences = Audiences::default();
        loop {
            tokio::select! {
                changed = log.changed() => if changed.is_err() { return Ok(()) },
                changed = typing.changed() => if changed.is_err() { return Ok(()) },
            }
            let now = self.now();
            if self.waiters.is_empty() {
                // What changes meanwhile is not looked at.
                audiences.clear();
            } else {
                self.wake(seen, now, &mut audiences).await?;
            }
            seen = now;
        }
    }

    async fn wake(
        &self,
        seen: SyncToken,
        now: SyncToken,
        audiences: &mut Audiences,
    ) -> Result<(), StoreError> {
        let Some(entries) = self.rooms.store().log().recent(seen.position, now.position) else {
            // More happened at once than memory holds: let everybody look for themselves.
            self.waiters.wake_all();
            audiences.clear();
            return Ok(());
        };
        let changes = Changes::of(&entries);
        for (room, user) in &changes.moved {
            audiences.moved(&self.rooms, *room, *user).await?;
        }
        for account in &changes.accounts {
            self.waiters.wake_account(*account);
        }
        for user in &changes.members {
            self.waiters.wake_user(*user);
        }
        for user in &changes.keys {
            let shared = self.rooms.rooms_of(user, &[Membership::Join]).await;
            // Whoever can't be found now is told by the next sync that comes.
            for room in shared.unwrap_or_default() {
                self.wake_joined(room.num, audiences).await?;
            }
        }
        self.wake_for_presence(seen.typing, audiences).await?;
        let typing = self.typing.changed_since(seen.typing);
        for room in changes.rooms.iter().copied().chain(typing) {
            self.wake_joined(room, audiences).await?;
        }
        Ok(())
    }

    /// Wakes those who wait and are joined to the room. Costs as much as the fewer of both.
    async fn wake_joined(
        &self,
        room: RoomNum,
        audiences: &mut Audiences,
    ) -> Result<(), StoreError> {
        if let Some(waiting) = self.waiters.few(FEW) {
            let joined = self.rooms.local_members_among(room, &waiting).await?;
            joined
                .into_iter()
                .for_each(|user| self.waiters.wake_user(user));
        } else {
            let joined = audiences.of(&self.rooms, room).await?;
            self.waiters.wake_among(joined);
        }
        Ok(())
    }

    /// The newest position, for clients that ask for "now".
    pub fn position(&self) -> Position {
        self.rooms.store().log().watermark()
    }
}
