//! Files of other servers (server-server API, "Content Repository").

use http::header;
use ruma::{
    ServerName,
    api::federation::authenticated_media::{
        Content, FileOrLocation, get_content::v1 as get_content,
    },
    http_headers::{ContentDisposition, ContentDispositionType},
};

use crate::{
    client::{Client, Terms},
    error::{FederationError, RemoteError},
};

/// A file of another server; of one that is older than v1.11 by the endpoint that was open to everybody. `id` has to
/// be a valid one.
///
/// # Errors
/// What the server said, or that it keeps the file elsewhere.
pub async fn file(
    client: &Client,
    server: &ServerName,
    id: &str,
    terms: Terms,
) -> Result<Content, FederationError> {
    let request = get_content::Request::new(id.to_owned());
    match client.send(server, request, terms).await {
        Ok(answer) => match answer.content {
            FileOrLocation::File(content) => Ok(content),
            _ => Err(FederationError::NotFound(
                "that server keeps the file somewhere else".to_owned(),
            )),
        },
        Err(FederationError::Remote(error)) if knows_no_such_endpoint(&error) => {
            old_file(client, server, id, terms).await
        }
        Err(error) => Err(error),
    }
}

/// "404 `M_UNRECOGNIZED`", or whatever servers said before there was such a code.
fn knows_no_such_endpoint(error: &RemoteError) -> bool {
    error.status.is_client_error()
        && error
            .errcode
            .as_ref()
            .is_none_or(|code| code == "M_UNRECOGNIZED")
}

async fn old_file(
    client: &Client,
    server: &ServerName,
    id: &str,
    terms: Terms,
) -> Result<Content, FederationError> {
    let path = format!("/_matrix/media/v3/download/{server}/{id}?allow_remote=false");
    let answer = client.get_unsigned(server, &path, terms).await?;
    let text = |name| answer.headers.get(name)?.to_str().ok();
    let disposition = text(header::CONTENT_DISPOSITION)
        .and_then(|value| value.parse::<ContentDisposition>().ok())
        .unwrap_or_else(|| ContentDisposition::new(ContentDispositionType::Attachment));
    let kind = text(header::CONTENT_TYPE).unwrap_or("application/octet-stream");
    Ok(Content::new(
        answer.body.to_vec(),
        kind.to_owned(),
        disposition,
    ))
}
