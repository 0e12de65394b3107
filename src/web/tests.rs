//! The pages over a home in memory.

use std::sync::Arc;

use atom_syndication::Feed as AtomFeed;
use axum::{
    body::Body,
    http::{HeaderMap, Request, StatusCode, header},
};
use http_body_util::BodyExt as _;
use resuni_consortium::{Consortium, Member, Roster};
use resuni_feed::testing::Home;
use serde_json::json;
use tower::ServiceExt as _;

use crate::{Site, WebState, router};

const HOSTILE: &str = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>";

struct Pages {
    home: Home,
    state: WebState,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Pages {
    async fn new() -> Self {
        let home = Home::new().await;
        let member = |name: &str, server: &str, url: Option<&str>| Member {
            name: name.to_owned(),
            server_name: server.try_into().unwrap(),
            url: url.map(str::to_owned),
            country: Some("AT".to_owned()),
            language: Some("de".to_owned()),
        };
        let members = vec![
            member("Haus & Hof", "home.test", Some("https://haus.example")),
            member("Others", "others.test", Some("javascript:alert(1)")),
        ];
        let roster = Roster::new("home.test".try_into().unwrap(), members).unwrap();
        let site = Site {
            base_url: "https://home.test".to_owned(),
            registration: false,
        };
        let state = WebState {
            site: Arc::new(site),
            feed: home.feed.clone(),
            consortium: Consortium::new(roster, None),
        };
        Self { home, state }
    }

    async fn get(&self, path: &str) -> Answer {
        self.home.feed.catch_up().await.unwrap();
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router(self.state.clone()).oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }
}

/// No markup but ours: every tag is one that the pages are made of, and no attribute is a handler.
fn assert_harmless(html: &str) {
    for tag in html.split('<').skip(1) {
        let name: String = tag
            .trim_start_matches('/')
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '!')
            .collect();
        let known = [
            "!DOCTYPE",
            "html",
            "head",
            "meta",
            "title",
            "link",
            "body",
            "a",
            "header",
            "nav",
            "main",
            "footer",
            "p",
            "h1",
            "h2",
            "ul",
            "ol",
            "li",
            "code",
            "div",
            "article",
            "bdi",
            "span",
            "time",
            "blockquote",
            "table",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
            "br",
        ];
        assert!(known.contains(&name.as_str()), "<{tag}");
        let inside = tag.split('>').next().unwrap();
        // Every second part is the value of an attribute, where anything may stand but a quotation mark.
        let names: String = inside.split('"').step_by(2).collect();
        assert!(!names.contains("onerror"), "<{inside}");
        assert!(!inside.contains("href=\"javascript"), "<{inside}");
    }
}

#[tokio::test]
async fn the_timeline_shows_posts_and_escapes_what_people_wrote() {
    let pages = Pages::new().await;
    let home = &pages.home;
    let alice = home.person("alice").await;
    let room = home.profile_room(&alice, HOSTILE).await;
    home.state(&room, &alice, "m.room.topic", json!({ "topic": HOSTILE }))
        .await;
    home.post(&room, &alice, &format!("{HOSTILE} https://a.example/\"x"))
        .await;
    let html = json!({ "msgtype": "m.text", "body": "plain", "format": "org.matrix.custom.html",
        "formatted_body": "<b>HTML of theirs</b>" });
    home.send(&room, &alice, "m.social.post", html).await;
    let file = json!({ "msgtype": "m.image", "body": HOSTILE, "url": "mxc://home.test/x" });
    home.send(&room, &alice, "m.social.post", file).await;

    for path in ["/timeline", "/@alice"] {
        let answer = pages.get(path).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_harmless(&answer.text);
        assert!(answer.text.contains("&lt;script&gt;alert(1)"), "{path}");
        assert!(answer.text.contains("plain"));
        assert!(!answer.text.contains("HTML of theirs"));
        assert!(
            answer.text.contains(
                "<a href=\"https://a.example/\" rel=\"nofollow ugc noopener noreferrer\">"
            ),
            "{}",
            answer.text
        );
    }
}

#[tokio::test]
async fn every_answer_is_guarded() {
    let pages = Pages::new().await;
    for path in [
        "/",
        "/timeline",
        "/consortium",
        "/@nobody",
        "/timeline.atom",
        "/style.css",
    ] {
        let answer = pages.get(path).await;
        let policy = answer.headers[header::CONTENT_SECURITY_POLICY]
            .to_str()
            .unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{path}");
        assert!(policy.contains("frame-ancestors 'none'"), "{path}");
        assert!(!policy.contains("unsafe"), "{path}");
        assert_eq!(answer.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    }
}

#[tokio::test]
async fn the_timeline_has_pages() {
    let pages = Pages::new().await;
    let alice = pages.home.person("alice").await;
    let room = pages.home.profile_room(&alice, "Alice").await;
    for number in 0..31 {
        pages
            .home
            .post(&room, &alice, &format!("post-{number}."))
            .await;
    }
    for path in ["/timeline", "/@alice"] {
        let first = pages.get(path).await.text;
        assert!(first.contains("post-30.") && !first.contains("post-0."));
        let (_, after) = first.split_once("?before=").unwrap();
        let token = after.split('"').next().unwrap();
        let second = pages.get(&format!("{path}?before={token}")).await.text;
        assert!(second.contains("post-0.") && !second.contains("post-30."));
        assert!(!second.contains("?before="));
    }
    for bad in ["/timeline?before=x", "/@alice?before=p-1"] {
        assert_eq!(pages.get(bad).await.status, StatusCode::BAD_REQUEST);
    }
}

#[tokio::test]
async fn a_profile_is_a_page_and_nobody_is_none() {
    let pages = Pages::new().await;
    let home = &pages.home;
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    let room = home.profile_room(&alice, "Alice Liddell").await;
    home.state(
        &room,
        &alice,
        "m.room.topic",
        json!({ "topic": "Curious." }),
    )
    .await;
    home.join(&room, &bob).await;
    home.post(&room, &alice, "Curiouser!").await;
    let answer = pages.get("/@alice").await;
    assert_eq!(answer.status, StatusCode::OK);
    for part in [
        "Alice Liddell",
        "@alice:home.test",
        "Curious.",
        "1 follower",
        "Curiouser!",
    ] {
        assert!(answer.text.contains(part), "{part}");
    }
    // Bob has an account but no public profile: for a stranger he is as unknown as anybody.
    let (known, unknown) = (pages.get("/@bob").await, pages.get("/@nobody").await);
    assert_eq!(known.status, StatusCode::NOT_FOUND);
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert_eq!(known.text, unknown.text);
    for odd in [
        "/@",
        "/@%00",
        "/@a%2Fb",
        "/@%3Cscript%3E",
        "/@nobody/feed.atom",
    ] {
        let answer = pages.get(odd).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{odd}");
        assert_harmless(&answer.text);
    }
}

#[tokio::test]
async fn the_first_page_and_the_roster_say_who_stands_behind_this() {
    let pages = Pages::new().await;
    let first = pages.get("/").await;
    assert_eq!(first.status, StatusCode::OK);
    assert_harmless(&first.text);
    for part in [
        "Haus &amp; Hof",
        "https://home.test",
        "href=\"/timeline\"",
        "AT",
        "de",
    ] {
        assert!(first.text.contains(part), "{part}");
    }
    let roster = pages.get("/consortium").await;
    assert_eq!(roster.status, StatusCode::OK);
    assert_harmless(&roster.text);
    for part in [
        "others.test",
        "this server",
        "not asked",
        "href=\"https://haus.example\"",
    ] {
        assert!(roster.text.contains(part), "{part}");
    }
}

#[tokio::test]
async fn the_feeds_are_atom() {
    let pages = Pages::new().await;
    let home = &pages.home;
    let alice = home.person("alice").await;
    let room = home.profile_room(&alice, HOSTILE).await;
    home.post(&room, &alice, &format!("older\u{b}\u{0} {HOSTILE} ]]>"))
        .await;
    home.post(&room, &alice, "newer").await;
    for path in ["/timeline.atom", "/@alice/feed.atom"] {
        let answer = pages.get(path).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(
            answer.headers[header::CONTENT_TYPE],
            "application/atom+xml; charset=utf-8"
        );
        let feed: AtomFeed = answer.text.parse().unwrap();
        assert_eq!(feed.id, format!("https://home.test{path}"));
        assert!(
            feed.links
                .iter()
                .any(|link| link.rel == "self" && link.href == feed.id)
        );
        assert_eq!(feed.entries.len(), 2);
        assert_eq!(feed.updated, feed.entries[0].updated);
        let text = |at: usize| {
            feed.entries[at]
                .content
                .as_ref()
                .unwrap()
                .value
                .clone()
                .unwrap()
        };
        assert_eq!(text(0), "newer");
        assert_eq!(text(1), format!("older {HOSTILE} ]]>"));
        assert_eq!(feed.entries[0].authors[0].name, crate::text::name(HOSTILE));
        assert!(feed.entries[0].id.starts_with("matrix:roomid/"));
        assert_ne!(feed.entries[0].id, feed.entries[1].id);
    }
    let empty = Pages::new().await.get("/timeline.atom").await;
    assert!(empty.text.parse::<AtomFeed>().unwrap().entries.is_empty());
}
