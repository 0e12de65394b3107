//! The fields of an event that a client wants (client-server API, "Filtering", `event_fields`).

use serde_json::{Map, Value};

/// Fields that a filter may name. Who names more is told all there are, as the spec allows.
const MOST: usize = 100;

/// Fields, each as the names on the way to it.
pub(crate) struct WantedFields(Vec<Vec<String>>);

impl WantedFields {
    /// `None` where a filter wants all fields.
    pub fn of(fields: Option<&[String]>) -> Option<Self> {
        let fields = fields.filter(|fields| fields.len() <= MOST)?;
        Some(Self(fields.iter().map(|path| names(path)).collect()))
    }

    /// What is wanted of an event, or of each event of a list.
    pub fn cut(&self, json: String) -> String {
        match serde_json::from_str(&json) {
            Ok(Value::Object(event)) => self.of_event(&event).to_string(),
            Ok(Value::Array(events)) => {
                let events = events.iter().filter_map(Value::as_object);
                Value::Array(events.map(|event| self.of_event(event)).collect()).to_string()
            }
            _ => json,
        }
    }

    fn of_event(&self, event: &Map<String, Value>) -> Value {
        let mut kept = Map::new();
        for path in &self.0 {
            if let Some(value) = at(event, path) {
                keep(&mut kept, path, value);
            }
        }
        Value::Object(kept)
    }
}

/// The names in a path ("Dot-separated property paths"): a backslash takes its meaning from a dot or another backslash.
fn names(path: &str) -> Vec<String> {
    let (mut names, mut name) = (Vec::new(), String::new());
    let mut rest = path.chars().peekable();
    while let Some(next) = rest.next() {
        match (next, rest.peek()) {
            ('.', _) => names.push(std::mem::take(&mut name)),
            ('\\', Some('.' | '\\')) => name.extend(rest.next()),
            _ => name.push(next),
        }
    }
    names.push(name);
    names
}

fn at<'a>(from: &'a Map<String, Value>, path: &[String]) -> Option<&'a Value> {
    let (name, rest) = path.split_first()?;
    let value = from.get(name)?;
    match rest {
        [] => Some(value),
        _ => at(value.as_object()?, rest),
    }
}

fn keep(to: &mut Map<String, Value>, path: &[String], value: &Value) {
    let Some((name, rest)) = path.split_first() else {
        return;
    };
    if rest.is_empty() {
        to.insert(name.clone(), value.clone());
        return;
    }
    let inner = to
        .entry(name.clone())
        .or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(inner) = inner {
        keep(inner, rest, value);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths() {
        for (path, expected) in [
            ("type", &["type"][..]),
            ("content.body", &["content", "body"]),
            (r"content.m\.relates_to", &["content", "m.relates_to"]),
            (r"content.m\\foo", &["content", r"m\foo"]),
            (r"a\x.b", &[r"a\x", "b"]),
            (r"a\", &[r"a\"]),
            ("", &[""]),
            ("a..b", &["a", "", "b"]),
        ] {
            assert_eq!(names(path), expected, "{path}");
        }
    }

    #[test]
    fn what_is_wanted_is_left() {
        let event = json!({
            "type": "m.x", "sender": "@a:h",
            "content": { "body": "b", "m.relates_to": { "key": 1, "rel_type": "r" }, "other": 2 },
        });
        let cut = |fields: &[&str]| {
            let fields: Vec<String> = fields.iter().map(|field| (*field).to_owned()).collect();
            let cut = WantedFields::of(Some(&fields)).unwrap();
            serde_json::from_str::<Value>(&cut.cut(event.to_string())).unwrap()
        };
        assert_eq!(cut(&[]), json!({}));
        assert_eq!(
            cut(&["type", "content.body", "content.none.x", "type.x"]),
            json!({ "type": "m.x", "content": { "body": "b" } })
        );
        assert_eq!(
            cut(&[r"content.m\.relates_to.key", "sender"]),
            json!({ "sender": "@a:h", "content": { "m.relates_to": { "key": 1 } } })
        );
        assert_eq!(
            cut(&["content", "content.body"])["content"],
            event["content"]
        );
        assert_eq!(
            cut(&["content.body", "content"])["content"],
            event["content"]
        );
        assert!(WantedFields::of(None).is_none());
        assert!(WantedFields::of(Some(&vec![String::new(); MOST + 1])).is_none());
    }
}
