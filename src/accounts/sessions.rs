//! Logging in, being recognised, refreshing, logging out.

use std::sync::{Arc, atomic::AtomicU64};

use resuni_store::{Batch, Direction, ScanRange, Snapshot, StoreError};
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId};

use crate::{
    Accounts,
    administration::{NO_DEVICE, OwnRate},
    appservices::AppService,
    error::{AccountError, AuthError},
    names, secrets,
    tables::{
        ACCESS, AccessToken, Account, AccountKind, AccountNum, DEVICE, DEVICE_TOKENS, DEVICES,
        Device, DeviceChange, DevicesChanged, REFRESH, RefreshToken, TokenHash, TokenKind,
    },
};

/// The longest device id in bytes.
const DEVICE_ID_BYTES: usize = 255;
/// Tokens of one device that are looked at when they are revoked. A device has at most four: two
/// pairs while a refresh is not yet confirmed.
const TOKENS_PER_DEVICE: usize = 64;

/// What a client asks of a new session.
#[derive(Clone, Debug, Default)]
pub struct DeviceRequest {
    /// The device to log in; none: a new one. A device that exists already keeps its name, and
    /// its earlier tokens are revoked.
    pub device_id: Option<OwnedDeviceId>,
    /// The name of a new device.
    pub display_name: Option<String>,
    /// Whether the client can refresh its access token.
    pub refresh: bool,
}

/// A new session.
#[derive(Clone)]
pub struct Login {
    /// The account.
    pub account: AccountNum,
    /// Its user id.
    pub user_id: OwnedUserId,
    /// The device that was logged in.
    pub device_id: OwnedDeviceId,
    /// The access token. It is nowhere else: only its hash is stored.
    pub access_token: String,
    /// The refresh token, if the client asked for one.
    pub refresh_token: Option<String>,
    /// When the access token expires, in milliseconds from now.
    pub expires_in_ms: Option<u64>,
}

/// Who sends a request.
#[derive(Clone)]
pub struct Session {
    /// The account.
    pub account: AccountNum,
    /// Its user id.
    pub user_id: OwnedUserId,
    /// The device; none for an application service that acts as a user.
    pub device_id: Option<OwnedDeviceId>,
    /// A guest may use a few endpoints only.
    pub is_guest: bool,
    /// An operator.
    pub is_admin: bool,
    /// May read but not write (spec, "Account suspension").
    pub is_suspended: bool,
    /// Can do nothing but log out; only from [`Accounts::authenticate_even_locked`].
    pub is_locked: bool,
    /// How fast this user may send, where an operator has said it.
    pub own_rate: Option<OwnRate>,
    /// The application service whose token was used.
    pub appservice: Option<Arc<AppService>>,
    pub(crate) entry: Option<Arc<TokenEntry>>,
}

/// What is remembered of an access token.
pub(crate) struct TokenEntry {
    pub hash: TokenHash,
    pub account: AccountNum,
    pub user_id: OwnedUserId,
    pub device_id: OwnedDeviceId,
    pub expires_ms: Option<u64>,
    pub replaces: Option<TokenHash>,
    /// When `last_seen` was last told, in milliseconds since 1970.
    pub told_ms: AtomicU64,
}

/// A pair of tokens on their way into a batch.
struct Issued {
    access_token: String,
    refresh_token: Option<String>,
    refresh: Option<TokenHash>,
    expires_in_ms: Option<u64>,
}

impl Accounts {
    /// Logs in with a password. `user` is a local part or a user id of this server, in any case.
    pub async fn login_password(
        &self,
        user: &str,
        password: &str,
        device: DeviceRequest,
    ) -> Result<Login, AccountError> {
        let account = match names::login_localpart(user, self.server_name()) {
            Some(localpart) => self.find(&localpart).await?,
            None => None,
        };
        self.login_of(account, password, device).await
    }

    /// As [`Self::login_password`], of who has this e-mail address.
    pub async fn login_email(
        &self,
        address: &str,
        password: &str,
        device: DeviceRequest,
    ) -> Result<Login, AccountError> {
        let account = match crate::contacts::email_address(address) {
            Ok(address) => self.owner_of(&address).await?,
            Err(_) => None,
        };
        self.login_of(account, password, device).await
    }

    async fn login_of(
        &self,
        account: Option<AccountNum>,
        password: &str,
        device: DeviceRequest,
    ) -> Result<Login, AccountError> {
        let right = self.check_password(account, password).await?;
        match account {
            Some(account) if right => self.login(account, device).await,
            _ => Err(AccountError::Forbidden(
                "The username or the password is wrong.".into(),
            )),
        }
    }

    /// Opens a session for somebody whose identity has been established.
    pub async fn login(
        &self,
        account: AccountNum,
        device: DeviceRequest,
    ) -> Result<Login, AccountError> {
        self.login_with(account, device, Batch::new()).await
    }

    /// As [`Self::login`], together with what else has to happen in the same batch.
    pub(crate) async fn login_with(
        &self,
        account: AccountNum,
        device: DeviceRequest,
        mut batch: Batch,
    ) -> Result<Login, AccountError> {
        let (login, applied) = {
            let _lane = self.lanes.enter(account).await;
            let row = self.row_in_lane(account).await?;
            if row.deactivated.is_some() {
                return Err(AccountError::Deactivated);
            }
            if row.locked {
                return Err(AccountError::Locked);
            }
            let snapshot = self.snapshot();
            let (login, revoked) = self
                .add_session(&snapshot, &mut batch, account, &row, device)
                .await?;
            let applied = self.store.commit(batch).await?;
            self.tokens.forget(revoked);
            (login, applied)
        };
        applied.durable().await?;
        Ok(login)
    }

    /// Adds a session to `batch`; answers it and the tokens that are revoked for it.
    pub(crate) async fn add_session(
        &self,
        snapshot: &Snapshot,
        batch: &mut Batch,
        account: AccountNum,
        row: &Account,
        request: DeviceRequest,
    ) -> Result<(Login, Vec<TokenHash>), AccountError> {
        let device_id = match request.device_id {
            Some(id) => {
                checked_device_id(&id)?;
                id
            }
            None => secrets::word::<10>(secrets::UPPER)?.into(),
        };
        let key = (account, device_id.to_string());
        let mut revoked = Vec::new();
        if snapshot.get(&DEVICE, &key).await?.is_some() {
            if self.is_dehydrated(snapshot, &key).await? {
                return Err(AccountError::Forbidden(
                    "A dehydrated device can't log in. Choose another device id.".into(),
                ));
            }
            revoke_tokens(snapshot, batch, account, &key.1, &mut revoked).await?;
        } else {
            let device = Device {
                display_name: crate::devices::checked_name(request.display_name)?,
                created_ms: self.now_ms(),
            };
            batch.put(&DEVICE, &key, &device);
            let change = DevicesChanged {
                device_id: key.1.clone(),
                change: DeviceChange::Added,
            };
            self.announce(batch, DEVICES, account, &change)?;
        }
        let issued = self.issue(batch, account, &key.1, request.refresh, None)?;
        let login = Login {
            account,
            user_id: self.user_id(&row.localpart)?,
            device_id,
            access_token: issued.access_token,
            refresh_token: issued.refresh_token,
            expires_in_ms: issued.expires_in_ms,
        };
        Ok((login, revoked))
    }

    /// Adds a new access token, and a refresh token beside it, to the batch.
    fn issue(
        &self,
        batch: &mut Batch,
        account: AccountNum,
        device: &str,
        refresh: bool,
        replaces: Option<TokenHash>,
    ) -> Result<Issued, AccountError> {
        let now = self.now_ms();
        let access_token = secrets::token("rsa_")?;
        let access = secrets::hash(&access_token);
        let lifetime = refresh.then(|| millis(self.config.access_token_lifetime));
        let row = AccessToken {
            account,
            device: device.to_owned(),
            expires_ms: lifetime.map(|lifetime| now.saturating_add(lifetime)),
            replaces,
        };
        batch.put(&ACCESS, &access, &row);
        let index = (account, device.to_owned(), TokenKind::Access, access);
        batch.put(&DEVICE_TOKENS, &index, &());
        let refresh_token = refresh.then(|| secrets::token("rsr_")).transpose()?;
        let refresh = refresh_token.as_deref().map(secrets::hash);
        if let Some(hash) = refresh {
            let row = RefreshToken {
                account,
                device: device.to_owned(),
                expires_ms: self
                    .config
                    .refresh_token_lifetime
                    .map(|lifetime| now.saturating_add(millis(lifetime))),
                access,
                replaces,
                next: None,
            };
            batch.put(&REFRESH, &hash, &row);
            let index = (account, device.to_owned(), TokenKind::Refresh, hash);
            batch.put(&DEVICE_TOKENS, &index, &());
        }
        Ok(Issued {
            access_token,
            refresh_token,
            refresh,
            expires_in_ms: lifetime,
        })
    }

    /// Exchanges a refresh token for a new pair. The old pair stays valid until one of the new
    /// pair is used, so that a client that never got the answer can ask again (spec, "Refreshing
    /// access tokens").
    pub async fn refresh(&self, refresh_token: &str) -> Result<Login, AccountError> {
        let hash = secrets::hash(refresh_token);
        let unknown = AccountError::UnknownToken { soft_logout: false };
        let Some(row) = self.snapshot().get(&REFRESH, &hash).await? else {
            return Err(unknown);
        };
        let account = self
            .active(row.account)
            .await
            .map_err(|error| match error {
                AccountError::Deactivated => AccountError::UnknownToken { soft_logout: false },
                other => other,
            })?;
        if account.locked {
            return Err(AccountError::Locked);
        }
        let (issued, applied) = {
            let _lane = self.lanes.enter(row.account).await;
            let snapshot = self.snapshot();
            let Some(mut row) = snapshot.get(&REFRESH, &hash).await? else {
                return Err(unknown);
            };
            if row.expires_ms.is_some_and(|at| at <= self.now_ms()) {
                return Err(AccountError::UnknownToken { soft_logout: true });
            }
            let mut batch = Batch::new();
            let mut revoked = Vec::new();
            // Using this token confirms that it arrived: its predecessor ends.
            if let Some(old) = row.replaces.take() {
                revoke_pair(&snapshot, &mut batch, old, &mut revoked).await?;
                confirm_access(&snapshot, &mut batch, row.access).await?;
                revoked.push(row.access);
            }
            // A pair that was issued for this token before has never been used: it ends.
            if let Some(unused) = row.next.take() {
                revoke_pair(&snapshot, &mut batch, unused, &mut revoked).await?;
            }
            let issued = self.issue(&mut batch, row.account, &row.device, true, Some(hash))?;
            row.next = issued.refresh;
            batch.guard_exists(&REFRESH, &hash);
            batch.put(&REFRESH, &hash, &row);
            let applied = self.store.commit(batch).await?;
            self.tokens.forget(revoked);
            (issued, applied)
        };
        applied.durable().await?;
        Ok(Login {
            account: row.account,
            user_id: self.user_id(&account.localpart)?,
            device_id: row.device.into(),
            access_token: issued.access_token,
            refresh_token: issued.refresh_token,
            expires_in_ms: issued.expires_in_ms,
        })
    }

    /// An access token that came from a refresh is used for the first time: the pair it replaces
    /// ends. Nothing waits for the disk: after a crash the old pair would end at the next use.
    async fn confirm(&self, hash: TokenHash, account: AccountNum) -> Result<(), AccountError> {
        let _lane = self.lanes.enter(account).await;
        let snapshot = self.snapshot();
        let Some(row) = snapshot.get(&ACCESS, &hash).await? else {
            return Ok(());
        };
        let Some(old) = row.replaces else {
            return Ok(());
        };
        let mut batch = Batch::new();
        let mut revoked = vec![hash];
        confirm_access(&snapshot, &mut batch, hash).await?;
        if let Some(next) = snapshot.get(&REFRESH, &old).await?.and_then(|row| row.next)
            && let Some(mut row) = snapshot.get(&REFRESH, &next).await?
        {
            row.replaces = None;
            batch.put(&REFRESH, &next, &row);
        }
        revoke_pair(&snapshot, &mut batch, old, &mut revoked).await?;
        drop(self.store.commit(batch).await?);
        self.tokens.forget(revoked);
        Ok(())
    }

    /// Who sends a request with this access token.
    pub async fn authenticate(&self, token: &str) -> Result<Session, AuthError> {
        self.authenticate_as(token, None, None).await
    }

    /// As [`Self::authenticate`]; an application service may say which user and which device it
    /// acts as (application service API, "Identity assertion"). For others both are ignored.
    pub async fn authenticate_as(
        &self,
        token: &str,
        user_id: Option<&str>,
        device_id: Option<&str>,
    ) -> Result<Session, AuthError> {
        let session = self.recognise(token, user_id, device_id).await?;
        if session.is_locked {
            return Err(AuthError::Locked);
        }
        Ok(session)
    }

    /// As [`Self::authenticate`], also for a locked account: `/logout` and `/logout/all` are open
    /// to it.
    pub async fn authenticate_even_locked(&self, token: &str) -> Result<Session, AuthError> {
        self.recognise(token, None, None).await
    }

    async fn recognise(
        &self,
        token: &str,
        user_id: Option<&str>,
        device_id: Option<&str>,
    ) -> Result<Session, AuthError> {
        if token.is_empty() {
            return Err(AuthError::Missing);
        }
        let hash = secrets::hash(token);
        if let Some(appservice) = self.appservices.by_token(&hash) {
            return self
                .appservice_session(appservice, user_id, device_id)
                .await;
        }
        let unknown = |soft_logout| AuthError::Unknown { soft_logout };
        let entry = self
            .tokens
            .get_or_load(hash, || self.load_token(hash))
            .await?
            .ok_or(unknown(false))?;
        if entry.expires_ms.is_some_and(|at| at <= self.now_ms()) {
            return Err(unknown(true));
        }
        if entry.replaces.is_some()
            && let Err(error) = self.confirm(hash, entry.account).await
        {
            // The request itself is authentic. The next one tries again.
            tracing::warn!(%error, "a refreshed access token could not be confirmed");
        }
        let row = self.account(entry.account).await?.ok_or(unknown(false))?;
        if row.deactivated.is_some() {
            return Err(unknown(false));
        }
        Ok(Session {
            account: entry.account,
            user_id: entry.user_id.clone(),
            device_id: (entry.device_id != NO_DEVICE).then(|| entry.device_id.clone()),
            is_guest: row.kind == AccountKind::Guest,
            is_admin: row.admin,
            is_suspended: row.suspended,
            is_locked: row.locked,
            own_rate: self.own_rate(entry.account),
            appservice: None,
            entry: Some(entry),
        })
    }

    async fn load_token(&self, hash: TokenHash) -> Result<Option<TokenEntry>, StoreError> {
        let Some(row) = self.snapshot().get(&ACCESS, &hash).await? else {
            return Ok(None);
        };
        let Some(account) = self.account(row.account).await? else {
            return Ok(None);
        };
        let Ok(user_id) = self.user_id(&account.localpart) else {
            return Ok(None);
        };
        Ok(Some(TokenEntry {
            hash,
            account: row.account,
            user_id,
            device_id: row.device.into(),
            expires_ms: row.expires_ms,
            replaces: row.replaces,
            told_ms: AtomicU64::new(0),
        }))
    }

    /// Ends the session: its device goes, and all that belongs to the device.
    pub async fn logout(&self, session: &Session) -> Result<(), AccountError> {
        match &session.device_id {
            Some(device) => self.delete_devices(session.account, &[device]).await,
            // An application service's token belongs to no device and is not revoked here.
            None if session.appservice.is_some() => Ok(()),
            None => self.end_operators_session(session).await,
        }
    }

    /// Ends all sessions of an account.
    pub async fn logout_all(&self, account: AccountNum) -> Result<(), AccountError> {
        self.delete_devices_except(account, &[]).await
    }
}

/// Whether a device may be called so.
pub(crate) fn checked_device_id(id: &DeviceId) -> Result<(), AccountError> {
    if (1..=DEVICE_ID_BYTES).contains(&id.as_str().len()) {
        return Ok(());
    }
    Err(AccountError::InvalidParam(format!(
        "A device id has 1 to {DEVICE_ID_BYTES} bytes."
    )))
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Deletes all tokens of a device; their hashes are added to `revoked`.
pub(crate) async fn revoke_tokens(
    snapshot: &Snapshot,
    batch: &mut Batch,
    account: AccountNum,
    device: &str,
    revoked: &mut Vec<TokenHash>,
) -> Result<(), StoreError> {
    let range = ScanRange::prefix(&(account, device.to_owned()));
    let rows = snapshot
        .scan(&DEVICE_TOKENS, range, Direction::Forward, TOKENS_PER_DEVICE)
        .await?;
    for (key, ()) in rows {
        match key.2 {
            TokenKind::Access => batch.delete(&ACCESS, &key.3),
            TokenKind::Refresh => batch.delete(&REFRESH, &key.3),
        };
        batch.delete(&DEVICE_TOKENS, &key);
        revoked.push(key.3);
    }
    Ok(())
}

/// Deletes a refresh token and the access token that was issued with it.
async fn revoke_pair(
    snapshot: &Snapshot,
    batch: &mut Batch,
    refresh: TokenHash,
    revoked: &mut Vec<TokenHash>,
) -> Result<(), StoreError> {
    let Some(row) = snapshot.get(&REFRESH, &refresh).await? else {
        return Ok(());
    };
    batch.delete(&REFRESH, &refresh);
    batch.delete(&ACCESS, &row.access);
    for (kind, hash) in [
        (TokenKind::Refresh, refresh),
        (TokenKind::Access, row.access),
    ] {
        let key = (row.account, row.device.clone(), kind, hash);
        batch.delete(&DEVICE_TOKENS, &key);
        revoked.push(hash);
    }
    Ok(())
}

/// Takes away the mark that an access token has not been used yet.
async fn confirm_access(
    snapshot: &Snapshot,
    batch: &mut Batch,
    access: TokenHash,
) -> Result<(), StoreError> {
    if let Some(mut row) = snapshot.get(&ACCESS, &access).await? {
        row.replaces = None;
        batch.put(&ACCESS, &access, &row);
    }
    Ok(())
}

#[cfg(test)]
#[path = "sessions_tests.rs"]
mod tests;
