//! What clients send that is read before anything else: tokens and filters.

use resuni_rooms::{TimelineToken, fields::EventFields};
use resuni_sync::{
    SyncToken,
    filter::{self, RelationTypes, wildcard},
};
use ruma::{api::client::filter::FilterDefinition, room_id, user_id};

/// What tokens and filters are made of.
pub const WORDS: &[&str] = &[
    "s1_2",
    "t1_4294967295",
    "_",
    "{\"room\":{\"timeline\":{",
    "}}}",
    "\"limit\":0",
    "\"types\":[\"m.*\"]",
    "\"not_types\":[\"*\"]",
    "\"senders\":[\"@a:b\"]",
    "\"rooms\":[\"!r:b\"]",
    "\"lazy_load_members\":true",
    "\"contains_url\":true",
    "\"org.matrix.msc3874.rel_types\":[\"m.thread\"]",
    "\"event_format\":\"federation\"",
    "\"event_fields\":[\"content.body\"]",
    "*",
];

const EVENT: &str = r#"{"auth_events":[],"content":{"body":"hi","m.relates_to":{"rel_type":"m.thread"},"url":"mxc://b/x"},"depth":3,"hashes":{},"origin_server_ts":5,"prev_events":[],"room_id":"!r:b","sender":"@a:b","signatures":{},"type":"m.room.message"}"#;

/// Takes the bytes as a token and as a filter.
pub fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(token) = text.parse::<SyncToken>() {
        assert_eq!(token.to_string().parse(), Ok(token));
        assert!(token.to_device <= token.position);
    }
    if let Ok(token) = text.parse::<TimelineToken>() {
        assert_eq!(token.to_string().parse(), Ok(token));
    }
    filters(&text);
    let (pattern, name) = text.split_once('\n').unwrap_or((&text, "m.room.message"));
    if pattern.len() <= 12 && name.len() <= 12 {
        assert_eq!(
            wildcard(pattern, name),
            matches(pattern.as_bytes(), name.as_bytes())
        );
    } else {
        let _ = wildcard(pattern, name);
    }
}

fn filters(text: &str) {
    if let Ok(relations) = RelationTypes::of(text) {
        let _ = relations.pass(&EventFields::of(EVENT));
    }
    let Ok(definition) = serde_json::from_str::<FilterDefinition>(text) else {
        return;
    };
    let rooms = &definition.room;
    let (room, sender) = (room_id!("!r:b"), user_id!("@a:b"));
    let _ = filter::room(rooms, room);
    for events in [&rooms.timeline, &rooms.state, &rooms.ephemeral] {
        let _ = filter::lazy(events);
        let fields = EventFields::of(EVENT);
        // The content's address may keep it back, and nothing else may that its type and sender don't.
        if filter::pdu(events, &fields) {
            assert!(filter::event(events, "m.room.message", Some(sender)));
        }
        let _ = filter::events_of_room(events, room);
    }
    for outside in [&definition.presence, &definition.account_data] {
        let _ = (
            filter::global(outside, "m.direct"),
            filter::sender(outside, sender),
        );
    }
}

/// `*` stands for anything.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|at| matches(rest, &text[at..])),
        Some((byte, rest)) => text.first() == Some(byte) && matches(rest, &text[1..]),
    }
}
