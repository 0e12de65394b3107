//! Spaces and rooms that other servers tell of (server-server API, "Spaces").

use resuni_rooms::{
    Rooms,
    spaces::{Hierarchy, SpaceRoom, Step, Walk},
};
use ruma::{
    OwnedServerName, RoomId, ServerName, api::federation::space::get_hierarchy::v1 as get_hierarchy,
};

use crate::{
    client::{Client, Terms},
    error::FederationError,
    fetch::MAX_SERVERS,
};

/// Rooms for which other servers are asked on one page.
const MAX_ASKED: usize = 20;
/// A page that a person waits for: a server that is slow is left out.
const TERMS: Terms = Terms {
    heed_backoff: true,
    ..Terms::ASKED.up_to(4 << 20)
}
.within(std::time::Duration::from_secs(10));

/// A page of a walk through a space: up to `limit` rooms. Without a client only what is here is shown. The page may end
/// early, when many servers had to be asked.
///
/// # Errors
/// When the rooms can't be read.
pub async fn page(
    rooms: &Rooms,
    client: Option<&Client>,
    walk: &mut Walk,
    limit: usize,
) -> Result<Vec<SpaceRoom>, FederationError> {
    let mut page = Vec::new();
    let mut asked = 0;
    while page.len() < limit && asked < MAX_ASKED {
        match walk.step(rooms).await? {
            Step::Room(room) => page.push(*room),
            Step::Ask { room, via } => {
                asked += 1;
                let answer = match client {
                    Some(client) => {
                        ask(
                            client,
                            rooms.server_name(),
                            &room,
                            &via,
                            walk.suggested_only(),
                        )
                        .await
                    }
                    None => None,
                };
                page.extend(walk.answer(rooms, answer).await?);
            }
            Step::End => break,
        }
    }
    Ok(page)
}

/// What the first of these servers that knows the room says of it.
pub async fn ask(
    client: &Client,
    own: &ServerName,
    room: &RoomId,
    via: &[OwnedServerName],
    suggested_only: bool,
) -> Option<Hierarchy> {
    let others = via.iter().filter(|server| *server != own);
    for server in others.take(MAX_SERVERS) {
        match ask_one(client, server, room, suggested_only).await {
            Ok(answer) => return Some(answer),
            Err(error) => tracing::debug!(%room, %server, %error, "a room of a space"),
        }
    }
    None
}

async fn ask_one(
    client: &Client,
    server: &ServerName,
    room: &RoomId,
    suggested_only: bool,
) -> Result<Hierarchy, FederationError> {
    let mut request = get_hierarchy::Request::new(room.to_owned());
    request.suggested_only = suggested_only;
    let answer = client.answer(server, request, TERMS).await?;
    serde_json::from_slice(&answer.body)
        .map_err(|error| FederationError::bad_answer(server, error.to_string()))
}
