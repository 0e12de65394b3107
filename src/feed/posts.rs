//! Reading posts: pages of the public timeline and of one room, newest first.

use std::{collections::HashMap, fmt, str::FromStr};

use resuni_dag::Pdu;
use resuni_rooms::{
    EventHash, EventNum, RoomNum, RoomView, Shown, fields::string_member, tables::Place,
};
use resuni_store::{Direction, Position, ScanRange};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde_json::Value;

use crate::{
    Feed,
    content::{PostContent, Reference},
    error::FeedError,
    names::RoomKind,
    tables::{POSTS, PUBLIC_ROOMS, PostRow, ROOM_POSTS},
};

/// The most posts of one page.
pub const MAX_PAGE: usize = 100;

/// A place in the public timeline: just before the post that came here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PostToken(Position);

impl fmt::Display for PostToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.0.0)
    }
}

/// The text is no place in the timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no place in the timeline")]
pub struct BadToken;

impl FromStr for PostToken {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let number = text.strip_prefix('p').ok_or(BadToken)?;
        Ok(Self(Position(number.parse().map_err(|_| BadToken)?)))
    }
}

/// A post that anybody may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Post {
    /// The event.
    pub event_id: OwnedEventId,
    /// The room.
    pub room_id: OwnedRoomId,
    /// What the room is.
    pub room_kind: RoomKind,
    /// What the room is called.
    pub room_name: Option<String>,
    /// Who posted it.
    pub author: OwnedUserId,
    /// What they call themselves in the room.
    pub author_name: Option<String>,
    /// When, in milliseconds since the epoch, as their server says; never later than now.
    pub sent_ms: u64,
    /// It was changed afterwards.
    pub edited: bool,
    /// What it says.
    pub content: PostContent,
    /// The post that it refers to, if that is public here too.
    pub quoted: Option<Quoted>,
}

/// A post that another one refers to, in its author's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quoted {
    /// Who posted it.
    pub author: OwnedUserId,
    /// What they call themselves.
    pub author_name: Option<String>,
    /// What it says.
    pub content: PostContent,
}

/// Posts, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PostPage {
    /// The posts: fewer than asked for where some may no longer be read.
    pub posts: Vec<Post>,
    /// Where older ones begin; none at the end.
    pub next: Option<PostToken>,
}

impl Feed {
    /// The public timeline: the posts of all profiles and groups that we are in and anybody may read, before a place
    /// in it or from its end; `limit` of them, [`MAX_PAGE`] at most.
    ///
    /// # Errors
    /// When the store or a room cannot be read.
    pub async fn timeline(
        &self,
        before: Option<PostToken>,
        limit: usize,
    ) -> Result<PostPage, FeedError> {
        let limit = limit.min(MAX_PAGE);
        let range = before.map_or_else(ScanRange::all, |token| ScanRange::before(&token.0));
        let snapshot = self.store.snapshot();
        let rows = snapshot
            .scan(&POSTS, range, Direction::Backward, limit + 1)
            .await?;
        self.page(rows, limit).await
    }

    /// The posts of one room, as [`Feed::timeline`].
    pub(crate) async fn room_posts(
        &self,
        room: RoomNum,
        before: Option<PostToken>,
        limit: usize,
    ) -> Result<PostPage, FeedError> {
        let limit = limit.min(MAX_PAGE);
        let range = before.map_or_else(ScanRange::all, |token| ScanRange::before(&(room, token.0)));
        let snapshot = self.store.snapshot();
        let range = range.within(&room);
        let rows = snapshot
            .scan(&ROOM_POSTS, range, Direction::Backward, limit + 1)
            .await?;
        let rows = rows
            .into_iter()
            .map(|((room, position), event)| (position, PostRow { room, event }));
        self.page(rows.collect(), limit).await
    }

    async fn page(
        &self,
        mut rows: Vec<(Position, PostRow)>,
        limit: usize,
    ) -> Result<PostPage, FeedError> {
        let more = rows.len() > limit;
        rows.truncate(limit);
        let mut page = PostPage::default();
        let mut reader = PostReader {
            feed: self,
            rooms: HashMap::new(),
        };
        page.next = rows
            .last()
            .filter(|_| more)
            .map(|(position, _)| PostToken(*position));
        for (_, row) in rows {
            page.posts.extend(reader.post(row).await?);
        }
        Ok(page)
    }
}

/// Reads the posts of a page: what is the same for all posts of a room is read once.
struct PostReader<'a> {
    feed: &'a Feed,
    rooms: HashMap<RoomNum, Option<Room>>,
}

#[derive(Clone)]
struct Room {
    view: RoomView,
    kind: RoomKind,
    name: Option<String>,
}

impl PostReader<'_> {
    async fn post(&mut self, row: PostRow) -> Result<Option<Post>, FeedError> {
        let Some(room) = self.room(row.room).await? else {
            return Ok(None);
        };
        let Some(read) = read(&room.view, row.event).await? else {
            return Ok(None);
        };
        let quoted = match &read.content.reference {
            Some(reference) => self.quoted(reference).await?,
            None => None,
        };
        let pdu = read.pdu;
        Ok(Some(Post {
            event_id: pdu.event_id().to_owned(),
            room_id: room.view.room_id().to_owned(),
            room_kind: room.kind,
            room_name: room.name,
            author: pdu.sender().to_owned(),
            author_name: name_of(&room.view, &pdu).await?,
            sent_ms: pdu.origin_server_ts().min(self.feed.rooms.now_ms()),
            edited: read.edited,
            content: read.content,
            quoted,
        }))
    }

    /// The room, if it is in the index and anybody may read it at this very moment.
    async fn room(&mut self, num: RoomNum) -> Result<Option<Room>, FeedError> {
        if let Some(room) = self.rooms.get(&num) {
            return Ok(room.clone());
        }
        let public = self.feed.store.snapshot().get(&PUBLIC_ROOMS, &num).await?;
        let room = match (public, self.feed.rooms.view_num(num).await?) {
            (Some(public), Some(view)) if view.world_readable().await? => {
                let name = view.state("m.room.name", "").await?;
                Some(Room {
                    kind: public.kind,
                    name: name.and_then(|event| text_in(&event, "name")),
                    view,
                })
            }
            _ => None,
        };
        self.rooms.insert(num, room.clone());
        Ok(room)
    }

    /// The post that is referred to, where it is: what others say about its words may be made up (MSC4501,
    /// "Security considerations").
    async fn quoted(&mut self, reference: &Reference) -> Result<Option<Quoted>, FeedError> {
        let Some(view) = self.feed.rooms.view(&reference.room_id).await? else {
            return Ok(None);
        };
        let Some((event, row)) = view.event_row(&reference.event_id).await? else {
            return Ok(None);
        };
        let Place::Timeline { position, .. } = row.place else {
            return Ok(None);
        };
        let post = PostRow {
            room: view.num(),
            event,
        };
        if self.feed.store.snapshot().get(&POSTS, &position).await? != Some(post) {
            return Ok(None);
        }
        let Some(room) = self.room(view.num()).await? else {
            return Ok(None);
        };
        let Some(read) = read(&room.view, event).await? else {
            return Ok(None);
        };
        if read.pdu.sender() != reference.sender {
            return Ok(None);
        }
        Ok(Some(Quoted {
            author: reference.sender.clone(),
            author_name: name_of(&room.view, &read.pdu).await?,
            content: read.content,
        }))
    }
}

struct Read {
    pdu: Pdu,
    content: PostContent,
    edited: bool,
}

/// A post as it reads today; none once it was redacted.
async fn read(view: &RoomView, event: EventNum) -> Result<Option<Read>, FeedError> {
    let Some(Shown {
        pdu,
        redacted_because: None,
    }) = view.shown(&[event]).await?.pop()
    else {
        return Ok(None);
    };
    let edit = newest_edit(view, &pdu).await?;
    let edited = edit.is_some();
    // The content was parsed when the post entered the index.
    let content = edit.or_else(|| pdu.content_as().ok()).unwrap_or_default();
    Ok(Some(Read {
        content: PostContent::read(pdu.kind(), &content),
        pdu,
        edited,
    }))
}

/// The new content that its author gave a post (client-server API, "Event replacements").
async fn newest_edit(view: &RoomView, post: &Pdu) -> Result<Option<Value>, FeedError> {
    let hash = EventHash::of(post.event_id());
    let Some(sender) = view.user_num(post.sender()).await? else {
        return Ok(None);
    };
    for event in view.edits(hash, sender).await? {
        let Some(shown) = view.shown(&[event]).await?.pop() else {
            continue;
        };
        if shown.pdu.kind() == post.kind() {
            let mut content: Value = shown.pdu.content_as().unwrap_or_default();
            return Ok(content.get_mut("m.new_content").map(Value::take));
        }
    }
    Ok(None)
}

async fn name_of(view: &RoomView, post: &Pdu) -> Result<Option<String>, FeedError> {
    let member = view.state("m.room.member", post.sender().as_str()).await?;
    Ok(member.and_then(|event| text_in(&event, "displayname")))
}

/// A string in the content of an event, if there is more to it than blanks.
pub(crate) fn text_in(event: &Pdu, name: &str) -> Option<String> {
    string_member(event.content().get(), name).filter(|text| !text.trim().is_empty())
}
