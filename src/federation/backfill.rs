//! History that a reader asks for and that this server does not have (server-server API,
//! "Backfilling and retrieving missing events").

use std::collections::{HashMap, HashSet};

use resuni_rooms::{Gap, RoomView};
use ruma::{
    OwnedEventId, OwnedServerName, RoomId, ServerName, UInt,
    api::federation::backfill::get_backfill::v1 as backfill,
};

use crate::{
    client::Terms,
    error::FederationError,
    fetch::{Fetcher, MAX_SERVERS},
};

/// Events asked for at once.
const LIMIT: u32 = 100;
/// Missing events named in one request.
const MAX_FROM: usize = 20;
/// How often states and auth events are brought for one piece of history.
const MAX_ROUNDS: usize = 4;
/// States fetched for one piece of history. Where many write at once the graph is wide: of a hundred events twenty may
/// follow others that are not among them.
const MAX_STATES: usize = 32;
const TERMS: Terms = Terms {
    heed_backoff: true,
    ..Terms::ASKED.up_to(16 << 20)
};

impl Fetcher {
    /// Fetches history at a gap that a page ended at. How many events there are now that were not there
    /// before; 0 when nobody has more, so that the reader goes on without it.
    ///
    /// # Errors
    /// When nobody could be asked, or the store fails.
    pub async fn backfill(&self, room: &RoomId, gap: &Gap) -> Result<usize, FederationError> {
        let turn = self.turn(room);
        let _turn = turn.lock().await;
        let view = self.view(room).await?;
        // Another reader may have had it fetched while this one waited.
        let mut missing = Vec::new();
        for id in gap.missing.iter().take(MAX_FROM) {
            let known = view.event_row(id).await?;
            if known.is_none_or(|(_, row)| !row.place.has_state()) {
                missing.push(id.clone());
            }
        }
        if missing.is_empty() {
            return Ok(0);
        }
        let mut failure = None;
        for server in self.with_history(&view, gap).await? {
            match self.backfill_from(&view, &server, gap, &missing).await {
                Ok(0) => {}
                Ok(laid) => return Ok(laid),
                Err(error) => {
                    tracing::debug!(%room, %server, %error, "no history from this server");
                    failure.get_or_insert(error);
                }
            }
        }
        failure.map_or(Ok(0), Err)
    }

    /// Whom to ask: whose event it is that follows the gap, then others in the room.
    async fn with_history(
        &self,
        view: &RoomView,
        gap: &Gap,
    ) -> Result<Vec<OwnedServerName>, FederationError> {
        let follows = view.event(&gap.event_id).await?;
        let first = follows.map(|event| event.pdu.sender().server_name().to_owned());
        let mut servers: Vec<OwnedServerName> = Vec::new();
        for server in first
            .into_iter()
            .chain(view.servers(MAX_SERVERS * 4).await?)
        {
            if server != self.own && !servers.contains(&server) {
                servers.push(server);
            }
        }
        servers.truncate(MAX_SERVERS);
        Ok(servers)
    }

    async fn backfill_from(
        &self,
        view: &RoomView,
        server: &ServerName,
        gap: &Gap,
        missing: &[OwnedEventId],
    ) -> Result<usize, FederationError> {
        let room = view.room_id();
        let request = backfill::Request::new(room.to_owned(), missing.to_vec(), UInt::from(LIMIT));
        let answer = self.client.send(server, request, TERMS).await?;
        if answer.pdus.len() > LIMIT as usize * 2 {
            return Err(FederationError::bad_answer(
                server,
                "it has more events than asked for",
            ));
        }
        let events = self.checked(view, answer.pdus).await;
        let mut states: HashMap<OwnedEventId, Vec<OwnedEventId>> = HashMap::new();
        let (mut asked, mut failure, mut laid) = (HashSet::new(), None, 0);
        for _ in 0..MAX_ROUNDS {
            let done = self
                .rooms
                .backfill(room, &gap.event_id, events.clone(), states.clone())
                .await?;
            laid += done.laid;
            let unresolved = done.need_state.into_iter();
            let unresolved: Vec<_> = unresolved
                .filter(|id| !asked.contains(id))
                .take(MAX_STATES - asked.len())
                .collect();
            if done.need_auth.is_empty() && unresolved.is_empty() {
                break;
            }
            if !done.need_auth.is_empty() {
                let auth = self.events(view, server, &done.need_auth).await;
                self.outliers(view, auth).await?;
            }
            for id in unresolved {
                match self.state_at(room, server, &id).await {
                    Ok(state) => drop(states.insert(id.clone(), state)),
                    Err(error) => drop(failure.get_or_insert(error)),
                }
                asked.insert(id);
            }
        }
        match failure {
            // What was laid is not fetched again; for the rest another server may be asked.
            Some(error) if laid == 0 => Err(error),
            _ => Ok(laid),
        }
    }
}
