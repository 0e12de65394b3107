//! Files (Client-Server API, "Content repository").
//!
//! Bytes of strangers are served from our own origin: their type is told but never sniffed, scripts
//! in them run nowhere, and only what browsers show harmlessly is shown in place.

use std::{fmt::Display, sync::Arc};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Query, Request, State},
    response::Response,
    routing::post,
};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, HeaderValue, header};
use resuni_federation::{Federation, Terms};
use resuni_media::{About, Media, MediaRow};
use ruma::{
    ServerName,
    api::{
        auth_scheme::AccessToken,
        client::{
            authenticated_media,
            media::{get_content, get_content_as_filename, get_media_config},
        },
        federation::authenticated_media::{FileOrLocation, get_content as remote},
    },
    http_headers::{ContentDisposition, ContentDispositionType},
};
use serde::Deserialize;
use serde_json::json;
use tokio_util::io::ReaderStream;

use crate::{
    AppState,
    auth::Authenticate,
    error::ApiError,
    extract::{Policy, RawJson, Ruma},
    limits::{Class, Limits},
    peer::ClientAddr,
    routes::Routes,
};

/// Types that browsers show without running anything in them (Client-Server API, "Serving inline
/// content").
const INLINE: [&str; 26] = [
    "text/css",
    "text/plain",
    "text/csv",
    "application/json",
    "application/ld+json",
    "image/jpeg",
    "image/gif",
    "image/png",
    "image/apng",
    "image/webp",
    "image/avif",
    "video/mp4",
    "video/webm",
    "video/ogg",
    "video/quicktime",
    "audio/mp4",
    "audio/webm",
    "audio/aac",
    "audio/mpeg",
    "audio/ogg",
    "audio/wave",
    "audio/wav",
    "audio/x-wav",
    "audio/x-pn-wav",
    "audio/flac",
    "audio/x-flac",
];

/// What a file may do in a browser.
const SANDBOX: &str = "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; style-src 'unsafe-inline'; object-src 'self';";

/// The table of this section.
pub fn routes() -> Routes {
    let policy = Policy::CLIENT.public();
    let upload = post(upload).layer(Extension(policy));
    let upload = Router::<AppState>::new()
        .route("/_matrix/media/v3/upload", upload.clone())
        .route("/_matrix/media/r0/upload", upload);
    Routes::new()
        .raw(upload)
        .on(config)
        .on(old_config)
        .guest(download)
        .guest(download_as)
        .guest(old_download)
        .guest(old_download_as)
}

#[derive(Deserialize)]
struct Upload {
    filename: Option<String>,
}

/// The body is the file: it goes to the disk as it comes, and never into memory as a whole.
async fn upload(
    State(state): State<AppState>,
    Query(Upload { filename }): Query<Upload>,
    request: Request,
) -> Result<RawJson, ApiError> {
    let (parts, body) = request.into_parts();
    let caller = AccessToken::authenticate(&state, &parts, &[]).await?;
    AccessToken::allow(&caller, Policy::of(&parts))?;
    let who = AccessToken::who(&caller, ClientAddr::of(&parts));
    let limits: &Limits = &state.limits;
    limits.take(Class::Other, true, who)?;
    let length = parts
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok());
    let limit = state.media.max_bytes();
    if length
        .and_then(|length| length.parse::<u64>().ok())
        .is_some_and(|length| length > limit)
    {
        return Err(ApiError::too_large(format!(
            "A file may have at most {limit} bytes."
        )));
    }
    let content_type = parts.headers.get(header::CONTENT_TYPE);
    let about = About {
        content_type: content_type
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned),
        filename,
        uploader: Some(caller.user_id),
    };
    let id = state.media.upload(about, body.into_data_stream()).await?;
    let server = &state.settings.server_name;
    Ok(RawJson::of(
        &json!({ "content_uri": format!("mxc://{server}/{id}") }),
    ))
}

async fn config(
    State(media): State<Arc<Media>>,
    _: Ruma<authenticated_media::get_media_config::v1::Request>,
) -> RawJson {
    RawJson::of(&json!({ "m.upload.size": media.max_bytes() }))
}

#[expect(deprecated, reason = "clients of before v1.11")]
async fn old_config(
    State(media): State<Arc<Media>>,
    _: Ruma<get_media_config::v3::Request>,
) -> RawJson {
    RawJson::of(&json!({ "m.upload.size": media.max_bytes() }))
}

async fn download(
    State(media): State<Arc<Media>>,
    State(federation): State<Option<Arc<Federation>>>,
    Ruma { body, .. }: Ruma<authenticated_media::get_content::v1::Request>,
) -> Result<Response, ApiError> {
    let remote = federation.as_deref();
    serve(&media, remote, &body.server_name, &body.media_id, None).await
}

async fn download_as(
    State(media): State<Arc<Media>>,
    State(federation): State<Option<Arc<Federation>>>,
    Ruma { body, .. }: Ruma<authenticated_media::get_content_as_filename::v1::Request>,
) -> Result<Response, ApiError> {
    let remote = federation.as_deref();
    serve(
        &media,
        remote,
        &body.server_name,
        &body.media_id,
        Some(body.filename),
    )
    .await
}

#[expect(deprecated, reason = "clients of before v1.11")]
async fn old_download(
    State(media): State<Arc<Media>>,
    State(federation): State<Option<Arc<Federation>>>,
    Ruma { body, .. }: Ruma<get_content::v3::Request>,
) -> Result<Response, ApiError> {
    let remote = federation.as_deref().filter(|_| body.allow_remote);
    serve(&media, remote, &body.server_name, &body.media_id, None).await
}

#[expect(deprecated, reason = "clients of before v1.11")]
async fn old_download_as(
    State(media): State<Arc<Media>>,
    State(federation): State<Option<Arc<Federation>>>,
    Ruma { body, .. }: Ruma<get_content_as_filename::v3::Request>,
) -> Result<Response, ApiError> {
    let remote = federation.as_deref().filter(|_| body.allow_remote);
    serve(
        &media,
        remote,
        &body.server_name,
        &body.media_id,
        Some(body.filename),
    )
    .await
}

fn unknown() -> ApiError {
    ApiError::not_found("There is no such file.")
}

async fn serve(
    media: &Media,
    federation: Option<&Federation>,
    server: &ServerName,
    id: &str,
    name: Option<String>,
) -> Result<Response, ApiError> {
    let row = match media.find(server, id).await? {
        Some(row) => row,
        None => fetch(media, federation.ok_or_else(unknown)?, server, id).await?,
    };
    answer(media, row, name).await
}

/// Brings a file of another server here.
async fn fetch(
    media: &Media,
    federation: &Federation,
    server: &ServerName,
    id: &str,
) -> Result<MediaRow, ApiError> {
    if !resuni_media::is_id(id) || server == media.server_name() {
        return Err(unknown());
    }
    // The file, and the words around its parts.
    let most = usize::try_from(media.max_bytes())
        .unwrap_or(usize::MAX)
        .saturating_add(64 * 1024);
    let request = remote::v1::Request::new(id.to_owned());
    let client = &federation.network.client;
    let answer = client
        .send(server, request, Terms::ASKED.up_to(most))
        .await?;
    let FileOrLocation::File(content) = answer.content else {
        return Err(ApiError::not_found(
            "That server keeps the file somewhere else.",
        ));
    };
    let about = About {
        content_type: content.content_type,
        filename: content
            .content_disposition
            .and_then(|disposition| disposition.filename),
        uploader: None,
    };
    let bytes = stream::iter([Ok::<_, std::io::Error>(Bytes::from(content.file))]);
    Ok(media.keep(server, id, about, bytes).await?)
}

async fn answer(media: &Media, row: MediaRow, name: Option<String>) -> Result<Response, ApiError> {
    let file = media.read(&row).await?;
    let mut response = Response::new(Body::from_stream(ReaderStream::new(file)));
    let mut set = |header: HeaderName, value: &dyn Display| {
        if let Ok(value) = HeaderValue::try_from(value.to_string()) {
            response.headers_mut().insert(header, value);
        }
    };
    let kind = row
        .content_type
        .as_deref()
        .unwrap_or("application/octet-stream");
    set(header::CONTENT_TYPE, &kind);
    set(header::CONTENT_LENGTH, &row.bytes);
    set(
        header::CONTENT_DISPOSITION,
        &disposition(kind, name.or(row.filename)),
    );
    set(header::CONTENT_SECURITY_POLICY, &SANDBOX);
    set(header::X_CONTENT_TYPE_OPTIONS, &"nosniff");
    set(
        HeaderName::from_static("cross-origin-resource-policy"),
        &"cross-origin",
    );
    set(
        header::CACHE_CONTROL,
        &"private, max-age=31536000, immutable",
    );
    Ok(response)
}

/// In place or as a file, and under which name.
pub fn disposition(kind: &str, name: Option<String>) -> ContentDisposition {
    let bare = kind
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let how = if INLINE.contains(&bare.as_str()) {
        ContentDispositionType::Inline
    } else {
        ContentDispositionType::Attachment
    };
    ContentDisposition::new(how).with_filename(name)
}
