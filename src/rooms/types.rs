//! Short local numbers: what the tables use instead of long identifiers, and the small values they share.
//!
//! A number means something in this database only and never leaves the process.

use std::{borrow::Cow, fmt, str::FromStr};

use resuni_store::{Corrupt, Key, Namespace, Position};
use ruma::{EventId, OwnedEventId, RoomId, UserId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Rooms by their full id.
pub static ROOM_NUMBERS: Namespace = Namespace::new(0x01, "rooms");
/// Users, local and remote, by their full id.
pub static USER_NUMBERS: Namespace = Namespace::new(0x02, "users");
/// Servers by name.
pub static SERVER_NUMBERS: Namespace = Namespace::new(0x03, "servers");
/// State keys by `type \0 state_key`.
pub static STATE_KEY_NUMBERS: Namespace = Namespace::new(0x04, "state keys");
/// Events: a bare sequence, `EVENT_IDS` holds the way from an id to its number.
pub static EVENT_NUMBERS: Namespace = Namespace::new(0x05, "events");
/// Nodes of state trees: a bare sequence.
pub static NODE_NUMBERS: Namespace = Namespace::new(0x06, "state nodes");
/// State snapshots: a bare sequence.
pub static SNAP_NUMBERS: Namespace = Namespace::new(0x07, "state snapshots");

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u64);

        resuni_store::key_newtype!($name, u64);
    };
}

number!(/// A room.
    RoomNum);
number!(/// A user, local or remote.
    UserNum);
number!(/// A server.
    ServerNum);
number!(/// An event.
    EventNum);
number!(/// A pair of event type and state key.
    StateKeyNum);
number!(/// A state: a row of `SNAPS`. `SnapNum::EMPTY` is the state before any event and has no row.
    SnapNum);
number!(/// A node of a state tree. `NodeNum::EMPTY` is the tree without entries and has no row.
    NodeNum);

impl SnapNum {
    /// The state that holds nothing.
    pub const EMPTY: Self = Self(0);
}

impl NodeNum {
    /// The tree that holds nothing.
    pub const EMPTY: Self = Self(0);
}

/// What stands for an event id in the keys of tables: the hash that an id is since room version 4
/// (`$` and its base64). Of any other id, as versions 1 to 3 have them, it is the SHA-256, which nobody
/// can make equal to the hash of another event.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EventHash(pub [u8; 32]);

impl EventHash {
    /// The key of an event id.
    pub fn of(id: &EventId) -> Self {
        Self(hash_in(id).unwrap_or_else(|| Sha256::digest(id.as_str()).into()))
    }
}

/// The 32 bytes of an id of room version 4 or later.
fn hash_in(id: &EventId) -> Option<[u8; 32]> {
    decode_base64url(id.as_str().strip_prefix('$')?)
}

/// An event id as rows hold it: from it the id can be written out again.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoredId {
    /// Of room version 4 and later: the hash that the id is.
    Hash(EventHash),
    /// Of versions 1 to 3: the id itself.
    Text(String),
}

impl StoredId {
    /// The short form of an id.
    pub fn of(id: &EventId) -> Self {
        match hash_in(id) {
            Some(hash) => Self::Hash(EventHash(hash)),
            None => Self::Text(id.as_str().to_owned()),
        }
    }

    /// What stands for it in keys.
    pub fn key(&self) -> EventHash {
        match self {
            Self::Hash(hash) => *hash,
            Self::Text(id) => EventHash(Sha256::digest(id).into()),
        }
    }

    /// The event id, written out.
    pub fn to_id(&self) -> OwnedEventId {
        let id = match self {
            Self::Hash(hash) => OwnedEventId::try_from(format!("${}", encode_base64url(&hash.0))),
            Self::Text(id) => OwnedEventId::try_from(id.as_str()),
        };
        // `$` and 43 characters of base64, and what was an event id when it was stored.
        id.unwrap_or_else(|_| unreachable!("a stored id is a valid one"))
    }
}

impl fmt::Debug for StoredId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hash(hash) => hash.fmt(f),
            Self::Text(id) => f.write_str(id),
        }
    }
}

impl fmt::Debug for EventHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${}", encode_base64url(&self.0))
    }
}

impl Key for EventHash {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }
    fn decode(input: &mut &[u8]) -> Result<Self, Corrupt> {
        <[u8; 32]>::decode(input).map(Self)
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn encode_base64url(bytes: &[u8; 32]) -> String {
    let mut text = String::with_capacity(43);
    for chunk in bytes.chunks(3) {
        let bits = chunk
            .iter()
            .fold(0u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for i in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * i)) as usize & 63]));
        }
    }
    text
}

fn decode_base64url(text: &str) -> Option<[u8; 32]> {
    if text.len() != 43 {
        return None;
    }
    let mut bytes = [0u8; 33];
    for (group, out) in text.as_bytes().chunks(4).zip(bytes.chunks_mut(3)) {
        let mut bits = 0u32;
        for i in 0..4 {
            let value = match group.get(i) {
                None => 0,
                Some(c @ b'A'..=b'Z') => c - b'A',
                Some(c @ b'a'..=b'z') => c - b'a' + 26,
                Some(c @ b'0'..=b'9') => c - b'0' + 52,
                Some(b'-') => 62,
                Some(b'_') => 63,
                Some(_) => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        out.copy_from_slice(&bits.to_be_bytes()[1..]);
    }
    // The last character carries four bits only: another spelling of the same hash is another id.
    let (hash, rest) = bytes.split_at(32);
    (rest == [0]).then(|| hash.try_into().ok()).flatten()
}

/// What a user is to a room. The numbers are part of the disk layout (`MEMBERS`, `USER_ROOMS`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Membership {
    /// `join`
    Join = 1,
    /// `invite`
    Invite = 2,
    /// `knock`
    Knock = 3,
    /// `leave`, which includes having been kicked
    Leave = 4,
    /// `ban`
    Ban = 5,
}

impl Membership {
    /// The name in `m.room.member`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Invite => "invite",
            Self::Knock => "knock",
            Self::Leave => "leave",
            Self::Ban => "ban",
        }
    }

    /// The membership with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [
            Self::Join,
            Self::Invite,
            Self::Knock,
            Self::Leave,
            Self::Ban,
        ]
        .into_iter()
        .find(|m| m.as_str() == name)
    }
}

impl Key for Membership {
    fn encode(&self, out: &mut Vec<u8>) {
        (*self as u8).encode(out);
    }
    fn decode(input: &mut &[u8]) -> Result<Self, Corrupt> {
        let number = u8::decode(input)?;
        [
            Self::Join,
            Self::Invite,
            Self::Knock,
            Self::Leave,
            Self::Ban,
        ]
        .into_iter()
        .find(|m| *m as u8 == number)
        .ok_or(Corrupt::new("membership"))
    }
}

/// A place in a room's timeline, ordered as the timeline is. As a client's token it names the place
/// *between* events: just after the event at `(position, sub)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimelineToken {
    /// The log position the event, or the event its gap was closed for, arrived at.
    pub position: Position,
    /// `u32::MAX` for an event that arrived live, less for history laid before it.
    pub sub: u32,
}

impl TimelineToken {
    /// The place of an event that arrives live at `position`; as a token: all that arrived up to it.
    pub fn live(position: Position) -> Self {
        Self {
            position,
            sub: u32::MAX,
        }
    }
}

impl fmt::Display for TimelineToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}_{}", self.position.0, self.sub)
    }
}

/// The text is not a timeline token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not a token of a place in a timeline")]
pub struct BadToken;

impl FromStr for TimelineToken {
    type Err = BadToken;

    /// Reads `t{position}_{sub}`, and a sync token `s{position}…` as all that arrived up to it.
    fn from_str(text: &str) -> Result<Self, BadToken> {
        if let Some(rest) = text.strip_prefix('t') {
            let (position, sub) = rest.split_once('_').ok_or(BadToken)?;
            let position = Position(position.parse().map_err(|_| BadToken)?);
            return Ok(Self {
                position,
                sub: sub.parse().map_err(|_| BadToken)?,
            });
        }
        let rest = text.strip_prefix('s').ok_or(BadToken)?;
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        Ok(Self::live(Position(
            rest[..end].parse().map_err(|_| BadToken)?,
        )))
    }
}

/// What stands for NUL in an event type: a byte that no UTF-8 has.
const NUL_IN_TYPE: u8 = 0xff;

/// The name of a state key in `STATE_KEY_NUMBERS`: the type, NUL, the key. Both may hold a NUL themselves, as anybody may
/// write one there, so it is written as another byte in the type.
pub fn state_key_name(kind: &str, state_key: &str) -> Vec<u8> {
    let mut name = Vec::with_capacity(kind.len() + 1 + state_key.len());
    let escaped = |byte| if byte == 0 { NUL_IN_TYPE } else { byte };
    name.extend(kind.bytes().map(escaped));
    name.push(0);
    name.extend_from_slice(state_key.as_bytes());
    name
}

/// The event type and the state key in such a name. The type ends at the first NUL, so a state key may hold one.
pub fn split_state_key_name(name: &[u8]) -> Option<(Cow<'_, str>, &str)> {
    let end = name.iter().position(|byte| *byte == 0)?;
    let (kind, state_key) = (&name[..end], std::str::from_utf8(&name[end + 1..]).ok()?);
    if !kind.contains(&NUL_IN_TYPE) {
        return Some((Cow::Borrowed(std::str::from_utf8(kind).ok()?), state_key));
    }
    let kind = kind.iter().map(|byte| match *byte {
        NUL_IN_TYPE => 0,
        byte => byte,
    });
    Some((
        Cow::Owned(String::from_utf8(kind.collect()).ok()?),
        state_key,
    ))
}

/// The server a user lives on, as it is written in the id.
pub fn server_of(user: &UserId) -> &str {
    user.server_name().as_str()
}

/// Whether a room id can be kept: ids longer than the limit are refused before they reach a table.
pub fn fits(room: &RoomId) -> bool {
    room.as_str().len() <= resuni_dag::limits::ID_BYTES
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn event_ids_survive_the_way_to_rows_and_back() {
        let ids = [
            // Versions 4, 3 and 1.
            ("$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg", true),
            ("$acR1l0raoZnm60CBwAVgqbZqoO/mYU81xysh1u7XcJk", false),
            ("$h29iv0s8:example.com", false),
            // The same bits as the first but for the two that base64 drops: another id.
            ("$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zh", false),
            ("$short", false),
        ];
        let mut keys = std::collections::HashSet::new();
        for (text, is_hash) in ids {
            let id = OwnedEventId::try_from(text).unwrap();
            let stored = StoredId::of(&id);
            assert_eq!(matches!(stored, StoredId::Hash(_)), is_hash, "{text}");
            assert_eq!(stored.to_id(), id);
            assert_eq!(stored.key(), EventHash::of(&id));
            assert!(keys.insert(stored.key()), "{text}");
            let row = postcard::to_allocvec(&stored).unwrap();
            assert_eq!(postcard::from_bytes::<StoredId>(&row).unwrap(), stored);
        }
    }

    /// A type and a key with a NUL are not taken for another type and key: two servers would hold different states.
    #[test]
    fn a_nul_in_a_type_makes_it_no_other_type() {
        let pairs = [
            ("a\0b", "c"),
            ("a", "b\0c"),
            ("a\0b\0c", ""),
            ("a", "b"),
            ("é\0", "ÿ"),
        ];
        let mut names = std::collections::HashSet::new();
        for (kind, key) in pairs {
            let name = state_key_name(kind, key);
            let (kind_again, key_again) = split_state_key_name(&name).unwrap();
            assert_eq!((&*kind_again, key_again), (kind, key));
            assert!(names.insert(name), "{kind:?} {key:?}");
        }
        // What was written before is read as it was.
        assert_eq!(state_key_name("m.room.name", ""), b"m.room.name\0");
        assert_eq!(split_state_key_name(b"no separator"), None);
    }

    #[test]
    fn tokens() {
        let token: TimelineToken = "t17_4294967294".parse().unwrap();
        assert_eq!((token.position, token.sub), (Position(17), u32::MAX - 1));
        assert_eq!(token.to_string().parse::<TimelineToken>().unwrap(), token);
        assert_eq!("s42".parse(), Ok(TimelineToken::live(Position(42))));
        assert_eq!("s42_7".parse(), Ok(TimelineToken::live(Position(42))));
        for bad in ["", "t", "t1", "t_1", "t1_-1", "x1", "s", "t1_4294967296"] {
            assert_eq!(bad.parse::<TimelineToken>(), Err(BadToken), "{bad}");
        }
    }
}
