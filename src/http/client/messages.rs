//! The history of a room (Client-Server API, "Getting events for a room", "Event Context").

use std::{collections::BTreeSet, sync::Arc};

use axum::extract::State;
use bytes::Bytes;
use resuni_accounts::Session;
use resuni_federation::Federation;
use resuni_rooms::{
    Context, Gaps, Page, PageQuery, RoomError, RoomView, Rooms, TimelineEvent, TimelineToken,
    Viewer,
};
use resuni_store::{Direction, Position};
use resuni_sync::filter;
use ruma::{
    MilliSecondsSinceUnixEpoch, RoomId, UInt,
    api::{
        self,
        client::{
            context::get_context,
            filter::RoomEventFilter,
            message::get_message_events,
            room::{get_event_by_timestamp, get_room_event},
        },
    },
};

use super::rooms::{form, token, view};
use crate::{
    error::ApiError,
    extract::{Answer, Policy, RawJson, Reply, Ruma},
    routes::Routes,
};

/// The most events of one answer.
const MOST: usize = 1_000;
/// How often history is fetched for one page.
const FETCHES: usize = 5;

/// The table of this section.
pub fn routes() -> Routes {
    // Clients of old leave the direction out.
    let messages_policy = Policy {
        default: Some(("dir", "f")),
        ..Policy::GUEST
    };
    Routes::new()
        .with(messages_policy, messages)
        .guest(context)
        .guest(event)
        .on(at_time)
}

fn limit(asked: UInt) -> usize {
    usize::try_from(u64::from(asked))
        .unwrap_or(MOST)
        .clamp(1, MOST)
}

/// The events of a page that the filter lets through.
async fn page(
    viewer: &mut Viewer,
    filter: &RoomEventFilter,
    query: PageQuery,
) -> Result<Page, ApiError> {
    Ok(viewer
        .page(query, |event| filter::pdu(filter, &event.fields()))
        .await?)
}

async fn messages(
    State(rooms): State<Arc<Rooms>>,
    State(federation): State<Option<Arc<Federation>>>,
    Ruma { body, caller, .. }: Ruma<get_message_events::v3::Request>,
) -> Result<RawJson, ApiError> {
    let view = view(&rooms, &body.room_id).await?;
    // Members, former members, and everybody where the world may read; the rest hears nothing.
    view.readable_state(&caller.user_id).await?;
    let dir = direction(body.dir);
    let from = match (&body.from, dir) {
        (Some(from), _) => token(from)?,
        (None, Direction::Backward) => view.end(),
        (None, Direction::Forward) => TimelineToken::live(Position(0)),
    };
    let to = body.to.as_deref().map(token).transpose()?;
    let query = PageQuery {
        from,
        to,
        dir,
        limit: limit(body.limit),
        gaps: Gaps::Stop,
    };
    let federation = federation.as_deref();
    let (mut viewer, page) =
        whole_page(&rooms, federation, &caller, view, &body.filter, query).await?;

    let chunk = viewer.list(&page.events, &form(&rooms, &caller)).await?;
    let mut out = format!(r#"{{"start":"{from}","chunk":{chunk}"#);
    if let Some(end) = page.end {
        out.push_str(&format!(r#","end":"{end}""#));
    }
    if filter::lazy(&body.filter) {
        let state = senders(&mut viewer, &page.events, &rooms, &caller).await?;
        out.push_str(&format!(r#","state":[{}]"#, state.join(",")));
    }
    out.push('}');
    Ok(RawJson(Bytes::from(out)))
}

/// A page, with what is missing in it fetched from other servers as far as they have it.
async fn whole_page(
    rooms: &Rooms,
    federation: Option<&Federation>,
    caller: &Session,
    mut view: RoomView,
    filter: &RoomEventFilter,
    mut query: PageQuery,
) -> Result<(Viewer, Page), ApiError> {
    for _ in 0..FETCHES {
        let mut viewer = view.viewer(&caller.user_id).await?;
        let page = page(&mut viewer, filter, query).await?;
        let Some(gap) = page
            .gap
            .as_ref()
            .filter(|_| page.events.len() < query.limit)
        else {
            return Ok((viewer, page));
        };
        let fetched = match federation {
            Some(federation) => federation.fetcher.backfill(view.room_id(), gap).await,
            None => Ok(0),
        };
        match fetched {
            Ok(1..) => view = rooms.view_known(view.room_id()).await?,
            Ok(0) => query.gaps = Gaps::Pass,
            Err(error) => {
                tracing::debug!(room = %view.room_id(), %error, "history can't be fetched");
                query.gaps = Gaps::Pass;
            }
        }
    }
    let mut viewer = view.viewer(&caller.user_id).await?;
    let page = page(&mut viewer, filter, query).await?;
    Ok((viewer, page))
}

/// The member events of the senders of these events, as of the last of them ("Lazy-loading room
/// members").
async fn senders(
    viewer: &mut Viewer,
    events: &[TimelineEvent],
    rooms: &Rooms,
    caller: &Session,
) -> Result<Vec<String>, ApiError> {
    let Some(last) = events.iter().max_by_key(|event| event.token) else {
        return Ok(Vec::new());
    };
    let senders: BTreeSet<&str> = events
        .iter()
        .map(|event| event.fields().sender_str())
        .collect();
    let state = viewer.view().state_at_snap(last.row.snap_before);
    let mut members = Vec::with_capacity(senders.len());
    for sender in senders {
        members.extend(state.num("m.room.member", sender).await?);
    }
    Ok(viewer
        .view()
        .state_json(&members, &form(rooms, caller))
        .await?)
}

async fn context(
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<get_context::v3::Request>,
) -> Result<RawJson, ApiError> {
    let mut viewer = viewer(&rooms, &caller, &body.room_id).await?;
    let limit = limit(body.limit);
    let wanted = |event: &TimelineEvent| filter::pdu(&body.filter, &event.fields());
    let Context {
        event,
        before,
        after,
        start,
        end,
        state,
    } = viewer
        .context(&body.event_id, limit, wanted)
        .await
        .map_err(|error| match error {
            RoomError::NotFound(_) => unknown(),
            error => error.into(),
        })?;

    let form = form(&rooms, &caller);
    let state = if filter::lazy(&body.filter) {
        let all: Vec<_> = before
            .iter()
            .chain([&event])
            .chain(&after)
            .cloned()
            .collect();
        senders(&mut viewer, &all, &rooms, &caller).await?
    } else {
        let nums = viewer.view().state_at_snap(state).nums().await?;
        viewer.view().state_json(&nums, &form).await?
    };
    let (before, after) = (
        viewer.list(&before, &form).await?,
        viewer.list(&after, &form).await?,
    );
    let event = viewer.json(&event, &form).await?;
    Ok(RawJson(Bytes::from(format!(
        r#"{{"start":"{start}","end":"{end}","event":{event},"events_before":{before},"events_after":{after},"state":[{}]}}"#,
        state.join(",")
    ))))
}

async fn event(
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<get_room_event::v3::Request>,
) -> Result<RawJson, ApiError> {
    let mut viewer = viewer(&rooms, &caller, &body.room_id).await?;
    let event = viewer.event(&body.event_id).await?.ok_or_else(unknown)?;
    let json = viewer.json(&event, &form(&rooms, &caller)).await?;
    Ok(RawJson(Bytes::from(json)))
}

async fn at_time(
    State(rooms): State<Arc<Rooms>>,
    Ruma { body, caller, .. }: Ruma<get_event_by_timestamp::v1::Request>,
) -> Answer<get_event_by_timestamp::v1::Response> {
    let view = view(&rooms, &body.room_id).await?;
    view.readable_state(&caller.user_id).await?;
    let mut viewer = view.viewer(&caller.user_id).await?;
    let event = viewer
        .event_at_time(body.ts.get().into(), direction(body.dir))
        .await?;
    let event = event.ok_or_else(unknown)?;
    let time = UInt::new_saturating(event.fields().timestamp());
    let time = MilliSecondsSinceUnixEpoch(time);
    Ok(Reply(get_event_by_timestamp::v1::Response::new(
        event.event_id(),
        time,
    )))
}

/// What the caller may not see doesn't exist, as far as they can tell.
fn unknown() -> ApiError {
    ApiError::not_found("There is no such event that you may see.")
}

/// The caller's eyes on a room. A room that does not exist is one of which they see nothing.
async fn viewer(rooms: &Rooms, caller: &Session, room: &RoomId) -> Result<Viewer, ApiError> {
    let view = rooms.view(room).await?.ok_or_else(unknown)?;
    Ok(view.viewer(&caller.user_id).await?)
}

fn direction(dir: api::Direction) -> Direction {
    match dir {
        api::Direction::Backward => Direction::Backward,
        api::Direction::Forward => Direction::Forward,
    }
}
