//! The rest of a room's state after a join that left the members out (MSC3902).
//!
//! One task for each partial room asks who let us in, then the other servers there, for the state before our join, until
//! one gives a state that the room takes. What is missing is written down by the rooms, so a restart goes on where it was.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use resuni_rooms::{Resync, Rooms};
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{backoff::pause_ms, error::FederationError, fetch::Fetcher};

/// Rooms whose states are fetched at the same time.
const AT_ONCE: usize = 16;
/// Servers that are asked before there is a pause.
const SERVERS: usize = 8;
/// The longest pause between two rounds.
const LONGEST_PAUSE: Duration = Duration::from_secs(3_600);

/// Makes partial rooms whole.
pub struct Resyncs {
    rooms: Arc<Rooms>,
    fetcher: Arc<Fetcher>,
    stop: CancellationToken,
    /// Rooms that are being worked on, and whether to look again at the end: we may have joined anew meanwhile.
    running: Mutex<HashMap<OwnedRoomId, bool>>,
    permits: Semaphore,
}

impl Resyncs {
    /// Nothing is asked before [`Resyncs::start`] or [`Resyncs::resume`].
    #[must_use]
    pub fn new(rooms: Arc<Rooms>, fetcher: Arc<Fetcher>, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            rooms,
            fetcher,
            stop,
            running: Mutex::default(),
            permits: Semaphore::new(AT_ONCE),
        })
    }

    /// Goes on with the rooms that were partial when the server stopped.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn resume(self: &Arc<Self>) -> Result<(), FederationError> {
        for room in self.rooms.partial_rooms().await? {
            self.start(&room);
        }
        Ok(())
    }

    /// Begins to fetch what is missing of a room.
    pub fn start(self: &Arc<Self>, room: &RoomId) {
        let mut running = self.running.lock();
        if let Some(again) = running.get_mut(room) {
            *again = true;
            return;
        }
        running.insert(room.to_owned(), false);
        let (this, room) = (Arc::clone(self), room.to_owned());
        tokio::spawn(async move {
            tokio::select! {
                () = this.stop.cancelled() => {}
                () = this.work(&room) => {}
            }
        });
    }

    async fn work(&self, room: &RoomId) {
        for failures in 0.. {
            match self.round(room, failures as usize).await {
                Ok(true) => {
                    let mut running = self.running.lock();
                    match running.get_mut(room) {
                        Some(again) if *again => *again = false,
                        _ => {
                            running.remove(room);
                            return;
                        }
                    }
                    continue;
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%room, %error, "the state of a room can't be completed");
                }
            }
            let pause = Duration::from_millis(pause_ms(failures));
            tokio::time::sleep(pause.min(LONGEST_PAUSE)).await;
        }
    }

    /// Asks some servers for what is missing. Whether there is nothing more to do.
    async fn round(&self, room: &RoomId, round: usize) -> Result<bool, FederationError> {
        let Some(Resync { wanted, servers }) = self.rooms.resync(room).await? else {
            return Ok(true);
        };
        let Ok(_permit) = self.permits.acquire().await else {
            return Ok(true);
        };
        for (join, missing) in wanted {
            // Each round begins further down the list, so that all of them have their turn.
            let first = (round * SERVERS).checked_rem(servers.len()).unwrap_or(0);
            let turn = servers
                .iter()
                .cycle()
                .skip(first)
                .take(servers.len().min(SERVERS));
            if !self.state_before(room, &join, &missing, turn).await? {
                return Ok(false);
            }
        }
        Ok(self.rooms.complete(room).await?)
    }

    async fn state_before(
        &self,
        room: &RoomId,
        join: &EventId,
        missing: &[OwnedEventId],
        servers: impl Iterator<Item = &OwnedServerName>,
    ) -> Result<bool, FederationError> {
        for server in servers {
            match self.ask(room, join, missing, server).await {
                Ok(()) => return Ok(true),
                Err(error @ FederationError::Internal(_)) => return Err(error),
                Err(error) => {
                    tracing::info!(%room, %server, %error, "the state of a room can't be had here");
                }
            }
            if self.rooms.resync(room).await?.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn ask(
        &self,
        room: &RoomId,
        join: &EventId,
        missing: &[OwnedEventId],
        server: &ServerName,
    ) -> Result<(), FederationError> {
        let mut states = Vec::with_capacity(missing.len());
        for event in missing {
            states.push(
                self.fetcher
                    .state_after(room, server, (event, join))
                    .await?,
            );
        }
        Ok(self.rooms.give_state(room, join, states).await?)
    }
}
