//! What people wrote, as text.

use jiff::{Timestamp, tz::TimeZone};
use maud::{Markup, html};
use url::Url;

/// Characters of a post that are shown.
const SHOWN_CHARS: usize = 4_000;
/// Characters of a name that are shown.
const NAME_CHARS: usize = 80;
/// The longest address that becomes a link, in bytes.
const MAX_LINK: usize = 2_000;

/// A piece of a text.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'a> {
    Text(&'a str),
    Link { shown: &'a str, href: String },
}

/// The characters that neither HTML nor XML can hold go, and so does what is beyond the limit.
pub(crate) fn clipped(text: &str) -> String {
    clip(text, SHOWN_CHARS)
}

/// A name on one line.
pub(crate) fn name(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    clip(&words.join(" "), NAME_CHARS)
}

fn clip(text: &str, limit: usize) -> String {
    let allowed = |c: &char| !c.is_control() || matches!(c, '\n' | '\t');
    // U+FFFE and U+FFFF are no characters of XML 1.0.
    let allowed = |c: &char| allowed(c) && !matches!(c, '\u{fffe}' | '\u{ffff}');
    let mut chars = text.chars().filter(allowed);
    let mut shown: String = chars.by_ref().take(limit).collect();
    if chars.next().is_some() {
        shown.push('…');
    }
    shown
}

/// Text with its http and https addresses as links. They are other people's: search engines are told not to follow
/// them (`nofollow ugc`).
pub(crate) fn linked(text: &str) -> Markup {
    html! {
        @for piece in pieces(text) {
            @match piece {
                Piece::Text(text) => (text),
                Piece::Link { shown, href } => a href=(href) rel="nofollow ugc noopener noreferrer" { (shown) },
            }
        }
    }
}

fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = next_address(rest) {
        let (before, from) = rest.split_at(at);
        let end = from
            .find(|c: char| c.is_whitespace() || matches!(c, '<' | '>' | '"' | '`'))
            .unwrap_or(from.len());
        let shown = from[..end].trim_end_matches(['.', ',', ';', ':', '!', '?', ')', ']', '\'']);
        let href = Url::parse(shown)
            .ok()
            .filter(|url| url.has_host() && shown.len() <= MAX_LINK);
        let Some(href) = href else {
            pieces.push(Piece::Text(&rest[..at + end]));
            rest = &rest[at + end..];
            continue;
        };
        if !before.is_empty() {
            pieces.push(Piece::Text(before));
        }
        let href = href.to_string();
        pieces.push(Piece::Link { shown, href });
        rest = &from[shown.len()..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    pieces
}

fn next_address(text: &str) -> Option<usize> {
    let found = ["https://", "http://"].map(|scheme| text.find(scheme));
    found.into_iter().flatten().min()
}

/// Milliseconds since the epoch as a time in UTC.
pub(crate) fn time(millis: u64) -> Timestamp {
    i64::try_from(millis)
        .ok()
        .and_then(|millis| Timestamp::from_millisecond(millis).ok())
        .unwrap_or_default()
}

/// `<time>` for people and programs.
pub(crate) fn time_element(millis: u64) -> Markup {
    let time = time(millis);
    let shown = time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M UTC");
    html! { time datetime=(time) { (shown) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_become_links_and_nothing_else_does() {
        let link = |shown, href: &str| Piece::Link {
            shown,
            href: href.to_owned(),
        };
        assert_eq!(
            pieces("see https://a.example/x?y=1, and (http://b.example)."),
            [
                Piece::Text("see "),
                link("https://a.example/x?y=1", "https://a.example/x?y=1"),
                Piece::Text(", and ("),
                link("http://b.example", "http://b.example/"),
                Piece::Text(")."),
            ]
        );
        for text in [
            "javascript:alert(1)",
            "data:text/html,x",
            "https://",
            "http://:80/",
            "ftp://a.example",
            "",
        ] {
            assert!(
                pieces(text)
                    .iter()
                    .all(|piece| matches!(piece, Piece::Text(_))),
                "{text}"
            );
        }
        // What a host looks like is not what it is: the link says.
        let pieces = pieces("https://аpple.example");
        assert!(matches!(&pieces[0], Piece::Link { href, .. } if href.starts_with("https://xn--")));
    }

    #[test]
    fn links_are_escaped() {
        let html = linked("https://a.example/'\"><script>alert(1)</script>").into_string();
        assert!(!html.contains("<script"), "{html}");
        assert!(html.contains("rel=\"nofollow ugc noopener noreferrer\""));
    }

    #[test]
    fn texts_are_clipped_and_clean() {
        assert_eq!(clipped("a\u{0}b\u{b}c\n\u{ffff}d"), "abc\nd");
        assert_eq!(clipped(&"x".repeat(5_000)).chars().count(), 4_001);
        assert_eq!(name(" Eve \n\u{7} \t Online "), "Eve Online");
    }

    #[test]
    fn times_out_of_range_are_the_epoch() {
        assert_eq!(time(u64::MAX), Timestamp::UNIX_EPOCH);
        assert_eq!(time(1_700_000_000_000).to_string(), "2023-11-14T22:13:20Z");
    }
}
