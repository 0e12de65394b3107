//! Pages of a room's timeline, both ways: one scan for the events, one for the redactions among them.

use resuni_store::{Direction, Position, ScanRange};
use ruma::OwnedEventId;

use crate::error::RoomError;
use crate::fields::EventFields;
use crate::tables::{MISSING, REDACTIONS, TIMELINE, TimelineRow, flags};
use crate::types::{EventHash, EventNum, TimelineToken};
use crate::view::RoomView;
use crate::visibility::Viewer;

/// The most events of one page.
pub const MAX_PAGE: usize = 1_000;
/// How many events a page reads at most while it looks for visible ones.
const BUDGET: usize = 10_000;

/// An event with its place in the timeline.
#[derive(Debug, Clone)]
pub struct TimelineEvent {
    /// Its place.
    pub token: TimelineToken,
    /// The event, and what was noted when it came.
    pub row: TimelineRow,
    /// The redaction that applies to it.
    pub redaction: Option<EventNum>,
}

impl TimelineEvent {
    /// Its id.
    pub fn event_id(&self) -> OwnedEventId {
        self.row.id.to_id()
    }

    /// The place just before it.
    pub fn before(&self) -> TimelineToken {
        self.token.previous()
    }

    /// The fields of its JSON.
    pub fn fields(&self) -> EventFields<'_> {
        EventFields::of(&self.row.pdu)
    }

    /// Whether it is a state event.
    pub fn is_state(&self) -> bool {
        self.row.flags & flags::STATE != 0
    }
}

impl TimelineToken {
    /// The next smaller place: just before the event that is here.
    pub fn previous(self) -> Self {
        match self.sub.checked_sub(1) {
            Some(sub) => Self { sub, ..self },
            None => Self::live(Position(self.position.0.saturating_sub(1))),
        }
    }
}

/// A place where history is missing here that other servers have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The event whose `prev_events` are missing.
    pub event_id: OwnedEventId,
    /// Its place: what is fetched is laid just before it.
    pub token: TimelineToken,
    /// The missing events.
    pub missing: Vec<OwnedEventId>,
}

/// What to do where history is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gaps {
    /// End the page there and say so, so that the caller can fetch it and go on.
    #[default]
    Stop,
    /// Go on as if nothing were missing: when it can't be had.
    Pass,
}

/// Which part of the timeline is asked for.
#[derive(Debug, Clone, Copy)]
pub struct PageQuery {
    /// Where to begin: just after the event at this place.
    pub from: TimelineToken,
    /// Where to end at the latest.
    pub to: Option<TimelineToken>,
    /// Which way.
    pub dir: Direction,
    /// The most events; [`MAX_PAGE`] at most.
    pub limit: usize,
    /// What to do at gaps.
    pub gaps: Gaps,
}

/// A page of the timeline, in the direction it was asked for.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The events.
    pub events: Vec<TimelineEvent>,
    /// Where the next page begins; `None` at the end of the timeline (or at `to`).
    pub end: Option<TimelineToken>,
    /// The page ends where history is missing: fetch it, then go on at `end`.
    pub gap: Option<Gap>,
}

impl RoomView {
    /// A page of the timeline, visible or not. See [`Viewer::page`] for what a reader gets.
    pub async fn page(&self, query: PageQuery) -> Result<Page, RoomError> {
        let limit = query.limit.min(MAX_PAGE);
        if let Some(gap) = self.gap_before(query).await? {
            return Ok(Page {
                events: Vec::new(),
                end: Some(query.from),
                gap: Some(gap),
            });
        }
        let range = self.range(query);
        // One more than asked for tells whether there is more.
        let rows = self
            .snapshot()
            .scan(&TIMELINE, range.clone(), query.dir, limit + 1)
            .await?;
        let more = rows.len() > limit;
        let mut page = Page::default();
        for ((_, position, sub), row) in rows.into_iter().take(limit) {
            let token = TimelineToken { position, sub };
            let gap = match query.gaps {
                Gaps::Stop if row.flags & flags::GAP != 0 => self.gap(token, &row).await?,
                _ => None,
            };
            let event = TimelineEvent {
                token,
                row,
                redaction: None,
            };
            match (gap, query.dir) {
                (None, _) => page.events.push(event),
                (Some(gap), Direction::Backward) => {
                    page.end = Some(event.before());
                    page.events.push(event);
                    page.gap = Some(gap);
                    break;
                }
                // What is missing comes before the event, and after all that the page has.
                (Some(gap), Direction::Forward) => {
                    page.end = Some(page.events.last().map_or(query.from, |last| last.token));
                    page.gap = Some(gap);
                    break;
                }
            }
        }
        if page.gap.is_none() && more {
            page.end = page.events.last().map(|last| match query.dir {
                Direction::Backward => last.before(),
                Direction::Forward => last.token,
            });
        }
        self.find_redactions(&mut page.events).await?;
        Ok(page)
    }

    /// The event at a place of the timeline.
    pub async fn event_at(&self, token: TimelineToken) -> Result<Option<TimelineEvent>, RoomError> {
        let key = (self.num(), token.position, token.sub);
        let Some(row) = self.snapshot().get(&TIMELINE, &key).await? else {
            return Ok(None);
        };
        let redaction = self.snapshot().get(&REDACTIONS, &key).await?;
        Ok(Some(TimelineEvent {
            token,
            row,
            redaction,
        }))
    }

    /// The newest events up to `up_to`, oldest first, none of `since` or before: the timeline of a sync.
    pub async fn latest(
        &self,
        up_to: TimelineToken,
        since: Option<TimelineToken>,
        limit: usize,
    ) -> Result<Page, RoomError> {
        let query = PageQuery {
            from: up_to,
            to: since,
            dir: Direction::Backward,
            limit,
            gaps: Gaps::Stop,
        };
        let mut page = self.page(query).await?;
        page.events.reverse();
        Ok(page)
    }

    fn range(&self, query: PageQuery) -> ScanRange {
        let room = self.num();
        let key = |token: TimelineToken| (room, token.position, token.sub);
        let (low, high) = match query.dir {
            Direction::Backward => (query.to, Some(query.from)),
            Direction::Forward => (
                Some(query.from),
                Some(query.to.map_or(self.end(), |to| to.min(self.end()))),
            ),
        };
        let mut range = ScanRange::prefix(&room);
        if let Some(low) = low {
            range = range.and(ScanRange::after(&key(low)));
        }
        if let Some(high) = high {
            range = range.and(ScanRange::before(&key(high.next())));
        }
        range
    }

    /// The gap at which a page backwards begins: the page before ended with the event above it, and nobody fetched
    /// what is missing there.
    async fn gap_before(&self, query: PageQuery) -> Result<Option<Gap>, RoomError> {
        let PageQuery {
            from, dir, gaps, ..
        } = query;
        if dir == Direction::Forward || gaps == Gaps::Pass || from.sub == u32::MAX {
            return Ok(None);
        }
        // What is missing is laid at the position of the event that it was missing for.
        let above = ScanRange::after(&(self.num(), from.position, from.sub))
            .within(&(self.num(), from.position));
        let rows = self
            .snapshot()
            .scan(&TIMELINE, above, Direction::Forward, 1)
            .await?;
        match rows.into_iter().next() {
            Some(((_, position, sub), row)) if row.flags & flags::GAP != 0 => {
                self.gap(TimelineToken { position, sub }, &row).await
            }
            _ => Ok(None),
        }
    }

    async fn gap(&self, token: TimelineToken, row: &TimelineRow) -> Result<Option<Gap>, RoomError> {
        let pdu = crate::reader::stored_pdu(&row.id, row.pdu.clone())?;
        let mut missing = Vec::new();
        for id in pdu.prev_events() {
            let key = (self.num(), EventHash::of(id));
            if self.snapshot().contains(&MISSING, &key).await? {
                missing.push(id.clone());
            }
        }
        Ok((!missing.is_empty()).then(|| Gap {
            event_id: row.id.to_id(),
            token,
            missing,
        }))
    }

    async fn find_redactions(&self, events: &mut [TimelineEvent]) -> Result<(), RoomError> {
        let tokens = events.iter().map(|event| event.token);
        let (Some(low), Some(high)) = (tokens.clone().min(), tokens.max()) else {
            return Ok(());
        };
        let key = |token: TimelineToken| (self.num(), token.position, token.sub);
        let range = ScanRange::from(&key(low))
            .and(ScanRange::before(&key(high.next())))
            .within(&self.num());
        let rows = self
            .snapshot()
            .scan(&REDACTIONS, range, Direction::Forward, usize::MAX)
            .await?;
        if rows.is_empty() {
            return Ok(());
        }
        for event in events {
            let place = key(event.token);
            if let Ok(at) = rows.binary_search_by(|(key, _)| key.cmp(&place)) {
                event.redaction = rows.get(at).map(|(_, redaction)| *redaction);
            }
        }
        Ok(())
    }
}

impl TimelineToken {
    /// The next greater place.
    pub(crate) fn next(self) -> Self {
        match self.sub.checked_add(1) {
            Some(sub) => Self { sub, ..self },
            None => Self {
                position: Position(self.position.0.saturating_add(1)),
                sub: 0,
            },
        }
    }
}

impl Viewer {
    /// A page of the events that this reader may see and `wanted` lets through. When few are, it ends early with a
    /// token to go on: a page without events is not the end of the room, a page without `end` is.
    pub async fn page(
        &mut self,
        query: PageQuery,
        mut wanted: impl FnMut(&TimelineEvent) -> bool + Send,
    ) -> Result<Page, RoomError> {
        let limit = query.limit.min(MAX_PAGE);
        let mut page = Page::default();
        let mut next = PageQuery { limit, ..query };
        let mut read = 0;
        loop {
            let part = self.view().page(next).await?;
            let mut events = part.events.into_iter();
            while let Some(event) = events.next() {
                read += 1;
                let place = if query.dir == Direction::Backward {
                    event.before()
                } else {
                    event.token
                };
                if wanted(&event) && self.sees(&event).await? {
                    page.events.push(event);
                }
                if page.events.len() >= limit && events.len() > 0 {
                    page.end = Some(place);
                    return Ok(page);
                }
            }
            (page.end, page.gap) = (part.end, part.gap);
            let Some(end) = page.end else { break };
            if page.gap.is_some() || page.events.len() >= limit || read >= BUDGET {
                break;
            }
            // Few of these are visible: look at more at once.
            next = PageQuery {
                from: end,
                limit: (limit - page.events.len()).max(128),
                ..query
            };
        }
        Ok(page)
    }
}
