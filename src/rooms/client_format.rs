//! Events as clients and other servers read them, cut from the stored canonical JSON.
//!
//! Spec: client-server API, "Room event format" (`ClientEvent`, `ClientEventWithoutRoomID`,
//! `StrippedStateEvent`). Nothing here is stored: `unsigned` is made anew for each reader.

use std::fmt::Write as _;

use ruma::{EventId, RoomId};

use crate::fields::{EventFields, Members, member};

/// What a reader is told about an event beyond the event itself.
#[derive(Debug, Clone, Default)]
pub struct Unsigned<'a> {
    /// The time by our clock in milliseconds; `age` is counted from it.
    pub now_ms: u64,
    /// The transaction id, only for the device that sent the event.
    pub transaction_id: Option<&'a str>,
    /// The client form of the redaction that emptied this event.
    pub redacted_because: Option<&'a str>,
    /// The `content` of the state event that this one replaced, if the reader may see that one.
    pub prev_content: Option<&'a str>,
    /// The sender of the state event that this one replaced, told beside its content.
    pub prev_sender: Option<&'a str>,
    /// The id of the state event that this one replaced.
    pub replaces_state: Option<&'a EventId>,
    /// The reader's membership at the event, changes by the event included.
    pub membership: Option<&'a str>,
    /// For how many milliseconds more it is sticky (MSC4354).
    pub sticky_ms: Option<u64>,
    /// Bundled aggregations, a JSON object.
    pub relations: Option<&'a str>,
}

impl Unsigned<'_> {
    /// Writes the object `unsigned`.
    fn write(&self, out: &mut String, origin_server_ts: u64) {
        // `age` may be negative where another server's clock is ahead of ours (`UnsignedData`).
        let age = i128::from(self.now_ms) - i128::from(origin_server_ts);
        let _ = write!(out, "{{\"age\":{age}");
        if let Some(membership) = self.membership {
            out.push_str(",\"membership\":");
            push_string(out, membership);
        }
        if let Some(relations) = self.relations {
            out.push_str(",\"m.relations\":");
            out.push_str(relations);
        }
        if let Some(rest) = self.sticky_ms {
            let _ = write!(out, ",\"{}_duration_ttl_ms\":{rest}", crate::sticky::FIELD);
        }
        if let Some(content) = self.prev_content {
            out.push_str(",\"prev_content\":");
            out.push_str(content);
        }
        // Not in the specification, but clients ask it who invited somebody that has joined since.
        if let Some(sender) = self.prev_sender {
            out.push_str(",\"prev_sender\":");
            push_string(out, sender);
        }
        if let Some(redaction) = self.redacted_because {
            out.push_str(",\"redacted_because\":");
            out.push_str(redaction);
        }
        if let Some(event_id) = self.replaces_state {
            out.push_str(",\"replaces_state\":");
            push_string(out, event_id.as_str());
        }
        if let Some(transaction_id) = self.transaction_id {
            out.push_str(",\"transaction_id\":");
            push_string(out, transaction_id);
        }
        out.push('}');
    }
}

/// Writes the client form of the PDU `json` to `out`; `room_id` is left out where the answer
/// implies it (`/sync`).
pub fn write_client_event(
    out: &mut String,
    event_id: &EventId,
    room_id: Option<&RoomId>,
    json: &str,
    unsigned: &Unsigned<'_>,
) {
    let fields = EventFields::of(json);
    write_fields(out, event_id, room_id, &fields, unsigned);
}

/// As [`write_client_event`], for fields that were already cut.
pub fn write_fields(
    out: &mut String,
    event_id: &EventId,
    room_id: Option<&RoomId>,
    fields: &EventFields<'_>,
    unsigned: &Unsigned<'_>,
) {
    out.push_str("{\"content\":");
    let redacts = redacts(fields);
    match redacts {
        Some(target) => write_content_with_redacts(out, fields.content, target),
        None => out.push_str(fields.content),
    }
    out.push_str(",\"event_id\":");
    push_string(out, event_id.as_str());
    out.push_str(",\"origin_server_ts\":");
    out.push_str(fields.origin_server_ts);
    if let Some(target) = redacts {
        out.push_str(",\"redacts\":");
        out.push_str(target);
    }
    if let Some(room_id) = room_id {
        out.push_str(",\"room_id\":");
        push_string(out, room_id.as_str());
    }
    if let Some(sticky) = fields.sticky {
        let _ = write!(out, ",\"{}\":{sticky}", crate::sticky::FIELD);
    }
    out.push_str(",\"sender\":");
    out.push_str(fields.sender);
    if let Some(state_key) = fields.state_key {
        out.push_str(",\"state_key\":");
        out.push_str(state_key);
    }
    out.push_str(",\"type\":");
    out.push_str(fields.kind);
    out.push_str(",\"unsigned\":");
    unsigned.write(out, fields.timestamp());
    out.push('}');
}

/// The client form of a PDU as a string.
pub fn client_event(
    event_id: &EventId,
    room_id: Option<&RoomId>,
    json: &str,
    unsigned: &Unsigned<'_>,
) -> String {
    let mut out = String::with_capacity(json.len() + 128);
    write_client_event(&mut out, event_id, room_id, json, unsigned);
    out
}

/// The federation form with `unsigned` for a client that asked for `event_format: federation`.
pub fn write_federation_event(out: &mut String, json: &str, unsigned: &Unsigned<'_>) {
    let Some(open) = json.strip_suffix('}') else {
        return;
    };
    out.push_str(open);
    out.push_str(",\"unsigned\":");
    unsigned.write(out, EventFields::of(json).timestamp());
    out.push('}');
}

/// The stripped form: `content`, `sender`, `state_key` and `type` only, and of the create event
/// `origin_server_ts`, so that clients can tell how old the room is (MSC4311). What another server sent
/// as stripped state goes through here too before a client sees it (spec v1.16).
pub fn stripped(json: &str) -> Option<String> {
    let fields = EventFields::of(json);
    let state_key = fields.state_key?;
    let time = match fields.kind_str() {
        "m.room.create" => format!("\"origin_server_ts\":{},", fields.timestamp()),
        _ => String::new(),
    };
    Some(format!(
        "{{\"content\":{},{time}\"sender\":{},\"state_key\":{state_key},\"type\":{}}}",
        fields.content, fields.sender, fields.kind
    ))
}

/// The redacted event's id (quoted) of a redaction, from whichever place its room version keeps it.
fn redacts<'a>(fields: &EventFields<'a>) -> Option<&'a str> {
    if fields.kind != "\"m.room.redaction\"" {
        return None;
    }
    fields.redacts.or_else(|| member(fields.content, "redacts"))
}

/// "For backwards-compatibility … servers should copy `redacts`": clients of either age find it in
/// the content and at the top level, whatever the room version (`m.room.redaction`).
fn write_content_with_redacts(out: &mut String, content: &str, target: &str) {
    out.push_str("{\"redacts\":");
    out.push_str(target);
    for (key, value) in Members::of(content).filter(|(key, _)| *key != "redacts") {
        let _ = write!(out, ",\"{key}\":{value}");
    }
    out.push('}');
}

/// Writes `text` as a JSON string.
pub fn push_string(out: &mut String, text: &str) {
    if text.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\') {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&serde_json::Value::from(text).to_string());
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use ruma::{event_id, room_id};
    use serde_json::{Value, json};

    use super::*;

    fn client(pdu: &Value, unsigned: &Unsigned<'_>) -> Value {
        let text = client_event(
            event_id!("$e"),
            Some(room_id!("!r:h")),
            &pdu.to_string(),
            unsigned,
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn only_client_fields_are_left() {
        let pdu = json!({
            "auth_events": ["$a"], "prev_events": ["$p"], "depth": 7, "hashes": {"sha256": "x"},
            "signatures": {"h": {"k": "v"}}, "room_id": "!r:h", "sender": "@a:h", "type": "m.room.name",
            "state_key": "", "origin_server_ts": 1000, "content": {"name": "a \"room\""},
        });
        let unsigned = Unsigned {
            now_ms: 900,
            transaction_id: Some("tx\"1"),
            prev_content: Some("{\"name\":\"old\"}"),
            prev_sender: Some("@b:h"),
            replaces_state: Some(event_id!("$old")),
            membership: Some("join"),
            ..Unsigned::default()
        };
        assert_eq!(
            client(&pdu, &unsigned),
            json!({
                "event_id": "$e", "room_id": "!r:h", "sender": "@a:h", "type": "m.room.name", "state_key": "",
                "origin_server_ts": 1000, "content": {"name": "a \"room\""},
                "unsigned": {"age": -100, "transaction_id": "tx\"1", "prev_content": {"name": "old"}, "prev_sender": "@b:h",
                             "replaces_state": "$old", "membership": "join"},
            })
        );
    }

    #[test]
    fn redacts_has_both_spellings_in_every_room_version() {
        let v10 = json!({"type": "m.room.redaction", "sender": "@a:h", "origin_server_ts": 1, "redacts": "$t",
                         "content": {"reason": "spam", "redacts": "$lie"}});
        let v11 = json!({"type": "m.room.redaction", "sender": "@a:h", "origin_server_ts": 1,
                         "content": {"redacts": "$t"}});
        for pdu in [v10, v11] {
            let event = client(&pdu, &Unsigned::default());
            assert_eq!(
                (&event["redacts"], &event["content"]["redacts"]),
                (&json!("$t"), &json!("$t"))
            );
        }
        // Another type's `redacts` means nothing.
        let other = json!({"type": "m.x", "sender": "@a:h", "origin_server_ts": 1, "content": {}, "redacts": "$t"});
        assert_eq!(client(&other, &Unsigned::default()).get("redacts"), None);
    }

    #[test]
    fn stripped_state_has_four_fields() {
        let pdu = json!({"type": "m.room.name", "state_key": "", "sender": "@a:h", "content": {"name": "x"},
                         "origin_server_ts": 3, "signatures": {}});
        let stripped: Value = serde_json::from_str(&stripped(&pdu.to_string()).unwrap()).unwrap();
        assert_eq!(
            stripped,
            json!({"type": "m.room.name", "state_key": "", "sender": "@a:h", "content": {"name": "x"}})
        );
        let create = json!({"type": "m.room.create", "state_key": "", "sender": "@a:h", "content": {},
                            "origin_server_ts": 3, "depth": 1});
        let create: Value =
            serde_json::from_str(&super::stripped(&create.to_string()).unwrap()).unwrap();
        assert_eq!(
            create,
            json!({"type": "m.room.create", "state_key": "", "sender": "@a:h", "content": {}, "origin_server_ts": 3})
        );
        assert_eq!(
            super::stripped(r#"{"type":"m.x","sender":"@a:h","content":{}}"#),
            None
        );
    }
}
