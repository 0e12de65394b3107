//! New accounts.

use resuni_store::{Batch, CommitError, StoreError};
use ruma::OwnedUserId;

use crate::{
    Accounts,
    error::AccountError,
    names, secrets,
    sessions::{DeviceRequest, Login},
    tables::{
        ACCOUNT, ACCOUNT_NAMES, ACCOUNTS, Account, AccountKind, AccountNum, AccountsChange,
        CONTACTS, Hidden, PROFILES,
    },
    users::lost_race,
    validation::{Purpose, Validated},
};

/// How often a name is made up before giving up. Two in a row that are taken mean a broken
/// generator.
const ATTEMPTS: usize = 4;

/// A registration whose authorisation has been settled by the caller (open, UIA, shared secret,
/// application service).
#[derive(Clone)]
pub struct NewAccount {
    /// The wanted name; none: one is made up.
    pub localpart: Option<String>,
    /// The password; none for guests and users of application services, and for accounts that
    /// can't log in until an operator gives them one.
    pub password: Option<String>,
    /// What kind of account it is.
    pub kind: AccountKind,
    /// May use the operator's endpoints.
    pub admin: bool,
    /// A label given by the operator.
    pub user_type: Option<String>,
    /// The first display name.
    pub display_name: Option<String>,
    /// The registration token of the UIA session; it is used up in the same batch.
    pub registration_token: Option<String>,
    /// The address of the UIA session; it becomes the account's in the same batch.
    pub email: Option<Validated>,
    /// The device to log in at once; none for `inhibit_login`.
    pub device: Option<DeviceRequest>,
}

impl NewAccount {
    /// An ordinary person with a password.
    pub fn user(localpart: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            localpart: Some(localpart.into()),
            password: Some(password.into()),
            ..Self::of_kind(AccountKind::User)
        }
    }

    /// An account without name, password or device.
    pub fn of_kind(kind: AccountKind) -> Self {
        Self {
            localpart: None,
            password: None,
            kind,
            admin: false,
            user_type: None,
            display_name: None,
            registration_token: None,
            email: None,
            device: None,
        }
    }
}

/// A new account.
#[derive(Clone)]
pub struct Registered {
    /// Its number.
    pub account: AccountNum,
    /// Its user id.
    pub user_id: OwnedUserId,
    /// Its first session, if one was asked for.
    pub login: Option<Login>,
}

impl Accounts {
    /// Whether somebody may register this name: `Ok` if so, and else why not.
    pub async fn available(&self, wanted: &str) -> Result<(), AccountError> {
        self.free_localpart(wanted, &AccountKind::User)
            .await
            .map(drop)
    }

    /// The local part of a wanted name, if it is free for an account of this kind.
    async fn free_localpart(
        &self,
        wanted: &str,
        kind: &AccountKind,
    ) -> Result<String, AccountError> {
        let localpart = names::new_localpart(wanted, self.server_name())?;
        let user = self.user_id(&localpart)?;
        let free = match kind {
            AccountKind::AppService(id) => self
                .appservices
                .by_id(id)
                .is_some_and(|appservice| appservice.owns_user(&user)),
            _ => !self.appservices.is_exclusive_user(&user),
        };
        if !free {
            return Err(AccountError::Exclusive);
        }
        match self.find(&localpart).await? {
            Some(_) => Err(AccountError::UserInUse),
            None => Ok(localpart),
        }
    }

    /// Registers an account, and logs its first device in, in one batch.
    pub async fn register(&self, new: NewAccount) -> Result<Registered, AccountError> {
        let password = match &new.password {
            Some(_) if new.kind == AccountKind::Guest => {
                return Err(AccountError::Forbidden("Guests have no password.".into()));
            }
            // Names are looked at before the slow hash.
            Some(password) => {
                if let Some(wanted) = &new.localpart {
                    self.free_localpart(wanted, &new.kind).await?;
                }
                Some(self.passwords.hash(password).await?)
            }
            None => None,
        };
        for _ in 0..ATTEMPTS {
            let (wanted, made_up) = match &new.localpart {
                Some(wanted) => (wanted.clone(), false),
                None => (made_up_name(&new.kind)?, true),
            };
            let localpart = match self.free_localpart(&wanted, &new.kind).await {
                Err(AccountError::UserInUse) if made_up => continue,
                other => other?,
            };
            match self.write_account(&new, localpart, password.clone()).await {
                Err(Refused::NameTaken) if !made_up => return Err(AccountError::UserInUse),
                Err(Refused::NameTaken) => {}
                Err(Refused::Other(error)) => return Err(error),
                Ok(registered) => return Ok(registered),
            }
        }
        Err(AccountError::Internal(
            "The registration lost every race for a name.".into(),
        ))
    }

    async fn write_account(
        &self,
        new: &NewAccount,
        localpart: String,
        password: Option<String>,
    ) -> Result<Registered, Refused> {
        let mut batch = Batch::new();
        let number = self
            .store
            .numbers()
            .assign(&ACCOUNT_NAMES, localpart.as_bytes(), &mut batch)
            .await?;
        let account = AccountNum(number);
        let row = Account {
            localpart,
            kind: new.kind.clone(),
            user_type: new.user_type.clone(),
            created_ms: self.now_ms(),
            password: password.map(Hidden),
            admin: new.admin,
            locked: false,
            suspended: false,
            deactivated: None,
        };
        batch.guard_absent(&ACCOUNTS, &account);
        batch.put(&ACCOUNTS, &account, &row);
        // Clients show the display name, so people have one from the start, as on other servers.
        let own_name = (new.kind == AccountKind::User).then_some(&row.localpart);
        if let Some(name) = new.display_name.as_ref().or(own_name) {
            let field = crate::profiles::checked_field("displayname", name.as_str().into())?;
            batch.put(&PROFILES, &(account, "displayname".to_owned()), &field);
        }
        let mut _one_at_a_time = None;
        if let Some(token) = &new.registration_token {
            _one_at_a_time = Some(self.registering.lock().await);
            self.use_registration_token(token, &mut batch).await?;
        }
        if let Some(email) = &new.email {
            if email.purpose != Purpose::Register {
                return Err(Refused::Other(AccountError::ThreepidAuthFailed));
            }
            self.give_contact(&mut batch, account, email.clone());
        }
        self.announce(&mut batch, ACCOUNT, account, &AccountsChange::Registered)?;
        let login = match &new.device {
            Some(device) => {
                let snapshot = self.snapshot();
                let (login, _) = self
                    .add_session(&snapshot, &mut batch, account, &row, device.clone())
                    .await?;
                Some(login)
            }
            None => None,
        };
        let user_id = self.user_id(&row.localpart)?;
        let applied = self.store.commit(batch).await?;
        drop(_one_at_a_time);
        applied.durable().await?;
        Ok(Registered {
            account,
            user_id,
            login,
        })
    }

    /// Registers the users that the application services speak through by default.
    pub(crate) async fn ensure_appservice_senders(&self) -> Result<(), AccountError> {
        for appservice in self.appservices.iter() {
            let sender = appservice.sender();
            if self.find(sender.localpart()).await?.is_some() {
                continue;
            }
            let kind = AccountKind::AppService(appservice.id().to_owned());
            let new = NewAccount {
                localpart: Some(sender.localpart().to_owned()),
                ..NewAccount::of_kind(kind)
            };
            self.register(new).await?;
        }
        Ok(())
    }
}

/// A name for who did not choose one.
fn made_up_name(kind: &AccountKind) -> Result<String, AccountError> {
    let word = secrets::word::<12>(secrets::LOWER)?;
    Ok(match kind {
        AccountKind::Guest => format!("guest-{word}"),
        _ => word,
    })
}

/// Why a registration was not written.
enum Refused {
    /// Somebody else took the name a moment ago.
    NameTaken,
    Other(AccountError),
}

impl From<AccountError> for Refused {
    fn from(error: AccountError) -> Self {
        Self::Other(error)
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        Self::Other(error.into())
    }
}

impl From<CommitError> for Refused {
    fn from(error: CommitError) -> Self {
        if lost_race(&error, ACCOUNTS.name()) {
            Self::NameTaken
        } else if lost_race(&error, CONTACTS.name()) {
            Self::Other(AccountError::ThreepidInUse)
        } else {
            Self::Other(error.into())
        }
    }
}

#[cfg(test)]
#[path = "register_tests.rs"]
mod tests;
