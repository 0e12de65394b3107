//! Application services: whose token is it, and which users are theirs.

use std::{collections::HashMap, sync::Arc};

use regex::{Regex, RegexBuilder};
use ruma::{
    OwnedUserId, ServerName, UserId,
    api::appservice::{Namespace, Registration},
};

use serde::Deserialize;

use crate::{
    Accounts, Session,
    error::AuthError,
    secrets,
    tables::{AccountKind, DEVICE, TokenHash},
};

/// The largest compiled regular expression of a namespace, in bytes. The engine is linear in the
/// text whatever the expression.
const REGEX_BYTES: usize = 1 << 20;

/// Why the registrations of the application services can't be used.
#[derive(Debug, thiserror::Error)]
pub enum AppServicesError {
    /// Two of them have the same id or token.
    #[error("Two application services have the same {what}: {first} and {second}.")]
    Twice {
        /// "id" or "as_token"
        what: &'static str,
        /// The id of one.
        first: String,
        /// The id of the other.
        second: String,
    },
    /// An expression can't be compiled.
    #[error("The application service {id} has a namespace that is no regular expression: {error}")]
    Regex {
        /// The id of the service.
        id: String,
        /// What the compiler says.
        error: Box<regex::Error>,
    },
    /// The user it speaks through can't exist.
    #[error("The sender_localpart of the application service {id} is no username: {error}")]
    Sender {
        /// The id of the service.
        id: String,
        /// Why not.
        error: String,
    },
    /// A token is empty.
    #[error("The application service {0} has an empty as_token.")]
    EmptyToken(String),
}

/// What proposals add to a registration. The names are those of the file.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Proposals {
    /// It is told of messages to its users' devices, of changes of device lists, and how many one-time keys are left
    /// (MSC3202, MSC4203). Without it they are left to `/sync`, by which older bridges get them.
    #[serde(rename = "org.matrix.msc3202")]
    pub encryption: bool,
    /// `receive_ephemeral` as it was called before v1.13 (MSC2409).
    #[serde(rename = "de.sorunome.msc2409.push_ephemeral")]
    pub push_ephemeral: bool,
}

/// A registration as its file says it.
#[derive(Clone, Debug)]
pub struct ServiceFile {
    /// What the specification knows.
    pub registration: Registration,
    /// What it does not.
    pub proposals: Proposals,
}

impl From<Registration> for ServiceFile {
    fn from(registration: Registration) -> Self {
        Self {
            registration,
            proposals: Proposals::default(),
        }
    }
}

/// One application service.
pub struct AppService {
    registration: Registration,
    proposals: Proposals,
    sender: OwnedUserId,
    users: Names,
    aliases: Names,
    rooms: Names,
}

/// A namespace with its expressions compiled.
struct Names(Vec<(bool, Regex)>);

impl Names {
    fn compile(id: &str, namespaces: &[Namespace]) -> Result<Self, AppServicesError> {
        namespaces
            .iter()
            .map(|namespace| {
                // The expression describes whole ids: "irc_.*" must not match "@not_irc_x:…".
                RegexBuilder::new(&format!("^(?:{})$", namespace.regex))
                    .size_limit(REGEX_BYTES)
                    .build()
                    .map(|regex| (namespace.exclusive, regex))
                    .map_err(|error| AppServicesError::Regex {
                        id: id.to_owned(),
                        error: Box::new(error),
                    })
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|(_, regex)| regex.is_match(name))
    }

    fn contains_exclusively(&self, name: &str) -> bool {
        self.0
            .iter()
            .any(|(exclusive, regex)| *exclusive && regex.is_match(name))
    }
}

impl AppService {
    fn new(file: ServiceFile, server: &ServerName) -> Result<Self, AppServicesError> {
        let ServiceFile {
            registration,
            proposals,
        } = file;
        let id = &registration.id;
        if registration.as_token.is_empty() {
            return Err(AppServicesError::EmptyToken(id.clone()));
        }
        let sender = UserId::parse_with_server_name(registration.sender_localpart.as_str(), server)
            .map_err(|error| AppServicesError::Sender {
                id: id.clone(),
                error: error.to_string(),
            })?;
        let namespaces = &registration.namespaces;
        Ok(Self {
            users: Names::compile(id, &namespaces.users)?,
            aliases: Names::compile(id, &namespaces.aliases)?,
            rooms: Names::compile(id, &namespaces.rooms)?,
            sender,
            registration,
            proposals,
        })
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.registration.id
    }

    /// The user it speaks through unless it says otherwise.
    pub fn sender(&self) -> &UserId {
        &self.sender
    }

    /// What its operator wrote.
    pub fn registration(&self) -> &Registration {
        &self.registration
    }

    /// Whether it may act as this user.
    pub fn owns_user(&self, user: &UserId) -> bool {
        user == self.sender || self.users.contains(user.as_str())
    }

    /// Whether nobody but it may act as this user.
    pub fn keeps_user(&self, user: &UserId) -> bool {
        user == self.sender || self.users.contains_exclusively(user.as_str())
    }

    /// Whether it is told who types, who has read what and who is there.
    pub fn receives_ephemeral(&self) -> bool {
        self.registration.receive_ephemeral || self.proposals.push_ephemeral
    }

    /// Whether it is told what its users' devices need for end-to-end encryption.
    pub fn receives_encryption(&self) -> bool {
        self.proposals.encryption
    }

    /// Whether it is interested in this alias.
    pub fn owns_alias(&self, alias: &str) -> bool {
        self.aliases.contains(alias)
    }

    /// Whether it is interested in this room by the room's id.
    pub fn owns_room(&self, room: &str) -> bool {
        self.rooms.contains(room)
    }

    /// Whether the rate limits hold for one of its users: "The sender is excluded" (Application Service API,
    /// "Registration").
    pub fn is_rate_limited(&self, user: &UserId) -> bool {
        user != self.sender && self.registration.rate_limited.unwrap_or(true)
    }
}

/// The application services of this server. Read at the start; a change needs a restart.
#[derive(Default)]
pub struct AppServices {
    services: Vec<Arc<AppService>>,
    by_token: HashMap<TokenHash, Arc<AppService>>,
}

impl AppServices {
    /// Compiles the registrations.
    pub fn new(
        registrations: impl IntoIterator<Item = impl Into<ServiceFile>>,
        server: &ServerName,
    ) -> Result<Self, AppServicesError> {
        let mut all = Self::default();
        for registration in registrations {
            let service = Arc::new(AppService::new(registration.into(), server)?);
            let twice = |what, other: &AppService| AppServicesError::Twice {
                what,
                first: other.id().to_owned(),
                second: service.id().to_owned(),
            };
            if let Some(other) = all.by_id(service.id()) {
                return Err(twice("id", other));
            }
            let token = secrets::hash(&service.registration.as_token);
            if let Some(other) = all.by_token(&token) {
                return Err(twice("as_token", other));
            }
            all.by_token.insert(token, Arc::clone(&service));
            all.services.push(service);
        }
        Ok(all)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<AppService>> {
        self.services.iter()
    }

    /// The one with this id.
    pub fn by_id(&self, id: &str) -> Option<&Arc<AppService>> {
        self.services.iter().find(|service| service.id() == id)
    }

    /// The one whose `as_token` this is. Tokens are compared by their hashes only.
    pub fn by_as_token(&self, token: &str) -> Option<&Arc<AppService>> {
        self.by_token(&secrets::hash(token))
    }

    pub(crate) fn by_token(&self, token: &TokenHash) -> Option<&Arc<AppService>> {
        self.by_token.get(token)
    }

    /// Whether one of them keeps this user id for itself.
    pub fn is_exclusive_user(&self, user: &UserId) -> bool {
        self.services.iter().any(|service| service.keeps_user(user))
    }

    /// Whether one of them, other than `except`, keeps this alias for itself.
    pub fn is_exclusive_alias(&self, alias: &str, except: Option<&AppService>) -> bool {
        self.services
            .iter()
            .filter(|s| except.is_none_or(|except| except.id() != s.id()))
            .any(|s| s.aliases.contains_exclusively(alias))
    }
}

impl Accounts {
    /// The session of an application service that acts as one of its users.
    pub(crate) async fn appservice_session(
        &self,
        appservice: &Arc<AppService>,
        user_id: Option<&str>,
        device_id: Option<&str>,
    ) -> Result<Session, AuthError> {
        let user = match user_id {
            Some(user) => <&UserId>::try_from(user).map_err(|_| AuthError::NotInNamespace)?,
            None => appservice.sender(),
        };
        if !appservice.owns_user(user) {
            return Err(AuthError::NotInNamespace);
        }
        let account = self
            .find_user(user)
            .await?
            .ok_or(AuthError::NotRegistered)?;
        let row = self
            .account(account)
            .await?
            .ok_or(AuthError::NotRegistered)?;
        if row.deactivated.is_some() {
            return Err(AuthError::Deactivated);
        }
        let device_id = match device_id {
            Some(device) => {
                let key = (account, device.to_owned());
                let snapshot = self.snapshot();
                let known = snapshot.contains(&DEVICE, &key).await?
                    && !self.is_dehydrated(&snapshot, &key).await?;
                Some(known.then_some(key.1).ok_or(AuthError::UnknownDevice)?)
            }
            None => None,
        };
        Ok(Session {
            account,
            user_id: user.to_owned(),
            device_id: device_id.map(Into::into),
            is_guest: row.kind == AccountKind::Guest,
            is_admin: row.admin,
            is_suspended: row.suspended,
            is_locked: row.locked,
            own_rate: None,
            appservice: Some(Arc::clone(appservice)),
            entry: None,
        })
    }
}

#[cfg(test)]
#[path = "appservices_tests.rs"]
mod tests;
