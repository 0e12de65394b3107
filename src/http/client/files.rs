//! Files on their way out.
//!
//! Bytes of strangers are served from our own origin: their type is told but never sniffed, scripts
//! in them run nowhere, and only what browsers show harmlessly is shown in place.

use std::{fmt::Display, sync::Arc, time::Duration};

use axum::{body::Body, extract::FromRef, response::Response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use resuni_federation::{Federation, Terms};
use resuni_media::{About, Media, MediaRow};
use ruma::{
    ServerName,
    http_headers::{ContentDisposition, ContentDispositionType},
};

use crate::{AppState, error::ApiError};

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

/// The files, and the way to those of other servers.
#[derive(Clone)]
pub struct Files {
    /// Those that are here.
    pub media: Arc<Media>,
    federation: Option<Arc<Federation>>,
}

impl FromRef<AppState> for Files {
    fn from_ref(state: &AppState) -> Self {
        Self {
            media: state.media.clone(),
            federation: state.federation.clone(),
        }
    }
}

/// Which file is asked for, and how.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    server: &'a ServerName,
    id: &'a str,
    /// How long to wait for a file that was promised.
    timeout: Duration,
    signed_in: bool,
    remote: bool,
}

impl<'a> Asked<'a> {
    /// By somebody with an account.
    pub fn signed_in(server: &'a ServerName, id: &'a str, timeout: Duration) -> Self {
        Self {
            server,
            id,
            timeout,
            signed_in: true,
            remote: true,
        }
    }

    /// By anybody who knows the address; another server's file only where `remote` says so.
    pub fn by_anybody(self, remote: bool) -> Self {
        Self {
            signed_in: false,
            remote,
            ..self
        }
    }
}

fn unknown() -> ApiError {
    ApiError::not_found("There is no such file.")
}

impl Files {
    /// The file, brought here if it is another server's.
    pub async fn find(&self, asked: Asked<'_>) -> Result<MediaRow, ApiError> {
        self.media.check_address(asked.server, asked.id).await?;
        let row = self
            .media
            .wait_for(asked.server, asked.id, asked.timeout)
            .await?;
        let row = match row {
            Some(row) => row,
            // What would be for signed-in readers only need not be fetched for others.
            None if !asked.remote || !asked.signed_in && self.media.authenticated_only() => {
                return Err(unknown());
            }
            None => self.fetch(asked.server, asked.id).await?,
        };
        if row.authenticated_only && !asked.signed_in {
            return Err(unknown());
        }
        self.media.check_bytes(&row).await?;
        self.media.seen(asked.server, asked.id).await?;
        Ok(row)
    }

    /// Brings a file of another server here.
    async fn fetch(&self, server: &ServerName, id: &str) -> Result<MediaRow, ApiError> {
        let federation = self.federation.as_ref().ok_or_else(unknown)?;
        if !resuni_media::is_id(id) || server == self.media.server_name() {
            return Err(unknown());
        }
        // The file, and the words around its parts.
        let most = usize::try_from(self.media.max_bytes())
            .unwrap_or(usize::MAX)
            .saturating_add(64 * 1024);
        let client = &federation.network.client;
        let terms = Terms::ASKED.up_to(most);
        let content = resuni_federation::media::file(client, server, id, terms).await?;
        let about = About {
            content_type: content.content_type,
            filename: content
                .content_disposition
                .and_then(|disposition| disposition.filename),
            uploader: None,
        };
        let bytes = stream::iter([Ok::<_, std::io::Error>(Bytes::from(content.file))]);
        Ok(self.media.keep(server, id, about, bytes).await?)
    }

    /// The file, or the part of it that the headers ask for.
    pub async fn answer(
        &self,
        row: MediaRow,
        name: Option<String>,
        headers: &HeaderMap,
    ) -> Result<Response, ApiError> {
        let range = headers
            .get(header::RANGE)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| range(value, row.bytes));
        let (first, count) = match range {
            Some(Part::Bytes { first, last }) => (first, last - first + 1),
            Some(Part::None) => (0, 0),
            None => (0, row.bytes),
        };
        let body = Body::from_stream(self.media.read(&row, first..first + count).await?);
        let mut response = Response::new(body);
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
        set(header::CONTENT_LENGTH, &count);
        set(header::ACCEPT_RANGES, &"bytes");
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
        match range {
            None => {}
            Some(Part::Bytes { first, last }) => {
                let all = row.bytes;
                set(
                    header::CONTENT_RANGE,
                    &format!("bytes {first}-{last}/{all}"),
                );
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            }
            Some(Part::None) => {
                set(header::CONTENT_RANGE, &format!("bytes */{}", row.bytes));
                *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            }
        }
        Ok(response)
    }
}

/// What a `Range` header asks for of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// From the first byte to the last, both counted from zero.
    Bytes { first: u64, last: u64 },
    /// Nothing that is there.
    None,
}

/// One range of bytes (RFC 9110, section 14). Several at once, and what is no range, are answered with the whole file.
fn range(header: &str, size: u64) -> Option<Part> {
    let (first, last) = header.strip_prefix("bytes=")?.trim().split_once('-')?;
    let (first, last) = match (first.trim(), last.trim()) {
        ("", count) => (size.saturating_sub(count.parse().ok()?), u64::MAX),
        (first, "") => (first.parse().ok()?, u64::MAX),
        (first, last) => (first.parse().ok()?, last.parse().ok()?),
    };
    if first > last {
        return None;
    }
    Some(match first < size {
        true => Part::Bytes {
            first,
            last: last.min(size - 1),
        },
        false => Part::None,
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let part = |first, last| Some(Part::Bytes { first, last });
        for (header, expected) in [
            ("bytes=0-3", part(0, 3)),
            ("bytes=4-", part(4, 9)),
            ("bytes=-3", part(7, 9)),
            ("bytes=-99", part(0, 9)),
            ("bytes=8-99", part(8, 9)),
            ("bytes=10-", Some(Part::None)),
            ("bytes=-0", Some(Part::None)),
            ("bytes=3-2", None),
            ("bytes=0-1,3-4", None),
            ("bytes=x-y", None),
            ("lines=0-1", None),
        ] {
            assert_eq!(range(header, 10), expected, "{header}");
        }
        assert_eq!(range("bytes=0-", 0), Some(Part::None));
    }
}
