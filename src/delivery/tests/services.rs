//! A bridge on loopback, and what it is told.

use std::sync::Arc;

use resuni_accounts::{
    AccountKind, AccountNum, Accounts, AccountsConfig, AppServices, NewAccount, PasswordCost,
    Proposals, ServiceFile,
    e2e::{KeyUpload, MessageId},
};
use resuni_dag::SigningKey;
use resuni_rooms::{CreateRoom, MemberDetails, NewEvent, Preset, ReceiptKind, Rooms, RoomsConfig};
use resuni_store::{Position, SharedClock, Store, SystemClock};
use ruma::{OwnedRoomId, OwnedUserId, RoomVersionId, device_id, owned_server_name};
use serde_json::{Value, json, value::to_raw_value};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
    task::JoinHandle,
};

use crate::{PingError, ServiceClient, Services};

/// A bridge that hands on what it is told: the request line, the token, and the body.
struct Bridge {
    url: String,
    told: mpsc::UnboundedReceiver<(String, String, Value)>,
    answers: mpsc::UnboundedSender<u16>,
}

impl Bridge {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (tell, told) = mpsc::unbounded_channel();
        let (answers, mut next) = mpsc::unbounded_channel::<u16>();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let Some(status) = next.recv().await else {
                    return;
                };
                let request = request(&mut stream).await;
                let answer = format!(
                    "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}"
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
                let _ = tell.send(request);
            }
        });
        Self { url, told, answers }
    }

    async fn next(&mut self, status: u16) -> (String, String, Value) {
        self.answers.send(status).unwrap();
        self.told.recv().await.unwrap()
    }

    /// The next transaction: its id, and what is in it.
    async fn transaction(&mut self, status: u16) -> (String, Value) {
        let (line, token, body) = self.next(status).await;
        assert_eq!(token, "Bearer hs");
        let path = line.strip_prefix("PUT /_matrix/app/v1/transactions/");
        let id = path.unwrap_or_else(|| panic!("{line}"));
        (id.split(' ').next().unwrap().to_owned(), body)
    }
}

async fn request(stream: &mut (impl AsyncReadExt + Unpin)) -> (String, String, Value) {
    let mut bytes = Vec::new();
    loop {
        let mut part = [0; 4096];
        let n = stream.read(&mut part).await.unwrap();
        bytes.extend_from_slice(&part[..n]);
        let all = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = all.split_once("\r\n\r\n")
            && let Ok(json) = serde_json::from_str(body)
        {
            let mut lines = head.lines();
            let line = lines.next().unwrap().to_owned();
            let token = lines.find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("authorization").then_some(value)
            });
            return (line, token.unwrap_or_default().to_owned(), json);
        }
        assert_ne!(n, 0, "the request ended early: {all}");
    }
}

struct World {
    rooms: Arc<Rooms>,
    accounts: Arc<Accounts>,
    client: Arc<ServiceClient>,
}

impl World {
    async fn new(bridge: &Bridge) -> Self {
        Self::with(bridge, Proposals::default()).await
    }

    async fn with(bridge: &Bridge, proposals: Proposals) -> Self {
        let store = Store::memory().await;
        let clock: SharedClock = Arc::new(SystemClock);
        let name = owned_server_name!("h");
        let registration = serde_json::from_value(json!({
            "id": "irc", "url": bridge.url, "as_token": "as", "hs_token": "hs",
            "sender_localpart": "irc", "receive_ephemeral": true,
            "namespaces": { "users": [{ "exclusive": true, "regex": "@irc_.*" }] },
        }))
        .unwrap();
        let accounts = AccountsConfig {
            password_cost: PasswordCost::Minimum,
            ..AccountsConfig::new(name.clone())
        };
        let file = ServiceFile {
            registration,
            proposals,
        };
        let services = AppServices::new([file], &name).unwrap();
        let accounts = Accounts::open(accounts, services, store.clone(), clock.clone())
            .await
            .unwrap();
        let config = RoomsConfig {
            server_name: name,
            key: Arc::new(SigningKey::generate("test", [7; 32]).unwrap()),
            default_version: RoomVersionId::V12,
        };
        Self {
            rooms: Rooms::open(config, store, clock).await.unwrap(),
            accounts,
            client: Arc::new(ServiceClient::new().unwrap()),
        }
    }

    fn run(&self) -> JoinHandle<()> {
        let (rooms, accounts) = (self.rooms.clone(), self.accounts.clone());
        let services = Services::new(rooms, accounts, self.client.clone());
        tokio::spawn(async move { drop(services.run().await) })
    }

    /// Until the row of the service says from where on it is told.
    async fn begun(&self) {
        let store = self.rooms.store();
        let row = || async {
            let snapshot = store.snapshot();
            let id = "irc".to_owned();
            let row = snapshot.get(&crate::tables::SERVICES, &id).await;
            row.unwrap()
        };
        while row().await.is_none() {
            tokio::task::yield_now().await;
        }
    }

    async fn user(&self, name: &str, kind: AccountKind) -> AccountNum {
        let new = NewAccount {
            localpart: Some(name.to_owned()),
            ..NewAccount::of_kind(kind)
        };
        self.accounts.register(new).await.unwrap().account
    }

    async fn room(&self, creator: &OwnedUserId) -> OwnedRoomId {
        let request = CreateRoom {
            preset: Some(Preset::PublicChat),
            ..CreateRoom::default()
        };
        self.rooms.create(creator, request).await.unwrap()
    }

    async fn say(&self, room: &OwnedRoomId, who: &OwnedUserId, text: &str) {
        let content = to_raw_value(&json!({ "body": text, "msgtype": "m.text" })).unwrap();
        let event = NewEvent::message("m.room.message", content);
        self.rooms.send(room, who, event, None).await.unwrap();
    }
}

#[tokio::test]
async fn a_bridge_is_told_of_its_rooms_in_the_same_words_until_it_takes_them() {
    let mut bridge = Bridge::start().await;
    let world = World::new(&bridge).await;
    let new = NewAccount::user("alice", "some password".to_owned());
    world.accounts.register(new).await.unwrap();
    let alice = ruma::owned_user_id!("@alice:h");
    let ghost = ruma::owned_user_id!("@irc_x:h");
    let (room, other) = (world.room(&alice).await, world.room(&alice).await);
    let details = MemberDetails::default();
    world.rooms.join(&room, &ghost, &details).await.unwrap();
    world.run();
    // The service is new: what was before is not told.
    world.begun().await;
    world.say(&other, &alice, "not for the bridge").await;
    world.say(&room, &alice, "for the bridge").await;
    let first = bridge.transaction(500).await;
    let again = bridge.transaction(200).await;
    assert_eq!(first, again);
    assert_eq!(first.1["events"].as_array().unwrap().len(), 1);
    let event = &first.1["events"][0];
    assert_eq!(event["content"]["body"], "for the bridge");
    assert_eq!(event["room_id"], json!(room));
    let event = event["event_id"].as_str().unwrap().try_into().unwrap();

    // Ephemeral messages; what comes meanwhile is in the next transaction.
    world
        .rooms
        .set_receipt(&room, &alice, ReceiptKind::Read, None, event)
        .await
        .unwrap();
    let mut seen = Vec::new();
    while !seen.contains(&"m.receipt".to_owned()) {
        let (id, body) = bridge.transaction(200).await;
        assert_ne!(id, first.0);
        for event in body["ephemeral"].as_array().into_iter().flatten() {
            seen.push(event["type"].as_str().unwrap().to_owned());
        }
    }
}

#[tokio::test]
async fn pings_and_questions() {
    let mut bridge = Bridge::start().await;
    let world = World::new(&bridge).await;
    let service = world.accounts.appservices().by_id("irc").unwrap().clone();
    bridge.answers.send(200).unwrap();
    world.client.ping(&service, Some("meow")).await.unwrap();
    let (line, token, body) = bridge.told.recv().await.unwrap();
    assert!(line.starts_with("POST /_matrix/app/v1/ping "), "{line}");
    assert_eq!(
        (token.as_str(), &body),
        ("Bearer hs", &json!({ "transaction_id": "meow" }))
    );
    bridge.answers.send(403).unwrap();
    let refused = world.client.ping(&service, None).await;
    assert!(matches!(refused, Err(PingError::Status { status, .. }) if status == 403));
}

const TO_DEVICE: &str = "de.sorunome.msc2409.to_device";
const LISTS: &str = "org.matrix.msc3202.device_lists";
const COUNTS: &str = "org.matrix.msc3202.device_one_time_keys_count";
const FALLBACK: &str = "org.matrix.msc3202.device_unused_fallback_key_types";

impl World {
    async fn upload(&self, account: AccountNum, user: &OwnedUserId, one_time: usize) {
        let keys = json!({
            "user_id": user, "device_id": "D", "algorithms": [], "keys": { "ed25519:D": "key" },
        });
        let one_time = (0..one_time).map(|n| (format!("signed_curve25519:{n}"), json!({})));
        let fallback = [(
            "signed_curve25519:f".to_owned(),
            json!({ "fallback": true }),
        )];
        let upload = KeyUpload {
            device_keys: keys.as_object().cloned(),
            one_time_keys: one_time.collect(),
            fallback_keys: fallback.into_iter().collect(),
        };
        let device = device_id!("D");
        self.accounts
            .put_device(account, device, None)
            .await
            .unwrap();
        self.accounts
            .upload_keys(account, device, &upload)
            .await
            .unwrap();
    }

    async fn send_to_device(&self, from: &OwnedUserId, to: AccountNum, txn: &str) {
        let messages = [("D".to_owned(), json!({ "txn": txn }))].into();
        let id = MessageId::Transaction {
            device: "X",
            kind: "m.room.encrypted",
            txn,
        };
        self.accounts
            .send_to_device(from, id, "m.room.encrypted", &[(to, messages)].into())
            .await
            .unwrap();
    }

    async fn waiting(&self, account: AccountNum) -> usize {
        let snapshot = self.rooms.store().snapshot();
        let (since, up_to) = (Position(0), Position(u64::MAX - 1));
        let device = device_id!("D");
        let page = self
            .accounts
            .to_device(&snapshot, account, device, since, up_to, 100);
        page.await.unwrap().messages.len()
    }
}

/// What the bridge is told under a name, over as many transactions as it takes to have `enough`.
async fn told(bridge: &mut Bridge, name: &str, enough: impl Fn(&Value) -> bool) -> Value {
    loop {
        let (_, body) = bridge.transaction(200).await;
        if body.get(name).is_some_and(&enough) {
            return body[name].clone();
        }
    }
}

#[tokio::test]
async fn messages_to_devices_are_told_once_even_where_a_restart_comes_between() {
    let mut bridge = Bridge::start().await;
    let proposals = Proposals {
        encryption: true,
        ..Proposals::default()
    };
    let world = World::with(&bridge, proposals).await;
    let kind = AccountKind::AppService("irc".to_owned());
    let ghost = world.user("irc_x", kind).await;
    let (alice, x) = (
        ruma::owned_user_id!("@alice:h"),
        ruma::owned_user_id!("@irc_x:h"),
    );
    let running = world.run();
    world.begun().await;
    world.upload(ghost, &x, 2).await;
    let counts = told(&mut bridge, COUNTS, |_| true).await;
    assert_eq!(counts, json!({ (&x): { "D": { "signed_curve25519": 2 } } }));

    world.send_to_device(&alice, ghost, "one").await;
    let first = bridge.transaction(500).await;
    let expected = json!([{
        "type": "m.room.encrypted", "sender": alice, "content": { "txn": "one" },
        "to_user_id": x, "to_device_id": "D",
    }]);
    assert_eq!(first.1[TO_DEVICE], expected);
    assert_eq!(world.waiting(ghost).await, 0, "it waits in the transaction");
    running.abort();
    let _ = running.await;
    world.send_to_device(&alice, ghost, "two").await;
    world.run();
    assert_eq!(bridge.transaction(200).await, first);
    let (_, second) = bridge.transaction(200).await;
    let messages = second[TO_DEVICE].as_array().unwrap();
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0]["content"]["txn"], "two");

    // Claims are told, and that the fallback key was used.
    let device = device_id!("D");
    for left in [1, 0] {
        let wanted = [(device, "signed_curve25519")];
        world.accounts.claim_keys(ghost, &wanted).await.unwrap();
        let counts = told(&mut bridge, COUNTS, |_| true).await;
        assert_eq!(counts[x.as_str()]["D"]["signed_curve25519"], left);
    }
    let wanted = [(device, "signed_curve25519")];
    world.accounts.claim_keys(ghost, &wanted).await.unwrap();
    let fallback = told(&mut bridge, FALLBACK, |_| true).await;
    assert_eq!(fallback, json!({ (&x): { "D": [] } }));
}

#[tokio::test]
async fn a_bridge_learns_whose_keys_to_look_at() {
    let mut bridge = Bridge::start().await;
    let proposals = Proposals {
        encryption: true,
        ..Proposals::default()
    };
    let world = World::with(&bridge, proposals).await;
    let alice_account = world.user("alice", AccountKind::User).await;
    let stranger_account = world.user("stranger", AccountKind::User).await;
    let alice = ruma::owned_user_id!("@alice:h");
    let stranger = ruma::owned_user_id!("@stranger:h");
    let ghost = ruma::owned_user_id!("@irc_x:h");
    world.run();
    world.begun().await;
    let room = world.room(&alice).await;
    let details = MemberDetails::default();
    world.rooms.join(&room, &ghost, &details).await.unwrap();
    let is = |list: &'static str, user: &OwnedUserId| {
        let user = json!(user);
        move |lists: &Value| lists[list].as_array().unwrap().contains(&user)
    };
    // From now on keys matter in this room.
    let content = to_raw_value(&json!({ "algorithm": "m.megolm.v1.aes-sha2" })).unwrap();
    let event = NewEvent::state("m.room.encryption", "", content);
    world.rooms.send(&room, &alice, event, None).await.unwrap();
    let lists = told(&mut bridge, LISTS, is("changed", &alice)).await;
    assert!(is("changed", &ghost)(&lists));
    world.upload(stranger_account, &stranger, 0).await;
    world.upload(alice_account, &alice, 0).await;
    let lists = told(&mut bridge, LISTS, is("changed", &alice)).await;
    assert!(!is("changed", &stranger)(&lists), "{lists}");

    world.rooms.join(&room, &stranger, &details).await.unwrap();
    told(&mut bridge, LISTS, is("changed", &stranger)).await;
    world.rooms.leave(&room, &stranger, None).await.unwrap();
    told(&mut bridge, LISTS, is("left", &stranger)).await;
    // The last ghost goes: nobody there concerns the bridge any more.
    world.rooms.leave(&room, &ghost, None).await.unwrap();
    told(&mut bridge, LISTS, is("left", &alice)).await;
}
