//! The one place where an error becomes a Matrix error.
//!
//! Every handler answers `Result<_, ApiError>`; the crates below have their own small error enums
//! and know nothing of status codes. Spec: Client-Server API, "Standard error response".

use std::{borrow::Cow, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use resuni_accounts::{AccountError, AuthError, uia::UiaChallenge};
use resuni_dag::FormatError;
use resuni_delivery::DeliveryError;
use resuni_federation::{FederationError, RemoteError};
use resuni_media::{MediaError, PreviewError};
use resuni_rooms::RoomError;
use resuni_search::SearchError;
use resuni_store::StoreError;
use resuni_sync::SyncError;
use ruma::api::error::{DeserializationError, ErrorCode, FromHttpRequestError};
use serde_json::{Map, Value, json};

/// An answer that is not a success.
#[derive(Debug)]
pub enum ApiError {
    /// A standard error body.
    Matrix(Box<MatrixError>),
    /// The client has to go through (more of) User-Interactive Authentication.
    Uia(Box<UiaChallenge>),
}

/// A standard Matrix error: what the client's programmer and its user get to see.
#[derive(Debug)]
pub struct MatrixError {
    status: StatusCode,
    code: ErrorCode,
    message: Cow<'static, str>,
    /// Further members of the body, as some codes have them.
    fields: Map<String, Value>,
    retry_after: Option<Duration>,
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Matrix(error) => f.write_str(&error.message),
            Self::Uia(_) => f.write_str("It has to be confirmed who asks for this."),
        }
    }
}

impl ApiError {
    /// An error with this status, code and sentence.
    pub fn new(
        status: StatusCode,
        code: ErrorCode,
        message: impl Into<Cow<'static, str>>,
    ) -> ApiError {
        ApiError::Matrix(Box::new(MatrixError {
            status,
            code,
            message: message.into(),
            fields: Map::new(),
            retry_after: None,
        }))
    }

    /// Adds a member to the body.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> ApiError {
        if let ApiError::Matrix(error) = &mut self {
            error.fields.insert(name.to_owned(), value.into());
        }
        self
    }

    /// 403 `M_FORBIDDEN`.
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::new(StatusCode::FORBIDDEN, ErrorCode::Forbidden, message)
    }

    /// 404 `M_NOT_FOUND`.
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, ErrorCode::NotFound, message)
    }

    /// 400 `M_BAD_JSON`: it is JSON, but not what is expected here.
    pub fn bad_json(message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::BadJson, message)
    }

    /// 400 `M_NOT_JSON`.
    pub fn not_json() -> ApiError {
        let message = "The body of the request is not JSON.";
        ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::NotJson, message)
    }

    /// 400 `M_INVALID_PARAM`.
    pub fn invalid_param(message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidParam, message)
    }

    /// 400 `M_MISSING_PARAM`.
    pub fn missing_param(message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::MissingParam, message)
    }

    /// 413 `M_TOO_LARGE`.
    pub fn too_large(message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::TooLarge, message)
    }

    /// 404 `M_UNRECOGNIZED`: this server has no such endpoint.
    pub fn unrecognized() -> ApiError {
        let message = "This server has no such endpoint.";
        ApiError::new(StatusCode::NOT_FOUND, ErrorCode::Unrecognized, message)
    }

    /// 405 `M_UNRECOGNIZED`: the endpoint exists, but not with this method.
    pub fn wrong_method() -> ApiError {
        let message = "This endpoint has no such method.";
        ApiError::new(
            StatusCode::METHOD_NOT_ALLOWED,
            ErrorCode::Unrecognized,
            message,
        )
    }

    /// 401 `M_MISSING_TOKEN`.
    pub fn missing_token() -> ApiError {
        let message = "An access token is needed here.";
        ApiError::new(StatusCode::UNAUTHORIZED, ErrorCode::MissingToken, message)
    }

    /// 401 `M_UNKNOWN_TOKEN`; with `soft_logout` the client may keep its keys and log in again.
    pub fn unknown_token(soft_logout: bool) -> ApiError {
        let message = "This access token is not, or no longer, valid.";
        ApiError::new(StatusCode::UNAUTHORIZED, ErrorCode::UnknownToken, message)
            .with("soft_logout", soft_logout)
    }

    /// 401 `M_UNAUTHORIZED`: another server's request was not signed as it should be.
    pub fn unauthorized(message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message)
    }

    /// 403 `M_GUEST_ACCESS_FORBIDDEN`.
    pub fn guests(message: &'static str) -> ApiError {
        ApiError::new(
            StatusCode::FORBIDDEN,
            ErrorCode::GuestAccessForbidden,
            message,
        )
    }

    /// 400 `M_EXCLUSIVE`: the name belongs to an application service, or not to this one.
    pub fn exclusive(message: &'static str) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::Exclusive, message)
    }

    /// 429 `M_LIMIT_EXCEEDED`, with the time to wait in the body and as `Retry-After`.
    pub fn limit_exceeded(wait: Duration) -> ApiError {
        let message = "Too many requests; please wait a little.";
        let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let mut error = ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            ErrorCode::LimitExceeded,
            message,
        )
        .with("retry_after_ms", millis);
        if let ApiError::Matrix(error) = &mut error {
            error.retry_after = Some(wait);
        }
        error
    }

    /// 500 `M_UNKNOWN`. What went wrong goes to the log, not to the stranger who asked.
    pub fn internal(error: impl std::fmt::Display) -> ApiError {
        tracing::error!(%error, "a request failed");
        ApiError::unknown()
    }

    /// 500 `M_UNKNOWN`, without a line in the log.
    pub fn unknown() -> ApiError {
        let message = "Something went wrong inside this server.";
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            ErrorCode::Unknown,
            message,
        )
    }

    /// What to answer to a request that ruma couldn't read.
    ///
    /// `M_NOT_JSON` when the body isn't JSON at all, `M_BAD_JSON` when it is JSON of another
    /// shape, `M_MISSING_PARAM` when a member is absent, `M_INVALID_PARAM` for what is wrong in
    /// the path, the query or a header.
    pub fn unreadable(error: FromHttpRequestError, body: &[u8]) -> ApiError {
        match error {
            FromHttpRequestError::MethodMismatch { .. } => ApiError::wrong_method(),
            FromHttpRequestError::Deserialization(DeserializationError::Json(error)) => {
                if !is_json(body) {
                    return ApiError::not_json();
                }
                let message = error.to_string();
                if message.starts_with("missing field") {
                    ApiError::missing_param(message)
                } else {
                    ApiError::bad_json(message)
                }
            }
            FromHttpRequestError::Deserialization(DeserializationError::Utf8(_)) => {
                ApiError::not_json()
            }
            FromHttpRequestError::Deserialization(DeserializationError::Query(error)) => {
                let message = error.to_string();
                if message.starts_with("missing field") {
                    ApiError::missing_param(message)
                } else {
                    ApiError::invalid_param(format!(
                        "A parameter of the query can't be read: {message}."
                    ))
                }
            }
            FromHttpRequestError::Deserialization(error) => {
                ApiError::invalid_param(error.to_string())
            }
            error => ApiError::invalid_param(error.to_string()),
        }
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        match self {
            ApiError::Matrix(error) => error.status,
            ApiError::Uia(_) => StatusCode::UNAUTHORIZED,
        }
    }
}

/// Whether these bytes are JSON (an empty body counts as `{}`, as some clients send none).
fn is_json(body: &[u8]) -> bool {
    std::str::from_utf8(body).is_ok_and(|text| {
        text.is_empty() || serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
    })
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        match self {
            ApiError::Matrix(error) => error.into_response(),
            ApiError::Uia(info) => match serde_json::to_vec(&info) {
                Ok(body) => json_response(StatusCode::UNAUTHORIZED, body),
                Err(error) => ApiError::internal(error).into_response(),
            },
        }
    }
}

impl IntoResponse for MatrixError {
    fn into_response(self) -> Response {
        let mut body = self.fields;
        body.insert("errcode".to_owned(), json!(self.code.as_str()));
        body.insert("error".to_owned(), json!(self.message));
        let mut response = json_response(self.status, Value::Object(body).to_string());
        if let Some(wait) = self.retry_after {
            // Whole seconds, rounded up: who waits for less is sent away again.
            let seconds = wait.as_millis().div_ceil(1000);
            if let Ok(value) = HeaderValue::try_from(seconds.to_string()) {
                response.headers_mut().insert(header::RETRY_AFTER, value);
            }
        }
        response
    }
}

/// An answer whose body is JSON that is written already.
pub fn json_response(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> ApiError {
        ApiError::internal(error)
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> ApiError {
        let message = error.to_string();
        match error {
            AuthError::Missing => ApiError::missing_token(),
            AuthError::Unknown { soft_logout } => ApiError::unknown_token(soft_logout),
            AuthError::Locked => locked(message),
            AuthError::Deactivated => {
                ApiError::new(StatusCode::FORBIDDEN, ErrorCode::UserDeactivated, message)
            }
            AuthError::NotInNamespace | AuthError::NotRegistered => ApiError::forbidden(message),
            AuthError::UnknownDevice => {
                ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::UnknownDevice, message)
            }
            error => ApiError::internal(error),
        }
    }
}

/// Client-Server API, "Account locking": the client keeps its data and waits.
fn locked(message: String) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, ErrorCode::UserLocked, message)
        .with("soft_logout", true)
}

impl From<AccountError> for ApiError {
    fn from(error: AccountError) -> ApiError {
        let message = error.to_string();
        let bad_request = |code| ApiError::new(StatusCode::BAD_REQUEST, code, message.clone());
        match error {
            AccountError::InvalidUsername(_) => bad_request(ErrorCode::InvalidUsername),
            AccountError::UserInUse => bad_request(ErrorCode::UserInUse),
            AccountError::Exclusive => bad_request(ErrorCode::Exclusive),
            AccountError::InvalidParam(_) => bad_request(ErrorCode::InvalidParam),
            AccountError::MissingParam(_) => bad_request(ErrorCode::MissingParam),
            AccountError::InvalidSignature => bad_request("M_INVALID_SIGNATURE".into()),
            AccountError::Rejected(_) => bad_request(ErrorCode::Unknown),
            AccountError::WeakPassword(_) => bad_request(ErrorCode::WeakPassword),
            AccountError::ThreepidInUse => bad_request(ErrorCode::ThreepidInUse),
            AccountError::ThreepidNotFound => bad_request(ErrorCode::ThreepidNotFound),
            AccountError::ThreepidAuthFailed => bad_request(ErrorCode::ThreepidAuthFailed),
            AccountError::UnknownDevice => bad_request(ErrorCode::UnknownDevice),
            AccountError::ProfileTooLarge => bad_request(ErrorCode::ProfileTooLarge),
            AccountError::KeyTooLarge => bad_request(ErrorCode::KeyTooLarge),
            AccountError::Forbidden(_) => ApiError::forbidden(message),
            AccountError::NotFound(_) => ApiError::not_found(message),
            AccountError::TooLarge { .. } => ApiError::too_large(message),
            AccountError::WrongBackup { current } => {
                let code = ErrorCode::WrongRoomKeysVersion;
                ApiError::new(StatusCode::FORBIDDEN, code, message)
                    .with("current_version", current.to_string())
            }
            AccountError::Locked => locked(message),
            AccountError::UnknownToken { soft_logout } => ApiError::unknown_token(soft_logout),
            AccountError::Deactivated => {
                ApiError::new(StatusCode::FORBIDDEN, ErrorCode::UserDeactivated, message)
            }
            AccountError::ServerManaged => {
                ApiError::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::BadJson, message)
            }
            AccountError::LimitExceeded { retry_after_ms } => {
                ApiError::limit_exceeded(Duration::from_millis(retry_after_ms))
            }
            error => ApiError::internal(error),
        }
    }
}

impl From<RoomError> for ApiError {
    fn from(error: RoomError) -> ApiError {
        let message = error.to_string();
        let bad_request = |code| ApiError::new(StatusCode::BAD_REQUEST, code, message.clone());
        match error {
            RoomError::Forbidden(_) => ApiError::forbidden(message),
            RoomError::NotFound(_) | RoomError::UnknownRoom(_) | RoomError::NoWay(_) => {
                ApiError::not_found(message)
            }
            RoomError::BadRequest { errcode, .. } => bad_request(ErrorCode::from(errcode)),
            RoomError::InUse(_) => bad_request(ErrorCode::RoomInUse),
            RoomError::UnsupportedVersion(_) => bad_request(ErrorCode::UnsupportedRoomVersion),
            RoomError::TooLarge(_) | RoomError::Format(FormatError::TooLarge { .. }) => {
                ApiError::too_large(message)
            }
            RoomError::Format(_) => ApiError::bad_json(message),
            RoomError::Remote { .. } => {
                ApiError::new(StatusCode::BAD_GATEWAY, ErrorCode::Unknown, message)
            }
            RoomError::Policy {
                status, errcode, ..
            } => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
                ApiError::new(status, ErrorCode::from(errcode), message)
            }
            RoomError::Contended => {
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unknown, message)
            }
            error => ApiError::internal(error),
        }
    }
}

impl From<SyncError> for ApiError {
    fn from(error: SyncError) -> ApiError {
        match error {
            SyncError::TokenFromTheFuture => {
                let message = error.to_string();
                ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::Unknown, message)
            }
            SyncError::UnknownPos => {
                let message = error.to_string();
                ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::UnknownPos, message)
            }
            SyncError::Rooms(error) => error.into(),
            SyncError::Accounts(error) => error.into(),
            SyncError::Unread(error) => error.into(),
            SyncError::Store(error) => error.into(),
        }
    }
}

impl From<PreviewError> for ApiError {
    fn from(error: PreviewError) -> ApiError {
        let message = error.to_string();
        match error {
            PreviewError::Refused => ApiError::forbidden(message),
            PreviewError::Unreachable(_) => {
                ApiError::new(StatusCode::BAD_GATEWAY, ErrorCode::Unknown, message)
            }
            PreviewError::Media(error) => error.into(),
        }
    }
}

impl From<DeliveryError> for ApiError {
    fn from(error: DeliveryError) -> ApiError {
        match error {
            DeliveryError::Store(error) => error.into(),
            DeliveryError::Commit(error) => ApiError::internal(error),
            DeliveryError::Room(error) => error.into(),
            DeliveryError::Account(error) => error.into(),
            error @ DeliveryError::Mail(_) => {
                tracing::error!(%error, "the mail server can't be used");
                let message = "The mail could not be sent. Try again later.";
                ApiError::new(StatusCode::BAD_GATEWAY, ErrorCode::Unknown, message)
            }
        }
    }
}

impl From<FederationError> for ApiError {
    fn from(error: FederationError) -> ApiError {
        let message = error.to_string();
        let bad_request = |code| ApiError::new(StatusCode::BAD_REQUEST, code, message.clone());
        match error {
            FederationError::Unauthorized(_) => ApiError::unauthorized(message),
            FederationError::NotAdmitted(_) | FederationError::Forbidden(_) => {
                ApiError::forbidden(message)
            }
            FederationError::InviteBlocked => {
                let code = "M_INVITE_BLOCKED".into();
                ApiError::new(StatusCode::FORBIDDEN, code, message)
            }
            FederationError::NotFound(_) => ApiError::not_found(message),
            FederationError::TooOften { retry_after_ms } => {
                ApiError::limit_exceeded(Duration::from_millis(retry_after_ms))
            }
            FederationError::BadRequest { errcode, .. } => bad_request(ErrorCode::from(errcode)),
            FederationError::IncompatibleRoomVersion(version) => {
                bad_request(ErrorCode::IncompatibleRoomVersion)
                    .with("room_version", version.as_str())
            }
            FederationError::Remote(remote) => passed_on(*remote),
            FederationError::BackedOff { .. }
            | FederationError::Unreachable { .. }
            | FederationError::BadAnswer { .. } => {
                ApiError::new(StatusCode::BAD_GATEWAY, ErrorCode::Unknown, message)
            }
            error => ApiError::internal(error),
        }
    }
}

/// What another server refused, our client is refused too. That it failed is no fault of the
/// client's; and that our own request was not authorised there is not about the client's token.
fn passed_on(remote: RemoteError) -> ApiError {
    let status = match remote.status {
        StatusCode::UNAUTHORIZED => StatusCode::BAD_GATEWAY,
        status if status.is_client_error() => status,
        _ => StatusCode::BAD_GATEWAY,
    };
    let code = remote.errcode.filter(|_| status.is_client_error());
    let code = code.map_or(ErrorCode::Unknown, |code| ErrorCode::from(code.as_str()));
    let message = format!("{}: {}", remote.server, remote.error);
    let error = ApiError::new(status, code, message);
    remote
        .fields
        .into_iter()
        .fold(error, |error, (name, value)| error.with(&name, value))
}

impl From<SearchError> for ApiError {
    fn from(error: SearchError) -> ApiError {
        match error {
            SearchError::BadToken => ApiError::invalid_param(error.to_string()),
            SearchError::Room(error) => error.into(),
            SearchError::Account(error) => error.into(),
            SearchError::Store(error) => error.into(),
            error => ApiError::internal(error),
        }
    }
}

impl From<MediaError> for ApiError {
    fn from(error: MediaError) -> ApiError {
        let message = error.to_string();
        match error {
            MediaError::TooLarge { .. } | MediaError::TooManyPixels => ApiError::too_large(message),
            MediaError::Unknown => ApiError::not_found(message),
            MediaError::NotYours | MediaError::Quota { .. } => ApiError::forbidden(message),
            MediaError::Taken => ApiError::new(
                StatusCode::CONFLICT,
                ErrorCode::CannotOverwriteMedia,
                message,
            ),
            MediaError::NotYetUploaded => ApiError::new(
                StatusCode::GATEWAY_TIMEOUT,
                ErrorCode::NotYetUploaded,
                message,
            ),
            MediaError::TooManyPromises => ApiError::new(
                StatusCode::TOO_MANY_REQUESTS,
                ErrorCode::LimitExceeded,
                message,
            ),
            MediaError::NoPicture => {
                ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::Unknown, message)
            }
            MediaError::Broken(_) | MediaError::Invalid(_) => ApiError::invalid_param(message),
            error => ApiError::internal(error),
        }
    }
}
