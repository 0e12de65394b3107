//! From an HTTP request to a typed one: who asks ([`Authenticate`]), how much they may send
//! ([`Policy`]), and what they say ([`Ruma`]); and back from a typed answer ([`Reply`]).

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use axum::{
    RequestPartsExt,
    body::Body,
    extract::{FromRequest, RawPathParams, Request},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{Method, StatusCode, Uri, header, request::Parts};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use ruma::api::{IncomingRequest, IncomingRequestExt, OutgoingResponse, OutgoingResponseExt};

use serde_json::{Map, Value};

use crate::{
    AppState,
    auth::Authenticate,
    error::{ApiError, json_response},
    limits::Class,
    peer::ClientAddr,
};

/// How long a body may take to arrive; a stalled sender must not keep a connection for ever.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// What a route allows, beside what its metadata says. Set in the route tables.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// The largest body that is read, in bytes.
    pub body_bytes: usize,
    /// Whether guests may use it (Client-Server API, "Guest Access").
    pub guests: bool,
    /// Whether locked accounts may use it (Client-Server API, "Account locking").
    pub locked: bool,
    /// Whether suspended accounts may use it (Client-Server API, "Account suspension").
    pub suspended: bool,
    /// Whether it is for administrators only.
    pub admin: bool,
    /// Which bucket its requests are taken from.
    pub class: Class,
    /// A query parameter and its value where the client says nothing, although the spec wants it.
    pub default: Option<(&'static str, &'static str)>,
    /// A member that the body must have: ruma's type takes it for granted.
    pub required: Option<&'static str>,
    /// A member that ruma's type is not shown: the handler reads it as it came.
    pub unread: Option<&'static str>,
}

impl Policy {
    /// For clients' endpoints: an event has at most 64 KiB, lists of users or keys some more.
    pub const CLIENT: Policy = Policy {
        body_bytes: 1024 * 1024,
        guests: false,
        locked: false,
        suspended: true,
        admin: false,
        class: Class::Other,
        default: None,
        required: None,
        unread: None,
    };
    /// The same, open to guests.
    pub const GUEST: Policy = Policy {
        guests: true,
        ..Policy::CLIENT
    };
    /// A transaction: 50 PDUs and 100 EDUs of at most 64 KiB each, and the braces around them.
    pub const TRANSACTION: Policy = Policy {
        body_bytes: 10 * 1024 * 1024,
        ..Policy::CLIENT
    };

    /// The same policy with its requests taken from another bucket.
    pub const fn class(self, class: Class) -> Policy {
        Policy { class, ..self }
    }

    /// The same policy where the request has to be confirmed ("User-interactive authentication"): `auth` is for the
    /// code of that alone, which knows how clients of old wrote it.
    pub const fn confirmed(self) -> Policy {
        Policy {
            unread: Some("auth"),
            ..self
        }
    }

    /// The same policy, closed to suspended accounts: others get to see what it does.
    pub const fn public(self) -> Policy {
        Policy {
            suspended: false,
            ..self
        }
    }

    /// The URI with the parameter that has a default here.
    fn default_query(self, uri: &Uri) -> Result<Uri, ApiError> {
        let Some((name, value)) = self.default else {
            return Ok(uri.clone());
        };
        let query = uri.query().unwrap_or_default();
        let is_there = query
            .split('&')
            .any(|pair| pair.split('=').next() == Some(name));
        if is_there {
            return Ok(uri.clone());
        }
        let uri = format!("{}?{query}&{name}={value}", uri.path());
        uri.parse().map_err(ApiError::internal)
    }

    /// The policy of the route that a request has taken.
    pub fn of(parts: &Parts) -> Policy {
        parts.extensions.get().copied().unwrap_or(Policy::CLIENT)
    }
}

/// A request of type `R`, from somebody who may make it.
pub struct Ruma<R>
where
    R: IncomingRequest<Authentication: Authenticate>,
{
    /// The request itself.
    pub body: R,
    /// Who makes it: the type depends on the endpoint's authentication.
    pub caller: <R::Authentication as Authenticate>::Caller,
    /// The body as it came, for what depends on its very bytes.
    pub raw: Bytes,
    /// Its path and query as they came.
    pub uri: Uri,
    /// Where it comes from.
    pub from: ClientAddr,
}

impl<R> Ruma<R>
where
    R: IncomingRequest<Authentication: Authenticate>,
{
    /// Puts another body in the place of the one that came, but for `auth`, which is in `raw` alone. For endpoints to be
    /// confirmed whose path names nothing.
    pub fn replace_body(&mut self, body: &Map<String, Value>) -> Result<(), ApiError> {
        self.raw = serde_json::to_vec(body).map_err(ApiError::internal)?.into();
        let bytes = without(&self.raw, "auth")?;
        let mut request = http::Request::new(bytes.as_slice());
        *request.method_mut() = R::METHOD;
        *request.uri_mut() = self.uri.clone();
        self.body = R::try_from_http_request(request, &[] as &[&str])
            .map_err(|error| ApiError::unreadable(error, &self.raw))?;
        Ok(())
    }
}

impl<R> FromRequest<AppState> for Ruma<R>
where
    R: IncomingRequest<Authentication: Authenticate> + Send,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let policy = Policy::of(&parts);
        if policy.admin && !state.settings.admin_api {
            return Err(ApiError::unrecognized());
        }
        let from = ClientAddr::of(&parts);
        let (caller, raw) = if <R::Authentication as Authenticate>::COVERS_BODY {
            R::Authentication::precheck(&parts)?;
            let raw = read_body(&parts, body, policy.body_bytes).await?;
            let caller = R::Authentication::authenticate(state, &parts, &raw).await?;
            let who = R::Authentication::who(&caller, from);
            state.limits.take(Class::Federation, true, who)?;
            (caller, raw)
        } else {
            let caller = R::Authentication::authenticate(state, &parts, &[]).await?;
            R::Authentication::allow(&caller, policy)?;
            let who = R::Authentication::who(&caller, from);
            state.limits.take(policy.class, R::RATE_LIMITED, who)?;
            let raw = read_body(&parts, body, policy.body_bytes).await?;
            if parts.method != Method::GET {
                check_object(&raw, policy.required)?;
            }
            (caller, raw)
        };
        let body = parse(&mut parts, &raw, policy).await?;
        Ok(Ruma {
            body,
            caller,
            raw,
            uri: parts.uri,
            from,
        })
    }
}

/// Reads the body, up to the limit, within `BODY_TIMEOUT`.
pub async fn read_body(parts: &Parts, body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let too_large = || ApiError::too_large(format!("The limit here is {limit} bytes."));
    // A declared length is refused before a byte is read.
    let declared = parts
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok());
    if declared
        .and_then(|v| v.parse::<u64>().ok())
        .is_some_and(|n| n > limit as u64)
    {
        return Err(too_large());
    }
    let collected = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, limit).collect());
    match collected.await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(ApiError::bad_json(format!(
            "The body can't be read: {error}"
        ))),
        Err(_) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            ruma::api::error::ErrorCode::Unknown,
            "The body took too long to arrive.",
        )),
    }
}

/// Reads the typed request from path, query, headers and body.
///
/// Clients leave out a body that would say nothing, and a parameter that they think has a default.
async fn parse<R: IncomingRequest>(
    parts: &mut Parts,
    raw: &[u8],
    policy: Policy,
) -> Result<R, ApiError> {
    let body: &[u8] = if raw.is_empty() && R::METHOD != Method::GET {
        b"{}"
    } else {
        raw
    };
    let rest = policy.unread.map(|name| without(body, name)).transpose()?;
    let body = rest.as_deref().unwrap_or(body);
    let params = parts
        .extract::<RawPathParams>()
        .await
        .map_err(|error| ApiError::invalid_param(error.to_string()))?;
    let arguments: Vec<&str> = params.iter().map(|(_, value)| value).collect();
    let mut request = http::Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = policy.default_query(&parts.uri)?;
    *request.headers_mut() = std::mem::take(&mut parts.headers);
    R::try_from_http_request(request, &arguments).map_err(|error| ApiError::unreadable(error, raw))
}

/// The body without one of its members.
fn without(raw: &[u8], name: &str) -> Result<Vec<u8>, ApiError> {
    let mut body = json_object(raw)?;
    body.remove(name);
    serde_json::to_vec(&body).map_err(ApiError::internal)
}

/// Whether the body of a client is a JSON object, or empty, which stands for one without members. ruma does not look at
/// bodies of which it needs nothing, nor at what follows an object.
fn check_object(raw: &[u8], required: Option<&'static str>) -> Result<(), ApiError> {
    use serde::de::IgnoredAny;
    let members: BTreeMap<Cow<'_, str>, IgnoredAny> = if raw.is_empty() {
        BTreeMap::new()
    } else {
        serde_json::from_slice(raw)
            .map_err(|error: serde_json::Error| ApiError::unreadable(error.into(), raw))?
    };
    match required.filter(|name| !members.contains_key(*name)) {
        Some(name) => Err(ApiError::missing_param(format!("missing field `{name}`"))),
        None => Ok(()),
    }
}

/// The body as an object, for what ruma's types would not keep.
pub fn json_object(raw: &[u8]) -> Result<Map<String, Value>, ApiError> {
    if raw.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(raw)
        .map_err(|error: serde_json::Error| ApiError::unreadable(error.into(), raw))
}

/// What a handler answers.
pub type Answer<R> = Result<Reply<R>, ApiError>;

/// A typed answer on its way out.
pub struct Reply<R>(pub R);

impl<R: OutgoingResponse> IntoResponse for Reply<R> {
    fn into_response(self) -> Response {
        match self.0.try_into_http_response::<bytes::BytesMut>() {
            Ok(response) => response.map(|body| Body::from(body.freeze())),
            Err(error) => ApiError::internal(error).into_response(),
        }
    }
}

/// A typed answer without what is `null` in it: ruma writes some that the spec would have left out, and not every
/// client takes the one for the other.
pub struct Sparse<R>(pub R);

impl<R: OutgoingResponse> IntoResponse for Sparse<R> {
    fn into_response(self) -> Response {
        let response = self.0.try_into_http_response::<bytes::BytesMut>();
        let body = response.map_err(ApiError::internal).and_then(|response| {
            serde_json::from_slice(response.body()).map_err(ApiError::internal)
        });
        match body {
            Ok(body) => RawJson::of(&without_nulls(body)).into_response(),
            Err(error) => error.into_response(),
        }
    }
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(members) => members
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name, without_nulls(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

/// An answer whose JSON the handler has written itself, where a typed one would cost too much.
pub struct RawJson(pub Bytes);

impl RawJson {
    /// The JSON of a value.
    pub fn of(value: &Value) -> RawJson {
        RawJson(value.to_string().into())
    }

    /// A value of ours, written as JSON.
    pub fn written(value: &impl serde::Serialize) -> Result<RawJson, ApiError> {
        serde_json::to_vec(value)
            .map(|json| RawJson(json.into()))
            .map_err(ApiError::internal)
    }
}

impl IntoResponse for RawJson {
    fn into_response(self) -> Response {
        json_response(StatusCode::OK, self.0)
    }
}
