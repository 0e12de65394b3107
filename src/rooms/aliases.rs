//! Room aliases of this server: names that point at rooms.
//!
//! Spec: client-server API, "Room aliases". An alias lives on the server in its name and nowhere else;
//! aliases of other servers are asked for over federation.

use resuni_store::{Batch, CommitError, Direction, ScanRange, Table, TableInfo, versioned};
use ruma::{
    OwnedRoomAliasId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomAliasId, RoomId, UserId,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::error::RoomError;
use crate::events::NewEvent;
use crate::rooms::Rooms;
use crate::types::{Membership, ROOM_NUMBERS, RoomNum};
use crate::view::RoomView;

/// Aliases of this server.
pub static ALIASES: Table<String, AliasRow> = Table::new(0x0240, "aliases");
/// The same by room.
pub static ROOM_ALIASES: Table<(RoomNum, String), ()> = Table::new(0x0241, "aliases of rooms");

/// The tables of this file.
pub const TABLES: &[TableInfo] = &[ALIASES.info(), ROOM_ALIASES.info()];

/// A row of [`ALIASES`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasRow {
    /// The room it points at.
    pub room_id: OwnedRoomId,
    /// Who made it.
    pub creator: OwnedUserId,
}
versioned!(AliasRow, 1);

/// How many servers are named as a way into a room.
pub const MAX_VIA: usize = 20;
/// How many aliases a room may have on this server.
pub const MAX_ALIASES: usize = 500;

/// The content of `m.room.canonical_alias`.
#[derive(Debug, Default, Deserialize)]
struct CanonicalAlias {
    alias: Option<String>,
    #[serde(default)]
    alt_aliases: Vec<String>,
}

impl CanonicalAlias {
    fn names(self) -> impl Iterator<Item = String> {
        self.alias
            .into_iter()
            .filter(|alias| !alias.is_empty())
            .chain(self.alt_aliases)
    }
}

impl Rooms {
    /// The room that a local alias points at, and servers that are in it (ours first).
    pub async fn resolve_alias(
        &self,
        alias: &RoomAliasId,
    ) -> Result<Option<(OwnedRoomId, Vec<OwnedServerName>)>, RoomError> {
        let Some(row) = self
            .store()
            .snapshot()
            .get(&ALIASES, &alias.to_string())
            .await?
        else {
            return Ok(None);
        };
        let ours = self.server_name().to_owned();
        let mut servers = vec![ours.clone()];
        if let Some(view) = self.view(&row.room_id).await? {
            servers.extend(
                view.servers(MAX_VIA)
                    .await?
                    .into_iter()
                    .filter(|server| *server != ours),
            );
        }
        Ok(Some((row.room_id, servers)))
    }

    /// Makes a local alias for a room that this server knows. [`RoomError::InUse`] if there is one of this name.
    pub async fn create_alias(
        &self,
        alias: &RoomAliasId,
        room: &RoomId,
        creator: &UserId,
    ) -> Result<(), RoomError> {
        let view = self
            .view(room)
            .await?
            .ok_or_else(|| RoomError::UnknownRoom(room.to_owned()))?;
        if !view.joined(creator).await? {
            return Err(RoomError::Forbidden(
                "only who is in the room can make an alias for it".into(),
            ));
        }
        if view.aliases().await?.len() >= MAX_ALIASES {
            return Err(RoomError::Forbidden(format!(
                "a room can have no more than {MAX_ALIASES} aliases"
            )));
        }
        self.check_alias_is_free(alias).await?;
        let mut batch = Batch::new();
        put_alias(&mut batch, alias, room, view.num(), creator);
        match self.store().commit_durable(batch).await {
            Err(CommitError::Guard { .. }) => Err(in_use(alias)),
            other => Ok(other?),
        }
    }

    /// Whether a local alias of this name can be made.
    pub(crate) async fn check_alias_is_free(&self, alias: &RoomAliasId) -> Result<(), RoomError> {
        self.check_local(alias)?;
        if self
            .store()
            .snapshot()
            .contains(&ALIASES, &alias.to_string())
            .await?
        {
            return Err(in_use(alias));
        }
        Ok(())
    }

    /// Deletes a local alias. Its creator may, a server administrator, and whoever may set the canonical alias of
    /// its room. The canonical alias event is taken care of too when the user may change it.
    pub async fn delete_alias(
        &self,
        alias: &RoomAliasId,
        user: &UserId,
        is_admin: bool,
    ) -> Result<(), RoomError> {
        self.check_local(alias)?;
        let key = alias.to_string();
        let row = self.store().snapshot().get(&ALIASES, &key).await?;
        let row =
            row.ok_or_else(|| RoomError::NotFound(format!("there is no room alias {alias}")))?;
        let view = self.view(&row.room_id).await?;
        let may = is_admin
            || row.creator == *user
            || match &view {
                Some(view) => view.may_send_state(user, "m.room.canonical_alias").await?,
                None => false,
            };
        if !may {
            return Err(RoomError::Forbidden(format!(
                "you may not delete the alias {alias}"
            )));
        }
        let mut batch = Batch::new();
        batch.guard_equals(&ALIASES, &key, &row);
        batch.delete(&ALIASES, &key);
        let num = self
            .store()
            .numbers()
            .find(&ROOM_NUMBERS, row.room_id.as_bytes())
            .await?;
        if let Some(num) = num {
            batch.delete(&ROOM_ALIASES, &(RoomNum(num), key));
        }
        match self.store().commit_durable(batch).await {
            Err(CommitError::Guard { .. }) => {
                return Err(RoomError::NotFound(format!(
                    "there is no room alias {alias}"
                )));
            }
            other => other?,
        }
        if let Some(view) = view {
            self.drop_from_canonical_alias(&view, alias, user).await?;
        }
        Ok(())
    }

    /// "Servers may choose to update the `alt_aliases` …": the deletion stands even when the user may not change the
    /// event.
    async fn drop_from_canonical_alias(
        &self,
        view: &RoomView,
        alias: &RoomAliasId,
        user: &UserId,
    ) -> Result<(), RoomError> {
        let Some(event) = view.state("m.room.canonical_alias", "").await? else {
            return Ok(());
        };
        let Ok(mut content) = event.content_as::<serde_json::Map<String, serde_json::Value>>()
        else {
            return Ok(());
        };
        let before = content.clone();
        if content.get("alias").and_then(|value| value.as_str()) == Some(alias.as_str()) {
            content.remove("alias");
        }
        if let Some(serde_json::Value::Array(others)) = content.get_mut("alt_aliases") {
            others.retain(|other| other.as_str() != Some(alias.as_str()));
            if others.is_empty() {
                content.remove("alt_aliases");
            }
        }
        if content == before {
            return Ok(());
        }
        let content = serde_json::value::to_raw_value(&content)
            .map_err(|e| RoomError::Inconsistent(e.to_string()))?;
        match self
            .send(
                view.room_id(),
                user,
                NewEvent::state("m.room.canonical_alias", "", content),
                None,
            )
            .await
        {
            Ok(_) | Err(RoomError::Forbidden(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether the aliases that a new `m.room.canonical_alias` adds are well formed and point at the room
    /// (`PUT …/state/m.room.canonical_alias`: `M_INVALID_PARAM`, `M_BAD_ALIAS`). Local ones are checked here; those of
    /// other servers are the answer, for the caller to ask about.
    pub async fn check_canonical_alias(
        &self,
        room: &RoomId,
        content: &RawValue,
    ) -> Result<Vec<OwnedRoomAliasId>, RoomError> {
        let content: CanonicalAlias = serde_json::from_str(content.get()).map_err(|_| {
            RoomError::bad(
                "M_BAD_JSON",
                "alias must be a string and alt_aliases a list of strings",
            )
        })?;
        let view = self
            .view(room)
            .await?
            .ok_or_else(|| RoomError::UnknownRoom(room.to_owned()))?;
        let known: Vec<String> = match view.state("m.room.canonical_alias", "").await? {
            Some(event) => event
                .content_as::<CanonicalAlias>()
                .unwrap_or_default()
                .names()
                .collect(),
            None => Vec::new(),
        };
        let snapshot = self.store().snapshot();
        let mut remote = Vec::new();
        for name in content.names().filter(|name| !known.contains(name)) {
            let alias = RoomAliasId::parse(&name).map_err(|_| {
                RoomError::bad("M_INVALID_PARAM", format!("{name} is not a room alias"))
            })?;
            if alias.server_name() != self.server_name() {
                remote.push(alias);
                continue;
            }
            match snapshot.get(&ALIASES, &name).await? {
                Some(row) if row.room_id == *room => {}
                Some(_) => {
                    return Err(RoomError::bad(
                        "M_BAD_ALIAS",
                        format!("{name} points at another room"),
                    ));
                }
                None => {
                    return Err(RoomError::bad(
                        "M_BAD_ALIAS",
                        format!("{name} does not exist"),
                    ));
                }
            }
        }
        Ok(remote)
    }

    /// The local aliases of a room, for someone who may see them: members, and anybody where the room is readable by
    /// the world (`GET /rooms/{roomId}/aliases`).
    pub async fn aliases_for(
        &self,
        room: &RoomId,
        user: &UserId,
    ) -> Result<Vec<String>, RoomError> {
        let view = self
            .view(room)
            .await?
            .ok_or_else(|| RoomError::UnknownRoom(room.to_owned()))?;
        if view.member(user).await? != Some(Membership::Join) && !view.world_readable().await? {
            return Err(RoomError::Forbidden("you are not in this room".into()));
        }
        view.aliases().await
    }

    fn check_local(&self, alias: &RoomAliasId) -> Result<(), RoomError> {
        if alias.server_name() != self.server_name() {
            return Err(RoomError::bad(
                "M_INVALID_PARAM",
                format!("{alias} is an alias of another server"),
            ));
        }
        if alias.as_str().len() > resuni_dag::limits::ID_BYTES {
            return Err(RoomError::bad("M_INVALID_PARAM", "the alias is too long"));
        }
        Ok(())
    }
}

impl RoomView {
    /// The aliases that this server has for the room.
    pub async fn aliases(&self) -> Result<Vec<String>, RoomError> {
        let rows = self
            .snapshot()
            .scan(
                &ROOM_ALIASES,
                ScanRange::prefix(&self.num()),
                Direction::Forward,
                MAX_ALIASES,
            )
            .await?;
        Ok(rows.into_iter().map(|((_, alias), ())| alias).collect())
    }
}

/// The rows of a new alias, guarded on there being none of its name.
pub(crate) fn put_alias(
    batch: &mut Batch,
    alias: &RoomAliasId,
    room: &RoomId,
    num: RoomNum,
    creator: &UserId,
) {
    let key = alias.to_string();
    batch.guard_absent(&ALIASES, &key);
    batch.put(
        &ALIASES,
        &key,
        &AliasRow {
            room_id: room.to_owned(),
            creator: creator.to_owned(),
        },
    );
    batch.put(&ROOM_ALIASES, &(num, key), &());
}

fn in_use(alias: &RoomAliasId) -> RoomError {
    RoomError::InUse(format!("the room alias {alias} is taken"))
}
