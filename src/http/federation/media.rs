//! Our files for other servers (Server-Server API, "Content Repository").

use std::time::Duration;

use axum::extract::State;
use resuni_media::MediaRow;
use ruma::api::federation::authenticated_media::{
    Content, ContentMetadata, FileOrLocation, get_content::v1 as get_content,
    get_content_thumbnail::v1 as get_thumbnail,
};
use tokio::io::AsyncReadExt as _;

use super::On;
use crate::{
    client::{Asked, Files, disposition, wanted},
    error::ApiError,
    extract::{Answer, Reply, Ruma},
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
    let mut bytes = Vec::new();
    let mut file = files.media.read(&row).await?;
    file.read_to_end(&mut bytes)
        .await
        .map_err(ApiError::internal)?;
    let kind = row
        .content_type
        .unwrap_or_else(|| "application/octet-stream".to_owned());
    let how = disposition(&kind, row.filename);
    Ok(FileOrLocation::File(Content::new(bytes, kind, how)))
}

async fn download(
    On(_): On,
    State(files): State<Files>,
    Ruma { body, .. }: Ruma<get_content::Request>,
) -> Answer<get_content::Response> {
    let row = own(&files, &body.media_id, body.timeout_ms).await?;
    Ok(Reply(get_content::Response::new(
        ContentMetadata::new(),
        content(&files, row).await?,
    )))
}

async fn thumbnail(
    On(_): On,
    State(files): State<Files>,
    Ruma { body, .. }: Ruma<get_thumbnail::Request>,
) -> Answer<get_thumbnail::Response> {
    let wanted = wanted(body.width, body.height, body.method.as_ref(), body.animated)?;
    let row = own(&files, &body.media_id, body.timeout_ms).await?;
    let row = files.media.thumbnail(&row, wanted).await?;
    Ok(Reply(get_thumbnail::Response::new(
        ContentMetadata::new(),
        content(&files, row).await?,
    )))
}
