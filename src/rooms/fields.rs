//! The members of a JSON object as slices of its text.
//!
//! Pages of history are written straight from the stored canonical JSON: what a client gets of an
//! event (`content`, `type`, `sender` …) is copied by its bytes and never parsed into a tree. The
//! scanner is for JSON that Resuni wrote itself; on anything else it ends early, it never panics.

/// Iterates over the members of a JSON object: the key without its quotes (escapes are left as they
/// are, event fields have none) and the text of the value.
#[derive(Debug, Clone)]
pub struct Members<'a> {
    rest: &'a str,
}

impl<'a> Members<'a> {
    /// The members of the object `json`; none when it isn't an object.
    pub fn of(json: &'a str) -> Self {
        let rest = json.trim_ascii().strip_prefix('{').unwrap_or("");
        Self { rest }
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.trim_ascii_start();
        let key_end = string_end(rest)?;
        let key = rest.get(1..key_end - 1)?;
        let after_key = rest
            .get(key_end..)?
            .trim_ascii_start()
            .strip_prefix(':')?
            .trim_ascii_start();
        let value_end = value_end(after_key)?;
        let value = after_key.get(..value_end)?;
        let tail = after_key.get(value_end..)?.trim_ascii_start();
        self.rest = tail.strip_prefix(',').unwrap_or("");
        Some((key, value))
    }
}

/// The text of the member `key` of the object `json`.
pub fn member<'a>(json: &'a str, key: &str) -> Option<&'a str> {
    Members::of(json)
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value)
}

/// The string member `key` of the object `json`, unescaped.
pub fn string_member(json: &str, key: &str) -> Option<String> {
    serde_json::from_str(member(json, key)?).ok()
}

/// Where the JSON string at the start of `text` ends (just after its closing quote).
fn string_end(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    if bytes.first() != Some(&b'"') {
        return None;
    }
    let mut at = 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Where the JSON value at the start of `text` ends.
fn value_end(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    match bytes.first()? {
        b'"' => string_end(text),
        b'{' | b'[' => container_end(text),
        _ => Some(
            bytes
                .iter()
                .position(|b| matches!(b, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t'))
                .unwrap_or(bytes.len()),
        ),
    }
}

fn container_end(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut depth = 0usize;
    let mut at = 0;
    loop {
        match bytes.get(at)? {
            b'"' => {
                at += 1;
                loop {
                    match bytes.get(at)? {
                        b'"' => break,
                        b'\\' => at += 2,
                        _ => at += 1,
                    }
                }
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
        at += 1;
    }
}

/// The fields of a PDU that readers need, each as its JSON text (strings with their quotes).
#[derive(Debug, Clone, Copy, Default)]
pub struct EventFields<'a> {
    /// `content`, an object.
    pub content: &'a str,
    /// `origin_server_ts`, milliseconds.
    pub origin_server_ts: &'a str,
    /// `redacts` at the top level (room versions before 11).
    pub redacts: Option<&'a str>,
    /// `sender`, quoted.
    pub sender: &'a str,
    /// `state_key`, quoted; `None` for a message event.
    pub state_key: Option<&'a str>,
    /// `msc4354_sticky`, an object.
    pub sticky: Option<&'a str>,
    /// `type`, quoted.
    pub kind: &'a str,
}

impl<'a> EventFields<'a> {
    /// The fields of the PDU `json`.
    pub fn of(json: &'a str) -> Self {
        let mut fields = Self {
            content: "{}",
            origin_server_ts: "0",
            sender: "\"\"",
            kind: "\"\"",
            ..Self::default()
        };
        for (key, value) in Members::of(json) {
            match key {
                "content" => fields.content = value,
                "origin_server_ts" => fields.origin_server_ts = value,
                "redacts" => fields.redacts = Some(value),
                crate::sticky::FIELD => fields.sticky = Some(value),
                "sender" => fields.sender = value,
                "state_key" => fields.state_key = Some(value),
                "type" => fields.kind = value,
                _ => {}
            }
        }
        fields
    }

    /// The event type without quotes, escapes left as they are.
    pub fn kind_str(&self) -> &'a str {
        unquoted(self.kind)
    }

    /// The sender without quotes (user ids need no escapes).
    pub fn sender_str(&self) -> &'a str {
        unquoted(self.sender)
    }

    /// The state key without quotes, escapes left as they are.
    pub fn state_key_str(&self) -> Option<&'a str> {
        self.state_key.map(unquoted)
    }

    /// When the sender's server says the event was made, in milliseconds since the epoch.
    pub fn timestamp(&self) -> u64 {
        self.origin_server_ts.parse().unwrap_or(0)
    }
}

/// A JSON string's text without its quotes.
pub(crate) fn unquoted(json: &str) -> &str {
    json.strip_prefix('"')
        .and_then(|s| s.strip_suffix('"'))
        .unwrap_or("")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_of_a_pdu() {
        let json = r#"{"auth_events":["$a","$b}"],"content":{"body":"he said \"}\\\"","n":[1,{"x":"]"}]},"depth":3,"origin_server_ts":12,"redacts":"$r","sender":"@a:b","state_key":"","type":"m.x"}"#;
        let fields = EventFields::of(json);
        assert_eq!(
            fields.content,
            r#"{"body":"he said \"}\\\"","n":[1,{"x":"]"}]}"#
        );
        assert_eq!(
            (
                fields.kind_str(),
                fields.sender_str(),
                fields.state_key_str()
            ),
            ("m.x", "@a:b", Some(""))
        );
        assert_eq!((fields.timestamp(), fields.redacts), (12, Some("\"$r\"")));
    }

    #[test]
    fn broken_text_ends_the_iteration() {
        for text in [
            "",
            "{",
            "{\"",
            "{\"a",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":\"\\",
            "{\"a\":[",
            "[1]",
            "{\"a\":{]",
            "nul",
        ] {
            let _ = Members::of(text).count();
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i32>().prop_map(Into::into),
            ".*".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
                prop::collection::btree_map("[a-z]{0,5}", inner, 0..5)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn slices_are_the_values(map in prop::collection::btree_map("[a-z_]{1,8}", json(), 0..6), pretty: bool) {
            let value = serde_json::Value::Object(map.clone().into_iter().collect());
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let read: std::collections::BTreeMap<String, serde_json::Value> = Members::of(&text)
                .map(|(key, slice)| (key.to_owned(), serde_json::from_str(slice).unwrap()))
                .collect();
            prop_assert_eq!(read, map);
        }

        #[test]
        fn never_panics(text in ".*") {
            let _ = Members::of(&text).count();
            let _ = Members::of(&format!("{{\"a\":{text}")).count();
        }
    }
}
