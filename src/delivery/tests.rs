//! Counts and notifications over real rooms and accounts, on the memory store.

use std::sync::Arc;

use resuni_accounts::{
    AccountNum, Accounts, AccountsConfig, AppServices, NewAccount, OptionalRules, PasswordCost,
    PushRuleChange,
};
use resuni_dag::SigningKey;
use resuni_rooms::{CreateRoom, MemberDetails, NewEvent, Preset, ReceiptKind, Rooms, RoomsConfig};
use resuni_store::{Direction, ScanRange, SharedClock, Store, SystemClock};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId, owned_server_name,
    push::{NewPatternedPushRule, NewPushRule, NewSimplePushRule},
};
use serde_json::{Value, json, value::to_raw_value};

mod delayed;
mod digest;
mod gateway;
mod notices;
mod services;
mod threads;

use crate::{
    Push, RoomUnread, Unread, Ways,
    tables::{PUSHES, TALLIES},
};

pub(crate) struct Home {
    pub rooms: Arc<Rooms>,
    pub accounts: Arc<Accounts>,
    push: Arc<Push>,
    pub room: OwnedRoomId,
    pub alice: OwnedUserId,
}

impl Home {
    /// A room that Alice has made.
    pub async fn new() -> Self {
        Self::with(Ways::default()).await
    }

    async fn with(ways: Ways) -> Self {
        Self::with_rules(ways, false).await
    }

    /// With the rules of MSC4306, or without.
    async fn with_rules(ways: Ways, thread_rules: bool) -> Self {
        let store = Store::memory().await;
        let clock: SharedClock = Arc::new(SystemClock);
        let name = owned_server_name!("h");
        let accounts = AccountsConfig {
            password_cost: PasswordCost::Minimum,
            optional_rules: OptionalRules {
                threads: thread_rules,
                ..OptionalRules::default()
            },
            ..AccountsConfig::new(name.clone())
        };
        let services = AppServices::default();
        let accounts = Accounts::open(accounts, services, store.clone(), clock.clone())
            .await
            .unwrap();
        let config = RoomsConfig {
            server_name: name,
            key: Arc::new(SigningKey::generate("test", [7; 32]).unwrap()),
            default_version: RoomVersionId::V12,
        };
        let rooms = Rooms::open(config, store, clock).await.unwrap();
        let push = Push::open(rooms.clone(), accounts.clone(), ways)
            .await
            .unwrap();
        let mut home = Self {
            alice: ruma::owned_user_id!("@alice:h"),
            room: ruma::owned_room_id!("!none"),
            rooms,
            accounts,
            push,
        };
        home.account("alice").await;
        let request = CreateRoom {
            preset: Some(Preset::PublicChat),
            ..CreateRoom::default()
        };
        home.room = home.rooms.create(&home.alice, request).await.unwrap();
        home
    }

    pub async fn account(&self, name: &str) -> AccountNum {
        let new = NewAccount::user(name, "some password".to_owned());
        self.accounts.register(new).await.unwrap().account
    }

    /// Somebody with an account who joins.
    async fn member(&self, name: &str) -> (OwnedUserId, AccountNum) {
        let account = self.account(name).await;
        let user = OwnedUserId::try_from(format!("@{name}:h")).unwrap();
        let details = MemberDetails::default();
        self.rooms.join(&self.room, &user, &details).await.unwrap();
        (user, account)
    }

    async fn say(&self, who: &OwnedUserId, content: Value) -> OwnedEventId {
        let mut content = content;
        if content.get("msgtype").is_none() {
            content["msgtype"] = json!("m.text");
        }
        let event = NewEvent::message("m.room.message", to_raw_value(&content).unwrap());
        self.rooms.send(&self.room, who, event, None).await.unwrap()
    }

    async fn unread(&self, (user, account): &(OwnedUserId, AccountNum)) -> RoomUnread {
        self.push.catch_up().await.unwrap();
        let view = self.rooms.view(&self.room).await.unwrap().unwrap();
        let now = self.rooms.store().log().watermark();
        self.push.unread(&view, *account, user, now).await.unwrap()
    }

    /// Notifications and highlights, all threads together.
    async fn total(&self, who: &(OwnedUserId, AccountNum)) -> (u64, u64) {
        let total = self.unread(who).await.total();
        (total.notifications, total.highlights)
    }

    async fn read(&self, user: &OwnedUserId, event: &OwnedEventId, thread: Option<&str>) {
        self.rooms
            .set_receipt(&self.room, user, ReceiptKind::ReadPrivate, thread, event)
            .await
            .unwrap();
    }

    async fn rule(&self, account: AccountNum, rule: NewPushRule) {
        let change = PushRuleChange::Put {
            rule,
            after: None,
            before: None,
        };
        self.accounts
            .change_push_rules(account, change)
            .await
            .unwrap();
        self.push.catch_up().await.unwrap();
    }

    async fn mute(&self, account: AccountNum) {
        let rule = NewSimplePushRule::new(self.room.clone(), Vec::new());
        self.rule(account, NewPushRule::Room(rule)).await;
    }

    async fn rows(&self) -> usize {
        self.push.catch_up().await.unwrap();
        let snapshot = self.rooms.store().snapshot();
        let rows = snapshot.scan(&TALLIES, ScanRange::all(), Direction::Forward, usize::MAX);
        rows.await.unwrap().len()
    }
}

fn text(body: &str) -> Value {
    json!({ "body": body })
}

fn mention(body: &str, users: &[&OwnedUserId]) -> Value {
    json!({ "body": body, "m.mentions": { "user_ids": users } })
}

#[tokio::test]
async fn messages_are_counted_from_the_join_and_reset_by_receipts_and_own_messages() {
    let home = Home::new().await;
    home.say(&home.alice, text("before")).await;
    let bob = home.member("bob").await;
    let carol = home.member("carol").await;
    let one = home.say(&home.alice, text("one")).await;
    home.say(&home.alice, text("two")).await;
    home.say(&home.alice, json!({ "body": "x", "msgtype": "m.notice" }))
        .await;
    assert_eq!(home.total(&bob).await, (2, 0));
    home.read(&bob.0, &one, None).await;
    assert_eq!(home.total(&bob).await, (1, 0));
    home.say(&bob.0, text("three")).await;
    assert_eq!(home.total(&bob).await, (0, 0));
    assert_eq!(home.total(&carol).await, (3, 0));
}

#[tokio::test]
async fn mentions_are_highlighted_for_those_who_are_mentioned() {
    let home = Home::new().await;
    let bob = home.member("bob").await;
    let carol = home.member("carol").await;
    home.say(&home.alice, mention("hey", &[&bob.0])).await;
    // With `m.mentions` the text says nothing.
    home.say(&home.alice, mention("carol", &[])).await;
    home.say(&home.alice, text("Carol: are you there?")).await;
    assert_eq!(home.total(&bob).await, (3, 1));
    assert_eq!(home.total(&carol).await, (3, 1));
    let room = json!({ "body": "all", "m.mentions": { "room": true } });
    home.say(&home.alice, room.clone()).await;
    home.say(&bob.0, room).await; // Bob may not.
    assert_eq!(home.total(&carol).await, (5, 2));
    // A notice that mentions somebody does not notify: the rule against notices comes first.
    let mut notice = mention("carol", &[&carol.0]);
    notice["msgtype"] = json!("m.notice");
    home.say(&home.alice, notice).await;
    assert_eq!(home.total(&carol).await, (5, 2));
}

#[tokio::test]
async fn rules_of_their_own() {
    let home = Home::new().await;
    let bob = home.member("bob").await;
    let carol = home.member("carol").await;
    let dave = home.member("dave").await;
    home.mute(bob.1).await;
    let cake = vec![
        ruma::push::Action::Notify,
        ruma::push::Action::SetTweak(ruma::push::Tweak::Highlight(
            ruma::push::HighlightTweakValue::Yes,
        )),
    ];
    let rule = NewPatternedPushRule::new("cake".into(), "cake".into(), cake);
    home.rule(carol.1, NewPushRule::Content(rule)).await;
    home.say(&home.alice, text("nothing")).await;
    home.say(&home.alice, text("there is CAKE")).await;
    home.say(&home.alice, mention("you", &[&bob.0])).await;
    assert_eq!(home.total(&bob).await, (1, 1), "muted but for mentions");
    assert_eq!(home.total(&carol).await, (3, 1));
    assert_eq!(home.total(&dave).await, (3, 0));
    // With other rules one counts as those who had them all along.
    home.mute(dave.1).await;
    home.say(&home.alice, text("more")).await;
    assert_eq!(home.total(&dave).await, (0, 0));
    assert_eq!(home.total(&carol).await, (4, 1));
}

#[tokio::test]
async fn rows_follow_the_sets_of_rules_and_not_the_members() {
    let home = Home::new().await;
    home.member("first").await;
    let (muted, _) = (home.member("muted0").await, ());
    home.mute(muted.1).await;
    for n in 1..20 {
        home.member(&format!("user{n}")).await;
        let (_, account) = home.member(&format!("muted{n}")).await;
        home.mute(account).await;
    }
    let before = home.rows().await;
    home.say(&home.alice, text("hello all 40")).await;
    assert_eq!(
        home.rows().await - before,
        2,
        "for everybody, and for who muted the room"
    );
}

#[tokio::test]
async fn threads_are_counted_apart() {
    let home = Home::new().await;
    let bob = home.member("bob").await;
    let root = home.say(&home.alice, text("root")).await;
    let in_thread = |body: &str, relation: &str, event: &OwnedEventId| json!({ "body": body, "m.relates_to": { "rel_type": relation, "event_id": event } });
    let first = home
        .say(&home.alice, in_thread("a", "m.thread", &root))
        .await;
    // A reference to an event of a thread belongs to the thread, one to its root does not.
    home.say(&home.alice, in_thread("b", "m.reference", &first))
        .await;
    home.say(&home.alice, in_thread("c", "m.reference", &root))
        .await;
    let unread = home.unread(&bob).await;
    assert_eq!(unread.main.notifications, 2);
    assert_eq!(unread.threads[root.as_str()].notifications, 2);
    home.read(&bob.0, &first, Some(root.as_str())).await;
    let unread = home.unread(&bob).await;
    assert_eq!(unread.main.notifications, 2);
    assert_eq!(unread.threads[root.as_str()].notifications, 1);
    home.read(&bob.0, &root, Some("main")).await;
    assert_eq!(home.unread(&bob).await.main.notifications, 1);
    // An answer in the thread reads the thread and nothing else.
    home.say(&bob.0, in_thread("d", "m.thread", &root)).await;
    let unread = home.unread(&bob).await;
    assert_eq!(unread.main.notifications, 1);
    assert!(unread.threads.is_empty());
    // One without a thread reads everything before it.
    let last = home
        .say(&home.alice, in_thread("e", "m.thread", &root))
        .await;
    home.read(&bob.0, &last, None).await;
    assert_eq!(home.unread(&bob).await, RoomUnread::default());
    assert_eq!(home.unread(&bob).await.total(), Unread::default());
}

#[tokio::test]
async fn the_list_of_notifications_goes_backwards() {
    let home = Home::new().await;
    let bob = home.member("bob").await;
    for n in 0..5 {
        home.say(&home.alice, text(&format!("{n}"))).await;
    }
    let mentioned = home.say(&home.alice, mention("5", &[&bob.0])).await;
    home.say(&bob.0, text("mine")).await;
    home.say(&home.alice, text("6")).await;
    home.push.catch_up().await.unwrap();
    let who = (bob.1, &*bob.0);
    let list = async |from, limit, highlights| {
        home.push
            .notifications(who, None, from, limit, highlights)
            .await
            .unwrap()
    };
    let bodies = |page: &crate::NotificationsPage| -> Vec<(String, bool)> {
        let body = |n: &crate::Notification| {
            let event: Value = serde_json::from_str(&n.event).unwrap();
            (
                event["content"]["body"].as_str().unwrap().to_owned(),
                n.read,
            )
        };
        page.notifications.iter().map(body).collect()
    };
    let page = list(None, 3, false).await;
    let expected = [("6", false), ("5", true), ("4", true)];
    assert_eq!(bodies(&page), expected.map(|(b, r)| (b.to_owned(), r)));
    let rest = list(page.next, 100, false).await;
    assert_eq!(bodies(&rest).len(), 4);
    assert_eq!(rest.next, None);
    let page = list(None, 100, true).await;
    assert_eq!(page.notifications.len(), 1);
    assert!(page.notifications[0].event.contains(mentioned.as_str()));
    assert_eq!(page.notifications[0].actions.len(), 3);
}

#[tokio::test]
async fn what_notifies_waits_before_each_pusher() {
    let home = Home::new().await;
    let bob = home.member("bob").await;
    let pusher = serde_json::from_value(json!({
        "kind": "http", "app_id": "app", "pushkey": "key", "app_display_name": "App",
        "device_display_name": "Phone", "lang": "en",
        "data": { "url": "https://push.example/_matrix/push/v1/notify" },
    }))
    .unwrap();
    home.accounts
        .set_pusher(bob.1, None, &pusher, false)
        .await
        .unwrap();
    home.push.catch_up().await.unwrap();
    home.say(&home.alice, text("one")).await;
    home.say(&bob.0, text("own")).await;
    home.say(&home.alice, json!({ "body": "n", "msgtype": "m.notice" }))
        .await;
    home.say(&home.alice, text("two")).await;
    home.push.catch_up().await.unwrap();
    let rows = async || {
        let snapshot = home.rooms.store().snapshot();
        let rows = snapshot.scan(&PUSHES, ScanRange::all(), Direction::Forward, usize::MAX);
        rows.await.unwrap().len()
    };
    assert_eq!(rows().await, 2);
    // Once more from the log: nothing is counted or sent twice.
    home.push.catch_up().await.unwrap();
    assert_eq!(rows().await, 2);
}
