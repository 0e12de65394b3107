//! Where bytes are, when they go, and how much everybody may have.

use std::sync::atomic::{AtomicU64, Ordering};

use resuni_store::Clock;
use ruma::{OwnedUserId, owned_user_id, user_id};

use super::{bucket, *};
use crate::{
    Wanted,
    tables::{MEDIA, USED, USES},
};

const DAY: u64 = 24 * 60 * 60 * 1000;

struct Hand(AtomicU64);

impl Clock for Hand {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

struct Desk {
    folder: tempfile::TempDir,
    store: Store,
    clock: Arc<Hand>,
    config: MediaConfig,
}

impl Desk {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = owned_server_name!("example.org");
        Self {
            store: Store::memory().await,
            clock: Arc::new(Hand(AtomicU64::new(100 * DAY))),
            config: MediaConfig {
                max_bytes: 50_000_000,
                ..MediaConfig::new(server, folder.path())
            },
            folder,
        }
    }

    async fn open(&self) -> Arc<Media> {
        let opened = Media::open(self.config.clone(), self.store.clone(), self.clock.clone());
        opened.await.unwrap()
    }
}

fn by(user: OwnedUserId) -> About {
    About {
        uploader: Some(user),
        content_type: Some("image/png".to_owned()),
        ..About::default()
    }
}

fn alice() -> About {
    by(owned_user_id!("@alice:example.org"))
}

fn body(bytes: impl Into<Bytes>) -> impl Stream<Item = Result<Bytes, &'static str>> + Unpin {
    stream::iter([Ok(bytes.into())])
}

async fn row(media: &Media, id: &str) -> Option<MediaRow> {
    media.find(media.server_name(), id).await.unwrap()
}

fn address(id: &str) -> (String, String) {
    ("example.org".to_owned(), id.to_owned())
}

fn png() -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let image = image::DynamicImage::new_rgb8(200, 100);
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

const SMALL: Wanted = Wanted {
    width: 32,
    height: 32,
    crop: false,
    animated: false,
};

#[tokio::test]
async fn bytes_go_with_the_last_that_needs_them() {
    let desk = Desk::new().await;
    let media = desk.open().await;
    let first = media.upload(alice(), body(png())).await.unwrap();
    let second = media.upload(alice(), body(png())).await.unwrap();
    let found = row(&media, &first).await.unwrap();
    let small = media.thumbnail(&found, SMALL).await.unwrap();
    assert_ne!(small.hash, found.hash);
    // Somebody sends the thumbnail as a picture of its own.
    let bytes = media.all(&small).await.unwrap();
    let third = media.upload(alice(), body(bytes)).await.unwrap();
    assert_eq!(files(desk.folder.path()), 2);

    media.remove(&[address(&first)]).await.unwrap();
    assert!(row(&media, &first).await.is_none());
    let found = row(&media, &second).await.unwrap();
    assert_eq!(media.all(&found).await.unwrap(), png());
    media.remove(&[address(&second)]).await.unwrap();
    assert!(matches!(media.all(&found).await, Err(MediaError::Unknown)));
    assert_eq!(
        files(desk.folder.path()),
        1,
        "the thumbnail is a picture now"
    );
    media
        .remove(&[address(&third), address("unknown")])
        .await
        .unwrap();
    assert_eq!(files(desk.folder.path()), 0);
    let snapshot = desk.store.snapshot();
    let uses = snapshot.scan(&USES, ScanRange::all(), Direction::Forward, 9);
    assert!(uses.await.unwrap().is_empty());
    let used = media.used_by(user_id!("@alice:example.org")).await;
    assert_eq!(used.unwrap(), 0);
}

#[tokio::test]
async fn nobody_has_more_than_the_operator_gives() {
    let mut desk = Desk::new().await;
    desk.config.max_bytes_per_user = Some(10);
    let media = desk.open().await;
    let first = media.upload(alice(), body("123456")).await.unwrap();
    let over = media.upload(alice(), body("12345")).await;
    assert!(matches!(over, Err(MediaError::Quota { limit: 10 })));
    assert_eq!(files(desk.folder.path()), 1, "nothing is left of it");
    let bob = by(owned_user_id!("@bob:example.org"));
    media.upload(bob, body("12345")).await.unwrap();
    media.upload(alice(), body("1234")).await.unwrap();
    media.remove(&[address(&first)]).await.unwrap();
    media.upload(alice(), body("abcdef")).await.unwrap();
    // Files of other servers are nobody's.
    let elsewhere = owned_server_name!("elsewhere.example");
    let large = media.keep(&elsewhere, "large", About::default(), body("0123456789abc"));
    large.await.unwrap();
    // Of many at once no more get through than fit.
    let carol = owned_user_id!("@carol:example.org");
    let all = (0..20).map(|_| media.upload(by(carol.clone()), body("1234")));
    let kept = futures_util::future::join_all(all).await;
    assert_eq!(kept.iter().filter(|kept| kept.is_ok()).count(), 2);
}

#[tokio::test]
async fn what_nobody_looks_at_is_not_kept_for_ever() {
    let mut desk = Desk::new().await;
    desk.config.keep_remote_ms = Some(10 * DAY);
    desk.config.keep_unseen_ms = Some(30 * DAY);
    let media = desk.open().await;
    let elsewhere = owned_server_name!("elsewhere.example");
    for id in ["a", "b"] {
        let kept = media.keep(&elsewhere, id, About::default(), body(id));
        kept.await.unwrap();
    }
    let looked_at = media.upload(alice(), body("1")).await.unwrap();
    let never = media.upload(alice(), body("2")).await.unwrap();
    let pass = |days| desk.clock.0.fetch_add(days * DAY, Ordering::SeqCst);
    pass(9);
    media.seen(&elsewhere, "b").await.unwrap();
    media.seen(media.server_name(), &looked_at).await.unwrap();
    assert_eq!(media.forget_old().await.unwrap(), 0);
    pass(2);
    assert_eq!(media.forget_old().await.unwrap(), 1);
    assert!(media.find(&elsewhere, "a").await.unwrap().is_none());
    assert!(media.find(&elsewhere, "b").await.unwrap().is_some());
    pass(20);
    assert_eq!(media.forget_old().await.unwrap(), 2);
    assert!(row(&media, &never).await.is_none());
    assert!(row(&media, &looked_at).await.is_some());
    pass(1000);
    assert_eq!(media.forget_old().await.unwrap(), 0);
}

#[tokio::test]
async fn a_database_of_before_is_counted_once() {
    let desk = Desk::new().await;
    let before = desk.open().await;
    let id = before.upload(alice(), body(png())).await.unwrap();
    let found = row(&before, &id).await.unwrap();
    before.thumbnail(&found, SMALL).await.unwrap();
    let snapshot = desk.store.snapshot();
    let all = ScanRange::all();
    let uses = snapshot.scan(&USES, all.clone(), Direction::Forward, 9);
    let (uses, used) = (
        uses.await.unwrap(),
        snapshot
            .scan(&USED, all, Direction::Forward, 9)
            .await
            .unwrap(),
    );
    assert_eq!((uses.len(), used.len()), (2, 2));
    // As an older version leaves it.
    let mut batch = Batch::new();
    uses.iter().for_each(|(key, ())| batch.delete(&USES, key));
    used.iter().for_each(|(key, _)| batch.delete(&USED, key));
    desk.store.commit_durable(batch).await.unwrap();
    let after = desk.open().await;
    let snapshot = desk.store.snapshot();
    let all = ScanRange::all();
    let again = snapshot.scan(&USES, all.clone(), Direction::Forward, 9);
    assert_eq!(again.await.unwrap(), uses);
    let again = snapshot.scan(&USED, all, Direction::Forward, 9);
    assert_eq!(again.await.unwrap(), used);
    after.remove(&[address(&id)]).await.unwrap();
    assert_eq!(files(desk.folder.path()), 0);
}

#[tokio::test]
async fn the_bytes_are_in_a_bucket_where_there_is_one() {
    let (endpoint, objects) = bucket::start().await;
    let mut desk = Desk::new().await;
    desk.config.bucket = Some(crate::BucketConfig {
        bucket: "files".to_owned(),
        endpoint: Some(endpoint),
        region: "eu-central-1".to_owned(),
        access_key_id: "key-id".to_owned(),
        secret_access_key: "secret".to_owned(),
        prefix: "media/".to_owned(),
    });
    let media = desk.open().await;
    let id = media.upload(alice(), body(png())).await.unwrap();
    let again = media.upload(alice(), body(png())).await.unwrap();
    assert_eq!(objects.lock().puts, 1, "equal files are put there once");
    assert_eq!(files(desk.folder.path()), 0, "and none is here");
    let found = row(&media, &id).await.unwrap();
    assert_eq!(media.all(&found).await.unwrap(), png());
    let mut part = media.read(&found, 1..4).await.unwrap();
    assert_eq!(part.next().await.unwrap().unwrap(), "PNG");
    let small = media.thumbnail(&found, SMALL).await.unwrap();
    assert!(!media.all(&small).await.unwrap().is_empty());
    assert_eq!(objects.lock().whole.len(), 2);
    let names: Vec<String> = objects.lock().whole.keys().cloned().collect();
    assert!(names.iter().all(|name| name.starts_with("media/")));

    // A large one goes there in parts.
    let large: Vec<u8> = (0..12_000_000_u32).map(|n| (n % 251) as u8).collect();
    let id_of_large = media.upload(alice(), body(large.clone())).await.unwrap();
    let found_large = row(&media, &id_of_large).await.unwrap();
    assert!(objects.lock().puts > 3);
    assert!(media.all(&found_large).await.unwrap() == large);

    let all = [address(&id), address(&again), address(&id_of_large)];
    media.remove(&all).await.unwrap();
    assert!(objects.lock().whole.is_empty());
    assert!(matches!(media.all(&found).await, Err(MediaError::Unknown)));
    let rows = desk.store.snapshot();
    let rows = rows.scan(&MEDIA, ScanRange::all(), Direction::Forward, 9);
    assert!(rows.await.unwrap().is_empty());
}

#[tokio::test]
async fn a_bucket_that_refuses_is_an_error_and_no_file() {
    let (endpoint, objects) = bucket::start().await;
    let mut desk = Desk::new().await;
    desk.config.bucket = Some(crate::BucketConfig {
        bucket: "another".to_owned(),
        endpoint: Some(endpoint),
        region: "eu-central-1".to_owned(),
        access_key_id: "key-id".to_owned(),
        secret_access_key: "secret".to_owned(),
        prefix: String::new(),
    });
    let media = desk.open().await;
    let refused = media.upload(alice(), body("1")).await;
    let Err(MediaError::Bucket(reason)) = refused else {
        panic!("it was taken");
    };
    assert!(!reason.contains("secret"), "{reason}");
    assert!(objects.lock().whole.is_empty());
    assert_eq!(files(desk.folder.path()), 0);
}
