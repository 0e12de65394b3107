//! Threads that notify those who follow them (MSC4306).

use resuni_accounts::{AccountNum, PushRuleChange};
use ruma::{
    OwnedEventId, OwnedUserId,
    push::{NewConditionalPushRule, NewPushRule, RuleKind},
};
use serde_json::{Value, json};

use super::{Home, mention, text};
use crate::Ways;

const UNFOLLOWED: &str = ".io.element.msc4306.rule.unsubscribed_thread";

fn reply(root: &OwnedEventId, mut content: Value) -> Value {
    content["m.relates_to"] = json!({ "rel_type": "m.thread", "event_id": root });
    content
}

/// What is unread in the thread, and in the main timeline.
async fn both(
    home: &Home,
    who: &(OwnedUserId, AccountNum),
    root: &OwnedEventId,
) -> ((u64, u64), u64) {
    let unread = home.unread(who).await;
    let thread = unread
        .threads
        .get(root.as_str())
        .copied()
        .unwrap_or_default();
    (
        (thread.notifications, thread.highlights),
        unread.main.notifications,
    )
}

#[tokio::test]
async fn only_those_who_follow_a_thread_are_notified() {
    let home = Home::with_rules(Ways::default(), true).await;
    let (bob, carol) = (home.member("bob").await, home.member("carol").await);
    // A muted room does not mute the threads that one follows.
    home.mute(bob.1).await;
    let root = home.say(&home.alice, text("root")).await;
    let thread = (&*home.room, &*root);
    let follow = home.push.follow_thread((bob.1, &bob.0), thread, None);
    follow.await.unwrap();
    home.say(&home.alice, reply(&root, text("one"))).await;
    assert_eq!(both(&home, &bob, &root).await, ((1, 0), 0));
    assert_eq!(both(&home, &carol, &root).await, ((0, 0), 1));
    // Who is mentioned is told all the same.
    let hey = mention("hey", &[&carol.0]);
    home.say(&home.alice, reply(&root, hey)).await;
    assert_eq!(both(&home, &bob, &root).await, ((2, 0), 0));
    assert_eq!(both(&home, &carol, &root).await, ((1, 1), 1));
    // No more, once they follow it no longer.
    let unfollow = home.push.unfollow_thread((bob.1, &bob.0), thread);
    unfollow.await.unwrap();
    home.say(&home.alice, reply(&root, text("three"))).await;
    assert_eq!(both(&home, &bob, &root).await, ((2, 0), 0));
}

#[tokio::test]
async fn the_rules_can_be_switched_off_but_not_added_to() {
    let home = Home::with_rules(Ways::default(), true).await;
    let bob = home.member("bob").await;
    let root = home.say(&home.alice, text("root")).await;
    let off = PushRuleChange::SetEnabled {
        kind: RuleKind::PostContent,
        rule_id: UNFOLLOWED.to_owned(),
        enabled: false,
    };
    home.accounts.change_push_rules(bob.1, off).await.unwrap();
    home.say(&home.alice, reply(&root, text("one"))).await;
    assert_eq!(both(&home, &bob, &root).await, ((1, 0), 1));
    let rules = home.accounts.push_rules(bob.1).await.unwrap();
    let rule = rules.global.get(RuleKind::PostContent, UNFOLLOWED).unwrap();
    assert!(!rule.enabled());
    let own = NewConditionalPushRule::new("own".to_owned(), Vec::new(), Vec::new());
    let added = PushRuleChange::Put {
        rule: NewPushRule::PostContent(own),
        after: None,
        before: None,
    };
    let added = home.accounts.change_push_rules(bob.1, added).await;
    assert!(matches!(
        added,
        Err(resuni_accounts::AccountError::InvalidParam(_))
    ));
}

/// Where the server does not have these rules, threads notify everybody.
#[tokio::test]
async fn without_the_rules_threads_notify_everybody() {
    let home = Home::new().await;
    let bob = home.member("bob").await;
    let root = home.say(&home.alice, text("root")).await;
    home.say(&home.alice, reply(&root, text("one"))).await;
    assert_eq!(both(&home, &bob, &root).await, ((1, 0), 1));
    let rules = home.accounts.push_rules(bob.1).await.unwrap();
    assert!(rules.global.postcontent.is_empty());
}
