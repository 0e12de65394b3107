//! A real client's library, `matrix-sdk`, on two servers that federate: what people do first.

// The library's futures are deep.
#![recursion_limit = "256"]

#[path = "matrix_sdk/sliding.rs"]
mod sliding;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use matrix_sdk::{
    Client, Room, RoomState,
    config::SyncSettings,
    ruma::{
        OwnedUserId, RoomId,
        api::client::{
            account::register,
            room::create_room,
            uiaa::{AuthData, Dummy},
        },
        events::room::message::{
            MessageType, OriginalSyncRoomMessageEvent, RoomMessageEventContent,
        },
    },
};
use resuni_testkit::{Server, World};

/// More than this means that something is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// Somebody with a client that syncs in the background, and the messages it has shown.
struct Person {
    client: Client,
    shown: Arc<Mutex<Vec<String>>>,
    syncing: tokio::task::JoinHandle<()>,
}

impl Drop for Person {
    fn drop(&mut self) {
        self.syncing.abort();
    }
}

impl Person {
    /// Registers as a client does that asks the server what it wants to know.
    async fn register(server: &Server, name: &str) -> anyhow::Result<Self> {
        let client = client(server).await?;
        let mut request = register::v3::Request::new();
        request.username = Some(name.to_owned());
        request.password = Some("a password".to_owned());
        let auth = client.matrix_auth();
        let Err(error) = auth.register(request.clone()).await else {
            bail!("an account was made without any stage of authentication");
        };
        let stages = error.as_uiaa_response().context("no stages")?;
        let mut dummy = Dummy::new();
        dummy.session.clone_from(&stages.session);
        request.auth = Some(AuthData::Dummy(dummy));
        auth.register(request).await?;
        Ok(Self::begin(client))
    }

    /// Signs in to an account that there is.
    async fn login(server: &Server, name: &str) -> anyhow::Result<Self> {
        server.client()?.register(name).await?;
        let client = client(server).await?;
        let password = format!("password-of-{name}");
        client
            .matrix_auth()
            .login_username(name, &password)
            .initial_device_display_name("a scenario")
            .send()
            .await?;
        Ok(Self::begin(client))
    }

    fn begin(client: Client) -> Self {
        let shown = Arc::new(Mutex::new(Vec::new()));
        let list = shown.clone();
        client.add_event_handler(move |event: OriginalSyncRoomMessageEvent| async move {
            if let (MessageType::Text(text), Ok(mut list)) = (event.content.msgtype, list.lock()) {
                list.push(text.body);
            }
        });
        let syncs = client.clone();
        let syncing = tokio::spawn(async move {
            let settings = SyncSettings::new().timeout(Duration::from_secs(10));
            if let Err(error) = syncs.sync(settings).await {
                eprintln!("sync ended: {error}");
            }
        });
        Self {
            client,
            shown,
            syncing,
        }
    }

    fn id(&self) -> anyhow::Result<OwnedUserId> {
        Ok(self.client.user_id().context("not signed in")?.to_owned())
    }

    async fn room(&self, room: &RoomId, wanted: RoomState) -> anyhow::Result<Room> {
        let begun = Instant::now();
        loop {
            if let Some(room) = self.client.get_room(room)
                && room.state() == wanted
            {
                return Ok(room);
            }
            if begun.elapsed() > PATIENCE {
                bail!("{room} does not become {wanted:?} for {}", self.id()?);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn is_shown(&self, text: &str) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            if let Ok(shown) = self.shown.lock()
                && shown.iter().any(|body| body == text)
            {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                bail!("{} is not shown \"{text}\"", self.id()?);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn client(server: &Server) -> anyhow::Result<Client> {
    Ok(Client::builder()
        .homeserver_url(server.url())
        .build()
        .await?)
}

/// Alice makes a room, invites Bob who is on the other server, he joins.
async fn meet(alice: &Person, bob: &Person) -> anyhow::Result<(Room, Room)> {
    let mut request = create_room::v3::Request::new();
    request.invite = vec![bob.id()?];
    request.preset = Some(create_room::v3::RoomPreset::TrustedPrivateChat);
    let hers = alice.client.create_room(request).await?;
    let his = bob.room(hers.room_id(), RoomState::Invited).await?;
    his.join().await?;
    let his = bob.room(hers.room_id(), RoomState::Joined).await?;
    Ok((hers, his))
}

async fn talk(alice: &Person, bob: &Person, hers: &Room, his: &Room) -> anyhow::Result<()> {
    for n in 0..5 {
        let (question, answer) = (format!("question {n}"), format!("answer {n}"));
        hers.send(RoomMessageEventContent::text_plain(&question))
            .await?;
        bob.is_shown(&question).await?;
        his.send(RoomMessageEventContent::text_plain(&answer))
            .await?;
        alice.is_shown(&answer).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_people_on_two_servers_talk() -> anyhow::Result<()> {
    let world = World::new("sdk")?;
    let (one, two) = (world.resuni("one").await?, world.resuni("two").await?);
    let alice = Person::register(&one, "alice").await?;
    let bob = Person::login(&two, "bob").await?;
    let (hers, his) = meet(&alice, &bob).await?;
    talk(&alice, &bob, &hers, &his).await?;
    drop((alice, bob));
    world.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn they_talk_so_that_no_server_can_listen() -> anyhow::Result<()> {
    let world = World::new("sdk-encrypted")?;
    let (one, two) = (world.resuni("one").await?, world.resuni("two").await?);
    let alice = Person::register(&one, "alice").await?;
    let bob = Person::register(&two, "bob").await?;
    let (hers, his) = meet(&alice, &bob).await?;
    hers.enable_encryption().await?;
    let begun = Instant::now();
    while !his.latest_encryption_state().await?.is_encrypted() {
        if begun.elapsed() > PATIENCE {
            bail!("Bob does not see that the room is encrypted");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    talk(&alice, &bob, &hers, &his).await?;
    drop((alice, bob));
    world.passed();
    Ok(())
}
