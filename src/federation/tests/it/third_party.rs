//! Invites of people of whom only an address was known (server-server API, "Third-party invites").

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use resuni_dag::{SigningKey, sign_json};
use resuni_federation::{FederationError, identity};
use resuni_rooms::{CreateRoom, Membership, NewEvent, Preset};
use ruma::{
    OwnedRoomId, OwnedServerName, OwnedUserId,
    api::federation::thirdparty::bind_callback::v1 as bound, serde::Raw, server_name,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::authority::Authority;
use crate::part::{Part, servers};

/// Our user names the identity server, and a room the address that vouches for its key: neither may be a way into the
/// operator's own network.
#[tokio::test]
async fn s099_identity_servers_at_denied_addresses_are_not_connected_to() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let server = identity::IdentityServer {
        name: at.to_string().try_into().unwrap(),
        token: "token".to_owned(),
    };
    let address = identity::Address {
        medium: "email".to_owned(),
        address: "b@example.com".to_owned(),
    };
    for (denied, refused) in [
        (vec!["127.0.0.0/8".parse().unwrap()], true),
        (vec![], false),
    ] {
        let web = Arc::new(resuni_federation::web_client(denied, &[]).unwrap());
        let servers = identity::IdentityServers::new(web);
        let (outcome, connected) = tokio::select! {
            outcome = servers.look_up(&server, &address) => (Some(outcome), false),
            _ = listener.accept() => (None, true),
        };
        assert_eq!(connected, !refused);
        if let Some(outcome) = outcome {
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains("outbound.deny_ip_ranges"), "{error}");
        }
    }
}

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

/// An identity server: what it was asked, and whose `known@example.com` is.
struct IdentityServer {
    name: OwnedServerName,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    /// Whether its keys are still good.
    good: Arc<AtomicBool>,
}

impl IdentityServer {
    async fn start(authority: &Authority, whose: OwnedUserId) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let name = listener.local_addr().unwrap().to_string();
        let this = Self {
            name: name.try_into().unwrap(),
            asked: Arc::default(),
            good: Arc::new(AtomicBool::new(true)),
        };
        let acceptor = authority.acceptor(&["127.0.0.1"]);
        let (name, asked, good) = (this.name.clone(), this.asked.clone(), this.good.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let (name, asked, good) = (name.clone(), asked.clone(), good.clone());
                let whose = whose.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let (name, asked, good) = (name.clone(), asked.clone(), good.clone());
                    let whose = whose.clone();
                    async move {
                        let (parts, body) = request.into_parts();
                        let body = body.collect().await.unwrap().to_bytes();
                        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
                        let endpoint = parts.uri.path().rsplit('/').next().unwrap().to_owned();
                        let token = parts.headers.get("authorization");
                        let known = token.is_some_and(|token| token == "Bearer of anna");
                        let (status, answer) = match (endpoint.as_str(), known) {
                            ("isvalid", _) => (200, json!({ "valid": good.load(Relaxed) })),
                            (_, false) => (
                                401,
                                json!({ "errcode": "M_UNKNOWN_TOKEN", "error": "who are you?" }),
                            ),
                            ("hash_details", _) => (
                                200,
                                json!({ "lookup_pepper": "pepper", "algorithms": ["sha256"] }),
                            ),
                            // "known@example.com email pepper", hashed.
                            ("lookup", _) => match &body["addresses"][0] {
                                hash if *hash == known_hash() => (
                                    200,
                                    json!({ "mappings": { hash.as_str().unwrap(): whose } }),
                                ),
                                _ => (200, json!({ "mappings": {} })),
                            },
                            _ => (
                                200,
                                json!({
                                    "token": "token", "display_name": "b...@example.com",
                                    "public_keys": [{
                                        "public_key": identity_key(1).public_key_base64(),
                                        "key_validity_url": format!("https://{name}/_matrix/identity/v2/pubkey/isvalid"),
                                    }],
                                }),
                            ),
                        };
                        asked.lock().unwrap().push((endpoint, body));
                        let mut response =
                            Response::new(Full::new(Bytes::from(answer.to_string())));
                        *response.status_mut() = status.try_into().unwrap();
                        Ok::<_, Infallible>(response)
                    }
                });
                tokio::spawn(async move {
                    let builder =
                        hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = builder
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        this
    }

    async fn invites(
        &self,
        by: &Part,
        room: &OwnedRoomId,
        token: &str,
        address: &str,
    ) -> Result<Option<OwnedUserId>, FederationError> {
        let server = identity::IdentityServer {
            name: self.name.clone(),
            token: token.to_owned(),
        };
        let address = identity::Address {
            medium: "email".to_owned(),
            address: address.to_owned(),
        };
        let invites = &by.federation.third_party;
        invites.invite(room, &by.user(), &server, &address).await
    }
}

fn known_hash() -> Value {
    use base64::Engine as _;
    let hash = <sha2::Sha256 as sha2::Digest>::digest("known@example.com email pepper");
    base64::engine::general_purpose::URL_SAFE_NO_PAD
        .encode(hash)
        .into()
}

async fn private_room(at: &Part) -> OwnedRoomId {
    let request = CreateRoom {
        preset: Some(Preset::PrivateChat),
        name: Some("Meeting".to_owned()),
        ..CreateRoom::default()
    };
    at.rooms.create(&at.user(), request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_looked_up_or_its_invite_kept() {
    let authority = Authority::new();
    let [a, b] = servers(&authority, ["a.test", "b.test"]).await;
    let identity = IdentityServer::start(&authority, b.user()).await;
    let room = private_room(&a).await;

    let refused = identity.invites(&a, &room, "of nobody", "known@example.com");
    let refused = refused.await;
    assert!(
        matches!(refused, Err(FederationError::Forbidden(_))),
        "{refused:?}"
    );
    let stranger = identity.invites(&b, &room, "of anna", "known@example.com");
    assert!(stranger.await.is_err(), "who is not in the room invites");

    let found = identity.invites(&a, &room, "of anna", "known@example.com");
    assert_eq!(found.await.unwrap(), Some(b.user()));
    let promised = async |room| {
        a.view(room)
            .await
            .state("m.room.third_party_invite", "token")
            .await
    };
    assert!(promised(&room).await.unwrap().is_none());

    let kept = identity.invites(&a, &room, "of anna", "unknown@example.com");
    assert_eq!(kept.await.unwrap(), None);
    let event = promised(&room).await.unwrap().unwrap();
    let content: Value = event.content_as().unwrap();
    assert_eq!(content["display_name"], "b...@example.com");
    assert_eq!(
        content["public_keys"][0]["public_key"],
        content["public_key"]
    );
    let asked = identity.asked.lock().unwrap().clone();
    let (endpoint, stored) = asked.last().unwrap();
    assert_eq!(endpoint, "store-invite");
    assert_eq!(stored["address"], "unknown@example.com");
    assert_eq!(stored["room_name"], "Meeting");
    assert_eq!(stored["room_join_rules"], "invite");
    assert!(
        !asked
            .iter()
            .any(|(endpoint, body)| endpoint == "lookup" && body.to_string().contains('@')),
        "an address was looked up in clear text"
    );

    // Whose it is turns out, but by then the key is no longer good; later it is.
    identity.good.store(false, Relaxed);
    tell(&b, &a, &room, &identity_key(1)).await;
    assert!(!is_invited(&b).await, "the key was no longer good");
    identity.good.store(true, Relaxed);
    tell(&b, &a, &room, &identity_key(1)).await;
    assert!(is_invited(&b).await);
}
