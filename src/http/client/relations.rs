//! Events that relate to others, and threads (Client-Server API, "Relationships API", "Threading").

use std::sync::Arc;

use axum::extract::State;
use bytes::Bytes;
use resuni_accounts::Session;
use resuni_federation::relationships::{self, Relationships};
use resuni_rooms::{RelationsQuery, ThreadsQuery};
use ruma::{
    RoomId, UInt,
    api::client::{
        relations::{
            get_relating_events, get_relating_events_with_rel_type,
            get_relating_events_with_rel_type_and_event_type,
        },
        threads::get_threads,
    },
};

use super::rooms::{Reading, direction, form, limit, not_in_room, token, view};
use crate::{
    error::ApiError,
    extract::{RawJson, Ruma},
    routes::Routes,
};

/// Events of a page when the client names no number.
const DEFAULT_LIMIT: usize = 20;

/// `POST /_matrix/client/unstable/event_relationships` (MSC2836).
mod event_relationships {
    use resuni_federation::relationships::Asked;
    use ruma::api::{auth_scheme::AccessToken, metadata, request, response};

    metadata! {
        method: POST,
        rate_limited: true,
        authentication: AccessToken,
        path: "/_matrix/client/unstable/event_relationships",
    }

    /// Which part of a thread.
    #[request]
    pub struct Request {
        /// As servers ask each other, too.
        #[ruma_api(body)]
        pub asked: Asked,
    }

    /// Written by hand.
    #[response]
    pub struct Response {}
}

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new()
        .guest(all)
        .guest(of_type)
        .guest(of_types)
        .guest(threads)
        .guest(thread_of)
}

fn asked(asked: Option<UInt>) -> usize {
    asked.map_or(DEFAULT_LIMIT, limit)
}

fn place(text: Option<&str>) -> Result<Option<resuni_rooms::TimelineToken>, ApiError> {
    text.map(token).transpose()
}

async fn all(
    State(reading): State<Reading>,
    Ruma { body, caller, .. }: Ruma<get_relating_events::v1::Request>,
) -> Result<RawJson, ApiError> {
    let query = RelationsQuery {
        parent: body.event_id,
        rel_type: None,
        kind: None,
        from: place(body.from.as_deref())?,
        to: place(body.to.as_deref())?,
        dir: direction(body.dir),
        limit: asked(body.limit),
        recurse: body.recurse,
    };
    page(&reading, &caller, &body.room_id, body.from, query).await
}

async fn of_type(
    State(reading): State<Reading>,
    Ruma { body, caller, .. }: Ruma<get_relating_events_with_rel_type::v1::Request>,
) -> Result<RawJson, ApiError> {
    let query = RelationsQuery {
        parent: body.event_id,
        rel_type: Some(body.rel_type.to_string()),
        kind: None,
        from: place(body.from.as_deref())?,
        to: place(body.to.as_deref())?,
        dir: direction(body.dir),
        limit: asked(body.limit),
        recurse: body.recurse,
    };
    page(&reading, &caller, &body.room_id, body.from, query).await
}

async fn of_types(
    State(reading): State<Reading>,
    Ruma { body, caller, .. }: Ruma<get_relating_events_with_rel_type_and_event_type::v1::Request>,
) -> Result<RawJson, ApiError> {
    let query = RelationsQuery {
        parent: body.event_id,
        rel_type: Some(body.rel_type.to_string()),
        kind: Some(body.event_type.to_string()),
        from: place(body.from.as_deref())?,
        to: place(body.to.as_deref())?,
        dir: direction(body.dir),
        limit: asked(body.limit),
        recurse: body.recurse,
    };
    page(&reading, &caller, &body.room_id, body.from, query).await
}

/// A page of relations; `from` is told again as the way back.
async fn page(
    reading: &Reading,
    caller: &Session,
    room: &RoomId,
    from: Option<String>,
    query: RelationsQuery,
) -> Result<RawJson, ApiError> {
    let mut viewer = reading.of_room(room, caller).await?;
    let page = viewer.related(&query).await?;
    let chunk = viewer
        .list(&page.events, &form(&reading.rooms, caller))
        .await?;
    let mut out = format!(r#"{{"chunk":{chunk}"#);
    if let Some(next) = page.next {
        out.push_str(&format!(r#","next_batch":"{next}""#));
    }
    if from.is_some()
        && let Some(from) = query.from
    {
        out.push_str(&format!(r#","prev_batch":"{from}""#));
    }
    if let Some(depth) = page.depth {
        out.push_str(&format!(r#","recursion_depth":{depth}"#));
    }
    out.push('}');
    Ok(RawJson(Bytes::from(out)))
}

async fn threads(
    State(reading): State<Reading>,
    Ruma { body, caller, .. }: Ruma<get_threads::v1::Request>,
) -> Result<RawJson, ApiError> {
    let view = view(&reading.rooms, &body.room_id).await?;
    view.readable_state(&caller.user_id)
        .await
        .map_err(|_| not_in_room())?;
    let mut viewer = reading.viewer(&view, &caller).await?;
    let participated = match body.include {
        get_threads::v1::IncludeThreads::All => false,
        get_threads::v1::IncludeThreads::Participated => true,
        _ => {
            let error = "`include` is `all` or `participated`.";
            return Err(ApiError::invalid_param(error));
        }
    };
    let query = ThreadsQuery {
        from: place(body.from.as_deref())?,
        participated,
        limit: asked(body.limit),
    };
    let page = viewer.threads(&query).await?;
    let chunk = viewer
        .list(&page.events, &form(&reading.rooms, &caller))
        .await?;
    let next = page
        .next
        .map(|next| format!(r#","next_batch":"{next}""#))
        .unwrap_or_default();
    Ok(RawJson(Bytes::from(format!(
        r#"{{"chunk":{chunk}{next}}}"#
    ))))
}

/// A part of a thread of any depth, where the operator has switched that on.
async fn thread_of(
    State(reading): State<Reading>,
    State(relationships): State<Option<Arc<Relationships>>>,
    Ruma { body, caller, .. }: Ruma<event_relationships::Request>,
) -> Result<RawJson, ApiError> {
    let relationships = relationships.ok_or_else(ApiError::unrecognized)?;
    let reader = relationships::Reading {
        user: &caller.user_id,
        ignored: reading.ignored(&caller).await?,
        form: form(&reading.rooms, &caller),
    };
    let answer = relationships.for_client(reader, &body.asked).await?;
    Ok(RawJson::of(&answer))
}
