//! Sliding sync (MSC4186): windows on the user's rooms, and what is new in them.
//!
//! One model serves both forms, the accepted one and the one that clients know as `org.matrix.simplified_msc3575`.
//! A request costs what happened since the last one, and a look at each room of its windows in memory: the order of the
//! rooms is kept ([`order`]), and so is what each connection has been sent ([`connection`]).

mod connection;
mod extensions;
mod filters;
mod names;
mod order;
mod request;
mod room;
mod stretch;
mod threads;
mod window;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;
use resuni_accounts::AccountNum;
use resuni_rooms::{EventNum, RoomNum, client_format::push_string};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use tokio::time::Instant;

use self::{
    connection::{ConnKey, Connections, OF_ROOMS, Seen, Sent, Step},
    order::RoomList,
    stretch::Stretch,
    window::Window,
};
pub use self::{
    request::{
        RequiredState, RoomConfig, RoomFilters, Scope, SlidingExtensions, SlidingForm, SlidingList,
        SlidingRequest, StateRule, ToDeviceExtension,
    },
    threads::ThreadPage,
};
use crate::{MAX_TIMEOUT, Sync, SyncToken, Who, error::SyncError, joined::quoted};

/// Rooms of all users together whose order is kept. Beyond it, the orders that were used least recently are forgotten,
/// and read again as they are needed.
const KEPT_ROOMS: usize = 4 << 20;
/// Rooms after which other tasks get their turn.
const TURN: usize = 16;

/// What sliding sync keeps between requests.
pub(crate) struct Sliding {
    connections: Connections,
    orders: Mutex<Orders>,
}

type Order = Arc<tokio::sync::Mutex<Option<RoomList>>>;

#[derive(Default)]
struct Orders {
    of: HashMap<AccountNum, Kept>,
    weight: usize,
    uses: u64,
}

#[derive(Default)]
struct Kept {
    order: Order,
    weight: usize,
    used: u64,
}

impl Sliding {
    /// `start` is random (see [`Connections::new`]).
    pub fn new(start: u64) -> Self {
        Self {
            connections: Connections::new(start),
            orders: Mutex::default(),
        }
    }

    fn order(&self, account: AccountNum) -> Order {
        let mut orders = self.orders.lock();
        orders.uses += 1;
        let used = orders.uses;
        let kept = orders.of.entry(account).or_default();
        kept.used = used;
        kept.order.clone()
    }

    fn weigh(&self, account: AccountNum, weight: usize) {
        let mut orders = self.orders.lock();
        let Some(kept) = orders.of.get_mut(&account) else {
            return;
        };
        let before = std::mem::replace(&mut kept.weight, weight);
        orders.weight = orders.weight + weight - before;
        if orders.weight <= KEPT_ROOMS {
            return;
        }
        let mut used: Vec<(u64, AccountNum)> = orders
            .of
            .iter()
            .map(|(of, kept)| (kept.used, *of))
            .collect();
        used.sort_unstable();
        for (_, other) in used {
            if orders.weight <= KEPT_ROOMS / 2 {
                break;
            }
            if let Some(kept) = orders.of.remove(&other) {
                orders.weight -= kept.weight;
            }
        }
    }
}

/// The parts of an answer, and what it adds to what the client has.
#[derive(Default)]
struct Draft {
    lists: Vec<(String, usize)>,
    rooms: Vec<(OwnedRoomId, String)>,
    /// By name; whether it is worth waking a waiting client for is counted apart.
    extensions: Vec<(&'static str, String)>,
    /// An extension has something new.
    extended: bool,
    /// The rooms that each extension was wanted of.
    told: [HashSet<RoomNum>; OF_ROOMS],
    /// The events of rooms that are new to the client.
    shown: HashMap<RoomNum, HashSet<OwnedEventId>>,
    /// The events of all timelines, where sticky ones are told beside.
    timelines: HashMap<RoomNum, HashSet<EventNum>>,
    step: Step,
}

impl Draft {
    fn is_empty(&self) -> bool {
        self.rooms.is_empty() && !self.extended
    }
}

/// What the parts of one answer share.
struct Look<'a> {
    sync: &'a Sync,
    who: Who<'a>,
    request: &'a SlidingRequest,
    /// What the client has.
    seen: &'a Seen,
    /// Up to where it is told.
    now: SyncToken,
    /// What happened in between.
    stretch: Stretch,
    ignored: HashSet<OwnedUserId>,
}

impl Sync {
    /// The body of the answer to a sliding sync, a JSON object.
    ///
    /// # Errors
    /// [`SyncError::UnknownPos`] when the connection is not known (any more), or was gone on with by another request.
    pub async fn sliding(
        &self,
        who: Who<'_>,
        request: &SlidingRequest,
    ) -> Result<String, SyncError> {
        self.acknowledge(who, request).await?;
        let _there = self.rooms.presence().sync(who.user, request.set_presence);
        let key = ConnKey::of(who, &request.conn_id);
        let turn = self
            .sliding
            .connections
            .enter(key, request.pos.as_deref())?;
        let deadline = Instant::now() + request.timeout.min(MAX_TIMEOUT);
        let user = self.rooms.user_num(who.user).await?;
        // Registered before the first look, so that nothing falls between look and wait.
        let waiter = self.waiters.register(user, who.account);
        let mut stopping = self.stopping.subscribe();
        let mut looked = None;
        loop {
            let over = Instant::now() >= deadline || *stopping.borrow();
            // Woken by what does not concern the user: the windows are as they were.
            let quiet = match looked {
                Some(looked) if !over => self.is_quiet(who, looked, self.now()).await?,
                _ => false,
            };
            if !quiet {
                // In a box: a client that waits costs what the future of this function holds.
                let draft = Box::pin(self.draft(who, request, &turn.seen)).await?;
                if turn.seen.token.is_none() || !draft.is_empty() || over {
                    return self.finish(&turn, request, draft);
                }
                looked = draft.step.token;
            }
            tokio::select! {
                () = waiter.woken() => {}
                () = tokio::time::sleep_until(deadline) => {}
                _ = stopping.changed() => {}
            }
        }
    }

    /// Deletes the messages to the device that the client has.
    async fn acknowledge(&self, who: Who<'_>, request: &SlidingRequest) -> Result<(), SyncError> {
        let since = request
            .extensions
            .to_device
            .as_ref()
            .and_then(|ext| ext.since);
        if let (Some(since), Some(device)) = (since, who.device) {
            if since > self.position() {
                return Err(SyncError::TokenFromTheFuture);
            }
            self.accounts
                .delete_to_device(who.account, device, since)
                .await?;
        }
        Ok(())
    }

    async fn draft(
        &self,
        who: Who<'_>,
        request: &SlidingRequest,
        seen: &Seen,
    ) -> Result<Draft, SyncError> {
        // Before the log: what is typed in between is told again rather than lost.
        let typing = self.typing.serial();
        let order = self.sliding.order(who.account);
        let mut order = order.lock().await;
        match order.as_mut() {
            Some(order) => order.advance(self, who).await?,
            None => *order = Some(RoomList::read(self, who).await?),
        }
        let Some(list) = order.as_mut() else {
            return Ok(Draft::default());
        };
        let now = SyncToken::at(list.up_to, typing);
        let stretch = Stretch::of(self, who, list.user(), seen, now).await?;
        let window = Window::open(self, who, request, seen, &stretch, list).await?;
        self.sliding.weigh(who.account, list.weight());
        drop(order);
        let look = Look {
            sync: self,
            who,
            request,
            seen,
            now,
            stretch,
            ignored: self.accounts.ignored_users(who.account).await?,
        };
        look.draft(window).await
    }

    fn finish(
        &self,
        turn: &connection::Turn,
        request: &SlidingRequest,
        draft: Draft,
    ) -> Result<String, SyncError> {
        let Draft {
            lists,
            rooms,
            extensions,
            step,
            ..
        } = draft;
        let pos = self.sliding.connections.answer(turn, step)?;
        let size: usize = rooms.iter().map(|(_, json)| json.len() + 64).sum();
        let mut out = String::with_capacity(size + 1024);
        out.push_str("{\"pos\":");
        push_string(&mut out, &pos);
        if let (Some(txn), SlidingForm::Unstable) = (&request.txn_id, request.form) {
            out.push_str(",\"txn_id\":");
            push_string(&mut out, txn);
        }
        let lists = lists.into_iter();
        let lists = lists.map(|(name, count)| (name, format!("{{\"count\":{count}}}")));
        object(&mut out, "lists", lists);
        object(&mut out, "rooms", rooms);
        object(&mut out, "extensions", extensions);
        out.push('}');
        Ok(out)
    }
}

impl Look<'_> {
    async fn draft(&self, window: Window) -> Result<Draft, SyncError> {
        let mut draft = Draft {
            lists: window.counts,
            step: Step {
                token: Some(self.now),
                threads: self.seen.threads,
                ..Step::default()
            },
            ..Draft::default()
        };
        if self.request.form == SlidingForm::Unstable {
            self.sync.push.counted(self.now.position).await;
        }
        for (n, chosen) in window.rooms.iter().enumerate() {
            if n % TURN == TURN - 1 {
                tokio::task::yield_now().await;
            }
            let told = self.room(chosen).await?;
            if let Some(json) = told.json
                && let Some(room) = self.sync.rooms.room_id(chosen.num).await?
            {
                draft.rooms.push((room, json));
            }
            if !told.events.is_empty() {
                let events = told.events.into_iter().collect();
                draft.shown.insert(chosen.num, events);
            }
            draft.timelines.insert(chosen.num, told.timeline);
            if let Some(sent) = told.sent {
                draft.step.rooms.insert(chosen.num, sent);
            }
        }
        self.note_unread(&mut draft);
        self.extend(&window.rooms, &mut draft).await?;
        Ok(draft)
    }
}

impl Look<'_> {
    /// The counts of rooms that the client has, that it was not told of now, and in which the user has read something:
    /// they are told when the room is in a window again.
    fn note_unread(&self, draft: &mut Draft) {
        let rooms: Vec<RoomNum> = match &self.stretch.log {
            _ if self.request.form == SlidingForm::Accepted || self.seen.token.is_none() => return,
            Some(log) => log.read.iter().copied().collect(),
            None => self.seen.rooms.keys().copied().collect(),
        };
        for room in rooms {
            if !draft.step.rooms.contains_key(&room)
                && let Some(sent) = self.seen.rooms.get(&room)
            {
                let unread = true;
                let sent = Sent {
                    unread,
                    ..sent.clone()
                };
                draft.step.rooms.insert(room, Some(sent));
            }
        }
    }
}

/// Adds `,"name":{…}`.
fn object<K: AsRef<str>>(
    out: &mut String,
    name: &str,
    members: impl IntoIterator<Item = (K, String)>,
) {
    out.push_str(",\"");
    out.push_str(name);
    out.push_str("\":{");
    for (n, (key, json)) in members.into_iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        out.push_str(&quoted(key.as_ref()));
        out.push(':');
        out.push_str(&json);
    }
    out.push('}');
}
