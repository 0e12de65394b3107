//! Posts on a page.

use maud::{Markup, html};
use resuni_feed::{Post, PostContent, PostPage, ReferenceKind, RoomKind};
use ruma::{ServerName, UserId};

use crate::text;

/// A list of posts, and the way to older ones below `path`.
pub(crate) fn list(page: &PostPage, server: &ServerName, path: &str) -> Markup {
    html! {
        @if page.posts.is_empty() && page.next.is_none() {
            p { "There are no public posts here yet." }
        }
        ol.posts {
            @for post in &page.posts { li { (article(post, server)) } }
        }
        @if let Some(next) = page.next {
            a.older rel="next" href={ (path) "?before=" (next) } { "Older posts" }
        }
    }
}

fn article(post: &Post, server: &ServerName) -> Markup {
    let shown = author_name(&post.author, post.author_name.as_deref());
    let group = post.room_name.as_deref();
    html! {
        article id=(post.event_id) aria-label={ "Post by " (shown) } {
            (initial(&shown))
            p.by {
                (person(&post.author, &shown, server))
                @if post.room_kind == RoomKind::Group {
                    " in " bdi { (group.map_or_else(|| post.room_id.to_string(), text::name)) }
                }
            }
            (content(post))
            p.meta {
                (text::time_element(post.sent_ms))
                @if post.edited { " · edited" }
                " · " a href=(permalink(post)) rel="nofollow noopener" { "in Matrix" }
            }
        }
    }
}

fn content(post: &Post) -> Markup {
    html! {
        div {
            @if let Some(reference) = &post.content.reference {
                p.meta {
                    (match reference.kind {
                        ReferenceKind::Repost => "Passes on a post by ",
                        ReferenceKind::Reply => "Answers a post by ",
                    })
                    bdi { (reference.sender) } ":"
                }
            }
            (words(&post.content))
            @if let Some(quoted) = &post.quoted {
                blockquote {
                    p.by { bdi { (author_name(&quoted.author, quoted.author_name.as_deref())) } }
                    (words(&quoted.content))
                }
            }
        }
    }
}

fn words(content: &PostContent) -> Markup {
    html! {
        @if !content.text.trim().is_empty() {
            p.text dir="auto" { (text::linked(&text::clipped(&content.text))) }
        }
        @if let Some(file) = &content.attachment {
            p.meta { (kind_of_file(&file.msgtype)) ": " bdi { (text::name(&file.name)) } }
        }
    }
}

fn kind_of_file(msgtype: &str) -> &'static str {
    match msgtype {
        "m.image" => "Picture",
        "m.video" => "Video",
        "m.audio" => "Sound",
        _ => "File",
    }
}

/// A name and, as names can be anybody's, the user id beside it.
fn person(user: &UserId, shown: &str, server: &ServerName) -> Markup {
    html! {
        @if user.server_name() == server {
            a href={ "/@" (path_segment(user.localpart())) } { bdi { (shown) } }
        } @else {
            a href=(user.matrix_to_uri()) rel="nofollow noopener" { bdi { (shown) } }
        }
        " " span.faint { bdi { (user) } }
    }
}

pub(crate) fn author_name(user: &UserId, display_name: Option<&str>) -> String {
    let shown = text::name(display_name.unwrap_or_default());
    match shown.is_empty() {
        true => user.localpart().to_owned(),
        false => shown,
    }
}

/// In place of a picture.
pub(crate) fn initial(name: &str) -> Markup {
    let first = name.chars().find(|c| c.is_alphanumeric()).unwrap_or('?');
    html! { div.initial aria-hidden="true" { (first.to_uppercase()) } }
}

/// Where clients find the post.
pub(crate) fn permalink(post: &Post) -> String {
    let via = [post.author.server_name().to_owned()];
    post.room_id
        .matrix_to_event_uri_via(post.event_id.clone(), via)
        .to_string()
}

/// A local part in a path. Old ones may hold any character.
pub(crate) fn path_segment(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~=+".contains(&byte);
    text.bytes()
        .map(|byte| match plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}
