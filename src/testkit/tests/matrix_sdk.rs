//! A real client's library, `matrix-sdk`, on two servers that federate: what people do first.

// The library's futures are deep.
#![recursion_limit = "256"]

#[path = "matrix_sdk/busy.rs"]
mod busy;
#[path = "matrix_sdk/secrets.rs"]
mod secrets;
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
        events::room::{
            MediaSource,
            message::{MessageType, OriginalSyncRoomMessageEvent, RoomMessageEventContent},
        },
    },
};
use resuni_testkit::{Server, World};

/// More than this means that something is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// Somebody with a client that syncs in the background, and the messages and files it has shown.
struct Person {
    client: Client,
    shown: Arc<Mutex<Vec<String>>>,
    files: Arc<Mutex<Vec<(String, MediaSource)>>>,
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
        Self::begin_with(client, SyncSettings::new().timeout(Duration::from_secs(10)))
    }

    fn begin_with(client: Client, settings: SyncSettings) -> Self {
        let shown = Arc::new(Mutex::new(Vec::new()));
        let files = Arc::new(Mutex::new(Vec::new()));
        let (texts, list) = (shown.clone(), files.clone());
        client.add_event_handler(move |event: OriginalSyncRoomMessageEvent| async move {
            match event.content.msgtype {
                MessageType::Text(text) => {
                    if let Ok(mut texts) = texts.lock() {
                        texts.push(text.body);
                    }
                }
                MessageType::File(file) => {
                    if let Ok(mut list) = list.lock() {
                        list.push((file.body, file.source));
                    }
                }
                _ => {}
            }
        });
        let syncs = client.clone();
        let syncing = tokio::spawn(async move {
            if let Err(error) = syncs.sync(settings).await {
                eprintln!("sync ended: {error}");
            }
        });
        Self {
            client,
            shown,
            files,
            syncing,
        }
    }

    /// Where a file of this name is that was sent.
    fn file(&self, name: &str) -> Option<MediaSource> {
        let files = self.files.lock().ok()?;
        let found = files.iter().find(|(called, _)| called == name);
        found.map(|(_, source)| source.clone())
    }

    fn id(&self) -> anyhow::Result<OwnedUserId> {
        Ok(self.client.user_id().context("not signed in")?.to_owned())
    }

    async fn room(&self, room: &RoomId, wanted: RoomState) -> anyhow::Result<Room> {
        let wrong = format!("{room} does not become {wanted:?} for {}", self.id()?);
        patiently(&wrong, async || {
            let found = self.client.get_room(room);
            Ok(found.filter(|room| room.state() == wanted))
        })
        .await
    }

    async fn is_shown(&self, text: &str) -> anyhow::Result<()> {
        let wrong = format!("{} is not shown \"{text}\"", self.id()?);
        patiently(&wrong, async || {
            let shown = self.shown.lock().ok();
            Ok(shown
                .filter(|shown| shown.iter().any(|body| body == text))
                .map(drop))
        })
        .await
    }
}

/// Asks until there is an answer; it says what is wrong when there is none for too long.
async fn patiently<T>(
    wrong: &str,
    ask: impl AsyncFn() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        if begun.elapsed() > PATIENCE {
            bail!("{wrong}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until somebody's client knows that what it sends there has to be encrypted.
async fn is_encrypted(room: &Room) -> anyhow::Result<()> {
    patiently("it is not seen that the room is encrypted", async || {
        let state = room.latest_encryption_state().await?;
        Ok(state.is_encrypted().then_some(()))
    })
    .await
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
    is_encrypted(&his).await?;
    talk(&alice, &bob, &hers, &his).await?;
    drop((alice, bob));
    world.passed();
    Ok(())
}
