//! What a link in a message leads to (client-server API, `GET /media/preview_url`).
//!
//! Everybody with an account names addresses here, and whoever owns them says what is there: so each hop is judged by
//! the operator's domains and, when it is connected to, by its IP address; what is read is bounded in size, number and
//! time; and nothing that was read is shown but as text, and as a picture that is one by its bytes.

mod charset;
mod html;
mod rules;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use parking_lot::Mutex;
use resuni_store::{Batch, Direction, ScanRange, SharedClock, Store};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{Mutex as AsyncMutex, Semaphore},
    time,
};
use url::Url;

use crate::{
    About, Media, MediaError, new_id, picture,
    tables::{PREVIEWS, PREVIEWS_DUE, PreviewRow},
};
use html::Found;
use rules::Domains;

/// The most redirects of one address.
const HOPS: usize = 5;
/// How much of a page is read, in bytes: what it says of itself stands at its beginning.
const PAGE_BYTES: usize = 1024 * 1024;
/// The largest picture, in bytes.
const PICTURE_BYTES: usize = 10 * 1024 * 1024;
/// How long all of it may take.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Addresses that are looked at at a time.
const AT_ONCE: usize = 8;
/// How long an answer is given again, in milliseconds.
const FRESH_MS: u64 = 60 * 60 * 1000;
/// How long it is given again that there was none.
const FAILED_MS: u64 = 5 * 60 * 1000;
/// The longest answer that is kept, in bytes.
const ANSWER_BYTES: usize = 32 * 1024;
/// Previews that are removed in one batch.
const PAGE: usize = 256;

/// How previews are made.
#[derive(Clone, Debug, Default)]
pub struct PreviewConfig {
    /// Where this is not empty, only these domains and those below them.
    pub allowed_domains: Vec<String>,
    /// Never these, nor those below them.
    pub denied_domains: Vec<String>,
    /// The value of `Accept-Language`.
    pub language: String,
    /// How long previews and their pictures are kept, in milliseconds.
    pub keep_ms: u64,
}

/// What a web server answered, without redirects followed; its body as it comes.
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// `Content-Type`
    pub content_type: Option<String>,
    /// `Location`
    pub location: Option<String>,
    /// The body, not encoded in any way.
    pub body: BoxStream<'static, Result<Bytes, String>>,
}

/// The way to web servers. It must not connect to addresses that are not for everybody, and must not follow redirects.
pub trait Web: Send + Sync {
    /// One GET.
    fn get<'a>(&'a self, url: &'a Url, language: &'a str) -> BoxFuture<'a, Result<Answer, String>>;
}

/// Why there is no preview.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    /// This address is not previewed.
    #[error("This address is not previewed.")]
    Refused,
    /// It could not be had. The reason is for the log: it would tell whoever asks what is in the operator's network.
    #[error("There is nothing to be had at this address.")]
    Unreachable(String),
    /// It could not be kept.
    #[error(transparent)]
    Media(#[from] MediaError),
}

/// Makes previews, and remembers them.
pub struct Previews {
    media: Arc<Media>,
    store: Store,
    clock: SharedClock,
    web: Box<dyn Web>,
    domains: Domains,
    config: PreviewConfig,
    permits: Semaphore,
    /// One looks at an address at a time; the others wait for what it finds.
    turns: Mutex<HashMap<[u8; 32], Arc<AsyncMutex<()>>>>,
}

/// What was found at an address.
#[derive(Default)]
struct Preview {
    said: Map<String, Value>,
    picture: Option<Picture>,
}

impl Previews {
    /// Over these files and this way to the web.
    pub fn new(media: Arc<Media>, config: PreviewConfig, web: Box<dyn Web>) -> Arc<Self> {
        Arc::new(Self {
            store: media.store.clone(),
            clock: media.clock.clone(),
            domains: Domains {
                allowed: config.allowed_domains.clone(),
                denied: config.denied_domains.clone(),
            },
            media,
            web,
            config,
            permits: Semaphore::new(AT_ONCE),
            turns: Mutex::default(),
        })
    }

    /// The preview of an address, a JSON object of OpenGraph properties; from memory where that is an hour old at most.
    ///
    /// # Errors
    /// [`PreviewError::Refused`] by its domain or scheme, [`PreviewError::Unreachable`].
    pub async fn preview(&self, address: &str) -> Result<String, PreviewError> {
        let url = self.domains.check(address).ok_or(PreviewError::Refused)?;
        let key: [u8; 32] = Sha256::digest(url.as_str()).into();
        let turn = self.turn(key);
        let _turn = turn.lock().await;
        if let Some(known) = self.known(&key).await? {
            return known.ok_or_else(|| PreviewError::Unreachable("it was not before".into()));
        }
        let looked = async {
            let _permit = self.permits.acquire().await;
            self.look(url.clone()).await
        };
        let found = time::timeout(TIMEOUT, looked)
            .await
            .unwrap_or_else(|_| Err(PreviewError::Unreachable("it took too long".into())));
        match found {
            Ok(preview) => Ok(self.keep(key, preview).await?),
            Err(error) => {
                tracing::debug!(host = url.host_str(), ?error, "no preview");
                let mut batch = Batch::new();
                self.remember(&mut batch, key, None, String::new());
                self.store
                    .commit_durable(batch)
                    .await
                    .map_err(MediaError::from)?;
                Err(error)
            }
        }
    }

    fn turn(&self, key: [u8; 32]) -> Arc<AsyncMutex<()>> {
        let mut turns = self.turns.lock();
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(key).or_default())
    }

    /// What was found lately: an answer, or that there was none.
    async fn known(&self, key: &[u8; 32]) -> Result<Option<Option<String>>, MediaError> {
        let row = self.store.snapshot().get(&PREVIEWS, key).await?;
        let now = self.clock.now_ms();
        Ok(row.and_then(|row| {
            let fresh = if row.said.is_some() {
                FRESH_MS
            } else {
                FAILED_MS
            };
            (now < row.found_ms.saturating_add(fresh)).then_some(row.said)
        }))
    }

    /// Writes an answer and its picture, both or nothing.
    async fn keep(&self, key: [u8; 32], preview: Preview) -> Result<String, MediaError> {
        let Preview { mut said, picture } = preview;
        let mut batch = Batch::new();
        let Some(picture) = picture else {
            let said = text_of(said);
            self.remember(&mut batch, key, Some(said.clone()), String::new());
            self.store.commit_durable(batch).await?;
            return Ok(said);
        };
        let address = (self.media.server_name().to_string(), new_id()?);
        picture.say(&mut said, &format!("mxc://{}/{}", address.0, address.1));
        let about = About {
            content_type: Some(picture.kind.to_owned()),
            ..About::default()
        };
        let body = stream::iter([Ok::<_, std::io::Error>(picture.bytes)]);
        let (row, settling) = self.media.row(about, body).await?;
        let said = text_of(said);
        self.remember(&mut batch, key, Some(said.clone()), address.1.clone());
        self.media.note(batch, &address, &row, settling).await?;
        Ok(said)
    }

    fn remember(&self, batch: &mut Batch, key: [u8; 32], said: Option<String>, picture: String) {
        let found_ms = self.clock.now_ms();
        let due_ms = found_ms.saturating_add(self.config.keep_ms.max(FRESH_MS));
        let row = PreviewRow {
            found_ms,
            due_ms,
            said,
        };
        batch.put(&PREVIEWS, &key, &row);
        // What was found before has its own row there, and with it its picture its end.
        batch.put(&PREVIEWS_DUE, &(due_ms, key), &picture);
    }

    /// Looks at an address.
    async fn look(&self, url: Url) -> Result<Preview, PreviewError> {
        let (url, answer) = self.open(url).await?;
        match kind_of(&answer).as_str() {
            "text/html" | "application/xhtml+xml" => self.page(url, answer).await,
            kind if kind.starts_with("image/") => {
                let picture = self.read_picture(answer).await?;
                Ok(Preview {
                    picture,
                    ..Preview::default()
                })
            }
            // There is something, and nothing to say of it.
            _ => Ok(Preview::default()),
        }
    }

    /// Follows redirects; each hop is judged like the first.
    async fn open(&self, mut url: Url) -> Result<(Url, Answer), PreviewError> {
        for _ in 0..=HOPS {
            let answer = self.web.get(&url, &self.config.language).await;
            let answer = answer.map_err(PreviewError::Unreachable)?;
            match answer.status {
                200..=299 => return Ok((url, answer)),
                301 | 302 | 303 | 307 | 308 => {
                    let to = answer.location.as_deref().and_then(|to| url.join(to).ok());
                    let to = to.ok_or_else(|| PreviewError::Unreachable("no Location".into()))?;
                    url = self.domains.allow(to).ok_or(PreviewError::Refused)?;
                }
                status => return Err(PreviewError::Unreachable(format!("status {status}"))),
            }
        }
        Err(PreviewError::Unreachable("too many redirects".into()))
    }

    async fn page(&self, url: Url, answer: Answer) -> Result<Preview, PreviewError> {
        let content_type = answer.content_type.clone();
        let bytes = beginning(answer.body, PAGE_BYTES).await?;
        // A megabyte takes a while to read: not on the threads that everybody waits for.
        let found = tokio::task::spawn_blocking(move || {
            html::read(&charset::decode(&bytes, content_type.as_deref()))
        });
        let found = found
            .await
            .map_err(|error| PreviewError::Unreachable(error.to_string()))?;
        let base = found.base.as_deref().and_then(|base| url.join(base).ok());
        let base = base.unwrap_or(url);
        let mut card = Card::of(found);
        if card.lacks_something()
            && let Some(address) = card.oembed.take()
            && let Some(told) = self.oembed(&base, &address).await
        {
            card.add(&told);
        }
        let mut preview = Preview {
            said: card.said,
            picture: None,
        };
        for address in card.pictures {
            // A picture that can't be had is no reason to show nothing.
            preview.picture = self.picture_at(&base, &address).await;
            if preview.picture.is_some() {
                break;
            }
        }
        Ok(preview)
    }

    /// What oEmbed tells of a page; nothing where it is not to be had.
    async fn oembed(&self, base: &Url, address: &str) -> Option<Value> {
        let url = self.domains.allow(base.join(address).ok()?)?;
        let (_, answer) = self.open(url).await.ok()?;
        if !kind_of(&answer).contains("json") {
            return None;
        }
        let bytes = beginning(answer.body, PAGE_BYTES).await.ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    async fn picture_at(&self, base: &Url, address: &str) -> Option<Picture> {
        let url = self.domains.allow(base.join(address).ok()?)?;
        let (_, answer) = self.open(url).await.ok()?;
        self.read_picture(answer).await.ok().flatten()
    }

    /// What is a picture by its bytes, whatever is said of it.
    async fn read_picture(&self, answer: Answer) -> Result<Option<Picture>, PreviewError> {
        let most = PICTURE_BYTES.min(usize::try_from(self.media.max_bytes()).unwrap_or(usize::MAX));
        let bytes = beginning(answer.body, most + 1).await?;
        if bytes.len() > most {
            return Ok(None);
        }
        let described = picture::describe(&bytes).ok();
        Ok(described.map(|(kind, width, height)| Picture {
            bytes: bytes.into(),
            kind,
            width,
            height,
        }))
    }

    /// Removes previews and their pictures that are no longer kept.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn forget(&self) -> Result<(), MediaError> {
        let now = self.clock.now_ms();
        loop {
            let range = ScanRange::between(&(0_u64, [0_u8; 32]), &(now, [0_u8; 32]));
            let snapshot = self.store.snapshot();
            let due = snapshot
                .scan(&PREVIEWS_DUE, range, Direction::Forward, PAGE)
                .await?;
            if due.is_empty() {
                return Ok(());
            }
            let (mut batch, mut pictures) = (Batch::new(), Vec::new());
            for ((due_ms, key), picture) in due {
                batch.delete(&PREVIEWS_DUE, &(due_ms, key));
                let row = snapshot.get(&PREVIEWS, &key).await?;
                if row.is_some_and(|row| row.due_ms == due_ms) {
                    batch.delete(&PREVIEWS, &key);
                }
                if !picture.is_empty() {
                    pictures.push((self.media.server_name().to_string(), picture));
                }
            }
            // The pictures first: after a crash in between they are gone already, and the rows still say so.
            self.media.remove(&pictures).await?;
            self.store.commit_durable(batch).await?;
        }
    }
}

/// A picture of a format that we know.
struct Picture {
    bytes: Bytes,
    kind: &'static str,
    width: u32,
    height: u32,
}

impl Picture {
    fn say(&self, said: &mut Map<String, Value>, address: &str) {
        let mut say = |key: &str, value: Value| said.insert(key.to_owned(), value);
        say("og:image", address.into());
        say("og:image:type", self.kind.into());
        say("og:image:width", self.width.into());
        say("og:image:height", self.height.into());
        say("matrix:image:size", self.bytes.len().into());
    }
}

/// What is shown of a page, and what may be its picture, best first.
#[derive(Default)]
struct Card {
    said: Map<String, Value>,
    pictures: Vec<String>,
    oembed: Option<String>,
}

impl Card {
    /// OpenGraph first, then Twitter's cards, then the page's own title, headings and text.
    fn of(found: Found) -> Self {
        let excerpt = found.excerpt();
        let Found {
            mut properties,
            title,
            heading,
            image,
            linked_image,
            oembed,
            ..
        } = found;
        let mut card = Self {
            oembed,
            ..Self::default()
        };
        let pictures = ["og:image:secure_url", "og:image", "og:image:url"];
        for name in pictures
            .iter()
            .chain(&["twitter:image", "twitter:image:src"])
        {
            card.pictures.extend(properties.remove(*name));
        }
        card.pictures
            .extend([linked_image, image].into_iter().flatten());
        card.pictures.dedup();
        card.pictures.truncate(3);
        // What is said of a picture is said of ours, when we have it.
        properties.retain(|name, _| !name.starts_with("og:image"));
        let trimmed = |text: Option<String>| {
            text.map(|text| text.trim().to_owned())
                .filter(|text| !text.is_empty())
        };
        let title = properties.remove("twitter:title").or(trimmed(title));
        let description = ["twitter:description", "description"]
            .iter()
            .find_map(|name| properties.remove(*name));
        let site = properties.remove("twitter:site");
        for (name, value) in properties {
            if !name.starts_with("twitter:") {
                card.say(&name, Some(value));
            }
        }
        card.say("og:title", title.or(trimmed(heading)));
        card.say("og:description", description.or(excerpt));
        card.say("og:site_name", site);
        card
    }

    /// Says something unless it was said before.
    fn say(&mut self, name: &str, value: Option<String>) {
        if let Some(value) = value {
            self.said
                .entry(name)
                .or_insert_with(|| Value::String(value));
        }
    }

    fn lacks_something(&self) -> bool {
        !self.said.contains_key("og:title") || self.pictures.is_empty()
    }

    /// Adds what oEmbed tells (<https://oembed.com>, section 2.3.4). Its HTML is read as text.
    fn add(&mut self, told: &Value) {
        let text = |name: &str| {
            let text = told.get(name)?.as_str()?.trim();
            let text: String = text.chars().take(1_000).collect();
            (!text.is_empty()).then_some(text)
        };
        self.say("og:title", text("title").or_else(|| text("author_name")));
        self.say("og:site_name", text("provider_name"));
        let html = text("html").and_then(|html| html::read(&html).excerpt());
        self.say("og:description", html);
        if told.get("type").and_then(Value::as_str) == Some("photo") {
            self.pictures.extend(text("url"));
        }
        self.pictures.extend(text("thumbnail_url"));
    }
}

/// The answer as text. At most 50 values of 1,000 characters: too long only where somebody means it to be, and then
/// nothing of it is told but the picture, the title and the description.
fn text_of(mut said: Map<String, Value>) -> String {
    let text = Value::Object(said.clone()).to_string();
    if text.len() <= ANSWER_BYTES {
        return text;
    }
    said.retain(|name, value| {
        !value.is_string() || matches!(&**name, "og:title" | "og:description" | "og:image")
    });
    Value::Object(said).to_string()
}

fn kind_of(answer: &Answer) -> String {
    let kind = answer.content_type.as_deref().unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default();
    kind.trim().to_ascii_lowercase()
}

/// The beginning of a body, and no more of it than that.
async fn beginning(
    mut body: BoxStream<'static, Result<Bytes, String>>,
    most: usize,
) -> Result<Vec<u8>, PreviewError> {
    let mut bytes = Vec::new();
    while bytes.len() < most {
        match body.next().await {
            Some(chunk) => bytes.extend_from_slice(&chunk.map_err(PreviewError::Unreachable)?),
            None => break,
        }
    }
    bytes.truncate(most);
    Ok(bytes)
}
