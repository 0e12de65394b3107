//! User-Interactive Authentication, as endpoints use it.

use http::{Method, Uri};
use resuni_accounts::{
    Accounts, Session,
    uia::{Flow, Stage, UiaDone, UiaOutcome, UiaRequest},
};

use crate::{error::ApiError, extract::json_object};

/// The request that has to be confirmed, as it came.
pub struct Unconfirmed<'a> {
    /// Its method.
    pub method: Method,
    /// Its path and query.
    pub uri: &'a Uri,
    /// Its body.
    pub raw: &'a [u8],
}

impl Unconfirmed<'_> {
    /// Goes on with the authentication; `Ok` once one of the flows is complete.
    pub async fn confirm(
        &self,
        accounts: &Accounts,
        session: Option<&Session>,
        flows: &[Flow],
    ) -> Result<UiaDone, ApiError> {
        let body = json_object(self.raw)?;
        let request = UiaRequest {
            account: session.map(|session| session.account),
            method: self.method.as_str(),
            path: self.uri.path(),
            body: &body,
        };
        match accounts.uia(request, flows).await? {
            UiaOutcome::Done(done) => Ok(done),
            UiaOutcome::Challenge(challenge) => Err(ApiError::Uia(Box::new(challenge))),
        }
    }

    /// Asks for the password again before something grave. Application services have none, and
    /// what they may do is their operator's decision.
    pub async fn confirm_password(
        &self,
        accounts: &Accounts,
        session: &Session,
    ) -> Result<(), ApiError> {
        if session.appservice.is_none() {
            self.confirm(accounts, Some(session), &[Flow::of([Stage::Password])])
                .await?;
        }
        Ok(())
    }
}
