//! The list of all rooms, and one of them in detail.

use resuni_dag::Pdu;
use resuni_store::{Direction, ScanRange};
use ruma::{OwnedRoomId, ServerName};
use serde::Serialize;

use crate::directory::DIRECTORY;
use crate::error::RoomError;
use crate::fields::{member, string_member};
use crate::rooms::Rooms;
use crate::tables::{MEMBERS, ROOM_SERVERS, ROOMS, USER_ROOMS};
use crate::types::{Membership, RoomNum, SERVER_NUMBERS, ServerNum};
use crate::view::RoomView;

/// Rooms read at a time.
const PAGE: usize = 500;
/// Former members that are looked at to find whether all of ours have forgotten a room.
const FORMER: usize = 10_000;

/// Which rooms an operator looks for.
#[derive(Debug, Clone, Default)]
pub struct RoomsQuery {
    /// In the name or the local part of the canonical alias, whatever the case, or in the id.
    pub search: Option<String>,
    /// Only published rooms, or only others.
    pub published: Option<bool>,
    /// Only rooms without members, or only others.
    pub empty: Option<bool>,
    /// In which order; those that are equal by their ids.
    pub order: RoomOrder,
    /// Whether the order is turned over.
    pub backward: bool,
    /// How many to pass over.
    pub from: usize,
    /// How many to find.
    pub limit: usize,
}

/// In which order rooms are listed, smallest first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RoomOrder {
    /// By name.
    #[default]
    Name,
    /// By canonical alias.
    Alias,
    /// By the number of members.
    Members,
    /// By the number of members who are ours.
    LocalMembers,
    /// By version.
    Version,
    /// By who made it.
    Creator,
    /// By the algorithm of its encryption.
    Encryption,
    /// By whether people of other servers may enter.
    Federatable,
    /// By whether it is published.
    Published,
    /// By how one gets in.
    JoinRules,
    /// By whether guests get in.
    GuestAccess,
    /// By who sees the history.
    HistoryVisibility,
    /// By the size of the state.
    StateEvents,
}

/// A room as operators see it.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct RoomDescription {
    /// Its id.
    pub room_id: OwnedRoomId,
    /// `m.room.name`.
    pub name: Option<String>,
    /// `m.room.canonical_alias`.
    pub canonical_alias: Option<String>,
    /// Members, here and elsewhere.
    pub joined_members: u64,
    /// Members who are ours.
    pub joined_local_members: u64,
    /// Its version.
    pub version: String,
    /// Who made it.
    pub creator: Option<String>,
    /// The algorithm of its encryption.
    pub encryption: Option<String>,
    /// Whether people of other servers may enter.
    pub federatable: bool,
    /// Whether it is published.
    pub public: bool,
    /// `m.room.join_rules`.
    pub join_rules: Option<String>,
    /// `m.room.guest_access`.
    pub guest_access: Option<String>,
    /// `m.room.history_visibility`.
    pub history_visibility: Option<String>,
    /// Events of the current state.
    pub state_events: u64,
    /// The `type` in `m.room.create`.
    pub room_type: Option<String>,
}

/// What rooms are ordered by; of each order one kind counts.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum SortKey {
    Text(Option<String>),
    Number(u64),
}

fn text(event: Option<&Pdu>, field: &str) -> Option<String> {
    string_member(event?.content().get(), field).filter(|text| !text.is_empty())
}

impl Rooms {
    /// The rooms that an operator looks for, and how many there are of them. Reads something of every room: it is for
    /// people who look, not for programs.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn list(
        &self,
        query: &RoomsQuery,
    ) -> Result<(Vec<RoomDescription>, usize), RoomError> {
        let mut found: Vec<(SortKey, OwnedRoomId, RoomNum)> = Vec::new();
        let mut range = ScanRange::all();
        loop {
            let reader = self.reader();
            let page = reader
                .snapshot
                .scan(&ROOMS, range, Direction::Forward, PAGE)
                .await?;
            let Some((last, _)) = page.last() else { break };
            range = ScanRange::after(last);
            for (num, row) in page {
                // Of rooms that we were only invited to nothing more is known.
                let Some(view) = self.view_num(num).await? else {
                    continue;
                };
                if view.is_wanted(query).await? {
                    found.push((view.sort_key(query.order).await?, row.room_id, num));
                }
            }
        }
        found.sort();
        if query.backward {
            found.reverse();
        }
        let total = found.len();
        let mut rooms = Vec::new();
        for (_, _, num) in found.into_iter().skip(query.from).take(query.limit) {
            if let Some(view) = self.view_num(num).await? {
                rooms.push(view.description().await?);
            }
        }
        Ok((rooms, total))
    }
}

impl RoomView {
    pub(super) async fn text_of(
        &self,
        kind: &str,
        field: &str,
    ) -> Result<Option<String>, RoomError> {
        Ok(text(self.state(kind, "").await?.as_ref(), field))
    }

    /// How many users of a server are joined.
    pub async fn joined_of(&self, server: &ServerName) -> Result<u64, RoomError> {
        let numbers = self.reader.store.numbers();
        let Some(num) = numbers.find(&SERVER_NUMBERS, server.as_bytes()).await? else {
            return Ok(0);
        };
        let key = (self.num(), ServerNum(num));
        Ok(self
            .snapshot()
            .get(&ROOM_SERVERS, &key)
            .await?
            .unwrap_or_default())
    }

    async fn is_published(&self) -> Result<bool, RoomError> {
        Ok(self.snapshot().contains(&DIRECTORY, &self.num()).await?)
    }

    async fn federates(&self) -> Result<bool, RoomError> {
        let create = self.state("m.room.create", "").await?;
        Ok(create.is_none_or(|create| {
            let content = create.content();
            member(content.get(), "m.federate").map(str::trim) != Some("false")
        }))
    }

    async fn is_wanted(&self, query: &RoomsQuery) -> Result<bool, RoomError> {
        if query
            .empty
            .is_some_and(|empty| empty != (self.joined_count() == 0))
        {
            return Ok(false);
        }
        if let Some(published) = query.published
            && published != self.is_published().await?
        {
            return Ok(false);
        }
        let Some(part) = query.search.as_ref().filter(|part| !part.is_empty()) else {
            return Ok(true);
        };
        if self.room_id().as_str().contains(part.as_str()) {
            return Ok(true);
        }
        let part = part.to_lowercase();
        let name = self.text_of("m.room.name", "name").await?;
        if name.is_some_and(|name| name.to_lowercase().contains(&part)) {
            return Ok(true);
        }
        let alias = self.text_of("m.room.canonical_alias", "alias").await?;
        Ok(alias.is_some_and(|alias| {
            let local = alias.split(':').next().unwrap_or_default();
            local.to_lowercase().contains(&part)
        }))
    }

    async fn sort_key(&self, order: RoomOrder) -> Result<SortKey, RoomError> {
        let (kind, field) = match order {
            RoomOrder::Name => ("m.room.name", "name"),
            RoomOrder::Alias => ("m.room.canonical_alias", "alias"),
            RoomOrder::Encryption => ("m.room.encryption", "algorithm"),
            RoomOrder::JoinRules => ("m.room.join_rules", "join_rule"),
            RoomOrder::GuestAccess => ("m.room.guest_access", "guest_access"),
            RoomOrder::HistoryVisibility => ("m.room.history_visibility", "history_visibility"),
            RoomOrder::Members => return Ok(SortKey::Number(self.joined_count())),
            RoomOrder::LocalMembers => {
                let ours = self.joined_of(self.server_name()).await?;
                return Ok(SortKey::Number(ours));
            }
            RoomOrder::Version => return Ok(SortKey::Text(Some(self.version().to_owned()))),
            RoomOrder::Creator => {
                let create = self.state("m.room.create", "").await?;
                return Ok(SortKey::Text(
                    create.map(|create| create.sender().to_string()),
                ));
            }
            RoomOrder::Federatable => return Ok(SortKey::Number(self.federates().await?.into())),
            RoomOrder::Published => return Ok(SortKey::Number(self.is_published().await?.into())),
            RoomOrder::StateEvents => return Ok(SortKey::Number(self.state_count().await?)),
        };
        Ok(SortKey::Text(self.text_of(kind, field).await?))
    }

    async fn state_count(&self) -> Result<u64, RoomError> {
        self.state_at_snap(self.snap()).count().await
    }

    /// The room as operators see it.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn description(&self) -> Result<RoomDescription, RoomError> {
        let create = self.state("m.room.create", "").await?;
        Ok(RoomDescription {
            room_id: self.room_id().to_owned(),
            name: self.text_of("m.room.name", "name").await?,
            canonical_alias: self.text_of("m.room.canonical_alias", "alias").await?,
            joined_members: self.joined_count(),
            joined_local_members: self.joined_of(self.server_name()).await?,
            version: self.version().to_owned(),
            creator: create.as_ref().map(|create| create.sender().to_string()),
            encryption: self.text_of("m.room.encryption", "algorithm").await?,
            federatable: self.federates().await?,
            public: self.is_published().await?,
            join_rules: self.text_of("m.room.join_rules", "join_rule").await?,
            guest_access: self.text_of("m.room.guest_access", "guest_access").await?,
            history_visibility: self
                .text_of("m.room.history_visibility", "history_visibility")
                .await?,
            state_events: self.state_count().await?,
            room_type: text(create.as_ref(), "type"),
        })
    }

    /// Whether all of our users have left the room and forgotten it; of a very large room's former members only some
    /// are asked.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn is_forgotten(&self) -> Result<bool, RoomError> {
        if self.joined_of(self.server_name()).await? > 0 {
            return Ok(false);
        }
        for membership in [Membership::Invite, Membership::Leave, Membership::Ban] {
            let range = ScanRange::prefix(&(self.num(), membership));
            let rows = self
                .snapshot()
                .scan(&MEMBERS, range, Direction::Forward, FORMER)
                .await?;
            for ((_, _, user), _) in rows {
                let id = self.user_id(user).await?;
                if id.server_name() != self.server_name() {
                    continue;
                }
                let key = (user, self.num());
                let row = self.snapshot().get(&USER_ROOMS, &key).await?;
                if row.is_some_and(|row| !row.forgotten) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}
