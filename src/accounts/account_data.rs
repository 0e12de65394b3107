//! Account data: JSON objects that clients keep here, global or for a room.

use std::collections::{BTreeMap, HashSet};

use resuni_store::{Applied, Batch, Direction, Position, ScanRange, Snapshot};
use ruma::{EventId, OwnedUserId, UserId};
use serde_json::{Map, Value, value::RawValue};

use crate::{
    Accounts,
    error::AccountError,
    tables::{ACCOUNT_DATA, AccountDataChanged, AccountNum, DATA, DATA_CHANGES, Data, DataName},
};

/// The longest type, and the longest room id, in bytes.
const NAME_BYTES: usize = 255;
/// The largest content in bytes. Lists of direct chats and secret storage get long.
const CONTENT_BYTES: usize = 512 * 1024;
/// Changes read at a time.
const PAGE: usize = 256;

/// The types that have an API of their own (spec, "Client Config", "Server Behaviour").
const FULLY_READ: &str = "m.fully_read";
/// The types of account data about one device, which end with it.
const LOCAL_NOTIFICATIONS: [&str; 2] = [
    "m.local_notification_settings.",
    "org.matrix.msc3890.local_notification_settings.",
];
pub(crate) const PUSH_RULES: &str = "m.push_rules";

/// The content of what was removed (MSC3391): clients that were there are told of it by an empty object, and for
/// those that come later it never was.
const REMOVED: &str = "{}";

/// A piece of account data.
#[derive(Clone, Debug)]
pub struct AccountDataEvent {
    /// Its type.
    pub kind: String,
    /// A JSON object.
    pub content: Box<RawValue>,
}

/// A piece of account data, where it belongs, and where in the log it changed last.
#[derive(Clone, Debug)]
pub struct AccountDataChange {
    /// The room it belongs to; none: global.
    pub room: Option<String>,
    /// What it is.
    pub event: AccountDataEvent,
    /// Its place in the log; zero for what the server made up and nobody has changed.
    pub position: Position,
}

impl AccountDataChange {
    fn new(room: String, kind: String, data: Data) -> Result<Self, AccountError> {
        Ok(Self {
            room: Some(room).filter(|room| !room.is_empty()),
            event: AccountDataEvent {
                kind,
                content: raw(data.content)?,
            },
            position: data.position,
        })
    }
}

fn raw(json: String) -> Result<Box<RawValue>, AccountError> {
    RawValue::from_string(json)
        .map_err(|error| AccountError::Internal(format!("Stored account data is no JSON: {error}")))
}

impl Accounts {
    /// Sets account data as a client may: `content` has to be an object, and types with an API of
    /// their own are refused.
    pub async fn set_account_data(
        &self,
        account: AccountNum,
        room: Option<&str>,
        kind: &str,
        content: &Map<String, Value>,
    ) -> Result<(), AccountError> {
        if matches!(kind, FULLY_READ | PUSH_RULES) {
            return Err(AccountError::ServerManaged);
        }
        self.update_account_data(account, room, kind, |_| Ok(Some(content.clone())))
            .await
    }

    /// Removes account data as a client may; that it was not there is no error. To set it to an empty object is the
    /// same (MSC3391).
    pub async fn remove_account_data(
        &self,
        account: AccountNum,
        room: Option<&str>,
        kind: &str,
    ) -> Result<(), AccountError> {
        if matches!(kind, FULLY_READ | PUSH_RULES) {
            return Err(AccountError::ServerManaged);
        }
        self.update_account_data(account, room, kind, |old| {
            let is_there = old.is_some_and(|old| old != REMOVED);
            Ok(is_there.then(Map::new))
        })
        .await
    }

    /// Sets the read marker of a room (`m.fully_read`).
    pub async fn set_fully_read(
        &self,
        account: AccountNum,
        room: &str,
        event: &EventId,
    ) -> Result<(), AccountError> {
        let content = Map::from_iter([("event_id".to_owned(), event.as_str().into())]);
        self.update_account_data(account, Some(room), FULLY_READ, |_| Ok(Some(content)))
            .await
    }

    /// Changes a piece of account data depending on what it is now; `change` answers none to leave
    /// it as it is. Inside the account's lane, so that nothing is lost between reading and
    /// writing.
    pub(crate) async fn update_account_data(
        &self,
        account: AccountNum,
        room: Option<&str>,
        kind: &str,
        change: impl FnOnce(Option<&str>) -> Result<Option<Map<String, Value>>, AccountError>,
    ) -> Result<(), AccountError> {
        if kind.is_empty() || kind.len() > NAME_BYTES || room.is_some_and(|r| r.len() > NAME_BYTES)
        {
            return Err(AccountError::InvalidParam(format!(
                "A type of account data and a room id have 1 to {NAME_BYTES} bytes."
            )));
        }
        let applied = {
            let _lane = self.lanes.enter(account).await;
            if self.row_in_lane(account).await?.deactivated.is_some() {
                return Err(AccountError::Deactivated);
            }
            let key = (
                account,
                room.unwrap_or_default().to_owned(),
                kind.to_owned(),
            );
            let old = self.snapshot().get(&DATA, &key).await?;
            let Some(new) = change(old.as_ref().map(|old| old.content.as_str()))? else {
                return Ok(());
            };
            let content = Value::Object(new).to_string();
            if content.len() > CONTENT_BYTES {
                return Err(AccountError::TooLarge {
                    what: "Account data",
                    limit: CONTENT_BYTES,
                });
            }
            self.write_data(key, old, content).await?
        };
        Ok(applied.durable().await?)
    }

    /// Adds the end of a device's notification settings to the batch that ends the device (MSC3890).
    pub(crate) async fn remove_settings_of(
        &self,
        snapshot: &Snapshot,
        batch: &mut Batch,
        (account, device): &(AccountNum, String),
    ) -> Result<(), AccountError> {
        for prefix in LOCAL_NOTIFICATIONS {
            let key = (*account, String::new(), format!("{prefix}{device}"));
            if let Some(old) = snapshot.get(&DATA, &key).await? {
                batch.delete(&DATA_CHANGES, &(*account, old.position));
                batch.delete(&DATA, &key);
            }
        }
        Ok(())
    }

    /// Writes the row and moves its row in the index of changes; inside the lane.
    async fn write_data(
        &self,
        key: (AccountNum, String, String),
        old: Option<Data>,
        content: String,
    ) -> Result<Applied, AccountError> {
        let (account, room, kind) = &key;
        let mut batch = Batch::new();
        let change = AccountDataChanged {
            room: Some(room.clone()).filter(|room| !room.is_empty()),
            kind: kind.clone(),
        };
        let position = self.announce(&mut batch, ACCOUNT_DATA, *account, &change)?;
        if let Some(old) = old {
            batch.delete(&DATA_CHANGES, &(*account, old.position));
        }
        let name = DataName {
            room: room.clone(),
            kind: kind.clone(),
        };
        batch.put(&DATA_CHANGES, &(*account, position), &name);
        batch.put(&DATA, &key, &Data { position, content });
        Ok(self.store.commit(batch).await?)
    }

    /// One piece of account data. Push rules that nobody has changed are the default ones.
    pub async fn account_data(
        &self,
        account: AccountNum,
        room: Option<&str>,
        kind: &str,
    ) -> Result<Option<Box<RawValue>>, AccountError> {
        let key = (
            account,
            room.unwrap_or_default().to_owned(),
            kind.to_owned(),
        );
        let row = self.snapshot().get(&DATA, &key).await?;
        if room.is_none() && kind == PUSH_RULES {
            let stored = row.as_ref().map(|row| row.content.as_str());
            return self.push_rules_content(account, stored).await.map(Some);
        }
        let row = row.filter(|row| row.content != REMOVED);
        row.map(|row| raw(row.content)).transpose()
    }

    /// Whose messages the user does not want to see ("Ignoring Users").
    pub async fn ignored_users(
        &self,
        account: AccountNum,
    ) -> Result<HashSet<OwnedUserId>, AccountError> {
        let content = self
            .account_data(account, None, "m.ignored_user_list")
            .await?;
        Ok(content.map_or_else(HashSet::new, |content| ignored_in(content.get())))
    }

    /// All account data of an account, the global first, then room by room: for a first sync. Nothing of what was
    /// removed.
    pub async fn all_account_data(
        &self,
        snapshot: &Snapshot,
        account: AccountNum,
    ) -> Result<Vec<AccountDataChange>, AccountError> {
        self.data_in(snapshot, account, ScanRange::prefix(&account), true)
            .await
    }

    /// The account data of one room, or the global.
    pub async fn account_data_of(
        &self,
        snapshot: &Snapshot,
        account: AccountNum,
        room: Option<&str>,
    ) -> Result<Vec<AccountDataChange>, AccountError> {
        let range = ScanRange::prefix(&(account, room.unwrap_or_default().to_owned()));
        self.data_in(snapshot, account, range, room.is_none()).await
    }

    async fn data_in(
        &self,
        snapshot: &Snapshot,
        account: AccountNum,
        range: ScanRange,
        global: bool,
    ) -> Result<Vec<AccountDataChange>, AccountError> {
        let rows = snapshot
            .scan(&DATA, range, Direction::Forward, usize::MAX)
            .await?;
        let mut found = Vec::with_capacity(rows.len() + 1);
        if global {
            // Every client waits for its push rules. What is stored of them may be older than this
            // server's defaults, so they are never given out as stored.
            let stored = rows
                .iter()
                .find(|((_, room, kind), _)| room.is_empty() && kind == PUSH_RULES)
                .map(|(_, data)| data);
            let content = stored.map(|data| data.content.as_str());
            found.push(AccountDataChange {
                room: None,
                event: AccountDataEvent {
                    kind: PUSH_RULES.to_owned(),
                    content: self.push_rules_content(account, content).await?,
                },
                position: stored.map_or(Position(0), |data| data.position),
            });
        }
        for ((_, room, kind), data) in rows {
            let is_rules = room.is_empty() && kind == PUSH_RULES;
            if !is_rules && data.content != REMOVED {
                found.push(AccountDataChange::new(room, kind, data)?);
            }
        }
        Ok(found)
    }

    /// What has changed after `since`, up to and including `up_to`, in the order of the log. What
    /// changed again after `up_to` is left for the next time.
    pub async fn account_data_since(
        &self,
        snapshot: &Snapshot,
        account: AccountNum,
        since: Position,
        up_to: Position,
    ) -> Result<Vec<AccountDataChange>, AccountError> {
        let mut found = Vec::new();
        let mut from = Position(since.0.saturating_add(1));
        let end = Position(up_to.0.saturating_add(1));
        while from < end {
            let range = ScanRange::between(&(account, from), &(account, end));
            let page = snapshot
                .scan(&DATA_CHANGES, range, Direction::Forward, PAGE)
                .await?;
            let Some(((_, last), _)) = page.last() else {
                break;
            };
            from = Position(last.0.saturating_add(1));
            let keys: Vec<_> = page
                .into_iter()
                .map(|(_, name)| (account, name.room, name.kind))
                .collect();
            let rows = snapshot.get_many(&DATA, &keys).await?;
            for ((_, room, kind), data) in keys.into_iter().zip(rows) {
                let Some(data) = data else { continue };
                let mut change = AccountDataChange::new(room, kind, data)?;
                if change.room.is_none() && change.event.kind == PUSH_RULES {
                    let stored = change.event.content.get();
                    change.event.content = self.push_rules_content(account, Some(stored)).await?;
                }
                found.push(change);
            }
        }
        Ok(found)
    }
}

fn ignored_in(content: &str) -> HashSet<OwnedUserId> {
    #[derive(serde::Deserialize)]
    struct Ignored {
        ignored_users: BTreeMap<String, serde::de::IgnoredAny>,
    }
    let ignored: Option<Ignored> = serde_json::from_str(content).ok();
    let users = ignored
        .into_iter()
        .flat_map(|ignored| ignored.ignored_users.into_keys());
    users.filter_map(|user| UserId::parse(user).ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{accounts, alice, bob};

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn names(changes: &[AccountDataChange]) -> Vec<(Option<&str>, &str, &str)> {
        changes
            .iter()
            .map(|c| {
                (
                    c.room.as_deref(),
                    c.event.kind.as_str(),
                    c.event.content.get(),
                )
            })
            .collect()
    }

    #[tokio::test]
    async fn changes_since_a_position() {
        let accounts = accounts().await;
        let (alice, bob) = (alice(&accounts).await, bob(&accounts).await);
        let set = async |who, room, kind, value| {
            accounts
                .set_account_data(who, room, kind, &object(value))
                .await
                .unwrap();
            accounts.snapshot().position()
        };
        let start = accounts.snapshot().position();
        let first = set(alice, None, "a", json!({"n": 1})).await;
        set(alice, Some("!r:x"), "a", json!({"n": 2})).await;
        set(bob, None, "a", json!({"n": 3})).await;
        let last = set(alice, None, "a", json!({"n": 4})).await;
        let snapshot = accounts.snapshot();
        let since = |from, to| accounts.account_data_since(&snapshot, alice, from, to);
        assert_eq!(
            names(&since(start, last).await.unwrap()),
            [(Some("!r:x"), "a", r#"{"n":2}"#), (None, "a", r#"{"n":4}"#)],
            "each once, in the order of its last change, and nobody else's"
        );
        assert_eq!(since(last, last).await.unwrap().len(), 0);
        assert_eq!(
            since(start, first).await.unwrap().len(),
            0,
            "it changed again later: the next sync brings it"
        );
        assert_eq!(
            accounts.doctor(&snapshot).await.unwrap(),
            Vec::<String>::new()
        );
    }

    #[tokio::test]
    async fn a_first_sync_has_the_push_rules() {
        let accounts = accounts().await;
        let alice = alice(&accounts).await;
        accounts
            .set_account_data(alice, Some("!r:x"), "a", &object(json!({"n": 1})))
            .await
            .unwrap();
        let all = accounts
            .all_account_data(&accounts.snapshot(), alice)
            .await
            .unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].event.kind, "m.push_rules");
        assert!(all[0].event.content.get().contains(".m.rule.master"));
        assert_eq!(all[1].room.as_deref(), Some("!r:x"));
    }

    #[tokio::test]
    async fn what_is_removed_is_told_once_and_then_never_was() {
        let accounts = accounts().await;
        let alice = alice(&accounts).await;
        for room in [None, Some("!r:x")] {
            for by_an_empty_object in [false, true] {
                let set = async |content| {
                    let content = object(content);
                    let set = accounts.set_account_data(alice, room, "a", &content);
                    set.await.unwrap();
                };
                set(json!({"n": 1})).await;
                let before = accounts.snapshot().position();
                if by_an_empty_object {
                    set(json!({})).await;
                } else {
                    let removed = accounts.remove_account_data(alice, room, "a");
                    removed.await.unwrap();
                }
                let snapshot = accounts.snapshot();
                let now = snapshot.position();
                let told = accounts.account_data_since(&snapshot, alice, before, now);
                assert_eq!(names(&told.await.unwrap()), [(room, "a", "{}")]);
                let got = accounts.account_data(alice, room, "a").await.unwrap();
                assert!(got.is_none());
                let all = accounts.all_account_data(&snapshot, alice).await.unwrap();
                assert!(all.iter().all(|data| data.event.kind != "a"));
                accounts
                    .remove_account_data(alice, room, "a")
                    .await
                    .unwrap();
                assert_eq!(accounts.snapshot().position(), now, "nothing to tell");
            }
        }
        let refused = accounts.remove_account_data(alice, None, PUSH_RULES).await;
        assert!(matches!(refused, Err(AccountError::ServerManaged)));
    }

    #[tokio::test]
    async fn the_server_keeps_some_types_to_itself() {
        let accounts = accounts().await;
        let alice = alice(&accounts).await;
        for kind in ["m.fully_read", "m.push_rules"] {
            for room in [None, Some("!r:x")] {
                assert!(matches!(
                    accounts
                        .set_account_data(alice, room, kind, &Map::new())
                        .await,
                    Err(AccountError::ServerManaged)
                ));
            }
        }
        let event = ruma::event_id!("$e");
        accounts.set_fully_read(alice, "!r:x", event).await.unwrap();
        let read = accounts
            .account_data(alice, Some("!r:x"), FULLY_READ)
            .await
            .unwrap();
        assert_eq!(read.unwrap().get(), r#"{"event_id":"$e"}"#);
    }

    #[tokio::test]
    async fn the_notification_settings_of_a_device_end_with_it() {
        let accounts = accounts().await;
        let alice = alice(&accounts).await;
        let kind = |device: &str| format!("{}{device}", LOCAL_NOTIFICATIONS[1]);
        for device in ["ONE", "TWO"] {
            accounts
                .put_device(alice, device.into(), None)
                .await
                .unwrap();
            let content = object(json!({ "is_silenced": true }));
            accounts
                .set_account_data(alice, None, &kind(device), &content)
                .await
                .unwrap();
        }
        let gone = [<&ruma::DeviceId>::from("ONE")];
        accounts.delete_devices(alice, &gone).await.unwrap();
        let left = async |device| {
            accounts
                .account_data(alice, None, &kind(device))
                .await
                .unwrap()
        };
        assert!(left("ONE").await.is_none());
        assert!(left("TWO").await.is_some());
        crate::testing::is_sound(&accounts).await;
    }

    #[tokio::test]
    async fn one_room_is_not_the_prefix_of_another() {
        let accounts = accounts().await;
        let alice = alice(&accounts).await;
        accounts
            .set_account_data(alice, Some("!r"), "a", &object(json!({"n": 1})))
            .await
            .unwrap();
        accounts
            .set_account_data(alice, Some("!rr"), "a", &object(json!({"n": 1})))
            .await
            .unwrap();
        let one = accounts
            .account_data_of(&accounts.snapshot(), alice, Some("!r"))
            .await
            .unwrap();
        assert_eq!(one.len(), 1);
    }
}
