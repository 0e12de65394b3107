//! Files, in the form of Synapse's admin API.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use axum::extract::State;
use http::Method;
use resuni_accounts::{AccountQuery, Accounts};
use resuni_media::{FileFound, Media};
use resuni_rooms::Rooms;
use ruma::{MxcUri, OwnedRoomId, OwnedServerName, OwnedUserId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    extract::{Asked, Dir, Named, Next, Operator, Span},
    rooms::known,
};
use crate::{error::ApiError, extract::RawJson, routes::Routes};

type Address = (String, String);

/// A time before this is one in seconds, or a mistake: it would mean 1970.
const EARLIEST_MS: u64 = 30_000_000_000;

/// The table of these endpoints.
pub fn routes() -> Routes {
    const ONE: &str = "/_synapse/admin/v1/media/{server}/{id}";
    const OF_USER: &str = "/_synapse/admin/v1/users/{user}/media";
    const OF_ROOM: &str = "/_synapse/admin/v1/room/{room}/media";
    let at = |rest: &str| format!("/_synapse/admin/v1/{rest}");
    Routes::new()
        .operator(Method::GET, ONE, one)
        .operator(Method::DELETE, ONE, delete)
        .operator(Method::POST, &at("media/delete"), delete_old)
        .operator(Method::POST, &at("media/{server}/delete"), delete_old)
        .operator(Method::POST, &at("purge_media_cache"), purge)
        .operator(
            Method::POST,
            &at("media/quarantine/{server}/{id}"),
            quarantine,
        )
        .operator(
            Method::POST,
            &at("media/unquarantine/{server}/{id}"),
            unquarantine,
        )
        .operator(Method::POST, &at("media/protect/{id}"), protect)
        .operator(Method::POST, &at("media/unprotect/{id}"), unprotect)
        .operator(Method::GET, OF_USER, of_user)
        .operator(Method::DELETE, OF_USER, delete_of_user)
        .operator(
            Method::POST,
            &at("user/{user}/media/quarantine"),
            quarantine_of_user,
        )
        .operator(Method::GET, OF_ROOM, of_room)
        .operator(
            Method::POST,
            &at("room/{room}/media/quarantine"),
            quarantine_of_room,
        )
        .operator(Method::GET, &at("statistics/users/media"), statistics)
}

fn nothing() -> RawJson {
    RawJson::of(&json!({}))
}

fn unknown() -> ApiError {
    ApiError::not_found("There is no such file here.")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn one(
    _: Operator,
    State(media): State<Arc<Media>>,
    Named((server, id)): Named<(OwnedServerName, String)>,
) -> Result<RawJson, ApiError> {
    let file = media.file(&(server.to_string(), id)).await?;
    let file = file.ok_or_else(unknown)?;
    let ours = file.server == media.server_name().as_str();
    Ok(RawJson::of(&json!({ "media_info": {
        "media_origin": file.server,
        "user_id": file.row.uploader,
        "media_id": file.id,
        "media_type": file.row.content_type,
        "media_length": file.row.bytes,
        "upload_name": file.row.filename,
        "created_ts": file.row.created_ms,
        "filesystem_id": hex(&file.row.hash),
        "url_cache": null,
        "last_access_ts": file.seen_ms,
        "quarantined_by": file.quarantined_by,
        "authenticated": file.row.authenticated_only,
        "safe_from_quarantine": ours.then_some(file.protected),
        "sha256": hex(&file.row.hash),
    } })))
}

fn deleted(ids: &[String]) -> RawJson {
    RawJson::of(&json!({ "deleted_media": ids, "total": ids.len() }))
}

async fn delete(
    _: Operator,
    State(media): State<Arc<Media>>,
    Named((server, id)): Named<(OwnedServerName, String)>,
) -> Result<RawJson, ApiError> {
    if server != media.server_name() {
        return Err(ApiError::invalid_param(
            "Only files of this server are removed one by one; see purge_media_cache.",
        ));
    }
    let file = media.file(&(server.to_string(), id)).await?;
    let file = file.ok_or_else(unknown)?;
    let gone = media.remove_files(&[file], &HashSet::new()).await?;
    Ok(deleted(&gone))
}

#[derive(Deserialize)]
struct Old {
    before_ts: u64,
    #[serde(default)]
    size_gt: u64,
    keep_profiles: Option<bool>,
}

fn check_time(before_ts: u64) -> Result<(), ApiError> {
    if before_ts < EARLIEST_MS {
        return Err(ApiError::invalid_param(
            "before_ts is in milliseconds: this would be in the year 1970.",
        ));
    }
    Ok(())
}

async fn delete_old(
    _: Operator,
    State(media): State<Arc<Media>>,
    State(accounts): State<Arc<Accounts>>,
    State(rooms): State<Arc<Rooms>>,
    Asked(old): Asked<Old>,
) -> Result<RawJson, ApiError> {
    check_time(old.before_ts)?;
    let keep = match old.keep_profiles {
        Some(false) => HashSet::new(),
        _ => pictures(&accounts, &rooms).await?,
    };
    let large = media
        .files(true, |row| {
            row.bytes > old.size_gt && row.uploader.is_some()
        })
        .await?;
    let old: Vec<FileFound> = large
        .into_iter()
        .filter(|file| file.used_ms() < old.before_ts)
        .collect();
    Ok(deleted(&media.remove_files(&old, &keep).await?))
}

/// The pictures of people and rooms.
async fn pictures(accounts: &Accounts, rooms: &Rooms) -> Result<HashSet<Address>, ApiError> {
    let everybody = AccountQuery {
        limit: usize::MAX,
        ..AccountQuery::default()
    };
    let (people, _) = accounts.search(&everybody).await?;
    let of_people = people.into_iter().filter_map(|person| person.avatar_url);
    let of_rooms = rooms.pictures().await?;
    Ok(of_people
        .chain(of_rooms)
        .filter_map(|uri| address(&uri))
        .collect())
}

fn address(uri: &str) -> Option<Address> {
    let (server, id) = <&MxcUri>::from(uri).parts().ok()?;
    Some((server.to_string(), id.to_owned()))
}

#[derive(Deserialize)]
struct Purge {
    before_ts: u64,
}

async fn purge(
    _: Operator,
    State(media): State<Arc<Media>>,
    Asked(purge): Asked<Purge>,
) -> Result<RawJson, ApiError> {
    check_time(purge.before_ts)?;
    let copies = media.files(false, |_| true).await?;
    let old: Vec<FileFound> = copies
        .into_iter()
        .filter(|file| file.used_ms() < purge.before_ts)
        .collect();
    let gone = media.remove_files(&old, &HashSet::new()).await?;
    Ok(RawJson::of(&json!({ "deleted": gone.len() })))
}

async fn quarantine(
    Operator(by): Operator,
    State(media): State<Arc<Media>>,
    Named((server, id)): Named<(OwnedServerName, String)>,
) -> Result<RawJson, ApiError> {
    if !resuni_media::is_id(&id) {
        return Err(ApiError::invalid_param("This can't be the id of a file."));
    }
    let address = (server.to_string(), id);
    media.quarantine(&address, &by.user_id).await?;
    Ok(nothing())
}

async fn unquarantine(
    _: Operator,
    State(media): State<Arc<Media>>,
    Named((server, id)): Named<(OwnedServerName, String)>,
) -> Result<RawJson, ApiError> {
    media.unquarantine(&(server.to_string(), id)).await?;
    Ok(nothing())
}

async fn set_protected(media: &Media, id: String, protect: bool) -> Result<RawJson, ApiError> {
    let address = (media.server_name().to_string(), id);
    if media.file(&address).await?.is_none() {
        return Err(unknown());
    }
    media.protect(&address, protect).await?;
    Ok(nothing())
}

async fn protect(
    _: Operator,
    State(media): State<Arc<Media>>,
    Named(id): Named<String>,
) -> Result<RawJson, ApiError> {
    set_protected(&media, id, true).await
}

async fn unprotect(
    _: Operator,
    State(media): State<Arc<Media>>,
    Named(id): Named<String>,
) -> Result<RawJson, ApiError> {
    set_protected(&media, id, false).await
}

/// The files of one of our users, in the order that is wanted.
async fn uploaded(
    media: &Media,
    accounts: &Accounts,
    user: &OwnedUserId,
    order_by: Option<&str>,
    span: Span,
) -> Result<Vec<FileFound>, ApiError> {
    accounts.local_account(user).await?;
    let mut files = media
        .files(true, |row| row.uploader.as_ref() == Some(user))
        .await?;
    // The second order is always that of the ids.
    files.sort_by(|a, b| a.id.cmp(&b.id));
    let backward = match (order_by, span.dir) {
        (None, None) => true,
        (_, dir) => dir == Some(Dir::Backward),
    };
    macro_rules! by {
        ($key:expr) => {
            match backward {
                true => files.sort_by_cached_key(|file: &FileFound| Reverse($key(file))),
                false => files.sort_by_cached_key($key),
            }
        };
    }
    match order_by.unwrap_or("created_ts") {
        "created_ts" => by!(|file: &FileFound| file.row.created_ms),
        "media_id" => by!(|file: &FileFound| file.id.clone()),
        "upload_name" => by!(|file: &FileFound| file.row.filename.clone()),
        "last_access_ts" => by!(|file: &FileFound| file.seen_ms),
        "media_length" => by!(|file: &FileFound| file.row.bytes),
        "media_type" => by!(|file: &FileFound| file.row.content_type.clone()),
        "quarantined_by" => by!(|file: &FileFound| file.quarantined_by.clone()),
        "safe_from_quarantine" => by!(|file: &FileFound| file.protected),
        _ => return Err(ApiError::invalid_param("There is no such order_by.")),
    }
    Ok(files)
}

#[derive(Deserialize)]
struct Order {
    order_by: Option<String>,
}

async fn of_user(
    _: Operator,
    State(media): State<Arc<Media>>,
    State(accounts): State<Arc<Accounts>>,
    Named(user): Named<OwnedUserId>,
    Asked(order): Asked<Order>,
    Asked(span): Asked<Span>,
) -> Result<RawJson, ApiError> {
    let files = uploaded(&media, &accounts, &user, order.order_by.as_deref(), span).await?;
    let total = files.len();
    let page: Vec<Value> = span
        .cut(files)
        .iter()
        .map(|file| {
            json!({
                "created_ts": file.row.created_ms,
                "last_access_ts": file.seen_ms,
                "media_id": file.id,
                "media_length": file.row.bytes,
                "media_type": file.row.content_type,
                "quarantined_by": file.quarantined_by,
                "safe_from_quarantine": file.protected,
                "upload_name": file.row.filename,
            })
        })
        .collect();
    Ok(span.answer("media", page, total, Next::Number))
}

async fn delete_of_user(
    _: Operator,
    State(media): State<Arc<Media>>,
    State(accounts): State<Arc<Accounts>>,
    Named(user): Named<OwnedUserId>,
    Asked(order): Asked<Order>,
    Asked(span): Asked<Span>,
) -> Result<RawJson, ApiError> {
    let files = uploaded(&media, &accounts, &user, order.order_by.as_deref(), span).await?;
    let gone = media
        .remove_files(&span.cut(files), &HashSet::new())
        .await?;
    Ok(deleted(&gone))
}

async fn quarantine_all(
    media: &Media,
    by: &OwnedUserId,
    addresses: impl IntoIterator<Item = Address>,
) -> Result<RawJson, ApiError> {
    let mut count = 0;
    for address in addresses {
        count += usize::from(media.quarantine(&address, by).await?);
    }
    Ok(RawJson::of(&json!({ "num_quarantined": count })))
}

async fn quarantine_of_user(
    Operator(by): Operator,
    State(media): State<Arc<Media>>,
    State(accounts): State<Arc<Accounts>>,
    Named(user): Named<OwnedUserId>,
) -> Result<RawJson, ApiError> {
    accounts.local_account(&user).await?;
    let files = media
        .files(true, |row| row.uploader.as_ref() == Some(&user))
        .await?;
    let addresses = files.iter().map(FileFound::address);
    quarantine_all(&media, &by.user_id, addresses).await
}

/// The files that the events of a room name, as far as they can be read.
async fn named_in(
    rooms: &Rooms,
    room: &OwnedRoomId,
    by: &OwnedUserId,
) -> Result<BTreeSet<Address>, ApiError> {
    let view = known(rooms, room).await?;
    let mut viewer = view.operators_viewer(by).await?;
    let uris = viewer.files_named().await?;
    Ok(uris.iter().filter_map(|uri| address(uri)).collect())
}

async fn of_room(
    Operator(by): Operator,
    State(media): State<Arc<Media>>,
    State(rooms): State<Arc<Rooms>>,
    Named(room): Named<OwnedRoomId>,
) -> Result<RawJson, ApiError> {
    let own = media.server_name().as_str();
    let named = named_in(&rooms, &room, &by.user_id).await?;
    let (ours, others): (Vec<_>, Vec<_>) = named.iter().partition(|(server, _)| server == own);
    let uris = |list: Vec<&Address>| -> Vec<String> {
        let uris = list
            .iter()
            .map(|(server, id)| format!("mxc://{server}/{id}"));
        uris.collect()
    };
    Ok(RawJson::of(
        &json!({ "local": uris(ours), "remote": uris(others) }),
    ))
}

async fn quarantine_of_room(
    Operator(by): Operator,
    State(media): State<Arc<Media>>,
    State(rooms): State<Arc<Rooms>>,
    Named(room): Named<OwnedRoomId>,
) -> Result<RawJson, ApiError> {
    let named = named_in(&rooms, &room, &by.user_id).await?;
    quarantine_all(&media, &by.user_id, named).await
}

#[derive(Deserialize)]
struct Period {
    from_ts: Option<u64>,
    until_ts: Option<u64>,
    search_term: Option<String>,
    order_by: Option<String>,
}

/// What one user has uploaded.
struct Usage {
    user: OwnedUserId,
    name: Option<String>,
    count: u64,
    bytes: u64,
}

async fn statistics(
    _: Operator,
    State(media): State<Arc<Media>>,
    State(accounts): State<Arc<Accounts>>,
    Asked(period): Asked<Period>,
    Asked(span): Asked<Span>,
) -> Result<RawJson, ApiError> {
    let since = period.from_ts.unwrap_or_default();
    let until = period.until_ts.unwrap_or(u64::MAX);
    if until < since {
        return Err(ApiError::invalid_param("until_ts is before from_ts."));
    }
    let files = media
        .files(true, |row| {
            row.uploader.is_some() && (since..=until).contains(&row.created_ms)
        })
        .await?;
    let mut of_users: BTreeMap<OwnedUserId, (u64, u64)> = BTreeMap::new();
    for file in files {
        let Some(user) = file.row.uploader else {
            continue;
        };
        let (count, bytes) = of_users.entry(user).or_default();
        *count += 1;
        *bytes += file.row.bytes;
    }
    let part = period.search_term.map(|part| part.to_lowercase());
    let mut users = Vec::new();
    for (user, (count, bytes)) in of_users {
        let profile = accounts.profile(user.localpart()).await?;
        let name = profile.unwrap_or_default().remove("displayname");
        let name = name.and_then(|name| name.as_str().map(str::to_owned));
        let has = |text: &str| {
            let part = part.as_ref();
            part.is_none_or(|part| text.to_lowercase().contains(part.as_str()))
        };
        if has(user.localpart()) || name.as_deref().is_some_and(has) {
            users.push(Usage {
                user,
                name,
                count,
                bytes,
            });
        }
    }
    match period.order_by.as_deref() {
        None | Some("user_id") => {}
        Some("displayname") => users.sort_by(|a, b| a.name.cmp(&b.name)),
        Some("media_length") => users.sort_by_key(|usage| usage.bytes),
        Some("media_count") => users.sort_by_key(|usage| usage.count),
        Some(_) => return Err(ApiError::invalid_param("There is no such order_by.")),
    }
    if span.backward() {
        users.reverse();
    }
    let total = users.len();
    let page: Vec<Value> = span
        .cut(users)
        .into_iter()
        .map(|usage| {
            json!({
                "displayname": usage.name,
                "media_count": usage.count,
                "media_length": usage.bytes,
                "user_id": usage.user,
            })
        })
        .collect();
    Ok(span.answer("users", page, total, Next::Number))
}
