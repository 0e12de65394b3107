//! Filters (spec, "Filtering"): what a client wants to be spared.

use resuni_rooms::fields::EventFields;
use ruma::{
    RoomId, UserId,
    api::client::filter::{Filter, LazyLoadOptions, RoomEventFilter, RoomFilter, UrlFilter},
};
use serde::Deserialize;

/// Whether `pattern`, in which `*` stands for anything, matches all of `text`. Linear in both but
/// for the last star, so a pattern of many stars costs no more than its length times the text's.
pub fn wildcard(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    (p, t) = (at + 1, from + 1);
                    star = Some((at, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// `not_*` wins over the positive list; an absent list lets all through, an empty one nothing.
fn passes<T>(wanted: Option<&[T]>, unwanted: &[T], matches: impl Fn(&T) -> bool) -> bool {
    !unwanted.iter().any(&matches) && wanted.is_none_or(|wanted| wanted.iter().any(&matches))
}

/// Whether a room filter lets the room through at all.
pub fn room(filter: &RoomFilter, room: &RoomId) -> bool {
    passes(filter.rooms.as_deref(), &filter.not_rooms, |id| id == room)
}

/// Whether a filter of room events lets anything of this room through.
pub fn events_of_room(filter: &RoomEventFilter, room: &RoomId) -> bool {
    passes(filter.rooms.as_deref(), &filter.not_rooms, |id| id == room)
}

/// Whether a filter of room events lets this type and sender through.
pub fn event(filter: &RoomEventFilter, kind: &str, sender: Option<&UserId>) -> bool {
    passes(filter.types.as_deref(), &filter.not_types, |pattern| {
        wildcard(pattern, kind)
    }) && sender.is_none_or(|sender| {
        passes(filter.senders.as_deref(), &filter.not_senders, |id| {
            id == sender
        })
    })
}

/// Whether a filter of room events lets this event through, its content's `url` considered.
pub fn pdu(filter: &RoomEventFilter, fields: &EventFields<'_>) -> bool {
    let Ok(sender) = <&UserId>::try_from(fields.sender_str()) else {
        return false;
    };
    if !event(filter, fields.kind_str(), Some(sender)) {
        return false;
    }
    match filter.url_filter {
        None => true,
        Some(wanted) => {
            let url = resuni_rooms::fields::member(fields.content, "url")
                .is_some_and(|value| value.starts_with('"'));
            url == (wanted == UrlFilter::EventsWithUrl)
        }
    }
}

/// Which relations a filter of `/messages` asks for (MSC3874, under its unstable names): the part of a filter of room
/// events that ruma does not know.
#[derive(Debug, Default, Deserialize)]
pub struct RelationTypes {
    #[serde(rename = "org.matrix.msc3874.rel_types")]
    wanted: Option<Vec<String>>,
    #[serde(rename = "org.matrix.msc3874.not_rel_types", default)]
    unwanted: Vec<String>,
}

impl RelationTypes {
    /// What the JSON of a filter says of them.
    ///
    /// # Errors
    /// When they are no lists of strings.
    pub fn of(filter: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(filter)
    }

    /// Whether they let this event through. One without a relation is of no wanted type, and of no unwanted one.
    pub fn pass(&self, fields: &EventFields<'_>) -> bool {
        if self.wanted.is_none() && self.unwanted.is_empty() {
            return true;
        }
        let relation = resuni_rooms::fields::member(fields.content, "m.relates_to")
            .and_then(|relation| resuni_rooms::fields::string_member(relation, "rel_type"));
        passes(self.wanted.as_deref(), &self.unwanted, |kind| {
            relation.as_ref() == Some(kind)
        })
    }
}

/// Whether a filter of things outside rooms lets this type through.
pub fn global(filter: &Filter, kind: &str) -> bool {
    passes(filter.types.as_deref(), &filter.not_types, |pattern| {
        wildcard(pattern, kind)
    })
}

/// Whether a filter of things outside rooms lets this sender through.
pub fn sender(filter: &Filter, sender: &UserId) -> bool {
    passes(filter.senders.as_deref(), &filter.not_senders, |id| {
        id == sender
    })
}

/// Whether members are to be loaded lazily (spec, "Lazy-loading room members").
pub fn lazy(filter: &RoomEventFilter) -> bool {
    matches!(filter.lazy_load_options, LazyLoadOptions::Enabled { .. })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn wildcards() {
        for (pattern, text, expected) in [
            ("m.room.*", "m.room.message", true),
            ("m.room.*", "m.roomx", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("**a", "bba", true),
        ] {
            assert_eq!(wildcard(pattern, text), expected, "{pattern} {text}");
        }
        let pattern = "*a".repeat(100);
        assert!(!wildcard(&pattern, &"a".repeat(99)));
    }

    #[test]
    fn lists() {
        assert!(passes::<u8>(None, &[], |_| true));
        assert!(!passes::<u8>(Some(&[]), &[], |_| true));
        assert!(!passes(Some(&[1]), &[1], |n| *n == 1));
    }

    #[test]
    fn relation_types() {
        let event = |relation: &str| format!(r#"{{"content":{{{relation}}},"type":"m.x"}}"#);
        let thread = event(r#""m.relates_to":{"event_id":"$a","rel_type":"m.thread"}"#);
        let reply = event(r#""m.relates_to":{"m.in_reply_to":{"event_id":"$a"}}"#);
        let plain = event("");
        for (filter, expected) in [
            ("{}", [true, true, true]),
            (
                r#"{"org.matrix.msc3874.rel_types":["m.thread"]}"#,
                [true, false, false],
            ),
            (
                r#"{"org.matrix.msc3874.rel_types":[]}"#,
                [false, false, false],
            ),
            (
                r#"{"org.matrix.msc3874.not_rel_types":["m.thread"]}"#,
                [false, true, true],
            ),
            (
                r#"{"org.matrix.msc3874.rel_types":["m.thread"],"org.matrix.msc3874.not_rel_types":["m.thread"]}"#,
                [false, false, false],
            ),
        ] {
            let types = RelationTypes::of(filter).unwrap();
            let passed = [&thread, &reply, &plain].map(|event| types.pass(&EventFields::of(event)));
            assert_eq!(passed, expected, "{filter}");
        }
        assert!(RelationTypes::of(r#"{"org.matrix.msc3874.rel_types":"m.thread"}"#).is_err());
    }
}
