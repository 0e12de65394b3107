//! Who is asking. The kind of authentication is part of the request's type (ruma's metadata), and
//! so is what the handler gets to know about the caller.

use std::{future::Future, sync::Arc};

use axum::extract::Query;
use http::{StatusCode, header, request::Parts};
use resuni_accounts::{AppService, Session};
use resuni_federation::Incoming;
use ruma::{
    OwnedServerName,
    api::{
        auth_scheme::{
            AccessToken, AccessTokenOptional, AppserviceToken, AppserviceTokenOptional, AuthScheme,
            NoAccessToken, NoAuthentication, extract_bearer_or_query_token,
        },
        error::ErrorCode,
        federation::authentication::ServerSignatures,
    },
};
use serde::Deserialize;

use crate::{AppState, error::ApiError, extract::Policy, limits::Who, peer::ClientAddr};

/// A way to authenticate that this server knows.
pub trait Authenticate: AuthScheme {
    /// What is known about the caller afterwards.
    type Caller: Send;

    /// Whether a request without an access token is refused.
    const NEEDS_TOKEN: bool = false;

    /// Whether the body is part of what is authenticated, so that it has to be read before.
    const COVERS_BODY: bool = false;

    /// A cheap look before the body is read, where it has to be read before authenticating.
    fn precheck(_parts: &Parts) -> Result<(), ApiError> {
        Ok(())
    }

    /// Finds out who it is. `body` is empty unless [`COVERS_BODY`](Self::COVERS_BODY).
    fn authenticate(
        state: &AppState,
        parts: &Parts,
        body: &[u8],
    ) -> impl Future<Output = Result<Self::Caller, ApiError>> + Send;

    /// Whether this route is open to this caller.
    fn allow(_caller: &Self::Caller, _policy: Policy) -> Result<(), ApiError> {
        Ok(())
    }

    /// Whose bucket the request is taken from.
    fn who(_caller: &Self::Caller, from: ClientAddr) -> Who {
        Who::Address(from.0)
    }
}

impl Authenticate for NoAuthentication {
    type Caller = ();

    async fn authenticate(_: &AppState, _: &Parts, _: &[u8]) -> Result<(), ApiError> {
        Ok(())
    }
}

impl Authenticate for NoAccessToken {
    type Caller = ();

    async fn authenticate(_: &AppState, _: &Parts, _: &[u8]) -> Result<(), ApiError> {
        Ok(())
    }
}

impl Authenticate for AccessToken {
    type Caller = Session;
    const NEEDS_TOKEN: bool = true;

    async fn authenticate(state: &AppState, parts: &Parts, _: &[u8]) -> Result<Session, ApiError> {
        let token = access_token(parts)?.ok_or_else(ApiError::missing_token)?;
        session(state, parts, &token).await
    }

    fn allow(caller: &Session, policy: Policy) -> Result<(), ApiError> {
        allow(caller, policy)
    }

    fn who(caller: &Session, _: ClientAddr) -> Who {
        who(caller)
    }
}

impl Authenticate for AccessTokenOptional {
    type Caller = Option<Session>;

    async fn authenticate(
        state: &AppState,
        parts: &Parts,
        _: &[u8],
    ) -> Result<Option<Session>, ApiError> {
        match access_token(parts)? {
            Some(token) => session(state, parts, &token).await.map(Some),
            None => Ok(None),
        }
    }

    fn allow(caller: &Option<Session>, policy: Policy) -> Result<(), ApiError> {
        caller
            .as_ref()
            .map_or(Ok(()), |caller| allow(caller, policy))
    }

    fn who(caller: &Option<Session>, from: ClientAddr) -> Who {
        caller.as_ref().map_or(Who::Address(from.0), who)
    }
}

/// Only application services.
impl Authenticate for AppserviceToken {
    type Caller = Arc<AppService>;
    const NEEDS_TOKEN: bool = true;

    async fn authenticate(
        state: &AppState,
        parts: &Parts,
        _: &[u8],
    ) -> Result<Arc<AppService>, ApiError> {
        let token = access_token(parts)?.ok_or_else(ApiError::missing_token)?;
        if let Some(service) = state.accounts.appservices().by_as_token(&token) {
            return Ok(Arc::clone(service));
        }
        // A token that nobody has is another mistake than that of a person who tries.
        session(state, parts, &token).await?;
        Err(ApiError::forbidden(
            "Only application services may do this.",
        ))
    }

    fn who(_: &Arc<AppService>, _: ClientAddr) -> Who {
        Who::Exempt
    }
}

/// Application services among others: who comes without a token of theirs is nobody.
impl Authenticate for AppserviceTokenOptional {
    type Caller = Option<Arc<AppService>>;

    async fn authenticate(
        state: &AppState,
        parts: &Parts,
        _: &[u8],
    ) -> Result<Option<Arc<AppService>>, ApiError> {
        let Some(token) = access_token(parts)? else {
            return Ok(None);
        };
        Ok(state.accounts.appservices().by_as_token(&token).cloned())
    }

    fn who(caller: &Option<Arc<AppService>>, from: ClientAddr) -> Who {
        match caller {
            Some(_) => Who::Exempt,
            None => Who::Address(from.0),
        }
    }
}

/// Other servers sign their whole request (Server-Server API, "Request Authentication").
impl Authenticate for ServerSignatures {
    type Caller = OwnedServerName;
    const COVERS_BODY: bool = true;

    fn precheck(parts: &Parts) -> Result<(), ApiError> {
        if parts.headers.contains_key(header::AUTHORIZATION) {
            Ok(())
        } else {
            Err(ApiError::unauthorized(
                "This endpoint is for servers: sign the request.",
            ))
        }
    }

    async fn authenticate(
        state: &AppState,
        parts: &Parts,
        body: &[u8],
    ) -> Result<OwnedServerName, ApiError> {
        let federation = state
            .federation
            .as_ref()
            .ok_or_else(ApiError::unrecognized)?;
        let headers = parts.headers.get_all(header::AUTHORIZATION);
        let headers: Vec<&str> = headers
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect();
        let request = Incoming {
            method: parts.method.as_str(),
            uri: parts.uri.path_and_query().map_or("/", |uri| uri.as_str()),
            authorization: &headers,
            body,
        };
        Ok(federation.authenticate(request).await?)
    }

    fn who(caller: &OwnedServerName, _: ClientAddr) -> Who {
        Who::Server(caller.clone())
    }
}

/// The token in the `Authorization` header, or in the query as long as the spec allows it.
fn access_token(parts: &Parts) -> Result<Option<String>, ApiError> {
    let mut request = http::Request::new(());
    *request.uri_mut() = parts.uri.clone();
    if let Some(value) = parts.headers.get(header::AUTHORIZATION) {
        request
            .headers_mut()
            .insert(header::AUTHORIZATION, value.clone());
    }
    // Whatever is wrong with the header, there is no token in it.
    let token = extract_bearer_or_query_token(&request).map_err(|_| ApiError::missing_token())?;
    if token.as_deref() == Some("") {
        return Err(ApiError::missing_token());
    }
    Ok(token)
}

/// The session of a token, noting that it was used. An application service may say in the query as
/// whom it acts (Application Service API, "Identity assertion").
async fn session(state: &AppState, parts: &Parts, token: &str) -> Result<Session, ApiError> {
    #[derive(Deserialize)]
    struct Identity {
        user_id: Option<String>,
        device_id: Option<String>,
        /// As it was called before v1.17; bridges send both.
        #[serde(rename = "org.matrix.msc3202.device_id")]
        old_device_id: Option<String>,
    }
    let session = if Policy::of(parts).locked {
        state.accounts.authenticate_even_locked(token).await?
    } else {
        let Query(identity) = Query::<Identity>::try_from_uri(&parts.uri)
            .map_err(|error| ApiError::invalid_param(error.to_string()))?;
        let user_id = identity.user_id;
        let device_id = identity.device_id.or(identity.old_device_id);
        let accounts = &state.accounts;
        accounts
            .authenticate_as(token, user_id.as_deref(), device_id.as_deref())
            .await?
    };
    let program = parts.headers.get(header::USER_AGENT);
    let program = program.and_then(|program| program.to_str().ok());
    state
        .accounts
        .seen(&session, ClientAddr::of(parts).0, program);
    Ok(session)
}

fn allow(caller: &Session, policy: Policy) -> Result<(), ApiError> {
    if caller.is_guest && !policy.guests {
        return Err(ApiError::guests("Guests may not do this."));
    }
    if policy.admin && !caller.is_admin {
        return Err(ApiError::forbidden("Only administrators may do this."));
    }
    if caller.is_suspended && !policy.suspended {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            ErrorCode::UserSuspended,
            "This account has been suspended: it may read, but not write.",
        ));
    }
    Ok(())
}

fn who(caller: &Session) -> Who {
    match &caller.appservice {
        Some(service) if !service.is_rate_limited(&caller.user_id) => Who::Exempt,
        _ => match caller.own_rate {
            Some(own) if own.is_unlimited() => Who::Exempt,
            Some(own) => Who::Own(caller.user_id.clone(), own),
            None => Who::User(caller.user_id.clone()),
        },
    }
}
