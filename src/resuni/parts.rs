//! The wiring: each part is made from what it needs, from the bottom up.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::routing::get;
use resuni_accounts::{
    Accounts, AccountsConfig, AppServices, OptionalRules, PasswordCost, Rendezvous, ServiceFile,
    Turn, TurnAccess,
};
use resuni_config::{Config, HashingCost, MailSecurity};
use resuni_dag::SigningKey;
use resuni_delivery::{
    DelayedEvents, Digests, MailConfig, MailTls, Mailer, Notices, NoticesConfig, Push,
    ServiceClient, Services, Upgrades, Ways,
};
use resuni_federation::net::WebClient;
use resuni_federation::{
    Federation, FederationParts, Mode, Network, NetworkConfig, relationships::Relationships,
};
use resuni_feed::Feed;
use resuni_http::limits::{Limits, Rates};
use resuni_http::{AppState, Registration, Settings, Support};
use resuni_media::{BucketConfig, Media, MediaConfig, MediaError, PreviewConfig, Previews};
use resuni_rooms::{Rooms, RoomsConfig};
use resuni_search::Search;
use resuni_store::{
    EngineConfig, Position, RocksConfig, SharedClock, Store, StoreError, SystemClock,
};
use resuni_sync::Sync;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::data::DataDir;
use crate::operator::{Answering, Door};
use crate::social;
use crate::web_access::TheWeb;

/// How often it is looked for files that are no longer kept.
const TIDYING: Duration = Duration::from_secs(60 * 60);
/// How often what is written lazily is written.
const HOUSEKEEPING: Duration = Duration::from_secs(60);

/// All parts of a running server.
pub(crate) struct Parts {
    store: Store,
    accounts: Arc<Accounts>,
    router: Router,
    /// What runs by itself until `stopping`.
    tasks: TaskTracker,
}

impl Parts {
    /// Opens the database and makes the parts. `stopping` ends what runs by itself, and releases
    /// whoever waits in a request.
    pub(crate) async fn open(
        config: &Config,
        data: &DataDir,
        stopping: CancellationToken,
    ) -> Result<Self> {
        let key = Arc::new(data.signing_key()?);
        let store = open_store(data).await?;
        let accounts = open_accounts(config, &store).await?;
        let rooms = open_rooms(config, key.clone(), &store).await?;
        let policies = rooms.read_policy_rooms(&config.moderation.policy_rooms);
        let policies = policies.await.context("The policy rooms can't be read.")?;
        let typing = rooms.typing().clone();
        rooms.presence().enable(config.presence.enabled);
        let mail = mailer(config)?;
        let ways = Ways {
            gateways: Some(Arc::new(gateways(config)?)),
            mail: mail.clone().map(|mailer| Digests {
                mailer,
                delay_ms: config.email.notify_after_minutes.saturating_mul(60_000),
            }),
        };
        let push = Push::open(rooms.clone(), accounts.clone(), ways);
        let push = push.await.context("The notifications can't be opened.")?;
        let upgrades = Upgrades::open(rooms.clone(), accounts.clone()).await;
        let upgrades = upgrades.context("The log of rooms can't be followed.")?;
        let delayed = DelayedEvents::new(rooms.clone(), accounts.clone(), rand::random);
        let services = ServiceClient::new().context("TLS can't be set up.")?;
        let services = Arc::new(services);
        let bridges = Services::new(rooms.clone(), accounts.clone(), services.clone());
        let sync = Sync::new(
            rooms.clone(),
            accounts.clone(),
            typing.clone(),
            push.clone(),
            rand::random(),
        );
        let feed = Feed::open(rooms.clone(), accounts.clone()).await;
        let feed = feed.context("The feed can't be opened.")?;
        let search = Search::open(rooms.clone(), accounts.clone()).await;
        let search = search.context("The search index can't be opened.")?;
        let mode = social::mode(config, &social::roster(config)?);
        let federation = if config.federation.enabled {
            let parts = FederationParts {
                server_name: config.server_name.clone(),
                network: open_network(config, key.clone(), &store, mode)?,
                key,
                store: store.clone(),
                rooms: rooms.clone(),
                accounts: accounts.clone(),
                typing,
                clock: clock(),
                stop: stopping.clone(),
            };
            let opened = Federation::open(parts).await;
            Some(Arc::new(opened.context("Federation can't be started.")?))
        } else {
            None
        };
        let client = federation.as_ref().map(|f| f.network.client.clone());
        let pages = social::pages(config, feed.clone(), client)?;
        let media = open_media(config, data, &store).await?;
        let previews = open_previews(config, &media)?;
        let state = AppState {
            settings: Arc::new(http_settings(config)),
            accounts: accounts.clone(),
            rooms: rooms.clone(),
            federation: federation.clone(),
            media: media.clone(),
            previews: previews.clone(),
            push: push.clone(),
            mail,
            services: services.clone(),
            delayed: delayed.clone(),
            rendezvous: config
                .rendezvous
                .enabled
                .then(|| Arc::new(Rendezvous::new(clock()))),
            relationships: config
                .rooms
                .relationships
                .then(|| Arc::new(Relationships::new(rooms.clone(), federation.clone()))),
            notices: open_notices(config, &rooms, &accounts).await?,
            search: search.clone(),
            sync: sync.clone(),
            limits: Arc::new(Limits::new(Rates::of(&config.rate_limits), clock())),
        };

        let tasks = TaskTracker::new();
        let door = Door::open(&config.data_dir)?;
        let answering = Answering {
            accounts: accounts.clone(),
            rooms: Some(rooms.clone()),
            federation: federation.clone(),
        };
        tasks.spawn(door.serve(answering, stopping.clone()));
        tasks.spawn(syncs(sync, stopping.clone()));
        if !config.moderation.policy_rooms.is_empty() {
            tasks.spawn(keep_away(rooms.clone(), policies, stopping.clone()));
        }
        tasks.spawn(passing(rooms.clone(), stopping.clone()));
        tasks.spawn(clear(rooms.clone(), stopping.clone()));
        tasks.spawn(later(delayed, stopping.clone()));
        tasks.spawn(bridged(bridges, stopping.clone()));
        tasks.spawn(pushes(push, stopping.clone()));
        tasks.spawn(carry_over(upgrades, stopping.clone()));
        tasks.spawn(social::follow(feed, stopping.clone()));
        tasks.spawn(finds(search, stopping.clone()));
        if let Some(federation) = federation {
            tasks.spawn(async move {
                if let Err(error) = federation.run().await {
                    tracing::error!(%error, "nothing more is sent to other servers");
                }
            });
        }
        tasks.spawn(tidy(media, previews, stopping.clone()));
        tasks.spawn(housekeeping(accounts.clone(), stopping.clone()));
        tasks.close();
        Ok(Self {
            store,
            accounts,
            router: resuni_http::router(state)
                .merge(pages)
                .route("/health", get(async || "OK")),
            tasks,
        })
    }

    /// What answers requests.
    pub(crate) fn router(&self) -> Router {
        self.router.clone()
    }

    /// Waits until the database takes no more writes; never, while all is well.
    pub(crate) async fn failed(&self) -> StoreError {
        self.store.ended().await
    }

    /// Waits for what runs by itself, and closes the database.
    pub(crate) async fn close(self) {
        self.tasks.wait().await;
        if let Err(error) = self.accounts.housekeeping().await {
            tracing::error!(%error, "what is written lazily could not be written");
        }
        self.store.close().await;
    }
}

/// Opens the database in the data folder.
pub(crate) async fn open_store(data: &DataDir) -> Result<Store> {
    Store::open(EngineConfig::Rocks(RocksConfig::new(data.database())))
        .await
        .context("The database can't be opened.")
}

fn clock() -> SharedClock {
    Arc::new(SystemClock)
}

/// Opens the accounts, with the application services of the settings.
pub(crate) async fn open_accounts(config: &Config, store: &Store) -> Result<Arc<Accounts>> {
    let settings = AccountsConfig {
        password_cost: match config.password_hashing.cost {
            HashingCost::Normal => PasswordCost::Normal,
            HashingCost::Minimum => PasswordCost::Minimum,
        },
        shared_secret: config
            .registration
            .shared_secret
            .as_ref()
            .map(|s| s.expose().to_owned()),
        optional_rules: OptionalRules {
            threads: config.push.followed_threads_only,
            encrypted: config.push.all_encrypted,
        },
        ..AccountsConfig::new(config.server_name.clone())
    };
    Accounts::open(settings, appservices(config)?, store.clone(), clock())
        .await
        .context("The accounts can't be opened.")
}

/// Days in milliseconds.
fn days(days: u64) -> u64 {
    days.saturating_mul(24 * 60 * 60 * 1000)
}

/// The bucket for uploaded files, if one is named.
fn bucket(settings: &resuni_config::S3) -> Option<BucketConfig> {
    let secret = settings.secret_access_key.as_ref();
    Some(BucketConfig {
        bucket: settings.bucket.clone()?,
        endpoint: settings.endpoint.clone(),
        region: settings.region.clone(),
        access_key_id: settings.access_key_id.clone().unwrap_or_default(),
        secret_access_key: secret.map_or_else(String::new, |secret| secret.expose().to_owned()),
        prefix: settings.prefix.clone(),
    })
}

/// Opens the folder of uploaded files.
async fn open_media(config: &Config, data: &DataDir, store: &Store) -> Result<Arc<Media>> {
    let settings = MediaConfig {
        server_name: config.server_name.clone(),
        folder: data.media(),
        max_bytes: config.media.max_upload_bytes,
        authenticated_only: config.media.authenticated_only,
        max_bytes_per_user: config.media.max_bytes_per_user,
        keep_remote_ms: config.media.keep_remote_days.map(days),
        keep_unseen_ms: config.media.keep_unseen_days.map(days),
        bucket: bucket(&config.media.s3),
    };
    Media::open(settings, store.clone(), clock())
        .await
        .context("The folder of uploaded files can't be opened.")
}

/// Opens the previews of links, if there are to be any.
fn open_previews(config: &Config, media: &Arc<Media>) -> Result<Option<Arc<Previews>>> {
    let settings = &config.url_previews;
    if !settings.enabled {
        return Ok(None);
    }
    let web = TheWeb::new(config)?;
    let settings = PreviewConfig {
        allowed_domains: settings.allowed_domains.clone(),
        denied_domains: settings.denied_domains.clone(),
        language: settings.language.clone(),
        keep_ms: days(settings.keep_days),
    };
    let previews = Previews::new(media.clone(), settings, Box::new(web));
    Ok(Some(previews))
}

/// Opens what operators tell people through, if they want to.
async fn open_notices(
    config: &Config,
    rooms: &Arc<Rooms>,
    accounts: &Arc<Accounts>,
) -> Result<Option<Arc<Notices>>> {
    let settings = &config.server_notices;
    if !settings.enabled {
        return Ok(None);
    }
    let settings = NoticesConfig {
        localpart: settings.localpart.clone(),
        display_name: settings.display_name.clone(),
        room_name: settings.room_name.clone(),
    };
    Notices::open(rooms.clone(), accounts.clone(), settings)
        .await
        .context("The server's notices can't be set up.")
        .map(Some)
}

/// Opens the rooms.
pub(crate) async fn open_rooms(
    config: &Config,
    key: Arc<SigningKey>,
    store: &Store,
) -> Result<Arc<Rooms>> {
    let settings = RoomsConfig {
        server_name: config.server_name.clone(),
        key,
        default_version: config.rooms.default_version.clone(),
    };
    Rooms::open(settings, store.clone(), clock())
        .await
        .context("The rooms can't be opened.")
}

/// Sets up what talks to other servers.
pub(crate) fn open_network(
    config: &Config,
    key: Arc<SigningKey>,
    store: &Store,
    mode: Mode,
) -> Result<Network> {
    let settings = NetworkConfig {
        server_name: config.server_name.clone(),
        key,
        old_keys: Vec::new(),
        notaries: config.federation.trusted_key_servers.clone(),
        mode,
        destinations: config.federation.destinations.clone(),
        extra_ca_files: config.federation.extra_ca_files.clone(),
        deny_ip_ranges: config.outbound.deny_ip_ranges.clone(),
    };
    Network::open(settings, store.clone(), clock()).context("The network can't be set up.")
}

fn appservices(config: &Config) -> Result<AppServices> {
    let mut registrations = Vec::new();
    for path in &config.appservices.config_files {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("{} can't be read.", path.display()))?;
        let wrong = || format!("{} is not a registration.", path.display());
        registrations.push(ServiceFile {
            registration: serde_saphyr::from_str(&text).with_context(wrong)?,
            proposals: serde_saphyr::from_str(&text).with_context(wrong)?,
        });
    }
    Ok(AppServices::new(registrations, &config.server_name)?)
}

fn http_settings(config: &Config) -> Settings {
    Settings {
        admin_api: config.admin.api,
        server_name: config.server_name.clone(),
        public_baseurl: Some(config.base_url()),
        well_known_server: config.federation_address(),
        support: Support {
            page: config.support.page.clone(),
            emails: config.support.emails.clone(),
            users: config.support.users.clone(),
        },
        registration: Registration {
            enabled: config.registration.enabled,
            require_token: config.registration.require_token,
            require_email: config.registration.require_email,
            guests: config.registration.guests,
        },
        turn: turn(&config.turn),
        livekit_services: config.calls.livekit_service_urls.clone(),
        default_room_version: config.rooms.default_version.clone(),
        trusted_proxies: config.trusted_proxies.clone(),
    }
}

/// What sends mail, where the settings name a mail server.
fn mailer(config: &Config) -> Result<Option<Arc<Mailer>>> {
    let email = &config.email;
    let Some(host) = email.smtp_host.clone() else {
        return Ok(None);
    };
    let login = email.username.clone().zip(email.password.as_ref());
    let mailer = Mailer::new(MailConfig {
        host,
        port: email.smtp_port,
        tls: match email.security {
            MailSecurity::Starttls => MailTls::StartTls,
            MailSecurity::Tls => MailTls::Implicit,
            MailSecurity::None => MailTls::None,
        },
        login: login.map(|(name, password)| (name, password.expose().to_owned())),
        from: email.from.clone().unwrap_or_default(),
        extra_ca_files: email.extra_ca_files.clone(),
        base_url: config.base_url(),
        server_name: config.server_name.to_string(),
    });
    Ok(Some(Arc::new(mailer.context("Mail can't be set up.")?)))
}

/// The settings are checked: with addresses comes a way to know who may use them.
fn turn(config: &resuni_config::Turn) -> Option<Turn> {
    let secret = config.shared_secret.as_ref();
    let access = match (secret, &config.username, &config.password) {
        (Some(secret), ..) => TurnAccess::SharedSecret(secret.expose().to_owned()),
        (None, Some(username), Some(password)) => TurnAccess::Fixed {
            username: username.clone(),
            password: password.expose().to_owned(),
        },
        _ => return None,
    };
    (!config.uris.is_empty()).then(|| Turn {
        uris: config.uris.clone(),
        access,
        lifetime: Duration::from_secs(config.lifetime),
    })
}

/// Keeps the search index until the server stops.
async fn finds(search: Arc<Search>, stopping: CancellationToken) {
    tokio::select! {
        ended = search.run() => if let Err(error) = ended {
            tracing::error!(%error, "nothing new is found any more");
        },
        () = stopping.cancelled() => {}
    }
}

/// Wakes waiting clients; when the server stops they are all let go.
async fn syncs(sync: Arc<Sync>, stopping: CancellationToken) {
    tokio::select! {
        ended = sync.clone().run() => if let Err(error) = ended {
            tracing::error!(%error, "waiting clients are no longer woken");
        },
        () = stopping.cancelled() => sync.stop(),
    }
}

/// Follows the policy rooms, until the server stops.
async fn keep_away(rooms: Arc<Rooms>, seen: Position, stopping: CancellationToken) {
    tokio::select! {
        ended = rooms.follow_policy_rooms(seen) => if let Err(error) = ended {
            tracing::error!(%error, "the rules of policy rooms stay as they are");
        },
        () = stopping.cancelled() => {}
    }
}

/// Lets time pass for what is in memory only: who types, and who is there.
async fn passing(rooms: Arc<Rooms>, stopping: CancellationToken) {
    tokio::select! {
        () = rooms.presence().run() => {}
        () = rooms.typing().run() => {}
        () = stopping.cancelled() => {}
    }
}

/// Redacts what people who were thrown out have said, where it is much, until the server stops.
async fn clear(rooms: Arc<Rooms>, stopping: CancellationToken) {
    tokio::select! {
        ended = rooms.clear() => if let Err(error) = ended {
            tracing::error!(%error, "what people who were thrown out have said is not redacted any more");
        },
        () = stopping.cancelled() => {}
    }
}

/// Counts what is unread and serves the pushers, until the server stops.
async fn pushes(push: Arc<Push>, stopping: CancellationToken) {
    tokio::select! {
        ended = push.run() => if let Err(error) = ended {
            tracing::error!(%error, "nobody is notified any more");
        },
        () = stopping.cancelled() => {}
    }
}

/// Lets what people have said about a room follow them when it is upgraded, until the server stops.
async fn carry_over(upgrades: Arc<Upgrades>, stopping: CancellationToken) {
    tokio::select! {
        ended = upgrades.run() => if let Err(error) = ended {
            tracing::error!(%error, "settings stay with rooms that are upgraded");
        },
        () = stopping.cancelled() => {}
    }
}

/// Sends what was to be sent later, until the server stops.
async fn later(delayed: Arc<DelayedEvents>, stopping: CancellationToken) {
    tokio::select! {
        ended = delayed.run() => if let Err(error) = ended {
            tracing::error!(%error, "delayed events are not sent any more");
        },
        () = stopping.cancelled() => {}
    }
}

/// Sends events to application services, until the server stops.
async fn bridged(services: Arc<Services>, stopping: CancellationToken) {
    tokio::select! {
        ended = services.run() => if let Err(error) = ended {
            tracing::error!(%error, "application services are told nothing more");
        },
        () = stopping.cancelled() => {}
    }
}

/// What push gateways are reached through.
fn gateways(config: &Config) -> Result<WebClient> {
    let denied = config.outbound.deny_ip_ranges.clone();
    resuni_federation::web_client(denied, &config.federation.extra_ca_files)
        .context("Push gateways can't be reached.")
}

/// Removes files and previews that are no longer kept.
async fn tidy(media: Arc<Media>, previews: Option<Arc<Previews>>, stopping: CancellationToken) {
    let tidied = async || -> Result<(), MediaError> {
        if let Some(previews) = &previews {
            previews.forget().await?;
        }
        let removed = media.forget_old().await?;
        if removed > 0 {
            tracing::info!("{removed} files that nobody looked at are removed");
        }
        Ok(())
    };
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(TIDYING) => {}
        }
        if let Err(error) = tidied().await {
            tracing::error!(%error, "old files could not be removed");
        }
    }
}

async fn housekeeping(accounts: Arc<Accounts>, stopping: CancellationToken) {
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(HOUSEKEEPING) => {}
        }
        if let Err(error) = accounts.housekeeping().await {
            tracing::error!(%error, "what is written lazily could not be written");
        }
    }
}
