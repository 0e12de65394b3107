//! Where two devices meet before one of them is logged in: MSC4108 as clients know it since 2024, with the text as the
//! body and its revision in an `ETag`, and MSC4388, which has put both into JSON.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    body::Body,
    extract::{Path, Request},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts};
use resuni_accounts::{MAX_RENDEZVOUS_BYTES, Rendezvous, RendezvousError, RendezvousText};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

use crate::{
    AppState,
    error::ApiError,
    extract::{RawJson, read_body},
    limits::{Class, Limits, Who},
    peer::ClientAddr,
    routes::Routes,
    state::Settings,
};

/// How much is read of a body in which the text is escaped.
const JSON_BYTES: usize = 8 * MAX_RENDEZVOUS_BYTES;
/// The path of MSC4108.
const MSC4108: &str = "/_matrix/client/unstable/org.matrix.msc4108/rendezvous";

/// The table of this section.
pub fn routes() -> Routes {
    let json = "/_matrix/client/unstable/io.element.msc4388/rendezvous";
    Routes::new().raw(
        Router::<AppState>::new()
            .route(MSC4108, post(create))
            .route(
                &format!("{MSC4108}/{{id}}"),
                get(receive).put(send).delete(end),
            )
            .route(json, get(discover).post(create_json))
            .route(
                &format!("{json}/{{id}}"),
                get(receive_json).put(send_json).delete(end_json),
            ),
    )
}

/// The sessions, where the operator has switched them on.
struct Meeting {
    sessions: Arc<Rendezvous>,
    settings: Arc<Settings>,
    limits: Arc<Limits>,
}

impl axum::extract::FromRequestParts<AppState> for Meeting {
    type Rejection = ApiError;

    async fn from_request_parts(_: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let sessions = state
            .rendezvous
            .clone()
            .ok_or_else(ApiError::unrecognized)?;
        Ok(Self {
            sessions,
            settings: state.settings.clone(),
            limits: state.limits.clone(),
        })
    }
}

impl Meeting {
    /// Making a session is for everybody, as often as an address may.
    fn limit(&self, from: ClientAddr) -> Result<(), ApiError> {
        self.limits.take(Class::Other, true, Who::Address(from.0))
    }
}

impl From<RendezvousError> for ApiError {
    fn from(error: RendezvousError) -> ApiError {
        let message = error.to_string();
        match error {
            RendezvousError::TooLarge => ApiError::too_large(message),
            RendezvousError::TooMany { retry_after_ms } => {
                ApiError::limit_exceeded(Duration::from_millis(retry_after_ms))
            }
            RendezvousError::Unknown => ApiError::not_found(message),
            RendezvousError::Concurrent(_) => {
                let code = "IO_ELEMENT_MSC4388_CONCURRENT_WRITE";
                ApiError::new(StatusCode::CONFLICT, code.into(), message)
            }
            RendezvousError::Other(error) => error.into(),
        }
    }
}

/// An answer of MSC4108 with the headers that all of them have.
fn answer(status: StatusCode, text: &RendezvousText, body: Response) -> Response {
    let mut response = body;
    *response.status_mut() = status;
    let date = |ms| httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
    for (name, value) in [
        (header::ETAG, format!("\"{}\"", text.token)),
        (header::EXPIRES, date(text.expires_ms)),
        (header::LAST_MODIFIED, date(text.modified_ms)),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (header::PRAGMA, "no-cache".to_owned()),
    ] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

fn missing(name: &HeaderName) -> ApiError {
    ApiError::missing_param(format!("The header {name} is missing."))
}

fn text_of<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// "Only strong, single-valued `ETag` values": what is between the quotes.
fn tag<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ApiError> {
    if !headers.contains_key(name) {
        return Ok(None);
    }
    let value = text_of(headers, name);
    let tag = value.and_then(|value| value.strip_prefix('"')?.strip_suffix('"'));
    tag.filter(|tag| !tag.contains('"'))
        .map(Some)
        .ok_or_else(|| ApiError::invalid_param(format!("{name} has to be one strong ETag.")))
}

/// A body of plain text.
async fn plain(parts: &Parts, body: Body) -> Result<String, ApiError> {
    if !parts.headers.contains_key(header::CONTENT_LENGTH) {
        return Err(missing(&header::CONTENT_LENGTH));
    }
    let kind = text_of(&parts.headers, &header::CONTENT_TYPE)
        .ok_or_else(|| missing(&header::CONTENT_TYPE))?;
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("text/plain") {
        return Err(ApiError::invalid_param("The body has to be text/plain."));
    }
    let body = read_body(parts, body, MAX_RENDEZVOUS_BYTES).await?;
    String::from_utf8(body.into()).map_err(|_| ApiError::invalid_param("The body is not UTF-8."))
}

async fn create(meeting: Meeting, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let from = ClientAddr::of(&parts);
    meeting.limit(from)?;
    let data = plain(&parts, body).await?;
    let (id, text) = meeting.sessions.create(from.0, data)?;
    let server = &meeting.settings.server_name;
    let base = meeting.settings.public_baseurl.clone();
    let base = base.unwrap_or_else(|| format!("https://{server}"));
    let body = RawJson::of(&json!({ "url": format!("{base}{MSC4108}/{id}") }));
    Ok(answer(StatusCode::CREATED, &text, body.into_response()))
}

async fn send(
    meeting: Meeting,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let seen = tag(&parts.headers, &header::IF_MATCH)?;
    let seen = seen.ok_or_else(|| missing(&header::IF_MATCH))?;
    let data = plain(&parts, body).await?;
    match meeting.sessions.put(&id, seen, data) {
        Ok(text) => {
            let body = Body::empty().into_response();
            Ok(answer(StatusCode::ACCEPTED, &text, body))
        }
        Err(RendezvousError::Concurrent(now)) => {
            let status = StatusCode::PRECONDITION_FAILED;
            let message = "The other device has written meanwhile.";
            let error = ApiError::new(status, "M_UNKNOWN".into(), message)
                .with("org.matrix.msc4108.errcode", "M_CONCURRENT_WRITE");
            Ok(answer(status, &now, error.into_response()))
        }
        Err(error) => Err(error.into()),
    }
}

async fn receive(
    meeting: Meeting,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    not_a_page(&headers)?;
    let text = meeting.sessions.get(&id)?;
    if tag(&headers, &header::IF_NONE_MATCH)? == Some(text.token.as_str()) {
        let body = Body::empty().into_response();
        return Ok(answer(StatusCode::NOT_MODIFIED, &text, body));
    }
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    let body = ([kind], text.data.clone()).into_response();
    Ok(answer(StatusCode::OK, &text, body))
}

async fn end(meeting: Meeting, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    meeting.sessions.delete(&id)?;
    Ok(StatusCode::NO_CONTENT)
}

/// What anybody has put here is for programs: a browser must not show it as a page of this server (MSC4388, "Unsafe
/// content").
fn not_a_page(headers: &HeaderMap) -> Result<(), ApiError> {
    let mode = headers.get("sec-fetch-mode");
    if mode.is_some_and(|mode| mode == "navigate") {
        return Err(ApiError::forbidden("This is not a page to look at."));
    }
    Ok(())
}

async fn discover(_: Meeting) -> RawJson {
    RawJson::of(&json!({ "create_available": true }))
}

async fn read_json<T: DeserializeOwned>(parts: &Parts, body: Body) -> Result<T, ApiError> {
    let body = read_body(parts, body, JSON_BYTES).await?;
    serde_json::from_slice(&body)
        .map_err(|error: serde_json::Error| ApiError::unreadable(error.into(), &body))
}

async fn create_json(meeting: Meeting, request: Request) -> Result<RawJson, ApiError> {
    #[derive(Deserialize)]
    struct Create {
        data: String,
    }
    let (parts, body) = request.into_parts();
    let from = ClientAddr::of(&parts);
    meeting.limit(from)?;
    let Create { data } = read_json(&parts, body).await?;
    let (id, text) = meeting.sessions.create(from.0, data)?;
    Ok(RawJson::of(&json!({
        "id": id,
        "sequence_token": text.token,
        "expires_in_ms": meeting.sessions.left_ms(&text),
    })))
}

async fn send_json(
    meeting: Meeting,
    Path(id): Path<String>,
    request: Request,
) -> Result<RawJson, ApiError> {
    #[derive(Deserialize)]
    struct Send {
        sequence_token: String,
        data: String,
    }
    let (parts, body) = request.into_parts();
    let Send {
        sequence_token,
        data,
    } = read_json(&parts, body).await?;
    let text = meeting.sessions.put_again(&id, &sequence_token, data)?;
    Ok(RawJson::of(&json!({ "sequence_token": text.token })))
}

async fn receive_json(
    meeting: Meeting,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<RawJson, ApiError> {
    not_a_page(&headers)?;
    let text = meeting.sessions.get(&id)?;
    Ok(RawJson::of(&json!({
        "data": text.data,
        "sequence_token": text.token,
        "expires_in_ms": meeting.sessions.left_ms(&text),
    })))
}

async fn end_json(meeting: Meeting, Path(id): Path<String>) -> Result<RawJson, ApiError> {
    meeting.sessions.delete(&id)?;
    Ok(RawJson::of(&json!({})))
}
