//! `/keys/signatures/upload`: what people say about keys.
//!
//! Three things can be said, and each is checked: that a device is one's own (by the self-signing
//! key), that one's master key is (by a device), and that somebody else's master key is theirs (by
//! the user-signing key). Nothing else is kept, so that nobody fills other people's keys.

use std::collections::BTreeMap;

use resuni_store::{Batch, Snapshot};
use ruma::{OwnedUserId, UserId};
use serde_json::Value;

use super::{
    Object, add_signature,
    cross_signing::{named_key, public_key},
    is_same_key, is_signature_of, parse,
    tables::{CROSS_SIGNING, DEVICE_KEYS, USER_SIGNATURES, Usage},
};
use crate::{AccountNum, Accounts, error::AccountError};

/// Keys that may be signed in one request.
const KEYS_PER_REQUEST: usize = 1_000;

/// Why a signature was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureFailure {
    /// `M_INVALID_SIGNATURE`
    Invalid,
    /// `M_NOT_FOUND`: there is no such key, or it is another one.
    UnknownKey,
}

/// Failures by user and by the id of the key.
pub type SignatureFailures = BTreeMap<String, BTreeMap<String, SignatureFailure>>;

/// The keys of the user who says something.
struct Signer<'a> {
    account: AccountNum,
    user: &'a UserId,
    master: Option<Object>,
    self_signing: Option<Object>,
    user_signing: Option<Object>,
}

/// The signatures in an uploaded key that are by keys of `user`.
fn signatures_by<'a>(key: &'a Object, user: &UserId) -> Vec<(&'a str, &'a str)> {
    let all = key
        .get("signatures")
        .and_then(|all| all.get(user.as_str())?.as_object());
    all.into_iter()
        .flatten()
        .filter_map(|(key_id, signature)| Some((key_id.as_str(), signature.as_str()?)))
        .collect()
}

impl Accounts {
    /// Keeps signatures: signed keys by user and by the id of the key (a device id, or a public
    /// key). Answers those that were not kept.
    pub async fn upload_signatures(
        &self,
        account: AccountNum,
        signed: &BTreeMap<OwnedUserId, BTreeMap<String, Object>>,
    ) -> Result<SignatureFailures, AccountError> {
        if signed.values().map(BTreeMap::len).sum::<usize>() > KEYS_PER_REQUEST {
            return Err(AccountError::InvalidParam(format!(
                "At most {KEYS_PER_REQUEST} keys can be signed in one request."
            )));
        }
        let user = self.user_id(&self.active(account).await?.localpart)?;
        let mut failures = SignatureFailures::new();
        let applied = {
            let _lane = self.lanes.enter(account).await;
            let snapshot = self.snapshot();
            let key = |usage| self.cross_signing_key(&snapshot, account, usage);
            let signer = Signer {
                account,
                user: &user,
                master: key(Usage::Master).await?,
                self_signing: key(Usage::SelfSigning).await?,
                user_signing: key(Usage::UserSigning).await?,
            };
            let mut batch = Batch::new();
            let mut devices = Vec::new();
            for (owner, keys) in signed {
                for (id, key) in keys {
                    let kept = if *owner == user {
                        signer.sign_own(&snapshot, &mut batch, id, key).await?
                    } else {
                        self.sign_other(&snapshot, &mut batch, &signer, owner, id, key)
                            .await?
                    };
                    match kept {
                        Ok(()) if signer.is_device(owner, id) => devices.push((id.clone(), false)),
                        Ok(()) => {}
                        Err(failure) => {
                            let of_user = failures.entry(owner.to_string()).or_default();
                            of_user.insert(id.clone(), failure);
                        }
                    }
                }
            }
            if batch.is_empty() {
                return Ok(failures);
            }
            self.keys_changed(&snapshot, &mut batch, account, &user, devices)
                .await?;
            self.store.commit(batch).await?
        };
        applied.durable().await?;
        Ok(failures)
    }

    /// What the user-signing key says about somebody else's master key.
    async fn sign_other(
        &self,
        snapshot: &Snapshot,
        batch: &mut Batch,
        signer: &Signer<'_>,
        owner: &UserId,
        id: &str,
        key: &Object,
    ) -> Result<Result<(), SignatureFailure>, AccountError> {
        let Some((signing_id, signing_key)) = signer.user_signing.as_ref().and_then(named_key)
        else {
            return Ok(Err(SignatureFailure::UnknownKey));
        };
        let is_theirs = key.get("user_id").and_then(Value::as_str) == Some(owner.as_str());
        if !is_theirs || public_key(key) != Some(id) {
            return Ok(Err(SignatureFailure::UnknownKey));
        }
        // The keys of users of other servers are not kept here; a signature of a key that is not
        // theirs is never shown, because it is shown with the key it belongs to.
        if owner.server_name() == self.server_name() {
            let theirs = match self.find_user(owner).await? {
                Some(account) => {
                    self.cross_signing_key(snapshot, account, Usage::Master)
                        .await?
                }
                None => None,
            };
            if !theirs.is_some_and(|theirs| is_same_key(&theirs, key)) {
                return Ok(Err(SignatureFailure::UnknownKey));
            }
        }
        let given = signatures_by(key, signer.user);
        let Some((_, signature)) = given.iter().find(|(key_id, _)| *key_id == signing_id) else {
            return Ok(Err(SignatureFailure::Invalid));
        };
        if !is_signature_of(key, signature, signing_id, signing_key) {
            return Ok(Err(SignatureFailure::Invalid));
        }
        let row = (
            signer.account,
            owner.to_string(),
            id.to_owned(),
            signing_id.to_owned(),
        );
        batch.put(&USER_SIGNATURES, &row, &(*signature).to_owned());
        Ok(Ok(()))
    }
}

impl Signer<'_> {
    /// Whether a key that was signed is one of the signer's own devices.
    fn is_device(&self, owner: &UserId, id: &str) -> bool {
        owner == self.user && self.master.as_ref().and_then(public_key) != Some(id)
    }

    /// What the user says about a key of their own.
    async fn sign_own(
        &self,
        snapshot: &Snapshot,
        batch: &mut Batch,
        id: &str,
        key: &Object,
    ) -> Result<Result<(), SignatureFailure>, AccountError> {
        if let Some(master) = &self.master
            && public_key(master) == Some(id)
        {
            return self.sign_master(snapshot, batch, master, key).await;
        }
        let row = (self.account, id.to_owned());
        let Some(stored) = snapshot.get(&DEVICE_KEYS, &row).await? else {
            return Ok(Err(SignatureFailure::UnknownKey));
        };
        let mut stored = parse(&stored)?;
        if !is_same_key(&stored, key) {
            return Ok(Err(SignatureFailure::UnknownKey));
        }
        let Some((signing_id, signing_key)) = self.self_signing.as_ref().and_then(named_key) else {
            return Ok(Err(SignatureFailure::Invalid));
        };
        let given = signatures_by(key, self.user);
        let Some((_, signature)) = given.iter().find(|(key_id, _)| *key_id == signing_id) else {
            return Ok(Err(SignatureFailure::Invalid));
        };
        if !is_signature_of(key, signature, signing_id, signing_key) {
            return Ok(Err(SignatureFailure::Invalid));
        }
        if add_signature(&mut stored, self.user.as_str(), signing_id, signature) {
            batch.put(&DEVICE_KEYS, &row, &Value::Object(stored).to_string());
        }
        Ok(Ok(()))
    }

    /// What the user's devices say about the user's master key.
    async fn sign_master(
        &self,
        snapshot: &Snapshot,
        batch: &mut Batch,
        master: &Object,
        key: &Object,
    ) -> Result<Result<(), SignatureFailure>, AccountError> {
        if !is_same_key(master, key) {
            return Ok(Err(SignatureFailure::UnknownKey));
        }
        let mut kept = master.clone();
        let mut valid = false;
        for (key_id, signature) in signatures_by(key, self.user) {
            let device = key_id.split_once(':').map_or("", |(_, device)| device);
            let row = (self.account, device.to_owned());
            let Some(stored) = snapshot.get(&DEVICE_KEYS, &row).await? else {
                continue;
            };
            let stored = parse(&stored)?;
            let public = stored
                .get("keys")
                .and_then(|keys| keys.get(key_id)?.as_str());
            if public.is_some_and(|public| is_signature_of(key, signature, key_id, public)) {
                add_signature(&mut kept, self.user.as_str(), key_id, signature);
                valid = true;
            }
        }
        if !valid {
            return Ok(Err(SignatureFailure::Invalid));
        }
        if kept != *master {
            let row = (self.account, Usage::Master);
            batch.put(&CROSS_SIGNING, &row, &Value::Object(kept).to_string());
        }
        Ok(Ok(()))
    }
}
