//! Server access control lists (client-server API, "Server Access Control Lists").

use ruma::ServerName;
use serde_json::Value;
use serde_json::value::RawValue;

/// What an `m.room.server_acl` event allows. Without such an event every server is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAcl {
    allow: Vec<String>,
    deny: Vec<String>,
    allow_ip_literals: bool,
}

impl ServerAcl {
    /// Reads the content of the event. Whatever is malformed in it counts as absent: absent lists
    /// are empty, `allow_ip_literals` is true.
    pub fn read(content: &RawValue) -> Self {
        let content: Value = serde_json::from_str(content.get()).unwrap_or_default();
        let list = |name: &str| {
            let entries = content.get(name).and_then(Value::as_array);
            let text = |entry: &Value| entry.as_str().map(str::to_ascii_lowercase);
            entries
                .map(|list| list.iter().filter_map(text).collect())
                .unwrap_or_default()
        };
        Self {
            allow: list("allow"),
            deny: list("deny"),
            allow_ip_literals: content
                .get("allow_ip_literals")
                .and_then(Value::as_bool)
                .unwrap_or(true),
        }
    }

    /// Whether the server may take part. Its port doesn't matter.
    pub fn allows(&self, server: &ServerName) -> bool {
        let host = server.host().to_ascii_lowercase();
        if !self.allow_ip_literals && server.is_ip_literal() {
            return false;
        }
        let listed = |list: &[String]| list.iter().any(|pattern| glob(pattern, &host));
        !listed(&self.deny) && listed(&self.allow)
    }
}

/// Whether all of `text` matches `pattern`, where `*` stands for any characters and `?` for one.
///
/// On a mismatch only the last `*` takes one character more: an earlier one never needs to, since
/// the later can take whatever it would have. So the time is at most the product of the lengths.
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match &mut star {
                Some((after, from)) => {
                    *from += 1;
                    (p, t) = (*after, *from);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests;
