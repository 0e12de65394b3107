//! State that belongs to a user (MSC3757): its state key is the user's id, with or without an
//! underscore and more. Its owner may set it, and whoever has more power than they.

use ruma::events::TimelineEventType;
use ruma::state_res::Event;
use ruma::{MilliSecondsSinceUnixEpoch, OwnedEventId, RoomId, UserId};
use serde_json::value::RawValue;

use crate::{AuthError, Pdu, PowerLevels, RoomRules, limits};

/// Whose state an event of this type and state key sets; `None` if that is nobody's, or the version
/// knows no owners. An error if the key begins like a user's id and isn't one, or is too long.
///
/// The rule stands behind those about memberships, which have their own way with user ids.
pub fn state_owner<'a>(
    kind: &str,
    state_key: Option<&'a str>,
    rules: &RoomRules,
) -> Result<Option<&'a UserId>, AuthError> {
    let key = state_key.filter(|_| rules.owned_state() && kind != "m.room.member");
    let Some(key) = key else {
        return Ok(None);
    };
    if !key.starts_with('@') {
        return match key.len() > limits::ID_BYTES {
            true => Err(AuthError("the state key is too long".to_owned())),
            false => Ok(None),
        };
    }
    // No server name has an underscore, so the first one after the colon ends the user's id.
    let host = key.find(':').map_or(key.len(), |colon| colon + 1);
    let end = key[host..].find('_').map_or(key.len(), |at| host + at);
    let (owner, more) = key.split_at(end);
    if more.len() > limits::ID_BYTES + 1 {
        return Err(AuthError(
            "the state key is too long after its user id".to_owned(),
        ));
    }
    <&UserId>::try_from(owner).map(Some).map_err(|_| {
        AuthError(format!(
            "the state key begins with {owner:?}, which is no user id"
        ))
    })
}

/// Whether the sender owns the state, or has more power than its owner.
pub(crate) fn check(
    pdu: &Pdu,
    owner: &UserId,
    rules: &RoomRules,
    state: impl Fn(&str, &str) -> Option<Pdu>,
) -> Result<(), AuthError> {
    if owner == pdu.sender() {
        return Ok(());
    }
    let create = state("m.room.create", "")
        .ok_or_else(|| AuthError("the room has no create event".to_owned()))?;
    let levels = state("m.room.power_levels", "");
    let levels = PowerLevels::read(&create, levels.as_ref(), rules)?;
    if levels.user(pdu.sender()) > levels.user(owner) {
        Ok(())
    } else {
        Err(AuthError(format!("this state belongs to {owner}")))
    }
}

/// An event whose state key names nobody.
pub(crate) struct Unowned(pub Pdu);

impl Event for Unowned {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        Event::event_id(&self.0)
    }

    fn room_id(&self) -> Option<&RoomId> {
        Event::room_id(&self.0)
    }

    fn sender(&self) -> &UserId {
        Event::sender(&self.0)
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        Event::origin_server_ts(&self.0)
    }

    fn event_type(&self) -> &TimelineEventType {
        Event::event_type(&self.0)
    }

    fn content(&self) -> &RawValue {
        Event::content(&self.0)
    }

    fn state_key(&self) -> Option<&str> {
        Some("")
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Event::prev_events(&self.0)
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Event::auth_events(&self.0)
    }

    fn redacts(&self) -> Option<&OwnedEventId> {
        Event::redacts(&self.0)
    }

    fn rejected(&self) -> bool {
        Event::rejected(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Room;

    const ROOM: &[&str] = &[
        "alice creates",
        "alice joins",
        "alice rules public",
        "bob@two joins",
        "carol joins",
        r#"alice power {"users":{"@alice:one":100},"state_default":0}"#,
    ];

    fn allowed(version: &str, event: &str) -> bool {
        let (mut room, mut branch) = Room::with(version, ROOM);
        room.say(&mut branch, event).is_ok()
    }

    #[test]
    fn state_is_its_owners_and_of_those_above() {
        const OWNED: &str = super::super::rules::OWNED_STATE;
        for (event, owned, before) in [
            ("bob@two sets m.x /@bob:two", true, true),
            ("bob@two sets m.x /@bob:two_phone", true, false),
            ("bob@two sets m.x /@bob:two_", true, false),
            ("carol sets m.x /@bob:two", false, false),
            ("carol sets m.x /@bob:two_phone", false, false),
            ("alice sets m.x /@bob:two", true, false),
            ("alice sets m.x /@bob:two_phone", true, false),
            ("alice sets m.x /@nobody:else_x", true, false),
            ("alice sets m.x /@nobody", false, false),
            ("alice sets m.x /@bob:two.evil_x", true, false),
            ("bob@two sets m.x /@bob:two.evil_x", false, false),
            ("bob@two sets m.x /@bob:two@x", false, false),
            ("bob@two sets m.x /x_@bob:two", true, true),
        ] {
            assert_eq!(allowed(OWNED, event), owned, "{event}");
            assert_eq!(allowed("10", event), before, "{event} in version 10");
        }
    }

    #[test]
    fn what_follows_the_id_has_a_limit_of_its_own() {
        let event = |bytes: usize| format!("bob@two sets m.x /@bob:two_{}", "x".repeat(bytes));
        const OWNED: &str = super::super::rules::OWNED_STATE;
        assert!(allowed(OWNED, &event(255)));
        assert!(!allowed(OWNED, &event(256)));
    }
}
