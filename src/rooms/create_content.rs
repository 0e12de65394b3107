//! Which events a new room begins with: the pure half of `createRoom`.
//!
//! Spec: client-server API, `POST /createRoom`: the order of the events is fixed there.

use std::collections::BTreeMap;

use resuni_dag::RoomRules;
use ruma::{OwnedUserId, ServerName, UserId};
use serde_json::{Map, Value, json};

/// Who may enter a new room and read in it, as one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// By invitation.
    PrivateChat,
    /// By invitation, and the invited have the creator's power.
    TrustedPrivateChat,
    /// For everybody.
    PublicChat,
}

/// What a membership event says about its person. The caller looks it up: `rooms` knows no accounts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberProfile {
    /// `displayname`.
    pub displayname: Option<String>,
    /// `avatar_url`, an `mxc://` URI.
    pub avatar_url: Option<String>,
}

impl MemberProfile {
    /// The content of an `m.room.member` event with this profile.
    pub fn member_content(&self, membership: &str) -> Map<String, Value> {
        let mut content = Map::new();
        content.insert("membership".into(), membership.into());
        if let Some(name) = &self.displayname {
            content.insert("displayname".into(), name.as_str().into());
        }
        if let Some(url) = &self.avatar_url {
            content.insert("avatar_url".into(), url.as_str().into());
        }
        content
    }
}

/// A state event asked for in `initial_state`.
#[derive(Debug, Clone)]
pub struct InitialState {
    /// The event type.
    pub kind: String,
    /// The state key; empty when the client left it out.
    pub state_key: String,
    /// The content.
    pub content: Map<String, Value>,
}

/// The request of `createRoom`.
#[derive(Debug, Clone, Default)]
pub struct CreateRoom {
    /// Whether the room is listed in the directory (`visibility: public`).
    pub published: bool,
    /// The local part of the room's alias.
    pub room_alias_name: Option<String>,
    /// `m.room.name`.
    pub name: Option<String>,
    /// `m.room.topic`.
    pub topic: Option<String>,
    /// Whom to invite. Those of other servers are left to the caller: their server signs the
    /// invite, so federation sends it once the room exists.
    pub invite: Vec<OwnedUserId>,
    /// The room version; `None` for the server's default.
    pub room_version: Option<String>,
    /// Further keys of the create event.
    pub creation_content: Map<String, Value>,
    /// State set after the preset's.
    pub initial_state: Vec<InitialState>,
    /// The preset; `None` to follow `published`.
    pub preset: Option<Preset>,
    /// The reason in the invites (MSC4491).
    pub invite_reason: Option<String>,
    /// Marks the invites as the beginning of a direct chat.
    pub is_direct: bool,
    /// Laid over the power levels, key by key.
    pub power_level_content_override: Map<String, Value>,
    /// The creator's profile, for their join.
    pub creator_profile: MemberProfile,
    /// Profiles of the local people in `invite`.
    pub invite_profiles: BTreeMap<OwnedUserId, MemberProfile>,
}

/// A state event to be: all events of a creation are sent by the creator.
#[derive(Debug, Clone, PartialEq)]
pub struct StateDraft {
    /// The event type.
    pub kind: String,
    /// The state key.
    pub state_key: String,
    /// The content.
    pub content: Map<String, Value>,
}

/// Why a creation is refused before any event is made (all are answered with 400).
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CreateRefusal {
    /// Something in `creation_content` has the wrong shape.
    #[error("additional_creators must be a list of user ids, and {0} is not one.")]
    AdditionalCreators(String),
    /// The creators stand above all power levels from room version 12 on.
    #[error("{0} is a creator of the room and can't be listed in its power levels.")]
    CreatorInPowerLevels(OwnedUserId),
    /// `power_level_content_override.users` isn't an object.
    #[error("The users of power_level_content_override must be an object.")]
    PowerLevelUsers,
}

impl CreateRoom {
    fn preset(&self) -> Preset {
        self.preset.unwrap_or(if self.published {
            Preset::PublicChat
        } else {
            Preset::PrivateChat
        })
    }

    /// The content of `m.room.create`.
    pub fn create_content(
        &self,
        creator: &UserId,
        rules: &RoomRules,
    ) -> Result<Map<String, Value>, CreateRefusal> {
        let mut content = self.creation_content.clone();
        content.insert("room_version".into(), rules.version.as_str().into());
        content.remove("creator");
        if !rules.creator_is_sender() {
            content.insert("creator".into(), creator.as_str().into());
        }
        if rules.additional_creators() {
            let creators = self.additional_creators(creator)?;
            if !creators.is_empty() {
                content.insert("additional_creators".into(), json!(creators));
            }
        }
        Ok(content)
    }

    /// `additional_creators` as asked for, and for a trusted private chat the invited too, each once.
    fn additional_creators(&self, creator: &UserId) -> Result<Vec<OwnedUserId>, CreateRefusal> {
        let mut creators = Vec::new();
        match self.creation_content.get("additional_creators") {
            None => {}
            Some(Value::Array(list)) => {
                for item in list {
                    let user = item.as_str().and_then(|text| UserId::parse(text).ok());
                    let user =
                        user.ok_or_else(|| CreateRefusal::AdditionalCreators(item.to_string()))?;
                    creators.push(user);
                }
            }
            Some(other) => return Err(CreateRefusal::AdditionalCreators(other.to_string())),
        }
        if self.preset() == Preset::TrustedPrivateChat {
            creators.extend(self.invite.iter().filter(|user| *user != creator).cloned());
        }
        let mut seen = std::collections::HashSet::new();
        creators.retain(|user| seen.insert(user.clone()));
        Ok(creators)
    }

    /// All state events after `m.room.create`, in the order of the spec. `alias` is the full alias
    /// of `room_alias_name`.
    pub fn state_after_create(
        &self,
        creator: &UserId,
        alias: Option<&str>,
        server: &ServerName,
        rules: &RoomRules,
    ) -> Result<Vec<StateDraft>, CreateRefusal> {
        let mut events = vec![
            draft(
                "m.room.member",
                creator.as_str(),
                self.creator_profile.member_content("join"),
            ),
            draft(
                "m.room.power_levels",
                "",
                self.power_levels(creator, rules)?,
            ),
        ];
        if let Some(alias) = alias {
            events.push(draft(
                "m.room.canonical_alias",
                "",
                object(json!({ "alias": alias })),
            ));
        }
        events.extend(
            self.preset_state()
                .into_iter()
                .filter(|event| !self.sets(&event.kind, &event.state_key)),
        );
        events.extend(
            self.initial_state
                .iter()
                .filter(|state| !self.overrules(state))
                .map(|state| StateDraft {
                    kind: state.kind.clone(),
                    state_key: state.state_key.clone(),
                    content: state.content.clone(),
                }),
        );
        if let Some(name) = &self.name {
            events.push(draft("m.room.name", "", object(json!({ "name": name }))));
        }
        if let Some(topic) = &self.topic {
            events.push(draft("m.room.topic", "", topic_content(topic)));
        }
        events.extend(self.local_invites(creator, server));
        Ok(events)
    }

    fn sets(&self, kind: &str, state_key: &str) -> bool {
        self.initial_state
            .iter()
            .any(|state| state.kind == kind && state.state_key == state_key)
    }

    /// `name` and `topic` take the place of the same in `initial_state`.
    fn overrules(&self, state: &InitialState) -> bool {
        state.state_key.is_empty()
            && (state.kind == "m.room.name" && self.name.is_some()
                || state.kind == "m.room.topic" && self.topic.is_some())
    }

    fn preset_state(&self) -> Vec<StateDraft> {
        let public = self.preset() == Preset::PublicChat;
        let join_rule = if public { "public" } else { "invite" };
        let mut events = vec![
            draft(
                "m.room.join_rules",
                "",
                object(json!({ "join_rule": join_rule })),
            ),
            draft(
                "m.room.history_visibility",
                "",
                object(json!({ "history_visibility": "shared" })),
            ),
        ];
        // `forbidden` is what a room without the event has ("m.room.guest_access"), so a public
        // chat needs none.
        if !public {
            events.push(draft(
                "m.room.guest_access",
                "",
                object(json!({ "guest_access": "can_join" })),
            ));
        }
        events
    }

    fn power_levels(
        &self,
        creator: &UserId,
        rules: &RoomRules,
    ) -> Result<Map<String, Value>, CreateRefusal> {
        let privileged = rules.creators_are_privileged();
        let tombstone = if privileged { 150 } else { 100 };
        let mut users = Map::new();
        if !privileged {
            users.insert(creator.as_str().into(), 100.into());
            if self.preset() == Preset::TrustedPrivateChat {
                users.extend(
                    self.invite
                        .iter()
                        .map(|user| (user.as_str().into(), 100.into())),
                );
            }
        }
        let invite = if self.preset() == Preset::PublicChat {
            50
        } else {
            0
        };
        let mut content = object(json!({
            "ban": 50, "kick": 50, "redact": 50, "invite": invite,
            "events": {
                "m.room.avatar": 50, "m.room.canonical_alias": 50, "m.room.encryption": 100,
                "m.room.history_visibility": 100, "m.room.name": 50, "m.room.power_levels": 100,
                "m.room.server_acl": 100, "m.room.tombstone": tombstone,
            },
            "events_default": 0, "state_default": 50, "users_default": 0, "users": users,
            "notifications": { "room": 50 },
        }));
        content.extend(self.power_level_content_override.clone());
        if privileged {
            self.refuse_listed_creators(creator, &content)?;
        }
        Ok(content)
    }

    fn refuse_listed_creators(
        &self,
        creator: &UserId,
        levels: &Map<String, Value>,
    ) -> Result<(), CreateRefusal> {
        let Some(users) = levels.get("users") else {
            return Ok(());
        };
        let users = users.as_object().ok_or(CreateRefusal::PowerLevelUsers)?;
        let creators = self.additional_creators(creator)?;
        match std::iter::once(creator.to_owned())
            .chain(creators)
            .find(|user| users.contains_key(user.as_str()))
        {
            Some(user) => Err(CreateRefusal::CreatorInPowerLevels(user)),
            None => Ok(()),
        }
    }

    fn local_invites(&self, creator: &UserId, server: &ServerName) -> Vec<StateDraft> {
        let mut seen = std::collections::HashSet::new();
        let local = self
            .invite
            .iter()
            .filter(|user| user.server_name() == server && *user != creator);
        local
            .filter(|user| seen.insert(user.as_str()))
            .map(|user| {
                let profile = self.invite_profiles.get(user).cloned().unwrap_or_default();
                let mut content = profile.member_content("invite");
                if let Some(reason) = &self.invite_reason {
                    content.insert("reason".into(), reason.as_str().into());
                }
                if self.is_direct {
                    content.insert("is_direct".into(), true.into());
                }
                draft("m.room.member", user.as_str(), content)
            })
            .collect()
    }
}

/// The content of a plain text topic: the old field and the `m.topic` content block (spec v1.15).
pub fn topic_content(topic: &str) -> Map<String, Value> {
    object(
        json!({ "topic": topic, "m.topic": { "m.text": [{ "body": topic, "mimetype": "text/plain" }] } }),
    )
}

fn draft(kind: &str, state_key: &str, content: Map<String, Value>) -> StateDraft {
    StateDraft {
        kind: kind.to_owned(),
        state_key: state_key.to_owned(),
        content,
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use ruma::{RoomVersionId, server_name, user_id};

    use super::*;

    fn events(request: &CreateRoom, version: &RoomVersionId) -> Vec<StateDraft> {
        let rules = RoomRules::of(version).unwrap();
        let alias = request
            .room_alias_name
            .as_ref()
            .map(|name| format!("#{name}:h"));
        request
            .state_after_create(user_id!("@a:h"), alias.as_deref(), server_name!("h"), rules)
            .unwrap()
    }

    fn kinds(events: &[StateDraft]) -> Vec<String> {
        events
            .iter()
            .map(|e| format!("{} {}", e.kind.trim_start_matches("m.room."), e.state_key))
            .collect()
    }

    #[test]
    fn the_order_is_that_of_the_spec() {
        let request = CreateRoom {
            room_alias_name: Some("pub".into()),
            name: Some("The pub".into()),
            topic: Some("Beer".into()),
            invite: vec![
                user_id!("@b:h").into(),
                user_id!("@far:other").into(),
                user_id!("@b:h").into(),
            ],
            initial_state: vec![
                InitialState {
                    kind: "m.room.join_rules".into(),
                    state_key: "".into(),
                    content: object(json!({"join_rule": "knock"})),
                },
                InitialState {
                    kind: "m.room.name".into(),
                    state_key: "".into(),
                    content: object(json!({"name": "no"})),
                },
                InitialState {
                    kind: "m.x".into(),
                    state_key: "k".into(),
                    content: Map::new(),
                },
            ],
            ..CreateRoom::default()
        };
        assert_eq!(
            kinds(&events(&request, &RoomVersionId::V12)),
            [
                "member @a:h",
                "power_levels ",
                "canonical_alias ",
                "history_visibility ",
                "guest_access ",
                "join_rules ",
                "m.x k",
                "name ",
                "topic ",
                "member @b:h"
            ]
        );
    }

    #[test]
    fn a_public_chat_has_no_guest_access() {
        let request = CreateRoom {
            published: true,
            ..CreateRoom::default()
        };
        let events = events(&request, &RoomVersionId::V11);
        assert_eq!(
            kinds(&events),
            [
                "member @a:h",
                "power_levels ",
                "join_rules ",
                "history_visibility "
            ]
        );
        assert_eq!(events[2].content["join_rule"], "public");
    }

    #[test]
    fn creators_of_version_12() {
        let rules = RoomRules::of(&RoomVersionId::V12).unwrap();
        let mut request = CreateRoom {
            preset: Some(Preset::TrustedPrivateChat),
            invite: vec![user_id!("@b:h").into()],
            creation_content: object(
                json!({"additional_creators": ["@c:h", "@b:h"], "room_version": "1", "creator": "@x:h"}),
            ),
            ..CreateRoom::default()
        };
        let content = request.create_content(user_id!("@a:h"), rules).unwrap();
        assert_eq!(
            Value::Object(content),
            json!({"additional_creators": ["@c:h", "@b:h"], "room_version": "12"})
        );
        let levels = &events(&request, &RoomVersionId::V12)[1].content;
        assert_eq!(
            (&levels["users"], &levels["events"]["m.room.tombstone"]),
            (&json!({}), &json!(150))
        );

        request.power_level_content_override = object(json!({"users": {"@b:h": 100}}));
        let refused = request.state_after_create(user_id!("@a:h"), None, server_name!("h"), rules);
        assert_eq!(
            refused,
            Err(CreateRefusal::CreatorInPowerLevels(user_id!("@b:h").into()))
        );
        for bad in [
            json!("x"),
            json!(["@foo:example.com", 42]),
            json!(["nobody"]),
            json!(["@invalid:dom$ain$.com"]),
        ] {
            request.creation_content = object(json!({ "additional_creators": bad }));
            assert!(request.create_content(user_id!("@a:h"), rules).is_err());
        }
    }

    #[test]
    fn power_levels_before_version_12() {
        let request = CreateRoom {
            preset: Some(Preset::TrustedPrivateChat),
            invite: vec![user_id!("@b:h").into()],
            power_level_content_override: object(json!({"events_default": 7})),
            ..CreateRoom::default()
        };
        let rules = RoomRules::of(&RoomVersionId::V10).unwrap();
        assert_eq!(
            request.create_content(user_id!("@a:h"), rules).unwrap()["creator"],
            "@a:h"
        );
        let levels = &events(&request, &RoomVersionId::V10)[1].content;
        assert_eq!(levels["users"], json!({"@a:h": 100, "@b:h": 100}));
        assert_eq!(
            (
                &levels["events_default"],
                &levels["events"]["m.room.tombstone"]
            ),
            (&json!(7), &json!(100))
        );
    }
}
