//! Who may do what: power levels.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ruma::{OwnedUserId, UserId};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

use crate::{AuthError, Pdu, RoomRules};

/// The power of a user. Every level is less than [`Power::Infinite`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Power {
    /// A power level.
    Level(i64),
    /// A creator of a room whose version places them above all levels (v12).
    Infinite,
}

impl Power {
    /// Whether this is enough for something that needs `level`.
    pub fn reaches(self, level: i64) -> bool {
        self >= Power::Level(level)
    }

    /// The level, with the largest integer of canonical JSON for an infinite one.
    pub fn as_int(self) -> i64 {
        match self {
            Power::Level(level) => level,
            Power::Infinite => crate::limits::MAX_INTEGER as i64,
        }
    }
}

/// The levels of a room, with the defaults of the specification.
#[derive(Clone, Debug)]
pub struct PowerLevels {
    creators: BTreeSet<OwnedUserId>,
    privileged: bool,
    content: Option<Content>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Content {
    #[serde(default)]
    users: BTreeMap<String, Level>,
    #[serde(default)]
    events: BTreeMap<String, Level>,
    #[serde(default)]
    notifications: BTreeMap<String, Level>,
    users_default: Option<Level>,
    events_default: Option<Level>,
    state_default: Option<Level>,
    invite: Option<Level>,
    kick: Option<Level>,
    ban: Option<Level>,
    redact: Option<Level>,
}

/// A level as the room has it: up to v9 it may be a string that holds an integer, or a number with
/// a fraction, which is cut off. Since v10 the auth rules let neither in.
#[derive(Clone, Copy, Debug)]
struct Level(i64);

impl<'de> Deserialize<'de> for Level {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyLevel)
    }
}

/// A level as power levels events hold it in any version: see [`PowerLevels`]. `None` if it is none.
pub fn level_in(value: &serde_json::Value) -> Option<i64> {
    Level::deserialize(value).ok().map(|level| level.0)
}

struct AnyLevel;

impl Visitor<'_> for AnyLevel {
    type Value = Level;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer, or a string that holds one")
    }

    fn visit_i64<E: Error>(self, level: i64) -> Result<Level, E> {
        Ok(Level(level))
    }

    fn visit_u64<E: Error>(self, level: u64) -> Result<Level, E> {
        Ok(Level(i64::try_from(level).unwrap_or(i64::MAX)))
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the fraction is to be cut off, and what is out of range ends at the range"
    )]
    fn visit_f64<E: Error>(self, level: f64) -> Result<Level, E> {
        Ok(Level(level as i64))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Level, E> {
        text.trim().parse().map(Level).map_err(E::custom)
    }
}

impl PowerLevels {
    /// Reads the create event and, where there is one, the power levels event of a state.
    pub fn read(
        create: &Pdu,
        power_levels: Option<&Pdu>,
        rules: &RoomRules,
    ) -> Result<Self, AuthError> {
        let content = power_levels
            .map(|pdu| pdu.content_as::<Content>())
            .transpose()
            .map_err(|e| AuthError(format!("the room's power levels can't be read: {e}")))?;
        Ok(Self {
            creators: creators(create, rules)?,
            privileged: rules.creators_are_privileged(),
            content,
        })
    }

    /// The power of a user.
    pub fn user(&self, user: &UserId) -> Power {
        let creator = self.creators.contains(user);
        if creator && self.privileged {
            return Power::Infinite;
        }
        Power::Level(match &self.content {
            None if creator => 100,
            None => 0,
            Some(content) => {
                let own = content.users.get(user.as_str()).copied();
                own.or(content.users_default).map_or(0, |level| level.0)
            }
        })
    }

    /// The level needed to send an event of this type: a state event if it has a state key.
    pub fn required(&self, kind: &str, state_key: Option<&str>) -> i64 {
        let own = self
            .content
            .as_ref()
            .and_then(|content| content.events.get(kind))
            .map(|level| level.0);
        own.unwrap_or_else(|| match state_key {
            Some(_) => self.level(|c| c.state_default, 50),
            None => self.level(|c| c.events_default, 0),
        })
    }

    /// The level needed to invite.
    pub fn invite(&self) -> i64 {
        self.level(|c| c.invite, 0)
    }

    /// The level needed to kick.
    pub fn kick(&self) -> i64 {
        self.level(|c| c.kick, 50)
    }

    /// The level needed to ban and to unban.
    pub fn ban(&self) -> i64 {
        self.level(|c| c.ban, 50)
    }

    /// The level needed to redact events of other servers' users.
    pub fn redact(&self) -> i64 {
        self.level(|c| c.redact, 50)
    }

    /// The level needed to notify with this key, e.g. `room`.
    pub fn notification(&self, key: &str) -> i64 {
        let own = self
            .content
            .as_ref()
            .and_then(|content| content.notifications.get(key));
        own.map_or(50, |level| level.0)
    }

    /// Whether the user may send an event of this type.
    pub fn may_send(&self, user: &UserId, kind: &str, state_key: Option<&str>) -> bool {
        self.user(user).reaches(self.required(kind, state_key))
    }

    /// Whether a redaction by `sender` takes effect on an event of `target` (room version 3,
    /// "Handling redactions"): with the redact level, or by somebody of the same server.
    pub fn may_redact(&self, sender: &UserId, target: &UserId) -> bool {
        self.user(sender).reaches(self.redact()) || sender.server_name() == target.server_name()
    }

    fn level(&self, field: impl Fn(&Content) -> Option<Level>, default: i64) -> i64 {
        let own = self.content.as_ref().and_then(field);
        own.map_or(default, |level| level.0)
    }
}

/// The power of one user. To ask more than once, keep [`PowerLevels`].
pub fn user_power(
    create: &Pdu,
    power_levels: Option<&Pdu>,
    user: &UserId,
    rules: &RoomRules,
) -> Result<Power, AuthError> {
    Ok(PowerLevels::read(create, power_levels, rules)?.user(user))
}

/// The creators of a room: the sender of the create event (before v11 its `content.creator`), and
/// since v12 the `additional_creators`.
pub fn creators(create: &Pdu, rules: &RoomRules) -> Result<BTreeSet<OwnedUserId>, AuthError> {
    ruma::state_res::events::RoomCreateEvent::new(create)
        .creators(&rules.ruma().authorization)
        .map(|creators| creators.into_iter().collect())
        .map_err(AuthError)
}

#[cfg(test)]
mod tests;
