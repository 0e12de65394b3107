//! Finding messages and people (Client-Server API, "Server Side Search", "User Directory").

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::extract::State;
use resuni_accounts::Accounts;
use resuni_rooms::{
    Form, Gaps, PageQuery, Rooms, TimelineEvent, Viewer, client_format::push_string,
    fields::string_member,
};
use resuni_search::{Hit, Key, Query, Results, Search};
use resuni_store::Direction;
use resuni_sync::filter;
use ruma::{
    UInt,
    api::client::{
        search::search_events::v3::{
            Criteria, EventContext, GroupingKey, OrderBy, Request, SearchKeys,
        },
        user_directory::search_users,
    },
};
use serde_json::{Map, Value, json};

use super::rooms::form;
use crate::{
    error::ApiError,
    extract::{Policy, RawJson, Ruma, json_object},
    limits::Class,
    routes::Routes,
};

/// Results of a page when the client names no number, and at most.
const DEFAULT_LIMIT: usize = 10;
const MOST: usize = 100;
/// Events before or after a result, at most.
const MOST_AROUND: usize = 50;

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new()
        .with(Policy::CLIENT.class(Class::Other), events)
        .with(Policy::CLIENT.class(Class::Other), people)
}

fn number(asked: UInt, most: usize) -> usize {
    usize::try_from(u64::from(asked)).unwrap_or(most).min(most)
}

async fn people(
    State(search): State<Arc<Search>>,
    Ruma { body, caller, .. }: Ruma<search_users::v3::Request>,
) -> Result<RawJson, ApiError> {
    let limit = number(body.limit, MOST);
    let (found, limited) = search
        .people(&caller.user_id, &body.search_term, limit)
        .await?;
    let results: Vec<Value> = found
        .into_iter()
        .map(|person| {
            let mut result = json!({ "user_id": person.user_id });
            if let Some(name) = person.name {
                result["display_name"] = json!(name);
            }
            if let Some(avatar) = person.avatar {
                result["avatar_url"] = json!(avatar);
            }
            result
        })
        .collect();
    Ok(RawJson::of(
        &json!({ "results": results, "limited": limited }),
    ))
}

/// Refuses an order or a group that there is none of: ruma takes any name.
fn check(criteria: &Criteria) -> Result<(), ApiError> {
    let order = matches!(
        criteria.order_by,
        None | Some(OrderBy::Rank | OrderBy::Recent)
    );
    let groups = criteria.groupings.group_by.iter().all(|grouping| {
        matches!(
            grouping.key,
            None | Some(GroupingKey::RoomId | GroupingKey::Sender)
        )
    });
    match order && groups {
        true => Ok(()),
        false => Err(ApiError::invalid_param(
            "Results are ordered by `rank` or `recent`, and grouped by `room_id` or `sender`.",
        )),
    }
}

async fn events(
    State(search): State<Arc<Search>>,
    State(rooms): State<Arc<Rooms>>,
    State(accounts): State<Arc<Accounts>>,
    Ruma {
        body, caller, raw, ..
    }: Ruma<Request>,
) -> Result<RawJson, ApiError> {
    let Some(criteria) = body.search_categories.room_events else {
        return Ok(RawJson::of(&json!({ "search_categories": {} })));
    };
    check(&criteria)?;
    let query = Query {
        term: criteria.search_term.clone(),
        keys: keys(&criteria),
        rooms: criteria.filter.rooms.clone(),
        not_rooms: criteria.filter.not_rooms.clone(),
        by_rank: criteria.order_by != Some(OrderBy::Recent),
        limit: criteria
            .filter
            .limit
            .map_or(DEFAULT_LIMIT, |limit| number(limit, MOST))
            .max(1),
        next_batch: body.next_batch,
        ignored: accounts.ignored_users(caller.account).await?,
    };
    let wanted = |event: &TimelineEvent| filter::pdu(&criteria.filter, &event.fields());
    let mut results = search.text(&caller.user_id, &query, wanted).await?;
    let form = form(&rooms, &caller);
    // ruma can't tell a context of the default size from none.
    let context = json_object(&raw)?
        .get("search_categories")
        .and_then(|categories| categories.pointer("/room_events/event_context"))
        .is_some()
        .then_some(&criteria.event_context);
    let mut category = Map::new();
    category.insert("count".to_owned(), json!(results.count));
    category.insert("highlights".to_owned(), json!(results.highlights));
    if !criteria.groupings.group_by.is_empty() {
        category.insert("groups".to_owned(), groups(&criteria, &results));
    }
    if let Some(next) = &results.next_batch {
        category.insert("next_batch".to_owned(), json!(next));
    }
    let hits = std::mem::take(&mut results.hits);
    let mut out = Value::Object(category).to_string();
    out.pop();
    out.push_str(",\"results\":[");
    for (n, hit) in hits.iter().enumerate() {
        if let Some(viewer) = results.viewers.get_mut(hit.viewer) {
            out.push_str(if n == 0 { "" } else { "," });
            out.push_str(&result(viewer, hit, context, &form).await?);
        }
    }
    out.push(']');
    if criteria.include_state == Some(true) {
        out.push_str(",\"state\":");
        out.push_str(&state(&mut results.viewers, &hits, &form).await?);
    }
    out.push('}');
    let body = format!(r#"{{"search_categories":{{"room_events":{out}}}}}"#);
    Ok(RawJson(body.into()))
}

fn keys(criteria: &Criteria) -> Vec<Key> {
    let Some(keys) = &criteria.keys else {
        return vec![Key::Body, Key::Name, Key::Topic];
    };
    let known = keys.iter().filter_map(|key| match key {
        SearchKeys::ContentBody => Some(Key::Body),
        SearchKeys::ContentName => Some(Key::Name),
        SearchKeys::ContentTopic => Some(Key::Topic),
        _ => None,
    });
    known.collect()
}

/// The ids of the results, by what the client groups them by.
fn groups(criteria: &Criteria, results: &Results) -> Value {
    let mut all: BTreeMap<&str, BTreeMap<String, Vec<Value>>> = BTreeMap::new();
    for grouping in &criteria.groupings.group_by {
        let name = match grouping.key {
            Some(GroupingKey::RoomId) => "room_id",
            Some(GroupingKey::Sender) => "sender",
            _ => continue,
        };
        let groups = all.entry(name).or_default();
        for hit in &results.hits {
            let room = results.viewers.get(hit.viewer);
            let group = match (name, room) {
                ("room_id", Some(viewer)) => viewer.view().room_id().to_string(),
                _ => hit.event.fields().sender_str().to_owned(),
            };
            groups
                .entry(group)
                .or_default()
                .push(json!(hit.event.event_id()));
        }
    }
    let groups = all.into_iter().map(|(name, groups)| {
        let groups: Map<String, Value> = groups
            .into_iter()
            .enumerate()
            .map(|(order, (group, ids))| (group, json!({ "order": order, "results": ids })))
            .collect();
        (name.to_owned(), Value::Object(groups))
    });
    Value::Object(groups.collect())
}

/// One result, with what was said around it.
async fn result(
    viewer: &mut Viewer,
    hit: &Hit,
    context: Option<&EventContext>,
    form: &Form<'_>,
) -> Result<String, ApiError> {
    let event = viewer.json(&hit.event, form).await?;
    let mut out = format!(r#"{{"rank":{},"result":{event}"#, hit.rank);
    if let Some(asked) = context {
        let half = |dir, from, limit| PageQuery {
            from,
            to: None,
            dir,
            limit: number(limit, MOST_AROUND),
            gaps: Gaps::Pass,
        };
        let all = |_: &TimelineEvent| true;
        let before = half(Direction::Backward, hit.event.before(), asked.before_limit);
        let before = viewer.page(before, all).await?.events;
        let after = half(Direction::Forward, hit.event.token, asked.after_limit);
        let after = viewer.page(after, all).await?.events;
        let start = before
            .last()
            .map_or(hit.event.before(), TimelineEvent::before);
        let end = after.last().map_or(hit.event.token, |event| event.token);
        let events_before = viewer.list(&before, form).await?;
        let events_after = viewer.list(&after, form).await?;
        out.push_str(&format!(
            r#","context":{{"start":"{start}","end":"{end}","events_before":{events_before},"events_after":{events_after}"#
        ));
        if asked.include_profile {
            let events = before.iter().chain([&hit.event]).chain(&after);
            out.push_str(",\"profile_info\":");
            out.push_str(&profiles(viewer, hit, events).await?.to_string());
        }
        out.push('}');
    }
    out.push('}');
    Ok(out)
}

/// What the senders were called at the time of the result.
async fn profiles(
    viewer: &Viewer,
    hit: &Hit,
    events: impl Iterator<Item = &TimelineEvent>,
) -> Result<Value, ApiError> {
    let senders: BTreeSet<&str> = events.map(|event| event.fields().sender_str()).collect();
    let state = viewer.view().state_at_snap(hit.event.row.snap_before);
    let mut profiles = Map::new();
    for sender in senders {
        let Some(member) = state.get("m.room.member", sender).await? else {
            continue;
        };
        let mut profile = Map::new();
        for field in ["displayname", "avatar_url"] {
            if let Some(text) = string_member(member.content().get(), field) {
                profile.insert(field.to_owned(), json!(text));
            }
        }
        profiles.insert(sender.to_owned(), Value::Object(profile));
    }
    Ok(Value::Object(profiles))
}

/// The state of the rooms of these results, as far as the reader may know it.
async fn state(viewers: &mut [Viewer], hits: &[Hit], form: &Form<'_>) -> Result<String, ApiError> {
    let rooms: BTreeSet<usize> = hits.iter().map(|hit| hit.viewer).collect();
    let mut out = String::from("{");
    for room in rooms {
        let Some(viewer) = viewers.get(room) else {
            continue;
        };
        let view = viewer.view();
        let nums = view.readable_state(viewer.user()).await?.nums().await?;
        if out.len() > 1 {
            out.push(',');
        }
        push_string(&mut out, view.room_id().as_str());
        out.push_str(":[");
        out.push_str(&view.state_json(&nums, form).await?.join(","));
        out.push(']');
    }
    out.push('}');
    Ok(out)
}
