//! Canonical JSON (appendices, "Canonical JSON"), against a plain writer of it.

use resuni_dag::{
    SigningKey, VerifyKey, VerifyKeys, check_nesting, limits, sign_json, verify_json,
};
use ruma::{CanonicalJsonValue, server_name};
use serde_json::Value;

/// What JSON is made of.
pub const WORDS: &[&str] = &[
    "{\"a\":1}",
    "[]",
    "{}",
    "null",
    "true",
    "\"\\u0000\\u001f\\ud83d\\ude00\"",
    "\"\\ud800\"",
    "\u{e9}",
    "\u{feff}",
    "\\",
    "-0",
    "\"a\":1,\"a\":2",
    "[[[[[[[[",
    "{\"a\":{\"a\":{\"a\":",
];

/// Reads the bytes as canonical JSON would be read from another server.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let read: Result<CanonicalJsonValue, _> = serde_json::from_str(text);
    let plain: Result<Value, _> = serde_json::from_str(text);
    let Ok(value) = read else {
        // What is no canonical JSON is no JSON, or has a number that is none.
        assert!(plain.is_err() || has_odd_number(&plain.unwrap()), "refused");
        return;
    };
    let mut expected = String::new();
    write(&plain.unwrap(), &mut expected);
    let written = serde_json::to_string(&value).unwrap();
    assert_eq!(written, expected);
    assert_eq!(value.to_string(), expected);
    let again: CanonicalJsonValue = serde_json::from_str(&written).unwrap();
    assert_eq!(again, value);
    let deep = depth(&value) > limits::JSON_DEPTH;
    assert_eq!(check_nesting(&written, limits::JSON_DEPTH).is_err(), deep);
    signed(value);
}

/// Compact, the keys in the order of their code points, numbers as integers.
fn write(value: &Value, to: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort_by(|a, b| a.chars().cmp(b.chars()));
            to.push('{');
            for (n, key) in keys.into_iter().enumerate() {
                if n > 0 {
                    to.push(',');
                }
                text(key, to);
                to.push(':');
                write(&map[key], to);
            }
            to.push('}');
        }
        Value::Array(list) => {
            to.push('[');
            for (n, value) in list.iter().enumerate() {
                if n > 0 {
                    to.push(',');
                }
                write(value, to);
            }
            to.push(']');
        }
        Value::String(string) => text(string, to),
        other => to.push_str(&other.to_string()),
    }
}

/// The escapes that the grammar of the appendices has, and no others.
fn text(string: &str, to: &mut String) {
    to.push('"');
    for c in string.chars() {
        match c {
            '"' => to.push_str("\\\""),
            '\\' => to.push_str("\\\\"),
            '\u{8}' => to.push_str("\\b"),
            '\t' => to.push_str("\\t"),
            '\n' => to.push_str("\\n"),
            '\u{c}' => to.push_str("\\f"),
            '\r' => to.push_str("\\r"),
            c if c < ' ' => to.push_str(&format!("\\u{:04x}", c as u32)),
            c => to.push(c),
        }
    }
    to.push('"');
}

fn has_odd_number(value: &Value) -> bool {
    let max = limits::MAX_INTEGER as i64;
    match value {
        Value::Number(number) => number.as_i64().is_none_or(|n| n.abs() > max),
        Value::Array(list) => list.iter().any(has_odd_number),
        Value::Object(map) => map.values().any(has_odd_number),
        _ => false,
    }
}

fn depth(value: &CanonicalJsonValue) -> usize {
    match value {
        CanonicalJsonValue::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        CanonicalJsonValue::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// What was signed is verified, and is not when a word of it changed.
fn signed(value: CanonicalJsonValue) {
    let CanonicalJsonValue::Object(mut object) = value else {
        return;
    };
    let server = server_name!("b");
    let key = SigningKey::generate("1", [7; 32]).unwrap();
    // A list where the signatures would be is refused.
    if sign_json(&mut object, server, &key).is_err() {
        return;
    }
    let public = VerifyKey::from_base64(&key.public_key_base64(), u64::MAX).unwrap();
    let keys = VerifyKeys::from([(server.to_owned(), [(key.key_id(), public)].into())]);
    verify_json(&object, server, &keys, None).expect("what was signed");
    let changed = object.insert("one more".to_owned(), CanonicalJsonValue::Null);
    if changed.is_none() {
        assert!(verify_json(&object, server, &keys, None).is_err());
    }
}
