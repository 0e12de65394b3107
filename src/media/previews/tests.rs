//! Previews over a web that is in memory: what is asked of it, and what is made of its answers.

use std::{
    collections::BTreeMap,
    io::Cursor,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use image::{DynamicImage, ImageFormat};
use resuni_store::Clock;
use ruma::owned_server_name;

use super::*;
use crate::MediaConfig;

/// Pages by their address: status, `Content-Type` or `Location`, body.
type Pages = BTreeMap<&'static str, (u16, &'static str, Vec<u8>)>;

struct Memory {
    pages: Pages,
    asked: Arc<AtomicUsize>,
}

impl Web for Memory {
    fn get<'a>(&'a self, url: &'a Url, _: &'a str) -> BoxFuture<'a, Result<Answer, String>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            if url.path() == "/never" {
                std::future::pending::<()>().await;
            }
            let page = self.pages.get(url.as_str());
            let (status, header, body) = page.cloned().ok_or("nobody there")?;
            let moved = (300..400).contains(&status);
            let header = Some(header.to_owned());
            // An endless body for those who read on.
            let chunks: Vec<_> = body.chunks(1000).map(Bytes::copy_from_slice).collect();
            let endless = url.path().ends_with("endless");
            let chunks = stream::iter(chunks.into_iter().map(Ok));
            let body: BoxStream<'static, _> = if endless {
                Box::pin(chunks.chain(stream::repeat_with(|| {
                    Ok(Bytes::from_static(&[b' '; 1000]))
                })))
            } else {
                Box::pin(chunks)
            };
            Ok(Answer {
                status,
                location: header.clone().filter(|_| moved),
                content_type: header.filter(|_| !moved),
                body,
            })
        })
    }
}

struct Hand(AtomicU64);

impl Clock for Hand {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

struct Desk {
    previews: Arc<Previews>,
    asked: Arc<AtomicUsize>,
    clock: Arc<Hand>,
    _folder: tempfile::TempDir,
}

impl Desk {
    async fn new(pages: &[(&'static str, u16, &'static str, &[u8])]) -> Self {
        Self::with(pages, PreviewConfig::default()).await
    }

    async fn with(
        pages: &[(&'static str, u16, &'static str, &[u8])],
        config: PreviewConfig,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(Hand(AtomicU64::new(1_000_000)));
        let media = MediaConfig {
            max_bytes: 100_000,
            ..MediaConfig::new(owned_server_name!("example.org"), folder.path())
        };
        let media = Media::open(media, Store::memory().await, clock.clone());
        let asked = Arc::new(AtomicUsize::new(0));
        let pages = pages
            .iter()
            .map(|(url, status, header, body)| (*url, (*status, *header, body.to_vec())));
        let web = Memory {
            pages: pages.collect(),
            asked: asked.clone(),
        };
        let config = PreviewConfig {
            keep_ms: 2 * FRESH_MS,
            ..config
        };
        Self {
            previews: Previews::new(media.await.unwrap(), config, Box::new(web)),
            asked,
            clock,
            _folder: folder,
        }
    }

    async fn said(&self, address: &str) -> Value {
        let said = self.previews.preview(address).await.unwrap();
        serde_json::from_str(&said).unwrap()
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    async fn picture(&self, said: &Value) -> Option<crate::MediaRow> {
        let id = said["og:image"]
            .as_str()?
            .strip_prefix("mxc://example.org/")?;
        let media = &self.previews.media;
        media.find(media.server_name(), id).await.unwrap()
    }
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    DynamicImage::new_rgb8(width, height)
        .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)
        .unwrap();
    bytes
}

#[tokio::test]
async fn a_page_is_shown_with_its_picture() {
    let picture = png(30, 20);
    let page = b"<title>Other</title><meta property=og:title content='A &amp; B'>
        <meta property=og:image content=../pic.png><meta property=og:image:width content=9999>
        <p>What it is about.";
    let desk = Desk::new(&[
        (
            "http://a.example/x/page",
            200,
            "text/html; charset=utf-8",
            page,
        ),
        // What is said of a picture does not count.
        ("http://a.example/pic.png", 200, "text/plain", &picture),
    ])
    .await;
    let said = desk.said("http://a.example/x/page#part").await;
    assert_eq!(said["og:title"], "A & B");
    assert_eq!(said["og:description"], "What it is about.");
    assert_eq!(said["og:image:type"], "image/png");
    assert_eq!(said["og:image:width"], 30);
    assert_eq!(said["og:image:height"], 20);
    assert_eq!(said["matrix:image:size"], picture.len());
    let row = desk.picture(&said).await.unwrap();
    assert_eq!(row.content_type.as_deref(), Some("image/png"));
    assert_eq!(row.uploader, None);
}

#[tokio::test]
async fn an_address_of_a_picture_is_the_picture() {
    let picture = png(4, 5);
    let desk = Desk::new(&[("http://a.example/pic", 200, "image/png", &picture)]).await;
    let said = desk.said("http://a.example/pic").await;
    assert_eq!(said["og:image:height"], 5);
    assert!(desk.picture(&said).await.is_some());
}

#[tokio::test]
async fn oembed_says_what_the_page_does_not() {
    let picture = png(4, 5);
    let desk = Desk::new(&[
        (
            "http://a.example/video",
            200,
            "text/html",
            b"<link rel=alternate type=application/json+oembed href=/o?u=video>",
        ),
        (
            "http://a.example/o?u=video",
            200,
            "application/json",
            br#"{"version":"1.0","type":"rich","title":"The film","provider_name":"Films",
                "html":"<script>x</script><p>Said of it</p>","thumbnail_url":"http://b.example/t"}"#,
        ),
        ("http://b.example/t", 200, "image/png", &picture),
    ])
    .await;
    let said = desk.said("http://a.example/video").await;
    assert_eq!(said["og:title"], "The film");
    assert_eq!(said["og:site_name"], "Films");
    assert_eq!(said["og:description"], "Said of it");
    assert!(desk.picture(&said).await.is_some());
}

#[tokio::test]
async fn s097_every_hop_is_judged() {
    let config = PreviewConfig {
        denied_domains: vec!["inside.example".to_owned()],
        ..PreviewConfig::default()
    };
    let picture = png(4, 5);
    let page = b"<title>t</title><meta property=og:image content=http://www.inside.example/pic>
        <link rel=alternate type=application/json+oembed href=http://inside.example/o>";
    let moved = "http://inside.example/secret";
    let desk = Desk::with(
        &[
            ("http://a.example/moved", 302, moved, b""),
            ("http://a.example/file", 302, "file:///etc/passwd", b""),
            ("http://a.example/page", 200, "text/html", page),
            (
                "http://inside.example/secret",
                200,
                "text/html",
                b"<title>s</title>",
            ),
            ("http://www.inside.example/pic", 200, "image/png", &picture),
            (
                "http://inside.example/o",
                200,
                "application/json",
                br#"{"title":"s"}"#,
            ),
        ],
        config,
    )
    .await;
    for address in [
        "http://a.example/moved",
        "http://a.example/file",
        "http://inside.example/secret",
    ] {
        let refused = desk.previews.preview(address).await;
        assert!(matches!(refused, Err(PreviewError::Refused)), "{address}");
    }
    let before = desk.asked();
    let said = desk.said("http://a.example/page").await;
    assert_eq!(said, serde_json::json!({ "og:title": "t" }));
    assert_eq!(desk.asked(), before + 1, "nothing was asked of the other");
}

#[tokio::test]
async fn redirects_end() {
    let desk = Desk::new(&[
        ("http://a.example/1", 301, "/2", b""),
        ("http://a.example/2", 308, "http://b.example/", b""),
        (
            "http://b.example/",
            200,
            "text/html",
            b"<title>there</title>",
        ),
        ("http://a.example/round", 302, "/round", b""),
    ])
    .await;
    let said = desk.said("http://a.example/1").await;
    assert_eq!(said["og:title"], "there");
    let round = desk.previews.preview("http://a.example/round").await;
    assert!(matches!(round, Err(PreviewError::Unreachable(_))));
    assert_eq!(desk.asked(), 3 + HOPS + 1);
}

#[tokio::test(start_paused = true)]
async fn s105_size_and_time_are_bounded() {
    let large = vec![b'x'; 100_001];
    let page = b"<title>t</title><meta property=og:image content=/large><img src=/endless>";
    let desk = Desk::new(&[
        (
            "http://a.example/endless",
            200,
            "text/html",
            b"<title>e</title>",
        ),
        ("http://a.example/page", 200, "text/html", page),
        ("http://a.example/large", 200, "image/png", &large),
        ("http://a.example/pic/endless", 200, "image/png", &png(4, 5)),
    ])
    .await;
    assert_eq!(desk.said("http://a.example/endless").await["og:title"], "e");
    assert_eq!(
        desk.said("http://a.example/page").await.get("og:image"),
        None
    );
    let said = desk.said("http://a.example/pic/endless").await;
    assert_eq!(said, serde_json::json!({}));
    let never = desk.previews.preview("http://a.example/never").await;
    assert!(matches!(never, Err(PreviewError::Unreachable(_))));
}

#[tokio::test]
async fn what_is_said_of_a_page_is_bounded() {
    let many: String = (0..1_000)
        .map(|n| format!("<meta property=og:x{n} content='{}'>", "ä".repeat(2_000)))
        .collect();
    let page = format!("<title>t</title>{many}");
    let desk = Desk::new(&[("http://a.example/", 200, "text/html", page.as_bytes())]).await;
    let said = desk.previews.preview("http://a.example/").await.unwrap();
    assert!(said.len() <= ANSWER_BYTES);
    assert!(said.contains(r#""og:title":"t""#));
}

#[tokio::test]
async fn an_answer_is_kept_for_an_hour_and_its_picture_until_it_is_due() {
    let picture = png(4, 5);
    let desk = Desk::new(&[("http://a.example/pic", 200, "image/png", &picture)]).await;
    let pass = |ms| desk.clock.0.fetch_add(ms, Ordering::SeqCst);
    let first = desk.said("http://a.example/pic").await;
    pass(FRESH_MS - 1);
    assert_eq!(desk.said("http://a.example/pic").await, first);
    assert_eq!(desk.asked(), 1);
    pass(1);
    let second = desk.said("http://a.example/pic").await;
    assert_ne!(second, first);
    assert_eq!(desk.asked(), 2);
    pass(FRESH_MS + 1);
    desk.previews.forget().await.unwrap();
    assert!(desk.picture(&first).await.is_none());
    assert!(desk.picture(&second).await.is_some(), "not due yet");
    pass(FRESH_MS);
    desk.previews.forget().await.unwrap();
    assert!(desk.picture(&second).await.is_none());
    let left = desk.previews.store.snapshot();
    let all = ScanRange::all();
    let rows = left.scan(&PREVIEWS, all.clone(), Direction::Forward, 10);
    assert!(rows.await.unwrap().is_empty());
    let rows = left.scan(&PREVIEWS_DUE, all, Direction::Forward, 10);
    assert!(rows.await.unwrap().is_empty());
}

#[tokio::test]
async fn what_can_not_be_had_is_not_asked_for_again_at_once() {
    let desk = Desk::new(&[("http://a.example/gone", 404, "text/html", b"")]).await;
    for _ in 0..3 {
        let gone = desk.previews.preview("http://a.example/gone").await;
        assert!(matches!(gone, Err(PreviewError::Unreachable(_))));
    }
    assert_eq!(desk.asked(), 1);
    desk.clock.0.fetch_add(FAILED_MS, Ordering::SeqCst);
    let _ = desk.previews.preview("http://a.example/gone").await;
    assert_eq!(desk.asked(), 2);
}

#[tokio::test]
async fn many_who_ask_at_once_ask_once() {
    let desk = Desk::new(&[("http://a.example/", 200, "text/html", b"<title>t</title>")]).await;
    let all = (0..20).map(|_| desk.previews.preview("http://a.example/"));
    for said in futures_util::future::join_all(all).await {
        assert_eq!(said.unwrap(), r#"{"og:title":"t"}"#);
    }
    assert_eq!(desk.asked(), 1);
}
