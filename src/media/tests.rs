mod bucket;
mod keeping;

use std::path::Path;

use futures_util::stream;
use resuni_store::{Direction, ScanRange, SystemClock};
use ruma::owned_server_name;

use super::*;

async fn media(folder: &Path, store: &Store) -> Arc<Media> {
    let config = MediaConfig {
        max_bytes: 10,
        ..MediaConfig::new(owned_server_name!("example.org"), folder)
    };
    Media::open(config, store.clone(), Arc::new(SystemClock))
        .await
        .unwrap()
}

fn chunks(parts: &[&'static str]) -> impl Stream<Item = Result<Bytes, &'static str>> + Unpin {
    let parts: Vec<_> = parts
        .iter()
        .map(|part| Ok(Bytes::from_static(part.as_bytes())))
        .collect();
    stream::iter(parts)
}

fn files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .map(|path| if path.is_dir() { files(&path) } else { 1 })
        .sum()
}

#[tokio::test]
async fn what_was_uploaded_is_there_after_a_restart_and_equal_files_are_kept_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::memory().await;
    let server = owned_server_name!("example.org");
    let about = About {
        content_type: Some("text/plain".into()),
        ..About::default()
    };
    let before = media(folder.path(), &store).await;
    let id = before.upload(about, chunks(&["hel", "lo"])).await.unwrap();
    let other = before
        .upload(About::default(), chunks(&["hello"]))
        .await
        .unwrap();
    assert_ne!(id, other);
    assert!(is_id(&id));
    let after = media(folder.path(), &store).await;
    let row = after.find(&server, &id).await.unwrap().unwrap();
    assert_eq!(
        (row.bytes, row.content_type.as_deref()),
        (5, Some("text/plain"))
    );
    assert_eq!(after.all(&row).await.unwrap(), b"hello");
    assert_eq!(files(folder.path()), 1);
}

#[tokio::test]
async fn what_is_too_large_or_breaks_off_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let media = media(folder.path(), &Store::memory().await).await;
    let large = media
        .upload(About::default(), chunks(&["123456", "78901"]))
        .await;
    assert!(matches!(large, Err(MediaError::TooLarge { limit: 10 })));
    let broken = stream::iter([Ok(Bytes::from_static(b"12")), Err("gone")]);
    let broken = media.upload(About::default(), broken).await;
    assert!(matches!(broken, Err(MediaError::Broken(_))));
    assert_eq!(files(folder.path()), 0);
}

#[tokio::test]
async fn an_id_is_no_path() {
    let folder = tempfile::tempdir().unwrap();
    let media = media(folder.path(), &Store::memory().await).await;
    for id in ["", "../a", "a/b", "a\0", "a.b", "é", &"a".repeat(256)] {
        assert!(!is_id(id));
        let found = media
            .find(&owned_server_name!("example.org"), id)
            .await
            .unwrap();
        assert_eq!(found, None, "{id}");
    }
}
