//! Our own events to other servers.
//!
//! A follower of the log hands events out to one queue per destination. What waits is not copied to
//! disk: the follower's cursor and, for each server that has not been sent everything, the position up
//! to which it was, are written together; the rest is found again in the log. So a crash repeats a
//! little (receivers know an event they have) and loses nothing.

mod catch_up;
mod devices;
mod edus;
mod outbox;
mod queue;
mod sticky;
mod worker;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use resuni_accounts::{Accounts, e2e::DEVICE_LISTS_TOPIC};
use resuni_rooms::{
    EventNum, Membership, RoomNum, RoomView, Rooms, Typing, membership_of,
    receipts::TOPIC_RECEIPT,
    tables::{EventLog, TOPIC_EVENT, TOPIC_WHOLE, flags},
};
use resuni_store::{Batch, Direction, Follower, LogEntry, Position, ScanRange, SharedClock, Store};
use ruma::{OwnedServerName, ServerName};
use tokio_util::sync::CancellationToken;

use crate::{
    admission::Admission,
    backoff::Backoff,
    client::Client,
    error::FederationError,
    tables::{BEHIND, NEWEST, Newest},
};

pub use outbox::DeviceMessages;
pub use queue::{Ephemeral, Subject};
use queue::{Item, Queue};

/// Log entries read at once.
const READ_LIMIT: usize = 256;
/// How often the cursor is written while there is something to write.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(500);
/// How often an entry that can't be handed out is tried before it is passed over.
const ATTEMPTS: u32 = 3;
/// The pause between.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// Servers of one room that are sent its events.
const MAX_SERVERS: usize = 100_000;
/// Rooms whose servers are remembered.
const ROOM_CACHE: usize = 4_096;

/// Sends events and ephemeral messages to other servers.
pub struct Sender {
    shared: Arc<Shared>,
    follower: tokio::sync::Mutex<Follower>,
}

struct Shared {
    origin: OwnedServerName,
    rooms: Arc<Rooms>,
    store: Store,
    client: Arc<Client>,
    backoff: Arc<Backoff>,
    admission: Arc<Admission>,
    clock: SharedClock,
    stop: CancellationToken,
    queues: Mutex<HashMap<OwnedServerName, Arc<Queue>>>,
    /// How far the log has been handed out.
    dispatched: AtomicU64,
    /// Rows of `NEWEST` that are not written yet.
    newest: Mutex<HashMap<RoomNum, Newest>>,
    next_transaction: AtomicU64,
    accounts: Arc<Accounts>,
    next_stored: AtomicU64,
}

/// How the queues are doing, for metrics and the operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenderStats {
    /// Servers that have not been sent everything.
    pub waiting: usize,
    /// Events and ephemeral messages in memory.
    pub queued: usize,
}

/// The parts a sender is made of.
pub struct SenderParts {
    /// Our name.
    pub origin: OwnedServerName,
    /// The rooms.
    pub rooms: Arc<Rooms>,
    /// Our people.
    pub accounts: Arc<Accounts>,
    /// The store they are in.
    pub store: Store,
    /// Sends requests.
    pub client: Arc<Client>,
    /// Who is left alone.
    pub backoff: Arc<Backoff>,
    /// Who is sent anything.
    pub admission: Arc<Admission>,
    /// The time.
    pub clock: SharedClock,
    /// Ends everything.
    pub stop: CancellationToken,
}

impl Sender {
    /// Goes on where the last run stopped. Nothing is sent before [`Sender::run`].
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(parts: SenderParts) -> Result<Arc<Self>, FederationError> {
        let SenderParts {
            origin,
            rooms,
            accounts,
            store,
            client,
            backoff,
            admission,
            clock,
            stop,
        } = parts;
        let follower = store.follower("federation sender").await?;
        let snapshot = store.snapshot();
        let behind = snapshot
            .scan(&BEHIND, ScanRange::all(), Direction::Forward, usize::MAX)
            .await?;
        let (mut stored, next_stored) = outbox::counts(&store).await?;
        let mut queues = HashMap::new();
        for (name, position) in behind {
            if let Ok(server) = OwnedServerName::try_from(name) {
                let stored = stored.remove(&server).unwrap_or_default();
                let queue = Queue::new(server.clone(), Some(position), stored);
                queues.insert(server, queue);
            }
        }
        for (server, count) in stored {
            let queue = Queue::new(server.clone(), None, count);
            queues.insert(server, queue);
        }
        let shared = Arc::new(Shared {
            origin,
            rooms,
            store,
            client,
            backoff,
            admission,
            next_transaction: AtomicU64::new(clock.now_ms()),
            clock,
            stop,
            queues: Mutex::new(queues),
            dispatched: AtomicU64::new(follower.cursor().0),
            newest: Mutex::default(),
            accounts,
            next_stored: AtomicU64::new(next_stored),
        });
        Ok(Arc::new(Self {
            shared,
            follower: tokio::sync::Mutex::new(follower),
        }))
    }

    /// Follows the log until the server stops.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn run(&self) -> Result<(), FederationError> {
        let mut follower = self.follower.lock().await;
        let shared = &self.shared;
        let behind: Vec<_> = shared.queues.lock().values().cloned().collect();
        for queue in behind {
            if queue.start() {
                shared.spawn(queue);
            }
        }
        let mut dispatcher = Dispatcher {
            shared,
            servers: HashMap::new(),
        };
        let mut saved = Saved {
            cursor: follower.cursor(),
            behind: shared.behind(),
        };
        let mut watermark = shared.store.log().watch();
        let mut at = follower.cursor();
        let mut checkpoint = tokio::time::interval(CHECKPOINT_EVERY);
        checkpoint.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let up_to = *watermark.borrow_and_update();
            while at < up_to {
                let entries = shared.store.log().read(at, up_to, READ_LIMIT).await?;
                // Without a full page there is nothing more up to the watermark.
                at = match entries.last() {
                    Some(last) if entries.len() == READ_LIMIT => last.position,
                    _ => up_to,
                };
                for entry in &entries {
                    dispatcher.dispatch_surely(entry).await;
                }
                shared.dispatched.store(at.0, Ordering::Release);
            }
            tokio::select! {
                () = shared.stop.cancelled() => break,
                changed = watermark.changed() => if changed.is_err() { break },
                _ = checkpoint.tick() => shared.checkpoint(&mut follower, at, &mut saved).await?,
            }
        }
        shared.checkpoint(&mut follower, at, &mut saved).await
    }

    /// Traffic came from `server`, which had been failing: what waits for it is sent now.
    pub fn returned(&self, server: &ServerName) {
        if let Some(queue) = self.shared.queues.lock().get(server) {
            queue.returned.notify_one();
        }
    }

    /// The servers that something waited for since the start.
    pub fn destinations(&self) -> Vec<OwnedServerName> {
        self.shared.queues.lock().keys().cloned().collect()
    }

    /// Where a server has everything up to; none where that is everything there is.
    pub fn delivered_up_to(&self, server: &ServerName) -> Option<Position> {
        let queue = self.shared.queues.lock().get(server).cloned();
        queue?.delivered_up_to()
    }

    /// Passes on an event of another server's user that came into the room by way of us. It is not
    /// repeated after a crash: a server that misses it finds it as the parent of the next event.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn relay(
        &self,
        view: &RoomView,
        position: Position,
        event: EventNum,
        from: &ServerName,
    ) -> Result<(), FederationError> {
        let item = Item {
            position,
            room: view.num(),
            event,
        };
        for server in view.servers(MAX_SERVERS).await? {
            if server != from && self.shared.is_destination(&server) {
                self.shared.send(&server, item);
            }
        }
        Ok(())
    }

    /// Queues an ephemeral message for `server`. It is not kept on disk.
    pub fn send_edu(&self, server: &ServerName, edu: Ephemeral) {
        self.shared.send_edu(server, edu);
    }

    /// Tells other servers who of our users is there, until the server stops.
    pub async fn run_presence(&self) {
        edus::run_presence(&self.shared).await;
    }

    /// Sends on who types in which room, until the server stops.
    pub async fn run_typing(&self, typing: &Typing) {
        edus::run_typing(&self.shared, typing).await;
    }

    /// How the queues are doing.
    #[must_use]
    pub fn stats(&self) -> SenderStats {
        let queues = self.shared.queues.lock();
        SenderStats {
            waiting: queues
                .values()
                .filter(|queue| queue.delivered_up_to().is_some())
                .count(),
            queued: queues.values().map(|queue| queue.len()).sum(),
        }
    }
}

/// What is on disk.
struct Saved {
    cursor: Position,
    behind: HashMap<OwnedServerName, Position>,
}

impl Shared {
    fn spawn(self: &Arc<Self>, queue: Arc<Queue>) {
        tokio::spawn(worker::run(Arc::clone(self), queue));
    }

    fn queue(&self, server: &ServerName) -> Arc<Queue> {
        let mut queues = self.queues.lock();
        if let Some(queue) = queues.get(server) {
            return Arc::clone(queue);
        }
        let queue = Queue::new(server.to_owned(), None, 0);
        queues.insert(server.to_owned(), Arc::clone(&queue));
        queue
    }

    fn is_destination(&self, server: &ServerName) -> bool {
        server != self.origin && self.admission.allows(server)
    }

    fn send(self: &Arc<Self>, server: &ServerName, item: Item) {
        let queue = self.queue(server);
        if queue.push(item) {
            self.spawn(queue);
        }
    }

    fn send_edu(self: &Arc<Self>, server: &ServerName, edu: Ephemeral) {
        if !self.is_destination(server) {
            return;
        }
        let queue = self.queue(server);
        if queue.push_edu(edu) {
            self.spawn(queue);
        }
    }

    fn dispatched(&self) -> Position {
        Position(self.dispatched.load(Ordering::Acquire))
    }

    fn behind(&self) -> HashMap<OwnedServerName, Position> {
        let queues = self.queues.lock();
        queues
            .iter()
            .filter_map(|(server, queue)| Some((server.clone(), queue.delivered_up_to()?)))
            .collect()
    }

    /// Writes how far we are: the cursor, and who has not been sent everything up to it.
    async fn checkpoint(
        &self,
        follower: &mut Follower,
        at: Position,
        saved: &mut Saved,
    ) -> Result<(), FederationError> {
        let behind = self.behind();
        // Taken out first: what is added while we write belongs to the next round.
        let newest = std::mem::take(&mut *self.newest.lock());
        if at == saved.cursor && behind == saved.behind && newest.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        for (server, position) in &behind {
            if saved.behind.get(server) != Some(position) {
                batch.put(&BEHIND, &server.to_string(), position);
            }
        }
        for server in saved
            .behind
            .keys()
            .filter(|server| !behind.contains_key(*server))
        {
            batch.delete(&BEHIND, &server.to_string());
        }
        for (room, row) in &newest {
            batch.put(&NEWEST, room, row);
        }
        follower.advance(&mut batch, at);
        // Not waited for: what a crash takes away is only found again and sent twice.
        let _applied = self.store.commit(batch).await?;
        *saved = Saved { cursor: at, behind };
        self.forget_idle();
        Ok(())
    }

    /// Queues of servers that were sent everything are made again when needed.
    fn forget_idle(&self) {
        let mut queues = self.queues.lock();
        queues.retain(|_, queue| Arc::strong_count(queue) > 1 || !queue.is_idle());
        let queued: usize = queues.values().map(|queue| queue.len()).sum();
        metrics::gauge!("resuni_federation_queued").set(queued as f64);
        metrics::gauge!("resuni_federation_destinations_waiting").set(queues.len() as f64);
        metrics::gauge!("resuni_federation_destinations_backing_off")
            .set(self.backoff.paused() as f64);
    }
}

/// Hands log entries out to the queues.
struct Dispatcher<'a> {
    shared: &'a Arc<Shared>,
    /// The servers of rooms as of the last event that was handed out.
    servers: HashMap<RoomNum, BTreeSet<OwnedServerName>>,
}

impl Dispatcher<'_> {
    /// One entry that can't be handed out must not keep back all that come after it.
    async fn dispatch_surely(&mut self, entry: &LogEntry) {
        for attempt in 1..=ATTEMPTS {
            let Err(error) = self.dispatch(entry).await else {
                return;
            };
            tracing::error!(position = entry.position.0, attempt, %error, "an entry of the log can't be handed out to other servers");
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    async fn dispatch(&mut self, entry: &LogEntry) -> Result<(), FederationError> {
        if entry.topic == DEVICE_LISTS_TOPIC {
            return devices::changed(self.shared, entry).await;
        }
        if entry.topic == TOPIC_RECEIPT {
            return edus::dispatch_receipt(self.shared, entry).await;
        }
        if entry.topic == TOPIC_WHOLE {
            let room = RoomNum(entry.scope);
            self.servers.remove(&room);
            return devices::came_whole(self.shared, room, entry).await;
        }
        if entry.topic != TOPIC_EVENT {
            return Ok(());
        }
        let Some(log) = EventLog::from_bytes(&entry.payload) else {
            return Ok(());
        };
        let room = RoomNum(entry.scope);
        let changed = log.flags & flags::STATE_CHANGED != 0;
        if sticky::may_join(&log) {
            self.welcome(room, &log, entry.position).await?;
        }
        if log.flags & flags::MEMBER != 0 && !log.memberships.is_empty() {
            devices::joined(self.shared, room, &log, entry.position).await?;
        }
        if !is_ours(&log) {
            if changed {
                self.servers.remove(&room);
            }
            return Ok(());
        }
        let Some(view) = self.shared.rooms.view_num(room).await? else {
            return Ok(());
        };
        let mut servers = self.servers_of(&view, changed).await?;
        servers.extend(put_out(&view, &log).await?);
        let newest = Newest {
            position: entry.position,
            event: log.event,
        };
        self.shared.newest.lock().insert(room, newest);
        let item = Item {
            position: entry.position,
            room,
            event: log.event,
        };
        for server in servers
            .iter()
            .filter(|server| self.shared.is_destination(server))
        {
            self.shared.send(server, item);
        }
        Ok(())
    }

    /// A server that may be new in the room gets our sticky events there, behind which it has not been (MSC4354). One that
    /// has them knows them.
    async fn welcome(
        &self,
        room: RoomNum,
        log: &EventLog,
        position: Position,
    ) -> Result<(), FederationError> {
        let Some(view) = self.shared.rooms.view_num(room).await? else {
            return Ok(());
        };
        let Some(server) = sticky::joining(&view, log).await? else {
            return Ok(());
        };
        let known = self.servers.get(&room);
        if known.is_some_and(|known| known.contains(&server))
            || !self.shared.is_destination(&server)
        {
            return Ok(());
        }
        for item in sticky::ours(self.shared, &view, position).await? {
            self.shared.send(&server, item);
        }
        Ok(())
    }

    /// The servers in the room at this event: those now, and those at the event before it, since by the
    /// time the log is read a later event may have taken a server out.
    async fn servers_of(
        &mut self,
        view: &RoomView,
        changed: bool,
    ) -> Result<BTreeSet<OwnedServerName>, FederationError> {
        let before = self.servers.get(&view.num());
        if let Some(before) = before.filter(|_| !changed) {
            return Ok(before.clone());
        }
        let now: BTreeSet<_> = view.servers(MAX_SERVERS).await?.into_iter().collect();
        let mut all = now.clone();
        all.extend(before.into_iter().flatten().cloned());
        if self.servers.len() >= ROOM_CACHE {
            self.servers.clear();
        }
        self.servers.insert(view.num(), now);
        Ok(all)
    }
}

/// The server of somebody who was kicked, banned or whose invite was taken back: it may have nobody else
/// in the room, and has to know.
async fn put_out(
    view: &RoomView,
    log: &EventLog,
) -> Result<Option<OwnedServerName>, FederationError> {
    let Some(target) = log.target.filter(|_| log.flags & flags::MEMBER != 0) else {
        return Ok(None);
    };
    let pdus = view.pdus(&[log.event]).await?;
    let membership = pdus.first().and_then(membership_of);
    if !matches!(membership, Some(Membership::Leave | Membership::Ban)) {
        return Ok(None);
    }
    Ok(Some(view.user_id(target).await?.server_name().to_owned()))
}

/// Events of our own users in rooms that we are in. A join by way of another server is sent on by that
/// server; what is out of band was told to the one server that had to know.
fn is_ours(log: &EventLog) -> bool {
    log.flags & flags::LOCAL != 0 && log.flags & (flags::OUT_OF_BAND | flags::ADOPTED) == 0
}
