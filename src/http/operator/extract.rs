//! What the endpoints for operators take: who asks, what of, what they send.

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, MatchedPath, Path, Query},
};
use http::{Method, Request, request::Parts};
use resuni_accounts::Session;
use ruma::api::auth_scheme::AccessToken;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    AppState,
    auth::Authenticate,
    error::ApiError,
    extract::{Policy, RawJson, read_body},
    observe::loggable,
    peer::ClientAddr,
};

/// What holds for all endpoints of operators.
pub const POLICY: Policy = Policy {
    admin: true,
    suspended: false,
    ..Policy::CLIENT
};

/// An operator. What they change is written to the log, before it is done.
pub struct Operator(pub Session);

impl FromRequestParts<AppState> for Operator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        if !state.settings.admin_api {
            return Err(ApiError::unrecognized());
        }
        let session = AccessToken::authenticate(state, parts, &[]).await?;
        AccessToken::allow(&session, Policy::of(parts))?;
        // A route whose policy forgot it is closed all the same.
        state.accounts.require_operator(&session)?;
        if parts.method != Method::GET {
            let route = parts.extensions.get::<MatchedPath>();
            let route = route.map_or("", MatchedPath::as_str);
            let path = loggable(route, parts.uri.path());
            tracing::info!(
                target: "resuni::audit",
                operator = %session.user_id,
                from = %ClientAddr::of(parts).0,
                method = %parts.method,
                path,
                "an operator acts"
            );
        }
        Ok(Operator(session))
    }
}

/// The variables of the path.
pub struct Named<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<AppState> for Named<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let Path(named) = Path::from_request_parts(parts, state)
            .await
            .map_err(|error| ApiError::invalid_param(error.body_text()))?;
        Ok(Named(named))
    }
}

/// The query.
pub struct Asked<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<AppState> for Asked<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, ApiError> {
        let Query(asked) = Query::try_from_uri(&parts.uri)
            .map_err(|error| ApiError::invalid_param(error.body_text()))?;
        Ok(Asked(asked))
    }
}

/// The body, a JSON object; an empty one stands for an object without members.
pub struct Sent<T>(pub T);

impl<T: DeserializeOwned> FromRequest<AppState> for Sent<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request<Body>, _: &AppState) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let raw = read_body(&parts, body, Policy::of(&parts).body_bytes).await?;
        let json: &[u8] = if raw.is_empty() { b"{}" } else { &raw };
        serde_json::from_slice(json)
            .map(Sent)
            .map_err(|error: serde_json::Error| ApiError::unreadable(error.into(), &raw))
    }
}

/// A member that may be left out, and may be `null`.
pub fn given<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::Deserialize<'de>,
{
    serde::Deserialize::deserialize(deserializer).map(Some)
}

/// Which part of a list is wanted.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
pub struct Span {
    /// How many to pass over.
    #[serde(default)]
    pub from: usize,
    /// How many to answer with.
    pub limit: Option<usize>,
    /// Forwards or backwards.
    pub dir: Option<Dir>,
}

/// How `next_token` is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// As a number.
    Number,
    /// As text.
    Text,
}

/// Which way a list goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
pub enum Dir {
    /// Forwards.
    #[serde(rename = "f")]
    Forward,
    /// Backwards.
    #[serde(rename = "b")]
    Backward,
}

/// Entries of a page when the tool names no number, and at most.
const PAGE: usize = 100;
const MOST: usize = 1_000;

impl Span {
    /// How many entries the page has.
    pub fn limit(&self) -> usize {
        self.limit.unwrap_or(PAGE).min(MOST)
    }

    /// Whether the list is wanted backwards.
    pub fn backward(&self) -> bool {
        self.dir == Some(Dir::Backward)
    }

    /// Where the next page begins after this many entries, if there is more.
    pub fn next(&self, entries: usize, total: usize) -> Option<usize> {
        let end = self.from.saturating_add(entries);
        (end < total).then_some(end)
    }

    /// A page as an answer: its entries under `name`, how many there are in all, and where the next begins, as a
    /// `number` or, where Synapse says it so, as text.
    pub fn answer(&self, name: &str, entries: Vec<Value>, total: usize, next: Next) -> RawJson {
        let mut answer = json!({ "total": total });
        if let Some(at) = self.next(entries.len(), total) {
            answer["next_token"] = match next {
                Next::Number => at.into(),
                Next::Text => at.to_string().into(),
            };
        }
        answer[name] = entries.into();
        RawJson::of(&answer)
    }

    /// The entries of this page, of a list that is at hand.
    pub fn cut<T>(&self, list: Vec<T>) -> Vec<T> {
        let list = list.into_iter().skip(self.from);
        list.take(self.limit()).collect()
    }
}
