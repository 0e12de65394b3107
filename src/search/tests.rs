//! What is found in a home in memory, and by whom.

use resuni_accounts::{AccountsConfig, AppServices, NewAccount, PasswordCost};
use resuni_dag::SigningKey;
use resuni_rooms::{CreateRoom, MemberDetails, NewEvent, Preset, RoomsConfig};
use resuni_store::{SharedClock, SystemClock};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId, UserId};
use serde_json::{Value, json, value::to_raw_value};

use super::*;

struct Home {
    rooms: Arc<Rooms>,
    accounts: Arc<Accounts>,
    search: Arc<Search>,
}

impl Home {
    async fn new() -> Self {
        let store = Store::memory().await;
        let clock: SharedClock = Arc::new(SystemClock);
        let name = ruma::owned_server_name!("home.test");
        let settings = AccountsConfig {
            password_cost: PasswordCost::Minimum,
            ..AccountsConfig::new(name.clone())
        };
        let services = AppServices::default();
        let accounts = Accounts::open(settings, services, store.clone(), clock.clone())
            .await
            .unwrap();
        let settings = RoomsConfig {
            server_name: name,
            key: Arc::new(SigningKey::generate("test", [7; 32]).unwrap()),
            default_version: RoomVersionId::V12,
        };
        let rooms = Rooms::open(settings, store, clock).await.unwrap();
        let search = Search::open(rooms.clone(), accounts.clone()).await.unwrap();
        Self {
            rooms,
            accounts,
            search,
        }
    }

    async fn person(&self, localpart: &str, name: &str) -> OwnedUserId {
        let account = NewAccount::user(localpart, "a long password".to_owned());
        let account = self.accounts.register(account).await.unwrap().account;
        self.accounts
            .set_profile_field(account, "displayname", json!(name))
            .await
            .unwrap();
        UserId::parse_with_server_name(localpart, self.rooms.server_name()).unwrap()
    }

    async fn room(&self, creator: &UserId, preset: Preset) -> OwnedRoomId {
        let request = CreateRoom {
            preset: Some(preset),
            ..CreateRoom::default()
        };
        self.rooms.create(creator, request).await.unwrap()
    }

    async fn join(&self, room: &OwnedRoomId, user: &UserId) {
        let details = MemberDetails::default();
        self.rooms.join(room, user, &details).await.unwrap();
    }

    async fn send(&self, room: &OwnedRoomId, who: &UserId, kind: &str, c: Value) -> OwnedEventId {
        let mut event = NewEvent::message(kind, to_raw_value(&c).unwrap());
        event.redacts = c["redacts"].as_str().map(|id| id.try_into().unwrap());
        self.rooms.send(room, who, event, None).await.unwrap()
    }

    async fn say(&self, room: &OwnedRoomId, who: &UserId, body: &str) -> OwnedEventId {
        let content = json!({ "msgtype": "m.text", "body": body });
        self.send(room, who, "m.room.message", content).await
    }

    async fn find(&self, who: &UserId, query: &Query) -> (Vec<OwnedEventId>, Results) {
        self.search.catch_up().await.unwrap();
        let results = self.search.text(who, query, |_| true).await.unwrap();
        let ids = results.hits.iter().map(|hit| hit.event.event_id());
        (ids.collect(), results)
    }

    async fn people(&self, who: &UserId, term: &str) -> Vec<OwnedUserId> {
        self.search.catch_up().await.unwrap();
        let (found, _) = self.search.people(who, term, 10).await.unwrap();
        found.into_iter().map(|found| found.user_id).collect()
    }
}

fn query(term: &str) -> Query {
    Query {
        term: term.to_owned(),
        keys: vec![Key::Body, Key::Name, Key::Topic],
        rooms: None,
        not_rooms: Vec::new(),
        by_rank: false,
        limit: 10,
        next_batch: None,
        ignored: Default::default(),
    }
}

#[tokio::test]
async fn messages_with_all_the_words_are_found_by_who_may_see_them() {
    let home = Home::new().await;
    let (alice, bob) = (
        home.person("alice", "Alice").await,
        home.person("bob", "Bob").await,
    );
    let room = home.room(&alice, Preset::PublicChat).await;
    let first = home.say(&room, &alice, "The red fox, quickly").await;
    let second = home.say(&room, &alice, "a RED herring").await;
    assert_eq!(
        home.find(&alice, &query("red")).await.0,
        [second.clone(), first.clone()]
    );
    assert_eq!(
        home.find(&alice, &query("fox red")).await.0,
        std::slice::from_ref(&first)
    );
    assert!(home.find(&alice, &query("fox herring")).await.0.is_empty());
    assert!(home.find(&alice, &query("...")).await.0.is_empty());
    let best = Query {
        by_rank: true,
        ..query("fox")
    };
    let short = home.say(&room, &alice, "fox").await;
    assert_eq!(home.find(&alice, &best).await.0, [short, first.clone()]);

    // Who was never in it finds nothing; who left finds nothing of what came after.
    assert!(home.find(&bob, &query("red")).await.0.is_empty());
    home.join(&room, &bob).await;
    assert_eq!(home.find(&bob, &query("red")).await.0.len(), 2);
    home.rooms.leave(&room, &bob, None).await.unwrap();
    home.say(&room, &alice, "red again").await;
    assert_eq!(home.find(&bob, &query("red")).await.0.len(), 2);

    home.send(
        &room,
        &alice,
        "m.room.redaction",
        json!({ "redacts": second }),
    )
    .await;
    assert!(home.find(&alice, &query("herring")).await.0.is_empty());
    let left = home.search.store.snapshot();
    let left = left
        .scan(
            &tables::WORDS,
            resuni_store::ScanRange::all(),
            resuni_store::Direction::Forward,
            usize::MAX,
        )
        .await
        .unwrap();
    assert!(left.iter().all(|((_, word, _), ())| word != "herring"));
}

#[tokio::test]
async fn pages_don_t_change_as_more_is_said() {
    let home = Home::new().await;
    let alice = home.person("alice", "Alice").await;
    let room = home.room(&alice, Preset::PrivateChat).await;
    let mut said = Vec::new();
    for n in 0..5 {
        said.push(home.say(&room, &alice, &format!("message {n}")).await);
    }
    said.reverse();
    let mut page = Query {
        limit: 2,
        ..query("message")
    };
    let mut found = Vec::new();
    loop {
        let (ids, results) = home.find(&alice, &page).await;
        assert_eq!(results.count, 5);
        found.extend(ids);
        home.say(&room, &alice, "message, late").await;
        match results.next_batch {
            Some(next) => page.next_batch = Some(next),
            None => break,
        }
    }
    assert_eq!(found, said);
    page.next_batch = Some("t1".to_owned());
    let bad = home.search.text(&alice, &page, |_| true).await;
    assert!(matches!(bad, Err(SearchError::BadToken)));
}

#[tokio::test]
async fn people_are_found_by_their_profile_where_the_reader_may_know_of_them() {
    let home = Home::new().await;
    let alice = home.person("alice-1", "Alice Liddell").await;
    let (bob, eve) = (
        home.person("bob", "Bob").await,
        home.person("eve", "Eve").await,
    );
    let secret = home.room(&alice, Preset::PublicChat).await;
    let rule = json!({ "join_rule": "invite" });
    home.join(&secret, &bob).await;
    let rule = NewEvent::state("m.room.join_rules", "", to_raw_value(&rule).unwrap());
    home.rooms.send(&secret, &alice, rule, None).await.unwrap();
    // What she calls herself in one room is no matter of the directory.
    let called = json!({ "membership": "join", "displayname": "Freddy" });
    let called = NewEvent::state(
        "m.room.member",
        alice.as_str(),
        to_raw_value(&called).unwrap(),
    );
    home.rooms
        .send(&secret, &alice, called, None)
        .await
        .unwrap();
    for term in [
        "liddell",
        "ALI",
        "alice lid",
        "@alice",
        "@alice-1:home.test",
    ] {
        assert_eq!(
            home.people(&bob, term).await,
            std::slice::from_ref(&alice),
            "{term}"
        );
        assert!(home.people(&eve, term).await.is_empty(), "{term}");
    }
    assert!(home.people(&bob, "freddy").await.is_empty());
    assert!(home.people(&bob, "alice bob").await.is_empty());
    assert!(home.people(&bob, "").await.is_empty());
    assert!(home.people(&bob, "bob").await.is_empty());

    let open = home.room(&alice, Preset::PublicChat).await;
    assert_eq!(
        home.people(&eve, "alice").await,
        std::slice::from_ref(&alice)
    );
    // In a room that everybody may know of, they themselves too.
    let found = home.people(&alice, "alice").await;
    assert_eq!(found, std::slice::from_ref(&alice));
    home.rooms.leave(&open, &alice, None).await.unwrap();
    assert!(home.people(&eve, "alice").await.is_empty());
}
