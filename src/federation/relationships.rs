//! Threads of any depth (MSC2836): what is not here of a thread is asked for where others may have it.

use std::{collections::HashSet, sync::Arc, time::Duration};

use resuni_rooms::{Children, Form, RelationshipsQuery, RoomError, RoomView, Rooms, ThreadReader};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, ServerName, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use crate::{
    client::Terms,
    error::FederationError,
    federation::Federation,
    fetch::{Fetcher, MAX_SERVERS},
    serve::unknown_event,
};

/// The most events of an answer, and how far and how wide a thread is walked for it: "server can override this".
const MAX_EVENTS: usize = 100;
const MAX_DEPTH: usize = 50;
const MAX_BREADTH: usize = 100;
/// Events of an auth chain that are taken.
const MAX_CHAIN: usize = 10_000;
/// How often other servers are asked for one answer.
const MAX_FETCHES: usize = 5;
const TERMS: Terms = Terms {
    heed_backoff: true,
    ..Terms::ASKED.within(Duration::from_secs(10)).up_to(8 << 20)
};

/// Which way a thread is walked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// To the parents.
    Up,
    /// To the children.
    #[default]
    Down,
}

/// What clients and servers ask with. What is negative is unbounded, as far as the server lets it be.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Asked {
    /// Where to begin.
    pub event_id: OwnedEventId,
    /// Who may know it, if it is not here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_id: Option<OwnedRoomId>,
    /// How many steps away.
    #[serde(default = "depth")]
    pub max_depth: i64,
    /// How many children of each event.
    #[serde(default = "breadth")]
    pub max_breadth: i64,
    /// The most events.
    #[serde(default = "limit")]
    pub limit: i64,
    /// Whether all of a child is walked before the next child.
    #[serde(default)]
    pub depth_first: bool,
    /// Whether the newest child comes first.
    #[serde(default = "yes")]
    pub recent_first: bool,
    /// The event's parent too.
    #[serde(default)]
    pub include_parent: bool,
    /// All of its children too.
    #[serde(default)]
    pub include_children: bool,
    /// Which way.
    #[serde(default)]
    pub direction: Way,
}

fn depth() -> i64 {
    3
}

fn breadth() -> i64 {
    10
}

fn limit() -> i64 {
    100
}

fn yes() -> bool {
    true
}

impl Asked {
    pub(crate) fn query(&self) -> RelationshipsQuery {
        let up_to = |asked: i64, most: usize| usize::try_from(asked).map_or(most, |n| n.min(most));
        RelationshipsQuery {
            event_id: self.event_id.clone(),
            max_depth: up_to(self.max_depth, MAX_DEPTH),
            max_breadth: up_to(self.max_breadth, MAX_BREADTH),
            limit: up_to(self.limit, MAX_EVENTS).max(1),
            depth_first: self.depth_first,
            recent_first: self.recent_first,
            include_parent: self.include_parent,
            include_children: self.include_children,
            up: self.direction == Way::Up,
        }
    }
}

/// `POST /_matrix/federation/unstable/event_relationships`.
pub mod wire {
    use ruma::api::{federation::authentication::ServerSignatures, metadata, request, response};
    use serde_json::value::RawValue;

    use super::Asked;

    metadata! {
        method: POST,
        rate_limited: true,
        authentication: ServerSignatures,
        path: "/_matrix/federation/unstable/event_relationships",
    }

    /// Which part of a thread.
    #[request]
    pub struct Request {
        /// As clients ask.
        #[ruma_api(body)]
        pub asked: Asked,
    }

    /// A part of a thread.
    #[response]
    pub struct Response {
        /// The events, the nearest first.
        pub events: Vec<Box<RawValue>>,
        /// Whether there would be more.
        #[serde(default)]
        pub limited: bool,
        /// What the events are authorised by.
        #[serde(default)]
        pub auth_chain: Vec<Box<RawValue>>,
    }
}

/// Who reads, and how it is written for them.
pub struct Reading<'a> {
    /// The user.
    pub user: &'a UserId,
    /// Whom they ignore.
    pub ignored: HashSet<OwnedUserId>,
    /// How.
    pub form: Form<'a>,
}

/// Walks threads, here and where others have them.
pub struct Relationships {
    rooms: Arc<Rooms>,
    federation: Option<Arc<Federation>>,
}

impl Relationships {
    /// From now on relationships are kept.
    #[must_use]
    pub fn new(rooms: Arc<Rooms>, federation: Option<Arc<Federation>>) -> Self {
        rooms.keep_relationships();
        Self { rooms, federation }
    }

    /// The answer to a client.
    ///
    /// # Errors
    /// 404 for an event that nobody has, or that the user may not see.
    pub async fn for_client(
        &self,
        reading: Reading<'_>,
        asked: &Asked,
    ) -> Result<Value, FederationError> {
        let mut view = self.room_of(reading.user, asked).await?;
        let query = asked.query();
        let mut fetched = HashSet::new();
        loop {
            let viewer = view.viewer(reading.user).await?;
            let mut viewer = viewer.ignoring(reading.ignored.clone());
            let walked = view
                .relationships(ThreadReader::Person(&mut viewer), &query)
                .await;
            let wanted = match &walked {
                Ok(walked) => walked.wanted.clone(),
                Err(RoomError::NotFound(_)) if view.event_row(&asked.event_id).await?.is_none() => {
                    vec![asked.event_id.clone()]
                }
                Err(_) => Vec::new(),
            };
            let next = wanted.into_iter().find(|event| !fetched.contains(event));
            // Only who is in the room makes us ask others.
            let next = next.filter(|_| fetched.len() < MAX_FETCHES && viewer.is_joined());
            let (Some(event), Some(federation)) = (next, &self.federation) else {
                return Ok(viewer.thread_json(&walked?, &reading.form).await?);
            };
            let asked = Asked {
                event_id: event.clone(),
                room_id: Some(view.room_id().to_owned()),
                ..asked.clone()
            };
            federation.fetcher.fetch_thread(&view, &asked).await?;
            fetched.insert(event);
            view = federation.fetcher.view(view.room_id()).await?;
        }
    }

    /// The room of the event; if that is not here, the room that is named.
    async fn room_of(&self, user: &UserId, asked: &Asked) -> Result<RoomView, FederationError> {
        if let Some(view) = self.rooms.room_with(&asked.event_id).await? {
            return Ok(view);
        }
        if let Some(room) = &asked.room_id
            && let Some(view) = self.rooms.view(room).await?
            && view.joined(user).await?
        {
            return Ok(view);
        }
        Err(unknown_event(&asked.event_id))
    }
}

/// What another server says beside an event.
#[derive(Deserialize)]
struct Beside {
    unsigned: Children,
}

impl Fetcher {
    /// Brings a part of a thread from the first server of the room that has it. What can't be had is not asked for again
    /// before somebody tells of more.
    async fn fetch_thread(&self, view: &RoomView, asked: &Asked) -> Result<(), FederationError> {
        let servers = view.servers(MAX_SERVERS + 1).await?;
        let others = servers.iter().filter(|server| **server != self.own);
        for server in others.take(MAX_SERVERS) {
            match self.thread_from(view, server, asked).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::debug!(room = %view.room_id(), %server, event = %asked.event_id, %error, "no thread from this server");
                }
            }
        }
        let event = &asked.event_id;
        Ok(self.rooms.note_children(view, event, None, true).await?)
    }

    async fn thread_from(
        &self,
        view: &RoomView,
        server: &ServerName,
        asked: &Asked,
    ) -> Result<(), FederationError> {
        let request = wire::Request {
            asked: asked.clone(),
        };
        let answer = self.client.send(server, request, TERMS).await?;
        if answer.events.len() > MAX_EVENTS * 2 || answer.auth_chain.len() > MAX_CHAIN {
            let reason = "it has more events than asked for";
            return Err(FederationError::bad_answer(server, reason));
        }
        let chain = self.checked(view, answer.auth_chain).await;
        self.outliers(view, chain).await?;
        let mut has_it = false;
        for raw in answer.events {
            let beside = beside(&raw);
            let Some(pdu) = self.checked(view, vec![raw]).await.pop() else {
                continue;
            };
            let id = pdu.event_id().to_owned();
            has_it |= id == asked.event_id;
            self.outliers(view, vec![pdu]).await?;
            self.rooms.note_children(view, &id, beside, false).await?;
        }
        match has_it {
            true => Ok(()),
            false => Err(unknown_event(&asked.event_id)),
        }
    }
}

/// "If there is no `unsigned` section assume the count to be 0."
fn beside(raw: &RawValue) -> Option<Children> {
    let beside: Result<Beside, _> = serde_json::from_str(raw.get());
    beside.ok().map(|beside| beside.unsigned)
}

impl wire::Response {
    pub(crate) fn of(
        events: &[Value],
        limited: bool,
        auth_chain: Vec<Box<RawValue>>,
    ) -> Result<Self, FederationError> {
        let raw = |event| {
            serde_json::value::to_raw_value(event)
                .map_err(|error| FederationError::Internal(error.to_string()))
        };
        Ok(Self {
            events: events.iter().map(raw).collect::<Result<_, _>>()?,
            limited,
            auth_chain,
        })
    }
}
