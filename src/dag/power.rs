//! Who may do what: power levels.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedUserId, UserId};
use serde::Deserialize;

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
    users: BTreeMap<String, i64>,
    #[serde(default)]
    events: BTreeMap<String, i64>,
    #[serde(default)]
    notifications: BTreeMap<String, i64>,
    users_default: Option<i64>,
    events_default: Option<i64>,
    state_default: Option<i64>,
    invite: Option<i64>,
    kick: Option<i64>,
    ban: Option<i64>,
    redact: Option<i64>,
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
                own.or(content.users_default).unwrap_or(0)
            }
        })
    }

    /// The level needed to send an event of this type: a state event if it has a state key.
    pub fn required(&self, kind: &str, state_key: Option<&str>) -> i64 {
        let own = self
            .content
            .as_ref()
            .and_then(|content| content.events.get(kind))
            .copied();
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
        own.copied().unwrap_or(50)
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

    fn level(&self, field: impl Fn(&Content) -> Option<i64>, default: i64) -> i64 {
        self.content.as_ref().and_then(field).unwrap_or(default)
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
