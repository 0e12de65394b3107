//! Foreign JSON to an event: check 1 of "Checks performed on receipt of a PDU".

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use ruma::canonical_json::RedactingSerializer;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedEventId, RoomId, UserId};
use sha2::{Digest, Sha256};

use crate::{FormatError, Pdu, RoomRules, limits};

impl Pdu {
    /// Reads an event from JSON that came from outside: within the limits, in the format of the
    /// room version, its id found. `unsigned` is dropped, and so is `event_id` where the id is a
    /// hash of the event.
    ///
    /// Signatures and content hash are not checked here: see [`verify`](crate::verify).
    pub fn parse(json: &str, rules: &RoomRules) -> Result<Pdu, FormatError> {
        if json.len() > limits::RAW_BYTES {
            return Err(FormatError::TooLarge {
                bytes: json.len(),
                max: limits::RAW_BYTES,
            });
        }
        // The parser itself refuses what is nested deeper than 128 levels.
        Self::from_object(object(json)?, rules)
    }

    /// As [`Pdu::parse`], from an object that was parsed already.
    pub fn from_object(
        mut event: CanonicalJsonObject,
        rules: &RoomRules,
    ) -> Result<Pdu, FormatError> {
        event.remove("unsigned");
        if !rules.event_id_is_chosen() {
            event.remove("event_id");
        }
        check_fields(&event, rules)?;
        let json = to_string(&event)?;
        if json.len() > limits::PDU_BYTES {
            return Err(FormatError::TooLarge {
                bytes: json.len(),
                max: limits::PDU_BYTES,
            });
        }
        check_nesting(&json, limits::JSON_DEPTH)?;
        let event_id = event_id_of(&event, rules)?;
        let pdu = Pdu::from_canonical(event_id, json)?;
        let refers_to_itself = |ids: &[OwnedEventId]| ids.iter().any(|id| id == pdu.event_id());
        if refers_to_itself(pdu.prev_events()) || refers_to_itself(pdu.auth_events()) {
            return Err(FormatError::field("prev_events", "lists the event itself"));
        }
        Ok(pdu)
    }
}

/// The object in this canonical or other JSON.
pub(crate) fn object(json: &str) -> Result<CanonicalJsonObject, FormatError> {
    serde_json::from_str(json).map_err(|e| FormatError::Json(e.to_string()))
}

/// Canonical JSON of an object.
pub(crate) fn to_string(object: &CanonicalJsonObject) -> Result<String, FormatError> {
    serde_json::to_string(object).map_err(|e| FormatError::Json(e.to_string()))
}

/// The bytes that a server signs and whose hash is the event id: the redacted event without
/// `signatures` and `unsigned` (server-server API, "Signing events", "Calculating the reference
/// hash").
pub(crate) fn signed_bytes(
    event: &CanonicalJsonObject,
    rules: &RoomRules,
) -> Result<String, FormatError> {
    RedactingSerializer::new()
        .rules(&rules.ruma().redaction)
        .custom_redacted_root_fields(&["signatures", "unsigned"])
        .serialize(event)
        .map_err(|e| FormatError::Json(e.to_string()))
}

/// The event's id. Up to v2 it is what the event says, of the form `$opaque:server`; then it is `$`
/// and the reference hash, in base64 and since v4 in URL-safe base64 ("Event IDs" of v1, v3, v4).
fn event_id_of(
    event: &CanonicalJsonObject,
    rules: &RoomRules,
) -> Result<OwnedEventId, FormatError> {
    if rules.event_id_is_chosen() {
        let id = <&EventId>::try_from(required_text(event, "event_id", rules)?)
            .map_err(|e| FormatError::field("event_id", format!("is no event id: {e}")))?;
        return match id.server_name() {
            Some(_) => Ok(id.to_owned()),
            None => Err(FormatError::field("event_id", "doesn't name a server")),
        };
    }
    let hash = Sha256::digest(signed_bytes(event, rules)?.as_bytes());
    let hash = if rules.event_id_is_url_safe() {
        URL_SAFE_NO_PAD.encode(hash)
    } else {
        STANDARD_NO_PAD.encode(hash)
    };
    EventId::parse(format!("${hash}")).map_err(|e| FormatError::Json(e.to_string()))
}

/// The reference hash as the pairs of `prev_events` and `auth_events` have it up to v2.
pub(crate) fn reference_hash(
    event: &CanonicalJsonObject,
    rules: &RoomRules,
) -> Result<String, FormatError> {
    let hash = Sha256::digest(signed_bytes(event, rules)?.as_bytes());
    Ok(STANDARD_NO_PAD.encode(hash))
}

/// Refuses JSON that is nested deeper than `max`, without recursion.
pub fn check_nesting(json: &str, max: usize) -> Result<(), FormatError> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > max {
                    return Err(FormatError::TooDeep { max });
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Presence, type, size and grammar of the fields that every event has.
fn check_fields(event: &CanonicalJsonObject, rules: &RoomRules) -> Result<(), FormatError> {
    let kind = required_text(event, "type", rules)?;
    let sender = required_text(event, "sender", rules)?;
    UserId::parse(sender)
        .map_err(|e| FormatError::field("sender", format!("is no user id: {e}")))?;
    text_within(event, "state_key", rules.state_key_size(), rules)?;
    check_room_id(event, kind, rules)?;
    integer(event, "origin_server_ts")?;
    integer(event, "depth")?;
    for field in ["content", "hashes", "signatures"] {
        if !matches!(event.get(field), Some(CanonicalJsonValue::Object(_))) {
            return Err(FormatError::field(field, "must be an object"));
        }
    }
    check_references(event, "prev_events", limits::PREV_EVENTS, rules)?;
    check_references(event, "auth_events", limits::AUTH_EVENTS, rules)
}

/// Room version 12: a create event has no room id, since it makes it; every other event has one
/// that is a reference hash. Before: `!opaque:server`.
fn check_room_id(
    event: &CanonicalJsonObject,
    kind: &str,
    rules: &RoomRules,
) -> Result<(), FormatError> {
    let by_hash = rules.room_id_is_create_hash();
    if by_hash && kind == "m.room.create" {
        return match event.get("room_id") {
            None => Ok(()),
            Some(_) => Err(FormatError::field(
                "room_id",
                "must be absent in a create event",
            )),
        };
    }
    let text = required_text(event, "room_id", rules)?;
    let id = <&RoomId>::try_from(text)
        .map_err(|e| FormatError::field("room_id", format!("is no room id: {e}")))?;
    let well_formed = if by_hash {
        is_hash(id.strip_sigil())
    } else {
        id.server_name().is_some()
    };
    if well_formed {
        Ok(())
    } else {
        Err(FormatError::field(
            "room_id",
            "doesn't have the form of this room version",
        ))
    }
}

/// 32 bytes in unpadded URL-safe base64.
fn is_hash(text: &str) -> bool {
    text.len() == 43
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

fn text_within<'a>(
    event: &'a CanonicalJsonObject,
    field: &'static str,
    max: usize,
    rules: &RoomRules,
) -> Result<Option<&'a str>, FormatError> {
    let size = |text: &str| match rules.sizes_in_characters() {
        true => text.chars().count(),
        false => text.len(),
    };
    match event.get(field) {
        None => Ok(None),
        Some(CanonicalJsonValue::String(text)) if size(text) <= max => Ok(Some(text)),
        Some(CanonicalJsonValue::String(_)) => {
            let problem = format!("is longer than {max}");
            Err(FormatError::field(field, problem))
        }
        Some(_) => Err(FormatError::field(field, "must be a string")),
    }
}

fn required_text<'a>(
    event: &'a CanonicalJsonObject,
    field: &'static str,
    rules: &RoomRules,
) -> Result<&'a str, FormatError> {
    text_within(event, field, limits::ID_BYTES, rules)?
        .ok_or_else(|| FormatError::field(field, "is missing"))
}

fn integer(event: &CanonicalJsonObject, field: &'static str) -> Result<(), FormatError> {
    match event.get(field) {
        Some(CanonicalJsonValue::Integer(n)) if i64::from(*n) >= 0 => Ok(()),
        Some(CanonicalJsonValue::Integer(_)) => Err(FormatError::field(field, "is negative")),
        Some(_) => Err(FormatError::field(field, "must be an integer")),
        None => Err(FormatError::field(field, "is missing")),
    }
}

/// At most `max` event ids, none twice; with their hashes where the version wants them.
fn check_references(
    event: &CanonicalJsonObject,
    field: &'static str,
    max: usize,
    rules: &RoomRules,
) -> Result<(), FormatError> {
    let Some(CanonicalJsonValue::Array(ids)) = event.get(field) else {
        return Err(FormatError::field(field, "must be an array"));
    };
    if ids.len() > max {
        return Err(FormatError::field(
            field,
            format!("has more than {max} entries"),
        ));
    }
    let mut seen = Vec::with_capacity(ids.len());
    for entry in ids {
        let id = referenced(entry, rules)
            .filter(|id| id.len() <= limits::ID_BYTES && <&EventId>::try_from(*id).is_ok())
            .ok_or_else(|| FormatError::field(field, "holds something that is no event id"))?;
        if seen.contains(&id) {
            return Err(FormatError::field(field, "lists an event twice"));
        }
        seen.push(id);
    }
    Ok(())
}

/// The id in an entry of `prev_events` or `auth_events`: `[id, {"sha256": hash}]` up to v2, then
/// the id alone. What the hash says is nobody's proof, as the id is not derived from it: other
/// servers don't look at it either.
fn referenced<'a>(entry: &'a CanonicalJsonValue, rules: &RoomRules) -> Option<&'a str> {
    if !rules.references_have_hashes() {
        return entry.as_str();
    }
    match entry.as_array()? {
        [id, CanonicalJsonValue::Object(_)] => id.as_str(),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
