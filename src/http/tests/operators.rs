//! What operators see and do, rooms that people share, the directories of bridges, calls.

use std::time::Duration;

use http::Method;
use resuni_accounts::{Turn, TurnAccess};
use serde_json::{Value, json};

use super::Server;

impl Server {
    pub(super) async fn room(&self, token: &str) -> String {
        let room = json!({ "preset": "public_chat", "name": "a room" });
        let got = self
            .post("/_matrix/client/v3/createRoom", token, room)
            .await;
        got.ok()["room_id"].as_str().unwrap().to_owned()
    }

    pub(super) async fn operator(&self) -> String {
        let token = self.user("root").await;
        let account = self.account("root").await;
        self.state.accounts.set_admin(account, true).await.unwrap();
        token
    }
}

#[tokio::test]
async fn operators_lock_and_suspend() {
    let server = Server::start().await;
    let (root, alice) = (server.operator().await, server.user("alice").await);
    let whoami = "/_matrix/client/v3/account/whoami";
    for prefix in ["v1", "unstable/uk.timedout.msc4323"] {
        for (what, word) in [("lock", "locked"), ("suspend", "suspended")] {
            let path = format!("/_matrix/client/{prefix}/admin/{what}/@alice:example.org");
            assert_eq!(server.get(&path, &root).await.ok(), json!({ word: false }));
            let put = |on: bool| server.put(&path, &root, json!({ word: on }));
            assert_eq!(put(true).await.ok(), json!({ word: true }));
            assert_eq!(server.get(&path, &root).await.ok(), json!({ word: true }));
            let got = server.get(whoami, &alice).await;
            match what {
                "lock" => got.fails(401, "M_USER_LOCKED"),
                _ => drop(got.ok()),
            }
            put(false).await.ok();
            server.get(whoami, &alice).await.ok();
            let got = server.get(&path, &alice).await;
            got.fails(403, "M_FORBIDDEN");
        }
    }
    let status = |user| format!("/_matrix/client/v1/admin/lock/{user}");
    let got = server.get(&status("@a:elsewhere.example"), &root).await;
    got.fails(400, "M_INVALID_PARAM");
    let got = server.get(&status("@nobody:example.org"), &root).await;
    got.fails(404, "M_NOT_FOUND");
    let own = status("@root:example.org");
    let own = server.put(&own, &root, json!({ "locked": true })).await;
    own.fails(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn where_somebody_was_is_for_them_and_for_operators() {
    let server = Server::start().await;
    let (root, alice) = (server.operator().await, server.user("alice").await);
    let bob = server.user("bob").await;
    let path = "/_matrix/client/v3/admin/whois/@alice:example.org";
    server.get(path, &bob).await.fails(403, "M_FORBIDDEN");
    for token in [&root, &alice] {
        let got = server.get(path, token).await.ok();
        let devices = got["devices"].as_object().unwrap();
        assert_eq!(devices.len(), 1);
    }
    let unknown = "/_matrix/client/v3/admin/whois/@nobody:example.org";
    server.get(unknown, &bob).await.fails(403, "M_FORBIDDEN");
    server.get(unknown, &root).await.fails(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn rooms_that_two_people_share() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let (shared, _own) = (server.room(&alice).await, server.room(&alice).await);
    let path = "/_matrix/client/v1/mutual_rooms?user_id=";
    let with = |user: &str| format!("{path}{user}");
    let ask = |user: &str| {
        let (path, server, alice) = (with(user), &server, &alice);
        async move { server.get(&path, alice).await }
    };
    let nothing = json!({ "joined": [], "count": 0 });
    assert_eq!(ask("@bob:example.org").await.ok(), nothing);
    let join = format!("/_matrix/client/v3/join/{shared}");
    server.post(&join, &bob, json!({})).await.ok();
    let got = ask("@bob:example.org").await.ok();
    assert_eq!(got, json!({ "joined": [shared], "count": 1 }));
    assert_eq!(ask("@nobody:elsewhere.example").await.ok(), nothing);
    ask("@alice:example.org")
        .await
        .fails(400, "M_INVALID_PARAM");
    ask("bob").await.fails(400, "M_INVALID_PARAM");
    let from = ask("@bob:example.org&from=x").await;
    from.fails(400, "M_INVALID_PARAM");
    let got = server.get("/_matrix/client/v1/mutual_rooms", &alice).await;
    got.fails(400, "M_MISSING_PARAM");
}

#[tokio::test]
async fn a_bridge_publishes_rooms_in_the_directory_of_its_network() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let room = server.room(&alice).await;
    let path = format!("/_matrix/client/v3/directory/list/appservice/oftc/{room}");
    let set = |visibility: &'static str| {
        server.put(&path, "as-secret", json!({ "visibility": visibility }))
    };
    let found = |query: Value| async {
        let path = "/_matrix/client/v3/publicRooms";
        let got = server.post(path, &alice, query).await.ok();
        got["chunk"].as_array().unwrap().len()
    };
    set("public").await.ok();
    assert_eq!(found(json!({})).await, 0);
    assert_eq!(
        found(json!({ "third_party_instance_id": "irc|oftc" })).await,
        1
    );
    assert_eq!(
        found(json!({ "third_party_instance_id": "irc|other" })).await,
        0
    );
    assert_eq!(found(json!({ "include_all_networks": true })).await, 1);
    set("private").await.ok();
    assert_eq!(found(json!({ "include_all_networks": true })).await, 0);
}

#[tokio::test]
async fn calls_are_told_their_servers() {
    let path = "/_matrix/client/v3/voip/turnServer";
    let server = Server::start().await;
    let alice = server.user("alice").await;
    server.get(path, &alice).await.fails(404, "M_NOT_FOUND");
    let rtc = "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports";
    let none = server.get(rtc, &alice).await.ok();
    assert_eq!(none, json!({ "rtc_transports": [] }));

    let server = Server::start_with(|settings| {
        settings.public_baseurl = Some("https://example.org".to_owned());
        settings.livekit_services = vec!["https://rtc.example.org".to_owned()];
        settings.turn = Some(Turn {
            uris: vec!["turn:turn.example.org".to_owned()],
            access: TurnAccess::SharedSecret("secret".to_owned()),
            lifetime: Duration::from_secs(60),
        });
    })
    .await;
    let alice = server.user("alice").await;
    let turn = server.get(path, &alice).await.ok();
    let username = turn["username"].as_str().unwrap();
    assert!(username.ends_with(":@alice:example.org"), "{username}");
    assert_eq!(turn["ttl"], 60);
    let service = json!([{ "type": "livekit", "livekit_service_url": "https://rtc.example.org" }]);
    let told = server.get(rtc, &alice).await.ok();
    assert_eq!(told["rtc_transports"], service);
    let known = "/.well-known/matrix/client";
    let known = server.ask(Method::GET, known, None, Value::Null).await.ok();
    assert_eq!(known["org.matrix.msc4143.rtc_foci"], service);
}

#[tokio::test]
async fn a_login_without_a_type_is_told_so() {
    let server = Server::start().await;
    let ask = |body| server.ask(Method::POST, "/_matrix/client/v3/login", None, body);
    ask(json!({})).await.fails(400, "M_MISSING_PARAM");
    ask(json!({ "type": 1 }))
        .await
        .fails(400, "M_MISSING_PARAM");
}

#[tokio::test]
async fn what_operators_may_do_is_a_capability_of_theirs() {
    let server = Server::start().await;
    let (root, alice) = (server.operator().await, server.user("alice").await);
    let path = "/_matrix/client/v3/capabilities";
    let of = |got: Value| got["capabilities"]["m.account_moderation"].clone();
    let both = json!({ "suspend": true, "lock": true });
    assert_eq!(of(server.get(path, &root).await.ok()), both);
    assert_eq!(of(server.get(path, &alice).await.ok()), Value::Null);
}
