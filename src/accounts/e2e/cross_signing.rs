//! `/keys/device_signing/upload`: the keys by which people vouch for their own devices and for
//! each other.

use resuni_store::{Batch, Snapshot};
use ruma::UserId;
use serde_json::Value;

use super::{
    Object, bounded, copy_signatures, is_same_key, is_signed_by, parse,
    tables::{CROSS_SIGNING, Usage},
};
use crate::{
    AccountNum, Accounts,
    error::AccountError,
    tables::{DEVICE, KEYS_REPLACEABLE},
};

/// How long an operator lets somebody replace their keys without confirming that it is them, in milliseconds.
const REPLACEABLE_MS: u64 = 10 * 60_000;

/// The keys of an upload.
#[derive(Clone, Debug, Default)]
pub struct CrossSigningUpload {
    /// The master key.
    pub master: Option<Object>,
    /// The key that signs the user's own devices.
    pub self_signing: Option<Object>,
    /// The key that signs other people's master keys.
    pub user_signing: Option<Object>,
}

impl CrossSigningUpload {
    fn get(&self, usage: Usage) -> Option<&Object> {
        match usage {
            Usage::Master => self.master.as_ref(),
            Usage::SelfSigning => self.self_signing.as_ref(),
            Usage::UserSigning => self.user_signing.as_ref(),
        }
    }
}

/// The id and the value of the one public key in a cross-signing key.
pub(super) fn named_key(key: &Object) -> Option<(&str, &str)> {
    let keys = key.get("keys")?.as_object()?;
    let (id, value) = keys.iter().next()?;
    let value = value.as_str()?;
    let named_after_itself = id.strip_prefix("ed25519:") == Some(value);
    (keys.len() == 1 && named_after_itself).then_some((id, value))
}

/// The public key in a cross-signing key.
pub(super) fn public_key(key: &Object) -> Option<&str> {
    named_key(key).map(|(_, value)| value)
}

/// A key has to be what it is uploaded as.
fn check(key: &Object, usage: Usage, user: &UserId) -> Result<(), AccountError> {
    let bad = |why: &str| {
        let name = usage.name();
        Err(AccountError::InvalidParam(format!("The {name} key {why}.")))
    };
    if key.get("user_id").and_then(Value::as_str) != Some(user.as_str()) {
        return bad("is not that of this user");
    }
    let usages = key.get("usage").and_then(Value::as_array);
    if !usages.is_some_and(|list| list.iter().any(|one| one == usage.name())) {
        return bad("has another usage");
    }
    if named_key(key).is_none() {
        return bad("has to have one public key of ed25519, named after itself");
    }
    Ok(())
}

impl Accounts {
    /// The stored cross-signing key of a usage.
    pub(super) async fn cross_signing_key(
        &self,
        snapshot: &Snapshot,
        account: AccountNum,
        usage: Usage,
    ) -> Result<Option<Object>, AccountError> {
        let row = snapshot.get(&CROSS_SIGNING, &(account, usage)).await?;
        row.as_deref().map(parse).transpose()
    }

    /// Whether an upload has to be confirmed by UIA: not the first one, and not one that brings
    /// nothing new (v1.11).
    pub async fn cross_signing_needs_auth(
        &self,
        account: AccountNum,
        upload: &CrossSigningUpload,
    ) -> Result<bool, AccountError> {
        let snapshot = self.snapshot();
        if self
            .cross_signing_key(&snapshot, account, Usage::Master)
            .await?
            .is_none()
        {
            return Ok(false);
        }
        let replaceable_until = snapshot.get(&KEYS_REPLACEABLE, &account).await?;
        if replaceable_until.is_some_and(|until| self.clock.now_ms() < until) {
            return Ok(false);
        }
        for usage in Usage::ALL {
            let stored = self.cross_signing_key(&snapshot, account, usage).await?;
            let same = match (upload.get(usage), stored) {
                (Some(new), Some(stored)) => is_same_key(new, &stored),
                (Some(_), None) => false,
                (None, _) => true,
            };
            if !same {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// For ten minutes somebody need not confirm that it is them to replace their cross-signing keys: they have forgotten
    /// how, and an operator knows them. The answer is until when; none where they have no keys.
    pub async fn allow_replacing_keys(
        &self,
        account: AccountNum,
    ) -> Result<Option<u64>, AccountError> {
        let snapshot = self.snapshot();
        let key = self.cross_signing_key(&snapshot, account, Usage::Master);
        if key.await?.is_none() {
            return Ok(None);
        }
        let until = self.clock.now_ms().saturating_add(REPLACEABLE_MS);
        let mut batch = Batch::new();
        batch.put(&KEYS_REPLACEABLE, &account, &until);
        self.store.commit_durable(batch).await?;
        Ok(Some(until))
    }

    /// Keeps cross-signing keys. The other two have to be signed by the master key. A new master
    /// key ends the old keys that do not come with it: it has not signed them.
    pub async fn upload_cross_signing(
        &self,
        account: AccountNum,
        upload: &CrossSigningUpload,
    ) -> Result<(), AccountError> {
        let user = self.user_id(&self.active(account).await?.localpart)?;
        for usage in Usage::ALL {
            if let Some(key) = upload.get(usage) {
                check(key, usage, &user)?;
            }
        }
        let applied = {
            let _lane = self.lanes.enter(account).await;
            let snapshot = self.snapshot();
            let mut batch = Batch::new();
            self.plan_upload(&snapshot, &mut batch, account, &user, upload)
                .await?;
            if batch.is_empty() {
                return Ok(());
            }
            // It was meant for one time.
            batch.delete(&KEYS_REPLACEABLE, &account);
            self.keys_changed(&snapshot, &mut batch, account, &user, Vec::new())
                .await?;
            self.store.commit(batch).await?
        };
        Ok(applied.durable().await?)
    }

    async fn plan_upload(
        &self,
        snapshot: &Snapshot,
        batch: &mut Batch,
        account: AccountNum,
        user: &UserId,
        upload: &CrossSigningUpload,
    ) -> Result<(), AccountError> {
        let old_master = self
            .cross_signing_key(snapshot, account, Usage::Master)
            .await?;
        let Some(master) = upload.master.as_ref().or(old_master.as_ref()) else {
            return Err(AccountError::MissingParam("There is no master key."));
        };
        let replaced = old_master
            .as_ref()
            .is_some_and(|old| public_key(old) != public_key(master));
        let (master_id, master_key) = named_key(master).unwrap_or_default();
        for usage in Usage::ALL {
            let row = (account, usage);
            let Some(new) = upload.get(usage) else {
                if replaced && snapshot.contains(&CROSS_SIGNING, &row).await? {
                    batch.delete(&CROSS_SIGNING, &row);
                }
                continue;
            };
            if usage != Usage::Master && !is_signed_by(new, user.as_str(), master_id, master_key) {
                return Err(AccountError::InvalidSignature);
            }
            let device = (account, public_key(new).unwrap_or_default().to_owned());
            if snapshot.contains(&DEVICE, &device).await? {
                return Err(AccountError::Forbidden(
                    "A cross-signing key may not be the same as a device id.".into(),
                ));
            }
            let old = self.cross_signing_key(snapshot, account, usage).await?;
            let mut kept = new.clone();
            if let Some(old) = &old
                && is_same_key(old, new)
            {
                // The same key again keeps the signatures it has and may bring new ones.
                copy_signatures(old, &mut kept, user);
            }
            if old.as_ref() != Some(&kept) {
                let json = bounded(&Value::Object(kept), "A cross-signing key")?;
                batch.put(&CROSS_SIGNING, &row, &json);
            }
        }
        Ok(())
    }
}
