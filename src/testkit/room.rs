//! What a server has of a room, to be compared with what another has.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::bail;
use serde_json::Value;

use crate::{CallError, Client};

/// A room as a member sees it on one server.
#[derive(Debug, PartialEq, Eq)]
pub struct RoomCopy {
    /// The ids of all events in its history, but for those that only tie loose ends of the graph:
    /// Synapse shows them to no client.
    pub events: BTreeSet<String>,
    /// Its state now: event ids by type and state key.
    pub state: BTreeMap<(String, String), String>,
}

impl RoomCopy {
    /// Reads it through the client of somebody who may see everything.
    pub async fn read(client: &Client, room: &str) -> Result<Self, CallError> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let events = client.history(room).await?;
        let state = client.full_state(room).await?;
        Ok(Self {
            events: events
                .iter()
                .filter(|event| event["type"] != "org.matrix.dummy_event")
                .map(|event| text(&event["event_id"]))
                .collect(),
            state: state
                .iter()
                .map(|event| {
                    let key = (text(&event["type"]), text(&event["state_key"]));
                    (key, text(&event["event_id"]))
                })
                .collect(),
        })
    }
}

/// An error that says where two servers' copies of a room differ.
pub async fn agree(one: &Client, two: &Client, room: &str) -> anyhow::Result<()> {
    let (mine, theirs) = (
        RoomCopy::read(one, room).await?,
        RoomCopy::read(two, room).await?,
    );
    if mine == theirs {
        return Ok(());
    }
    let only_one: Vec<_> = mine.events.difference(&theirs.events).collect();
    let only_two: Vec<_> = theirs.events.difference(&mine.events).collect();
    let state: Vec<_> = mine
        .state
        .keys()
        .chain(theirs.state.keys())
        .filter(|key| mine.state.get(*key) != theirs.state.get(*key))
        .map(|key| (key, mine.state.get(key), theirs.state.get(key)))
        .collect();
    bail!(
        "{room} differs: only {} has {only_one:?}; only {} has {only_two:?}; state: {state:?}",
        one.user(),
        two.user()
    )
}

/// As [`agree`], given some time: what was sent is still under way.
pub async fn agree_within(
    one: &Client,
    two: &Client,
    room: &str,
    patience: Duration,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        match agree(one, two, room).await {
            Ok(()) => return Ok(()),
            Err(error) if begun.elapsed() > patience => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}
