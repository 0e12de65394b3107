//! Events of a time of which this server has no history (server-server API, "Retrieving events",
//! `timestamp_to_event`).

use resuni_rooms::{Gap, Gaps, PageQuery, RoomView};
use resuni_store::Direction;
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, RoomId, ServerName, UInt, api,
    api::federation::event::get_event_by_timestamp::v1 as by_timestamp,
};

use crate::{
    client::Terms,
    error::FederationError,
    fetch::{Fetcher, MAX_SERVERS},
};

/// How often history is fetched to get to an event; one that is further away is named all the same.
const MAX_FETCHES: usize = 10;
const TERMS: Terms = Terms {
    heed_backoff: true,
    ..Terms::ASKED
};

impl Fetcher {
    /// The event nearest to a time (milliseconds) that another server of the room knows, with its own time.
    ///
    /// # Errors
    /// When the store can't be read. Servers that don't answer, or not what was asked, are passed over.
    pub async fn event_at_time(
        &self,
        view: &RoomView,
        ts: u64,
        dir: Direction,
    ) -> Result<Option<(OwnedEventId, u64)>, FederationError> {
        let servers = view.servers(MAX_SERVERS + 1).await?;
        let others = servers.iter().filter(|server| **server != self.own);
        for server in others.take(MAX_SERVERS) {
            match self.ask_for_time(view.room_id(), server, ts, dir).await {
                Ok(found) => return Ok(Some(found)),
                Err(error) => {
                    tracing::debug!(room = %view.room_id(), %server, %error, "no event of this time");
                }
            }
        }
        Ok(None)
    }

    async fn ask_for_time(
        &self,
        room: &RoomId,
        server: &ServerName,
        ts: u64,
        dir: Direction,
    ) -> Result<(OwnedEventId, u64), FederationError> {
        let time = MilliSecondsSinceUnixEpoch(UInt::new_saturating(ts));
        let dir = match dir {
            Direction::Forward => api::Direction::Forward,
            Direction::Backward => api::Direction::Backward,
        };
        let request = by_timestamp::Request::new(room.to_owned(), time, dir);
        let answer = self.client.send(server, request, TERMS).await?;
        let found = u64::from(answer.origin_server_ts.get());
        let fits = match dir {
            api::Direction::Forward => found >= ts,
            api::Direction::Backward => found <= ts,
        };
        if fits {
            Ok((answer.event_id, found))
        } else {
            Err(FederationError::bad_answer(
                server,
                "the event is on the other side of the time",
            ))
        }
    }

    /// Fetches history from a gap back to an event, as far as that is near enough.
    ///
    /// # Errors
    /// When nobody could be asked, or the store fails.
    pub async fn fetch_up_to(
        &self,
        room: &RoomId,
        mut gap: Gap,
        event: &EventId,
    ) -> Result<(), FederationError> {
        for _ in 0..MAX_FETCHES {
            if self.backfill(room, &gap).await? == 0 {
                break;
            }
            let view = self.view(room).await?;
            if view.timeline_event(event).await?.is_some() {
                break;
            }
            let back = PageQuery {
                from: gap.token,
                to: None,
                dir: Direction::Backward,
                limit: resuni_rooms::MAX_PAGE,
                gaps: Gaps::Stop,
            };
            match view.page(back).await?.gap {
                Some(next) if next.event_id != gap.event_id => gap = next,
                _ => break,
            }
        }
        Ok(())
    }
}
