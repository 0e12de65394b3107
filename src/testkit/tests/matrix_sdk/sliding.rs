//! The room list of a real client: sliding sync as `matrix-sdk` does it.

use anyhow::{Context, ensure};
use futures_util::{StreamExt, TryStreamExt, future::join_all, stream};
use matrix_sdk::{
    Client, RoomState, SlidingSync, SlidingSyncList, SlidingSyncListLoadingState, SlidingSyncMode,
    UpdateSummary,
    ruma::{OwnedRoomId, RoomId, api::error::ErrorKind, events::StateEventType},
};
use resuni_testkit::{Client as Plain, Server, World, password};
use serde_json::json;

use super::client;

/// As many as a busy person has.
const ROOMS: usize = 500;
/// By how many the window grows.
const BATCH: u32 = 100;
/// More requests than it takes to load all rooms mean that the window does not grow.
const REQUESTS: usize = 30;

/// How many rooms are made at a time: neighbours may change places.
const AT_ONCE: usize = 8;

/// Rooms made a few at a time, each with a name; the last one is the newest.
async fn make_rooms(alice: &Plain, bob: &Plain) -> anyhow::Result<Vec<OwnedRoomId>> {
    let make = async |n: usize| -> anyhow::Result<OwnedRoomId> {
        let body = json!({ "name": format!("room {n}"), "preset": "public_chat" });
        Ok(RoomId::parse(alice.create_room(body).await?)?)
    };
    let numbers = stream::iter(0..ROOMS);
    let rooms: Vec<OwnedRoomId> = numbers.map(make).buffered(AT_ONCE).try_collect().await?;
    let joins = [&rooms[0], &rooms[1]].map(|room| bob.join(room.as_str(), &[]));
    for joined in join_all(joins).await {
        joined?;
    }
    Ok(rooms)
}

/// The list that a room list asks for, with state and members as such clients do.
async fn room_list(client: &Client) -> anyhow::Result<SlidingSync> {
    let state = [
        (StateEventType::RoomName, ""),
        (StateEventType::RoomEncryption, ""),
        (StateEventType::RoomMember, "$LAZY"),
        (StateEventType::RoomMember, "$ME"),
        (StateEventType::SpaceChild, "*"),
    ];
    let state = state.map(|(kind, key)| (kind, key.to_owned())).into();
    let list = SlidingSyncList::builder("all")
        .sync_mode(SlidingSyncMode::new_growing(BATCH))
        .timeline_limit(1)
        .required_state(state);
    let sync = client.sliding_sync("rooms")?;
    Ok(sync.with_all_extensions().add_list(list).build().await?)
}

async fn load_all(sync: &SlidingSync) -> anyhow::Result<usize> {
    for n in 1..=REQUESTS {
        sync.sync_once().await?;
        let state = sync.on_list("all", |list| {
            let state = (list.state(), list.maximum_number_of_rooms());
            async move { state }
        });
        let (state, count) = state.await.context("no list")?;
        ensure!(
            count == Some(u32::try_from(ROOMS)?),
            "the list has {count:?} rooms"
        );
        if state == SlidingSyncListLoadingState::FullyLoaded {
            return Ok(n);
        }
    }
    anyhow::bail!("the list is not loaded after {REQUESTS} requests")
}

/// Syncs until the room is in an answer.
async fn until_told(sync: &SlidingSync, room: &RoomId) -> anyhow::Result<UpdateSummary> {
    for _ in 0..REQUESTS {
        let told = sync.sync_once().await?;
        if told.rooms.iter().any(|id| id == room) {
            return Ok(told);
        }
    }
    anyhow::bail!("{room} is not told of")
}

/// The room at the top of the client's list.
fn top(client: &Client) -> Option<OwnedRoomId> {
    let rooms = client.joined_rooms().into_iter();
    let top = rooms.max_by_key(|room| room.recency_stamp().map(u64::from));
    top.map(|room| room.room_id().to_owned())
}

/// The client shows all rooms, the newest first.
fn in_order(client: &Client, rooms: &[OwnedRoomId]) -> anyhow::Result<()> {
    let mut shown = client.joined_rooms();
    shown.sort_by_key(|room| std::cmp::Reverse(room.recency_stamp().map(u64::from)));
    // Without the two that somebody joined since they were made.
    let ids = shown.iter().map(|room| room.room_id());
    let shown: Vec<_> = ids
        .filter(|id| !rooms[..2].iter().any(|room| room == id))
        .collect();
    for (place, room) in rooms.iter().skip(2).rev().enumerate() {
        let found = shown.iter().position(|shown| *shown == &**room);
        let found = found.with_context(|| format!("{room} is missing"))?;
        ensure!(
            found.abs_diff(place) <= 2 * AT_ONCE,
            "{room} is at {found}, not about {place}"
        );
    }
    Ok(())
}

async fn sign_in(server: &Server, name: &str) -> anyhow::Result<Client> {
    let client = client(server).await?;
    let login = client.matrix_auth().login_username(name, &password(name));
    login
        .initial_device_display_name("a room list")
        .send()
        .await?;
    Ok(client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_500_rooms_loads_follows_and_reconnects() -> anyhow::Result<()> {
    let world = World::new("sdk-sliding")?.quiet();
    let mut server = world.resuni("one").await?;
    let (alice, bob) = (server.client()?, server.client()?);
    let (alice, bob) = (alice.register("alice").await?, bob.register("bob").await?);
    let rooms = make_rooms(&alice, &bob).await?;
    let client = sign_in(&server, "alice").await?;
    let sync = room_list(&client).await?;
    let requests = load_all(&sync).await?;
    ensure!(
        requests >= ROOMS / BATCH as usize,
        "the window did not grow by steps"
    );
    ensure!(
        client.joined_rooms().len() == ROOMS,
        "not all rooms are there"
    );
    in_order(&client, &rooms)?;
    let named = client.get_room(&rooms[7]).context("no room")?.name();
    ensure!(
        named.as_deref() == Some("room 7"),
        "a room is called {named:?}"
    );

    // A message in the oldest room brings it to the top.
    bob.send(rooms[0].as_str(), "t1", "hello").await?;
    until_told(&sync, &rooms[0]).await?;
    ensure!(
        top(&client).as_ref() == Some(&rooms[0]),
        "it is not at the top"
    );

    // A server that starts again knows no connections: the client is told, and begins another.
    server.stop().await?;
    server.start().await?;
    bob.send(rooms[1].as_str(), "t2", "still here").await?;
    let unknown = sync.sync_once().await;
    let unknown = unknown.err().context("a connection outlived its server")?;
    let kind = unknown.client_api_error_kind();
    ensure!(kind == Some(&ErrorKind::UnknownPos), "{unknown}");
    sync.expire_session().await;
    until_told(&sync, &rooms[1]).await?;
    ensure!(
        top(&client).as_ref() == Some(&rooms[1]),
        "what came meanwhile is not at the top"
    );
    let state = client.get_room(&rooms[1]).context("no room")?.state();
    ensure!(state == RoomState::Joined, "the room is {state:?}");
    world.passed();
    Ok(())
}
