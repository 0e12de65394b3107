//! Tags: the piece of account data `m.tag` of a room, one tag at a time.

use serde_json::{Map, Value};

use crate::{AccountNum, Accounts, error::AccountError};

pub(crate) const TAG: &str = "m.tag";
/// The longest name of a tag (spec, "Room Tagging").
const TAG_BYTES: usize = 255;

/// The tags in the content of `m.tag`. Clients may also write it as account data, so it can hold
/// anything; what is not an object has no tags.
fn tags_in(content: Option<&str>) -> Map<String, Value> {
    let content = content.and_then(|json| serde_json::from_str::<Value>(json).ok());
    match content {
        Some(Value::Object(mut content)) => match content.remove("tags") {
            Some(Value::Object(tags)) => tags,
            _ => Map::new(),
        },
        _ => Map::new(),
    }
}

pub(crate) fn content(tags: Map<String, Value>) -> Map<String, Value> {
    Map::from_iter([("tags".to_owned(), Value::Object(tags))])
}

impl Accounts {
    /// The tags of a room: what is known of each, by its name.
    pub async fn tags(
        &self,
        account: AccountNum,
        room: &str,
    ) -> Result<Map<String, Value>, AccountError> {
        let stored = self.account_data(account, Some(room), TAG).await?;
        Ok(tags_in(stored.as_deref().map(|content| content.get())))
    }

    /// Puts a tag on a room. `info` says more about it, such as its `order`.
    pub async fn set_tag(
        &self,
        account: AccountNum,
        room: &str,
        tag: &str,
        info: Map<String, Value>,
    ) -> Result<(), AccountError> {
        if tag.len() > TAG_BYTES {
            return Err(AccountError::InvalidParam(format!(
                "The name of a tag may have at most {TAG_BYTES} bytes."
            )));
        }
        self.update_account_data(account, Some(room), TAG, |old| {
            let mut tags = tags_in(old);
            tags.insert(tag.to_owned(), Value::Object(info));
            Ok(Some(content(tags)))
        })
        .await
    }

    /// Takes a tag off a room. That it was not there is no error.
    pub async fn delete_tag(
        &self,
        account: AccountNum,
        room: &str,
        tag: &str,
    ) -> Result<(), AccountError> {
        self.update_account_data(account, Some(room), TAG, |old| {
            let mut tags = tags_in(old);
            Ok(tags.remove(tag).map(|_| content(tags)))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::testing::{accounts, alice};

    #[tokio::test]
    async fn tags_come_and_go() {
        let accounts = accounts().await;
        let alice = alice(&accounts).await;
        let order = json!({"order": 0.25}).as_object().unwrap().clone();
        accounts
            .set_tag(alice, "!r:x", "u.work", order.clone())
            .await
            .unwrap();
        accounts
            .set_tag(alice, "!r:x", "m.favourite", Map::new())
            .await
            .unwrap();
        let tags = accounts.tags(alice, "!r:x").await.unwrap();
        assert_eq!(
            Value::Object(tags),
            json!({"u.work": order, "m.favourite": {}})
        );
        accounts.delete_tag(alice, "!r:x", "u.work").await.unwrap();
        let before = accounts.snapshot().position();
        accounts.delete_tag(alice, "!r:x", "u.work").await.unwrap();
        assert_eq!(accounts.snapshot().position(), before, "nothing to tell");
        let stored = accounts
            .account_data(alice, Some("!r:x"), "m.tag")
            .await
            .unwrap();
        assert_eq!(stored.unwrap().get(), r#"{"tags":{"m.favourite":{}}}"#);
        assert!(accounts.tags(alice, "!other:x").await.unwrap().is_empty());
        let long = "u.".to_owned() + &"x".repeat(254);
        assert!(
            accounts
                .set_tag(alice, "!r:x", &long, Map::new())
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn tags_set_at_once_are_all_kept() {
        let accounts = accounts().await;
        let alice = alice(&accounts).await;
        let tasks: Vec<_> = (0..16)
            .map(|n| {
                let accounts = Arc::clone(&accounts);
                tokio::spawn(async move {
                    let tag = format!("u.{n}");
                    accounts
                        .set_tag(alice, "!r:x", &tag, Map::new())
                        .await
                        .unwrap();
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(accounts.tags(alice, "!r:x").await.unwrap().len(), 16);
    }
}
