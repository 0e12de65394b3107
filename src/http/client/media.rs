//! Files (Client-Server API, "Content repository").

use std::sync::Arc;

use axum::{
    Extension, Router,
    extract::{Query, Request, State},
    response::Response,
    routing::{post, put},
};
use http::{HeaderMap, header, request::Parts};
use resuni_accounts::Session;
use resuni_media::{About, Previews, Wanted};
use ruma::{
    OwnedServerName, UInt,
    api::{
        auth_scheme::AccessToken,
        client::{
            authenticated_media,
            media::{
                create_mxc_uri, get_content, get_content_as_filename, get_content_thumbnail,
                get_media_config, get_media_preview,
            },
        },
    },
    media::Method,
};
use serde::Deserialize;
use serde_json::json;

use super::files::{Asked, Files};
use crate::{
    AppState,
    auth::Authenticate,
    error::ApiError,
    extract::{Policy, RawJson, Ruma},
    limits::{Class, Limits},
    peer::ClientAddr,
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    let policy = Policy::CLIENT.public();
    let anywhere = post(upload).layer(Extension(policy));
    let there = put(upload_there).layer(Extension(policy));
    let uploads = Router::<AppState>::new()
        .route("/_matrix/media/v3/upload", anywhere.clone())
        .route("/_matrix/media/r0/upload", anywhere)
        .route("/_matrix/media/v3/upload/{server_name}/{media_id}", there);
    Routes::new()
        .raw(uploads)
        .with(policy, create)
        .on(config)
        .on(old_config)
        .on(preview)
        .on(old_preview)
        .guest(download)
        .guest(download_as)
        .guest(thumbnail)
        .guest(old_download)
        .guest(old_download_as)
        .guest(old_thumbnail)
}

#[derive(Deserialize)]
struct Upload {
    filename: Option<String>,
}

/// Who uploads, if they may, and what they say of the file: its bytes have not been looked at.
async fn uploader(
    state: &AppState,
    parts: &Parts,
    filename: Option<String>,
) -> Result<About, ApiError> {
    let caller: Session = AccessToken::authenticate(state, parts, &[]).await?;
    AccessToken::allow(&caller, Policy::of(parts))?;
    let who = AccessToken::who(&caller, ClientAddr::of(parts));
    let limits: &Limits = &state.limits;
    limits.take(Class::Other, true, who)?;
    let text = |name| {
        parts
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let limit = state.media.max_bytes();
    if text(header::CONTENT_LENGTH)
        .and_then(|length| length.parse::<u64>().ok())
        .is_some_and(|length| length > limit)
    {
        return Err(ApiError::too_large(format!(
            "A file may have at most {limit} bytes."
        )));
    }
    Ok(About {
        content_type: text(header::CONTENT_TYPE).map(str::to_owned),
        filename,
        uploader: Some(caller.user_id),
    })
}

/// The body is the file: it goes to the disk as it comes, and never into memory as a whole.
async fn upload(
    State(state): State<AppState>,
    Query(Upload { filename }): Query<Upload>,
    request: Request,
) -> Result<RawJson, ApiError> {
    let (parts, body) = request.into_parts();
    let about = uploader(&state, &parts, filename).await?;
    let id = state.media.upload(about, body.into_data_stream()).await?;
    let server = &state.settings.server_name;
    Ok(RawJson::of(
        &json!({ "content_uri": format!("mxc://{server}/{id}") }),
    ))
}

/// The same, to an address that was given out before.
async fn upload_there(
    State(state): State<AppState>,
    axum::extract::Path((server, id)): axum::extract::Path<(OwnedServerName, String)>,
    Query(Upload { filename }): Query<Upload>,
    request: Request,
) -> Result<RawJson, ApiError> {
    let (parts, body) = request.into_parts();
    let about = uploader(&state, &parts, filename).await?;
    state
        .media
        .fulfil(&server, &id, about, body.into_data_stream())
        .await?;
    Ok(RawJson::of(&json!({})))
}

async fn create(
    State(files): State<Files>,
    Ruma { caller, .. }: Ruma<create_mxc_uri::v1::Request>,
) -> Result<RawJson, ApiError> {
    let (id, expires) = files.media.promise(&caller.user_id).await?;
    let server = files.media.server_name();
    Ok(RawJson::of(
        &json!({ "content_uri": format!("mxc://{server}/{id}"), "unused_expires_at": expires }),
    ))
}

async fn config(
    State(files): State<Files>,
    _: Ruma<authenticated_media::get_media_config::v1::Request>,
) -> RawJson {
    RawJson::of(&json!({ "m.upload.size": files.media.max_bytes() }))
}

#[expect(deprecated, reason = "clients of before v1.11")]
async fn old_config(State(files): State<Files>, _: Ruma<get_media_config::v3::Request>) -> RawJson {
    RawJson::of(&json!({ "m.upload.size": files.media.max_bytes() }))
}

async fn preview(
    State(previews): State<Option<Arc<Previews>>>,
    Ruma { body, .. }: Ruma<authenticated_media::get_media_preview::v1::Request>,
) -> Result<RawJson, ApiError> {
    shown(previews.as_deref(), &body.url).await
}

#[expect(deprecated, reason = "clients of before v1.11")]
async fn old_preview(
    State(previews): State<Option<Arc<Previews>>>,
    Ruma { body, .. }: Ruma<get_media_preview::v3::Request>,
) -> Result<RawJson, ApiError> {
    shown(previews.as_deref(), &body.url).await
}

/// What an address leads to, as it is now: `ts` asks for another time, which is a wish only.
async fn shown(previews: Option<&Previews>, address: &str) -> Result<RawJson, ApiError> {
    let previews = previews.ok_or_else(ApiError::unrecognized)?;
    Ok(RawJson(previews.preview(address).await?.into()))
}

async fn download(
    State(files): State<Files>,
    headers: HeaderMap,
    Ruma { body, .. }: Ruma<authenticated_media::get_content::v1::Request>,
) -> Result<Response, ApiError> {
    let asked = Asked::signed_in(&body.server_name, &body.media_id, body.timeout_ms);
    let row = files.find(asked).await?;
    files.answer(row, None, &headers).await
}

async fn download_as(
    State(files): State<Files>,
    headers: HeaderMap,
    Ruma { body, .. }: Ruma<authenticated_media::get_content_as_filename::v1::Request>,
) -> Result<Response, ApiError> {
    let asked = Asked::signed_in(&body.server_name, &body.media_id, body.timeout_ms);
    let row = files.find(asked).await?;
    files.answer(row, Some(body.filename), &headers).await
}

async fn thumbnail(
    State(files): State<Files>,
    headers: HeaderMap,
    Ruma { body, .. }: Ruma<authenticated_media::get_content_thumbnail::v1::Request>,
) -> Result<Response, ApiError> {
    let asked = Asked::signed_in(&body.server_name, &body.media_id, body.timeout_ms);
    let wanted = wanted(body.width, body.height, body.method.as_ref(), body.animated)?;
    let row = files.find(asked).await?;
    let row = files.media.thumbnail(&row, wanted).await?;
    files.answer(row, None, &headers).await
}

#[expect(deprecated, reason = "clients of before v1.11")]
async fn old_download(
    State(files): State<Files>,
    headers: HeaderMap,
    Ruma { body, .. }: Ruma<get_content::v3::Request>,
) -> Result<Response, ApiError> {
    let asked = Asked::signed_in(&body.server_name, &body.media_id, body.timeout_ms);
    let row = files.find(asked.by_anybody(body.allow_remote)).await?;
    files.answer(row, None, &headers).await
}

#[expect(deprecated, reason = "clients of before v1.11")]
async fn old_download_as(
    State(files): State<Files>,
    headers: HeaderMap,
    Ruma { body, .. }: Ruma<get_content_as_filename::v3::Request>,
) -> Result<Response, ApiError> {
    let asked = Asked::signed_in(&body.server_name, &body.media_id, body.timeout_ms);
    let row = files.find(asked.by_anybody(body.allow_remote)).await?;
    files.answer(row, Some(body.filename), &headers).await
}

#[expect(deprecated, reason = "clients of before v1.11")]
async fn old_thumbnail(
    State(files): State<Files>,
    headers: HeaderMap,
    Ruma { body, .. }: Ruma<get_content_thumbnail::v3::Request>,
) -> Result<Response, ApiError> {
    let asked = Asked::signed_in(&body.server_name, &body.media_id, body.timeout_ms);
    let wanted = wanted(body.width, body.height, body.method.as_ref(), body.animated)?;
    let row = files.find(asked.by_anybody(body.allow_remote)).await?;
    let row = files.media.thumbnail(&row, wanted).await?;
    files.answer(row, None, &headers).await
}

/// How a thumbnail is asked for.
pub fn wanted(
    width: UInt,
    height: UInt,
    method: Option<&Method>,
    animated: Option<bool>,
) -> Result<Wanted, ApiError> {
    let side = |side: UInt| {
        u32::try_from(u64::from(side))
            .ok()
            .filter(|side| *side > 0)
            .ok_or_else(|| ApiError::invalid_param("Width and height are numbers of pixels."))
    };
    Ok(Wanted {
        width: side(width)?,
        height: side(height)?,
        crop: method == Some(&Method::Crop),
        animated: animated == Some(true),
    })
}
