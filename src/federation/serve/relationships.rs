//! Threads of any depth (MSC2836), for servers that are in the room.

use resuni_rooms::ThreadReader;
use ruma::ServerName;

use super::{Serve, history::raws, unknown_event};
use crate::{
    auth_chain,
    error::FederationError,
    relationships::{Asked, wire},
};

impl Serve {
    /// `POST …/event_relationships`: what is here of a thread, and what it is authorised by. Nobody else is asked, "to
    /// avoid routing loops".
    ///
    /// # Errors
    /// 404 when the event is unknown, or of a room that the server is not in.
    pub async fn relationships(
        &self,
        origin: &ServerName,
        asked: &Asked,
    ) -> Result<wire::Response, FederationError> {
        let query = asked.query();
        let unknown = || unknown_event(&query.event_id);
        let view = self.rooms.room_with(&query.event_id).await?;
        let view = view.ok_or_else(unknown)?;
        let view = self.shared_room(origin, view.room_id()).await;
        let view = view.map_err(|_| unknown())?;
        let mut viewer = view.server_viewer(origin).await?;
        let walked = view
            .relationships(ThreadReader::Server(&mut viewer), &query)
            .await?;
        let nums: Vec<_> = walked.events.iter().map(|event| event.num).collect();
        let chain = auth_chain::of(&view, &nums).await?;
        let chain = raws(&view.pdus(&chain).await?)?;
        wire::Response::of(&view.thread_pdus(&walked).await?, walked.limited, chain)
    }
}
