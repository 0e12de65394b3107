//! Our files for other servers (Server-Server API, "Content Repository").

use std::sync::Arc;

use axum::extract::State;
use resuni_media::Media;
use ruma::api::federation::authenticated_media::{
    Content, ContentMetadata, FileOrLocation, get_content::v1 as get_content,
};
use tokio::io::AsyncReadExt as _;

use super::On;
use crate::{
    client::disposition,
    error::ApiError,
    extract::{Answer, Reply, Ruma},
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new().on(download)
}

async fn download(
    On(_): On,
    State(media): State<Arc<Media>>,
    Ruma { body, .. }: Ruma<get_content::Request>,
) -> Answer<get_content::Response> {
    let row = media.find(media.server_name(), &body.media_id).await?;
    let row = row.ok_or_else(|| ApiError::not_found("There is no such file."))?;
    let mut bytes = Vec::new();
    let mut file = media.read(&row).await?;
    file.read_to_end(&mut bytes)
        .await
        .map_err(ApiError::internal)?;
    let kind = row
        .content_type
        .unwrap_or_else(|| "application/octet-stream".to_owned());
    let how = disposition(&kind, row.filename);
    let content = FileOrLocation::File(Content::new(bytes, kind, how));
    Ok(Reply(get_content::Response::new(
        ContentMetadata::new(),
        content,
    )))
}
