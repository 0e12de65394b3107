//! Walking a thread, as MSC2836 has it ("Querying relationships", "Server implementation").

use std::collections::{HashSet, VecDeque};

use resuni_dag::HistoryVisibility;
use ruma::{EventId, OwnedEventId};
use serde_json::{Value, json};

use super::parent_of;
use crate::{
    client_view::Form,
    error::RoomError,
    tables::Place,
    types::EventNum,
    view::{RoomView, StoredEvent},
    visibility::{ServerViewer, Viewer, visibility_in},
};

/// Events that are looked at for one answer.
const MAX_READ: usize = 2_000;

/// Which part of a thread is asked for. The limits are what is left of the client's after the server's own.
#[derive(Debug, Clone)]
pub struct RelationshipsQuery {
    /// Where to begin.
    pub event_id: OwnedEventId,
    /// How many steps away an event may be.
    pub max_depth: usize,
    /// How many children of one event are followed.
    pub max_breadth: usize,
    /// The most events.
    pub limit: usize,
    /// Whether all of a child is walked before the next child.
    pub depth_first: bool,
    /// Whether the newest child comes first.
    pub recent_first: bool,
    /// The event's parent too.
    pub include_parent: bool,
    /// All of its children too.
    pub include_children: bool,
    /// To the parents instead of the children.
    pub up: bool,
}

/// Who reads.
pub enum Reader<'a> {
    /// A user.
    Person(&'a mut Viewer),
    /// Another server.
    Server(&'a mut ServerViewer),
}

/// A part of a thread.
#[derive(Debug, Clone, Default)]
pub struct Walked {
    /// The events, the nearest first.
    pub events: Vec<StoredEvent>,
    /// Whether there would be more, but for the limit.
    pub limited: bool,
    /// Events of which another server may know more: parents that are not here, and events with children that are not.
    pub wanted: Vec<OwnedEventId>,
}

struct Walk<'a> {
    view: &'a RoomView,
    reader: Reader<'a>,
    query: &'a RelationshipsQuery,
    /// The depth from which on all history is open to who is in the room now; `None` if it is not.
    open_from: Option<u64>,
    added: HashSet<EventNum>,
    read: usize,
    walked: Walked,
}

impl RoomView {
    /// A part of a thread, as far as it is here.
    ///
    /// # Errors
    /// [`RoomError::NotFound`] where the reader may not see the event to begin with, or it is not here.
    pub async fn relationships(
        &self,
        reader: Reader<'_>,
        query: &RelationshipsQuery,
    ) -> Result<Walked, RoomError> {
        let unknown = || {
            let id = &query.event_id;
            RoomError::NotFound(format!("there is no event {id} that you may see"))
        };
        let anchor = self.event(&query.event_id).await?.ok_or_else(unknown)?;
        let mut walk = Walk {
            view: self,
            reader,
            query,
            open_from: self.open_from().await?,
            added: HashSet::new(),
            read: 0,
            walked: Walked::default(),
        };
        if !walk.sees(&anchor).await? {
            return Err(unknown());
        }
        walk.add(&anchor);
        if query.include_parent
            && let Some(parent) = walk.parent(&anchor).await?
        {
            walk.add(&parent);
        }
        if query.include_children {
            for child in walk.children(&anchor).await? {
                walk.add(&child);
            }
        }
        walk.go(anchor).await?;
        Ok(walk.walked)
    }

    /// Of outliers no state is known. They are shown to who is in the room where its history is shared, and only from
    /// where the event that says so stands.
    async fn open_from(&self) -> Result<Option<u64>, RoomError> {
        let Some(event) = self.state("m.room.history_visibility", "").await? else {
            return Ok(Some(0));
        };
        let open = matches!(
            visibility_in(event.content().get()),
            HistoryVisibility::Shared | HistoryVisibility::WorldReadable
        );
        Ok(open.then(|| event.depth()))
    }
}

impl Walk<'_> {
    async fn go(&mut self, anchor: StoredEvent) -> Result<(), RoomError> {
        let mut seen = HashSet::new();
        let mut todo = VecDeque::from([(anchor, 0)]);
        while let Some((event, depth)) = match self.query.depth_first {
            true => todo.pop_back(),
            false => todo.pop_front(),
        } {
            if !seen.insert(event.num) {
                continue;
            }
            self.add(&event);
            if self.walked.limited || depth >= self.query.max_depth {
                continue;
            }
            if self.read >= MAX_READ {
                self.walked.limited = true;
                continue;
            }
            let mut next: Vec<StoredEvent> = match self.query.up {
                true => self.parent(&event).await?.into_iter().collect(),
                false => self.children(&event).await?,
            };
            next.truncate(self.query.max_breadth);
            if self.query.depth_first {
                next.reverse();
            }
            todo.extend(next.into_iter().map(|event| (event, depth + 1)));
        }
        Ok(())
    }

    fn add(&mut self, event: &StoredEvent) {
        if self.added.contains(&event.num) {
            return;
        }
        if self.walked.events.len() >= self.query.limit {
            self.walked.limited = true;
            return;
        }
        self.added.insert(event.num);
        self.walked.events.push(event.clone());
    }

    fn want(&mut self, event: &EventId) {
        if !self.walked.wanted.iter().any(|wanted| wanted == event) {
            self.walked.wanted.push(event.to_owned());
        }
    }

    /// The event's parent, if it is here and the reader may see it.
    async fn parent(&mut self, event: &StoredEvent) -> Result<Option<StoredEvent>, RoomError> {
        let Some((id, _)) = parent_of(&event.pdu) else {
            return Ok(None);
        };
        self.read += 1;
        let Some(parent) = self.view.event(&id).await? else {
            self.want(&id);
            return Ok(None);
        };
        Ok(self.sees(&parent).await?.then_some(parent))
    }

    /// The event's children that are here and that the reader may see, in the order that is asked for.
    async fn children(&mut self, event: &StoredEvent) -> Result<Vec<StoredEvent>, RoomError> {
        let id = event.pdu.event_id();
        if self.view.children_of(id).await?.1 {
            self.want(id);
        }
        let mut children = Vec::new();
        for child in self.view.answers_to(id).await? {
            self.read += 1;
            if self.sees(&child).await? {
                children.push(child);
            }
        }
        if self.query.recent_first {
            children.reverse();
        }
        Ok(children)
    }

    async fn sees(&mut self, event: &StoredEvent) -> Result<bool, RoomError> {
        let outlier = event.row.place == Place::Outlier;
        if outlier && self.open_from.is_none_or(|depth| event.row.depth <= depth) {
            return Ok(false);
        }
        match &mut self.reader {
            Reader::Person(viewer) => Ok(!viewer.ignores(event.row.sender).await?
                && match outlier {
                    true => viewer.is_joined(),
                    false => viewer.sees_stored(event).await?,
                }),
            Reader::Server(viewer) => match event.row.place {
                Place::Outlier => Ok(true),
                Place::Timeline { .. } => {
                    viewer.sees(event.row.snap_before, event.pdu.json()).await
                }
                _ => Ok(false),
            },
        }
    }
}

impl Viewer {
    /// The answer to a client that asked for a part of a thread.
    pub async fn thread_json(
        &mut self,
        walked: &Walked,
        form: &Form<'_>,
    ) -> Result<Value, RoomError> {
        let mut events = Vec::with_capacity(walked.events.len());
        for event in &walked.events {
            let id = event.pdu.event_id();
            let json = match self.view().timeline_event(id).await? {
                Some(event) => self.json(&event, form).await?,
                None => match self.view().shown(&[event.num]).await?.pop() {
                    Some(shown) => self.view().shown_json(&shown, form),
                    None => continue,
                },
            };
            events.push(with_children(self.view(), id, &json).await?);
        }
        Ok(json!({ "events": events, "limited": walked.limited }))
    }
}

impl RoomView {
    /// The events of a part of a thread as servers hand them out, with what is known of their children.
    pub async fn thread_pdus(&self, walked: &Walked) -> Result<Vec<Value>, RoomError> {
        let mut pdus = Vec::with_capacity(walked.events.len());
        for event in &walked.events {
            let id = event.pdu.event_id();
            pdus.push(with_children(self, id, event.pdu.json()).await?);
        }
        Ok(pdus)
    }
}

async fn with_children(view: &RoomView, id: &EventId, json: &str) -> Result<Value, RoomError> {
    let malformed = |error: serde_json::Error| RoomError::Inconsistent(error.to_string());
    let mut event: Value = serde_json::from_str(json).map_err(malformed)?;
    let (children, _) = view.children_of(id).await?;
    event["unsigned"]["children"] = json!(children.children);
    event["unsigned"]["children_hash"] = json!(children.hash);
    Ok(event)
}
