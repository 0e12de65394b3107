//! The servers that ours talks to, as operators see them.

use std::collections::BTreeSet;

use resuni_rooms::Rooms;
use resuni_store::Position;
use ruma::{OwnedServerName, ServerName};

use crate::{Federation, backoff::Failing, error::FederationError};

/// A server that ours talks to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Its name.
    pub server: OwnedServerName,
    /// Since when it does not answer; none while it does.
    pub failing: Option<Failing>,
    /// Where it has everything up to; none where that is everything there is.
    pub delivered_up_to: Option<Position>,
}

impl Federation {
    /// All servers that share a room with ours, or that something waits for, by their names.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn destinations(&self, rooms: &Rooms) -> Result<Vec<Destination>, FederationError> {
        let own = rooms.server_name();
        let mut names: BTreeSet<OwnedServerName> = rooms.servers().await?.into_iter().collect();
        names.extend(self.sender.destinations());
        names.extend(self.network.backoff.failing());
        let names = names.into_iter().filter(|name| name != own);
        Ok(names.map(|name| self.described(name)).collect())
    }

    /// One of them; none if ours has nothing to do with it.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn destination(
        &self,
        rooms: &Rooms,
        server: &ServerName,
    ) -> Result<Option<Destination>, FederationError> {
        if server == rooms.server_name() {
            return Ok(None);
        }
        let described = self.described(server.to_owned());
        let known = described.failing.is_some()
            || described.delivered_up_to.is_some()
            || !rooms.rooms_with(server, 1).await?.is_empty();
        Ok(known.then_some(described))
    }

    fn described(&self, server: OwnedServerName) -> Destination {
        Destination {
            failing: self.network.backoff.failure_of(&server),
            delivered_up_to: self.sender.delivered_up_to(&server),
            server,
        }
    }

    /// Tries a server again at once that is left alone because it does not answer. Answers whether it was.
    pub fn retry_now(&self, server: &ServerName) -> bool {
        let was = self.network.backoff.success(server);
        if was {
            self.sender.returned(server);
        }
        was
    }
}
