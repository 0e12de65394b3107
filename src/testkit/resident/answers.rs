//! What the made-up server answers.

use std::collections::HashMap;

use anyhow::Context as _;
use parking_lot::Mutex;
use resuni_dag::sign_json;
use ruma::CanonicalJsonObject;
use serde_json::{Value, json};

use super::{Identity, room::MadeUpRoom};

/// The answer's body; none to what is not known.
pub(crate) fn answer(
    identity: &Identity,
    room: &Mutex<MadeUpRoom>,
    request: &http::request::Parts,
    body: &[u8],
) -> anyhow::Result<Option<String>> {
    let path = request.uri.path();
    let query: HashMap<String, String> = request
        .uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), decoded(value)))
        .collect();
    if path == "/_matrix/key/v2/server" {
        return keys(identity).map(Some);
    }
    let Some(rest) = path.strip_prefix("/_matrix/federation/") else {
        return Ok(None);
    };
    let parts: Vec<String> = rest.split('/').map(decoded).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let event = query.get("event_id").map(String::as_str);
    let mut room = room.lock();
    Ok(match (&parts[..], event) {
        (["v1", "version"], _) => {
            Some(json!({ "server": { "name": "made up", "version": "1" } }).to_string())
        }
        (["v1", "make_join", _, user], _) => Some(room.join_template(user)?),
        (["v2", "send_join", _, _], _) => {
            let omit = query.get("omit_members").is_some_and(|omit| omit == "true");
            Some(room.join(std::str::from_utf8(body)?, omit)?)
        }
        (["v1", "state_ids", _], Some(_)) => Some(room.state_ids()),
        (["v1", "state", _], Some(_)) => Some(room.state()),
        (["v1", "event_auth", _, _], _) => Some(room.auth_chain_answer()),
        (["v1", "event", id], _) => room.event(id),
        (["v1", "backfill", _], _) => {
            let from = query.get("v").context("no event to begin with")?;
            let limit = query.get("limit").and_then(|limit| limit.parse().ok());
            Some(room.history(&[from.as_str()], &[], limit.unwrap_or(10), "pdus"))
        }
        (["v1", "get_missing_events", _], _) => {
            let asked: Value = serde_json::from_slice(body)?;
            let ids = |field: &str| -> Vec<&str> {
                let list = asked[field].as_array().into_iter().flatten();
                list.filter_map(Value::as_str).collect()
            };
            let limit = asked["limit"].as_u64().unwrap_or(10) as usize;
            let latest: Vec<&str> = ids("latest_events")
                .into_iter()
                .flat_map(|id| room.follows(id))
                .collect();
            Some(room.history(&latest, &ids("earliest_events"), limit, "events"))
        }
        (["v1", "send", _], _) => Some(hear(&mut room, body)?),
        _ => None,
    })
}

fn hear(room: &mut MadeUpRoom, body: &[u8]) -> anyhow::Result<String> {
    let transaction: Value = serde_json::from_slice(body)?;
    for pdu in transaction["pdus"].as_array().into_iter().flatten() {
        room.hear(&pdu.to_string());
    }
    Ok(json!({ "pdus": {} }).to_string())
}

fn keys(identity: &Identity) -> anyhow::Result<String> {
    let Identity { name, key } = identity;
    let answer = json!({
        "server_name": name,
        "valid_until_ts": 4_000_000_000_000_u64,
        "verify_keys": { key.key_id(): { "key": key.public_key_base64() } },
        "old_verify_keys": {},
    });
    let mut answer: CanonicalJsonObject = serde_json::from_value(answer)?;
    sign_json(&mut answer, name, key)?;
    Ok(serde_json::to_string(&answer)?)
}

/// Without percent-encoding.
fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text)
        .decode_utf8_lossy()
        .into_owned()
}
