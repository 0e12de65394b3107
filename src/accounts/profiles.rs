//! Profiles: any number of named fields (spec v1.16, MSC4133), 64 KiB in all.

use std::collections::BTreeMap;

use resuni_store::{Batch, Direction, ScanRange, Snapshot, StoreError};
use serde_json::Value;

use crate::{
    Accounts,
    error::AccountError,
    tables::{AccountNum, PROFILE, PROFILES, ProfileChanged},
};

/// The largest profile in bytes: its names and values as compact JSON.
pub const MAX_PROFILE_BYTES: usize = 65_536;
/// The longest name of a field in bytes.
pub const MAX_KEY_BYTES: usize = 255;
/// The longest display name in characters, and the longest avatar address in bytes. Both are
/// copied into every room's membership event, which has to fit into an event.
const DISPLAY_NAME_CHARS: usize = 256;
const AVATAR_URL_BYTES: usize = 1_000;

/// A profile: JSON values by the names of their fields.
pub type Profile = BTreeMap<String, Value>;

/// The JSON of a field's value if the field may have it.
pub(crate) fn checked_field(key: &str, value: Value) -> Result<String, AccountError> {
    if key.len() > MAX_KEY_BYTES {
        return Err(AccountError::KeyTooLarge);
    }
    // Appendices, "Common Namespaced Identifier Grammar".
    let mut bytes = key.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_lowercase());
    if !first || !bytes.all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.')) {
        return Err(AccountError::InvalidParam(
            "The name of a profile field begins with a letter a-z and has the characters a-z 0-9 - _ . only.".into(),
        ));
    }
    let bad = |why: &str| Err(AccountError::InvalidParam(why.to_owned()));
    match (key, &value) {
        ("displayname", Value::String(name)) if name.chars().count() > DISPLAY_NAME_CHARS => {
            return bad("A display name may have at most 256 characters.");
        }
        ("avatar_url", Value::String(url)) if url.len() > AVATAR_URL_BYTES => {
            return bad("An avatar address may have at most 1000 bytes.");
        }
        ("displayname" | "avatar_url" | "m.tz", value) if !value.is_string() => {
            return bad("The value of this profile field has to be a string.");
        }
        _ => {}
    }
    Ok(value.to_string())
}

/// An empty name or avatar means none: clients had no other way to remove them before v1.16.
fn means_none(key: &str, value: &Value) -> bool {
    matches!(key, "displayname" | "avatar_url") && value.as_str() == Some("")
}

impl Accounts {
    /// The profile of a local part; none when there is no such active account.
    pub async fn profile(&self, localpart: &str) -> Result<Option<Profile>, AccountError> {
        let Some(account) = self.find(localpart).await? else {
            return Ok(None);
        };
        match self.active(account).await {
            Ok(_) => {}
            Err(AccountError::Deactivated | AccountError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        }
        let fields = self.profile_rows(&self.snapshot(), account).await?;
        fields
            .into_iter()
            .map(|(key, json)| Ok((key, parse(&json)?)))
            .collect::<Result<_, AccountError>>()
            .map(Some)
    }

    /// One field of a profile.
    pub async fn profile_field(
        &self,
        account: AccountNum,
        key: &str,
    ) -> Result<Option<Value>, AccountError> {
        let row = self
            .snapshot()
            .get(&PROFILES, &(account, key.to_owned()))
            .await?;
        row.as_deref().map(parse).transpose()
    }

    /// Sets a field. Answers whether that changed it.
    pub async fn set_profile_field(
        &self,
        account: AccountNum,
        key: &str,
        value: Value,
    ) -> Result<bool, AccountError> {
        if means_none(key, &value) {
            return self.delete_profile_field(account, key).await;
        }
        let json = checked_field(key, value)?;
        self.write_field(account, key, Some(json)).await
    }

    /// Removes a field. Answers whether there was one.
    pub async fn delete_profile_field(
        &self,
        account: AccountNum,
        key: &str,
    ) -> Result<bool, AccountError> {
        self.write_field(account, key, None).await
    }

    async fn write_field(
        &self,
        account: AccountNum,
        key: &str,
        json: Option<String>,
    ) -> Result<bool, AccountError> {
        let applied = {
            let _lane = self.lanes.enter(account).await;
            if self.row_in_lane(account).await?.deactivated.is_some() {
                return Err(AccountError::Deactivated);
            }
            let mut fields = self.profile_rows(&self.snapshot(), account).await?;
            let old = fields.remove(key);
            if old == json {
                return Ok(false);
            }
            let row = (account, key.to_owned());
            let mut batch = Batch::new();
            match json {
                Some(json) => {
                    let others: usize = fields.iter().map(|(k, v)| field_bytes(k, v)).sum();
                    // Two for the braces; the commas are counted with the fields.
                    if 2 + others + field_bytes(key, &json) > MAX_PROFILE_BYTES {
                        return Err(AccountError::ProfileTooLarge);
                    }
                    batch.put(&PROFILES, &row, &json);
                }
                None => {
                    batch.delete(&PROFILES, &row);
                }
            }
            let change = ProfileChanged { key: row.1 };
            self.announce(&mut batch, PROFILE, account, &change)?;
            self.store.commit(batch).await?
        };
        applied.durable().await?;
        Ok(true)
    }

    /// The fields as JSON; at most 64 KiB.
    async fn profile_rows(
        &self,
        snapshot: &Snapshot,
        account: AccountNum,
    ) -> Result<BTreeMap<String, String>, StoreError> {
        let rows = snapshot
            .scan(
                &PROFILES,
                ScanRange::prefix(&account),
                Direction::Forward,
                usize::MAX,
            )
            .await?;
        Ok(rows
            .into_iter()
            .map(|((_, key), json)| (key, json))
            .collect())
    }
}

/// `"key":value,` – keys need no escapes.
fn field_bytes(key: &str, json: &str) -> usize {
    key.len() + json.len() + 4
}

fn parse(json: &str) -> Result<Value, AccountError> {
    serde_json::from_str(json).map_err(|error| {
        AccountError::Internal(format!("A stored profile field is not JSON: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{accounts, alice};

    #[tokio::test]
    async fn fields_are_set_read_and_removed() {
        let accounts = accounts().await;
        let alice = alice(&accounts).await;
        let name = json!("Alice");
        assert!(
            accounts
                .set_profile_field(alice, "displayname", name.clone())
                .await
                .unwrap()
        );
        assert!(
            !accounts
                .set_profile_field(alice, "displayname", name.clone())
                .await
                .unwrap()
        );
        let any = json!({"a": [1, null, 2.5]});
        accounts
            .set_profile_field(alice, "org.example.x-y", any.clone())
            .await
            .unwrap();
        let profile = accounts.profile("alice").await.unwrap().unwrap();
        assert_eq!(
            profile,
            BTreeMap::from([
                ("displayname".into(), name),
                ("org.example.x-y".into(), any)
            ])
        );
        assert!(
            accounts
                .delete_profile_field(alice, "displayname")
                .await
                .unwrap()
        );
        assert!(
            !accounts
                .delete_profile_field(alice, "displayname")
                .await
                .unwrap()
        );
        assert_eq!(
            accounts.profile_field(alice, "displayname").await.unwrap(),
            None
        );
        assert_eq!(accounts.profile("nobody").await.unwrap(), None);
    }

    #[tokio::test]
    async fn null_is_a_value() {
        let accounts = accounts().await;
        let alice = alice(&accounts).await;
        accounts
            .set_profile_field(alice, "org.example.x", Value::Null)
            .await
            .unwrap();
        assert_eq!(
            accounts
                .profile_field(alice, "org.example.x")
                .await
                .unwrap(),
            Some(Value::Null)
        );
    }

    #[tokio::test]
    async fn an_empty_name_is_none() {
        let accounts = accounts().await;
        let alice = alice(&accounts).await;
        accounts
            .set_profile_field(alice, "displayname", json!("A"))
            .await
            .unwrap();
        assert!(
            accounts
                .set_profile_field(alice, "displayname", json!(""))
                .await
                .unwrap()
        );
        assert!(accounts.profile("alice").await.unwrap().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_profile_has_at_most_64_kib_and_a_key_255_bytes() {
        let accounts = accounts().await;
        let alice = alice(&accounts).await;
        let half = json!("x".repeat(32_000));
        accounts
            .set_profile_field(alice, "org.example.a", half.clone())
            .await
            .unwrap();
        accounts
            .set_profile_field(alice, "org.example.b", half.clone())
            .await
            .unwrap();
        assert!(matches!(
            accounts
                .set_profile_field(alice, "org.example.c", half.clone())
                .await,
            Err(AccountError::ProfileTooLarge)
        ));
        // Replacing counts the new value, not both.
        accounts
            .set_profile_field(alice, "org.example.a", json!("y".repeat(33_000)))
            .await
            .unwrap();
        let rest = accounts.profile("alice").await.unwrap().unwrap();
        let room = MAX_PROFILE_BYTES - serde_json::to_string(&rest).unwrap().len();
        let key = "org.example.d";
        let fits = room - key.len() - 6; // quotes, colon and comma
        assert!(
            accounts
                .set_profile_field(alice, key, json!("z".repeat(fits + 1)))
                .await
                .is_err()
        );
        accounts
            .set_profile_field(alice, key, json!("z".repeat(fits - 1)))
            .await
            .unwrap();
        let longest = "a".repeat(255);
        accounts
            .delete_profile_field(alice, "org.example.a")
            .await
            .unwrap();
        accounts
            .set_profile_field(alice, &longest, json!(1))
            .await
            .unwrap();
        assert!(matches!(
            accounts
                .set_profile_field(alice, &format!("{longest}a"), json!(1))
                .await,
            Err(AccountError::KeyTooLarge)
        ));
    }

    #[test]
    fn fields_that_are_not_allowed() {
        for key in ["", "A", "1a", ".a", "a b", "ä", "a/b"] {
            assert!(checked_field(key, json!(1)).is_err(), "{key:?}");
        }
        for key in ["displayname", "avatar_url", "m.tz"] {
            assert!(checked_field(key, json!(1)).is_err());
            assert!(checked_field(key, json!("x")).is_ok());
        }
        assert!(checked_field("displayname", json!("é".repeat(256))).is_ok());
        assert!(checked_field("displayname", json!("é".repeat(257))).is_err());
    }
}
