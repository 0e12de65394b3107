//! One machine: a disk, a clock, and the server that runs on them until the power fails.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context as _, Result};
use axum::Router;
use resuni_accounts::{
    AccountKind, Accounts, AccountsConfig, AppServices, DeviceRequest, NewAccount, PasswordCost,
};
use resuni_dag::SigningKey;
use resuni_delivery::{DelayedEvents, Push, ServiceClient, Ways};
use resuni_federation::{Federation, FederationParts, Mode, Network, NetworkConfig};
use resuni_http::{AppState, Registration, Settings, Support, limits::Limits};
use resuni_media::{Media, MediaConfig};
use resuni_rooms::{Rooms, RoomsConfig};
use resuni_search::Search;
use resuni_store::{EngineConfig, SharedClock, SimulatedDisk, Store, SystemClock};
use resuni_sync::Sync;
use ruma::{OwnedServerName, RoomVersionId};
use tokio_util::sync::CancellationToken;

use crate::{chance::Chance, clock::SkewedClock, network::Net};

/// A machine of the consortium.
pub struct Machine {
    /// The name of its server.
    pub name: OwnedServerName,
    /// What survives a crash.
    pub disk: SimulatedDisk,
    /// How it tells the time.
    pub clock: Arc<SkewedClock>,
    /// The server, while the power is on.
    pub server: Option<Server>,
    /// Access tokens of its people, by local part.
    pub tokens: BTreeMap<String, String>,
    key: Arc<SigningKey>,
    net: Arc<Net>,
    /// What all machines share because nobody asks for it.
    aside: Arc<Aside>,
}

/// Parts that need a folder or certificates and take no part in what is simulated.
pub struct Aside {
    _folder: tempfile::TempDir,
    services: Arc<ServiceClient>,
    media: Arc<Media>,
}

impl Aside {
    /// Makes them.
    ///
    /// # Errors
    /// When there is no room for a folder, or TLS can't be set up.
    pub async fn new() -> Result<Arc<Self>> {
        let folder = tempfile::tempdir()?;
        let media = MediaConfig {
            max_bytes: 1 << 20,
            authenticated_only: true,
            ..MediaConfig::new(OwnedServerName::try_from("nobody.test")?, folder.path())
        };
        let store = Store::open(EngineConfig::Simulated(SimulatedDisk::default())).await?;
        Ok(Arc::new(Self {
            _folder: folder,
            services: Arc::new(ServiceClient::new()?),
            media: Media::open(media, store, Arc::new(SystemClock)).await?,
        }))
    }
}

/// A running server.
#[derive(Clone)]
pub struct Server {
    /// Its rooms.
    pub rooms: Arc<Rooms>,
    /// Its people.
    pub accounts: Arc<Accounts>,
    /// Its federation.
    pub federation: Arc<Federation>,
    /// Its store.
    pub store: Store,
    /// All it answers.
    pub router: Router,
    /// Cancelled when the power fails.
    pub life: CancellationToken,
}

impl Machine {
    /// A new machine, switched off, with an empty disk.
    ///
    /// # Errors
    /// When the name or the key is none.
    pub fn new(
        name: &str,
        chance: &mut Chance,
        clock: SkewedClock,
        net: &Arc<Net>,
        aside: &Arc<Aside>,
    ) -> Result<Self> {
        let mut seed = [0; 32];
        for eight in seed.chunks_mut(8) {
            eight.copy_from_slice(&chance.draw().to_be_bytes());
        }
        Ok(Self {
            name: OwnedServerName::try_from(name)?,
            disk: SimulatedDisk::default(),
            clock: Arc::new(clock),
            server: None,
            tokens: BTreeMap::new(),
            key: Arc::new(SigningKey::generate("sim", seed)?),
            net: Arc::clone(net),
            aside: Arc::clone(aside),
        })
    }

    /// Switches it on.
    ///
    /// # Errors
    /// When the server does not start on what is on the disk, which is a bug of its own.
    pub async fn start(&mut self) -> Result<()> {
        let life = CancellationToken::new();
        let server = self.open(&life).await;
        let server = server.with_context(|| format!("{} does not start", self.name))?;
        self.net
            .plug(&self.name, server.router.clone(), life.clone());
        let federation = Arc::clone(&server.federation);
        let name = self.name.clone();
        tokio::spawn(async move {
            let ended = federation.run().await;
            if let (Err(error), false) = (ended, life.is_cancelled()) {
                tracing::warn!(%name, %error, "the sender stopped");
            }
        });
        self.server = Some(server);
        Ok(())
    }

    async fn open(&self, life: &CancellationToken) -> Result<Server> {
        let clock: SharedClock = self.clock.clone();
        let store = Store::open(EngineConfig::Simulated(self.disk.clone())).await?;
        let network = NetworkConfig {
            server_name: self.name.clone(),
            key: Arc::clone(&self.key),
            old_keys: Vec::new(),
            notaries: Vec::new(),
            mode: Mode::Open,
            destinations: BTreeMap::new(),
            extra_ca_files: Vec::new(),
            deny_ip_ranges: Vec::new(),
        };
        let link = self.net.link(&self.name, life.clone());
        let network = Network::with_transport(network, link, store.clone(), clock.clone())?;
        let rooms = RoomsConfig {
            server_name: self.name.clone(),
            key: Arc::clone(&self.key),
            default_version: RoomVersionId::V12,
        };
        let rooms = Rooms::open(rooms, store.clone(), clock.clone()).await?;
        rooms.presence().enable(false);
        let accounts = Accounts::open(
            AccountsConfig {
                // Each start hashes a decoy: that was a third of what a seed cost.
                password_cost: PasswordCost::Minimum,
                ..AccountsConfig::new(self.name.clone())
            },
            AppServices::default(),
            store.clone(),
            clock.clone(),
        );
        let accounts = accounts.await?;
        let federation = Federation::open(FederationParts {
            server_name: self.name.clone(),
            key: Arc::clone(&self.key),
            network,
            store: store.clone(),
            rooms: Arc::clone(&rooms),
            accounts: Arc::clone(&accounts),
            typing: Arc::clone(rooms.typing()),
            clock: clock.clone(),
            stop: life.clone(),
        });
        let federation = Arc::new(federation.await?);
        let state = self.state(&rooms, &accounts, &federation, clock).await?;
        Ok(Server {
            router: resuni_http::router(state),
            rooms,
            accounts,
            federation,
            store,
            life: life.clone(),
        })
    }

    async fn state(
        &self,
        rooms: &Arc<Rooms>,
        accounts: &Arc<Accounts>,
        federation: &Arc<Federation>,
        clock: SharedClock,
    ) -> Result<AppState> {
        let push = Push::open(Arc::clone(rooms), Arc::clone(accounts), Ways::default()).await?;
        let typing = Arc::clone(rooms.typing());
        let settings = Settings {
            admin_api: false,
            server_name: self.name.clone(),
            public_baseurl: None,
            well_known_server: None,
            support: Support::default(),
            registration: Registration::default(),
            turn: None,
            livekit_services: Vec::new(),
            default_room_version: RoomVersionId::V12,
            trusted_proxies: Vec::new(),
        };
        Ok(AppState {
            settings: Arc::new(settings),
            accounts: Arc::clone(accounts),
            rooms: Arc::clone(rooms),
            federation: Some(Arc::clone(federation)),
            media: Arc::clone(&self.aside.media),
            delayed: DelayedEvents::new(Arc::clone(rooms), Arc::clone(accounts), || [0; 16]),
            mail: None,
            services: Arc::clone(&self.aside.services),
            search: Search::open(Arc::clone(rooms), Arc::clone(accounts)).await?,
            sync: Sync::new(
                Arc::clone(rooms),
                Arc::clone(accounts),
                typing,
                Arc::clone(&push),
                1,
            ),
            push,
            rendezvous: None,
            relationships: None,
            notices: None,
            previews: None,
            limits: Arc::new(Limits::new(None, clock)),
        })
    }

    /// Makes accounts for these people.
    ///
    /// # Errors
    /// When the machine is off, or the server refuses them.
    pub async fn register(&mut self, people: &[String]) -> Result<()> {
        let server = self.server.clone().context("it is off")?;
        for person in people {
            let account = NewAccount {
                localpart: Some(person.clone()),
                device: Some(DeviceRequest {
                    device_id: Some("PHONE".into()),
                    display_name: None,
                    refresh: false,
                }),
                ..NewAccount::of_kind(AccountKind::User)
            };
            let registered = server.accounts.register(account).await?;
            let login = registered.login.context("no session")?;
            self.tokens.insert(person.clone(), login.access_token);
        }
        Ok(())
    }

    /// Whether the power has failed since this was last asked, in the middle of a write.
    pub fn has_failed(&self) -> bool {
        let server = self.server.as_ref();
        server.is_some_and(|server| server.store.has_ended().is_some())
    }

    /// Cuts the power. Of what was not synced chance decides what survives.
    pub fn crash(&mut self, chance: &mut Chance) {
        self.net.unplug(&self.name);
        if let Some(server) = self.server.take() {
            server.life.cancel();
        }
        self.disk.cut(|unsynced| chance.below(unsynced + 1));
    }
}
