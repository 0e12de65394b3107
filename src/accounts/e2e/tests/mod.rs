//! Tests of what is kept for end-to-end encryption. Signatures are real ones.

mod cross_signing;
mod messages;
mod one_time_keys;

use ruma::{
    CanonicalJsonValue, OwnedUserId, UserId, device_id,
    serde::Base64,
    signatures::{Ed25519KeyPair, KeyPair, to_canonical_json_string_for_signing},
};
use serde_json::{Value, json};

use super::*;
use crate::{DeviceRequest, NewAccount};

/// A key that signs.
struct Signer(Ed25519KeyPair);

impl Signer {
    fn new() -> Self {
        let document = Ed25519KeyPair::generate();
        Self(Ed25519KeyPair::from_der(&document, "1".into()).unwrap())
    }

    fn public(&self) -> String {
        Base64::<Standard, _>::new(self.0.public_key()).encode()
    }

    /// Its id when it is a cross-signing key.
    fn id(&self) -> String {
        format!("ed25519:{}", self.public())
    }

    fn sign(&self, user: &UserId, key_id: &str, key: &mut Object) {
        let CanonicalJsonValue::Object(canonical) = to_canonical_value(&*key).unwrap() else {
            panic!("an object");
        };
        let text = to_canonical_json_string_for_signing(&canonical).unwrap();
        let signature = self.0.sign(text.as_bytes()).base64();
        add_signature(key, user.as_str(), key_id, &signature);
    }

    fn cross_signing(&self, user: &UserId, usage: &str) -> Object {
        object(json!({
            "user_id": user,
            "usage": [usage],
            "keys": {self.id(): self.public()},
        }))
    }

    fn device(&self, user: &UserId, device: &str) -> Object {
        let mut keys = object(json!({
            "user_id": user,
            "device_id": device,
            "algorithms": ["m.megolm.v1.aes-sha2"],
            "keys": {format!("ed25519:{device}"): self.public()},
        }));
        self.sign(user, &format!("ed25519:{device}"), &mut keys);
        keys
    }
}

fn object(value: Value) -> Object {
    value.as_object().unwrap().clone()
}

/// A person with a device and all their keys.
struct Person {
    account: AccountNum,
    user: OwnedUserId,
    device: Signer,
    master: Signer,
    self_signing: Signer,
    user_signing: Signer,
}

impl Person {
    async fn new(accounts: &Accounts, name: &str) -> Self {
        let new = NewAccount {
            device: Some(on("PHONE")),
            ..NewAccount::user(name, "secret")
        };
        let registered = accounts.register(new).await.unwrap();
        Self {
            account: registered.account,
            user: registered.user_id,
            device: Signer::new(),
            master: Signer::new(),
            self_signing: Signer::new(),
            user_signing: Signer::new(),
        }
    }

    fn upload(&self) -> CrossSigningUpload {
        let key = |signer: &Signer, usage| {
            let mut key = signer.cross_signing(&self.user, usage);
            self.master.sign(&self.user, &self.master.id(), &mut key);
            Some(key)
        };
        CrossSigningUpload {
            master: Some(self.master.cross_signing(&self.user, "master")),
            self_signing: key(&self.self_signing, "self_signing"),
            user_signing: key(&self.user_signing, "user_signing"),
        }
    }

    /// Uploads the device's keys and the cross-signing keys.
    async fn publish(&self, accounts: &Accounts) {
        let keys = KeyUpload {
            device_keys: Some(self.device.device(&self.user, "PHONE")),
            ..KeyUpload::default()
        };
        let phone = device_id!("PHONE");
        accounts
            .upload_keys(self.account, phone, &keys)
            .await
            .unwrap();
        accounts
            .upload_cross_signing(self.account, &self.upload())
            .await
            .unwrap();
    }
}

fn on(device: &str) -> DeviceRequest {
    DeviceRequest {
        device_id: Some(device.into()),
        ..DeviceRequest::default()
    }
}

fn one_time(names: &[&str]) -> KeyUpload {
    let keys = names
        .iter()
        .map(|name| ((*name).to_owned(), json!({"key": name})));
    KeyUpload {
        one_time_keys: keys.collect(),
        ..KeyUpload::default()
    }
}

async fn claim(accounts: &Accounts, account: AccountNum) -> Option<String> {
    let wanted = [(device_id!("PHONE"), "signed_curve25519")];
    let mut keys = accounts.claim_keys(account, &wanted).await.unwrap();
    let keys = keys.remove("PHONE")?;
    assert_eq!(keys.len(), 1);
    keys.keys().next().cloned()
}
