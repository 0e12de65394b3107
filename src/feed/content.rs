//! What a post says, read from content that anybody may have written.
//!
//! A post has the content of a message (MSC4501, "Posts"). Only its plain text is read: no HTML leaves this crate.

use ruma::{MatrixToUri, MatrixUri, OwnedEventId, OwnedRoomId, OwnedUserId, matrix_uri::MatrixId};
use serde_json::Value;

use crate::names::{BODY, RELATES_TO, social};

/// What a post says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PostContent {
    /// The plain text; empty for a file without a caption and for a plain repost.
    pub text: String,
    /// The file that is attached.
    pub attachment: Option<Attachment>,
    /// The post elsewhere that it refers to.
    pub reference: Option<Reference>,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The message type: `m.image`, `m.video`, `m.audio` or `m.file`.
    pub msgtype: String,
    /// Its name, as its sender says.
    pub name: String,
}

/// Why a post refers to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReferenceKind {
    /// It passes it on, with or without words of its own.
    Repost,
    /// It is a copy of an answer to it.
    Reply,
}

/// A post elsewhere. What the referring post claims about its words is not believed, and not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Why.
    pub kind: ReferenceKind,
    /// The room it was posted in.
    pub room_id: OwnedRoomId,
    /// The event.
    pub event_id: OwnedEventId,
    /// Who is said to have posted it.
    pub sender: OwnedUserId,
}

impl PostContent {
    /// Reads the content of an event of this type.
    pub(crate) fn read(kind: &str, content: &Value) -> Self {
        let text = |name: &str| content.get(name).and_then(Value::as_str);
        let body = text("body").unwrap_or_default();
        // "MUST NOT be set on `m.social.post` events" ("Client Backwards Compatibility").
        let shown = BODY
            .iter()
            .find_map(|name| text(name))
            .filter(|_| social(kind).is_none())
            .unwrap_or(body);
        let attachment = text("msgtype")
            .filter(|name| matches!(*name, "m.image" | "m.video" | "m.audio" | "m.file"))
            .map(|msgtype| Attachment {
                msgtype: msgtype.to_owned(),
                name: text("filename").unwrap_or(body).to_owned(),
            });
        // The body of a file is its name, or its caption beside `filename` (client-server API, "Media captions").
        let is_caption = text("filename").is_some_and(|name| name != body);
        let mut read = Self {
            text: match attachment {
                Some(_) if !is_caption && shown == body => String::new(),
                _ => shown.to_owned(),
            },
            attachment,
            reference: None,
        };
        let block = RELATES_TO.iter().find_map(|name| content.get(name));
        if let Some((block, reference)) = block.and_then(|b| Some((b, Reference::read(b)?))) {
            let inline = block.get("content_inline") == Some(&Value::Bool(true));
            if reference.kind == ReferenceKind::Repost && (inline || reference.is_at(body)) {
                read.text.clear();
                read.attachment = None;
            }
            read.reference = Some(reference);
        }
        read
    }
}

impl Reference {
    fn read(block: &Value) -> Option<Self> {
        let text = |name: &str| block.get(name).and_then(Value::as_str);
        Some(Self {
            kind: match social(text("rel_type")?)? {
                "repost" => ReferenceKind::Repost,
                "reply" => ReferenceKind::Reply,
                _ => return None,
            },
            room_id: text("room_id")?.try_into().ok()?,
            event_id: text("event_id")?.try_into().ok()?,
            sender: text("sender")?.try_into().ok()?,
        })
    }

    /// Whether `text` is a link to the post and nothing else ("Reposts").
    fn is_at(&self, text: &str) -> bool {
        let text = text.trim();
        let to = MatrixToUri::parse(text).map(|uri| uri.id().clone());
        let id = to.or_else(|_| MatrixUri::parse(text).map(|uri| uri.id().clone()));
        matches!(id, Ok(MatrixId::Event(room, event))
            if room.as_str() == self.room_id.as_str() && event == self.event_id)
    }
}

/// Whether the post stands by itself: replies are read with what they answer, and edits and annotations are not posts.
pub(crate) fn stands_alone(content: &Value) -> bool {
    content
        .get("m.relates_to")
        .is_none_or(|block| block.get("rel_type").is_none() && block.get("m.in_reply_to").is_none())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn repost(body: &str) -> Value {
        json!({ "msgtype": "m.text", "body": body, "m.social.relates_to": {
            "rel_type": "m.social.repost", "room_id": "!r:x.org", "event_id": "$e", "sender": "@bob:x.org",
            "content": { "body": "what Bob never said" } } })
    }

    #[test]
    fn a_repost_without_words_has_no_text_and_a_quote_has() {
        for link in [
            "https://matrix.to/#/!r:x.org/$e",
            "https://matrix.to/#/!r:x.org/%24e?via=x.org",
            " matrix:roomid/r:x.org/e/e ",
        ] {
            let read = PostContent::read("m.social.post", &repost(link));
            assert_eq!(read.text, "", "{link}");
            assert_eq!(read.reference.unwrap().sender, "@bob:x.org");
        }
        for words in [
            "Look!",
            "https://matrix.to/#/!r:x.org/$other",
            "see https://matrix.to/#/!r:x.org/$e",
        ] {
            let read = PostContent::read("m.social.post", &repost(words));
            assert_eq!(read.text, words);
            assert!(!format!("{read:?}").contains("never said"));
        }
        let mut inline = repost("a copy of Bob's words");
        inline["m.social.relates_to"]["content_inline"] = true.into();
        assert_eq!(PostContent::read("m.social.post", &inline).text, "");
        inline["m.social.relates_to"]["rel_type"] = "org.matrix.msc4501.social.reply".into();
        let reply = PostContent::read("m.social.post", &inline);
        assert_eq!(reply.text, "a copy of Bob's words");
        assert_eq!(reply.reference.unwrap().kind, ReferenceKind::Reply);
    }

    #[test]
    fn the_social_body_counts_in_messages_only() {
        let content =
            json!({ "msgtype": "m.text", "body": "for others", "m.social.body": "for us" });
        assert_eq!(PostContent::read("m.room.message", &content).text, "for us");
        assert_eq!(
            PostContent::read("m.social.post", &content).text,
            "for others"
        );
    }

    #[test]
    fn files_have_names_and_perhaps_captions() {
        let content = json!({ "msgtype": "m.image", "body": "cat.jpg", "url": "mxc://x/y" });
        let read = PostContent::read("m.social.post", &content);
        assert_eq!(
            (read.text.as_str(), read.attachment.unwrap().name.as_str()),
            ("", "cat.jpg")
        );
        let content = json!({ "msgtype": "m.image", "body": "My cat", "filename": "cat.jpg" });
        let read = PostContent::read("m.social.post", &content);
        assert_eq!(
            (read.text.as_str(), read.attachment.unwrap().name.as_str()),
            ("My cat", "cat.jpg")
        );
    }

    #[test]
    fn content_of_any_shape_is_read() {
        for content in [
            json!({}),
            json!({ "body": 7, "msgtype": [], "m.social.relates_to": "x" }),
            json!({ "m.social.relates_to": { "rel_type": "m.social.repost", "room_id": "r" } }),
        ] {
            assert_eq!(
                PostContent::read("m.social.post", &content),
                PostContent::default()
            );
        }
    }

    #[test]
    fn what_answers_or_changes_another_event_does_not_stand_alone() {
        assert!(stands_alone(&json!({ "body": "x" })));
        assert!(stands_alone(&json!({ "m.relates_to": {} })));
        for relation in [
            json!({ "rel_type": "m.thread", "event_id": "$e" }),
            json!({ "rel_type": "m.replace", "event_id": "$e" }),
            json!({ "m.in_reply_to": { "event_id": "$e" } }),
        ] {
            assert!(!stands_alone(&json!({ "m.relates_to": relation })));
        }
    }
}
