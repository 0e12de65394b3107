//! User-interactive authentication (spec, "User-Interactive Authentication API").
//!
//! A session is bound to the user, the method and the path of its first request, and, from its
//! first completed stage on, to the body: what was confirmed with a password can't be exchanged
//! for something else. (Until then the body may change: clients often ask with an empty one to
//! learn the flows.) A session holds no password and no body, only a keyed hash of it: but for a
//! registration, whose first body is kept, since clients (Element Android for one) say it only once
//! and then send no more than `auth`. It ends with its success, or by time.

use std::collections::HashMap;

use hmac::{Hmac, KeyInit, Mac};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::Sha256;

use crate::{
    AccountNum, Accounts,
    contacts::email_address,
    error::AccountError,
    names, secrets,
    validation::{Purpose, Validated},
};

/// How long a session may take.
const LIFETIME_MS: u64 = 15 * 60_000;
/// Sessions at a time. Beyond it, those who begin are told to come later.
const SESSIONS: usize = 16_384;
/// A longer body is not kept, in bytes of JSON. Clients send a few hundred.
const KEPT: usize = 2_048;
/// How long they are told to wait.
const RETRY_AFTER_MS: u64 = 10_000;

/// A stage that this server can check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Stage {
    /// Nothing to show: the client only confirms.
    #[serde(rename = "m.login.dummy")]
    Dummy,
    /// The password of the user who sends the request.
    #[serde(rename = "m.login.password")]
    Password,
    /// A token from the operator.
    #[serde(rename = "m.login.registration_token")]
    RegistrationToken,
    /// An e-mail address that was validated for this: see [`crate::validation`].
    #[serde(rename = "m.login.email.identity")]
    EmailIdentity,
}

impl Stage {
    /// By its name in the specification.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "m.login.dummy" => Self::Dummy,
            "m.login.password" => Self::Password,
            "m.login.registration_token" => Self::RegistrationToken,
            "m.login.email.identity" => Self::EmailIdentity,
            _ => return None,
        })
    }
}

/// Stages to be completed in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Flow {
    /// The stages.
    pub stages: Vec<Stage>,
}

impl Flow {
    /// A flow of these stages.
    pub fn of(stages: impl Into<Vec<Stage>>) -> Self {
        Self {
            stages: stages.into(),
        }
    }
}

/// A request that has to be confirmed.
#[derive(Clone, Copy, Debug)]
pub struct UiaRequest<'a> {
    /// Who sends it; none when they have no account yet.
    pub account: Option<AccountNum>,
    /// Its HTTP method.
    pub method: &'a str,
    /// Its path, without the query.
    pub path: &'a str,
    /// Its body; `auth` in it is what the client shows.
    pub body: &'a Map<String, Value>,
}

/// How it went.
#[derive(Clone, Debug)]
pub enum UiaOutcome {
    /// Confirmed; the session is over. The caller does what was asked.
    Done(UiaDone),
    /// Not yet: to be answered with status 401 and this body.
    Challenge(UiaChallenge),
}

/// What was confirmed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UiaDone {
    /// The registration token that was shown; `register` uses it up.
    pub registration_token: Option<String>,
    /// The address that was shown to be one's own; what is done with it uses it up.
    pub email: Option<Validated>,
}

/// The body of the answer 401.
#[derive(Clone, Debug, Serialize)]
pub struct UiaChallenge {
    /// What went wrong with the last stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errcode: Option<&'static str>,
    /// The same for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'static str>,
    /// The stages that are done.
    pub completed: Vec<Stage>,
    /// The ways to go.
    pub flows: Vec<Flow>,
    /// What stages need to know; none of ours does.
    pub params: Map<String, Value>,
    /// The session to go on with.
    pub session: String,
}

/// The sessions under way. They live in memory: after a restart a client begins again.
pub(crate) struct UiaSessions {
    sessions: Mutex<HashMap<String, UiaSession>>,
    /// The key that bodies are hashed with.
    key: [u8; 32],
}

#[derive(Clone, Debug)]
struct UiaSession {
    account: Option<AccountNum>,
    method: String,
    path: String,
    /// The keyed hash of the body, once a stage is done.
    body: Option<[u8; 32]>,
    /// What somebody who has no account yet said first, without `auth`.
    said: Map<String, Value>,
    completed: Vec<Stage>,
    /// The ways to go, as they were told last.
    flows: Vec<Flow>,
    done: UiaDone,
    expires_ms: u64,
}

impl UiaSessions {
    pub(crate) fn new() -> Result<Self, AccountError> {
        Ok(Self {
            sessions: Mutex::default(),
            key: secrets::random()?,
        })
    }

    fn begin(&self, request: &UiaRequest<'_>, now_ms: u64) -> UiaSession {
        UiaSession {
            account: request.account,
            method: request.method.to_owned(),
            path: request.path.to_owned(),
            body: None,
            said: said(request),
            completed: Vec::new(),
            flows: Vec::new(),
            done: UiaDone::default(),
            expires_ms: now_ms.saturating_add(LIFETIME_MS),
        }
    }

    /// The session of this id if it is known, has time left and belongs to this request.
    fn find(
        &self,
        id: &str,
        request: &UiaRequest<'_>,
        body: &[u8; 32],
        now_ms: u64,
    ) -> Result<Option<UiaSession>, AccountError> {
        let session = self.sessions.lock().get(id).cloned();
        let Some(session) = session.filter(|session| now_ms < session.expires_ms) else {
            return Ok(None);
        };
        let same = session.account == request.account
            && session.method == request.method
            && session.path == request.path
            && session.body.is_none_or(|earlier| earlier == *body);
        if same {
            Ok(Some(session))
        } else {
            Err(AccountError::Forbidden(
                "The request is not the one that this authentication session was begun for.".into(),
            ))
        }
    }

    fn store(&self, id: &str, session: UiaSession, now_ms: u64) -> Result<(), AccountError> {
        let mut sessions = self.sessions.lock();
        if sessions.len() >= SESSIONS && !sessions.contains_key(id) {
            sessions.retain(|_, session| now_ms < session.expires_ms);
            if sessions.len() >= SESSIONS {
                return Err(AccountError::LimitExceeded {
                    retry_after_ms: RETRY_AFTER_MS,
                });
            }
        }
        sessions.insert(id.to_owned(), session);
        Ok(())
    }

    /// How many have shown this registration token and are not registered yet, `but` for one session.
    pub(crate) fn pending(&self, token: &str, but: Option<&str>, now_ms: u64) -> u64 {
        let sessions = self.sessions.lock();
        let waiting = sessions.iter().filter(|(id, session)| {
            session.done.registration_token.as_deref() == Some(token)
                && now_ms < session.expires_ms
                && but != Some(id.as_str())
        });
        waiting.count() as u64
    }

    /// Ends a session; false if somebody else has ended it: what it confirmed is done once.
    fn end(&self, id: &str) -> bool {
        self.sessions.lock().remove(id).is_some()
    }

    /// The keyed hash of a body without its `auth`. Keys are in order: `serde_json` maps are
    /// written in theirs, so they are sorted here.
    fn digest(&self, body: &Map<String, Value>) -> Result<[u8; 32], AccountError> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key)
            .map_err(|error| AccountError::Internal(error.to_string()))?;
        let mut fields: Vec<_> = body.iter().filter(|(key, _)| *key != "auth").collect();
        fields.sort_by_key(|(key, _)| *key);
        for (key, value) in fields {
            for part in [key.clone(), value.to_string()] {
                mac.update(&(part.len() as u64).to_be_bytes());
                mac.update(part.as_bytes());
            }
        }
        Ok(mac.finalize().into_bytes().into())
    }
}

/// What came of one stage.
enum Checked {
    Right,
    Wrong(&'static str, &'static str),
}

const EXPIRED: Checked = Checked::Wrong(
    "M_FORBIDDEN",
    "This authentication session is unknown or has expired.",
);

impl Accounts {
    /// Goes one step on with the confirmation of a request that may be confirmed by any of `flows`.
    ///
    /// A stage may be shown without a session: then it begins one. Errors are those of the request,
    /// not of the stage: too many attempts, or a session of another request.
    pub async fn uia(
        &self,
        request: UiaRequest<'_>,
        flows: &[Flow],
    ) -> Result<UiaOutcome, AccountError> {
        let now = self.now_ms();
        let digest = self.uia.digest(request.body)?;
        let auth = match request.body.get("auth") {
            None | Some(Value::Null) => None,
            Some(Value::Object(auth)) => Some(auth),
            Some(_) => {
                let error = "\"auth\" is not an object.";
                return Err(AccountError::InvalidParam(error.to_owned()));
            }
        };
        let given = |key: &str| auth.and_then(|auth| auth.get(key)).and_then(Value::as_str);
        let known = match given("session") {
            Some(id) => match self.uia.find(id, &request, &digest, now)? {
                Some(session) => Some((id.to_owned(), session)),
                None => {
                    let session = self.uia.begin(&request, now);
                    return self.challenge(new_id()?, session, flows, EXPIRED);
                }
            },
            None => None,
        };
        let (id, mut session) = match known {
            Some(known) => known,
            None => (new_id()?, self.uia.begin(&request, now)),
        };
        let (Some(name), Some(auth)) = (given("type"), auth) else {
            // A page may have done it all ("Fallback").
            let is_known = given("session").is_some();
            if is_known && is_complete(&session, flows) && self.uia.end(&id) {
                return Ok(UiaOutcome::Done(session.done));
            }
            // Nothing is shown: the client asks for the flows, or where it stands.
            return self.challenge(id, session, flows, Checked::Right);
        };
        let checked = match Stage::named(name) {
            Some(stage) if session.completed.contains(&stage) => Checked::Right,
            Some(stage) if is_next(&session.completed, stage, flows) => {
                let checked = self
                    .check_stage(stage, &request, auth, (&id, &mut session))
                    .await?;
                if let Checked::Right = checked {
                    session.completed.push(stage);
                    session.body = Some(digest);
                }
                checked
            }
            _ => Checked::Wrong(
                "M_UNRECOGNIZED",
                "This stage is not the next one of any flow.",
            ),
        };
        if is_complete(&session, flows)
            && let Checked::Right = checked
        {
            // A session that began with this request was never stored; any other ends now, and
            // only one of two requests that end it at once is served.
            if given("session").is_none() || self.uia.end(&id) {
                return Ok(UiaOutcome::Done(session.done));
            }
            let session = self.uia.begin(&request, now);
            return self.challenge(new_id()?, session, flows, EXPIRED);
        }
        self.challenge(id, session, flows, checked)
    }

    /// Adds to the body of a request what its session was told first and the request leaves out. Only those of
    /// registrations keep anything.
    pub fn uia_recall(&self, body: &mut Map<String, Value>) {
        let auth = body.get("auth").and_then(|auth| auth.get("session"));
        let Some(id) = auth.and_then(Value::as_str) else {
            return;
        };
        let sessions = self.uia.sessions.lock();
        let session = sessions.get(id);
        let Some(session) = session.filter(|session| self.now_ms() < session.expires_ms) else {
            return;
        };
        for (key, value) in &session.said {
            body.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }

    fn challenge(
        &self,
        id: String,
        mut session: UiaSession,
        flows: &[Flow],
        checked: Checked,
    ) -> Result<UiaOutcome, AccountError> {
        let (errcode, error) = match checked {
            Checked::Right => (None, None),
            Checked::Wrong(code, error) => (Some(code), Some(error)),
        };
        let completed = session.completed.clone();
        session.flows = flows.to_vec();
        self.uia.store(&id, session, self.now_ms())?;
        Ok(UiaOutcome::Challenge(UiaChallenge {
            errcode,
            error,
            completed,
            flows: flows.to_vec(),
            params: Map::new(),
            session: id,
        }))
    }

    async fn check_stage(
        &self,
        stage: Stage,
        request: &UiaRequest<'_>,
        auth: &Map<String, Value>,
        (id, session): (&str, &mut UiaSession),
    ) -> Result<Checked, AccountError> {
        let text = |key: &str| auth.get(key).and_then(Value::as_str);
        Ok(match stage {
            Stage::Dummy => Checked::Right,
            Stage::Password => {
                if !self.is_about(request.account, auth).await? {
                    let message = "Somebody else can't confirm what you do.";
                    return Err(AccountError::Forbidden(message.into()));
                }
                let password = text("password").unwrap_or_default();
                if self.check_password(request.account, password).await? {
                    Checked::Right
                } else {
                    Checked::Wrong("M_FORBIDDEN", "The username or the password is wrong.")
                }
            }
            Stage::RegistrationToken => {
                let token = text("token").unwrap_or_default();
                if self.registration_token_allows(token, id).await? {
                    session.done.registration_token = Some(token.to_owned());
                    Checked::Right
                } else {
                    Checked::Wrong("M_FORBIDDEN", "This registration token is not valid.")
                }
            }
            Stage::EmailIdentity => {
                let credentials = auth.get("threepid_creds").or(auth.get("threepidCreds"));
                let text = |key: &str| {
                    let credentials = credentials.and_then(Value::as_object);
                    credentials.and_then(|c| c.get(key)).and_then(Value::as_str)
                };
                let (sid, secret) = (text("sid"), text("client_secret"));
                let purpose = match request.account {
                    None if request.path.ends_with("/register") => Purpose::Register,
                    _ => Purpose::ResetPassword,
                };
                let validated = self
                    .validated(purpose, sid.unwrap_or_default(), secret.unwrap_or_default())
                    .await;
                match validated {
                    Ok(validated) => {
                        session.done.email = Some(validated);
                        Checked::Right
                    }
                    Err(AccountError::ThreepidAuthFailed) => Checked::Wrong(
                        "M_THREEPID_AUTH_FAILED",
                        "Open the link in the mail first, and confirm there.",
                    ),
                    Err(error) => return Err(error),
                }
            }
        })
    }

    /// Whether a page may ask for this stage of a session: it lives, and the stage is the next one ("Fallback").
    pub fn uia_awaits(&self, session: &str, stage: Stage) -> bool {
        let sessions = self.uia.sessions.lock();
        sessions.get(session).is_some_and(|session| {
            self.now_ms() < session.expires_ms && is_next(&session.completed, stage, &session.flows)
        })
    }

    /// Completes a stage of a session by what somebody typed into a page. Answers what was wrong, if anything was.
    pub async fn uia_fallback(
        &self,
        id: &str,
        stage: Stage,
        typed: &Map<String, Value>,
    ) -> Result<Option<&'static str>, AccountError> {
        if !self.uia_awaits(id, stage) {
            return Ok(Some(
                "This authentication session is unknown or has expired.",
            ));
        }
        let Some(mut session) = self.uia.sessions.lock().get(id).cloned() else {
            return Ok(Some(
                "This authentication session is unknown or has expired.",
            ));
        };
        let (account, method) = (session.account, session.method.clone());
        let path = session.path.clone();
        let request = UiaRequest {
            account,
            method: &method,
            path: &path,
            body: &Map::new(),
        };
        match self
            .check_stage(stage, &request, typed, (id, &mut session))
            .await?
        {
            Checked::Wrong(_, message) => Ok(Some(message)),
            Checked::Right => {
                session.completed.push(stage);
                // A session that has ended meanwhile stays ended.
                if let Some(stored) = self.uia.sessions.lock().get_mut(id) {
                    *stored = session;
                }
                Ok(None)
            }
        }
    }

    /// Whether the identifier in `auth` names the user who sends the request. Clients may leave it
    /// out, and old ones write it as `user`.
    async fn is_about(
        &self,
        account: Option<AccountNum>,
        auth: &Map<String, Value>,
    ) -> Result<bool, AccountError> {
        let user = match auth.get("identifier") {
            Some(identifier) => {
                let text = |key| identifier.get(key).and_then(Value::as_str);
                match (text("type"), text("medium"), text("address")) {
                    (Some("m.id.user"), ..) => identifier.get("user"),
                    (Some("m.id.thirdparty"), Some("email"), Some(address)) => {
                        return Ok(match email_address(address) {
                            Ok(address) => self.owner_of(&address).await? == account,
                            Err(_) => false,
                        });
                    }
                    _ => return Ok(false),
                }
            }
            None => auth.get("user"),
        };
        let Some(user) = user else { return Ok(true) };
        let localpart = user
            .as_str()
            .and_then(|user| names::login_localpart(user, self.server_name()));
        Ok(match localpart {
            Some(localpart) => self.find(&localpart).await? == account,
            None => false,
        })
    }
}

/// What is kept of the first body of a session: of a registration alone.
fn said(request: &UiaRequest<'_>) -> Map<String, Value> {
    // Nothing of who sets a new password without being signed in.
    if request.account.is_some() || !request.path.ends_with("/register") {
        return Map::new();
    }
    let members = request.body.iter().filter(|(key, _)| *key != "auth");
    let said = Map::from_iter(members.map(|(key, value)| (key.clone(), value.clone())));
    match serde_json::to_vec(&said) {
        Ok(json) if json.len() <= KEPT => said,
        _ => Map::new(),
    }
}

/// Whether all stages of one of the flows are done.
fn is_complete(session: &UiaSession, flows: &[Flow]) -> bool {
    flows.iter().any(|flow| flow.stages == session.completed)
}

/// Whether `stage` may follow what is done, in one of the flows.
fn is_next(completed: &[Stage], stage: Stage, flows: &[Flow]) -> bool {
    flows.iter().any(|flow| {
        flow.stages.starts_with(completed) && flow.stages.get(completed.len()) == Some(&stage)
    })
}

fn new_id() -> Result<String, AccountError> {
    secrets::token("")
}

#[cfg(test)]
#[path = "uia_tests.rs"]
mod tests;
