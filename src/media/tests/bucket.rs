//! A small object store in this process: the calls that a bucket takes, by their signatures' form.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, Query, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use parking_lot::Mutex;

/// Objects and parts of objects that are under way, by their names.
#[derive(Default)]
pub(super) struct Objects {
    pub whole: BTreeMap<String, Bytes>,
    parts: BTreeMap<(String, u32), Bytes>,
    /// How often something was put, whole or in parts.
    pub puts: usize,
}

pub(super) type Shared = Arc<Mutex<Objects>>;

/// Starts it; answers its address and what is in it.
pub(super) async fn start() -> (String, Shared) {
    let objects = Shared::default();
    let router = Router::new()
        .route("/{bucket}/{*name}", axum::routing::any(call))
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(objects.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, objects)
}

async fn call(
    State(objects): State<Shared>,
    method: Method,
    Path((bucket, name)): Path<(String, String)>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let signed = headers.get(header::AUTHORIZATION).is_some_and(|value| {
        let value = value.to_str().unwrap();
        value.starts_with("AWS4-HMAC-SHA256 Credential=key-id/")
    });
    if !signed || bucket != "files" {
        return StatusCode::FORBIDDEN.into_response();
    }
    let mut objects = objects.lock();
    let part = query.get("partNumber").map(|part| part.parse().unwrap());
    match (method, part) {
        (Method::PUT, Some(part)) => {
            objects.puts += 1;
            objects.parts.insert((name, part), body);
            [(header::ETAG, "\"part\"")].into_response()
        }
        (Method::PUT, None) => {
            objects.puts += 1;
            objects.whole.insert(name, body);
            [(header::ETAG, "\"whole\"")].into_response()
        }
        (Method::POST, _) if query.contains_key("uploads") => format!(
            "<InitiateMultipartUploadResult><Bucket>files</Bucket><Key>{name}</Key>\
             <UploadId>1</UploadId></InitiateMultipartUploadResult>"
        )
        .into_response(),
        (Method::POST, _) => {
            let of = |((object, _), _): &((String, u32), Bytes)| *object == name;
            let parts = std::mem::take(&mut objects.parts).into_iter().filter(of);
            let whole: Vec<u8> = parts.flat_map(|(_, bytes)| bytes.to_vec()).collect();
            objects.whole.insert(name, whole.into());
            "<CompleteMultipartUploadResult><ETag>\"whole\"</ETag></CompleteMultipartUploadResult>"
                .into_response()
        }
        (Method::DELETE, _) => {
            objects.whole.remove(&name);
            StatusCode::NO_CONTENT.into_response()
        }
        (Method::GET | Method::HEAD, _) => match objects.whole.get(&name) {
            Some(bytes) => get(bytes.clone(), &headers),
            None => StatusCode::NOT_FOUND.into_response(),
        },
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}

/// An object or a range of it.
fn get(bytes: Bytes, headers: &HeaderMap) -> Response {
    let about = [
        (header::ETAG, "\"whole\""),
        (header::LAST_MODIFIED, "Thu, 01 Jan 2026 00:00:00 GMT"),
    ];
    let Some(range) = headers.get(header::RANGE) else {
        return (about, bytes).into_response();
    };
    let range = range.to_str().unwrap().strip_prefix("bytes=").unwrap();
    let (first, last) = range.split_once('-').unwrap();
    let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    let last = last.min(bytes.len() - 1);
    let told = format!("bytes {first}-{last}/{}", bytes.len());
    let part = bytes.slice(first..=last);
    let status = StatusCode::PARTIAL_CONTENT;
    (status, about, [(header::CONTENT_RANGE, told)], part).into_response()
}
