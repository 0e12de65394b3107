//! The handle that everything else holds.

use std::sync::{Arc, OnceLock, atomic::AtomicBool};

use resuni_dag::{RoomRules, SigningKey};
use resuni_store::{SharedClock, Store, StoreError};
use ruma::{OwnedServerName, RoomVersionId, ServerName};
use tokio::sync::{Semaphore, watch};

use crate::{
    bans::Bans,
    cache::Caches,
    directory::DirectoryOrder,
    error::RoomError,
    lane::Lanes,
    moderation::{Redactions, Shutdowns},
    policy::PolicyAsker,
    presence::Presence,
    reader::Reader,
    spaces::Walks,
    typing::Typing,
};

/// Who we are, and what new rooms are like.
#[derive(Clone)]
pub struct RoomsConfig {
    /// This server.
    pub server_name: OwnedServerName,
    /// Its signing key.
    pub key: Arc<SigningKey>,
    /// The version of new rooms.
    pub default_version: RoomVersionId,
}

/// All rooms.
pub struct Rooms {
    pub(crate) config: RoomsConfig,
    pub(crate) store: Store,
    pub(crate) clock: SharedClock,
    pub(crate) caches: Arc<Caches>,
    pub(crate) lanes: Lanes,
    pub(crate) directory: DirectoryOrder,
    /// Walks through spaces that clients may go on with.
    pub walks: Walks,
    typing: Arc<Typing>,
    presence: Arc<Presence>,
    /// Bounds the threads that resolve states at a time.
    pub(crate) resolving: Arc<Semaphore>,
    /// Wakes those who wait for a partial state to become whole.
    pub(crate) partial_news: watch::Sender<()>,
    /// Rooms that are being shut down, or were.
    pub(crate) shutdowns: Shutdowns,
    /// What people have said that is being redacted, or was.
    pub(crate) redactions: Redactions,
    /// What policy rooms say.
    pub(crate) bans: Bans,
    /// Who asks policy servers.
    pub(crate) policies: OnceLock<Arc<dyn PolicyAsker>>,
    /// Whether threads of any depth are kept (MSC2836).
    pub(crate) relationships: AtomicBool,
}

/// States that are resolved at a time.
const RESOLVING: usize = 4;

impl Rooms {
    /// The rooms in this store.
    pub async fn open(
        config: RoomsConfig,
        store: Store,
        clock: SharedClock,
    ) -> Result<Arc<Self>, StoreError> {
        let typing = Arc::new(Typing::new(clock.clone()));
        Ok(Arc::new(Self {
            presence: Arc::new(Presence::new(clock.clone(), typing.clone())),
            typing,
            directory: DirectoryOrder::default(),
            bans: Bans::new(config.server_name.clone()),
            walks: Walks::new(clock.now_ms()),
            config,
            store,
            clock,
            caches: Arc::new(Caches::new()),
            lanes: Lanes::new(),
            resolving: Arc::new(Semaphore::new(RESOLVING)),
            partial_news: watch::Sender::new(()),
            shutdowns: Shutdowns::default(),
            redactions: Redactions::default(),
            policies: OnceLock::new(),
            relationships: AtomicBool::new(false),
        }))
    }

    /// This server's name.
    pub fn server_name(&self) -> &ServerName {
        &self.config.server_name
    }

    /// The version of rooms that are created without one.
    pub fn default_version(&self) -> &RoomVersionId {
        &self.config.default_version
    }

    /// The store that the rooms are in.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Who types where.
    pub fn typing(&self) -> &Arc<Typing> {
        &self.typing
    }

    /// Who is there.
    pub fn presence(&self) -> &Arc<Presence> {
        &self.presence
    }

    /// A fresh snapshot. It sees everything that was applied, durable or not.
    pub(crate) fn reader(&self) -> Reader {
        Reader {
            store: self.store.clone(),
            snapshot: self.store.snapshot(),
            caches: self.caches.clone(),
            fresh: Default::default(),
        }
    }
}

/// The rules of a version, if we know it.
pub(crate) fn rules_of(version: &str) -> Result<&'static RoomRules, RoomError> {
    let id = RoomVersionId::try_from(version).ok();
    id.and_then(|id| RoomRules::of(&id))
        .ok_or_else(|| RoomError::UnsupportedVersion(version.to_owned()))
}
