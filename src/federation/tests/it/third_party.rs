//! Invites of people of whom only an address was known (server-server API, "Third-party invites").

use resuni_dag::{SigningKey, sign_json};
use resuni_rooms::{CreateRoom, Membership, NewEvent, Preset};
use ruma::{
    OwnedRoomId, api::federation::thirdparty::bind_callback::v1 as bound, serde::Raw, server_name,
};
use serde_json::{Value, json};

use crate::authority::Authority;
use crate::part::{Part, servers};

fn identity_key(seed: u8) -> SigningKey {
    SigningKey::generate("0", [seed; 32]).unwrap()
}

/// A private room of the server's user, into which an address was invited.
async fn invited_by_address(at: &Part) -> OwnedRoomId {
    let request = CreateRoom {
        preset: Some(Preset::PrivateChat),
        ..CreateRoom::default()
    };
    let room = at.rooms.create(&at.user(), request).await.unwrap();
    let key = identity_key(1).public_key_base64();
    let content = json!({
        "display_name": "b...@example.com", "public_key": key,
        "key_validity_url": "https://id.test/_matrix/identity/v2/pubkey/isvalid",
        "public_keys": [{ "public_key": key }],
    });
    let content = serde_json::value::to_raw_value(&content).unwrap();
    let event = NewEvent::state("m.room.third_party_invite", "token", content);
    at.rooms.send(&room, &at.user(), event, None).await.unwrap();
    room
}

/// What an identity server with this key tells: the address belongs to the user of `to`.
async fn tell(to: &Part, by: &Part, room: &OwnedRoomId, key: &SigningKey) {
    let signed = json!({ "mxid": to.user(), "token": "token" });
    let mut signed = serde_json::from_value(signed).unwrap();
    sign_json(&mut signed, server_name!("id.test"), key).unwrap();
    let signed = Raw::new(&signed).unwrap().cast_unchecked();
    let (address, user) = ("b@example.com".to_owned(), to.user());
    let invite = bound::ThirdPartyInvite::new(
        address.clone(),
        user.clone(),
        room.clone(),
        by.user(),
        signed,
    );
    let request = bound::Request::email(address, user, vec![invite]);
    to.federation.third_party.bound(request).await.unwrap();
}

async fn is_invited(who: &Part) -> bool {
    let user = who.user();
    let invites = who.rooms.rooms_of(&user, &[Membership::Invite]);
    !invites.await.unwrap().is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_turns_out_to_have_the_address_is_invited() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let room = invited_by_address(&a).await;
    tell(&b, &a, &room, &identity_key(2)).await;
    assert!(!is_invited(&b).await, "signed by somebody else");
    tell(&b, &a, &room, &identity_key(1)).await;
    assert!(is_invited(&b).await);
    let member = a.view(&room).await;
    let member = member.state("m.room.member", b.user().as_str()).await;
    let member: Value = member.unwrap().unwrap().content_as().unwrap();
    assert_eq!(member["membership"], "invite");
    let third_party = &member["third_party_invite"];
    assert_eq!(third_party["display_name"], "b...@example.com");
    assert_eq!(third_party["signed"]["token"], "token");
}
