//! The published room directory of this server.
//!
//! Spec: client-server API, "Published room directory". The order is the server's (v1.19): the rooms
//! with most members first. It is kept for a few seconds, so that turning pages costs a page and not
//! the directory; names are read for the rooms of a page only.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use resuni_store::{Batch, Direction, ScanRange, Table, TableInfo};
use ruma::{OwnedRoomId, RoomId, UserId};
use serde::{Deserialize, Serialize};

use crate::error::RoomError;
use crate::rooms::Rooms;
use crate::tables::HEAD;
use crate::types::{Membership, RoomNum};
use crate::view::RoomView;

/// The published rooms.
pub static DIRECTORY: Table<RoomNum, ()> = Table::new(0x0242, "directory");

/// The rooms that application services publish, by the instance id of their network.
pub static NETWORKS: Table<(String, RoomNum), ()> = Table::new(0x0246, "directories of networks");

/// The tables of this file.
pub const TABLES: &[TableInfo] = &[DIRECTORY.info(), NETWORKS.info()];

/// The most rooms of a page.
pub const MAX_PAGE: usize = 500;
/// How many rooms one search reads before it answers with what it found and a token to go on.
const SEARCH_BUDGET: usize = 2_000;
/// How long the order is kept, in milliseconds.
const ORDER_MS: u64 = 5_000;
/// The most rooms that are listed.
const MAX_PUBLISHED: usize = 100_000;

/// A room as the directory, the room summary and the space hierarchy show it (`PublishedRoomsChunk`).
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct RoomSummary {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Joined members.
    pub num_joined_members: u64,
    /// Whether it can be read without joining.
    pub world_readable: bool,
    /// Whether guests may join.
    pub guest_can_join: bool,
    /// `m.room.name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The plain text of `m.room.topic`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// `m.room.avatar`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
    /// `m.room.canonical_alias`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canonical_alias: Option<String>,
    /// `m.room.join_rules`; `invite` where there is none. A server that leaves it out means `public`.
    #[serde(default = "public")]
    pub join_rule: String,
    /// The `type` in `m.room.create`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_type: Option<String>,
}

fn public() -> String {
    "public".to_owned()
}

/// Whose directories are asked for (spec: `include_all_networks`, `third_party_instance_id`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Networks {
    /// The one that people publish rooms in.
    #[default]
    Own,
    /// That of the bridged network of this instance id.
    Bridged(String),
    /// All of them.
    All,
}

/// What of the directory is asked for.
#[derive(Debug, Clone, Default)]
pub struct DirectoryQuery {
    /// The most rooms to answer with.
    pub limit: Option<usize>,
    /// A token of an earlier page.
    pub since: Option<String>,
    /// To be found in name, topic or canonical alias, whatever the case.
    pub search: Option<String>,
    /// Only rooms of these types; `None` in the list stands for rooms without one.
    pub room_types: Option<Vec<Option<String>>>,
    /// Whose rooms.
    pub networks: Networks,
}

/// A page of the directory.
#[derive(Debug, Clone, Serialize)]
pub struct DirectoryPage {
    /// The rooms.
    pub chunk: Vec<RoomSummary>,
    /// Where the next page begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_batch: Option<String>,
    /// Where the page before begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_batch: Option<String>,
    /// How many rooms are published.
    pub total_room_count_estimate: usize,
}

/// The order of the directory, kept for a moment.
#[derive(Debug, Default)]
pub struct DirectoryOrder(Mutex<Option<(u64, Arc<Vec<RoomNum>>)>>);

impl Rooms {
    /// Publishes a room or takes it out of the directory. For server administrators, and for joined users who may set
    /// the room's canonical alias.
    pub async fn publish(
        &self,
        room: &RoomId,
        user: &UserId,
        is_admin: bool,
        published: bool,
    ) -> Result<(), RoomError> {
        let view = self
            .view(room)
            .await?
            .ok_or_else(|| RoomError::UnknownRoom(room.to_owned()))?;
        let may = is_admin
            || view.member(user).await? == Some(Membership::Join)
                && view.may_send_state(user, "m.room.canonical_alias").await?;
        if !may {
            return Err(RoomError::Forbidden(
                "you may not change whether this room is published".into(),
            ));
        }
        let mut batch = Batch::new();
        if published {
            batch.put(&DIRECTORY, &view.num(), &());
        } else {
            batch.delete(&DIRECTORY, &view.num());
        }
        self.store().commit_durable(batch).await?;
        self.directory.forget();
        Ok(())
    }

    /// Publishes a room in the directory of a bridged network, or takes it out there (Application Service API,
    /// "Published room directories"). `instance` is unique among all services.
    pub async fn publish_bridged(
        &self,
        instance: &str,
        room: &RoomId,
        published: bool,
    ) -> Result<(), RoomError> {
        let view = self
            .view(room)
            .await?
            .ok_or_else(|| RoomError::UnknownRoom(room.to_owned()))?;
        let key = (instance.to_owned(), view.num());
        let mut batch = Batch::new();
        if published {
            batch.put(&NETWORKS, &key, &());
        } else {
            batch.delete(&NETWORKS, &key);
        }
        Ok(self.store().commit_durable(batch).await?)
    }

    /// Whether the room is published.
    pub async fn is_published(&self, room: &RoomId) -> Result<bool, RoomError> {
        let view = self
            .view(room)
            .await?
            .ok_or_else(|| RoomError::UnknownRoom(room.to_owned()))?;
        Ok(view
            .snapshot()
            .get(&DIRECTORY, &view.num())
            .await?
            .is_some())
    }

    /// A page of the directory.
    pub async fn public_rooms(&self, query: &DirectoryQuery) -> Result<DirectoryPage, RoomError> {
        let order = match &query.networks {
            Networks::Own => self.order().await?,
            networks => Arc::new(self.order_of(networks).await?),
        };
        let limit = query.limit.unwrap_or(100).clamp(1, MAX_PAGE);
        let (backward, start) = parse_token(query.since.as_deref())?;
        let start = start.min(order.len());
        let search = query
            .search
            .as_ref()
            .map(|term| term.to_lowercase())
            .filter(|term| !term.is_empty());
        let mut chunk = Vec::new();
        let (mut low, mut high) = (start, start);
        while chunk.len() < limit && high - low < SEARCH_BUDGET {
            let at = if backward {
                low.checked_sub(1)
            } else {
                Some(high).filter(|at| *at < order.len())
            };
            let Some(at) = at else { break };
            (low, high) = if backward { (at, high) } else { (low, at + 1) };
            let Some(room) = order.get(at) else { break };
            let Some(view) = self.view_num(*room).await? else {
                continue;
            };
            let summary = view.summary().await?;
            if summary.matches(search.as_deref(), query.room_types.as_deref()) {
                chunk.push(summary);
            }
        }
        if backward {
            chunk.reverse();
        }
        Ok(DirectoryPage {
            chunk,
            next_batch: (high < order.len()).then(|| format!("n{high}")),
            prev_batch: (low > 0).then(|| format!("p{low}")),
            total_room_count_estimate: order.len(),
        })
    }

    /// The published rooms that we are in, largest first.
    async fn order(&self) -> Result<Arc<Vec<RoomNum>>, RoomError> {
        let now = self.now_ms();
        if let Some((made, order)) = &*self.directory.0.lock()
            && now < made.saturating_add(ORDER_MS)
        {
            return Ok(order.clone());
        }
        let order = Arc::new(self.order_of(&Networks::Own).await?);
        *self.directory.0.lock() = Some((now, order.clone()));
        Ok(order)
    }

    /// The rooms of these directories, largest first.
    async fn order_of(&self, networks: &Networks) -> Result<Vec<RoomNum>, RoomError> {
        let snapshot = self.store().snapshot();
        let mut rooms: BTreeSet<RoomNum> = BTreeSet::new();
        if !matches!(networks, Networks::Bridged(_)) {
            let all = ScanRange::all();
            let rows = snapshot
                .scan(&DIRECTORY, all, Direction::Forward, MAX_PUBLISHED)
                .await?;
            rooms.extend(rows.into_iter().map(|(room, ())| room));
        }
        let range = match networks {
            Networks::Own => None,
            Networks::Bridged(instance) => Some(ScanRange::prefix(instance)),
            Networks::All => Some(ScanRange::all()),
        };
        if let Some(range) = range {
            let rows = snapshot
                .scan(&NETWORKS, range, Direction::Forward, MAX_PUBLISHED)
                .await?;
            rooms.extend(rows.into_iter().map(|((_, room), ())| room));
        }
        let rooms: Vec<RoomNum> = rooms.into_iter().collect();
        let heads = snapshot.get_many(&HEAD, &rooms).await?;
        let mut sized: Vec<(u64, RoomNum)> = rooms
            .into_iter()
            .zip(heads)
            .filter_map(|(room, head)| Some((head?.joined, room)))
            .filter(|(n, _)| *n > 0)
            .collect();
        sized.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        Ok(sized.into_iter().map(|(_, room)| room).collect())
    }
}

impl DirectoryOrder {
    /// What is published has changed.
    pub(crate) fn forget(&self) {
        self.0.lock().take();
    }
}

impl RoomSummary {
    fn matches(&self, search: Option<&str>, types: Option<&[Option<String>]>) -> bool {
        let type_fits = types.is_none_or(|types| types.contains(&self.room_type));
        let fields = [&self.name, &self.topic, &self.canonical_alias];
        let text_fits = search.is_none_or(|term| {
            fields
                .into_iter()
                .flatten()
                .any(|field| field.to_lowercase().contains(term))
        });
        type_fits && text_fits
    }
}

impl RoomView {
    /// The room in brief.
    pub async fn summary(&self) -> Result<RoomSummary, RoomError> {
        let keys = [
            "m.room.name",
            "m.room.topic",
            "m.room.avatar",
            "m.room.canonical_alias",
            "m.room.join_rules",
            "m.room.history_visibility",
            "m.room.guest_access",
            "m.room.create",
        ]
        .map(|kind| (kind, ""));
        let state = self.states(&keys).await?;
        let text = |at: usize, field: &str| {
            let event = state.get(at)?.as_ref()?;
            crate::fields::string_member(event.content().get(), field)
                .filter(|text| !text.is_empty())
        };
        Ok(RoomSummary {
            room_id: self.room_id().to_owned(),
            num_joined_members: self.joined_count(),
            name: text(0, "name"),
            topic: text(1, "topic"),
            avatar_url: text(2, "url"),
            canonical_alias: text(3, "alias"),
            join_rule: text(4, "join_rule").unwrap_or_else(|| "invite".into()),
            world_readable: text(5, "history_visibility").as_deref() == Some("world_readable"),
            guest_can_join: text(6, "guest_access").as_deref() == Some("can_join"),
            room_type: text(7, "type"),
        })
    }
}

/// `n{i}`: forward from there; `p{i}`: what comes before it.
fn parse_token(token: Option<&str>) -> Result<(bool, usize), RoomError> {
    let Some(token) = token.filter(|token| !token.is_empty()) else {
        return Ok((false, 0));
    };
    let place = |text: &str| text.parse().ok();
    match (
        token.strip_prefix('n').and_then(place),
        token.strip_prefix('p').and_then(place),
    ) {
        (Some(at), _) => Ok((false, at)),
        (_, Some(at)) => Ok((true, at)),
        _ => Err(RoomError::bad(
            "M_INVALID_PARAM",
            "since is not a token of this directory",
        )),
    }
}
