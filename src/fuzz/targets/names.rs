//! Names that others give: of servers, users, rooms and events, in `X-Matrix` headers, patterns of server ACLs, and the
//! short forms under which they are kept.

use std::collections::BTreeMap;

use resuni_dag::glob;
use resuni_federation::xmatrix::{SignedParts, XMatrix};
use resuni_rooms::{EventHash, StoredId, split_state_key_name, state_key_name};
use ruma::{EventId, RoomId, ServerName, UserId, server_name};
use serde_json::value::RawValue;

/// What names are made of.
pub const WORDS: &[&str] = &[
    "X-Matrix ",
    "origin=",
    "destination=\"b.test\"",
    "key=\"ed25519:1\"",
    "sig=",
    "\\\"",
    ",",
    "[::1]:8448",
    "[fe80::1%25eth0]",
    "1.2.3.4",
    ":65536",
    ":0",
    "a.test:8448",
    "$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB",
    "@a:b.test",
    "!r:b.test",
    "*",
    "?",
    "\u{0}",
    "\u{ff}",
];

/// Takes the bytes as each of these names.
pub fn run(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    header(&text);
    request(&text, bytes);
    identifiers(&text);
    let (first, rest) = split(&text);
    let (second, third) = split(rest);
    state_keys([first, second, third]);
    globs(first, second);
}

/// Before and after the first line break.
fn split(text: &str) -> (&str, &str) {
    text.split_once('\n').unwrap_or((text, ""))
}

/// A header that was read is read the same when it is written as we write ours.
fn header(text: &str) {
    let Ok(read) = XMatrix::parse(text) else {
        return;
    };
    let quoted = |value: &str| format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""));
    let mut written = format!(
        "X-Matrix origin={},key={},sig={}",
        quoted(read.origin.as_str()),
        quoted(&read.key),
        quoted(&read.sig),
    );
    if let Some(destination) = &read.destination {
        written.push_str(&format!(",destination={}", quoted(destination.as_str())));
    }
    // Escapes may make it longer than a header may be.
    if written.len() <= 4096 {
        assert_eq!(XMatrix::parse(&written), Ok(read));
    }
}

/// What a signature covers is JSON, and says what the request said.
fn request(uri: &str, body: &[u8]) {
    let parts = SignedParts {
        method: "PUT",
        uri,
        origin: server_name!("a.test"),
        destination: server_name!("b.test"),
        body,
    };
    let Ok(text) = parts.text() else { return };
    // A number may be one that JSON can express and nobody can read.
    let covered: BTreeMap<String, &RawValue> = serde_json::from_str(&text).expect("JSON");
    let said = |name: &str| serde_json::from_str::<String>(covered[name].get()).expect("a text");
    assert_eq!(said("uri"), uri);
    assert_eq!(said("origin"), "a.test");
    assert_eq!(covered.contains_key("content"), !body.is_empty());
}

fn identifiers(text: &str) {
    if let Ok(name) = <&ServerName>::try_from(text) {
        let port = name.port().map_or(String::new(), |port| format!(":{port}"));
        // A port may be written with zeros before it.
        let host = name.host();
        assert!(text.starts_with(host) && text.len() >= host.len() + port.len());
    }
    if let Ok(user) = <&UserId>::try_from(text) {
        let parts = format!("@{}:{}", user.localpart(), user.server_name());
        assert_eq!(parts, text);
    }
    if let Ok(room) = <&RoomId>::try_from(text) {
        let _ = resuni_rooms::fits(room);
    }
    if let Ok(event) = <&EventId>::try_from(text) {
        let stored = StoredId::of(event);
        assert_eq!(stored.to_id(), event, "an id is kept as it is");
        assert_eq!(stored.key(), EventHash::of(event));
    }
}

/// What stands for the type and the key of a piece of state stands for nothing else.
fn state_keys([one, two, three]: [&str; 3]) {
    let pairs = [(one, two), (two, three), (three, one)];
    let names = pairs.map(|(kind, key)| state_key_name(kind, key));
    for ((kind, key), name) in pairs.iter().zip(&names) {
        let (kind_again, key_again) = split_state_key_name(name).expect("a name");
        assert_eq!((&*kind_again, key_again), (*kind, *key));
    }
    for (pair, name) in pairs.iter().zip(&names) {
        for (other, other_name) in pairs.iter().zip(&names) {
            assert_eq!(pair == other, name == other_name);
        }
    }
}

/// `*` stands for any characters and `?` for one. What is looked for is the name of a server, which is ASCII.
fn globs(pattern: &str, text: &str) {
    if pattern.len() > 12 || text.len() > 12 || !text.is_ascii() {
        let _ = glob(pattern, text);
        return;
    }
    fn matches(pattern: &[char], text: &[char]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, _) => text.is_empty(),
            (Some(('*', rest)), None) => matches(rest, text),
            (Some(('*', rest)), Some((_, after))) => matches(rest, text) || matches(pattern, after),
            (Some(_), None) => false,
            (Some((p, rest)), Some((t, after))) => (*p == '?' || p == t) && matches(rest, after),
        }
    }
    let chars = |text: &str| text.chars().collect::<Vec<_>>();
    assert_eq!(
        glob(pattern, text),
        matches(&chars(pattern), &chars(text)),
        "{pattern:?} {text:?}"
    );
}
