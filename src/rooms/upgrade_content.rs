//! What a room's upgrade writes into the new room and the old one: the pure half of `upgrade`.
//!
//! Spec: client-server API, "Room Upgrades", "Server behaviour".

use std::collections::BTreeSet;

use resuni_dag::{RoomRules, level_in};
use ruma::{OwnedUserId, UserId};
use serde_json::{Map, Value, json};

/// State that is taken along: what the specification recommends, and of a space its rooms, without which there would be
/// nothing left of it. Power levels and the canonical alias have their own ways.
pub(crate) const TRANSFERRED: &[&str] = &[
    "m.room.server_acl",
    "m.room.encryption",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.guest_access",
    "m.room.history_visibility",
    "m.room.join_rules",
];

/// Properties of power levels that are one level each.
const SINGLE: [&str; 7] = [
    "users_default",
    "events_default",
    "state_default",
    "ban",
    "kick",
    "redact",
    "invite",
];
/// Those that are a map of levels.
const MAPS: [&str; 3] = ["users", "events", "notifications"];
/// Who may replace a room whose creators stand above all: only they, at first (MSC4289).
const TOMBSTONE: i64 = 150;

/// Who made the old room and who makes the new one.
pub(crate) struct Owners<'a> {
    /// Who upgrades.
    pub upgrader: &'a UserId,
    /// Further creators of the new room, where its version has them.
    pub additional: &'a [OwnedUserId],
    /// Those who stood above all levels of the old room, where its version has such.
    pub before: BTreeSet<OwnedUserId>,
}

/// The content of the new create event. `event` is the last one of the old room, known beforehand only where the id of
/// the new room isn't made of this content.
pub(crate) fn creation(
    old: &Map<String, Value>,
    room: &str,
    event: Option<&str>,
) -> Map<String, Value> {
    let mut content = Map::new();
    for key in ["type", "m.federate"] {
        if let Some(value) = old.get(key) {
            content.insert(key.to_owned(), value.clone());
        }
    }
    let mut predecessor = json!({ "room_id": room });
    if let Some(event) = event {
        predecessor["event_id"] = event.into();
    }
    content.insert("predecessor".to_owned(), predecessor);
    content
}

/// The levels of the new room: those of the old one, with its creators where the new version has them.
pub(crate) fn levels(
    old: &Map<String, Value>,
    owners: &Owners<'_>,
    rules: &RoomRules,
) -> Map<String, Value> {
    let mut levels = as_integers(old);
    let top = highest(&levels);
    let state_default = level_of(&levels, "state_default", 50);
    let users = map_in(&mut levels, "users");
    users.retain(|user, _| UserId::parse(user).is_ok());
    if rules.creators_are_privileged() {
        users.remove(owners.upgrader.as_str());
        for user in owners.additional {
            users.remove(user.as_str());
        }
        let events = map_in(&mut levels, "events");
        let before = events.get("m.room.tombstone").and_then(level_in);
        let level = TOMBSTONE.max(state_default.saturating_add(1));
        let level = level.max(before.unwrap_or(level));
        events.insert("m.room.tombstone".to_owned(), level.into());
    } else {
        // Who stood above all levels is listed with the highest one. The new creator may be among the others: they had
        // the power to end the old room, and no more.
        for user in &owners.before {
            users.insert(user.to_string(), top.into());
        }
    }
    levels
}

/// The levels that close the old room: nobody may speak or invite who has no particular power. `None` if that is so.
pub(crate) fn closed(old: &Map<String, Value>) -> Option<Map<String, Value>> {
    let mut levels = old.clone();
    let least = level_of(old, "users_default", 0).saturating_add(1).max(50);
    let mut changed = false;
    for key in ["events_default", "invite"] {
        if level_of(old, key, 0) < least {
            levels.insert(key.to_owned(), least.into());
            changed = true;
        }
    }
    changed.then_some(levels)
}

/// Levels as every version takes them: up to v9 they may be strings, and numbers with a fraction. What is neither is left
/// out.
fn as_integers(old: &Map<String, Value>) -> Map<String, Value> {
    let mut levels = Map::new();
    for key in SINGLE {
        if let Some(level) = old.get(key).and_then(level_in) {
            levels.insert(key.to_owned(), level.into());
        }
    }
    for key in MAPS {
        if let Some(Value::Object(map)) = old.get(key) {
            let entry = |(name, level): (&String, &Value)| {
                Some((name.clone(), Value::from(level_in(level)?)))
            };
            let map: Map<String, Value> = map.iter().filter_map(entry).collect();
            levels.insert(key.to_owned(), map.into());
        }
    }
    levels
}

fn level_of(levels: &Map<String, Value>, key: &str, default: i64) -> i64 {
    levels.get(key).and_then(level_in).unwrap_or(default)
}

/// The greatest level that is given or asked for anywhere, and at least 100.
fn highest(levels: &Map<String, Value>) -> i64 {
    let single = SINGLE.iter().filter_map(|key| levels.get(*key));
    let maps = MAPS.iter().filter_map(|key| levels.get(*key)?.as_object());
    let all = single.chain(maps.flat_map(|map| map.values()));
    all.filter_map(level_in).max().unwrap_or(100).max(100)
}

/// The object at this key; an empty one if there is none.
fn map_in<'a>(levels: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let entry = levels.entry(key).or_insert_with(|| json!({}));
    if !entry.is_object() {
        *entry = json!({});
    }
    match entry {
        Value::Object(map) => map,
        _ => unreachable!("it was made an object"),
    }
}

/// The aliases of an `m.room.canonical_alias` that are `wanted`; `None` if none is.
pub(crate) fn aliases(
    old: &Map<String, Value>,
    wanted: impl Fn(&Value) -> bool,
) -> Option<Map<String, Value>> {
    let mut content = Map::new();
    if let Some(alias) = old.get("alias").filter(|alias| wanted(alias)) {
        content.insert("alias".to_owned(), alias.clone());
    }
    let others = old.get("alt_aliases").and_then(Value::as_array);
    let others: Vec<Value> = others
        .into_iter()
        .flatten()
        .filter(|alias| wanted(alias))
        .cloned()
        .collect();
    if !others.is_empty() {
        content.insert("alt_aliases".to_owned(), Value::Array(others));
    }
    (!content.is_empty()).then_some(content)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use ruma::{RoomVersionId, owned_user_id, user_id};

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn new_levels(version: &RoomVersionId, old: Value, before: &[OwnedUserId]) -> Value {
        let owners = Owners {
            upgrader: user_id!("@alice:a"),
            additional: &[owned_user_id!("@bob:a")],
            before: before.iter().cloned().collect(),
        };
        levels(&object(old), &owners, RoomRules::of(version).unwrap()).into()
    }

    #[test]
    fn creators_are_not_listed_where_they_stand_above_all() {
        let old = json!({"users": {"@alice:a": 100, "@bob:a": 100, "@carol:a": "50", "nobody": 3},
                         "events": {"m.room.tombstone": 100, "m.room.name": 1.5}, "ban": "60", "kick": "x"});
        assert_eq!(
            new_levels(&RoomVersionId::V12, old.clone(), &[]),
            json!({"users": {"@carol:a": 50}, "events": {"m.room.tombstone": 150, "m.room.name": 1}, "ban": 60})
        );
        assert_eq!(
            new_levels(&RoomVersionId::V11, old, &[]),
            json!({"users": {"@alice:a": 100, "@bob:a": 100, "@carol:a": 50},
                   "events": {"m.room.tombstone": 100, "m.room.name": 1}, "ban": 60})
        );
        let high = json!({"state_default": 200, "events": {"m.room.tombstone": 300}});
        let high = new_levels(&RoomVersionId::V12, high, &[]);
        assert_eq!(high["events"]["m.room.tombstone"], 300);
        let high = new_levels(&RoomVersionId::V12, json!({"state_default": 200}), &[]);
        assert_eq!(high["events"]["m.room.tombstone"], 201);
    }

    #[test]
    fn who_stood_above_all_keeps_the_highest_level() {
        let old = json!({"users": {"@carol:a": 50}, "events": {"m.room.tombstone": 150}});
        let new = new_levels(
            &RoomVersionId::V11,
            old.clone(),
            &[owned_user_id!("@dave:a")],
        );
        assert_eq!(new["users"], json!({"@carol:a": 50, "@dave:a": 150}));
        // Between versions that have creators, they are named anew.
        let new = new_levels(&RoomVersionId::V12, old, &[owned_user_id!("@dave:a")]);
        assert_eq!(new["users"], json!({"@carol:a": 50}));
    }

    #[test]
    fn the_old_room_is_closed() {
        let close = |old: Value| closed(&object(old)).map(Value::from);
        assert_eq!(
            close(json!({"users": {"@alice:a": 100}, "more": 1})).unwrap(),
            json!({"users": {"@alice:a": 100}, "more": 1, "events_default": 50, "invite": 50})
        );
        let new = close(json!({"users_default": 60, "events_default": 70, "invite": "1"})).unwrap();
        assert_eq!(
            new,
            json!({"users_default": 60, "events_default": 70, "invite": 61})
        );
        assert_eq!(close(json!({"events_default": 50, "invite": 99})), None);
    }

    #[test]
    fn the_new_room_says_where_it_comes_from() {
        let old = object(
            json!({"type": "m.space", "m.federate": false, "creator": "@x:y", "room_version": "1"}),
        );
        assert_eq!(
            Value::from(creation(&old, "!old:a", Some("$last"))),
            json!({"type": "m.space", "m.federate": false,
                   "predecessor": {"room_id": "!old:a", "event_id": "$last"}})
        );
        assert_eq!(
            Value::from(creation(&Map::new(), "!old:a", None)),
            json!({"predecessor": {"room_id": "!old:a"}})
        );
    }
}
