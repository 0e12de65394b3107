//! A client that follows `/sync` and keeps what it was shown.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use anyhow::bail;
use serde_json::Value;

use crate::{CallError, Client, client::list};

/// Small, so that gaps happen and are filled.
const FILTER: &str = r#"{"room":{"timeline":{"limit":20}}}"#;

/// Follows `/sync` with one token. An answer counts only when everything in it was read, the gaps
/// too; until then the old token stays, as with a client that was switched off.
#[derive(Debug)]
pub struct Reader {
    client: Client,
    since: String,
    rooms: BTreeMap<String, Timeline>,
    twice: Vec<String>,
}

#[derive(Debug, Default)]
struct Timeline {
    events: Vec<Value>,
    ids: HashSet<String>,
}

impl Reader {
    /// A reader that has seen nothing yet.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            since: String::new(),
            rooms: BTreeMap::new(),
            twice: Vec::new(),
        }
    }

    /// Whose it is.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Whether this event was shown.
    pub fn has_seen(&self, room: &str, event: &str) -> bool {
        self.rooms
            .get(room)
            .is_some_and(|timeline| timeline.ids.contains(event))
    }

    /// What was shown of a room, in order.
    pub fn seen(&self, room: &str) -> &[Value] {
        self.rooms
            .get(room)
            .map_or(&[], |timeline| &timeline.events)
    }

    /// One `/sync`, waiting for news at most `timeout`. Gives how many events were new.
    pub async fn step(&mut self, timeout: Duration) -> Result<usize, CallError> {
        let answer = self.client.sync(&self.since, timeout, FILTER).await?;
        let mut news = Vec::new();
        for section in ["join", "leave"] {
            let rooms = answer["rooms"][section].as_object();
            for (room, part) in rooms.into_iter().flatten() {
                let timeline = &part["timeline"];
                let mut events = Vec::new();
                if timeline["limited"] == true {
                    events = self.gap(room, timeline).await?;
                }
                events.extend(list(&timeline["events"]));
                news.push((room.clone(), events));
            }
        }
        let mut count = 0;
        for (room, events) in news {
            let timeline = self.rooms.entry(room).or_default();
            count += events.len();
            for event in events {
                let id = event["event_id"].as_str().unwrap_or_default().to_owned();
                if timeline.ids.insert(id.clone()) {
                    timeline.events.push(event);
                } else {
                    self.twice.push(id);
                }
            }
        }
        if let Some(next) = answer["next_batch"].as_str() {
            next.clone_into(&mut self.since);
        }
        Ok(count)
    }

    /// The events between the last token and a timeline that starts later, oldest first.
    async fn gap(&self, room: &str, timeline: &Value) -> Result<Vec<Value>, CallError> {
        let mut events = Vec::new();
        let mut from = timeline["prev_batch"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        while !from.is_empty() {
            let page = self.client.messages(room, true, &from, &self.since).await?;
            events.extend(list(&page["chunk"]));
            page["end"]
                .as_str()
                .unwrap_or_default()
                .clone_into(&mut from);
        }
        events.reverse();
        Ok(events)
    }

    /// Reads on until everything in `events` was shown; an error when that takes too long.
    pub async fn until_seen(
        &mut self,
        room: &str,
        events: &[String],
        patience: Duration,
    ) -> anyhow::Result<()> {
        let begun = std::time::Instant::now();
        loop {
            let missing: Vec<&String> = events
                .iter()
                .filter(|event| !self.has_seen(room, event))
                .collect();
            if missing.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > patience {
                bail!(
                    "{} was not shown {} of {} events of {room}, first {:?}",
                    self.client.user(),
                    missing.len(),
                    events.len(),
                    missing.first()
                );
            }
            self.step(Duration::from_millis(500)).await?;
        }
    }

    /// An error if an event was shown twice, as a client would show it twice.
    pub fn check_nothing_twice(&self) -> anyhow::Result<()> {
        if !self.twice.is_empty() {
            bail!("{} was shown twice: {:?}", self.client.user(), self.twice);
        }
        Ok(())
    }

    /// An error if what was shown of a room is not, event by event, its history: then something
    /// was missed, or came in another order than the one that pages of history have.
    pub async fn check_history(&self, room: &str) -> anyhow::Result<()> {
        self.check_nothing_twice()?;
        let ids = |events: &[Value]| -> Vec<String> {
            let id = |event: &Value| event["event_id"].as_str().unwrap_or_default().to_owned();
            events.iter().map(id).collect()
        };
        let shown = ids(self.seen(room));
        let history = ids(&self.client.history(room).await?);
        let differs = shown.iter().zip(&history).position(|(a, b)| a != b);
        if differs.is_some() || shown.len() != history.len() {
            bail!(
                "{} was shown {} events of {room}, its history has {}; they differ from the {:?}th on",
                self.client.user(),
                shown.len(),
                history.len(),
                differs
            );
        }
        Ok(())
    }
}
