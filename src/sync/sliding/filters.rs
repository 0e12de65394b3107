//! Which rooms a list lets through (MSC4186, `SlidingRoomFilter`).

use std::collections::HashSet;

use resuni_rooms::{Membership, RoomNum, fields::EventFields};
use ruma::UserId;

use super::request::RoomFilters;
use crate::{Sync, Who, error::SyncError};

/// What filters ask of a room.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Whether anything is known of it: nothing may be of a room that the user is invited to.
    known: bool,
    encrypted: bool,
    kind: Option<Box<str>>,
    /// In lower case; none where nobody asked.
    name: Option<Box<str>>,
    tags: Box<[String]>,
}

impl Facts {
    pub async fn read(
        sync: &Sync,
        who: Who<'_>,
        (room, membership): (RoomNum, Membership),
        named: bool,
    ) -> Result<Self, SyncError> {
        let mut facts = match membership {
            Membership::Invite | Membership::Knock => Self::told(sync, who.user, room).await?,
            _ => Self::of_room(sync, who.user, room).await?,
        };
        facts.name = named.then(|| facts.name.take().unwrap_or_default());
        if let Some(room) = sync.rooms.room_id(room).await? {
            let tags = sync.accounts.tags(who.account, room.as_str()).await?;
            facts.tags = tags.keys().cloned().collect();
        }
        Ok(facts)
    }

    /// By the state that the user may read.
    async fn of_room(sync: &Sync, user: &UserId, room: RoomNum) -> Result<Self, SyncError> {
        let Some(view) = sync.rooms.view_num(room).await? else {
            return Ok(Self::default());
        };
        let Ok(state) = view.readable_state(user).await else {
            return Ok(Self::default());
        };
        let mut facts = Self::default();
        for kind in ["m.room.create", "m.room.encryption", "m.room.name"] {
            if let Some(event) = state.get(kind, "").await? {
                facts.learn(kind, event.content().get());
            }
        }
        Ok(facts)
    }

    /// By the stripped state that came with an invite or a knock.
    async fn told(sync: &Sync, user: &UserId, room: RoomNum) -> Result<Self, SyncError> {
        let mut facts = Self::default();
        let told = sync
            .rooms
            .stripped_state(user, room)
            .await?
            .unwrap_or_default();
        let events: Vec<&serde_json::value::RawValue> =
            serde_json::from_str(&told).unwrap_or_default();
        for event in events {
            let fields = EventFields::of(event.get());
            if fields.state_key_str() == Some("") {
                facts.learn(fields.kind_str(), fields.content);
            }
        }
        Ok(facts)
    }

    fn learn(&mut self, kind: &str, content: &str) {
        #[derive(serde::Deserialize)]
        struct Content {
            #[serde(rename = "type")]
            kind: Option<String>,
            name: Option<String>,
            algorithm: Option<String>,
        }
        let Ok(content) = serde_json::from_str::<Content>(content) else {
            return;
        };
        match kind {
            "m.room.create" => (self.known, self.kind) = (true, content.kind.map(Into::into)),
            "m.room.encryption" => self.encrypted = content.algorithm.is_some(),
            "m.room.name" => self.name = content.name.map(|name| name.to_lowercase().into()),
            _ => {}
        }
    }
}

impl RoomFilters {
    /// Whether they ask for what a room's state or its tags say.
    pub(crate) fn need_facts(&self) -> bool {
        self.is_encrypted.is_some()
            || self.room_types.is_some()
            || !self.not_room_types.is_empty()
            || self.tags.is_some()
            || !self.not_tags.is_empty()
            || self.name_like.is_some()
    }

    /// Whether a room with these facts passes.
    pub(crate) fn let_through(&self, facts: Option<&Facts>) -> bool {
        let Some(facts) = facts else { return true };
        let of_state = self.is_encrypted.is_some()
            || self.room_types.is_some()
            || !self.not_room_types.is_empty();
        // What nothing is known of is neither encrypted nor not.
        if of_state && !facts.known {
            return false;
        }
        let kind = facts.kind.as_deref();
        let is_kind =
            |types: &Vec<Option<String>>| types.iter().any(|other| other.as_deref() == kind);
        let named = |text: &String| {
            let name = facts.name.as_deref().unwrap_or_default();
            name.contains(&text.to_lowercase())
        };
        let tagged = |tags: &[String]| tags.iter().any(|tag| facts.tags.contains(tag));
        self.is_encrypted
            .is_none_or(|wanted| wanted == facts.encrypted)
            && self.room_types.as_ref().is_none_or(is_kind)
            && !is_kind(&self.not_room_types)
            && self.tags.as_deref().is_none_or(tagged)
            && !tagged(&self.not_tags)
            && self.name_like.as_ref().is_none_or(named)
    }

    /// Whether the facts tell all that the filters ask for.
    pub(crate) fn are_told_by(&self, facts: &Facts) -> bool {
        self.name_like.is_none() || facts.name.is_some()
    }

    /// The rooms that the spaces link to, those of them that the user is joined to.
    pub(crate) async fn children(
        &self,
        sync: &Sync,
        user: &UserId,
    ) -> Result<Option<HashSet<RoomNum>>, SyncError> {
        let Some(spaces) = &self.spaces else {
            return Ok(None);
        };
        let mut children = HashSet::new();
        for space in spaces {
            let Some(view) = sync.rooms.view(space).await? else {
                continue;
            };
            if !view.joined(user).await? {
                continue;
            }
            for child in sync.rooms.space_links(view.num()).await? {
                children.extend(sync.rooms.room_num(&child).await?);
            }
        }
        Ok(Some(children))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(kind: Option<&str>, encrypted: bool, tags: &[&str]) -> Facts {
        Facts {
            known: true,
            encrypted,
            kind: kind.map(Into::into),
            name: Some("münchen".into()),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        }
    }

    #[test]
    fn what_is_unwanted_wins() {
        let space = Some("m.space".to_owned());
        let filters = RoomFilters {
            room_types: Some(vec![None, space.clone()]),
            not_room_types: vec![space],
            tags: Some(vec!["a".to_owned()]),
            not_tags: vec!["b".to_owned()],
            ..RoomFilters::default()
        };
        assert!(filters.let_through(Some(&facts(None, false, &["a"]))));
        assert!(!filters.let_through(Some(&facts(Some("m.space"), false, &["a"]))));
        assert!(!filters.let_through(Some(&facts(Some("x"), false, &["a"]))));
        assert!(!filters.let_through(Some(&facts(None, false, &["a", "b"]))));
        assert!(!filters.let_through(Some(&facts(None, false, &[]))));
    }

    #[test]
    fn of_what_nothing_is_known_nothing_is_said() {
        for encrypted in [true, false] {
            let filters = RoomFilters {
                is_encrypted: Some(encrypted),
                ..RoomFilters::default()
            };
            assert!(!filters.let_through(Some(&Facts::default())));
            assert!(filters.let_through(Some(&facts(None, encrypted, &[]))));
        }
        let named = RoomFilters {
            name_like: Some("NCHEN".to_owned()),
            ..RoomFilters::default()
        };
        assert!(named.let_through(Some(&facts(None, false, &[]))));
    }
}
