//! What a page of HTML says about itself. Pure.
//!
//! The page is read as a stream of tags and no tree is built of it, so that nothing depends on how deep it is
//! (CVE-2022-31052). What is kept is bounded in number and in length, whatever the page holds.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use html5ever::{
    Attribute,
    tendril::StrTendril,
    tokenizer::{
        BufferQueue, Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts,
        states::RawKind,
    },
};

/// The longest value that is kept, in characters.
const VALUE_CHARS: usize = 1_000;
/// The longest address that is kept, in bytes.
const ADDRESS_BYTES: usize = 2_048;
/// The most properties of a page.
const PROPERTIES: usize = 50;
/// How much of the text is looked at for a description, in characters.
const TEXT_CHARS: usize = 2_000;
/// The longest description that is made of the text, in characters.
const EXCERPT_CHARS: usize = 300;
/// How much of the page is given to the tokenizer at a time, in bytes.
const BITE: usize = 4 * 1024;
/// The page ends where a tag or a comment is longer than this many bites: the attributes of one tag are compared with
/// each other, so one of a megabyte would cost minutes.
const BITES_WITHOUT_TOKEN: usize = 16;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Of `og:…` and `twitter:…`, and `description`: the first of each.
    pub properties: BTreeMap<String, String>,
    /// `<title>`.
    pub title: Option<String>,
    /// The first heading.
    pub heading: Option<String>,
    /// The beginning of the text.
    pub text: String,
    /// Of the first image in the text.
    pub image: Option<String>,
    /// `<link rel="image_src">`.
    pub linked_image: Option<String>,
    /// Where oEmbed tells of this page, in JSON.
    pub oembed: Option<String>,
    /// What addresses in the page are relative to, if it says so.
    pub base: Option<String>,
}

/// Reads a page.
pub(super) fn read(page: &str) -> Found {
    let reader = Tokenizer::new(Reader::default(), TokenizerOpts::default());
    let input = BufferQueue::default();
    let (mut rest, mut tokens, mut idle) = (page, 0, 0);
    while !rest.is_empty() && idle < BITES_WITHOUT_TOKEN {
        let (bite, left) = rest.split_at(rest.floor_char_boundary(BITE.min(rest.len())));
        rest = left;
        input.push_back(StrTendril::from_slice(bite));
        // Scripts are not run: where one ends the tokenizer stops to let that be done.
        while !input.is_empty() {
            let _ = reader.feed(&input);
        }
        let now = reader.sink.tokens.get();
        idle = if now == tokens { idle + 1 } else { 0 };
        tokens = now;
    }
    if idle < BITES_WITHOUT_TOKEN {
        reader.end();
    }
    reader.sink.found.into_inner()
}

/// What the text that comes next belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Nothing,
    Title,
    Heading,
    Text,
}

struct Reader {
    found: RefCell<Found>,
    place: Cell<Place>,
    /// Elements of which the text is not shown, or is not what the page is about: how many are open.
    hidden: Cell<usize>,
    tokens: Cell<usize>,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            found: RefCell::default(),
            place: Cell::new(Place::Nothing),
            hidden: Cell::new(0),
            tokens: Cell::new(0),
        }
    }
}

/// Elements whose text says nothing about the page.
const HIDDEN: [&str; 6] = ["nav", "aside", "footer", "svg", "canvas", "button"];

impl TokenSink for Reader {
    type Handle = ();

    fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
        match token {
            Token::TagToken(tag) => {
                self.tokens.set(self.tokens.get() + 1);
                return match tag.kind {
                    TagKind::StartTag => self.start(&tag),
                    TagKind::EndTag => self.end_of(&tag.name),
                };
            }
            Token::CharacterTokens(text) => {
                self.tokens.set(self.tokens.get() + 1);
                self.text(&text);
            }
            Token::CommentToken(_) | Token::DoctypeToken(_) => {
                self.tokens.set(self.tokens.get() + 1);
            }
            // An error is no progress.
            _ => {}
        }
        TokenSinkResult::Continue
    }
}

impl Reader {
    fn start(&self, tag: &Tag) -> TokenSinkResult<()> {
        let name = &*tag.name;
        match name {
            "meta" => self.property(&tag.attrs),
            "link" => self.link(&tag.attrs),
            "base" => first(
                &mut self.found.borrow_mut().base,
                address(&tag.attrs, "href"),
            ),
            "img" if self.hidden.get() == 0 => {
                first(
                    &mut self.found.borrow_mut().image,
                    address(&tag.attrs, "src"),
                );
            }
            "title" => {
                if self.hidden.get() == 0 && self.found.borrow().title.is_none() {
                    self.place.set(Place::Title);
                }
                return TokenSinkResult::RawData(RawKind::Rcdata);
            }
            "textarea" => return TokenSinkResult::RawData(RawKind::Rcdata),
            "script" => return TokenSinkResult::RawData(RawKind::ScriptData),
            "style" | "iframe" | "noframes" | "noembed" | "xmp" => {
                return TokenSinkResult::RawData(RawKind::Rawtext);
            }
            "plaintext" => return TokenSinkResult::Plaintext,
            "h1" | "h2" | "h3" if self.hidden.get() == 0 => self.place.set(Place::Heading),
            "p" | "article" | "blockquote" | "li" if self.hidden.get() == 0 => {
                self.place.set(Place::Text);
                self.text(" ");
            }
            name if HIDDEN.contains(&name) && !tag.self_closing => {
                self.hidden.set(self.hidden.get() + 1);
            }
            _ => {}
        }
        TokenSinkResult::Continue
    }

    fn end_of(&self, name: &str) -> TokenSinkResult<()> {
        match name {
            "title" | "h1" | "h2" | "h3" | "p" | "article" | "blockquote" | "li" | "script"
            | "style" | "textarea" => self.place.set(Place::Nothing),
            name if HIDDEN.contains(&name) => {
                self.hidden.set(self.hidden.get().saturating_sub(1));
            }
            _ => {}
        }
        TokenSinkResult::Continue
    }

    fn text(&self, text: &str) {
        let mut found = self.found.borrow_mut();
        match self.place.get() {
            Place::Nothing => {}
            Place::Title => append(found.title.get_or_insert_default(), text, VALUE_CHARS),
            _ if self.hidden.get() > 0 => {}
            Place::Heading if found.heading.as_ref().is_none_or(|h| h.len() < VALUE_CHARS) => {
                append(found.heading.get_or_insert_default(), text, VALUE_CHARS);
            }
            Place::Heading => {}
            Place::Text => append(&mut found.text, text, TEXT_CHARS),
        }
    }

    fn property(&self, attributes: &[Attribute]) {
        let name = attribute(attributes, "property").or_else(|| attribute(attributes, "name"));
        let (Some(name), Some(content)) = (name, attribute(attributes, "content")) else {
            return;
        };
        let name = name.trim().to_ascii_lowercase();
        let wanted = name == "description"
            || ["og:", "twitter:", "article:", "profile:", "video:"]
                .iter()
                .any(|prefix| name.starts_with(prefix));
        let content = content.trim();
        let mut found = self.found.borrow_mut();
        if wanted
            && !content.is_empty()
            && name.len() <= 100
            && found.properties.len() < PROPERTIES
            && !found.properties.contains_key(&name)
        {
            let value = content.chars().take(VALUE_CHARS).collect();
            found.properties.insert(name, value);
        }
    }

    fn link(&self, attributes: &[Attribute]) {
        let rel = attribute(attributes, "rel").unwrap_or_default();
        let has = |kind: &str| {
            rel.split_ascii_whitespace()
                .any(|rel| rel.eq_ignore_ascii_case(kind))
        };
        let mut found = self.found.borrow_mut();
        if has("image_src") {
            first(&mut found.linked_image, address(attributes, "href"));
        }
        let kind = attribute(attributes, "type").unwrap_or_default();
        if has("alternate") && kind.eq_ignore_ascii_case("application/json+oembed") {
            first(&mut found.oembed, address(attributes, "href"));
        }
    }
}

fn attribute<'a>(attributes: &'a [Attribute], name: &str) -> Option<&'a str> {
    let found = attributes.iter().find(|a| &*a.name.local == name)?;
    Some(&found.value)
}

/// An address of a length that is bearable, and no picture that is written out in it.
fn address(attributes: &[Attribute], name: &str) -> Option<String> {
    let value = attribute(attributes, name)?.trim();
    let good = !value.is_empty() && value.len() <= ADDRESS_BYTES && !value.starts_with("data:");
    good.then(|| value.to_owned())
}

fn first(place: &mut Option<String>, value: Option<String>) {
    if place.is_none() {
        *place = value;
    }
}

/// Adds text, its white space folded, up to a length.
fn append(to: &mut String, text: &str, most: usize) {
    if to.len() >= most * 4 {
        return;
    }
    let mut left = most.saturating_sub(to.chars().count());
    for c in text.chars() {
        if left == 0 {
            return;
        }
        if !c.is_whitespace() {
            to.push(c);
        } else if to.ends_with(' ') || to.is_empty() {
            continue;
        } else {
            to.push(' ');
        }
        left -= 1;
    }
}

impl Found {
    /// A description made of the text: whole words, as many as fit.
    pub fn excerpt(&self) -> Option<String> {
        excerpt(&self.text)
    }
}

/// The first words of a text.
pub(super) fn excerpt(text: &str) -> Option<String> {
    let text = text.trim();
    if text.is_empty() {
        return None;
    }
    let Some((end, _)) = text.char_indices().nth(EXCERPT_CHARS) else {
        return Some(text.to_owned());
    };
    let head = &text[..end];
    let head = head.rsplit_once(' ').map_or(head, |(words, _)| words);
    Some(format!("{}…", head.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_what_it_is() {
        let found = read(
            r#"<!doctype html><html><head><base href="/x/">
            <title> The
              Rock &amp; Roll</title>
            <meta property="og:title" content="The &quot;Rock&quot;">
            <meta property="og:title" content="another">
            <meta name='twitter:image' content='a.png'>
            <META NAME="Description" CONTENT=" About it. ">
            <meta name="viewport" content="width=device-width">
            <link rel="alternate" type="application/json+oembed" href="/oembed?x=1&amp;y=2">
            <style>p { color: red }</style><script>"<p>no</p>" </script></head>
            <body><nav><p>Menu</p><img src="logo.png"></nav><h1>Head<b>ing</b></h1>
            <p>One <i>two</i></p><p>three</p><img src=pic.png><img src=other.png>"#,
        );
        let property = |name: &str| found.properties.get(name).map(String::as_str);
        assert_eq!(property("og:title"), Some("The \"Rock\""));
        assert_eq!(property("twitter:image"), Some("a.png"));
        assert_eq!(property("description"), Some("About it."));
        assert_eq!(found.properties.len(), 3);
        assert_eq!(found.title.as_deref(), Some("The Rock & Roll"));
        assert_eq!(found.heading.as_deref(), Some("Heading"));
        assert_eq!(found.excerpt().as_deref(), Some("One two three"));
        assert_eq!(found.image.as_deref(), Some("pic.png"));
        assert_eq!(found.oembed.as_deref(), Some("/oembed?x=1&y=2"));
        assert_eq!(found.base.as_deref(), Some("/x/"));
    }

    #[test]
    fn s104_depth_length_and_number_cost_nothing() {
        let deep = format!("{}<p>here", "<div>".repeat(150_000));
        assert_eq!(read(&deep).text.trim(), "here");
        let nav = format!("{}<p>hidden", "<nav>".repeat(100_000));
        assert_eq!(read(&nav).text, "");
        // A megabyte of attributes in one tag: the page ends there.
        let attributes: String = (0..120_000).map(|n| format!("a{n} ")).collect();
        let wide = format!("<title>before</title><div {attributes}><title>after</title>");
        assert_eq!(read(&wide).title.as_deref(), Some("before"));
        let many: String = (0..10_000)
            .map(|n| format!("<meta property='og:x{n}' content='{}'>", "y".repeat(90)))
            .collect();
        assert_eq!(read(&many).properties.len(), PROPERTIES);
        let bombs = "<p>&CounterClockwiseContourIntegral;".repeat(30_000);
        assert!(read(&bombs).text.chars().count() <= TEXT_CHARS);
    }

    #[test]
    fn s106_what_is_kept_is_short() {
        let long = "word ".repeat(10_000);
        let found = read(&format!(
            "<title>{long}</title><meta property=og:title content='{long}'><h1>{long}</h1><p>{long}"
        ));
        assert!(found.title.unwrap().chars().count() <= VALUE_CHARS);
        assert!(found.heading.unwrap().chars().count() <= VALUE_CHARS);
        assert!(found.text.chars().count() <= TEXT_CHARS);
        let kept: usize = found.properties.values().map(String::len).sum();
        assert!(kept <= VALUE_CHARS);
        assert!(excerpt(&long).unwrap().chars().count() <= EXCERPT_CHARS + 1);
    }

    #[test]
    fn what_is_no_page_says_nothing() {
        for page in ["", "<", "<!--", "<title", "\0\0", "<p", "&#x", "</"] {
            assert_eq!(read(page).properties.len(), 0, "{page:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(page in "(<[a-z/!]{1,3}|[ -~äß\n]|<meta property='og:title' content='|<p>|<script>|</title>){0,60}") {
            let _ = read(&page);
        }
    }
}
