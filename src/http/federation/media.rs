//! Our files for other servers (Server-Server API, "Content Repository").

use std::time::Duration;

use axum::{body::Body, extract::State, response::Response};
use bytes::BytesMut;
use resuni_media::MediaRow;
use ruma::api::{
    OutgoingResponse, OutgoingResponseExt as _,
    federation::authenticated_media::{
        Content, ContentMetadata, FileOrLocation, get_content::v1 as get_content,
        get_content_thumbnail::v1 as get_thumbnail,
    },
};

use super::On;
use crate::{
    client::{Asked, Files, disposition, wanted},
    error::ApiError,
    extract::Ruma,
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new().on(download).on(thumbnail)
}

/// One of our own files.
async fn own(files: &Files, id: &str, timeout: Duration) -> Result<MediaRow, ApiError> {
    let asked = Asked::signed_in(files.media.server_name(), id, timeout);
    files.find(asked).await
}

async fn content(files: &Files, row: MediaRow) -> Result<FileOrLocation, ApiError> {
    let bytes = files.media.all(&row).await?;
    let kind = row
        .content_type
        .unwrap_or_else(|| "application/octet-stream".to_owned());
    let how = disposition(&kind, row.filename);
    Ok(FileOrLocation::File(Content::new(bytes, kind, how)))
}

/// The answer, with its last boundary closed (RFC 2046, section 5.1.1): ruma 0.17 leaves the two hyphens out, and
/// strict readers then miss the file.
fn closed(response: impl OutgoingResponse) -> Result<Response, ApiError> {
    let response = response
        .try_into_http_response::<BytesMut>()
        .map_err(ApiError::internal)?;
    Ok(response.map(|mut body| {
        if !body.ends_with(b"--") && !body.ends_with(b"--\r\n") {
            body.extend_from_slice(b"--\r\n");
        }
        Body::from(body.freeze())
    }))
}

async fn download(
    On(_): On,
    State(files): State<Files>,
    Ruma { body, .. }: Ruma<get_content::Request>,
) -> Result<Response, ApiError> {
    let row = own(&files, &body.media_id, body.timeout_ms).await?;
    let content = content(&files, row).await?;
    closed(get_content::Response::new(ContentMetadata::new(), content))
}

async fn thumbnail(
    On(_): On,
    State(files): State<Files>,
    Ruma { body, .. }: Ruma<get_thumbnail::Request>,
) -> Result<Response, ApiError> {
    let wanted = wanted(body.width, body.height, body.method.as_ref(), body.animated)?;
    let row = own(&files, &body.media_id, body.timeout_ms).await?;
    let row = files.media.thumbnail(&row, wanted).await?;
    let content = content(&files, row).await?;
    closed(get_thumbnail::Response::new(
        ContentMetadata::new(),
        content,
    ))
}
