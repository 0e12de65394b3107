//! The body of a sync, put together from JSON that is ready.

use resuni_rooms::client_format::push_string;
use resuni_store::Position;
use ruma::{OwnedRoomId, OwnedUserId};
use serde_json::json;

use crate::token::SyncToken;

/// The parts of an answer, each a JSON text.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub account_data: Vec<String>,
    pub presence: Vec<String>,
    pub to_device: Vec<String>,
    /// Set when there are more messages: those told here end at this position.
    pub to_device_up_to: Option<Position>,
    /// Set when there are more sticky events: of each room, those up to this position are told.
    pub sticky_up_to: Option<Position>,
    /// Users whose keys the device has to look at again, and those it need not follow any more.
    pub changed: Vec<OwnedUserId>,
    pub left: Vec<OwnedUserId>,
    /// The counts of one-time keys, and the algorithms of unused fallback keys. Nobody is woken
    /// for them alone.
    pub key_counts: Option<[String; 2]>,
    pub join: Vec<(OwnedRoomId, String)>,
    pub invite: Vec<(OwnedRoomId, String)>,
    pub knock: Vec<(OwnedRoomId, String)>,
    pub leave: Vec<(OwnedRoomId, String)>,
}

impl Answer {
    /// Whether there is nothing in it that a waiting client should be woken for.
    pub fn is_empty(&self) -> bool {
        self.account_data.is_empty()
            && self.presence.is_empty()
            && self.to_device.is_empty()
            && self.changed.is_empty()
            && self.left.is_empty()
            && [&self.join, &self.invite, &self.knock, &self.leave]
                .iter()
                .all(|rooms| rooms.is_empty())
    }

    /// The whole object. Empty parts are left out, as the spec allows.
    pub fn into_json(self, now: &SyncToken) -> String {
        let next = SyncToken {
            to_device: self.to_device_up_to.unwrap_or(now.position),
            sticky: self.sticky_up_to.unwrap_or(now.position),
            ..*now
        };
        let rooms = [
            ("join", &self.join),
            ("invite", &self.invite),
            ("knock", &self.knock),
            ("leave", &self.leave),
        ];
        let size: usize = rooms
            .iter()
            .flat_map(|(_, rooms)| rooms.iter())
            .map(|(id, json)| id.as_str().len() + json.len() + 8)
            .sum();
        let mut out = String::with_capacity(size + 256);
        out.push_str("{\"next_batch\":");
        push_string(&mut out, &next.to_string());
        if !self.account_data.is_empty() {
            out.push_str(",\"account_data\":");
            events(&mut out, &self.account_data);
        }
        if !self.presence.is_empty() {
            out.push_str(",\"presence\":");
            events(&mut out, &self.presence);
        }
        self.device(&mut out);
        if rooms.iter().any(|(_, rooms)| !rooms.is_empty()) {
            out.push_str(",\"rooms\":{");
            let mut first = true;
            for (name, rooms) in rooms.into_iter().filter(|(_, rooms)| !rooms.is_empty()) {
                if !std::mem::take(&mut first) {
                    out.push(',');
                }
                push_string(&mut out, name);
                out.push_str(":{");
                for (n, (room, json)) in rooms.iter().enumerate() {
                    if n > 0 {
                        out.push(',');
                    }
                    push_string(&mut out, room.as_str());
                    out.push(':');
                    out.push_str(json);
                }
                out.push('}');
            }
            out.push('}');
        }
        out.push('}');
        out
    }

    /// What is for the device alone.
    fn device(&self, out: &mut String) {
        if !self.to_device.is_empty() {
            out.push_str(",\"to_device\":");
            events(out, &self.to_device);
        }
        if !self.changed.is_empty() || !self.left.is_empty() {
            let lists = json!({ "changed": self.changed, "left": self.left });
            out.push_str(",\"device_lists\":");
            out.push_str(&lists.to_string());
        }
        if let Some([counts, fallback]) = &self.key_counts {
            out.push_str(",\"device_one_time_keys_count\":");
            out.push_str(counts);
            out.push_str(",\"device_unused_fallback_key_types\":");
            out.push_str(fallback);
        }
    }
}

/// `{"events":[…]}`.
pub(crate) fn events(out: &mut String, events: &[String]) {
    out.push_str("{\"events\":");
    list(out, events);
    out.push('}');
}

/// `[…]`.
pub(crate) fn list(out: &mut String, items: &[String]) {
    out.push('[');
    for (n, item) in items.iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        out.push_str(item);
    }
    out.push(']');
}

/// `{"type":…,"content":…}`: account data and ephemeral events.
pub(crate) fn typed(kind: &str, content: &str) -> String {
    let mut out = String::with_capacity(kind.len() + content.len() + 24);
    out.push_str("{\"type\":");
    push_string(&mut out, kind);
    out.push_str(",\"content\":");
    out.push_str(content);
    out.push('}');
    out
}

#[cfg(test)]
mod tests {
    use ruma::room_id;

    use super::*;

    #[test]
    fn the_object() {
        let next = SyncToken::at(Position(3), 0);
        assert_eq!(
            Answer::default().into_json(&next),
            r#"{"next_batch":"s3_0"}"#
        );
        let answer = Answer {
            account_data: vec![typed("m.\"x", "{}")],
            join: vec![(room_id!("!a:h").to_owned(), "{}".to_owned())],
            leave: vec![
                (room_id!("!b:h").to_owned(), "{}".to_owned()),
                (room_id!("!c:h").to_owned(), "{}".to_owned()),
            ],
            ..Answer::default()
        };
        assert_eq!(
            answer.into_json(&next),
            r#"{"next_batch":"s3_0","account_data":{"events":[{"type":"m.\"x","content":{}}]},"rooms":{"join":{"!a:h":{}},"leave":{"!b:h":{},"!c:h":{}}}}"#
        );
    }
}
