//! Messages by their words (client-server API, "Server Side Search").

use std::collections::{BTreeSet, HashSet};

use resuni_rooms::{
    Membership, RoomNum, TimelineEvent, TimelineToken, Viewer, fields::string_member,
};
use resuni_store::{Direction, Position, ScanRange};
use ruma::{OwnedRoomId, OwnedUserId, UserId};

use crate::{Search, error::SearchError, tables::WORDS, words::words};

/// Matches that are looked at and counted.
const MATCHES: usize = 1_000;
/// Rows of the index that one search reads, of all rooms together.
const BUDGET: usize = 50_000;
/// Rows read at once.
const CHUNK: usize = 256;
/// Words of one search.
const MAX_WORDS: usize = 16;

/// Where in an event words are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// `content.body` of messages.
    Body,
    /// `content.name` of the room's name.
    Name,
    /// `content.topic` of the room's topic.
    Topic,
}

/// What is looked for.
#[derive(Debug, Clone)]
pub struct Query {
    /// The words, all of which have to be there.
    pub term: String,
    /// Where.
    pub keys: Vec<Key>,
    /// Only in these rooms; `None`: in all that the reader is or was in.
    pub rooms: Option<Vec<OwnedRoomId>>,
    /// And not in these.
    pub not_rooms: Vec<OwnedRoomId>,
    /// The best first, rather than the newest.
    pub by_rank: bool,
    /// The most results of a page.
    pub limit: usize,
    /// The token of a page before.
    pub next_batch: Option<String>,
    /// Whose events the reader does not want to see.
    pub ignored: HashSet<OwnedUserId>,
}

/// An event that was found.
pub struct Hit {
    /// Which of [`Results::viewers`] sees it.
    pub viewer: usize,
    /// The event.
    pub event: TimelineEvent,
    /// How well it fits: higher is better.
    pub rank: f64,
}

/// A page of what was found.
#[derive(Default)]
pub struct Results {
    /// The reader's eyes on the rooms in which something was found.
    pub viewers: Vec<Viewer>,
    /// The events.
    pub hits: Vec<Hit>,
    /// How many there are, of all pages.
    pub count: usize,
    /// The words that were looked for.
    pub highlights: BTreeSet<String>,
    /// Where the next page begins.
    pub next_batch: Option<String>,
}

/// The text of an event that can be searched.
pub(crate) fn text_of(kind: &str, content: &str) -> Option<(Key, String)> {
    let (key, field) = match kind {
        "m.room.message" => (Key::Body, "body"),
        "m.room.name" => (Key::Name, "name"),
        "m.room.topic" => (Key::Topic, "topic"),
        _ => return None,
    };
    Some((key, string_member(content, field)?))
}

/// A place in the pages of one search: what came after it began is not in them.
#[derive(Clone, Copy)]
struct Page {
    up_to: Position,
    offset: usize,
}

impl Page {
    fn parse(token: &str) -> Result<Self, SearchError> {
        let (up_to, offset) = token.split_once('_').ok_or(SearchError::BadToken)?;
        let number = |text: &str| text.parse::<u64>().map_err(|_| SearchError::BadToken);
        let offset = usize::try_from(number(offset)?).map_err(|_| SearchError::BadToken)?;
        Ok(Self {
            up_to: Position(number(up_to)?),
            offset,
        })
    }
}

impl Search {
    /// Events with all the words of the query that the reader may see and `wanted` lets through.
    ///
    /// # Errors
    /// [`SearchError::BadToken`]; when the rooms can't be read.
    pub async fn text(
        &self,
        reader: &UserId,
        query: &Query,
        wanted: impl Fn(&TimelineEvent) -> bool + Send + Sync,
    ) -> Result<Results, SearchError> {
        let page = match &query.next_batch {
            Some(token) => Page::parse(token)?,
            None => Page {
                up_to: self.store.log().watermark(),
                offset: 0,
            },
        };
        let terms: BTreeSet<String> = words(&query.term).into_iter().take(MAX_WORDS).collect();
        let mut results = Results {
            highlights: terms.clone(),
            ..Results::default()
        };
        let mut hits = self
            .hits(reader, query, &terms, page.up_to, &mut results)
            .await?;
        hits.retain(|hit| {
            let fields = hit.event.fields();
            let key = text_of(fields.kind_str(), fields.content).map(|(key, _)| key);
            let ignored = (query.ignored.iter()).any(|user| user.as_str() == fields.sender_str());
            key.is_some_and(|key| query.keys.contains(&key)) && !ignored && wanted(&hit.event)
        });
        if query.by_rank {
            hits.sort_by(|a, b| b.rank.total_cmp(&a.rank));
        }
        results.count = hits.len();
        results.hits = hits
            .into_iter()
            .skip(page.offset)
            .take(query.limit)
            .collect();
        // A full page may have been the last: then the next one is empty.
        results.next_batch = (results.hits.len() == query.limit).then(|| {
            let offset = page.offset.saturating_add(query.limit);
            format!("{}_{offset}", page.up_to.0)
        });
        Ok(results)
    }

    /// All that the reader may see, the newest first.
    async fn hits(
        &self,
        reader: &UserId,
        query: &Query,
        terms: &BTreeSet<String>,
        up_to: Position,
        results: &mut Results,
    ) -> Result<Vec<Hit>, SearchError> {
        let mut places = Vec::new();
        let mut budget = BUDGET;
        for room in self.searched(reader, query).await? {
            for position in self.matches(room, terms, up_to, &mut budget).await? {
                places.push((position, room));
            }
        }
        places.sort_unstable_by(|a, b| b.cmp(a));
        let mut rooms: Vec<RoomNum> = Vec::new();
        let mut hits = Vec::new();
        for (position, room) in places.into_iter().take(MATCHES) {
            let viewer = match rooms.iter().position(|known| *known == room) {
                Some(at) => at,
                None => {
                    let Some(view) = self.rooms.view_num(room).await? else {
                        continue;
                    };
                    let viewer = view.viewer(reader).await?;
                    results.viewers.push(viewer.ignoring(query.ignored.clone()));
                    rooms.push(room);
                    rooms.len() - 1
                }
            };
            let Some(eyes) = results.viewers.get_mut(viewer) else {
                continue;
            };
            let event = eyes.view().at_place(TimelineToken::live(position)).await?;
            if let Some(event) = event
                && event.redaction.is_none()
                && eyes.sees(&event).await?
            {
                let rank = rank(&event, terms);
                hits.push(Hit {
                    viewer,
                    event,
                    rank,
                });
            }
        }
        Ok(hits)
    }

    /// The rooms that are searched: those that the reader is or was in and has not forgotten.
    async fn searched(&self, reader: &UserId, query: &Query) -> Result<Vec<RoomNum>, SearchError> {
        let mut rooms = self.rooms.rooms_of(reader, &[]).await?;
        rooms.retain(|room| {
            let was_in = matches!(
                room.row.membership,
                Membership::Join | Membership::Leave | Membership::Ban
            );
            let asked = query
                .rooms
                .as_ref()
                .is_none_or(|rooms| rooms.contains(&room.room_id));
            was_in && !room.row.forgotten && asked && !query.not_rooms.contains(&room.room_id)
        });
        Ok(rooms.into_iter().map(|room| room.num).collect())
    }

    /// Where in a room all the words are, the newest first.
    async fn matches(
        &self,
        room: RoomNum,
        terms: &BTreeSet<String>,
        up_to: Position,
        budget: &mut usize,
    ) -> Result<Vec<Position>, SearchError> {
        let snapshot = self.store.snapshot();
        let mut found = Vec::new();
        // The longest word is on the shortest list, mostly.
        let Some(first) = terms.iter().max_by_key(|word| word.len()) else {
            return Ok(found);
        };
        let prefix = (room, first.clone());
        let after = Position(up_to.0.saturating_add(1));
        let mut range = ScanRange::before(&(room, first.clone(), after)).within(&prefix);
        while *budget > 0 && found.len() < MATCHES {
            *budget = budget.saturating_sub(CHUNK);
            let rows = snapshot
                .scan(&WORDS, range, Direction::Backward, CHUNK)
                .await?;
            let Some((last, ())) = rows.last() else { break };
            range = ScanRange::before(last).within(&prefix);
            'rows: for ((_, _, position), ()) in rows {
                for word in terms.iter().filter(|word| *word != first) {
                    let key = (room, word.clone(), position);
                    if !snapshot.contains(&WORDS, &key).await? {
                        continue 'rows;
                    }
                }
                found.push(position);
            }
        }
        Ok(found)
    }
}

/// The share of an event's words that were looked for: a short message that says just that fits best.
fn rank(event: &TimelineEvent, terms: &BTreeSet<String>) -> f64 {
    let fields = event.fields();
    let text = text_of(fields.kind_str(), fields.content).map(|(_, text)| text);
    let all = words(&text.unwrap_or_default()).len().max(1);
    terms.len() as f64 / all as f64
}
