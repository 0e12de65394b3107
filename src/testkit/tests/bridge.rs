//! A bridge that is built on `mautrix`, as a process beside the server: ghosts that are made when they are invited, a
//! restart, and messages that no server can read.

// The library's futures are deep.
#![recursion_limit = "256"]

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use matrix_sdk::{
    Room, RoomState,
    config::SyncSettings,
    ruma::{
        OwnedUserId, RoomId, UserId,
        api::client::room::create_room,
        events::{
            InitialStateEvent,
            room::{
                encryption::RoomEncryptionEventContent,
                message::{MessageType, OriginalSyncRoomMessageEvent, RoomMessageEventContent},
            },
        },
    },
};
use resuni_testkit::{Client, Port, Server, World, password, python};
use serde_json::{Value, json};

/// More than this means that something is stuck.
const PATIENCE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(50);

/// The bridge; it ends with this value.
struct Bridge(Child);

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Bridge {
    /// Starts it and waits until it listens and its bot has a device.
    fn start(server: &Server, port: &Port) -> anyhow::Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bridge/bridge.py");
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(server.home().join("bridge.log"))?;
        let mut child = Command::new(python("mautrix-venv", "bridge")?)
            .arg(script)
            .args([server.url(), server.name(), port.number().to_string()])
            .current_dir(server.home())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let said = child.stdout.take().context("no output")?;
        let bridge = Self(child);
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        ensure!(
            line == "ready\n",
            "the bridge does not start: see bridge.log"
        );
        Ok(bridge)
    }
}

/// A server that knows the bridge, and the port on which the bridge will listen.
async fn server(world: &World) -> anyhow::Result<(Server, Port)> {
    let (mut server, port) = (world.prepare_resuni("hs")?, Port::take()?);
    let registration = json!({
        "id": "bridge",
        "url": format!("http://127.0.0.1:{}", port.number()),
        "as_token": "as-secret",
        "hs_token": "hs-secret",
        "sender_localpart": "bridge",
        "rate_limited": false,
        "namespaces": { "users": [{ "exclusive": true, "regex": "@bridge_.*" }], "aliases": [], "rooms": [] },
        "receive_ephemeral": true,
        "org.matrix.msc3202": true,
        "io.element.msc4190": true,
    });
    std::fs::write(server.home().join("bridge.yaml"), registration.to_string())?;
    server.add_settings("[appservices]\nconfig_files = [\"bridge.yaml\"]\n")?;
    server.start().await?;
    Ok((server, port))
}

/// Looks again until `found` finds something.
async fn wait<T, F>(what: &str, mut found: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<Option<T>>>,
{
    let begun = Instant::now();
    loop {
        if let Some(found) = found().await? {
            return Ok(found);
        }
        if begun.elapsed() > PATIENCE {
            bail!("it does not happen: {what}");
        }
        tokio::time::sleep(STEP).await;
    }
}

/// How often `sender` has said `text` in a room, as far as `reader` sees.
async fn said(reader: &Client, room: &str, sender: &str, text: &str) -> anyhow::Result<usize> {
    let events = reader.history(room).await?;
    let is = |event: &&Value| event["sender"] == sender && event["content"]["body"] == text;
    Ok(events.iter().filter(is).count())
}

async fn hears(reader: &Client, room: &str, sender: &str, text: &str) -> anyhow::Result<()> {
    wait(text, || async {
        let often = said(reader, room, sender, text).await?;
        Ok((often > 0).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ghosts_are_made_join_and_answer_and_nothing_is_lost_while_the_bridge_is_away()
-> anyhow::Result<()> {
    let world = World::new("bridge")?;
    let (server, port) = server(&world).await?;
    let bridge = Bridge::start(&server, &port)?;
    let alice = server.client()?.register("alice").await?;
    // Nobody has made this user yet.
    let ghost = format!("@bridge_bob:{}", server.name());
    let body = json!({ "preset": "private_chat", "invite": [ghost] });
    let room = alice.create_room(body).await?;
    wait("the ghost joins", || async {
        let member = alice.state(&room, "m.room.member", &ghost).await?;
        Ok((member["membership"] == "join").then_some(()))
    })
    .await?;
    alice.send(&room, "1", "ping 1").await?;
    hears(&alice, &room, &ghost, "pong 1").await?;

    drop(bridge);
    alice.send(&room, "2", "ping 2").await?;
    let bridge = Bridge::start(&server, &port)?;
    hears(&alice, &room, &ghost, "pong 2").await?;
    alice.send(&room, "3", "ping 3").await?;
    hears(&alice, &room, &ghost, "pong 3").await?;
    for n in 1..=3 {
        let often = said(&alice, &room, &ghost, &format!("pong {n}")).await?;
        ensure!(often == 1, "pong {n} was said {often} times");
    }
    drop(bridge);
    world.passed();
    Ok(())
}

/// A person with a client that decrypts, and what it has shown.
struct Person {
    client: matrix_sdk::Client,
    shown: Arc<Mutex<Vec<String>>>,
    syncing: tokio::task::JoinHandle<()>,
}

impl Drop for Person {
    fn drop(&mut self) {
        self.syncing.abort();
    }
}

impl Person {
    async fn new(server: &Server, name: &str) -> anyhow::Result<Self> {
        server.client()?.register(name).await?;
        let client = matrix_sdk::Client::builder().homeserver_url(server.url());
        let client = client.build().await?;
        let login = client.matrix_auth().login_username(name, &password(name));
        login.send().await?;
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
        Ok(Self {
            client,
            shown,
            syncing,
        })
    }

    async fn is_shown(&self, text: &str) -> anyhow::Result<()> {
        wait(text, || async {
            let shown = self.shown.lock();
            Ok(shown
                .is_ok_and(|shown| shown.iter().any(|body| body == text))
                .then_some(()))
        })
        .await
    }

    /// A room in which everything is encrypted, with somebody who has joined.
    async fn encrypted_room(&self, with: &UserId) -> anyhow::Result<Room> {
        let mut request = create_room::v3::Request::new();
        request.preset = Some(create_room::v3::RoomPreset::PrivateChat);
        request.invite = vec![with.to_owned()];
        let encryption = RoomEncryptionEventContent::with_recommended_defaults();
        let encryption = InitialStateEvent::with_empty_state_key(encryption);
        request.initial_state = vec![encryption.to_raw_any()];
        let room = self.client.create_room(request).await?;
        let id: &RoomId = room.room_id();
        wait("the bot joins", || async {
            let room = self.client.get_room(id);
            let room = room.filter(|room| room.state() == RoomState::Joined);
            let Some(room) = room else { return Ok(None) };
            let member = room.get_member_no_sync(with).await?;
            let joined = member.is_some_and(|member| member.membership().as_str() == "join");
            Ok((joined && room.latest_encryption_state().await?.is_encrypted()).then_some(room))
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bot_reads_and_writes_what_no_server_can_read() -> anyhow::Result<()> {
    let world = World::new("bridge-encrypted")?;
    let (server, port) = server(&world).await?;
    let bridge = Bridge::start(&server, &port)?;
    let alice = Person::new(&server, "alice").await?;
    let bot = OwnedUserId::try_from(format!("@bridge:{}", server.name()))?;
    let room = alice.encrypted_room(&bot).await?;
    for n in 0..3 {
        let ping = RoomMessageEventContent::text_plain(format!("ping {n}"));
        room.send(ping).await?;
        alice.is_shown(&format!("pong {n}")).await?;
    }
    // What the server has of it is not what was said.
    let reader = server.client()?.login("alice").await?;
    let events = reader.history(room.room_id().as_str()).await?;
    let of = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
    ensure!(of("m.room.message") == 0, "something was not encrypted");
    ensure!(
        of("m.room.encrypted") == 6,
        "{} messages",
        of("m.room.encrypted")
    );
    drop((alice, bridge));
    world.passed();
    Ok(())
}
