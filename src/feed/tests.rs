//! The index over real rooms and accounts.

use resuni_store::{Direction, ScanRange};
use serde_json::json;

use crate::{
    Feed, PostPage, PostToken,
    tables::{POSTS, PUBLIC_ROOMS, ROOM_POSTS},
    testing::Home,
};

impl Home {
    /// The texts on a page of the timeline, after the follower has worked.
    async fn texts(&self) -> Vec<String> {
        self.feed.catch_up().await.unwrap();
        texts(&self.feed.timeline(None, 100).await.unwrap())
    }

    /// How many rows each table of the index has.
    async fn rows(&self) -> (usize, usize, usize) {
        let snapshot = self.store.snapshot();
        let (all, forward) = (ScanRange::all, Direction::Forward);
        (
            snapshot
                .scan(&PUBLIC_ROOMS, all(), forward, 9_999)
                .await
                .unwrap()
                .len(),
            snapshot
                .scan(&POSTS, all(), forward, 9_999)
                .await
                .unwrap()
                .len(),
            snapshot
                .scan(&ROOM_POSTS, all(), forward, 9_999)
                .await
                .unwrap()
                .len(),
        )
    }
}

fn texts(page: &PostPage) -> Vec<String> {
    page.posts
        .iter()
        .map(|post| post.content.text.clone())
        .collect()
}

#[tokio::test]
async fn public_posts_are_in_the_timeline_newest_first() {
    let home = Home::new().await;
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    let profile = home.profile_room(&alice, "Alice").await;
    let group = home
        .room(&bob, "org.matrix.msc4501.social.group", "Cats", &[])
        .await;
    let chat = home.room(&bob, "", "An ordinary room", &[]).await;
    home.post(&profile, &alice, "one").await;
    let content = json!({ "msgtype": "m.text", "body": "two" });
    home.send(&group, &bob, "org.matrix.msc4501.social.post", content)
        .await;
    home.post(&chat, &bob, "not social").await;
    let content = json!({ "msgtype": "m.text", "body": "three" });
    home.send(&profile, &alice, "m.room.message", content).await;
    home.send(&profile, &alice, "m.reaction", json!({})).await;
    assert_eq!(home.texts().await, ["three", "two", "one"]);
    assert_eq!(home.rows().await, (2, 3, 3));

    let page = home.feed.timeline(None, 2).await.unwrap();
    assert_eq!(texts(&page), ["three", "two"]);
    let next: PostToken = page.next.unwrap().to_string().parse().unwrap();
    let page = home.feed.timeline(Some(next), 2).await.unwrap();
    assert_eq!((texts(&page), page.next), (vec!["one".to_owned()], None));
    assert_eq!(page.posts[0].author, alice);
    assert_eq!(page.posts[0].author_name.as_deref(), Some("Alice"));
}

#[tokio::test]
async fn what_strangers_may_not_read_never_enters() {
    let home = Home::new().await;
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    let room = home.profile_room(&alice, "Alice").await;
    home.join(&room, &bob).await;
    home.post(&room, &alice, "public").await;
    home.visibility(&room, &alice, "shared").await;
    home.post(&room, &alice, "for followers").await;
    assert_eq!(home.texts().await, Vec::<String>::new());
    assert_eq!(home.rows().await, (0, 0, 0));
    home.visibility(&room, &alice, "world_readable").await;
    home.post(&room, &alice, "public again").await;
    // A visitor in somebody's profile doesn't speak for them.
    home.post(&room, &bob, "an advertisement").await;
    assert_eq!(home.texts().await, ["public again"]);
}

#[tokio::test]
async fn a_reader_is_ahead_of_a_follower_that_lags() {
    let home = Home::new().await;
    let alice = home.person("alice").await;
    let room = home.profile_room(&alice, "Alice").await;
    let first = home.post(&room, &alice, "first").await;
    home.post(&room, &alice, "second").await;
    assert_eq!(home.texts().await, ["second", "first"]);
    home.redact(&room, &alice, &first).await;
    let page = home.feed.timeline(None, 10).await.unwrap();
    assert_eq!(texts(&page), ["second"]);
    home.visibility(&room, &alice, "joined").await;
    let page = home.feed.timeline(None, 10).await.unwrap();
    assert_eq!(page.posts, []);
}

#[tokio::test]
async fn a_redaction_removes_and_an_edit_changes() {
    let home = Home::new().await;
    let alice = home.person("alice").await;
    let room = home.profile_room(&alice, "Alice").await;
    let gone = home.post(&room, &alice, "a mistake").await;
    let edited = home.post(&room, &alice, "a tpyo").await;
    home.feed.catch_up().await.unwrap();
    home.redact(&room, &alice, &gone).await;
    let content = json!({ "msgtype": "m.text", "body": "* a typo",
        "m.new_content": { "msgtype": "m.text", "body": "a typo" },
        "m.relates_to": { "rel_type": "m.replace", "event_id": edited } });
    let edit = home.send(&room, &alice, "m.social.post", content).await;
    let reply = json!({ "msgtype": "m.text", "body": "a reply",
        "m.relates_to": { "rel_type": "m.thread", "event_id": edited } });
    home.send(&room, &alice, "m.social.post", reply).await;
    assert_eq!(home.texts().await, ["a typo"]);
    assert_eq!(home.rows().await, (1, 1, 1));
    assert!(home.feed.timeline(None, 1).await.unwrap().posts[0].edited);
    home.redact(&room, &alice, &edit).await;
    assert_eq!(home.texts().await, ["a tpyo"]);
}

#[tokio::test]
async fn a_room_that_everybody_here_left_is_closed() {
    let home = Home::new().await;
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    let room = home.room(&alice, "m.social.group", "Cats", &[]).await;
    home.join(&room, &bob).await;
    home.post(&room, &alice, "meow").await;
    home.rooms.leave(&room, &alice, None).await.unwrap();
    assert_eq!(home.texts().await, ["meow"]);
    home.rooms.leave(&room, &bob, None).await.unwrap();
    assert_eq!(home.texts().await, Vec::<String>::new());
    assert_eq!(home.rows().await, (0, 0, 0));
}

#[tokio::test]
async fn working_the_log_again_changes_nothing() {
    let home = Home::new().await;
    let alice = home.person("alice").await;
    let room = home.profile_room(&alice, "Alice").await;
    let closed = home.room(&alice, "m.social.group", "Closed", &[]).await;
    let gone = home.post(&room, &alice, "gone").await;
    home.post(&closed, &alice, "closed").await;
    home.visibility(&closed, &alice, "joined").await;
    home.redact(&room, &alice, &gone).await;
    for number in 0..5 {
        home.post(&room, &alice, &format!("post {number}")).await;
    }
    let first = home.texts().await;
    let rows = home.rows().await;
    assert_eq!(rows, (1, 5, 5));

    let again = Feed::open(home.rooms.clone(), home.accounts.clone())
        .await
        .unwrap();
    let mut follower = home.store.follower("feed").await.unwrap();
    follower.save(resuni_store::Position(0)).await.unwrap();
    drop((again, follower));
    let again = Feed::open(home.rooms.clone(), home.accounts.clone())
        .await
        .unwrap();
    again.catch_up().await.unwrap();
    assert_eq!(texts(&again.timeline(None, 100).await.unwrap()), first);
    assert_eq!(home.rows().await, rows);
}

#[tokio::test]
async fn a_closed_room_of_many_posts_is_emptied() {
    let home = Home::new().await;
    let alice = home.person("alice").await;
    let room = home.room(&alice, "m.social.group", "Busy", &[]).await;
    for number in 0..1_010 {
        home.post(&room, &alice, &number.to_string()).await;
    }
    home.feed.catch_up().await.unwrap();
    assert_eq!(home.rows().await, (1, 1_010, 1_010));
    home.visibility(&room, &alice, "shared").await;
    home.feed.catch_up().await.unwrap();
    assert_eq!(home.rows().await, (0, 0, 0));
}

#[tokio::test]
async fn a_profile_is_shown_only_when_both_sides_agree() {
    let home = Home::new().await;
    let alice = home.person("alice").await;
    let mallory = home.person("mallory").await;
    assert_eq!(home.feed.profile("alice").await.unwrap(), None);

    // The room claims Alice; Alice doesn't claim the room.
    let state = ("m.social.profile_user_id", json!({ "user_id": alice }));
    let spoofed = home
        .room(&mallory, "m.social.profile", "Alice", &[state])
        .await;
    assert_eq!(home.feed.profile("alice").await.unwrap(), None);
    // Mallory claims a room that is Alice's.
    home.point_at(&mallory, &spoofed).await;
    assert_eq!(home.feed.profile("mallory").await.unwrap(), None);

    let room = home.profile_room(&alice, "Alice A.").await;
    home.point_at(&mallory, &room).await;
    assert_eq!(home.feed.profile("mallory").await.unwrap(), None);
    home.join(&room, &mallory).await;
    let topic = json!({ "topic": "I like cats" });
    home.state(&room, &alice, "m.room.topic", topic).await;
    home.post(&room, &alice, "hello").await;
    home.feed.catch_up().await.unwrap();
    let profile = home.feed.profile("alice").await.unwrap().unwrap();
    assert_eq!(profile.user_id, alice);
    assert_eq!(profile.display_name.as_deref(), Some("Alice A."));
    assert_eq!(profile.bio.as_deref(), Some("I like cats"));
    assert_eq!(profile.followers, 1);
    let posts = home.feed.posts_of(&profile, None, 10).await.unwrap();
    assert_eq!(texts(&posts), ["hello"]);

    // The room is now somebody else's, whatever Alice's account says.
    let other = json!({ "user_id": mallory });
    home.state(&room, &alice, "m.social.profile_user_id", other)
        .await;
    assert_eq!(home.feed.profile("alice").await.unwrap(), None);
    home.state(
        &room,
        &alice,
        "m.social.profile_user_id",
        json!({ "user_id": alice }),
    )
    .await;
    assert!(home.feed.profile("alice").await.unwrap().is_some());
    home.visibility(&room, &alice, "shared").await;
    assert_eq!(home.feed.profile("alice").await.unwrap(), None);
}

#[tokio::test]
async fn a_moderator_can_not_make_a_room_somebodys() {
    let home = Home::new().await;
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    let levels = json!({ "users": { &*bob: 50 } });
    let state = ("m.room.power_levels", levels);
    let room = home
        .room(&alice, "m.social.profile", "Whose?", &[state])
        .await;
    home.join(&room, &bob).await;
    home.point_at(&alice, &room).await;
    let claim = json!({ "user_id": alice });
    home.state(&room, &bob, "m.social.profile_user_id", claim.clone())
        .await;
    assert_eq!(home.feed.profile("alice").await.unwrap(), None);
    home.state(&room, &alice, "m.social.profile_user_id", claim)
        .await;
    assert!(home.feed.profile("alice").await.unwrap().is_some());
}

#[tokio::test]
async fn a_quote_has_the_words_of_its_author_and_not_those_in_the_quoting_post() {
    let home = Home::new().await;
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    let theirs = home.profile_room(&alice, "Alice").await;
    let ours = home.profile_room(&bob, "Bob").await;
    let said = home.post(&theirs, &alice, "what Alice said").await;
    let quote = |sender: &ruma::UserId| {
        json!({ "msgtype": "m.text", "body": "Look!", "m.social.relates_to": {
            "rel_type": "m.social.repost", "event_id": said, "room_id": theirs, "sender": sender,
            "content": { "msgtype": "m.text", "body": "what Alice never said" } } })
    };
    home.send(&ours, &bob, "m.social.post", quote(&alice)).await;
    home.send(&ours, &bob, "m.social.post", quote(&bob)).await;
    home.feed.catch_up().await.unwrap();
    let page = home.feed.timeline(None, 10).await.unwrap();
    assert_eq!(page.posts[0].quoted, None, "not by whom it is said to be");
    let quoted = page.posts[1].quoted.clone().unwrap();
    assert_eq!(
        (quoted.author, quoted.content.text),
        (alice.clone(), "what Alice said".to_owned())
    );
    home.redact(&theirs, &alice, &said).await;
    home.feed.catch_up().await.unwrap();
    let page = home.feed.timeline(None, 10).await.unwrap();
    assert!(page.posts.iter().all(|post| post.quoted.is_none()));
}

#[tokio::test]
async fn the_follower_runs_by_itself_and_ends_with_the_store() {
    let home = Home::new().await;
    let feed = home.feed.clone();
    let running = tokio::spawn(async move { feed.run().await });
    let alice = home.person("alice").await;
    let room = home.profile_room(&alice, "Alice").await;
    home.post(&room, &alice, "hello").await;
    while home.feed.timeline(None, 1).await.unwrap().posts.is_empty() {
        tokio::task::yield_now().await;
    }
    home.store.close().await;
    running.await.unwrap().unwrap();
}
