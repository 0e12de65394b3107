//! Syncs over real rooms and accounts, on the memory store.

use std::{sync::Arc, time::Duration};

use resuni_accounts::{
    AccountNum, Accounts, AccountsConfig, AppServices, NewAccount, PasswordCost,
};
use resuni_dag::SigningKey;
use resuni_delivery::{Push, Ways};
use resuni_rooms::{CreateRoom, MemberDetails, NewEvent, Preset, Rooms, RoomsConfig, Typing};
use resuni_store::{SharedClock, Store, SystemClock};
use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId, RoomVersionId, owned_server_name};
use serde_json::{Value, json, value::to_raw_value};

mod crowd;
mod device;
mod sliding;
mod sticky;
mod stream;

use crate::{Sync, SyncRequest, Who};

struct Home {
    rooms: Arc<Rooms>,
    accounts: Arc<Accounts>,
    typing: Arc<Typing>,
    sync: Arc<Sync>,
}

struct Person {
    id: OwnedUserId,
    account: AccountNum,
    device: Option<OwnedDeviceId>,
}

impl Person {
    fn who(&self) -> Who<'_> {
        Who {
            user: &self.id,
            account: self.account,
            device: self.device.as_deref(),
        }
    }
}

impl Home {
    async fn new() -> Self {
        let store = Store::memory().await;
        let clock: SharedClock = Arc::new(SystemClock);
        let name = owned_server_name!("h");
        let accounts = AccountsConfig {
            password_cost: PasswordCost::Minimum,
            ..AccountsConfig::new(name.clone())
        };
        let accounts = Accounts::open(
            accounts,
            AppServices::default(),
            store.clone(),
            clock.clone(),
        )
        .await
        .unwrap();
        let key = Arc::new(SigningKey::generate("test", [7; 32]).unwrap());
        let config = RoomsConfig {
            server_name: name,
            key,
            default_version: RoomVersionId::V11,
        };
        let rooms = Rooms::open(config, store, clock.clone()).await.unwrap();
        let typing = Arc::new(Typing::new(clock));
        let push = Push::open(rooms.clone(), accounts.clone(), Ways::default())
            .await
            .unwrap();
        tokio::spawn(push.clone().run());
        let sync = Sync::new(rooms.clone(), accounts.clone(), typing.clone(), push, 1);
        tokio::spawn(sync.clone().run());
        Self {
            rooms,
            accounts,
            typing,
            sync,
        }
    }

    async fn person(&self, name: &str) -> Person {
        let account = self
            .accounts
            .register(NewAccount::user(name, "some password".to_owned()))
            .await
            .unwrap()
            .account;
        Person {
            id: OwnedUserId::try_from(format!("@{name}:h")).unwrap(),
            account,
            device: None,
        }
    }

    async fn room(&self, creator: &Person) -> OwnedRoomId {
        let request = CreateRoom {
            preset: Some(Preset::PublicChat),
            ..CreateRoom::default()
        };
        self.rooms.create(&creator.id, request).await.unwrap()
    }

    async fn say(&self, room: &OwnedRoomId, who: &Person, text: &str) {
        let content = to_raw_value(&json!({ "msgtype": "m.text", "body": text })).unwrap();
        self.rooms
            .send(
                room,
                &who.id,
                NewEvent::message("m.room.message", content),
                None,
            )
            .await
            .unwrap();
    }

    async fn topic(&self, room: &OwnedRoomId, who: &Person, topic: &str) {
        let content = to_raw_value(&json!({ "topic": topic })).unwrap();
        self.rooms
            .send(
                room,
                &who.id,
                NewEvent::state("m.room.topic", "", content),
                None,
            )
            .await
            .unwrap();
    }

    async fn join(&self, room: &OwnedRoomId, who: &Person) {
        self.rooms
            .join(room, &who.id, &MemberDetails::default())
            .await
            .unwrap();
    }

    async fn sync_with(
        &self,
        who: &Person,
        since: &str,
        change: impl FnOnce(&mut SyncRequest),
    ) -> Value {
        let mut request = SyncRequest {
            since: (!since.is_empty()).then(|| since.parse().unwrap()),
            ..SyncRequest::default()
        };
        change(&mut request);
        serde_json::from_str(&self.sync.sync(who.who(), &request).await.unwrap()).unwrap()
    }

    async fn sync(&self, who: &Person, since: &str) -> Value {
        self.sync_with(who, since, |_| {}).await
    }
}

fn next(answer: &Value) -> &str {
    answer["next_batch"].as_str().unwrap()
}

fn bodies(answer: &Value, room: &OwnedRoomId) -> Vec<String> {
    let events = answer["rooms"]["join"][room.as_str()]["timeline"]["events"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    events
        .iter()
        .filter_map(|event| event["content"]["body"].as_str())
        .map(str::to_owned)
        .collect()
}

fn kinds(part: &Value) -> Vec<String> {
    let events = part["events"].as_array().cloned().unwrap_or_default();
    events
        .iter()
        .map(|event| event["type"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn first_and_next() {
    let home = Home::new().await;
    let alice = home.person("alice").await;
    let room = home.room(&alice).await;
    home.say(&room, &alice, "one").await;
    let first = home.sync(&alice, "").await;
    assert_eq!(bodies(&first, &room), ["one"]);
    let part = &first["rooms"]["join"][room.as_str()];
    assert_eq!(
        part["timeline"]["limited"], false,
        "the whole room is in the answer"
    );
    assert_eq!(part["summary"]["m.joined_member_count"], 1);
    assert!(kinds(&first["account_data"]).contains(&"m.push_rules".to_owned()));

    let quiet = home.sync(&alice, next(&first)).await;
    assert_eq!(quiet, json!({ "next_batch": next(&first) }));
    home.say(&room, &alice, "two").await;
    let second = home.sync(&alice, next(&quiet)).await;
    assert_eq!(bodies(&second, &room), ["two"]);
    assert_eq!(
        kinds(&second["rooms"]["join"][room.as_str()]["state"]),
        Vec::<String>::new()
    );
}

#[tokio::test]
async fn a_gap_is_limited_and_its_state_is_told() {
    let home = Home::new().await;
    let alice = home.person("alice").await;
    let room = home.room(&alice).await;
    let first = home.sync(&alice, "").await;
    home.topic(&room, &alice, "in the gap").await;
    for n in 0..12 {
        home.say(&room, &alice, &n.to_string()).await;
    }
    let second = home.sync(&alice, next(&first)).await;
    let part = &second["rooms"]["join"][room.as_str()];
    assert_eq!(
        bodies(&second, &room),
        (2..12).map(|n| n.to_string()).collect::<Vec<_>>()
    );
    assert_eq!(part["timeline"]["limited"], true);
    assert_eq!(kinds(&part["state"]), ["m.room.topic"]);
}

#[tokio::test]
async fn state_after_holds_what_the_timeline_holds_too() {
    let home = Home::new().await;
    let alice = home.person("alice").await;
    let room = home.room(&alice).await;
    let first = home.sync(&alice, "").await;
    home.topic(&room, &alice, "new").await;
    let second = home
        .sync_with(&alice, next(&first), |request| {
            request.use_state_after = true
        })
        .await;
    let part = &second["rooms"]["join"][room.as_str()];
    assert_eq!(kinds(&part["timeline"]), ["m.room.topic"]);
    assert_eq!(kinds(&part["state_after"]), ["m.room.topic"]);
    assert!(part.get("state").is_none());
    home.say(&room, &alice, "hi").await;
    let third = home
        .sync_with(&alice, next(&second), |request| {
            request.use_state_after = true
        })
        .await;
    assert_eq!(
        third["rooms"]["join"][room.as_str()]["state_after"],
        json!({ "events": [] }),
        "required though empty"
    );
}

#[tokio::test]
async fn a_room_newly_joined_is_told_whole() {
    let home = Home::new().await;
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    let room = home.room(&alice).await;
    home.topic(&room, &alice, "before bob").await;
    let first = home.sync(&bob, "").await;
    assert!(first["rooms"].is_null());
    for n in 0..20 {
        home.say(&room, &alice, &n.to_string()).await;
    }
    home.join(&room, &bob).await;
    let second = home.sync(&bob, next(&first)).await;
    let part = &second["rooms"]["join"][room.as_str()];
    assert!(kinds(&part["state"]).contains(&"m.room.create".to_owned()));
    assert!(kinds(&part["state"]).contains(&"m.room.topic".to_owned()));
    assert_eq!(part["timeline"]["limited"], true);
    assert_eq!(part["summary"]["m.heroes"], json!(["@alice:h"]));
}

#[tokio::test]
async fn nothing_of_a_room_after_leaving_it() {
    let home = Home::new().await;
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    let room = home.room(&alice).await;
    home.join(&room, &bob).await;
    let first = home.sync(&bob, "").await;
    home.say(&room, &alice, "still here").await;
    home.rooms.leave(&room, &bob.id, None).await.unwrap();
    home.say(&room, &alice, "secret").await;
    home.topic(&room, &alice, "secret topic").await;
    let second = home.sync(&bob, next(&first)).await;
    let part = second["rooms"]["leave"][room.as_str()].to_string();
    assert!(
        part.contains("still here") && !part.contains("secret"),
        "{part}"
    );
    let third = home.sync(&bob, next(&second)).await;
    assert!(third["rooms"].is_null(), "{third}");
    let fresh = home.sync(&bob, "").await;
    assert!(
        fresh["rooms"].is_null(),
        "left rooms only when they are asked for"
    );
}

#[tokio::test]
async fn an_invite_comes_with_stripped_state() {
    let home = Home::new().await;
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    let room = home.room(&alice).await;
    let first = home.sync(&bob, "").await;
    home.rooms
        .invite(&room, &alice.id, &bob.id, &MemberDetails::default())
        .await
        .unwrap();
    let second = home.sync(&bob, next(&first)).await;
    let state = kinds(&second["rooms"]["invite"][room.as_str()]["invite_state"]);
    assert!(
        state.contains(&"m.room.create".to_owned()) && state.contains(&"m.room.member".to_owned()),
        "{state:?}"
    );
    assert!(home.sync(&bob, next(&second)).await["rooms"].is_null());
}

#[tokio::test]
async fn a_declined_invite_is_told_to_who_declined_it() {
    let home = Home::new().await;
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    let room = home.room(&alice).await;
    let joined = to_raw_value(&json!({ "history_visibility": "joined" })).unwrap();
    let event = NewEvent::state("m.room.history_visibility", "", joined);
    home.rooms
        .send(&room, &alice.id, event, None)
        .await
        .unwrap();
    home.rooms
        .invite(&room, &alice.id, &bob.id, &MemberDetails::default())
        .await
        .unwrap();
    let invited = home.sync(&bob, "").await;
    home.rooms.leave(&room, &bob.id, None).await.unwrap();
    let left = home.sync(&bob, next(&invited)).await;
    let part = &left["rooms"]["leave"][room.as_str()];
    assert_eq!(
        part["timeline"]["events"][0]["content"]["membership"],
        "leave"
    );
    assert_eq!(
        part["state"]["events"],
        json!([]),
        "who was never in the room learns nothing of it"
    );
}

#[tokio::test]
async fn who_declines_to_come_back_is_told_nothing_again() {
    let home = Home::new().await;
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    let room = home.room(&alice).await;
    home.join(&room, &bob).await;
    home.say(&room, &alice, "old").await;
    let details = MemberDetails::default();
    home.rooms
        .kick(&room, &alice.id, &bob.id, None, false)
        .await
        .unwrap();
    let out = home.sync(&bob, "").await;
    home.rooms
        .invite(&room, &alice.id, &bob.id, &details)
        .await
        .unwrap();
    home.rooms.leave(&room, &bob.id, None).await.unwrap();
    let declined = home.sync(&bob, next(&out)).await;
    let timeline = &declined["rooms"]["leave"][room.as_str()]["timeline"];
    let told = timeline.to_string();
    assert!(
        told.contains(r#""membership":"leave""#) && !told.contains("old"),
        "{told}"
    );
    // Who came and went in between is told what they saw.
    home.join(&room, &bob).await;
    home.say(&room, &alice, "new").await;
    home.rooms.leave(&room, &bob.id, None).await.unwrap();
    let left = home.sync(&bob, next(&declined)).await;
    let timeline = left["rooms"]["leave"][room.as_str()]["timeline"].to_string();
    assert!(timeline.contains("new"), "{timeline}");
}

#[tokio::test]
async fn waiting_clients_are_woken_by_what_concerns_them() {
    let home = Arc::new(Home::new().await);
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    let room = home.room(&alice).await;
    home.join(&room, &bob).await;
    let since = next(&home.sync(&bob, "").await).to_owned();
    let waiting = {
        let (home, since) = (home.clone(), since.clone());
        tokio::spawn(async move {
            home.sync_with(&bob, &since, |request| {
                request.timeout = Duration::from_secs(60)
            })
            .await
        })
    };
    tokio::task::yield_now().await;
    // A room bob is not in does not end his wait.
    let other = home.room(&alice).await;
    home.say(&other, &alice, "elsewhere").await;
    home.typing.set(
        home.rooms.view(&room).await.unwrap().unwrap().num(),
        &alice.id,
        Some(30_000),
    );
    let answer = waiting.await.unwrap();
    let part = &answer["rooms"]["join"][room.as_str()]["ephemeral"];
    assert_eq!(
        part["events"][0]["content"]["user_ids"],
        json!(["@alice:h"])
    );
    assert!(answer["rooms"]["join"][other.as_str()].is_null());
}

#[tokio::test]
async fn lazy_members_are_those_of_the_senders() {
    let home = Home::new().await;
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    let carol = home.person("carol").await;
    let room = home.room(&alice).await;
    home.join(&room, &bob).await;
    home.join(&room, &carol).await;
    for n in 0..10 {
        home.say(&room, &bob, &n.to_string()).await;
    }
    let lazy = |request: &mut SyncRequest| {
        request.filter =
            serde_json::from_value(json!({ "room": { "state": { "lazy_load_members": true } } }))
                .unwrap();
    };
    let answer = home.sync_with(&alice, "", lazy).await;
    let state = answer["rooms"]["join"][room.as_str()]["state"]["events"]
        .as_array()
        .unwrap()
        .clone();
    let mut members: Vec<&str> = state
        .iter()
        .filter(|event| event["type"] == "m.room.member")
        .map(|event| event["state_key"].as_str().unwrap())
        .collect();
    members.sort_unstable();
    assert_eq!(members, ["@alice:h", "@bob:h"]);
}

/// "The member list for the room is then maintained by the state in subsequent incremental responses": who comes or goes
/// where the timeline has a gap is told, though they said nothing.
#[tokio::test]
async fn lazy_members_are_told_of_who_comes_and_goes_in_a_gap() {
    let home = Home::new().await;
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    let carol = home.person("carol").await;
    let room = home.room(&alice).await;
    home.join(&room, &bob).await;
    let lazy = |request: &mut SyncRequest| {
        request.filter = serde_json::from_value(json!({ "room": {
            "state": { "lazy_load_members": true }, "timeline": { "limit": 2 },
        } }))
        .unwrap();
    };
    let told = |answer: &Value| {
        let room = &answer["rooms"]["join"][room.as_str()];
        assert_eq!(room["timeline"]["limited"], true);
        let mut members: Vec<String> = room["state"]["events"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|event| event["type"] == "m.room.member")
            .map(|event| {
                let membership = event["content"]["membership"].as_str().unwrap();
                format!("{} {membership}", event["state_key"].as_str().unwrap())
            })
            .collect();
        members.sort_unstable();
        (members, room["summary"]["m.joined_member_count"].clone())
    };
    let first = home.sync_with(&alice, "", lazy).await;
    home.join(&room, &carol).await;
    for n in 0..5 {
        home.say(&room, &bob, &n.to_string()).await;
    }
    let came = home.sync_with(&alice, next(&first), lazy).await;
    assert_eq!(
        told(&came),
        (
            vec!["@bob:h join".to_owned(), "@carol:h join".to_owned()],
            json!(3)
        )
    );
    home.rooms.leave(&room, &carol.id, None).await.unwrap();
    for n in 5..10 {
        home.say(&room, &bob, &n.to_string()).await;
    }
    let left = home.sync_with(&alice, next(&came), lazy).await;
    assert_eq!(
        told(&left),
        (
            vec!["@bob:h join".to_owned(), "@carol:h leave".to_owned()],
            json!(2)
        )
    );
}

/// The promise that everything else rests on: whatever is written meanwhile, following the tokens
/// brings each event once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_event_is_missed_under_concurrent_writes() {
    let home = Arc::new(Home::new().await);
    let reader = home.person("reader").await;
    let mut rooms = Vec::new();
    let mut writers = Vec::new();
    for n in 0..4 {
        let writer = home.person(&format!("writer{n}")).await;
        let room = home.room(&writer).await;
        home.join(&room, &reader).await;
        rooms.push(room.clone());
        writers.push((writer, room));
    }
    let mut since = next(&home.sync(&reader, "").await).to_owned();
    let mut tasks = Vec::new();
    for (writer, room) in writers {
        let home = home.clone();
        tasks.push(tokio::spawn(async move {
            for n in 0..50 {
                home.say(&room, &writer, &n.to_string()).await;
            }
        }));
    }
    let mut seen = vec![Vec::new(); rooms.len()];
    for _ in 0..10_000 {
        let answer = home
            .sync_with(&reader, &since, |request| {
                request.timeout = Duration::from_secs(10);
                request.filter =
                    serde_json::from_value(json!({ "room": { "timeline": { "limit": 1000 } } }))
                        .unwrap();
            })
            .await;
        since = next(&answer).to_owned();
        for (room, seen) in rooms.iter().zip(&mut seen) {
            seen.extend(bodies(&answer, room));
        }
        if seen.iter().map(Vec::len).sum::<usize>() >= 200 {
            break;
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    let expected: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    for seen in seen {
        assert_eq!(seen, expected);
    }
}
