//! `upgrade`: a room goes on as another one, of another version.
//!
//! The old room's lane is held from the first look at it to its last event, so that what is taken along is what it ends
//! with. Its last events are written after the new room is there: a crash in between leaves a new room that nobody
//! knows, and the old one as it was.

use std::collections::BTreeSet;

use resuni_dag::{Pdu, RoomRules, creators};
use resuni_store::Batch;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::{Map, Value, json};

use crate::{
    aliases::{ALIASES, AliasRow, ROOM_ALIASES},
    create_content::{CreateRoom, MemberProfile, StateDraft},
    directory::DIRECTORY,
    error::RoomError,
    events::NewEvent,
    line::Line,
    partial::WholeRoom,
    rooms::{Rooms, rules_of},
    send::again,
    types::{Membership, RoomNum},
    upgrade_content::{self as content, Owners},
    view::RoomView,
};

/// The most bans, and the most rooms of a space, that are taken along.
const MAX_TAKEN: usize = 1_000;

/// The request of `upgrade`.
#[derive(Debug, Clone)]
pub struct UpgradeRoom {
    /// The version of the new room.
    pub version: String,
    /// Its further creators, where the version has them. Those of the old room are not, unless they are named.
    pub additional_creators: Vec<OwnedUserId>,
    /// The profile of who upgrades, for their join.
    pub profile: MemberProfile,
}

impl Rooms {
    /// Replaces a room by a new one: state that may be is taken along, local aliases and the place in the directory move,
    /// and the old room ends with a tombstone.
    ///
    /// # Errors
    /// [`RoomError::UnsupportedVersion`]; [`RoomError::Forbidden`] to who may not send the tombstone.
    pub async fn upgrade(
        &self,
        room: &RoomId,
        user: &UserId,
        request: &UpgradeRoom,
    ) -> Result<OwnedRoomId, RoomError> {
        let rules = rules_of(&request.version)?;
        let room: OwnedRoomId = room.to_owned();
        // Who is banned is taken along: all members must be here. Waited for before the lane, where they arrive.
        self.whole(&room).await?;
        let mut lane = self.lanes.enter(&room).await;
        let line = Line::open(self, &mut lane, &room).await?;
        let mut old = line
            .filter(|line| line.live.head.is_some())
            .ok_or_else(|| RoomError::UnknownRoom(room.clone()))?;
        let view = self.view_known(&room).await?.into_whole();
        let view = view.ok_or(RoomError::Contended)?;
        let plan = self.plan_upgrade(&view, user, request, rules).await?;

        let now = self.now_ms();
        let create = |event: Option<&str>| -> Result<NewEvent, RoomError> {
            let mut create = plan.request.clone();
            create.creation_content = plan.creation(&room, event, request);
            let content = create.create_content(user, rules)?;
            Ok(NewEvent {
                timestamp: Some(now),
                ..NewEvent::state("m.room.create", "", raw(&content)?)
            })
        };
        // In version 12 the new room's id is made of the create event, which so can't name an event that names the id.
        let new_room = match rules.room_id_is_create_hash() {
            true => self.room_id_of(rules, user, create(None)?).await?,
            false => RoomId::new_v1(self.server_name()),
        };
        let tombstone = raw(&object(json!({
            "body": "This room has been replaced",
            "replacement_room": new_room,
        })))?;
        let tombstone = NewEvent::state("m.room.tombstone", "", tombstone);
        let tombstone_id = old.say(user, tombstone, None).await?;
        let tombstone = old.said.last().map(|said| said.event.pdu.clone());
        self.close(&mut old, user, &plan).await?;

        let create = match rules.room_id_is_create_hash() {
            true => create(None)?,
            false => create(Some(tombstone_id.as_str()))?,
        };
        let events = plan.events(user)?;
        let moved = self.moved_names(&view).await?;
        let also = |batch: &mut Batch, id: &RoomId, num: RoomNum| moved.put(batch, id, num);
        let id = (!rules.room_id_is_create_hash()).then_some(new_room);
        let new_room = self
            .found_with(&rules.version, id, user, create, events, also)
            .await?;
        // From here on there is no way back: aliases lead to the new room, and it names the old one's last event.
        match (old.finish(lane).await, tombstone) {
            (Ok(finished), _) => drop(finished.durable().await?),
            (Err(RoomError::Contended), Some(tombstone)) => {
                again(|| self.end(&room, user, &plan, &tombstone)).await?;
            }
            (Err(error), _) => return Err(error),
        }
        self.directory.forget();
        Ok(new_room)
    }

    /// Lays the old room's last events once more, after its lane was found to be behind the store.
    async fn end(
        &self,
        room: &OwnedRoomId,
        user: &UserId,
        plan: &Plan,
        tombstone: &Pdu,
    ) -> Result<(), RoomError> {
        let mut lane = self.lanes.enter(room).await;
        let line = Line::open(self, &mut lane, room).await?;
        let mut old = line.ok_or_else(|| RoomError::UnknownRoom(room.clone()))?;
        old.say_prepared(tombstone.clone(), None).await?;
        self.close(&mut old, user, plan).await?;
        old.finish(lane).await?.durable().await?;
        Ok(())
    }

    /// Aliases that lead elsewhere now are no longer the old room's, and nobody who has no particular power may speak in
    /// it: both as far as who upgrades it may say so.
    async fn close(&self, old: &mut Line<'_>, user: &UserId, plan: &Plan) -> Result<(), RoomError> {
        let levels = plan.old_levels.as_ref().and_then(content::closed);
        let last = [
            ("m.room.canonical_alias", plan.old_aliases.clone()),
            ("m.room.power_levels", levels),
        ];
        for (kind, content) in last {
            let Some(content) = content else { continue };
            let event = NewEvent::state(kind, "", raw(&content)?);
            match old.say(user, event, None).await {
                // "If possible, …"
                Ok(_) | Err(RoomError::Forbidden(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn plan_upgrade(
        &self,
        view: &WholeRoom,
        user: &UserId,
        request: &UpgradeRoom,
        rules: &'static RoomRules,
    ) -> Result<Plan, RoomError> {
        let create = view.state("m.room.create", "").await?;
        let create = create.ok_or_else(|| {
            RoomError::Inconsistent(format!("{} has no create event", view.room_id()))
        })?;
        let before = match view.rules().creators_are_privileged() {
            true => {
                creators(&create, view.rules()).map_err(|error| RoomError::Inconsistent(error.0))?
            }
            false => BTreeSet::new(),
        };
        let owners = Owners {
            upgrader: user,
            additional: &request.additional_creators,
            before,
        };
        let old_create: Map<String, Value> = create.content_as().unwrap_or_default();
        let levels = view.state("m.room.power_levels", "").await?;
        let old_levels: Option<Map<String, Value>> =
            levels.and_then(|levels| levels.content_as().ok());
        let mut state = Vec::new();
        for kind in content::TRANSFERRED {
            if let Some(event) = view.state(kind, "").await? {
                state.push(StateDraft {
                    kind: (*kind).to_owned(),
                    state_key: String::new(),
                    content: event.content_as().unwrap_or_default(),
                });
            }
        }
        state.extend(self.banned(view).await?);
        if old_create.get("type").is_some_and(|kind| kind == "m.space") {
            state.extend(children(view).await?);
        }
        let (new_aliases, old_aliases) = canonical_aliases(view).await?;
        state.extend(new_aliases.map(|content| StateDraft {
            kind: "m.room.canonical_alias".to_owned(),
            state_key: String::new(),
            content,
        }));
        Ok(Plan {
            new_levels: old_levels
                .as_ref()
                .map(|old| content::levels(old, &owners, rules)),
            old_create,
            old_levels,
            old_aliases,
            state,
            additional: rules.additional_creators(),
            request: CreateRoom {
                room_version: Some(request.version.clone()),
                ..CreateRoom::default()
            },
            profile: request.profile.clone(),
        })
    }

    /// Bans go along, since nobody has to be impersonated for them.
    async fn banned(&self, view: &WholeRoom) -> Result<Vec<StateDraft>, RoomError> {
        let mut banned = view.member_events(&[Membership::Ban]).await?;
        banned.truncate(MAX_TAKEN);
        Ok(banned.iter().filter_map(draft_of).collect())
    }

    async fn moved_names(&self, view: &RoomView) -> Result<Moved, RoomError> {
        let mut aliases = Vec::new();
        for alias in view.aliases().await? {
            let row = view.snapshot().get(&ALIASES, &alias).await?;
            aliases.extend(row.map(|row| (alias, row)));
        }
        Ok(Moved {
            from: view.num(),
            aliases,
            published: view.snapshot().contains(&DIRECTORY, &view.num()).await?,
        })
    }
}

/// What becomes of a room.
struct Plan {
    old_create: Map<String, Value>,
    old_levels: Option<Map<String, Value>>,
    /// What the old room still calls itself, if that changes.
    old_aliases: Option<Map<String, Value>>,
    new_levels: Option<Map<String, Value>>,
    /// State of the new room but for its create event, the first join and power levels.
    state: Vec<StateDraft>,
    /// Whether the new room may have additional creators.
    additional: bool,
    request: CreateRoom,
    profile: MemberProfile,
}

impl Plan {
    fn creation(
        &self,
        old: &RoomId,
        event: Option<&str>,
        request: &UpgradeRoom,
    ) -> Map<String, Value> {
        let mut content = content::creation(&self.old_create, old.as_str(), event);
        if self.additional && !request.additional_creators.is_empty() {
            let creators = json!(request.additional_creators);
            content.insert("additional_creators".to_owned(), creators);
        }
        content
    }

    /// The events after the create event. Power levels come last: until then the new creator has all the power they need,
    /// whatever they had in the old room.
    fn events(&self, user: &UserId) -> Result<Vec<(OwnedUserId, NewEvent)>, RoomError> {
        let mut drafts = vec![StateDraft {
            kind: "m.room.member".to_owned(),
            state_key: user.to_string(),
            content: self.profile.member_content("join"),
        }];
        drafts.extend(self.state.iter().cloned());
        drafts.extend(self.new_levels.clone().map(|content| StateDraft {
            kind: "m.room.power_levels".to_owned(),
            state_key: String::new(),
            content,
        }));
        let event = |draft: StateDraft| {
            let content = raw(&draft.content)?;
            let event = NewEvent::state(draft.kind, draft.state_key, content);
            Ok((user.to_owned(), event))
        };
        drafts.into_iter().map(event).collect()
    }
}

/// Names that point at the old room and shall point at the new one.
struct Moved {
    from: RoomNum,
    aliases: Vec<(String, AliasRow)>,
    published: bool,
}

impl Moved {
    fn put(&self, batch: &mut Batch, room: &RoomId, num: RoomNum) {
        for (alias, row) in &self.aliases {
            let moved = AliasRow {
                room_id: room.to_owned(),
                ..row.clone()
            };
            batch.guard_equals(&ALIASES, alias, row);
            batch.put(&ALIASES, alias, &moved);
            batch.delete(&ROOM_ALIASES, &(self.from, alias.clone()));
            batch.put(&ROOM_ALIASES, &(num, alias.clone()), &());
        }
        if self.published {
            batch.delete(&DIRECTORY, &self.from);
            batch.put(&DIRECTORY, &num, &());
        }
    }
}

/// The aliases that the room calls its own: those that move with it, and what is left if some do.
async fn canonical_aliases(
    view: &RoomView,
) -> Result<(Option<Map<String, Value>>, Option<Map<String, Value>>), RoomError> {
    let Some(event) = view.state("m.room.canonical_alias", "").await? else {
        return Ok((None, None));
    };
    let moved: BTreeSet<String> = view.aliases().await?.into_iter().collect();
    let moves = |alias: &Value| alias.as_str().is_some_and(|alias| moved.contains(alias));
    let content: Map<String, Value> = event.content_as().unwrap_or_default();
    let new = content::aliases(&content, moves);
    let left = content::aliases(&content, |alias| !moves(alias));
    let left = new.as_ref().map(|_| left.unwrap_or_default());
    Ok((new, left))
}

/// The rooms of a space.
async fn children(view: &RoomView) -> Result<Vec<StateDraft>, RoomError> {
    let state = view.state_all().await?;
    let children = state.iter().filter(|event| event.kind() == "m.space.child");
    // An empty one took a room out of the space.
    let drafts = children.filter_map(draft_of);
    let drafts = drafts.filter(|draft| !draft.content.is_empty());
    Ok(drafts.take(MAX_TAKEN).collect())
}

fn draft_of(event: &Pdu) -> Option<StateDraft> {
    Some(StateDraft {
        kind: event.kind().to_owned(),
        state_key: event.state_key()?.to_owned(),
        content: event.content_as().ok()?,
    })
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn raw(content: &Map<String, Value>) -> Result<Box<serde_json::value::RawValue>, RoomError> {
    serde_json::value::to_raw_value(content)
        .map_err(|error| RoomError::bad("M_BAD_JSON", error.to_string()))
}
