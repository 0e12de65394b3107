//! What all pages have in common.

use maud::{DOCTYPE, Markup, html};

use crate::WebState;

/// An Atom feed that belongs to a page: its title and address.
pub(crate) struct FeedLink {
    pub title: String,
    pub href: String,
}

/// A whole page.
pub(crate) fn page(state: &WebState, title: &str, feed: Option<&FeedLink>, body: Markup) -> Markup {
    let server = state.feed.server_name();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " – " (server) }
                link rel="stylesheet" href="/style.css";
                @if let Some(feed) = feed {
                    link rel="alternate" type="application/atom+xml" title=(feed.title) href=(feed.href);
                }
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header.site {
                    a.name href="/" { (server) }
                    nav aria-label="Pages" {
                        a href="/timeline" { "Timeline" }
                        a href="/consortium" { "Consortium" }
                    }
                }
                main #main { (body) }
                footer {
                    p {
                        @if let Some(feed) = feed { a href=(feed.href) { "Atom feed of this page" } " · " }
                        "This server speaks " a href="https://matrix.org" rel="noopener" { "Matrix" }
                        " and runs Resuni."
                    }
                }
            }
        }
    }
}
