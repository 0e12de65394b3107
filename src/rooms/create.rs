//! `createRoom`: all the events of a new room in one batch, so that a room is there whole or not at all.

use resuni_dag::RoomRules;
use resuni_store::Batch;
use ruma::{OwnedRoomAliasId, OwnedRoomId, RoomAliasId, RoomId, RoomVersionId, UserId};
use serde_json::{Map, Value};

use crate::aliases::put_alias;
use crate::create_content::{CreateRefusal, CreateRoom, StateDraft};
use crate::directory::DIRECTORY;
use crate::error::RoomError;
use crate::events::NewEvent;
use crate::rooms::Rooms;

/// How often a room id that is taken is replaced: in version 12 by one of a millisecond later.
const ATTEMPTS: u64 = 16;
/// The most people that one creation invites, and the most state that it sets.
const MAX_LIST: usize = 1_000;

impl From<CreateRefusal> for RoomError {
    fn from(refusal: CreateRefusal) -> Self {
        let errcode = match refusal {
            CreateRefusal::CreatorInPowerLevels(_) => "M_INVALID_ROOM_STATE",
            CreateRefusal::AdditionalCreators(_) | CreateRefusal::PowerLevelUsers => "M_BAD_JSON",
        };
        Self::bad(errcode, refusal.to_string())
    }
}

impl Rooms {
    /// Creates a room. People of other servers in `invite` are left for the caller to invite through their servers.
    ///
    /// # Errors
    /// [`RoomError::UnsupportedVersion`]; [`RoomError::InUse`] when the alias is taken (`M_ROOM_IN_USE`);
    /// `M_INVALID_ROOM_STATE` when the auth rules refuse one of the events that were asked for.
    pub async fn create(
        &self,
        creator: &UserId,
        request: CreateRoom,
    ) -> Result<OwnedRoomId, RoomError> {
        let version = match &request.room_version {
            Some(version) => RoomVersionId::try_from(version.as_str())
                .map_err(|_| RoomError::UnsupportedVersion(version.clone()))?,
            None => self.default_version().clone(),
        };
        let rules = RoomRules::of(&version)
            .ok_or_else(|| RoomError::UnsupportedVersion(version.to_string()))?;
        if request.invite.len() > MAX_LIST || request.initial_state.len() > MAX_LIST {
            return Err(RoomError::bad(
                "M_INVALID_PARAM",
                format!("no more than {MAX_LIST} invites and state events"),
            ));
        }
        for target in &request.invite {
            self.bans().may_invite(creator, target, None)?;
        }
        let alias = self.alias_of(&request)?;
        let content = request.create_content(creator, rules)?;
        let alias_text = alias.as_ref().map(|alias| alias.as_str());
        let state = request.state_after_create(creator, alias_text, self.server_name(), rules)?;
        let mut events = Vec::with_capacity(state.len());
        for draft in state {
            events.push((creator.to_owned(), event_of(draft)?));
        }
        let now = self.now_ms();
        for attempt in 0..ATTEMPTS {
            let create = NewEvent {
                timestamp: Some(now + attempt),
                ..NewEvent::state("m.room.create", "", raw(&content)?)
            };
            if let Some(alias) = &alias {
                self.check_alias_is_free(alias).await?;
            }
            let room_id =
                (!rules.room_id_is_create_hash()).then(|| RoomId::new_v1(self.server_name()));
            let more = |batch: &mut Batch, room: &RoomId, num| {
                if let Some(alias) = &alias {
                    put_alias(batch, alias, room, num, creator);
                }
                if request.published {
                    batch.put(&DIRECTORY, &num, &());
                }
            };
            match self
                .found_with(&version, room_id, creator, create, events.clone(), more)
                .await
            {
                // Somebody took the room id, or the alias: the next attempt tells which.
                Err(RoomError::Contended | RoomError::InUse(_)) => {}
                Err(RoomError::Forbidden(reason)) => {
                    return Err(RoomError::bad("M_INVALID_ROOM_STATE", reason));
                }
                Err(error) => return Err(error),
                Ok(room) => {
                    self.directory.forget();
                    return Ok(room);
                }
            }
        }
        Err(RoomError::Contended)
    }

    fn alias_of(&self, request: &CreateRoom) -> Result<Option<OwnedRoomAliasId>, RoomError> {
        let Some(name) = &request.room_alias_name else {
            return Ok(None);
        };
        let invalid = || {
            RoomError::bad(
                "M_INVALID_PARAM",
                format!("{name:?} can't be the local part of a room alias"),
            )
        };
        if name.is_empty() || name.contains([':', '\0']) || name.chars().any(char::is_whitespace) {
            return Err(invalid());
        }
        RoomAliasId::parse(format!("#{name}:{}", self.server_name()))
            .map(Some)
            .map_err(|_| invalid())
    }
}

fn event_of(draft: StateDraft) -> Result<NewEvent, RoomError> {
    Ok(NewEvent::state(
        draft.kind,
        draft.state_key,
        raw(&draft.content)?,
    ))
}

fn raw(content: &Map<String, Value>) -> Result<Box<serde_json::value::RawValue>, RoomError> {
    serde_json::value::to_raw_value(content)
        .map_err(|error| RoomError::bad("M_BAD_JSON", error.to_string()))
}
