//! The endpoints that operators' tools use: accounts, devices, registration tokens.

use http::Method;
use serde_json::{Value, json};

use super::Server;

const USERS: &str = "/_synapse/admin/v2/users";
const TOKENS: &str = "/_synapse/admin/v1/registration_tokens";
const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

async fn world() -> (Server, String, String) {
    let server = Server::start().await;
    let (root, alice) = (server.operator().await, server.user("alice").await);
    (server, root, alice)
}

/// A path with something in place of its variables.
fn filled(path: &str) -> String {
    path.replace("{user}", "@alice:example.org")
        .replace("{room}", "!r:example.org")
        .replace("{server}", "example.org")
        .replace("{", "")
        .replace("}", "")
}

#[tokio::test]
async fn operators_alone_use_their_endpoints() {
    let (server, _, alice) = world().await;
    let table = crate::table();
    let listed: Vec<_> = table
        .listed()
        .iter()
        .filter(|line| line.path.starts_with("/_synapse/admin/"))
        .collect();
    assert!(listed.len() >= 30, "{}", listed.len());
    let guest = "/_matrix/client/v3/register?kind=guest";
    let guest = server.ask(Method::POST, guest, None, json!({})).await.ok();
    let guest = guest["access_token"].as_str().unwrap();
    for line in listed {
        let path = filled(&line.path);
        let ask = |token| server.ask(line.method.clone(), &path, token, json!({}));
        ask(None).await.fails(401, "M_MISSING_TOKEN");
        ask(Some("")).await.fails(401, "M_MISSING_TOKEN");
        ask(Some("x")).await.fails(401, "M_UNKNOWN_TOKEN");
        ask(Some(&alice)).await.fails(403, "M_FORBIDDEN");
        let got = ask(Some(guest)).await;
        assert_eq!(got.status.as_u16(), 403, "{} {path}", line.method);
    }
}

#[tokio::test]
async fn the_endpoints_of_operators_can_be_shut() {
    let server = Server::start_with(|settings| settings.admin_api = false).await;
    let root = server.operator().await;
    for line in crate::table().listed() {
        if line.path.starts_with("/_synapse/admin/") {
            let path = filled(&line.path);
            let got = server.ask(line.method.clone(), &path, Some(&root), json!({}));
            got.await.fails(404, "M_UNRECOGNIZED");
        }
    }
}

impl Server {
    /// The names of the accounts of a page, and the page.
    async fn accounts_found(&self, root: &str, query: &str) -> (Vec<String>, Value) {
        let got = self.get(&format!("{USERS}{query}"), root).await.ok();
        let users = got["users"].as_array().unwrap();
        let names = users.iter().map(|user| user["name"].as_str().unwrap());
        (names.map(str::to_owned).collect(), got)
    }
}

#[tokio::test]
async fn accounts_are_found_made_and_changed() {
    let (server, root, alice) = world().await;
    let (found, got) = server.accounts_found(&root, "?name=ALI").await;
    assert_eq!(found, ["@alice:example.org"]);
    assert_eq!(got["total"], 1);
    assert_eq!(got["users"][0]["displayname"], "alice");
    let (found, got) = server.accounts_found(&root, "?limit=1").await;
    assert_eq!((found.len(), &got["next_token"]), (1, &json!("1")));
    let (rest, _) = server.accounts_found(&root, "?from=1").await;
    assert!(!rest.contains(&found[0]) && !rest.is_empty());
    let (up, _) = server.accounts_found(&root, "?order_by=creation_ts").await;
    let (mut down, _) = server
        .accounts_found(&root, "?order_by=displayname&dir=b")
        .await;
    down.reverse();
    assert_eq!(up.len(), down.len());
    let bad = format!("{USERS}?order_by=weight");
    server.get(&bad, &root).await.fails(400, "M_INVALID_PARAM");

    let bob = format!("{USERS}/@bob:example.org");
    let made = json!({ "password": "correct horse", "displayname": "Bob", "admin": true,
        "threepids": [{ "medium": "email", "address": "Bob@Example.com" }], "user_type": "bot" });
    let got = server.put(&bob, &root, made).await;
    assert_eq!(got.status.as_u16(), 201);
    assert_eq!(got.body["displayname"], "Bob");
    assert_eq!(got.body["admin"], true);
    assert_eq!(got.body["threepids"][0]["address"], "bob@example.com");
    let by_address = "/_synapse/admin/v1/threepid/email/users/bob@example.com";
    let got = server.get(by_address, &root).await.ok();
    assert_eq!(got["user_id"], "@bob:example.org");
    let (found, _) = server.accounts_found(&root, "?admins=true").await;
    assert_eq!(found, ["@bob:example.org", "@root:example.org"]);
    let (found, _) = server.accounts_found(&root, "?not_user_type=bot").await;
    assert!(!found.contains(&"@bob:example.org".to_owned()));
    let changed = server
        .put(
            &bob,
            &root,
            json!({ "admin": false, "threepids": [], "user_type": null }),
        )
        .await
        .ok();
    assert_eq!(changed["admin"], false);
    assert_eq!(changed["displayname"], "Bob");
    assert_eq!(changed["threepids"], json!([]));
    assert_eq!(changed["user_type"], Value::Null);
    let own = format!("{USERS}/@root:example.org");
    let got = server.put(&own, &root, json!({ "admin": false })).await;
    got.fails(400, "M_UNKNOWN");

    let alices = format!("{USERS}/@alice:example.org");
    let got = server.put(&alices, &root, json!({ "locked": true }));
    assert_eq!(got.await.ok()["locked"], true);
    server.get(WHOAMI, &alice).await.fails(401, "M_USER_LOCKED");
    let (found, _) = server.accounts_found(&root, "").await;
    assert!(!found.contains(&"@alice:example.org".to_owned()));
    let (found, _) = server.accounts_found(&root, "?locked=true").await;
    assert!(found.contains(&"@alice:example.org".to_owned()));
    let unlock = server.put(&alices, &root, json!({ "locked": false }));
    unlock.await.ok();

    for (user, status, code) in [
        ("@nobody:example.org", 404, "M_NOT_FOUND"),
        ("@bob:elsewhere.example", 400, "M_INVALID_PARAM"),
        ("bob", 400, "M_INVALID_PARAM"),
    ] {
        let got = server.get(&format!("{USERS}/{user}"), &root).await;
        got.fails(status, code);
    }
}

#[tokio::test]
async fn what_a_tool_was_told_of_an_account_can_be_sent_back() {
    let (server, root, _) = world().await;
    let path = format!("{USERS}/@alice:example.org");
    let told = server.get(&path, &root).await.ok();
    assert_eq!(server.put(&path, &root, told.clone()).await.ok(), told);
    let end = "/_synapse/admin/v1/deactivate/@alice:example.org";
    server.post(end, &root, json!({ "erase": true })).await.ok();
    let told = server.get(&path, &root).await.ok();
    assert_eq!(
        (&told["deactivated"], &told["erased"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(server.put(&path, &root, told.clone()).await.ok(), told);
}

#[tokio::test]
async fn devices_are_seen_made_renamed_and_removed() {
    let (server, root, alice) = world().await;
    let all = format!("{USERS}/@alice:example.org/devices");
    let got = server.get(&all, &root).await.ok();
    assert_eq!(got["total"], 1);
    let first = got["devices"][0]["device_id"].as_str().unwrap().to_owned();
    let new = json!({ "device_id": "BOT" });
    server.post(&all, &root, new).await.ok();
    let one = format!("{all}/BOT");
    server
        .put(&one, &root, json!({ "display_name": "a bot" }))
        .await
        .ok();
    let got = server.get(&one, &root).await.ok();
    assert_eq!(
        (&got["display_name"], &got["user_id"]),
        (&json!("a bot"), &json!("@alice:example.org"))
    );
    let remove = server.ask(Method::DELETE, &one, Some(&root), Value::Null);
    remove.await.ok();
    server.get(&one, &root).await.fails(404, "M_NOT_FOUND");
    server.get(WHOAMI, &alice).await.ok();
    let several = format!("{USERS}/@alice:example.org/delete_devices");
    let several = server.post(&several, &root, json!({ "devices": [first] }));
    several.await.ok();
    server
        .get(WHOAMI, &alice)
        .await
        .fails(401, "M_UNKNOWN_TOKEN");
    let pushers = "/_synapse/admin/v1/users/@alice:example.org/pushers";
    let got = server.get(pushers, &root).await.ok();
    assert_eq!(got, json!({ "pushers": [], "total": 0 }));
}

#[tokio::test]
async fn accounts_get_new_passwords_end_and_come_back() {
    let (server, root, alice) = world().await;
    let path = |what: &str| format!("/_synapse/admin/v1/{what}/@alice:example.org");
    let reset = json!({ "new_password": "another horse" });
    server
        .post(&path("reset_password"), &root, reset)
        .await
        .ok();
    server
        .get(WHOAMI, &alice)
        .await
        .fails(401, "M_UNKNOWN_TOKEN");
    let log_in = |password: &str| {
        let login = json!({ "type": "m.login.password", "password": password,
            "identifier": { "type": "m.id.user", "user": "alice" } });
        server.ask(Method::POST, "/_matrix/client/v3/login", None, login)
    };
    let got = log_in("another horse").await.ok();
    let alice = got["access_token"].as_str().unwrap().to_owned();
    let room = server.room(&alice).await;
    let rooms = "/_synapse/admin/v1/users/@alice:example.org/joined_rooms";
    let got = server.get(rooms, &root).await.ok();
    assert_eq!(got, json!({ "joined_rooms": [room], "total": 1 }));
    let suspend = path("suspend");
    let got = server.put(&suspend, &root, json!({ "suspend": true }));
    assert_eq!(got.await.ok()["user_@alice:example.org_suspended"], true);
    server
        .post(&path("deactivate"), &root, json!({}))
        .await
        .ok();
    let got = server.get(rooms, &root).await.ok();
    assert_eq!(got["joined_rooms"], json!([]));
    let memberships = "/_synapse/admin/v1/users/@alice:example.org/memberships";
    let got = server.get(memberships, &root).await.ok();
    assert_eq!(got["memberships"][&room], "leave");
    assert_eq!(log_in("another horse").await.status.as_u16(), 403);
    let user = format!("{USERS}/@alice:example.org");
    assert_eq!(server.get(&user, &root).await.ok()["deactivated"], true);
    let (found, _) = server.accounts_found(&root, "").await;
    assert!(!found.contains(&"@alice:example.org".to_owned()));
    let v3 = "/_synapse/admin/v3/users?deactivated=true";
    assert_eq!(server.get(v3, &root).await.ok()["total"], 1);
    let back = json!({ "deactivated": false, "password": "third horse" });
    let got = server.put(&user, &root, back).await.ok();
    assert_eq!(got["deactivated"], false);
    log_in("third horse").await.ok();
}

#[tokio::test]
async fn an_operator_acts_as_somebody_without_a_trace_in_their_devices() {
    let (server, root, alice) = world().await;
    let path = "/_synapse/admin/v1/users/@alice:example.org/login";
    let got = server.post(path, &root, json!({})).await.ok();
    let as_alice = got["access_token"].as_str().unwrap().to_owned();
    let got = server.get(WHOAMI, &as_alice).await.ok();
    assert_eq!(got["user_id"], "@alice:example.org");
    assert_eq!(got.get("device_id"), None);
    let room = server.room(&as_alice).await;
    let sync = "/_matrix/client/v3/sync?timeout=0";
    let got = server.get(sync, &as_alice).await.ok();
    assert!(got["rooms"]["join"].get(&room).is_some());
    let devices = server.get("/_matrix/client/v3/devices", &alice).await.ok();
    assert_eq!(devices["devices"].as_array().unwrap().len(), 1);
    // The person's own end of all sessions is not the operator's.
    let all = "/_matrix/client/v3/logout/all";
    server.post(all, &alice, json!({})).await.ok();
    server.get(WHOAMI, &as_alice).await.ok();
    let logout = "/_matrix/client/v3/logout";
    server.post(logout, &as_alice, json!({})).await.ok();
    server
        .get(WHOAMI, &as_alice)
        .await
        .fails(401, "M_UNKNOWN_TOKEN");
    let brief = json!({ "valid_until_ms": 1 });
    let got = server.post(path, &root, brief).await.ok();
    let over = got["access_token"].as_str().unwrap();
    server.get(WHOAMI, over).await.fails(401, "M_UNKNOWN_TOKEN");
    let own = "/_synapse/admin/v1/users/@root:example.org/login";
    server
        .post(own, &root, json!({}))
        .await
        .fails(400, "M_UNKNOWN");
    let got = server.post(path, &root, json!({})).await.ok();
    let last = got["access_token"].as_str().unwrap();
    let end = "/_synapse/admin/v1/deactivate/@alice:example.org";
    server.post(end, &root, json!({})).await.ok();
    server.get(WHOAMI, last).await.fails(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn tokens_to_register_with_are_kept() {
    let server = Server::start_with(|settings| settings.registration.require_token = true).await;
    let root = {
        let accounts = &server.state.accounts;
        let new = resuni_accounts::NewAccount {
            admin: true,
            device: Some(resuni_accounts::DeviceRequest::default()),
            ..resuni_accounts::NewAccount::user("root", "correct horse")
        };
        accounts
            .register(new)
            .await
            .unwrap()
            .login
            .unwrap()
            .access_token
    };
    let new = json!({ "token": "welcome", "uses_allowed": 1 });
    let got = server
        .post(&format!("{TOKENS}/new"), &root, new.clone())
        .await
        .ok();
    assert_eq!(
        got,
        json!({ "token": "welcome", "uses_allowed": 1, "pending": 0, "completed": 0, "expiry_time": null })
    );
    let twice = server.post(&format!("{TOKENS}/new"), &root, new).await;
    twice.fails(400, "M_INVALID_PARAM");
    let path = format!("{TOKENS}/welcome");

    let register = |name: &str| {
        let auth = json!({ "type": "m.login.registration_token", "token": "welcome" });
        let body = json!({ "username": name, "password": "correct horse", "auth": auth });
        server.ask(Method::POST, "/_matrix/client/v3/register", None, body)
    };
    register("carol").await.ok();
    assert_eq!(register("dave").await.body["errcode"], "M_FORBIDDEN");
    let got = server.get(&path, &root).await.ok();
    assert_eq!((&got["pending"], &got["completed"]), (&json!(0), &json!(1)));
    let list = |query: &str| {
        let (server, root, path) = (&server, &root, format!("{TOKENS}{query}"));
        async move {
            let got = server.get(&path, root).await.ok();
            got["registration_tokens"].as_array().unwrap().len()
        }
    };
    assert_eq!(
        (
            list("").await,
            list("?valid=true").await,
            list("?valid=false").await
        ),
        (1, 0, 1)
    );
    let got = server
        .put(&path, &root, json!({ "uses_allowed": null }))
        .await
        .ok();
    assert_eq!(got["uses_allowed"], Value::Null);
    assert_eq!(list("?valid=true").await, 1);
    let past = server.put(&path, &root, json!({ "expiry_time": 1 })).await;
    past.fails(400, "M_INVALID_PARAM");
    let made = server
        .post(&format!("{TOKENS}/new"), &root, json!({ "length": 8 }))
        .await
        .ok();
    assert_eq!(made["token"].as_str().unwrap().len(), 8);
    let bad = server
        .post(&format!("{TOKENS}/new"), &root, json!({ "length": 65 }))
        .await;
    bad.fails(400, "M_INVALID_PARAM");
    let delete = server.ask(Method::DELETE, &path, Some(&root), Value::Null);
    delete.await.ok();
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        let gone = server.ask(method, &path, Some(&root), json!({}));
        gone.await.fails(404, "M_NOT_FOUND");
    }
}

#[tokio::test]
async fn small_questions_are_answered() {
    let (server, root, alice) = world().await;
    let get = |path: &str| {
        let path = format!("/_synapse/admin/v1/{path}");
        let (server, root) = (&server, &root);
        async move { server.get(&path, root).await }
    };
    let version = get("server_version").await.ok();
    assert!(
        version["server_version"]
            .as_str()
            .unwrap()
            .starts_with("Resuni ")
    );
    assert_eq!(
        get("background_updates/enabled").await.ok(),
        json!({ "enabled": true })
    );
    assert_eq!(
        get("username_available?username=new").await.ok(),
        json!({ "available": true })
    );
    get("username_available?username=alice")
        .await
        .fails(400, "M_USER_IN_USE");
    let whois = get("whois/@alice:example.org").await.ok();
    assert_eq!(whois["user_id"], "@alice:example.org");
    assert_eq!(
        get("users/@alice:example.org/admin").await.ok(),
        json!({ "admin": false })
    );
    let data = "/_matrix/client/v3/user/@alice:example.org/account_data/org.example.a";
    server.put(data, &alice, json!({ "a": 1 })).await.ok();
    let got = get("users/@alice:example.org/accountdata").await.ok();
    assert_eq!(
        got["account_data"]["global"]["org.example.a"],
        json!({ "a": 1 })
    );
    let rate = "/_synapse/admin/v1/users/@alice:example.org/override_ratelimit";
    assert_eq!(server.get(rate, &root).await.ok(), json!({}));
    let own = json!({ "messages_per_second": 5, "burst_count": 20 });
    assert_eq!(server.post(rate, &root, own.clone()).await.ok(), own);
    assert_eq!(server.get(rate, &root).await.ok(), own);
    let negative = json!({ "messages_per_second": -1 });
    server
        .post(rate, &root, negative)
        .await
        .fails(400, "M_BAD_JSON");
    let delete = server.ask(Method::DELETE, rate, Some(&root), Value::Null);
    assert_eq!(delete.await.ok(), json!({}));
    assert_eq!(server.get(rate, &root).await.ok(), json!({}));
}

#[tokio::test]
async fn other_servers_are_listed_and_tried_again() {
    let (server, root, _) = world().await;
    let all = "/_synapse/admin/v1/federation/destinations";
    let empty = json!({ "destinations": [], "total": 0 });
    assert_eq!(server.get(all, &root).await.ok(), empty);
    let federation = server.state.federation.as_ref().unwrap();
    let (dead, gone) = (
        ruma::server_name!("dead.example"),
        ruma::server_name!("gone.example"),
    );
    federation.network.backoff.failure(dead);
    federation.network.backoff.failure(gone);
    let got = server.get(all, &root).await.ok();
    assert_eq!(got["total"], 2);
    let first = &got["destinations"][0];
    assert_eq!(first["destination"], "dead.example");
    assert!(first["retry_interval"].as_u64().unwrap() > 0);
    assert_eq!(first["retry_last_ts"], first["failure_ts"]);
    assert_eq!(first["last_successful_stream_ordering"], Value::Null);
    let got = server
        .get(&format!("{all}?dir=b&limit=1"), &root)
        .await
        .ok();
    assert_eq!(got["destinations"][0]["destination"], "gone.example");
    assert_eq!(got["next_token"], "1");
    let one = format!("{all}/dead.example");
    assert_eq!(
        server.get(&one, &root).await.ok()["destination"],
        "dead.example"
    );
    let rooms = server.get(&format!("{one}/rooms"), &root).await.ok();
    assert_eq!(rooms, json!({ "rooms": [], "total": 0 }));
    let reset = format!("{one}/reset_connection");
    server.post(&reset, &root, json!({})).await.ok();
    assert_eq!(federation.network.backoff.wait_ms(dead), None);
    server.get(&one, &root).await.fails(404, "M_NOT_FOUND");
    let stranger = format!("{all}/stranger.example");
    server.get(&stranger, &root).await.fails(404, "M_NOT_FOUND");
}
