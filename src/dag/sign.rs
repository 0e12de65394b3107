//! Hashing, signing and verifying events and other JSON.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ruma::canonical_json::RedactingSerializer;
use ruma::signatures::{KeyPair as _, verify_canonical_json_bytes};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedRoomId, OwnedServerName,
    OwnedUserId, ServerName, SigningKeyAlgorithm, UserId,
};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::format::{object, signed_bytes};
use crate::keys::LENIENT;
use crate::{FormatError, Pdu, Reference, RoomRules, SignatureError, SigningKey, VerifyKeys};

/// An event to be made: everything but hash, signature and id.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The room; none for a create event whose id makes it (v12).
    pub room_id: Option<OwnedRoomId>,
    /// Who sends it.
    pub sender: OwnedUserId,
    /// The event type.
    pub kind: String,
    /// The state key of a state event.
    pub state_key: Option<String>,
    /// The content: a JSON object.
    pub content: Box<RawValue>,
    /// The target of a redaction; it is written where the room version has it.
    pub redacts: Option<OwnedEventId>,
    /// The forward extremities that it follows.
    pub prev_events: Vec<Reference>,
    /// The state events that allow it.
    pub auth_events: Vec<Reference>,
    /// One more than the greatest depth among `prev_events`.
    pub depth: u64,
    /// Milliseconds since 1970.
    pub origin_server_ts: u64,
    /// For how many milliseconds it is sticky (MSC4354).
    pub sticky_ms: Option<u64>,
}

impl Draft {
    /// The event without hash and signature: what `make_join` and its kin hand out.
    pub fn to_object(&self, rules: &RoomRules) -> Result<CanonicalJsonObject, FormatError> {
        let text = |s: &str| CanonicalJsonValue::String(s.to_owned());
        let references = |to: &[Reference]| {
            CanonicalJsonValue::Array(to.iter().map(|to| to.to_json(rules)).collect())
        };
        let number = |field: &'static str, n: u64| {
            ruma::Int::try_from(n)
                .map(CanonicalJsonValue::Integer)
                .map_err(|_| FormatError::field(field, "is too large"))
        };
        let mut content = object(self.content.get())?;
        let mut event = CanonicalJsonObject::new();
        if let Some(redacts) = &self.redacts {
            let target = if rules.redacts_in_content() {
                &mut content
            } else {
                &mut event
            };
            target.insert("redacts".to_owned(), text(redacts.as_str()));
        }
        if let Some(room_id) = &self.room_id {
            event.insert("room_id".to_owned(), text(room_id.as_str()));
        }
        if let Some(state_key) = &self.state_key {
            event.insert("state_key".to_owned(), text(state_key));
        }
        event.insert("sender".to_owned(), text(self.sender.as_str()));
        event.insert("type".to_owned(), text(&self.kind));
        event.insert("content".to_owned(), CanonicalJsonValue::Object(content));
        event.insert("prev_events".to_owned(), references(&self.prev_events));
        event.insert("auth_events".to_owned(), references(&self.auth_events));
        event.insert("depth".to_owned(), number("depth", self.depth)?);
        if let Some(sticky_ms) = self.sticky_ms {
            let duration = number("msc4354_sticky", sticky_ms)?;
            let sticky = CanonicalJsonObject::from([("duration_ms".to_owned(), duration)]);
            event.insert("msc4354_sticky".to_owned(), sticky.into());
        }
        let ts = number("origin_server_ts", self.origin_server_ts)?;
        event.insert("origin_server_ts".to_owned(), ts);
        Ok(event)
    }
}

/// Hashes and signs a draft, and checks that the result is within the limits.
pub fn sign(
    draft: Draft,
    rules: &RoomRules,
    server: &ServerName,
    key: &SigningKey,
) -> Result<Pdu, FormatError> {
    sign_object(draft.to_object(rules)?, rules, server, key)
}

/// Hashes and signs an event that another server prepared (`make_join` and its kin).
pub fn sign_object(
    mut event: CanonicalJsonObject,
    rules: &RoomRules,
    server: &ServerName,
    key: &SigningKey,
) -> Result<Pdu, FormatError> {
    for field in ["unsigned", "event_id", "signatures", "hashes"] {
        event.remove(field);
    }
    if rules.event_id_is_chosen() {
        // Anything that nobody else chooses will do; a hash needs no randomness.
        let opaque = URL_SAFE_NO_PAD.encode(content_hash(&event)?);
        let id = CanonicalJsonValue::String(format!("${opaque}:{server}"));
        event.insert("event_id".to_owned(), id);
    }
    let hash = CanonicalJsonValue::String(LENIENT.encode(content_hash(&event)?));
    let hashes = CanonicalJsonObject::from([("sha256".to_owned(), hash)]);
    event.insert("hashes".to_owned(), CanonicalJsonValue::Object(hashes));
    add_event_signature(&mut event, rules, server, key)?;
    Pdu::from_object(event, rules)
}

/// Adds this server's signature to an event of another server: the resident server signs a
/// restricted join, the invited one an invite. The event keeps its id.
pub fn cosign(
    pdu: &Pdu,
    rules: &RoomRules,
    server: &ServerName,
    key: &SigningKey,
) -> Result<Pdu, FormatError> {
    let mut event = object(pdu.json())?;
    add_event_signature(&mut event, rules, server, key)?;
    Pdu::from_object(event, rules)
}

/// Adds a signature that another server made, beside those that are there.
pub fn add_signature(
    pdu: &Pdu,
    rules: &RoomRules,
    server: &ServerName,
    (key_id, signature): (&str, &str),
) -> Result<Pdu, FormatError> {
    let mut event = object(pdu.json())?;
    insert_signature(&mut event, server, key_id.to_owned(), signature.to_owned())
        .ok_or_else(|| FormatError::field("signatures", "must be an object of objects"))?;
    Pdu::from_object(event, rules)
}

fn add_event_signature(
    event: &mut CanonicalJsonObject,
    rules: &RoomRules,
    server: &ServerName,
    key: &SigningKey,
) -> Result<(), FormatError> {
    let signature = key
        .pair()
        .sign(signed_bytes(event, rules)?.as_bytes())
        .base64();
    insert_signature(event, server, key.key_id(), signature)
        .ok_or_else(|| FormatError::field("signatures", "must be an object of objects"))
}

/// Signs any JSON object: key responses, requests (appendices, "Signing JSON").
pub fn sign_json(
    object: &mut CanonicalJsonObject,
    server: &ServerName,
    key: &SigningKey,
) -> Result<(), SignatureError> {
    let bytes = bytes_without(object, &["signatures", "unsigned"])
        .map_err(|e| SignatureError::Malformed(e.to_string()))?;
    let signature = key.pair().sign(bytes.as_bytes()).base64();
    insert_signature(object, server, key.key_id(), signature)
        .ok_or_else(|| SignatureError::Malformed("`signatures` is no object".to_owned()))
}

fn insert_signature(
    object: &mut CanonicalJsonObject,
    server: &ServerName,
    key_id: String,
    signature: String,
) -> Option<()> {
    let empty = || CanonicalJsonValue::Object(CanonicalJsonObject::new());
    let all = object
        .entry("signatures".to_owned())
        .or_insert_with(empty)
        .as_object_mut()?;
    let ours = all
        .entry(server.as_str().to_owned())
        .or_insert_with(empty)
        .as_object_mut()?;
    ours.insert(key_id, CanonicalJsonValue::String(signature));
    Some(())
}

/// What [`verify`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    /// Signatures and content hash are right.
    All,
    /// The signatures are right, the content hash isn't: somebody redacted or changed the content
    /// on the way. Only the [redacted](crate::redact) event may be used.
    HashMismatch,
}

/// The servers that must have signed an event, each with the ids of the Ed25519 keys that it
/// signed with, so that the caller can fetch keys before [`verify`].
///
/// That is the sender's server, unless the event is an invite made from a third-party invite
/// (whose proof is in the event and in the room); up to v2 the server in the event's id; and since v8 the server of the user who lets a
/// restricted join in (auth rules of v8, 4.2).
pub fn required_signatures(
    pdu: &Pdu,
    rules: &RoomRules,
) -> Result<Vec<(OwnedServerName, Vec<String>)>, SignatureError> {
    let event = parsed(pdu)?;
    let servers = required_servers(&event, pdu, rules)?;
    Ok(servers
        .into_iter()
        .map(|server| {
            let keys = signatures_of(&event, &server)
                .into_iter()
                .flatten()
                .map(|(id, _)| id.clone())
                .filter(|id| id.starts_with("ed25519:"))
                .collect();
            (server, keys)
        })
        .collect())
}

/// Checks the signatures and the content hash of an event (server-server API, "Validating hashes
/// and signatures on received events"): every required server must have signed with a key that is
/// in `keys` and, since v5, was valid at `origin_server_ts`; no signature of such a key may be
/// wrong.
pub fn verify(pdu: &Pdu, rules: &RoomRules, keys: &VerifyKeys) -> Result<Verified, SignatureError> {
    let event = parsed(pdu)?;
    let bytes = signed_bytes(&event, rules).map_err(malformed)?;
    let valid_at = rules.enforce_key_validity().then(|| pdu.origin_server_ts());
    for server in required_servers(&event, pdu, rules)? {
        verify_server(&event, &server, keys, valid_at, &bytes)?;
    }
    if has_its_hash(&event).map_err(malformed)? {
        Ok(Verified::All)
    } else {
        Ok(Verified::HashMismatch)
    }
}

/// Whether an event is as its sender hashed it: what came redacted, or was changed on its way, is not.
pub fn is_whole(pdu: &Pdu) -> Result<bool, FormatError> {
    has_its_hash(&object(pdu.json())?)
}

fn has_its_hash(event: &CanonicalJsonObject) -> Result<bool, FormatError> {
    let claimed = event
        .get("hashes")
        .and_then(CanonicalJsonValue::as_object)
        .and_then(|hashes| hashes.get("sha256"))
        .and_then(CanonicalJsonValue::as_str)
        .and_then(|hash| LENIENT.decode(hash).ok());
    Ok(claimed.as_deref() == Some(&content_hash(event)?[..]))
}

/// Checks that `server` signed an event with a key in `keys`, whoever else has to: a policy server is none of those
/// that [`verify`] asks for, and signs with a key that the room's state names.
pub fn verify_by(
    pdu: &Pdu,
    rules: &RoomRules,
    server: &ServerName,
    keys: &VerifyKeys,
) -> Result<(), SignatureError> {
    let event = parsed(pdu)?;
    let bytes = signed_bytes(&event, rules).map_err(malformed)?;
    verify_server(&event, server, keys, None, &bytes)
}

/// Checks that `server` signed a JSON object with a key in `keys` (appendices, "Checking for a
/// signature"). `valid_at` asks that the key be valid then, in milliseconds since 1970.
pub fn verify_json(
    object: &CanonicalJsonObject,
    server: &ServerName,
    keys: &VerifyKeys,
    valid_at: Option<u64>,
) -> Result<(), SignatureError> {
    let bytes = bytes_without(object, &["signatures", "unsigned"]).map_err(malformed)?;
    verify_server(object, server, keys, valid_at, &bytes)
}

fn verify_server(
    object: &CanonicalJsonObject,
    server: &ServerName,
    keys: &VerifyKeys,
    valid_at: Option<u64>,
    bytes: &str,
) -> Result<(), SignatureError> {
    let signatures =
        signatures_of(object, server).ok_or_else(|| SignatureError::Unsigned(server.to_owned()))?;
    let mut checked = false;
    for (key_id, signature) in signatures {
        let signature = signature.as_str().unwrap_or_default();
        match verify_text(bytes, server, key_id, signature, keys, valid_at) {
            Err(SignatureError::NoUsableKey(_)) => {}
            outcome => {
                outcome?;
                checked = true;
            }
        }
    }
    if checked {
        Ok(())
    } else {
        Err(SignatureError::NoUsableKey(server.to_owned()))
    }
}

/// Checks one signature of a text, in base64, by a key of `server`. `valid_at` is that of [`verify_json`].
pub fn verify_text(
    text: &str,
    server: &ServerName,
    key_id: &str,
    signature: &str,
    keys: &VerifyKeys,
    valid_at: Option<u64>,
) -> Result<(), SignatureError> {
    let key = keys
        .get(server)
        .filter(|_| key_id.starts_with("ed25519:"))
        .and_then(|keys| keys.get(key_id))
        .filter(|key| valid_at.is_none_or(|at| key.valid_until_ts >= at))
        .ok_or_else(|| SignatureError::NoUsableKey(server.to_owned()))?;
    let invalid = || SignatureError::Invalid {
        server: server.to_owned(),
        key_id: key_id.to_owned(),
    };
    let signature = LENIENT.decode(signature).map_err(|_| invalid())?;
    verify_canonical_json_bytes(
        &SigningKeyAlgorithm::Ed25519,
        &key.key,
        &signature,
        text.as_bytes(),
    )
    .map_err(|_| invalid())
}

fn signatures_of<'a>(
    object: &'a CanonicalJsonObject,
    server: &ServerName,
) -> Option<&'a CanonicalJsonObject> {
    object
        .get("signatures")?
        .as_object()?
        .get(server.as_str())?
        .as_object()
}

fn required_servers(
    event: &CanonicalJsonObject,
    pdu: &Pdu,
    rules: &RoomRules,
) -> Result<BTreeSet<OwnedServerName>, SignatureError> {
    let member = (pdu.kind() == "m.room.member")
        .then(|| event.get("content").and_then(CanonicalJsonValue::as_object))
        .flatten();
    let field = |name: &str| member.and_then(|content| content.get(name));
    let membership = field("membership").and_then(CanonicalJsonValue::as_str);

    let mut servers = BTreeSet::new();
    let by_third_party = membership == Some("invite")
        && field("third_party_invite").is_some_and(CanonicalJsonValue::is_object);
    if !by_third_party {
        servers.insert(pdu.sender().server_name().to_owned());
    }
    if rules.ruma().signatures.check_event_id_server {
        servers.extend(pdu.event_id().server_name().map(ToOwned::to_owned));
    }
    if rules
        .ruma()
        .signatures
        .check_join_authorised_via_users_server
        && let Some(user) = field("join_authorised_via_users_server")
    {
        let user = user
            .as_str()
            .and_then(|user| <&UserId>::try_from(user).ok())
            .ok_or_else(|| malformed("`join_authorised_via_users_server` is no user id"))?;
        servers.insert(user.server_name().to_owned());
    }
    Ok(servers)
}

/// SHA-256 of the event without `hashes`, `signatures` and `unsigned` (server-server API,
/// "Calculating the content hash for an event").
fn content_hash(event: &CanonicalJsonObject) -> Result<[u8; 32], FormatError> {
    let bytes = bytes_without(event, &["hashes", "signatures", "unsigned"])?;
    Ok(Sha256::digest(bytes.as_bytes()).into())
}

fn bytes_without(
    object: &CanonicalJsonObject,
    fields: &'static [&'static str],
) -> Result<String, FormatError> {
    RedactingSerializer::new()
        .custom_redacted_root_fields(fields)
        .serialize(object)
        .map_err(|e| FormatError::Json(e.to_string()))
}

fn parsed(pdu: &Pdu) -> Result<CanonicalJsonObject, SignatureError> {
    object(pdu.json()).map_err(malformed)
}

fn malformed(why: impl ToString) -> SignatureError {
    SignatureError::Malformed(why.to_string())
}

#[cfg(test)]
mod tests;
