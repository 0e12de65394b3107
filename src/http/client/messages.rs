//! The history of a room (Client-Server API, "Getting events for a room", "Event Context").

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use axum::extract::{Query, State};
use bytes::Bytes;
use http::{StatusCode, Uri};
use resuni_accounts::Session;
use resuni_federation::Federation;
use resuni_rooms::{
    Context, Gap, Gaps, Page, PageQuery, RoomError, RoomView, Rooms, TimelineEvent, TimelineToken,
    Viewer,
};
use resuni_store::{Direction, Position};
use resuni_sync::filter::{self, RelationTypes};
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedUserId, UInt,
    api::client::{
        context::get_context,
        filter::RoomEventFilter,
        message::get_message_events,
        room::{get_event_by_timestamp, get_room_event},
    },
};
use serde::Deserialize;

use super::rooms::{Reading, direction, form, is_ignored, limit, token, unknown_event, view};
use crate::{
    error::ApiError,
    extract::{Answer, Policy, RawJson, Reply, Ruma},
    routes::Routes,
};

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

/// Which events of a page are wanted.
struct Wanted {
    filter: RoomEventFilter,
    relations: RelationTypes,
    ignored: HashSet<OwnedUserId>,
}

impl Wanted {
    /// `uri` has the filter once more, as the client wrote it.
    fn new(
        filter: RoomEventFilter,
        uri: &Uri,
        ignored: HashSet<OwnedUserId>,
    ) -> Result<Self, ApiError> {
        #[derive(Deserialize)]
        struct Written {
            filter: Option<String>,
        }
        let Query(Written { filter: written }) =
            Query::try_from_uri(uri).map_err(|error| ApiError::invalid_param(error.to_string()))?;
        let relations = written.as_deref().map(RelationTypes::of).transpose();
        Ok(Self {
            filter,
            relations: relations
                .map_err(|error| ApiError::invalid_param(error.to_string()))?
                .unwrap_or_default(),
            ignored,
        })
    }

    /// The events of a page that the filter lets through.
    async fn page(&self, viewer: &mut Viewer, query: PageQuery) -> Result<Page, ApiError> {
        Ok(viewer
            .page(query, |event| {
                let fields = event.fields();
                !is_ignored(&self.ignored, &fields)
                    && filter::pdu(&self.filter, &fields)
                    && self.relations.pass(&fields)
            })
            .await?)
    }
}

async fn messages(
    State(reading): State<Reading>,
    State(federation): State<Option<Arc<Federation>>>,
    Ruma {
        body, caller, uri, ..
    }: Ruma<get_message_events::v3::Request>,
) -> Result<RawJson, ApiError> {
    let ignored = reading.ignored(&caller).await?;
    let wanted = Wanted::new(body.filter, &uri, ignored)?;
    let view = view(&reading.rooms, &body.room_id).await?;
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
        whole_page(&reading, federation, &caller, view, &wanted, query).await?;

    let chunk = viewer
        .list(&page.events, &form(&reading.rooms, &caller))
        .await?;
    let mut out = format!(r#"{{"start":"{from}","chunk":{chunk}"#);
    if let Some(end) = end(&page, query) {
        out.push_str(&format!(r#","end":"{end}""#));
    }
    if filter::lazy(&wanted.filter) {
        let state = senders(&mut viewer, &page.events, &reading.rooms, &caller).await?;
        out.push_str(&format!(r#","state":[{}]"#, state.join(",")));
    }
    out.push('}');
    Ok(RawJson(Bytes::from(out)))
}

/// Where the next page begins. A page with something in it has a successor even where the timeline ends: clients look
/// for the end of history in a page that is empty, and forwards there may be more in a moment. The specification lets
/// `end` go where nothing more is *known* to come, which a `to` that was reached says and an empty page.
fn end(page: &Page, query: PageQuery) -> Option<TimelineToken> {
    let after_last = page.events.last().map(|last| match query.dir {
        Direction::Backward => last.before(),
        Direction::Forward => last.token,
    });
    page.end.or(after_last.filter(|_| query.to.is_none()))
}

/// A page, with what is missing in it fetched from other servers as far as they have it.
async fn whole_page(
    reading: &Reading,
    federation: Option<&Federation>,
    caller: &Session,
    mut view: RoomView,
    wanted: &Wanted,
    mut query: PageQuery,
) -> Result<(Viewer, Page), ApiError> {
    for _ in 0..FETCHES {
        let mut viewer = reading.viewer(&view, caller).await?;
        let page = wanted.page(&mut viewer, query).await?;
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
            Ok(1..) => view = reading.rooms.view_known(view.room_id()).await?,
            Ok(0) => query.gaps = Gaps::Pass,
            Err(error) => {
                tracing::debug!(room = %view.room_id(), %error, "history can't be fetched");
                query.gaps = Gaps::Pass;
            }
        }
    }
    let mut viewer = reading.viewer(&view, caller).await?;
    let mut page = wanted.page(&mut viewer, query).await?;
    if page.gap.is_some() && page.end == Some(query.from) {
        // Some of it can't be had: the next page must not be this one again.
        query.gaps = Gaps::Pass;
        page = wanted.page(&mut viewer, query).await?;
    }
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
    State(reading): State<Reading>,
    Ruma { body, caller, .. }: Ruma<get_context::v3::Request>,
) -> Result<RawJson, ApiError> {
    let mut viewer = reading.of_room(&body.room_id, &caller).await?;
    // None around it is what some clients want.
    let limit = if body.limit == UInt::MIN {
        0
    } else {
        limit(body.limit)
    };
    let ignored = reading.ignored(&caller).await?;
    let wanted = |event: &TimelineEvent| {
        let fields = event.fields();
        !is_ignored(&ignored, &fields) && filter::pdu(&body.filter, &fields)
    };
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
            RoomError::NotFound(_) => unknown_event(),
            error => error.into(),
        })?;

    let form = form(&reading.rooms, &caller);
    let state = if filter::lazy(&body.filter) {
        let all: Vec<_> = before
            .iter()
            .chain([&event])
            .chain(&after)
            .cloned()
            .collect();
        senders(&mut viewer, &all, &reading.rooms, &caller).await?
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
    State(reading): State<Reading>,
    Ruma {
        body, caller, uri, ..
    }: Ruma<get_room_event::v3::Request>,
) -> Result<RawJson, ApiError> {
    let mut viewer = reading.of_room(&body.room_id, &caller).await?;
    let mut event = viewer
        .event(&body.event_id)
        .await?
        .ok_or_else(unknown_event)?;
    if wants_unredacted(&uri)? {
        let whole = viewer.unredacted(event, caller.is_admin).await?;
        event = whole.ok_or_else(never_received)?;
    }
    let json = viewer.json(&event, &form(&reading.rooms, &caller)).await?;
    Ok(RawJson(Bytes::from(json)))
}

/// Whether an event is wanted as it was before it was redacted (MSC2815).
fn wants_unredacted(uri: &Uri) -> Result<bool, ApiError> {
    #[derive(Deserialize)]
    struct Wish {
        #[serde(default, rename = "fi.mau.msc2815.include_unredacted_content")]
        unredacted: bool,
    }
    let wish = axum::extract::Query::<Wish>::try_from_uri(uri);
    let wish = wish.map_err(|error| ApiError::invalid_param(error.to_string()))?;
    Ok(wish.0.unredacted)
}

fn never_received() -> ApiError {
    let code = "FI.MAU.MSC2815_UNREDACTED_CONTENT_NOT_RECEIVED";
    let message = "This server got the event only after it had been redacted.";
    ApiError::new(StatusCode::NOT_FOUND, code.into(), message)
}

async fn at_time(
    State(reading): State<Reading>,
    State(federation): State<Option<Arc<Federation>>>,
    Ruma { body, caller, .. }: Ruma<get_event_by_timestamp::v1::Request>,
) -> Answer<get_event_by_timestamp::v1::Response> {
    let view = view(&reading.rooms, &body.room_id).await?;
    view.readable_state(&caller.user_id).await?;
    let (ts, dir) = (u64::from(body.ts.get()), direction(body.dir));
    let mut viewer = reading.viewer(&view, &caller).await?;
    let here = viewer.event_at_time(ts, dir).await?;
    let here = here.map(|event| (event.event_id(), event.fields().timestamp()));
    // Where history is missing here, others may know of an event that is nearer.
    let there = match (federation, view.gap_at_time(ts).await?) {
        (Some(federation), Some(gap)) => elsewhere(&federation, &view, gap, ts, dir).await?,
        _ => None,
    };
    let there = match there {
        Some(found) if hidden(&reading, &caller, &view, &found.0).await? => None,
        there => there,
    };
    let nearest = [here, there]
        .into_iter()
        .flatten()
        .min_by_key(|(_, time)| time.abs_diff(ts));
    let (event, time) = nearest.ok_or_else(unknown_event)?;
    let time = MilliSecondsSinceUnixEpoch(UInt::new_saturating(time));
    Ok(Reply(get_event_by_timestamp::v1::Response::new(
        event, time,
    )))
}

/// What other servers know of a time, its history fetched, so that the client can go on from there.
async fn elsewhere(
    federation: &Federation,
    view: &RoomView,
    gap: Gap,
    ts: u64,
    dir: Direction,
) -> Result<Option<(OwnedEventId, u64)>, ApiError> {
    let fetcher = &federation.fetcher;
    let found = fetcher.event_at_time(view, ts, dir).await?;
    if let Some((event, _)) = &found
        && let Err(error) = fetcher.fetch_up_to(view.room_id(), gap, event).await
    {
        tracing::debug!(room = %view.room_id(), %error, "the history around an event can't be fetched");
    }
    Ok(found)
}

/// Whether an event is here by now and the caller may not see it.
async fn hidden(
    reading: &Reading,
    caller: &Session,
    view: &RoomView,
    event: &EventId,
) -> Result<bool, ApiError> {
    let view = reading.rooms.view_known(view.room_id()).await?;
    match view.timeline_event(event).await? {
        Some(event) => Ok(!reading.viewer(&view, caller).await?.sees(&event).await?),
        None => Ok(false),
    }
}
