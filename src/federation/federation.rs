//! The parts of federation, put together.

use std::sync::Arc;

use resuni_accounts::Accounts;
use resuni_dag::SigningKey;
use resuni_rooms::{Rooms, Typing};
use resuni_store::{SharedClock, Store};
use ruma::OwnedServerName;
use tokio_util::sync::CancellationToken;

use crate::{
    checks::Checker,
    divergence::Divergences,
    error::FederationError,
    fetch::Fetcher,
    handshake::Handshakes,
    incoming::Incoming,
    ingest::{Ingest, IngestParts},
    invites::{Invites, InvitesParts},
    joining::Joining,
    key_cache::KeyCache,
    network::Network,
    policy::PolicyServers,
    resync::Resyncs,
    sender::{Sender, SenderParts},
    serve::{Serve, ServeParts},
    third_party::{ThirdPartyInvites, ThirdPartyParts},
    unverified::{Notes, Unverified},
};

/// What federation stands on.
pub struct FederationParts {
    /// Our name.
    pub server_name: OwnedServerName,
    /// Our key.
    pub key: Arc<SigningKey>,
    /// The network half.
    pub network: Network,
    /// The store.
    pub store: Store,
    /// The rooms in it.
    pub rooms: Arc<Rooms>,
    /// Our people.
    pub accounts: Arc<Accounts>,
    /// Who types.
    pub typing: Arc<Typing>,
    /// The time.
    pub clock: SharedClock,
    /// Ends everything.
    pub stop: CancellationToken,
}

/// To and from other servers.
pub struct Federation {
    /// Requests to other servers, their keys, and who may federate.
    pub network: Network,
    /// Our events to other servers.
    pub sender: Arc<Sender>,
    /// Their transactions to us.
    pub ingest: Arc<Ingest>,
    /// Events that are missing here.
    pub fetcher: Arc<Fetcher>,
    /// Joins, knocks and declined invites by way of other servers.
    pub handshakes: Handshakes,
    /// Invites, both ways.
    pub invites: Arc<Invites>,
    /// Invites of people of whom only an address was known.
    pub third_party: ThirdPartyInvites,
    /// Compares states with those of other servers.
    pub divergences: Arc<Divergences>,
    /// Answers to other servers.
    pub serve: Serve,
    /// Keys of users of other servers.
    pub key_cache: KeyCache,
    /// Rooms whose members are still arriving.
    resyncs: Arc<Resyncs>,
    /// States that lack events.
    unverified: Arc<Unverified>,
    typing: Arc<Typing>,
}

/// How federation is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FederationStats {
    /// Servers that have not been sent everything.
    pub destinations_waiting: usize,
    /// Servers that are left alone because they don't answer.
    pub destinations_backing_off: usize,
    /// Events and ephemeral messages to be sent that are in memory.
    pub queued: usize,
    /// Events that came in and wait for what they build on.
    pub staged: usize,
}

impl Federation {
    /// Goes on where the last run stopped. What was staged is worked off from here on; nothing is sent
    /// before [`Federation::run`].
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn open(parts: FederationParts) -> Result<Self, FederationError> {
        let FederationParts {
            server_name,
            key,
            network,
            store,
            rooms,
            accounts,
            typing,
            clock,
            stop,
        } = parts;
        let client = &network.client;
        rooms.ask_policy_servers_by(Arc::new(PolicyServers::new(
            server_name.clone(),
            Arc::clone(client),
        )));
        let checker = Checker::new(Arc::clone(&network.keys), Arc::clone(&network.admission));
        let notes = Arc::new(Notes::new(store.clone()));
        let fetcher = Arc::new(Fetcher::new(
            server_name.clone(),
            Arc::clone(&rooms),
            Arc::clone(client),
            checker.clone(),
            Arc::clone(&notes),
        ));
        let unverified = Unverified::new(
            server_name.clone(),
            Arc::clone(&rooms),
            Arc::clone(&network.keys),
            Arc::clone(&fetcher),
            Arc::clone(&notes),
            stop.clone(),
        );
        let invites = Arc::new(Invites::new(InvitesParts {
            own: server_name.clone(),
            key: Arc::clone(&key),
            rooms: Arc::clone(&rooms),
            accounts: Arc::clone(&accounts),
            client: Arc::clone(client),
            checker: checker.clone(),
            admission: Arc::clone(&network.admission),
        }));
        let divergences = Arc::new(Divergences::new(
            Arc::clone(&rooms),
            Arc::clone(client),
            Arc::clone(&fetcher),
            Arc::clone(&clock),
        ));
        let sender = Sender::open(SenderParts {
            origin: server_name.clone(),
            rooms: Arc::clone(&rooms),
            accounts: Arc::clone(&accounts),
            store: store.clone(),
            client: Arc::clone(client),
            backoff: Arc::clone(&network.backoff),
            admission: Arc::clone(&network.admission),
            clock: Arc::clone(&clock),
            stop: stop.clone(),
        })
        .await?;
        let key_cache = KeyCache::new(Arc::clone(&rooms), Arc::clone(&accounts));
        let resyncs = Resyncs::new(Arc::clone(&rooms), Arc::clone(&fetcher), stop.clone());
        let joining = Arc::new(Joining::default());
        let ingest = Ingest::open(IngestParts {
            rooms: Arc::clone(&rooms),
            accounts: Arc::clone(&accounts),
            store,
            checker: checker.clone(),
            fetcher: Arc::clone(&fetcher),
            invites: Arc::clone(&invites),
            divergences: Arc::clone(&divergences),
            unverified: Arc::clone(&unverified),
            joining: Arc::clone(&joining),
            typing: Arc::clone(&typing),
            clock: Arc::clone(&clock),
            stop,
        })
        .await?;
        let handshakes = Handshakes::new(
            server_name.clone(),
            Arc::clone(&key),
            Arc::clone(&rooms),
            Arc::clone(client),
            checker.clone(),
            (Arc::clone(&clock), Arc::clone(&resyncs), notes),
            joining,
        );
        let third_party = ThirdPartyInvites::new(ThirdPartyParts {
            own: server_name.clone(),
            key: Arc::clone(&key),
            rooms: Arc::clone(&rooms),
            accounts: Arc::clone(&accounts),
            client: Arc::clone(client),
            invites: Arc::clone(&invites),
            sender: Arc::clone(&sender),
            web: Arc::clone(&network.web),
        });
        let serve = Serve::new(ServeParts {
            own: server_name,
            key,
            rooms,
            accounts,
            checker,
            sender: Arc::clone(&sender),
            clock,
        });
        Ok(Self {
            network,
            sender,
            ingest,
            fetcher,
            handshakes,
            invites,
            third_party,
            divergences,
            serve,
            key_cache,
            resyncs,
            unverified,
            typing,
        })
    }

    /// Sends our events to other servers until the server stops, and goes on with joins that are not complete.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn run(&self) -> Result<(), FederationError> {
        self.resyncs.resume().await?;
        tokio::select! {
            done = self.sender.run() => done,
            Err(error) = self.unverified.run() => Err(error),
            // Ends only when the server stops, and then the sender still has its place to write down.
            () = async {
                tokio::join!(
                    self.sender.run_typing(&self.typing),
                    self.sender.run_presence(),
                );
                std::future::pending::<()>().await;
            } => Ok(()),
        }
    }

    /// The server that signed a request. What waits for a server that had not answered is sent as soon
    /// as it shows up here.
    ///
    /// # Errors
    /// As [`Authenticator::origin`](crate::Authenticator::origin).
    pub async fn authenticate(
        &self,
        request: Incoming<'_>,
    ) -> Result<OwnedServerName, FederationError> {
        let (origin, had_failed) = self.network.authenticator.origin(request).await?;
        if had_failed {
            self.sender.returned(&origin);
        }
        Ok(origin)
    }

    /// How federation is doing.
    #[must_use]
    pub fn stats(&self) -> FederationStats {
        let sender = self.sender.stats();
        FederationStats {
            destinations_waiting: sender.waiting,
            destinations_backing_off: self.network.backoff.paused(),
            queued: sender.queued,
            staged: self.ingest.waiting(),
        }
    }
}
