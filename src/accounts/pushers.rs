//! Pushers: where an account's notifications are sent on to (Client-Server API, "Push Notifications").
//!
//! A pusher belongs to the device that set it and ends with it, in the same batch. One that sends mail belongs to the
//! address, which has to be one of the account's: it is for those who are signed in nowhere, too.

use resuni_store::{Batch, Direction, ScanRange, Snapshot, StoreError};
use ruma::api::client::push::{Pusher, PusherKind};

use crate::{
    Accounts, Medium,
    error::AccountError,
    tables::{AccountNum, CONTACTS, DEVICE_PUSHERS, PUSHERS, PUSHERS_CHANGED, PUSHKEYS, PusherRow},
};

/// The longest push key in bytes, and the longest app id in characters (spec, `POST /pushers/set`).
const PUSHKEY_BYTES: usize = 512;
const APP_ID_CHARS: usize = 64;
/// The largest pusher in bytes: names, and data that is sent along with every notification.
const PUSHER_BYTES: usize = 16 * 1024;
/// Pushers of one account: more devices than anybody has.
const PUSHERS_MAX: usize = 100;
/// Where gateways listen (spec, `data.url`).
const GATEWAY_PATH: &str = "/_matrix/push/v1/notify";
/// The app id of pushers that send mail (spec, `app_id`).
const EMAIL_APP_ID: &str = "m.email";

/// What names a pusher within an account.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PusherId {
    /// Whose.
    pub account: AccountNum,
    /// The application.
    pub app_id: String,
    /// The address within it.
    pub pushkey: String,
}

impl PusherId {
    fn key(&self) -> (AccountNum, String, String) {
        (self.account, self.app_id.clone(), self.pushkey.clone())
    }
}

/// A pusher as it is kept.
#[derive(Clone, Debug)]
pub struct StoredPusher {
    /// What its client set.
    pub pusher: Pusher,
    /// The device that set it.
    pub device: Option<String>,
    /// When it was set, in milliseconds since 1970.
    pub set_ms: u64,
}

fn read(row: PusherRow) -> Result<StoredPusher, AccountError> {
    let pusher = serde_json::from_str(&row.json).map_err(|error| {
        AccountError::Internal(format!("A stored pusher can't be read: {error}"))
    })?;
    Ok(StoredPusher {
        pusher,
        device: row.device,
        set_ms: row.set_ms,
    })
}

fn check(pusher: &Pusher) -> Result<String, AccountError> {
    let invalid = |why: &str| Err(AccountError::InvalidParam(why.to_owned()));
    if pusher.ids.pushkey.is_empty() || pusher.ids.pushkey.len() > PUSHKEY_BYTES {
        return invalid("A pushkey has 1 to 512 bytes.");
    }
    if pusher.ids.app_id.is_empty() || pusher.ids.app_id.chars().count() > APP_ID_CHARS {
        return invalid("An app_id has 1 to 64 characters.");
    }
    match &pusher.kind {
        PusherKind::Http(data) => {
            let url = url::Url::parse(&data.url);
            let good = url.is_ok_and(|url| url.scheme() == "https" && url.path() == GATEWAY_PATH);
            if !good {
                return invalid(
                    "The url of a pusher is an https address whose path is /_matrix/push/v1/notify.",
                );
            }
        }
        PusherKind::Email(_) if pusher.ids.app_id != EMAIL_APP_ID => {
            return invalid("The app_id of a pusher of the kind \"email\" is \"m.email\".");
        }
        PusherKind::Email(_) => {}
        _ => return invalid("There are pushers of the kinds \"http\" and \"email\" only."),
    }
    let json = serde_json::to_string(pusher)
        .map_err(|error| AccountError::Internal(format!("A pusher can't be written: {error}")))?;
    if json.len() > PUSHER_BYTES {
        return Err(AccountError::TooLarge {
            what: "A pusher",
            limit: PUSHER_BYTES,
        });
    }
    Ok(json)
}

impl Accounts {
    /// Sets a pusher of `account`, replacing the one with the same app and key. Unless `append`,
    /// those of other accounts with the same app and key go. Mail is sent to addresses of the account only.
    pub async fn set_pusher(
        &self,
        account: AccountNum,
        device: Option<&str>,
        pusher: &Pusher,
        append: bool,
    ) -> Result<(), AccountError> {
        let json = check(pusher)?;
        let (app_id, pushkey) = (&pusher.ids.app_id, &pusher.ids.pushkey);
        if !append {
            for other in self.others_with(account, app_id, pushkey).await? {
                self.delete_pusher(&other).await?;
            }
        }
        let id = PusherId {
            account,
            app_id: app_id.clone(),
            pushkey: pushkey.clone(),
        };
        let applied = {
            let _lane = self.lanes.enter(account).await;
            if self.row_in_lane(account).await?.deactivated.is_some() {
                return Err(AccountError::Deactivated);
            }
            let snapshot = self.snapshot();
            let is_mail = matches!(pusher.kind, PusherKind::Email(_));
            if is_mail {
                let address = (Medium::Email.as_str().to_owned(), pushkey.to_lowercase());
                let row = snapshot.get(&CONTACTS, &address).await?;
                if row.is_none_or(|row| row.account != account) {
                    return Err(AccountError::ThreepidNotFound);
                }
            }
            let mut batch = Batch::new();
            match snapshot.get(&PUSHERS, &id.key()).await? {
                Some(old) => unlink(&mut batch, &id, &old),
                None if count(&snapshot, account).await? >= PUSHERS_MAX => {
                    return Err(AccountError::InvalidParam(format!(
                        "An account has {PUSHERS_MAX} pushers at most."
                    )));
                }
                None => {}
            }
            let row = PusherRow {
                device: device.filter(|_| !is_mail).map(str::to_owned),
                set_ms: self.now_ms(),
                json,
            };
            link(&mut batch, &id, &row);
            batch.put(&PUSHERS, &id.key(), &row);
            self.announce(&mut batch, PUSHERS_CHANGED, account, &())?;
            self.store.commit(batch).await?
        };
        Ok(applied.durable().await?)
    }

    async fn others_with(
        &self,
        account: AccountNum,
        app_id: &str,
        pushkey: &str,
    ) -> Result<Vec<PusherId>, StoreError> {
        let range = ScanRange::prefix(&(app_id.to_owned(), pushkey.to_owned()));
        let rows = self
            .snapshot()
            .scan(&PUSHKEYS, range, Direction::Forward, usize::MAX)
            .await?;
        let others = rows
            .into_iter()
            .map(|((app_id, pushkey, account), ())| PusherId {
                account,
                app_id,
                pushkey,
            });
        Ok(others.filter(|id| id.account != account).collect())
    }

    /// Removes a pusher; there need not be one.
    pub async fn delete_pusher(&self, id: &PusherId) -> Result<(), AccountError> {
        let applied = {
            let _lane = self.lanes.enter(id.account).await;
            let Some(old) = self.snapshot().get(&PUSHERS, &id.key()).await? else {
                return Ok(());
            };
            let mut batch = Batch::new();
            unlink(&mut batch, id, &old);
            batch.delete(&PUSHERS, &id.key());
            self.announce(&mut batch, PUSHERS_CHANGED, id.account, &())?;
            self.store.commit(batch).await?
        };
        Ok(applied.durable().await?)
    }

    /// The pushers of an account.
    pub async fn pushers(&self, account: AccountNum) -> Result<Vec<StoredPusher>, AccountError> {
        let rows = self
            .snapshot()
            .scan(
                &PUSHERS,
                ScanRange::prefix(&account),
                Direction::Forward,
                usize::MAX,
            )
            .await?;
        rows.into_iter().map(|(_, row)| read(row)).collect()
    }

    /// One pusher, if there still is one.
    pub async fn pusher(&self, id: &PusherId) -> Result<Option<StoredPusher>, AccountError> {
        let row = self.snapshot().get(&PUSHERS, &id.key()).await?;
        row.map(read).transpose()
    }

    /// Whether an account has a pusher: one seek.
    pub async fn has_pushers(&self, account: AccountNum) -> Result<bool, StoreError> {
        let range = ScanRange::prefix(&account);
        let rows = self
            .snapshot()
            .scan(&PUSHERS, range, Direction::Forward, 1)
            .await?;
        Ok(!rows.is_empty())
    }

    /// What names the pushers of an account.
    pub(crate) async fn pusher_ids(
        &self,
        snapshot: &Snapshot,
        account: AccountNum,
    ) -> Result<Vec<PusherId>, StoreError> {
        let range = ScanRange::prefix(&account);
        let rows = snapshot
            .scan(&PUSHERS, range, Direction::Forward, PUSHERS_MAX)
            .await?;
        let id = |((account, app_id, pushkey), _)| PusherId {
            account,
            app_id,
            pushkey,
        };
        Ok(rows.into_iter().map(id).collect())
    }

    /// Adds the end of the pushers that send mail to an address to the batch that takes it away from the account.
    pub(crate) async fn remove_pushers_to(
        &self,
        snapshot: &Snapshot,
        batch: &mut Batch,
        (account, address): (AccountNum, &str),
    ) -> Result<(), AccountError> {
        let range = ScanRange::prefix(&(account, EMAIL_APP_ID.to_owned()));
        let rows = snapshot
            .scan(&PUSHERS, range, Direction::Forward, PUSHERS_MAX)
            .await?;
        for ((account, app_id, pushkey), row) in rows {
            if pushkey.to_lowercase() == address {
                let id = PusherId {
                    account,
                    app_id,
                    pushkey,
                };
                unlink(batch, &id, &row);
                batch.delete(&PUSHERS, &id.key());
                self.announce(batch, PUSHERS_CHANGED, account, &())?;
            }
        }
        Ok(())
    }

    /// Adds the end of a device's pushers to the batch that ends the device.
    pub(crate) async fn remove_pushers_of(
        &self,
        snapshot: &Snapshot,
        batch: &mut Batch,
        (account, device): &(AccountNum, String),
    ) -> Result<bool, AccountError> {
        let range = ScanRange::prefix(&(*account, device.clone()));
        let rows = snapshot
            .scan(&DEVICE_PUSHERS, range, Direction::Forward, usize::MAX)
            .await?;
        for ((account, _, app_id, pushkey), ()) in &rows {
            let id = PusherId {
                account: *account,
                app_id: app_id.clone(),
                pushkey: pushkey.clone(),
            };
            if let Some(row) = snapshot.get(&PUSHERS, &id.key()).await? {
                unlink(batch, &id, &row);
                batch.delete(&PUSHERS, &id.key());
            }
        }
        Ok(!rows.is_empty())
    }
}

async fn count(snapshot: &Snapshot, account: AccountNum) -> Result<usize, StoreError> {
    let range = ScanRange::prefix(&account);
    let rows = snapshot
        .scan(&PUSHERS, range, Direction::Forward, PUSHERS_MAX)
        .await?;
    Ok(rows.len())
}

fn link(batch: &mut Batch, id: &PusherId, row: &PusherRow) {
    let (account, app_id, pushkey) = id.key();
    batch.put(&PUSHKEYS, &(app_id.clone(), pushkey.clone(), account), &());
    if let Some(device) = &row.device {
        let key = (account, device.clone(), app_id, pushkey);
        batch.put(&DEVICE_PUSHERS, &key, &());
    }
}

fn unlink(batch: &mut Batch, id: &PusherId, row: &PusherRow) {
    let (account, app_id, pushkey) = id.key();
    batch.delete(&PUSHKEYS, &(app_id.clone(), pushkey.clone(), account));
    if let Some(device) = &row.device {
        let key = (account, device.clone(), app_id, pushkey);
        batch.delete(&DEVICE_PUSHERS, &key);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{accounts, alice, bob};

    fn pusher(pushkey: &str, url: &str) -> Pusher {
        serde_json::from_value(json!({
            "kind": "http", "app_id": "app", "pushkey": pushkey, "app_display_name": "App",
            "device_display_name": "Phone", "lang": "en",
            "data": { "url": url, "format": "event_id_only", "extra": 1 },
        }))
        .unwrap()
    }

    const URL: &str = "https://push.example/_matrix/push/v1/notify";

    async fn keys(accounts: &Accounts, account: AccountNum) -> Vec<String> {
        let pushers = accounts.pushers(account).await.unwrap();
        pushers.into_iter().map(|p| p.pusher.ids.pushkey).collect()
    }

    #[tokio::test]
    async fn the_same_key_belongs_to_one_account_unless_appended() {
        let accounts = accounts().await;
        let (alice, bob) = (alice(&accounts).await, bob(&accounts).await);
        let one = pusher("k", URL);
        accounts.set_pusher(alice, None, &one, false).await.unwrap();
        accounts.set_pusher(bob, None, &one, true).await.unwrap();
        assert_eq!(keys(&accounts, alice).await, ["k"]);
        assert_eq!(keys(&accounts, bob).await, ["k"]);
        accounts.set_pusher(bob, None, &one, false).await.unwrap();
        assert!(keys(&accounts, alice).await.is_empty());
        assert!(accounts.has_pushers(bob).await.unwrap());
        crate::testing::is_sound(&accounts).await;
    }

    #[tokio::test]
    async fn a_pusher_ends_with_its_device() {
        let accounts = accounts().await;
        let alice = alice(&accounts).await;
        let device = accounts
            .put_device(alice, "PHONE".into(), None)
            .await
            .unwrap();
        assert!(device);
        let set = async |key: &str, device| {
            accounts
                .set_pusher(alice, device, &pusher(key, URL), false)
                .await
                .unwrap();
        };
        set("of the phone", Some("PHONE")).await;
        set("of none", None).await;
        accounts
            .delete_devices(alice, &[<&ruma::DeviceId>::from("PHONE")])
            .await
            .unwrap();
        assert_eq!(keys(&accounts, alice).await, ["of none"]);
        crate::testing::is_sound(&accounts).await;
    }

    #[tokio::test]
    async fn bad_pushers_are_refused() {
        let accounts = accounts().await;
        let alice = alice(&accounts).await;
        for bad in [
            pusher("", URL),
            pusher(&"k".repeat(513), URL),
            pusher("k", "http://push.example/_matrix/push/v1/notify"),
            pusher("k", "https://push.example/elsewhere"),
            pusher("k", "nonsense"),
        ] {
            let refused = accounts.set_pusher(alice, None, &bad, false).await;
            assert!(matches!(refused, Err(AccountError::InvalidParam(_))));
        }
    }
}
