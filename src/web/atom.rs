//! The same posts as Atom feeds (RFC 4287).

use atom_syndication::{
    Content, Entry, Feed as AtomFeed, FixedDateTime, Generator, Link, Person, Text,
};
use axum::{
    extract::{Path, State},
    http::header,
    response::{IntoResponse, Response},
};
use resuni_feed::{Post, RoomKind};

use crate::{
    WebState,
    error::NoPage,
    pages::{NOBODY, timeline_feed},
    posts::{author_name, path_segment, permalink},
    text,
};

/// Posts in a feed.
const ENTRIES: usize = 50;
/// Characters of a post that make its title.
const TITLE_CHARS: usize = 60;

/// `/timeline.atom`
pub(crate) async fn timeline(State(state): State<WebState>) -> Response {
    let made = async {
        let page = state.feed.timeline(None, ENTRIES).await?;
        Ok(feed(
            &state,
            &timeline_feed(&state).title,
            "/timeline",
            "/timeline.atom",
            &page.posts,
        ))
    };
    let made = made.await;
    answer(&state, made)
}

/// `/@alice/feed.atom`
pub(crate) async fn profile(State(state): State<WebState>, Path(name): Path<String>) -> Response {
    let made = async {
        let profile = state.feed.profile(&name).await?.ok_or(NOBODY)?;
        let page = state.feed.posts_of(&profile, None, ENTRIES).await?;
        let shown = author_name(&profile.user_id, profile.display_name.as_deref());
        let path = format!("/@{}", path_segment(&name));
        let own = format!("{path}/feed.atom");
        Ok(feed(
            &state,
            &format!("Posts by {shown}"),
            &path,
            &own,
            &page.posts,
        ))
    };
    let made = made.await;
    answer(&state, made)
}

fn answer(state: &WebState, made: Result<AtomFeed, NoPage>) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/atom+xml; charset=utf-8")];
    match made {
        Ok(feed) => (kind, feed.to_string()).into_response(),
        Err(none) => none.show(state),
    }
}

/// A feed about the page at `path`, itself at `own`.
fn feed(state: &WebState, title: &str, path: &str, own: &str, posts: &[Post]) -> AtomFeed {
    let base = &state.site.base_url;
    let link = |rel: &str, href: &str| Link {
        rel: rel.to_owned(),
        href: format!("{base}{href}"),
        ..Link::default()
    };
    AtomFeed {
        title: Text::plain(title),
        id: format!("{base}{own}"),
        updated: posts
            .first()
            .map_or_else(|| date(0), |post| date(post.sent_ms)),
        links: vec![link("self", own), link("alternate", path)],
        generator: Some(Generator {
            value: "Resuni".to_owned(),
            ..Generator::default()
        }),
        entries: posts.iter().map(entry).collect(),
        ..AtomFeed::default()
    }
}

fn entry(post: &Post) -> Entry {
    let shown = author_name(&post.author, post.author_name.as_deref());
    let words = words(post);
    let title = match &post.room_name {
        Some(room) if post.room_kind == RoomKind::Group => {
            format!("{shown} in {}", text::name(room))
        }
        _ => shown.clone(),
    };
    let mut first: String = words.split_whitespace().collect::<Vec<_>>().join(" ");
    if first.chars().count() > TITLE_CHARS {
        first = first.chars().take(TITLE_CHARS).chain(['…']).collect();
    }
    let room = post.room_id.matrix_event_uri(post.event_id.clone());
    Entry {
        title: Text::plain(format!("{title}: {first}")),
        id: room.to_string(),
        updated: date(post.sent_ms),
        published: Some(date(post.sent_ms)),
        authors: vec![Person {
            name: shown,
            uri: Some(post.author.matrix_uri(false).to_string()),
            ..Person::default()
        }],
        links: vec![Link {
            href: permalink(post),
            rel: "alternate".to_owned(),
            ..Link::default()
        }],
        content: Some(Content {
            value: Some(words),
            content_type: Some("text".to_owned()),
            ..Content::default()
        }),
        ..Entry::default()
    }
}

/// A post as plain text.
fn words(post: &Post) -> String {
    let mut parts = Vec::new();
    let texts =
        std::iter::once(&post.content).chain(post.quoted.as_ref().map(|quoted| &quoted.content));
    for content in texts {
        if !content.text.trim().is_empty() {
            parts.push(text::clipped(&content.text));
        }
        parts.extend(
            content
                .attachment
                .as_ref()
                .map(|file| text::name(&file.name)),
        );
    }
    parts.extend(
        post.content
            .reference
            .as_ref()
            .map(|to| format!("(on a post by {})", to.sender)),
    );
    parts.join("\n\n")
}

fn date(millis: u64) -> FixedDateTime {
    // Jiff writes RFC 3339, which is what is read here.
    text::time(millis).to_string().parse().unwrap_or_default()
}
