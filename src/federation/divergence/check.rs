//! A room compared with every server in it, for the operator who asks.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use resuni_rooms::{Gaps, MAX_PAGE, PageQuery, RoomView};
use resuni_store::Direction;
use ruma::{OwnedEventId, OwnedServerName, RoomId, ServerName};

use super::{Comparison, Divergences, Parting};
use crate::error::FederationError;

/// Servers that are asked.
const MAX_SERVERS: usize = 1_000;
/// How many at once.
const CONCURRENT: usize = 8;

/// One server's answer.
#[derive(Debug)]
pub struct Checked {
    /// The server.
    pub server: OwnedServerName,
    /// How the state after `event` compares, or why that can't be said.
    pub comparison: Result<Comparison, String>,
    /// The event: our newest, or the server's own newest where it does not have that one yet.
    pub event: OwnedEventId,
    /// Where the states part, if they differ and it could be found.
    pub parting: Option<Parting>,
}

impl Divergences {
    /// Compares the current state of a room with every other server in it.
    ///
    /// # Errors
    /// When we are not in the room, or it can't be read.
    pub async fn check(self: &Arc<Self>, room: &RoomId) -> Result<Vec<Checked>, FederationError> {
        let view = self.rooms.participating(room).await?.ok_or_else(|| {
            FederationError::NotFound(format!("this server is not in the room {room}"))
        })?;
        let own = view.server_name().to_owned();
        let mut servers = view.servers(MAX_SERVERS).await?;
        servers.retain(|server| *server != own);
        let (view, this) = (&view, &**self);
        let mut checked: Vec<Checked> = stream::iter(servers)
            .map(|server| async move { this.check_one(view, server).await })
            .buffer_unordered(CONCURRENT)
            .filter_map(|checked| async move { checked })
            .collect()
            .await;
        checked.sort_by(|a, b| a.server.cmp(&b.server));
        Ok(checked)
    }

    async fn check_one(&self, view: &RoomView, server: OwnedServerName) -> Option<Checked> {
        let mut event = view.extremities().await.ok()?.pop()?;
        let mut comparison = self.at(&server, view, &event).await;
        if let Ok(Comparison::Unknown) = comparison
            && let Ok(Some(theirs)) = newest_of(view, &server).await
        {
            // It may be on its way: an event of its own the server has for sure.
            event = theirs;
            comparison = self.at(&server, view, &event).await;
        }
        let parting = match comparison {
            Ok(Comparison::Differs(..)) => self
                .locate(&server, view.room_id(), &event)
                .await
                .ok()
                .flatten(),
            _ => None,
        };
        Some(Checked {
            server,
            comparison: comparison.map_err(|error| error.to_string()),
            event,
            parting,
        })
    }
}

/// The newest event of a server among the newest of the room.
async fn newest_of(
    view: &RoomView,
    server: &ServerName,
) -> Result<Option<OwnedEventId>, FederationError> {
    let query = PageQuery {
        from: view.end(),
        to: None,
        dir: Direction::Backward,
        limit: MAX_PAGE,
        gaps: Gaps::Pass,
    };
    for event in view.page(query).await?.events {
        let Some(stored) = view.event(&event.event_id()).await? else {
            continue;
        };
        if stored.pdu.sender().server_name() == server {
            return Ok(Some(event.event_id()));
        }
    }
    Ok(None)
}
