//! A server that stops and starts again, on a disk.

use resuni_store::{EngineConfig, RocksConfig};

use super::{between::*, *};

async fn opened(path: &std::path::Path) -> Arc<Rooms> {
    let store = Store::open(EngineConfig::Rocks(RocksConfig::new(path)))
        .await
        .unwrap();
    server_on("here", store).await
}

#[tokio::test]
async fn a_room_goes_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let there = server("there").await;
    let alice = user("@alice:here");
    let txn = || {
        Some(TxnKey {
            device: "D".to_owned(),
            txn: "1".to_owned(),
        })
    };

    let here = opened(folder.path()).await;
    let room = room(&here, RoomVersionId::V12, "@alice:here").await;
    join(&here, &there, &room, "@bob:there").await;
    let said = here
        .send(&room, &alice, message("before"), txn())
        .await
        .unwrap();
    there.receive(&room, pdu(&here, &said).await).await.unwrap();
    let (before, digest_before) = (head(&here, &room).await, digest(&here, &room).await);
    here.store().close().await;
    drop(here);

    let here = opened(folder.path()).await;
    assert_eq!(head(&here, &room).await, before);
    assert_eq!(digest(&here, &room).await, digest_before);
    assert_eq!(
        here.send(&room, &alice, message("before"), txn())
            .await
            .unwrap(),
        said
    );
    let topic = state("m.room.topic", json!({"topic": "after"}));
    let topic = here.send(&room, &alice, topic, None).await.unwrap();
    let answer = there
        .send(&room, &user("@bob:there"), message("hello"), None)
        .await
        .unwrap();
    there
        .receive(&room, pdu(&here, &topic).await)
        .await
        .unwrap();
    here.receive(&room, pdu(&there, &answer).await)
        .await
        .unwrap();
    assert_eq!(head(&here, &room).await.extremities.len(), 2);
    assert_eq!(digest(&here, &room).await, digest(&there, &room).await);
    assert_healthy(&here).await;
}
