//! Sliding sync, over the model.

use std::collections::BTreeMap;

use resuni_rooms::ReceiptKind;
use ruma::{OwnedEventId, RoomId, device_id};

use super::*;
use crate::{
    SyncError,
    sliding::{
        RequiredState, RoomConfig, RoomFilters, Scope, SlidingForm, SlidingList, SlidingRequest,
        StateRule, ToDeviceExtension,
    },
};

/// What is wanted of a room.
fn config(limit: usize, state: &[(&str, &str)]) -> Arc<RoomConfig> {
    let lazy = state.contains(&("m.room.member", "$LAZY"));
    let rules = state.iter().filter(|(_, key)| *key != "$LAZY");
    let any = |text: &str| (text != "*").then(|| text.to_owned());
    let include = rules.map(|(kind, key)| StateRule {
        kind: any(kind),
        state_key: any(key),
    });
    Arc::new(RoomConfig {
        timeline_limit: limit,
        required_state: RequiredState {
            include: include.collect(),
            exclude: Vec::new(),
            lazy_members: lazy,
        },
    })
}

/// One list with the first `window` rooms.
fn window(window: usize, limit: usize) -> SlidingRequest {
    let list = SlidingList {
        ranges: Some(vec![(0, window - 1)]),
        filters: RoomFilters::default(),
        config: config(limit, &[]),
    };
    SlidingRequest {
        lists: BTreeMap::from([("all".to_owned(), list)]),
        ..SlidingRequest::default()
    }
}

impl Home {
    async fn try_slide(
        &self,
        who: &Person,
        pos: &str,
        request: &SlidingRequest,
    ) -> Result<Value, SyncError> {
        let request = SlidingRequest {
            pos: (!pos.is_empty()).then(|| pos.to_owned()),
            ..request.clone()
        };
        let who = Who {
            user: &who.id,
            account: who.account,
            device: Some(device_id!("D")),
        };
        let answer = self.sync.sliding(who, &request).await?;
        Ok(serde_json::from_str(&answer).unwrap())
    }

    async fn slide(&self, who: &Person, pos: &str, request: &SlidingRequest) -> Value {
        self.try_slide(who, pos, request).await.unwrap()
    }
}

fn pos(answer: &Value) -> &str {
    answer["pos"].as_str().unwrap()
}

fn said(answer: &Value, room: &RoomId) -> Vec<String> {
    let events = answer["rooms"][room.as_str()]["timeline"].as_array();
    let bodies = events.into_iter().flatten();
    bodies
        .filter_map(|event| event["content"]["body"].as_str().map(str::to_owned))
        .collect()
}

fn rooms_in(answer: &Value) -> Vec<&str> {
    let rooms = answer["rooms"].as_object().unwrap();
    rooms.keys().map(String::as_str).collect()
}

fn state_of(room: &Value) -> Vec<(&str, &str)> {
    let events = room["required_state"].as_array();
    let mut keys: Vec<(&str, &str)> = events
        .into_iter()
        .flatten()
        .map(|event| {
            (
                event["type"].as_str().unwrap(),
                event["state_key"].as_str().unwrap(),
            )
        })
        .collect();
    keys.sort_unstable();
    keys
}

#[tokio::test]
async fn a_window_grows_and_news_come_at_the_top() {
    let home = Home::new().await;
    let alice = home.person("alice").await;
    let mut rooms = Vec::new();
    for n in 0..5 {
        let room = home.room(&alice).await;
        home.say(&room, &alice, &format!("first {n}")).await;
        rooms.push(room);
    }
    let first = home.slide(&alice, "", &window(2, 1)).await;
    assert_eq!(first["lists"]["all"]["count"], 5);
    let mut newest = vec![rooms[3].as_str(), rooms[4].as_str()];
    newest.sort_unstable();
    assert_eq!(rooms_in(&first), newest);
    let part = &first["rooms"][rooms[4].as_str()];
    assert_eq!(
        (&part["initial"], &part["limited"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(part["num_live"], 0);
    assert_eq!(part["joined_count"], 1);
    assert_eq!(part["membership"], "join");
    assert_eq!(part["lists"], json!(["all"]));
    assert_eq!(said(&first, &rooms[4]), ["first 4"]);

    let more = home.slide(&alice, pos(&first), &window(4, 1)).await;
    assert_eq!(rooms_in(&more).len(), 2, "what was sent is not sent again");
    assert!(more["rooms"][rooms[2].as_str()]["initial"] == true);

    home.say(&rooms[0], &alice, "from below").await;
    let live = home.slide(&alice, pos(&more), &window(4, 1)).await;
    assert_eq!(rooms_in(&live), [rooms[0].as_str()]);
    let part = &live["rooms"][rooms[0].as_str()];
    assert_eq!(
        (&part["initial"], &part["num_live"]),
        (&json!(true), &json!(1))
    );

    home.say(&rooms[0], &alice, "again").await;
    let next = home.slide(&alice, pos(&live), &window(4, 1)).await;
    let part = &next["rooms"][rooms[0].as_str()];
    assert_eq!(
        (&part["initial"], &part["limited"]),
        (&json!(false), &json!(false))
    );
    assert_eq!(said(&next, &rooms[0]), ["again"]);
    assert!(part["name"].is_null() && part["joined_count"].is_null());
}

#[tokio::test]
async fn a_lost_answer_is_made_again_and_an_unknown_position_refused() {
    let home = Home::new().await;
    let alice = home.person("alice").await;
    let room = home.room(&alice).await;
    let first = home.slide(&alice, "", &window(1, 5)).await;
    home.say(&room, &alice, "one").await;
    let lost = home.slide(&alice, pos(&first), &window(1, 5)).await;
    assert_eq!(said(&lost, &room), ["one"]);
    home.say(&room, &alice, "two").await;
    let again = home.slide(&alice, pos(&first), &window(1, 5)).await;
    assert_eq!(said(&again, &room), ["one", "two"]);
    let nothing = home.slide(&alice, pos(&again), &window(1, 5)).await;
    assert!(rooms_in(&nothing).is_empty());
    // What came before the last answer that was used is gone.
    for old in [pos(&first), pos(&lost), "s1_1", "nonsense"] {
        let refused = home.try_slide(&alice, old, &window(1, 5)).await;
        assert!(matches!(refused, Err(SyncError::UnknownPos)), "{old}");
    }
}

/// Whatever the window is, and whichever answers are lost: a client that follows the positions has each room's newest
/// events, and knows where something is left out.
#[tokio::test]
async fn nothing_is_missed_between_windows_and_lost_answers() {
    let home = Home::new().await;
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    let mut rooms = Vec::new();
    for _ in 0..4 {
        let room = home.room(&bob).await;
        home.join(&room, &alice).await;
        rooms.push(room);
    }
    let mut sent: Vec<Vec<String>> = vec![Vec::new(); rooms.len()];
    let mut client: Vec<Vec<String>> = vec![Vec::new(); rooms.len()];
    let mut at = String::new();
    // A fixed sequence that looks like chance.
    let mut seed = 7u64;
    let mut chance = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize % below
    };
    for round in 0..120 {
        for _ in 0..chance(4) {
            let n = chance(rooms.len());
            let text = format!("{round}.{}", sent[n].len());
            home.say(&rooms[n], &bob, &text).await;
            sent[n].push(text);
        }
        let last = round == 119;
        let request = match last {
            true => window(4, 1),
            false => window(1 + chance(4), 1 + chance(3)),
        };
        let answer = home.slide(&alice, &at, &request).await;
        if !last && chance(3) == 0 {
            continue; // It never arrived.
        }
        at = pos(&answer).to_owned();
        for (n, room) in rooms.iter().enumerate() {
            let part = &answer["rooms"][room.as_str()];
            if part.is_null() {
                continue;
            }
            let told = said(&answer, room);
            if part["initial"] == true
                || part["limited"] == true
                || part["expanded_timeline"] == true
            {
                client[n] = told;
            } else {
                client[n].extend(told);
            }
        }
    }
    for (sent, client) in sent.iter().zip(&client) {
        assert!(
            !client.is_empty() && sent.ends_with(client),
            "{sent:?} {client:?}"
        );
    }
}

#[tokio::test]
async fn more_of_a_timeline_is_told_at_once_and_only_if_the_client_lacks_it() {
    let home = Home::new().await;
    let alice = home.person("alice").await;
    let room = home.room(&alice).await;
    for text in ["a", "b"] {
        home.say(&room, &alice, text).await;
    }
    let first = home.slide(&alice, "", &window(1, 1)).await;
    home.say(&room, &alice, "c").await;
    let second = home.slide(&alice, pos(&first), &window(1, 1)).await;
    home.say(&room, &alice, "d").await;
    let third = home.slide(&alice, pos(&second), &window(1, 1)).await;
    // The client has b, c and d, although it was given one at a time.
    let enough = home.slide(&alice, pos(&third), &window(1, 3)).await;
    assert!(rooms_in(&enough).is_empty());
    let more = home.slide(&alice, pos(&enough), &window(1, 4)).await;
    assert_eq!(said(&more, &room), ["a", "b", "c", "d"]);
    let part = &more["rooms"][room.as_str()];
    assert_eq!(
        (&part["expanded_timeline"], &part["initial"]),
        (&json!(true), &json!(false))
    );
    let again = home.slide(&alice, pos(&more), &window(1, 4)).await;
    assert!(rooms_in(&again).is_empty());
}

#[tokio::test]
async fn required_state_grows_and_members_come_as_they_speak() {
    let home = Home::new().await;
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    let room = home.room(&alice).await;
    home.join(&room, &bob).await;
    home.topic(&room, &alice, "one").await;
    for n in 0..5 {
        home.say(&room, &alice, &n.to_string()).await;
    }
    let ask = |state: &[(&str, &str)]| SlidingRequest {
        subscriptions: BTreeMap::from([(room.clone(), config(3, state))]),
        ..SlidingRequest::default()
    };
    let lazy = ("m.room.member", "$LAZY");
    let first = home
        .slide(&alice, "", &ask(&[("m.room.create", ""), lazy]))
        .await;
    let part = |answer: &Value| answer["rooms"][room.as_str()].clone();
    let keys = [("m.room.create", ""), ("m.room.member", "@alice:h")];
    assert_eq!(state_of(&part(&first)), keys);

    let wider = ask(&[("m.room.create", ""), ("m.room.topic", "*"), lazy]);
    let second = home.slide(&alice, pos(&first), &wider).await;
    assert_eq!(
        state_of(&part(&second)),
        [("m.room.topic", "")],
        "what is new of it, at once"
    );

    home.say(&room, &alice, "known").await;
    let third = home.slide(&alice, pos(&second), &wider).await;
    assert!(
        state_of(&part(&third)).is_empty(),
        "her member event was told"
    );
    home.say(&room, &bob, "new").await;
    let fourth = home.slide(&alice, pos(&third), &wider).await;
    assert_eq!(state_of(&part(&fourth)), [("m.room.member", "@bob:h")]);
    home.topic(&room, &alice, "two").await;
    let fifth = home.slide(&alice, pos(&fourth), &wider).await;
    assert_eq!(part(&fifth)["required_state"][0]["content"]["topic"], "two");

    // Given up, changed meanwhile, and wanted again.
    let narrow = ask(&[lazy]);
    let sixth = home.slide(&alice, pos(&fifth), &narrow).await;
    home.topic(&room, &alice, "three").await;
    let seventh = home.slide(&alice, pos(&sixth), &narrow).await;
    assert!(state_of(&part(&seventh)).is_empty());
    let eighth = home.slide(&alice, pos(&seventh), &wider).await;
    assert_eq!(
        state_of(&part(&eighth)),
        [("m.room.create", ""), ("m.room.topic", "")]
    );
    let all = home.slide(&alice, pos(&eighth), &ask(&[("*", "*")])).await;
    assert!(state_of(&part(&all)).contains(&("m.room.member", "@bob:h")));
}

#[tokio::test]
async fn invites_departures_and_returns() {
    let home = Home::new().await;
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    let room = home.room(&alice).await;
    home.say(&room, &alice, "before").await;
    let invite = async || {
        let details = MemberDetails::default();
        home.rooms
            .invite(&room, &alice.id, &bob.id, &details)
            .await
            .unwrap();
    };
    invite().await;
    let first = home.slide(&bob, "", &window(5, 9)).await;
    let part = &first["rooms"][room.as_str()];
    assert_eq!(part["membership"], "invite");
    assert!(part["timeline"].is_null() && part["required_state"].is_null());
    assert!(part["stripped_state"].as_array().unwrap().len() > 2);
    let quiet = home.slide(&bob, pos(&first), &window(5, 9)).await;
    assert!(rooms_in(&quiet).is_empty());

    home.rooms.leave(&room, &bob.id, None).await.unwrap();
    let declined = home.slide(&bob, pos(&quiet), &window(5, 9)).await;
    let part = &declined["rooms"][room.as_str()];
    assert_eq!(part["membership"], "leave");
    assert_eq!(part["stripped_state"][0]["content"]["membership"], "leave");
    assert_eq!(declined["lists"]["all"]["count"], 0);
    let gone = home.slide(&bob, pos(&declined), &window(5, 9)).await;
    assert!(rooms_in(&gone).is_empty());

    home.join(&room, &bob).await;
    let joined = home.slide(&bob, pos(&gone), &window(5, 9)).await;
    assert_eq!(joined["rooms"][room.as_str()]["initial"], true);
    assert_eq!(said(&joined, &room), ["before"]);

    home.rooms.leave(&room, &bob.id, None).await.unwrap();
    home.say(&room, &alice, "secret").await;
    let left = home.slide(&bob, pos(&joined), &window(5, 9)).await;
    let part = &left["rooms"][room.as_str()];
    assert_eq!(part["membership"], "leave");
    assert_eq!(state_of(part), [("m.room.member", "@bob:h")]);
    assert!(!left.to_string().contains("secret") && part["joined_count"].is_null());
    let gone = home.slide(&bob, pos(&left), &window(5, 9)).await;
    assert!(rooms_in(&gone).is_empty());
    let anew = home.slide(&bob, "", &window(5, 9)).await;
    assert!(rooms_in(&anew).is_empty(), "who left knows that they did");

    home.join(&room, &bob).await;
    let back = home.slide(&bob, pos(&anew), &window(5, 9)).await;
    assert_eq!(back["rooms"][room.as_str()]["initial"], true);
    home.rooms
        .kick(&room, &alice.id, &bob.id, None, false)
        .await
        .unwrap();
    let kicked = home.slide(&bob, pos(&back), &window(5, 9)).await;
    assert_eq!(kicked["rooms"][room.as_str()]["membership"], "leave");
    assert_eq!(kicked["lists"]["all"]["count"], 1);
    let anew = home.slide(&bob, "", &window(5, 9)).await;
    assert_eq!(
        rooms_in(&anew),
        [room.as_str()],
        "who was put out may not know it"
    );
    home.rooms.forget(&room, &bob.id).await.unwrap();
    let forgotten = home.slide(&bob, pos(&anew), &window(5, 9)).await;
    assert_eq!(forgotten["lists"]["all"]["count"], 0);
}

#[tokio::test]
async fn a_room_that_is_not_the_users_is_not_told() {
    let home = Home::new().await;
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    let room = home.room(&alice).await;
    let request = SlidingRequest {
        subscriptions: BTreeMap::from([(room.clone(), config(5, &[("*", "*")]))]),
        ..SlidingRequest::default()
    };
    let answer = home.slide(&bob, "", &request).await;
    assert!(rooms_in(&answer).is_empty());
    // A position is no key: it is of its owner and their device only.
    let own = home.slide(&alice, "", &request).await;
    let refused = home.try_slide(&bob, pos(&own), &request).await;
    assert!(matches!(refused, Err(SyncError::UnknownPos)));
}

#[tokio::test]
async fn lists_follow_what_their_filters_ask_for() {
    let home = Home::new().await;
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    let plain = home.room(&alice).await;
    let direct = home.room(&alice).await;
    let space = home
        .rooms
        .create(
            &alice.id,
            CreateRoom {
                creation_content: json!({ "type": "m.space" }).as_object().cloned().unwrap(),
                ..CreateRoom::default()
            },
        )
        .await
        .unwrap();
    let invited = home.room(&bob).await;
    home.rooms
        .invite(&invited, &bob.id, &alice.id, &MemberDetails::default())
        .await
        .unwrap();
    let list = |filters: RoomFilters| SlidingList {
        ranges: None,
        filters,
        config: config(1, &[]),
    };
    let all = RoomFilters::default;
    let is_space = Some("m.space".to_owned());
    let request = SlidingRequest {
        lists: BTreeMap::from([
            (
                "dm".to_owned(),
                list(RoomFilters {
                    is_dm: Some(true),
                    ..all()
                }),
            ),
            (
                "invited".to_owned(),
                list(RoomFilters {
                    is_invited: Some(true),
                    ..all()
                }),
            ),
            (
                "encrypted".to_owned(),
                list(RoomFilters {
                    is_encrypted: Some(true),
                    ..all()
                }),
            ),
            (
                "spaces".to_owned(),
                list(RoomFilters {
                    room_types: Some(vec![is_space.clone()]),
                    ..all()
                }),
            ),
            (
                "no_spaces".to_owned(),
                list(RoomFilters {
                    not_room_types: vec![is_space],
                    ..all()
                }),
            ),
            (
                "tagged".to_owned(),
                list(RoomFilters {
                    tags: Some(vec!["m.favourite".to_owned()]),
                    ..all()
                }),
            ),
            (
                "children".to_owned(),
                list(RoomFilters {
                    spaces: Some(vec![space.clone()]),
                    ..all()
                }),
            ),
        ]),
        ..SlidingRequest::default()
    };
    let counts = |answer: &Value| -> BTreeMap<String, u64> {
        let lists = answer["lists"].as_object().unwrap().clone();
        lists
            .into_iter()
            .map(|(name, list)| (name, list["count"].as_u64().unwrap()))
            .filter(|(_, count)| *count > 0)
            .collect()
    };
    let expected = |counts: &[(&str, u64)]| -> BTreeMap<String, u64> {
        let counts = counts.iter();
        counts
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect()
    };
    let first = home.slide(&alice, "", &request).await;
    let before = [("invited", 1), ("no_spaces", 3), ("spaces", 1)];
    assert_eq!(counts(&first), expected(&before));

    let direct_rooms = json!({ "@bob:h": [direct] });
    let direct_rooms = direct_rooms.as_object().unwrap();
    home.accounts
        .set_account_data(alice.account, None, "m.direct", direct_rooms)
        .await
        .unwrap();
    home.accounts
        .set_tag(
            alice.account,
            plain.as_str(),
            "m.favourite",
            serde_json::Map::new(),
        )
        .await
        .unwrap();
    let algorithm = to_raw_value(&json!({ "algorithm": "m.megolm.v1.aes-sha2" })).unwrap();
    let encrypt = NewEvent::state("m.room.encryption", "", algorithm);
    home.rooms
        .send(&plain, &alice.id, encrypt, None)
        .await
        .unwrap();
    let via = to_raw_value(&json!({ "via": ["h"] })).unwrap();
    let child = NewEvent::state("m.space.child", plain.as_str(), via);
    home.rooms
        .send(&space, &alice.id, child, None)
        .await
        .unwrap();
    home.rooms.leave(&invited, &alice.id, None).await.unwrap();
    let second = home.slide(&alice, pos(&first), &request).await;
    let after = [
        ("children", 1),
        ("dm", 1),
        ("encrypted", 1),
        ("no_spaces", 2),
        ("spaces", 1),
        ("tagged", 1),
    ];
    assert_eq!(counts(&second), expected(&after));
    assert_eq!(second["rooms"][direct.as_str()]["is_dm"], true);
    // The order that is kept is the one that is read anew.
    let anew = home.slide(&bob, "", &request).await;
    assert_eq!(counts(&anew), expected(&[("no_spaces", 1)]));
}

#[tokio::test]
async fn extensions_tell_of_a_room_once_it_is_wanted() {
    let home = Home::new().await;
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    let below = home.room(&alice).await;
    home.join(&below, &bob).await;
    let top = home.room(&alice).await;
    let mut request = window(1, 5);
    request.extensions.account_data = Some(Scope::default());
    request.extensions.receipts = Some(Scope::default());
    request.extensions.typing = Some(Scope::default());
    let first = home.slide(&alice, "", &request).await;
    let global = first["extensions"]["account_data"]["global"].to_string();
    assert!(global.contains("m.push_rules"));
    let mut both = request.clone();
    for list in both.lists.values_mut() {
        list.ranges = None;
    }
    let second = home.slide(&alice, pos(&first), &both).await;
    assert_eq!(rooms_in(&second), [below.as_str()]);

    // The room is out of the window when this happens.
    let tag = |name: &'static str| {
        let (home, room) = (&home, below.as_str());
        async move {
            let tags = serde_json::Map::new();
            home.accounts
                .set_tag(alice.account, room, name, tags)
                .await
                .unwrap();
        }
    };
    tag("m.lowpriority").await;
    let view = home.rooms.view(&below).await.unwrap().unwrap();
    let newest = view
        .state("m.room.member", "@bob:h")
        .await
        .unwrap()
        .unwrap();
    let newest: OwnedEventId = newest.event_id().to_owned();
    home.rooms
        .set_receipt(&below, &bob.id, ReceiptKind::Read, None, &newest)
        .await
        .unwrap();
    let num = view.num();
    home.typing.set(num, &bob.id, Some(30_000));
    let away = home.slide(&alice, pos(&second), &request).await;
    let rooms = |answer: &Value, name: &str| answer["extensions"][name]["rooms"].clone();
    for name in ["account_data", "receipts", "typing"] {
        assert_eq!(rooms(&away, name), json!({}), "{name}");
    }
    let quiet = home.slide(&alice, pos(&away), &request).await;
    let back = home.slide(&alice, pos(&quiet), &both).await;
    let id = below.as_str();
    assert_eq!(rooms(&back, "account_data")[id][0]["type"], "m.tag");
    let receipt = rooms(&back, "receipts")[id]["content"][newest.as_str()]["m.read"].clone();
    assert!(receipt["@bob:h"]["ts"].is_number());
    assert_eq!(
        rooms(&back, "typing")[id]["content"]["user_ids"],
        json!(["@bob:h"])
    );
    let after = home.slide(&alice, pos(&back), &both).await;
    for name in ["account_data", "receipts", "typing"] {
        assert_eq!(rooms(&after, name), json!({}), "{name} is told once");
    }
    let _ = top;
}

#[tokio::test]
async fn messages_to_the_device_are_told_until_they_are_acknowledged() {
    let home = Home::new().await;
    let mut alice = home.person("alice").await;
    alice.device = Some(device_id!("D").to_owned());
    let mut request = SlidingRequest::default();
    request.extensions.to_device = Some(ToDeviceExtension::default());
    let empty = home.slide(&alice, "", &request).await;
    let next = empty["extensions"]["to_device"]["next_batch"]
        .as_str()
        .unwrap();
    assert!(next.parse::<u64>().is_ok());
    let ahead = ToDeviceExtension {
        since: Some(resuni_store::Position(u64::MAX)),
        limit: None,
    };
    request.extensions.to_device = Some(ahead);
    let refused = home.try_slide(&alice, pos(&empty), &request).await;
    assert!(matches!(refused, Err(SyncError::TokenFromTheFuture)));
}

#[tokio::test]
async fn who_waits_is_woken_by_what_is_in_the_window() {
    let home = Arc::new(Home::new().await);
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    let below = home.room(&alice).await;
    let top = home.room(&alice).await;
    home.join(&top, &bob).await;
    let only_invites = |mut request: SlidingRequest| {
        for list in request.lists.values_mut() {
            list.filters.is_invited = Some(true);
        }
        request
    };
    let request = only_invites(window(3, 1));
    let mut request = SlidingRequest {
        subscriptions: BTreeMap::from([(top.clone(), config(3, &[]))]),
        ..request
    };
    let first = home.slide(&bob, "", &request).await;
    request.timeout = Duration::from_secs(60);
    let waiting = {
        let (home, at) = (home.clone(), pos(&first).to_owned());
        tokio::spawn(async move { home.slide(&bob, &at, &request).await })
    };
    tokio::task::yield_now().await;
    home.say(&below, &alice, "elsewhere").await;
    home.say(&top, &alice, "here").await;
    let answer = waiting.await.unwrap();
    assert_eq!(said(&answer, &top), ["here"]);
    assert_eq!(rooms_in(&answer), [top.as_str()]);
}

#[tokio::test]
async fn the_unstable_form_has_its_own_names() {
    let home = Home::new().await;
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    let room = home.room(&alice).await;
    home.join(&room, &bob).await;
    let invited = home.room(&alice).await;
    home.rooms
        .invite(&invited, &alice.id, &bob.id, &MemberDetails::default())
        .await
        .unwrap();
    home.say(&room, &alice, "hello").await;
    let request = SlidingRequest {
        form: SlidingForm::Unstable,
        txn_id: Some("t".to_owned()),
        ..window(5, 1)
    };
    let first = home.slide(&bob, "", &request).await;
    assert_eq!(first["txn_id"], "t");
    assert!(first["rooms"][invited.as_str()]["invite_state"].is_array());
    let part = &first["rooms"][room.as_str()];
    assert!(part["membership"].is_null() && part["lists"].is_null());
    assert_eq!(part["notification_count"], 1);
    assert!(part["bump_stamp"].as_u64().unwrap() > 0);

    // Reading in another client is news, although no event came.
    let view = home.rooms.view(&room).await.unwrap().unwrap();
    let end = view.end();
    let page = view.latest(end, None, 1).await.unwrap();
    let newest = page.events[0].event_id();
    home.rooms
        .set_receipt(&room, &bob.id, ReceiptKind::ReadPrivate, None, &newest)
        .await
        .unwrap();
    let second = home.slide(&bob, pos(&first), &request).await;
    assert_eq!(second["rooms"][room.as_str()]["notification_count"], 0);
}

#[tokio::test]
async fn threads_that_are_followed_are_told_with_the_newest_changes() {
    let home = Home::new().await;
    let alice = home.person("alice").await;
    let thread = |root: &str| resuni_accounts::ThreadName {
        room: "!r:h".to_owned(),
        root: root.to_owned(),
    };
    let follow = async |root: &str| {
        let thread = thread(root);
        let followed = home.accounts.follow_thread(alice.account, &thread, None);
        assert_eq!(followed.await.unwrap(), Ok(()));
    };
    let mut request = SlidingRequest::default();
    request.extensions.thread_subscriptions = Some(2);
    let name = "io.element.msc4308.thread_subscriptions";
    for root in ["$a", "$b", "$c"] {
        follow(root).await;
    }
    home.accounts
        .unfollow_thread(alice.account, &thread("$b"))
        .await
        .unwrap();
    let first = home.slide(&alice, "", &request).await;
    let told = &first["extensions"][name];
    assert_eq!(told["subscribed"]["!r:h"]["$c"]["automatic"], false);
    assert!(told["unsubscribed"].is_null(), "who begins follows nothing");
    assert!(
        told["prev_batch"].is_string(),
        "there is more than the limit"
    );
    let quiet = home.slide(&alice, pos(&first), &request).await;
    assert!(quiet["extensions"][name].is_null());
    home.accounts
        .unfollow_thread(alice.account, &thread("$a"))
        .await
        .unwrap();
    let next = home.slide(&alice, pos(&quiet), &request).await;
    assert!(next["extensions"][name]["unsubscribed"]["!r:h"]["$a"]["bump_stamp"].is_u64());
}
