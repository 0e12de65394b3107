//! Devices: the list, their names, their end.

use resuni_store::{Applied, Batch, Direction, ScanRange, Snapshot, StoreError};
use ruma::{DeviceId, OwnedDeviceId};

use crate::{
    Accounts,
    error::AccountError,
    sessions::{checked_device_id, revoke_tokens},
    tables::{
        AccountNum, DEVICE, DEVICES, Device, DeviceChange, DevicesChanged, PUSHERS_CHANGED, SEEN,
        Seen, TokenHash,
    },
};

/// The longest display name of a device in characters.
const DISPLAY_NAME_CHARS: usize = 100;
/// Devices removed in one batch; each may have thousands of messages waiting.
const PAGE: usize = 10;

/// A device as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its id.
    pub device_id: OwnedDeviceId,
    /// The name its owner gave it; visible to everybody.
    pub display_name: Option<String>,
    /// The address it was last seen at.
    pub last_seen_ip: Option<String>,
    /// When it was last seen, in milliseconds since 1970, to the minute.
    pub last_seen_ms: Option<u64>,
    /// The program it was last seen to run.
    pub user_agent: Option<String>,
}

impl DeviceInfo {
    fn new(device_id: String, device: Device, seen: Option<Seen>) -> Self {
        let user_agent = seen.as_ref().and_then(|seen| seen.user_agent.clone());
        let (last_seen_ip, last_seen_ms) = seen.map(|seen| (seen.ip, seen.ms)).unzip();
        Self {
            device_id: device_id.into(),
            display_name: device.display_name,
            last_seen_ip,
            last_seen_ms,
            user_agent,
        }
    }
}

/// Devices that go with a batch.
#[derive(Default)]
pub(crate) struct Leaving {
    /// Their ids.
    gone: Vec<String>,
    /// Devices whose keys changed, and whether each is gone.
    pub known: Vec<(String, bool)>,
    /// Their tokens.
    revoked: Vec<TokenHash>,
    /// Whether pushers go with them.
    pushers: bool,
}

/// A display name that is not too long.
pub(crate) fn checked_name(name: Option<String>) -> Result<Option<String>, AccountError> {
    match name {
        Some(name) if name.chars().count() > DISPLAY_NAME_CHARS => Err(AccountError::TooLarge {
            what: "The display name of a device",
            limit: DISPLAY_NAME_CHARS,
        }),
        name => Ok(name),
    }
}

impl Accounts {
    /// The devices of an account in the order of their ids.
    pub async fn devices(&self, account: AccountNum) -> Result<Vec<DeviceInfo>, StoreError> {
        let snapshot = self.snapshot();
        let all = || ScanRange::prefix(&account);
        let devices = snapshot
            .scan(&DEVICE, all(), Direction::Forward, usize::MAX)
            .await?;
        let mut seen = snapshot
            .scan(&SEEN, all(), Direction::Forward, usize::MAX)
            .await?
            .into_iter()
            .peekable();
        // Both are in the order of their keys: one pass over both.
        Ok(devices
            .into_iter()
            .map(|(key, device)| {
                while seen.next_if(|(other, _)| *other < key).is_some() {}
                let stored = seen.next_if(|(other, _)| *other == key).map(|(_, row)| row);
                let seen = self.last_seen.pending(&key).or(stored);
                DeviceInfo::new(key.1, device, seen)
            })
            .collect())
    }

    /// One device; none if the account has no such device.
    pub async fn device(
        &self,
        account: AccountNum,
        device_id: &DeviceId,
    ) -> Result<Option<DeviceInfo>, StoreError> {
        let snapshot = self.snapshot();
        let key = (account, device_id.to_string());
        let Some(device) = snapshot.get(&DEVICE, &key).await? else {
            return Ok(None);
        };
        let seen = match self.last_seen.pending(&key) {
            Some(seen) => Some(seen),
            None => snapshot.get(&SEEN, &key).await?,
        };
        Ok(Some(DeviceInfo::new(key.1, device, seen)))
    }

    /// Gives a device another display name, or none.
    pub async fn rename_device(
        &self,
        account: AccountNum,
        device_id: &DeviceId,
        display_name: Option<String>,
    ) -> Result<(), AccountError> {
        let display_name = checked_name(display_name)?;
        let key = (account, device_id.to_string());
        let applied = {
            let _lane = self.lanes.enter(account).await;
            let Some(old) = self.snapshot().get(&DEVICE, &key).await? else {
                return Err(AccountError::NotFound("There is no such device."));
            };
            if old.display_name == display_name {
                return Ok(());
            }
            self.write_device(&key, old.created_ms, display_name, DeviceChange::Renamed)
                .await?
        };
        Ok(applied.durable().await?)
    }

    /// Creates a device without logging it in, or renames it: what `PUT /devices/{id}` does for an
    /// application service (v1.17). Answers whether it is new.
    pub async fn put_device(
        &self,
        account: AccountNum,
        device_id: &DeviceId,
        display_name: Option<String>,
    ) -> Result<bool, AccountError> {
        let display_name = checked_name(display_name)?;
        checked_device_id(device_id)?;
        let key = (account, device_id.to_string());
        let (new, applied) = {
            let _lane = self.lanes.enter(account).await;
            if self.row_in_lane(account).await?.deactivated.is_some() {
                return Err(AccountError::Deactivated);
            }
            let old = self.snapshot().get(&DEVICE, &key).await?;
            let (created_ms, change) = match &old {
                Some(old) => (old.created_ms, DeviceChange::Renamed),
                None => (self.now_ms(), DeviceChange::Added),
            };
            let applied = self
                .write_device(&key, created_ms, display_name, change)
                .await?;
            (old.is_none(), applied)
        };
        applied.durable().await?;
        Ok(new)
    }

    /// Writes a device row and its log entry; inside the lane.
    async fn write_device(
        &self,
        key: &(AccountNum, String),
        created_ms: u64,
        display_name: Option<String>,
        change: DeviceChange,
    ) -> Result<Applied, AccountError> {
        let mut batch = Batch::new();
        let device = Device {
            display_name,
            created_ms,
        };
        batch.put(&DEVICE, key, &device);
        let payload = DevicesChanged {
            device_id: key.1.clone(),
            change,
        };
        self.announce(&mut batch, DEVICES, key.0, &payload)?;
        let snapshot = self.snapshot();
        // Server-server API, "Device Management": also when "the device's human-readable name" changes.
        if change == DeviceChange::Renamed {
            let known = vec![(key.1.clone(), false)];
            self.device_list_changed(&snapshot, &mut batch, key.0, known)
                .await?;
        }
        Ok(self.store.commit(batch).await?)
    }

    /// Tells everybody who may know these devices that they changed, or (true) are gone.
    async fn device_list_changed(
        &self,
        snapshot: &Snapshot,
        batch: &mut Batch,
        account: AccountNum,
        devices: Vec<(String, bool)>,
    ) -> Result<(), AccountError> {
        if !devices.is_empty() {
            let user = self.user_id(&self.row_in_lane(account).await?.localpart)?;
            self.keys_changed(snapshot, batch, account, &user, devices)
                .await?;
        }
        Ok(())
    }

    /// Removes devices and everything that is theirs. Those that do not exist are passed over.
    pub async fn delete_devices(
        &self,
        account: AccountNum,
        devices: &[impl AsRef<DeviceId>],
    ) -> Result<(), AccountError> {
        for page in devices.chunks(PAGE) {
            let ids = page.iter().map(|id| id.as_ref().to_string()).collect();
            self.delete_page(account, ids).await?;
        }
        Ok(())
    }

    /// Removes all devices of an account but these.
    pub(crate) async fn delete_devices_except(
        &self,
        account: AccountNum,
        keep: &[&str],
    ) -> Result<(), AccountError> {
        loop {
            // More than are removed at a time, because some may be kept.
            let rows = self
                .snapshot()
                .scan(
                    &DEVICE,
                    ScanRange::prefix(&account),
                    Direction::Forward,
                    PAGE + keep.len(),
                )
                .await?;
            let ids: Vec<_> = rows
                .into_iter()
                .map(|((_, id), _)| id)
                .filter(|id| !keep.contains(&id.as_str()))
                .collect();
            if ids.is_empty() {
                return Ok(());
            }
            self.delete_page(account, ids).await?;
        }
    }

    async fn delete_page(
        &self,
        account: AccountNum,
        devices: Vec<String>,
    ) -> Result<(), AccountError> {
        let applied = {
            let _lane = self.lanes.enter(account).await;
            let snapshot = self.snapshot();
            let mut batch = Batch::new();
            let mut leaving = Leaving::default();
            for device in devices {
                let key = (account, device);
                if snapshot.get(&DEVICE, &key).await?.is_some() {
                    self.remove_device(&snapshot, &mut batch, &key, &mut leaving)
                        .await?;
                }
            }
            if batch.is_empty() {
                return Ok(());
            }
            let revoked = self
                .announce_leaving(&snapshot, &mut batch, account, leaving)
                .await?;
            let applied = self.store.commit(batch).await?;
            self.tokens.forget(revoked);
            applied
        };
        Ok(applied.durable().await?)
    }

    /// Removes a device and everything that is its own; inside the lane. [`Self::announce_leaving`] has to follow.
    pub(crate) async fn remove_device(
        &self,
        snapshot: &Snapshot,
        batch: &mut Batch,
        key: &(AccountNum, String),
        leaving: &mut Leaving,
    ) -> Result<(), AccountError> {
        batch.delete(&DEVICE, key);
        batch.delete(&SEEN, key);
        revoke_tokens(snapshot, batch, key.0, &key.1, &mut leaving.revoked).await?;
        leaving.pushers |= self.remove_pushers_of(snapshot, batch, key).await?;
        self.remove_settings_of(snapshot, batch, key).await?;
        if self.remove_keys_of(snapshot, batch, key).await? {
            leaving.known.push((key.1.clone(), true));
        }
        self.last_seen.forget(key);
        leaving.gone.push(key.1.clone());
        Ok(())
    }

    /// Tells the log of devices that go, once for a batch. Answers the tokens to be forgotten after the commit.
    pub(crate) async fn announce_leaving(
        &self,
        snapshot: &Snapshot,
        batch: &mut Batch,
        account: AccountNum,
        leaving: Leaving,
    ) -> Result<Vec<TokenHash>, AccountError> {
        self.device_list_changed(snapshot, batch, account, leaving.known)
            .await?;
        // Positions are taken last, because the log waits for them.
        if leaving.pushers {
            self.announce(batch, PUSHERS_CHANGED, account, &())?;
        }
        for device_id in leaving.gone {
            let change = DeviceChange::Removed;
            let payload = DevicesChanged { device_id, change };
            self.announce(batch, DEVICES, account, &payload)?;
        }
        Ok(leaving.revoked)
    }
}
