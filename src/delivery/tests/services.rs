//! A bridge on loopback, and what it is told.

use std::sync::Arc;

use resuni_accounts::{Accounts, AccountsConfig, AppServices, NewAccount, PasswordCost};
use resuni_dag::SigningKey;
use resuni_rooms::{CreateRoom, MemberDetails, NewEvent, Preset, ReceiptKind, Rooms, RoomsConfig};
use resuni_store::{SharedClock, Store, SystemClock};
use ruma::{
    OwnedRoomId, OwnedUserId, RoomVersionId, api::appservice::Registration, owned_server_name,
};
use serde_json::{Value, json, value::to_raw_value};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
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
        let store = Store::memory().await;
        let clock: SharedClock = Arc::new(SystemClock);
        let name = owned_server_name!("h");
        let registration: Registration = serde_json::from_value(json!({
            "id": "irc", "url": bridge.url, "as_token": "as", "hs_token": "hs",
            "sender_localpart": "irc", "receive_ephemeral": true,
            "namespaces": { "users": [{ "exclusive": true, "regex": "@irc_.*" }] },
        }))
        .unwrap();
        let accounts = AccountsConfig {
            password_cost: PasswordCost::Minimum,
            ..AccountsConfig::new(name.clone())
        };
        let services = AppServices::new([registration], &name).unwrap();
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

    fn run(&self) {
        let (rooms, accounts) = (self.rooms.clone(), self.accounts.clone());
        let services = Services::new(rooms, accounts, self.client.clone());
        tokio::spawn(services.run());
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
    // The service is new: what was before is not told. Its row says from where on.
    let mut started = world.rooms.store().log().watch();
    while world
        .rooms
        .store()
        .snapshot()
        .get(&crate::tables::SERVICES, &"irc".to_owned())
        .await
        .unwrap()
        .is_none()
    {
        tokio::task::yield_now().await;
        started.mark_unchanged();
    }
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
