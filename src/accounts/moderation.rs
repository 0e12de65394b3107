//! What operators do about the accounts of others (spec, "Account locking", "Account suspension", and the endpoints of
//! "Server Administration").

use ruma::UserId;

use crate::{AccountNum, Accounts, Session, error::AccountError};

/// What keeps an account from doing something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restriction {
    /// It can do nothing but log out.
    Locked,
    /// It can read but not write.
    Suspended,
}

impl Accounts {
    /// Whether an account is under this restriction, for an operator who asks.
    pub async fn is_restricted(
        &self,
        by: &Session,
        user: &UserId,
        restriction: Restriction,
    ) -> Result<bool, AccountError> {
        let account = self.moderated(by, user).await?;
        let row = self.active(account).await?;
        Ok(match restriction {
            Restriction::Locked => row.locked,
            Restriction::Suspended => row.suspended,
        })
    }

    /// Puts an account under this restriction, or releases it. Nobody does it to themselves.
    pub async fn restrict(
        &self,
        by: &Session,
        user: &UserId,
        restriction: Restriction,
        restricted: bool,
    ) -> Result<(), AccountError> {
        let account = self.moderated(by, user).await?;
        if account == by.account {
            return Err(AccountError::Forbidden(
                "You can't do this to your own account.".into(),
            ));
        }
        match restriction {
            Restriction::Locked => self.set_locked(account, restricted).await,
            Restriction::Suspended => self.set_suspended(account, restricted).await,
        }
    }

    /// The account of `user`, for an operator. Who is none learns nothing of who exists: what they may do is looked at
    /// first. Operators don't judge each other.
    async fn moderated(&self, by: &Session, user: &UserId) -> Result<AccountNum, AccountError> {
        self.require_operator(by)?;
        let account = self.local_account(user).await?;
        let row = self
            .account(account)
            .await?
            .ok_or(AccountError::NotFound("There is no such account."))?;
        if row.deactivated.is_some() {
            return Err(AccountError::NotFound("This account has been deactivated."));
        }
        if row.admin && account != by.account {
            return Err(AccountError::Forbidden(
                "This account belongs to another operator.".into(),
            ));
        }
        Ok(account)
    }

    /// Nothing, for an operator; an error for anybody else.
    pub fn require_operator(&self, by: &Session) -> Result<(), AccountError> {
        if by.is_admin {
            return Ok(());
        }
        Err(AccountError::Forbidden(
            "Only operators of this server may do this.".into(),
        ))
    }

    /// The account of a user of this server, whatever its condition.
    pub async fn local_account(&self, user: &UserId) -> Result<AccountNum, AccountError> {
        if user.server_name() != self.server_name() {
            return Err(AccountError::InvalidParam(
                "This is a user of another server.".into(),
            ));
        }
        self.find(user.localpart())
            .await?
            .ok_or(AccountError::NotFound("There is no such account."))
    }
}

#[cfg(test)]
#[path = "moderation_tests.rs"]
mod tests;
