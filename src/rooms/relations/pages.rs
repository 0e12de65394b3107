//! The relations of an event, and the threads of a room, page by page (client-server API, "Relationships API",
//! "Querying threads in a room").

use std::collections::{BTreeSet, HashSet};

use resuni_store::{Direction, Position, ScanRange};
use ruma::OwnedEventId;

use super::{
    bundle::relates,
    index::{AGGREGATES, BY_TYPE, THREADS},
};
use crate::{
    error::RoomError,
    page::TimelineEvent,
    tables::{EVENTS, RELATIONS},
    types::{EventHash, EventNum, TimelineToken},
    view::RoomView,
    visibility::Viewer,
};

/// Rows that a page reads at most while it looks for events that the reader may see.
const BUDGET: usize = 2_000;
/// How far relations of relations are followed: the spec recommends 3.
const DEPTH: u8 = 3;
/// Events whose relations are looked at for one page that follows them.
const FOLLOWED: usize = 1_000;

/// Which relations of an event are asked for.
#[derive(Debug, Clone)]
pub struct RelationsQuery {
    /// The event that they relate to.
    pub parent: OwnedEventId,
    /// Only those of this `rel_type`.
    pub rel_type: Option<String>,
    /// Only events of this type.
    pub kind: Option<String>,
    /// Where to begin.
    pub from: Option<TimelineToken>,
    /// Where to end at the latest.
    pub to: Option<TimelineToken>,
    /// Which way.
    pub dir: Direction,
    /// The most events.
    pub limit: usize,
    /// Those that relate to these as well.
    pub recurse: bool,
}

/// Which threads of a room are asked for, the one with the newest event first.
#[derive(Debug, Clone)]
pub struct ThreadsQuery {
    /// Where to begin.
    pub from: Option<TimelineToken>,
    /// Only those in which the reader takes part.
    pub participated: bool,
    /// The most threads.
    pub limit: usize,
}

/// A page of events.
#[derive(Debug, Clone, Default)]
pub struct RelationsPage {
    /// The events.
    pub events: Vec<TimelineEvent>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<TimelineToken>,
    /// How far relations of relations were followed.
    pub depth: Option<u8>,
}

/// A stretch of the timeline: after the one place, up to the other.
type Stretch = (Option<TimelineToken>, TimelineToken);

impl Viewer {
    /// The relations of an event that this reader may see.
    ///
    /// # Errors
    /// [`RoomError::NotFound`] when they may not see the event itself.
    pub async fn related(&mut self, query: &RelationsQuery) -> Result<RelationsPage, RoomError> {
        let parent = self.event(&query.parent).await?;
        let parent = parent.ok_or_else(|| {
            RoomError::NotFound(format!("there is no event {} in this room", query.parent))
        })?;
        let end = self.view().end();
        let mut stretch = match query.dir {
            Direction::Backward => (query.to, query.from.unwrap_or(end)),
            Direction::Forward => (query.from, query.to.map_or(end, |to| to.min(end))),
        };
        let followed = match query.recurse {
            true => Some(
                self.view()
                    .followed(parent.row.id.key(), query, stretch)
                    .await?,
            ),
            false => None,
        };
        let mut page = RelationsPage {
            depth: query.recurse.then_some(DEPTH),
            ..RelationsPage::default()
        };
        let mut read = 0;
        while read < BUDGET {
            let want = query.limit.saturating_sub(page.events.len()) + 1;
            let places = match &followed {
                Some(places) => within(places, stretch, query.dir, want),
                None => {
                    self.view()
                        .places(parent.row.id.key(), query, stretch, want)
                        .await?
                }
            };
            let more = places.len() == want;
            read += places.len().max(1);
            for place in places {
                if page.events.len() == query.limit {
                    page.next = page.events.last().map(|event| after(event, query.dir));
                    return Ok(page);
                }
                match query.dir {
                    Direction::Backward => stretch.1 = place.previous(),
                    Direction::Forward => stretch.0 = Some(place),
                }
                if let Some(event) = self.view().at_place(place).await?
                    && self.wants(query, &event).await?
                {
                    page.events.push(event);
                }
            }
            if !more {
                return Ok(page);
            }
        }
        page.next = match query.dir {
            Direction::Backward => Some(stretch.1),
            Direction::Forward => stretch.0,
        };
        Ok(page)
    }

    async fn wants(
        &mut self,
        query: &RelationsQuery,
        event: &TimelineEvent,
    ) -> Result<bool, RoomError> {
        let fields = event.fields();
        if query
            .kind
            .as_ref()
            .is_some_and(|kind| kind != fields.kind_str())
        {
            return Ok(false);
        }
        let sender = self.view().reader.event_row(event.row.event).await?.sender;
        Ok(!self.ignores(sender).await? && self.sees(event).await?)
    }

    /// The roots of the room's threads that this reader may see.
    pub async fn threads(&mut self, query: &ThreadsQuery) -> Result<RelationsPage, RoomError> {
        let room = self.view().num();
        let mut from = query.from.unwrap_or(self.view().end());
        let mut page = RelationsPage::default();
        let mut read = 0;
        while read < BUDGET {
            let want = query.limit.saturating_sub(page.events.len()) + 1;
            let end = from.next();
            let range = ScanRange::before(&(room, end.position, end.sub)).within(&room);
            let rows = self
                .view()
                .snapshot()
                .scan(&THREADS, range, Direction::Backward, want)
                .await?;
            let more = rows.len() == want;
            read += rows.len().max(1);
            for ((_, position, sub), row) in rows {
                if page.events.len() == query.limit {
                    page.next = Some(from);
                    return Ok(page);
                }
                from = TimelineToken { position, sub }.previous();
                page.events
                    .extend(self.root(row.root, query.participated).await?);
            }
            if !more {
                return Ok(page);
            }
        }
        page.next = Some(from);
        Ok(page)
    }

    /// The root of a thread, if the reader may see it and something in it.
    async fn root(
        &mut self,
        root: EventHash,
        participated: bool,
    ) -> Result<Option<TimelineEvent>, RoomError> {
        let view = self.view().clone();
        let Some(num) = view.reader.event_num_of(root).await? else {
            return Ok(None);
        };
        let Some(event) = view.numbered(num).await? else {
            return Ok(None);
        };
        let shown = !relates(&event.fields())
            && self.sees(&event).await?
            && (!participated || self.participated(&event).await?)
            && self.latest_of_thread(root).await?.is_some();
        Ok(shown.then_some(event))
    }
}

/// Where a page goes on after this event.
fn after(event: &TimelineEvent, dir: Direction) -> TimelineToken {
    match dir {
        Direction::Backward => event.before(),
        Direction::Forward => event.token,
    }
}

/// Some of these places, in the direction that is asked for.
fn within(
    places: &BTreeSet<TimelineToken>,
    (low, high): Stretch,
    dir: Direction,
    limit: usize,
) -> Vec<TimelineToken> {
    let inside = |place: &&TimelineToken| low.is_none_or(|low| **place > low) && **place <= high;
    let places = places.iter().filter(inside).copied();
    match dir {
        Direction::Backward => places.rev().take(limit).collect(),
        Direction::Forward => places.take(limit).collect(),
    }
}

impl RoomView {
    /// The places of the direct relations of an event.
    async fn places(
        &self,
        target: EventHash,
        query: &RelationsQuery,
        (low, high): Stretch,
        limit: usize,
    ) -> Result<Vec<TimelineToken>, RoomError> {
        let end = high.next();
        let place = |position: Position, sub: u32| TimelineToken { position, sub };
        let Some(rel_type) = &query.rel_type else {
            let prefix = (self.num(), target);
            let mut range =
                ScanRange::before(&(self.num(), target, end.position, end.sub)).within(&prefix);
            if let Some(low) = low {
                let low = (self.num(), target, low.position, low.sub);
                range = range.and(ScanRange::after(&low));
            }
            let rows = self
                .snapshot()
                .scan(&RELATIONS, range, query.dir, limit)
                .await?;
            return Ok(rows.iter().map(|(key, _)| place(key.2, key.3)).collect());
        };
        let key = |token: TimelineToken| {
            let rel_type = rel_type.clone();
            (self.num(), target, rel_type, token.position, token.sub)
        };
        let prefix = (self.num(), target, rel_type.clone());
        let mut range = ScanRange::before(&key(end)).within(&prefix);
        if let Some(low) = low {
            range = range.and(ScanRange::after(&key(low)));
        }
        let rows = self
            .snapshot()
            .scan(&BY_TYPE, range, query.dir, limit)
            .await?;
        Ok(rows.iter().map(|(key, _)| place(key.3, key.4)).collect())
    }

    /// The places of all that relates to an event, directly or by way of others that the query lets through.
    async fn followed(
        &self,
        target: EventHash,
        query: &RelationsQuery,
        stretch: Stretch,
    ) -> Result<BTreeSet<TimelineToken>, RoomError> {
        let mut found = BTreeSet::new();
        let mut seen = HashSet::from([target]);
        let mut level = vec![target];
        let mut budget = FOLLOWED;
        for _ in 0..DEPTH {
            let mut next = Vec::new();
            for target in level {
                next.extend(
                    self.children(target, query, stretch, &mut found, &mut budget)
                        .await?,
                );
            }
            level = self.with_children(&next).await?;
            level.retain(|target| seen.insert(*target));
        }
        Ok(found)
    }

    async fn children(
        &self,
        target: EventHash,
        query: &RelationsQuery,
        (_, high): Stretch,
        found: &mut BTreeSet<TimelineToken>,
        budget: &mut usize,
    ) -> Result<Vec<EventNum>, RoomError> {
        let end = high.next();
        let prefix = (self.num(), target);
        let range = ScanRange::before(&(self.num(), target, end.position, end.sub)).within(&prefix);
        let rows = self
            .snapshot()
            .scan(&RELATIONS, range, query.dir, *budget)
            .await?;
        *budget = budget.saturating_sub(rows.len());
        let mut children = Vec::with_capacity(rows.len());
        for ((_, _, position, sub), relation) in rows {
            let fits = query
                .rel_type
                .as_ref()
                .is_none_or(|rel_type| *rel_type == relation.rel_type)
                && query
                    .kind
                    .as_ref()
                    .is_none_or(|kind| *kind == relation.kind);
            if fits {
                found.insert(TimelineToken { position, sub });
                children.push(relation.event);
            }
        }
        Ok(children)
    }

    /// Those of these events that anything relates to.
    async fn with_children(&self, events: &[EventNum]) -> Result<Vec<EventHash>, RoomError> {
        let rows = self.snapshot().get_many(&EVENTS, events).await?;
        let keys: Vec<_> = rows
            .into_iter()
            .flatten()
            .map(|row| (self.num(), row.id.key()))
            .collect();
        let aggregates = self.snapshot().get_many(&AGGREGATES, &keys).await?;
        Ok(keys
            .into_iter()
            .zip(aggregates)
            .filter(|(_, aggregate)| aggregate.is_some())
            .map(|((_, id), _)| id)
            .collect())
    }
}
