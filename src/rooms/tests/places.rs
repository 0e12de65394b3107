//! Aliases, the directory, receipts.

use crate::{CreateRoom, DirectoryQuery, MemberDetails, ReceiptKind, RoomError};
use resuni_store::Position;
use ruma::{OwnedRoomId, RoomId, room_alias_id, user_id};
use serde_json::{Value, json, value::to_raw_value};

use super::reading::*;

#[tokio::test]
async fn aliases() {
    let rooms = rooms().await;
    let room = rooms.create(alice(), public()).await.unwrap();
    let other = rooms.create(alice(), public()).await.unwrap();
    let alias = room_alias_id!("#a:h");
    rooms
        .join(&room, bob(), &MemberDetails::default())
        .await
        .unwrap();
    rooms.create_alias(alias, &room, alice()).await.unwrap();
    assert!(matches!(
        rooms.create_alias(alias, &other, alice()).await,
        Err(RoomError::InUse(_))
    ));
    assert_eq!(rooms.resolve_alias(alias).await.unwrap().unwrap().0, room);
    assert_eq!(rooms.aliases_for(&room, bob()).await.unwrap(), ["#a:h"]);
    assert!(matches!(
        rooms.aliases_for(&other, bob()).await,
        Err(RoomError::Forbidden(_))
    ));

    let check = async |room: &RoomId, content: Value| {
        rooms
            .check_canonical_alias(room, &to_raw_value(&content).unwrap())
            .await
    };
    assert_eq!(
        check(&room, json!({"alias": "#a:h", "alt_aliases": ["#x:far"]}))
            .await
            .unwrap(),
        [room_alias_id!("#x:far")]
    );
    for (room, content, errcode) in [
        (&other, json!({"alias": "#a:h"}), "M_BAD_ALIAS"),
        (&room, json!({"alt_aliases": ["#none:h"]}), "M_BAD_ALIAS"),
        (&room, json!({"alias": "a:h"}), "M_INVALID_PARAM"),
    ] {
        let answer = check(room, content).await;
        assert!(
            matches!(&answer, Err(RoomError::BadRequest { errcode: code, .. }) if *code == errcode),
            "{answer:?}"
        );
    }
    set(
        &rooms,
        &room,
        alice(),
        "m.room.canonical_alias",
        json!({"alias": "#a:h"}),
    )
    .await;
    assert!(matches!(
        rooms.delete_alias(alias, bob(), false).await,
        Err(RoomError::Forbidden(_))
    ));
    rooms.delete_alias(alias, alice(), false).await.unwrap();
    assert!(matches!(
        rooms.delete_alias(alias, alice(), false).await,
        Err(RoomError::NotFound(_))
    ));
    let view = rooms.view(&room).await.unwrap().unwrap();
    assert_eq!(
        view.state("m.room.canonical_alias", "")
            .await
            .unwrap()
            .unwrap()
            .content()
            .get(),
        "{}"
    );
}

#[tokio::test]
async fn the_directory_is_paged_and_searched() {
    let rooms = rooms().await;
    let mut made: Vec<OwnedRoomId> = Vec::new();
    for n in 0..5 {
        let request = CreateRoom {
            name: Some(format!("Room {n}")),
            published: true,
            ..CreateRoom::default()
        };
        made.push(rooms.create(alice(), request).await.unwrap());
    }
    let space = CreateRoom {
        creation_content: map(json!({"type": "m.space"})),
        ..public()
    };
    let space = rooms.create(alice(), space).await.unwrap();
    assert!(matches!(
        rooms.publish(&space, bob(), false, true).await,
        Err(RoomError::Forbidden(_))
    ));
    rooms.publish(&space, alice(), false, true).await.unwrap();
    rooms
        .join(&made[3], bob(), &MemberDetails::default())
        .await
        .unwrap();
    rooms
        .publish(&made[4], alice(), false, false)
        .await
        .unwrap();

    let mut query = DirectoryQuery {
        limit: Some(2),
        ..DirectoryQuery::default()
    };
    let (mut listed, mut pages) = (Vec::new(), 0);
    loop {
        let page = rooms.public_rooms(&query).await.unwrap();
        assert_eq!(page.total_room_count_estimate, 5);
        listed.extend(page.chunk.into_iter().map(|room| room.room_id));
        pages += 1;
        query.since = page.next_batch;
        if query.since.is_none() {
            break;
        }
    }
    assert_eq!(
        (listed[0].clone(), listed.len(), pages),
        (made[3].clone(), 5, 3)
    );
    let back = DirectoryQuery {
        since: Some("p2".into()),
        limit: Some(2),
        ..DirectoryQuery::default()
    };
    assert_eq!(
        rooms.public_rooms(&back).await.unwrap().chunk[0].room_id,
        listed[0]
    );

    let find = async |search: Option<&str>, types: Option<Vec<Option<String>>>| {
        let query = DirectoryQuery {
            search: search.map(str::to_owned),
            room_types: types,
            ..DirectoryQuery::default()
        };
        rooms
            .public_rooms(&query)
            .await
            .unwrap()
            .chunk
            .into_iter()
            .map(|room| room.room_id)
            .collect::<Vec<_>>()
    };
    assert_eq!(find(Some("rOOM 1"), None).await, [made[1].clone()]);
    assert_eq!(
        find(None, Some(vec![Some("m.space".into())])).await,
        [space]
    );
    assert_eq!(find(None, Some(vec![None])).await.len(), 4);
    let bad = DirectoryQuery {
        since: Some("x".into()),
        ..DirectoryQuery::default()
    };
    assert!(rooms.public_rooms(&bad).await.is_err());
}

#[tokio::test]
async fn receipts_only_move_forward_and_private_ones_stay_private() {
    let rooms = rooms().await;
    let room = rooms.create(alice(), public()).await.unwrap();
    rooms
        .join(&room, bob(), &MemberDetails::default())
        .await
        .unwrap();
    let (one, two) = (
        say(&rooms, &room, alice(), "1").await,
        say(&rooms, &room, alice(), "2").await,
    );
    let start = rooms.store().log().watermark();
    assert!(
        rooms
            .set_receipt(&room, bob(), ReceiptKind::Read, None, &two)
            .await
            .unwrap()
    );
    assert!(
        !rooms
            .set_receipt(&room, bob(), ReceiptKind::Read, None, &one)
            .await
            .unwrap(),
        "no way back"
    );
    assert!(
        rooms
            .set_receipt(&room, bob(), ReceiptKind::Read, Some("main"), &one)
            .await
            .unwrap()
    );
    assert!(
        rooms
            .set_receipt(&room, bob(), ReceiptKind::ReadPrivate, None, &two)
            .await
            .unwrap()
    );
    assert!(
        rooms
            .set_receipt(&room, bob(), ReceiptKind::Read, Some(""), &two)
            .await
            .is_err()
    );
    assert!(
        rooms
            .set_receipt(&room, user_id!("@x:h"), ReceiptKind::Read, None, &two)
            .await
            .is_err()
    );
    let elsewhere = rooms.create(alice(), public()).await.unwrap();
    let foreign = say(&rooms, &elsewhere, alice(), "x").await;
    assert!(matches!(
        rooms
            .set_receipt(&room, bob(), ReceiptKind::Read, None, &foreign)
            .await,
        Err(RoomError::NotFound(_))
    ));

    let view = rooms.view(&room).await.unwrap().unwrap();
    assert_eq!(
        view.receipts_since(start, view.watermark(), bob())
            .await
            .unwrap()
            .len(),
        3
    );
    let for_alice = view
        .receipts_since(start, view.watermark(), alice())
        .await
        .unwrap();
    assert_eq!(
        for_alice
            .iter()
            .map(|receipt| &receipt.event_id)
            .collect::<Vec<_>>(),
        [&two, &one]
    );
    assert!(
        view.receipts_since(view.watermark(), view.watermark(), bob())
            .await
            .unwrap()
            .is_empty()
    );
    let three = say(&rooms, &room, alice(), "3").await;
    rooms
        .set_receipt(&room, bob(), ReceiptKind::Read, None, &three)
        .await
        .unwrap();
    let view = rooms.view(&room).await.unwrap().unwrap();
    let all = view
        .receipts_since(Position(0), view.watermark(), alice())
        .await
        .unwrap();
    assert_eq!(all.len(), 2, "one row for each user, type and thread");
}
