//! Rooms: the list, one of them, who is in it, what was said, in the form of Synapse's admin API.

use std::sync::Arc;

use axum::extract::State;
use bytes::Bytes;
use http::Method;
use resuni_accounts::Accounts;
use resuni_rooms::{
    Form, Gaps, PageQuery, RoomOrder, RoomView, Rooms, RoomsQuery, TimelineToken, Viewer,
};
use resuni_store::{Direction, Position};
use resuni_sync::filter;
use ruma::{OwnedEventId, OwnedRoomId, RoomId, api::client::filter::RoomEventFilter};
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::{Asked, Dir, Named, Operator, Span};
use crate::{error::ApiError, extract::RawJson, routes::Routes};

/// Our members whose devices are counted.
const COUNTED: usize = 1_000;
/// Members read at a time.
const PAGE: usize = 1_000;
/// Events of a page when the tool names no number, and at most.
const EVENTS: usize = 10;
const MOST_EVENTS: usize = 1_000;

/// The table of these endpoints.
pub fn routes() -> Routes {
    const ONE: &str = "/_synapse/admin/v1/rooms/{room}";
    Routes::new()
        .operator(Method::GET, "/_synapse/admin/v1/rooms", list)
        .operator(Method::GET, ONE, one)
        .operator(
            Method::GET,
            "/_synapse/admin/v1/rooms/{room}/members",
            members,
        )
        .operator(Method::GET, "/_synapse/admin/v1/rooms/{room}/state", state)
        .operator(
            Method::GET,
            "/_synapse/admin/v1/rooms/{room}/messages",
            messages,
        )
        .operator(
            Method::GET,
            "/_synapse/admin/v1/rooms/{room}/timestamp_to_event",
            at_time,
        )
        .operator(
            Method::GET,
            "/_synapse/admin/v1/rooms/{room}/context/{event}",
            context,
        )
        .operator(
            Method::GET,
            "/_synapse/admin/v1/rooms/{room}/forward_extremities",
            extremities,
        )
}

/// A room that this server is in, or was.
pub async fn known(rooms: &Rooms, room: &RoomId) -> Result<RoomView, ApiError> {
    let view = rooms.view(room).await?;
    view.ok_or_else(|| ApiError::not_found("There is no such room here."))
}

#[derive(Deserialize)]
struct List {
    search_term: Option<String>,
    order_by: Option<String>,
    public_rooms: Option<bool>,
    empty_rooms: Option<bool>,
}

async fn list(
    _: Operator,
    State(rooms): State<Arc<Rooms>>,
    Asked(asked): Asked<List>,
    Asked(span): Asked<Span>,
) -> Result<RawJson, ApiError> {
    if asked.search_term.as_deref() == Some("") {
        return Err(ApiError::invalid_param("The search_term is empty."));
    }
    let (order, falls) = order(asked.order_by.as_deref())?;
    let query = RoomsQuery {
        search: asked.search_term,
        published: asked.public_rooms,
        empty: asked.empty_rooms,
        order,
        backward: falls != span.backward(),
        from: span.from,
        limit: span.limit(),
    };
    let (found, total) = rooms.list(&query).await?;
    let mut answer = json!({ "rooms": found, "offset": span.from, "total_rooms": total });
    if let Some(next) = span.next(found.len(), total) {
        answer["next_batch"] = next.into();
    }
    if span.from > 0 {
        answer["prev_batch"] = span.from.saturating_sub(span.limit()).into();
    }
    Ok(RawJson::of(&answer))
}

/// An order by its name, and whether it goes from the largest down.
fn order(named: Option<&str>) -> Result<(RoomOrder, bool), ApiError> {
    Ok(match named {
        None | Some("name" | "alphabetical") => (RoomOrder::Name, false),
        Some("canonical_alias") => (RoomOrder::Alias, false),
        Some("joined_members" | "size") => (RoomOrder::Members, true),
        Some("joined_local_members") => (RoomOrder::LocalMembers, true),
        Some("version") => (RoomOrder::Version, true),
        Some("creator") => (RoomOrder::Creator, false),
        Some("encryption") => (RoomOrder::Encryption, false),
        Some("federatable") => (RoomOrder::Federatable, false),
        Some("public") => (RoomOrder::Published, false),
        Some("join_rules") => (RoomOrder::JoinRules, false),
        Some("guest_access") => (RoomOrder::GuestAccess, false),
        Some("history_visibility") => (RoomOrder::HistoryVisibility, false),
        Some("state_events") => (RoomOrder::StateEvents, true),
        Some(_) => return Err(ApiError::invalid_param("There is no such order_by.")),
    })
}

async fn one(
    _: Operator,
    State(accounts): State<Arc<Accounts>>,
    State(rooms): State<Arc<Rooms>>,
    Named(room): Named<OwnedRoomId>,
) -> Result<RawJson, ApiError> {
    let view = known(&rooms, &room).await?;
    let description = view.description().await?;
    let mut answer = serde_json::to_value(description).map_err(ApiError::internal)?;
    let summary = view.summary().await?;
    answer["topic"] = json!(summary.topic);
    answer["avatar"] = json!(summary.avatar_url);
    let mut devices = 0;
    for user in view.local_members(COUNTED).await? {
        if let Some(account) = accounts.find_user(&user).await? {
            devices += accounts.devices(account).await?.len();
        }
    }
    answer["joined_local_devices"] = devices.into();
    answer["forgotten"] = view.is_forgotten().await?.into();
    let tombstone = view.state("m.room.tombstone", "").await?;
    answer["tombstoned"] = tombstone.is_some().into();
    answer["replacement_room"] = match tombstone {
        Some(tombstone) => {
            let content: Value = tombstone.content_as().unwrap_or_default();
            content.get("replacement_room").cloned().unwrap_or_default()
        }
        None => Value::Null,
    };
    Ok(RawJson::of(&answer))
}

async fn members(
    _: Operator,
    State(rooms): State<Arc<Rooms>>,
    Named(room): Named<OwnedRoomId>,
) -> Result<RawJson, ApiError> {
    known(&rooms, &room).await?;
    let whole = crate::client::whole(&rooms, &room).await?;
    let (mut members, mut after) = (Vec::new(), None);
    loop {
        let page = whole.joined_users(after, PAGE).await?;
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        members.extend(page.into_iter().map(|(_, user)| user));
    }
    let total = members.len();
    Ok(RawJson::of(&json!({ "members": members, "total": total })))
}

#[derive(Deserialize)]
struct Kind {
    r#type: Option<String>,
}

async fn state(
    _: Operator,
    State(rooms): State<Arc<Rooms>>,
    Named(room): Named<OwnedRoomId>,
    Asked(asked): Asked<Kind>,
) -> Result<RawJson, ApiError> {
    let view = known(&rooms, &room).await?;
    let nums = view.state_at_snap(view.snap()).nums().await?;
    let shown = view.shown(&nums).await?;
    let wanted = shown.iter().filter(|shown| {
        let wanted = asked.r#type.as_ref();
        wanted.is_none_or(|wanted| shown.pdu.kind() == wanted)
    });
    let form = form(&rooms);
    let events: Vec<String> = wanted.map(|shown| view.shown_json(shown, &form)).collect();
    let state = format!(r#"{{"state":[{}]}}"#, events.join(","));
    Ok(RawJson(Bytes::from(state)))
}

fn form(rooms: &Rooms) -> Form<'static> {
    Form {
        now_ms: rooms.now_ms(),
        ..Form::default()
    }
}

#[derive(Deserialize)]
struct History {
    from: Option<String>,
    to: Option<String>,
    dir: Option<Dir>,
    limit: Option<usize>,
    filter: Option<String>,
}

async fn messages(
    Operator(by): Operator,
    State(rooms): State<Arc<Rooms>>,
    Named(room): Named<OwnedRoomId>,
    Asked(asked): Asked<History>,
) -> Result<RawJson, ApiError> {
    let view = known(&rooms, &room).await?;
    let filter: RoomEventFilter = match &asked.filter {
        Some(filter) => serde_json::from_str(filter)
            .map_err(|error| ApiError::invalid_param(format!("This is no filter: {error}.")))?,
        None => RoomEventFilter::default(),
    };
    let dir = match asked.dir {
        Some(Dir::Backward) => Direction::Backward,
        _ => Direction::Forward,
    };
    let token = |text: &str| {
        let token = text.parse::<TimelineToken>();
        token.map_err(|_| ApiError::invalid_param("This is not a pagination token."))
    };
    let from = match (&asked.from, dir) {
        (Some(from), _) => token(from)?,
        (None, Direction::Backward) => view.end(),
        (None, Direction::Forward) => TimelineToken::live(Position(0)),
    };
    let query = PageQuery {
        from,
        to: asked.to.as_deref().map(token).transpose()?,
        dir,
        limit: asked.limit.unwrap_or(EVENTS).clamp(1, MOST_EVENTS),
        // What others have of the history is not asked for: this is about what is here.
        gaps: Gaps::Pass,
    };
    let mut viewer = view.operators_viewer(&by.user_id).await?;
    let page = viewer
        .page(query, |event| filter::pdu(&filter, &event.fields()))
        .await?;
    let chunk = viewer.list(&page.events, &form(&rooms)).await?;
    let mut out = format!(r#"{{"start":"{from}","chunk":{chunk},"state":[]"#);
    if let Some(end) = page.end {
        out.push_str(&format!(r#","end":"{end}""#));
    }
    out.push('}');
    Ok(RawJson(Bytes::from(out)))
}

#[derive(Deserialize)]
struct Time {
    ts: u64,
    dir: Option<Dir>,
}

async fn at_time(
    Operator(by): Operator,
    State(rooms): State<Arc<Rooms>>,
    Named(room): Named<OwnedRoomId>,
    Asked(asked): Asked<Time>,
) -> Result<RawJson, ApiError> {
    let view = known(&rooms, &room).await?;
    let dir = match asked.dir {
        Some(Dir::Backward) => Direction::Backward,
        _ => Direction::Forward,
    };
    let mut viewer = view.operators_viewer(&by.user_id).await?;
    let found = viewer.event_at_time(asked.ts, dir).await?;
    let found = found.ok_or_else(|| ApiError::not_found("There is no event at that time."))?;
    Ok(RawJson::of(&json!({
        "event_id": found.event_id(),
        "origin_server_ts": found.fields().timestamp(),
    })))
}

#[derive(Deserialize)]
struct Around {
    limit: Option<usize>,
}

async fn context(
    Operator(by): Operator,
    State(rooms): State<Arc<Rooms>>,
    Named((room, event)): Named<(OwnedRoomId, OwnedEventId)>,
    Asked(asked): Asked<Around>,
) -> Result<RawJson, ApiError> {
    let view = known(&rooms, &room).await?;
    let mut viewer: Viewer = view.operators_viewer(&by.user_id).await?;
    let limit = asked.limit.unwrap_or(EVENTS).min(MOST_EVENTS);
    let around = viewer.context(&event, limit, |_| true).await?;
    let form = form(&rooms);
    let nums = view.state_at_snap(around.state).nums().await?;
    let state = view.state_json(&nums, &form).await?.join(",");
    let before = viewer.list(&around.before, &form).await?;
    let after = viewer.list(&around.after, &form).await?;
    let event = viewer.json(&around.event, &form).await?;
    let (start, end) = (around.start, around.end);
    Ok(RawJson(Bytes::from(format!(
        r#"{{"start":"{start}","end":"{end}","event":{event},"events_before":{before},"events_after":{after},"state":[{state}]}}"#,
    ))))
}

async fn extremities(
    _: Operator,
    State(rooms): State<Arc<Rooms>>,
    Named(room): Named<OwnedRoomId>,
) -> Result<RawJson, ApiError> {
    let view = known(&rooms, &room).await?;
    let mut results = Vec::new();
    for id in view.extremities().await? {
        let Some(event) = view.event(&id).await? else {
            continue;
        };
        results.push(json!({
            "event_id": id,
            "depth": event.pdu.depth(),
            "received_ts": event.pdu.origin_server_ts(),
        }));
    }
    let count = results.len();
    Ok(RawJson::of(&json!({ "count": count, "results": results })))
}
