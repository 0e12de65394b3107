//! Limits of the event format (client-server API, "Size limits"; room version 6, "Event format").

/// Most bytes of an event in canonical JSON, signatures included.
pub const PDU_BYTES: usize = 65_536;
/// Most bytes of foreign JSON that is looked at at all: escapes, white space and `unsigned` may
/// make an event longer on the wire than it is in canonical form.
pub const RAW_BYTES: usize = 8 * PDU_BYTES;
/// Most bytes of a user id, room id, event id, event type or state key; in events of room versions
/// up to 10 most characters.
pub const ID_BYTES: usize = 255;
/// Most bytes of a state key that begins with a user id, where such state has an owner (MSC3757).
pub const OWNED_STATE_KEY: usize = 2 * ID_BYTES + 1;
/// Most entries of `prev_events`.
pub const PREV_EVENTS: usize = 20;
/// Most entries of `auth_events`.
pub const AUTH_EVENTS: usize = 10;
/// Deepest nesting of objects and arrays in an event, the event itself counted. Just under what
/// common JSON parsers refuse, so that whatever we accept can be wrapped and read by others.
pub const JSON_DEPTH: usize = 100;
/// Largest `depth`; every integer of canonical JSON is at most this (2^53 - 1).
pub const MAX_INTEGER: u64 = (1 << 53) - 1;
