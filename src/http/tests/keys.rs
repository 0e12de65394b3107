//! Keys and messages to devices, over the router.

use http::Method;
use resuni_store::Position;
use serde_json::{Value, json};

use super::Server;

const UPLOAD: &str = "/_matrix/client/v3/keys/upload";
const QUERY: &str = "/_matrix/client/v3/keys/query";
const CLAIM: &str = "/_matrix/client/v3/keys/claim";
const CROSS_SIGNING: &str = "/_matrix/client/v3/keys/device_signing/upload";

async fn device(server: &Server, token: &str) -> String {
    let me = server.get("/_matrix/client/v3/account/whoami", token).await;
    me.ok()["device_id"].as_str().unwrap().to_owned()
}

fn device_keys(device: &str) -> Value {
    json!({
        "user_id": "@alice:example.org",
        "device_id": device,
        "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
        "keys": { (format!("ed25519:{device}")): "key" },
        "signatures": { "@alice:example.org": { (format!("ed25519:{device}")): "sig" } },
        "org.example.more": true,
    })
}

#[tokio::test]
async fn keys_are_uploaded_queried_and_claimed_once() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let phone = device(&server, &alice).await;
    let body = json!({
        "device_keys": device_keys(&phone),
        "one_time_keys": { "signed_curve25519:AAAA": { "key": "one", "signatures": {} } },
        "fallback_keys": { "signed_curve25519:BBBB": { "key": "two", "fallback": true, "signatures": {} } },
    });
    let counts = server.post(UPLOAD, &alice, body).await.ok();
    assert_eq!(
        counts,
        json!({ "one_time_key_counts": { "signed_curve25519": 1 } })
    );

    let wanted = json!({ "device_keys": {
        "@alice:example.org": [], "@nobody:example.org": [], "@eve:elsewhere": [],
    } });
    let got = server.post(QUERY, &bob, wanted).await.ok();
    let mut expected = device_keys(&phone);
    expected["unsigned"] = json!({});
    assert_eq!(
        got["device_keys"],
        json!({ "@alice:example.org": { (&phone): expected }, "@nobody:example.org": {} })
    );
    assert_eq!(got["failures"], json!({ "elsewhere": {} }));

    let wanted = json!({ "one_time_keys": {
        "@alice:example.org": { (&phone): "signed_curve25519" },
    } });
    for key in ["signed_curve25519:AAAA", "signed_curve25519:BBBB"] {
        let got = server.post(CLAIM, &bob, wanted.clone()).await.ok();
        let keys = &got["one_time_keys"]["@alice:example.org"][&phone];
        assert!(keys[key].is_object(), "{keys}");
    }
}

#[tokio::test]
async fn keys_of_somebody_else_are_refused() {
    let server = Server::start().await;
    let bob = server.user("bob").await;
    let body = json!({ "device_keys": device_keys(&device(&server, &bob).await) });
    server
        .post(UPLOAD, &bob, body)
        .await
        .fails(400, "M_INVALID_PARAM");
    let body = json!({ "device_keys": { "user_id": "@bob:example.org", "device_id": "X" } });
    server
        .post(UPLOAD, &bob, body)
        .await
        .fails(400, "M_BAD_JSON");
    server
        .ask(Method::POST, UPLOAD, None, json!({}))
        .await
        .fails(401, "M_MISSING_TOKEN");
    server
        .post(UPLOAD, "as-secret", json!({}))
        .await
        .fails(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn another_master_key_has_to_be_confirmed() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let master = |key: &str| {
        json!({ "master_key": {
            "user_id": "@alice:example.org",
            "usage": ["master"],
            "keys": { (format!("ed25519:{key}")): key },
        } })
    };
    let upload = |body: Value| server.post(CROSS_SIGNING, &alice, body);
    upload(json!({})).await.fails(400, "M_MISSING_PARAM");
    upload(master("one")).await.ok();
    upload(master("one")).await.ok();
    let asked = upload(master("two")).await;
    assert_eq!(asked.status.as_u16(), 401);
    let mut confirmed = master("two");
    confirmed["auth"] = json!({
        "type": "m.login.password",
        "session": asked.body["session"],
        "identifier": { "type": "m.id.user", "user": "alice" },
        "password": "correct horse",
    });
    upload(confirmed).await.ok();
    let wanted = json!({ "device_keys": { "@alice:example.org": [] } });
    let got = server.post(QUERY, &alice, wanted).await.ok();
    assert_eq!(
        got["master_keys"]["@alice:example.org"]["keys"]["ed25519:two"],
        "two"
    );
    let mut unsigned = master("three");
    unsigned["self_signing_key"] = json!({
        "user_id": "@alice:example.org", "usage": ["self_signing"], "keys": { "ed25519:x": "x" },
    });
    unsigned["master_key"] = Value::Null;
    let asked = upload(unsigned.clone()).await;
    unsigned["auth"] = json!({
        "type": "m.login.password",
        "session": asked.body["session"],
        "identifier": { "type": "m.id.user", "user": "alice" },
        "password": "correct horse",
    });
    upload(unsigned).await.fails(400, "M_INVALID_SIGNATURE");
}

#[tokio::test]
async fn signatures_that_can_not_be_kept_are_told() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let body = json!({ "@alice:example.org": { "NODEVICE": device_keys("NODEVICE") } });
    let path = "/_matrix/client/v3/keys/signatures/upload";
    let got = server.post(path, &alice, body).await.ok();
    assert_eq!(
        got["failures"]["@alice:example.org"]["NODEVICE"]["errcode"],
        "M_NOT_FOUND"
    );
}

#[tokio::test]
async fn a_message_to_a_device_waits_for_it_once() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    let phone = device(&server, &alice).await;
    let body = json!({ "messages": {
        "@alice:example.org": { (&phone): { "n": 1 } },
        "@nobody:example.org": { "*": {} },
    } });
    for _ in 0..2 {
        let path = "/_matrix/client/v3/sendToDevice/org.example.test/1";
        server.put(path, &bob, body.clone()).await.ok();
    }
    let accounts = &server.state.accounts;
    let account = accounts.find("alice").await.unwrap().unwrap();
    let snapshot = accounts.store().snapshot();
    let device = phone.as_str().into();
    let page = accounts
        .to_device(
            &snapshot,
            account,
            device,
            Position(0),
            snapshot.position(),
            10,
        )
        .await
        .unwrap();
    assert_eq!(page.messages.len(), 1);
    let event: Value = serde_json::from_str(page.messages[0].event.get()).unwrap();
    assert_eq!(
        event,
        json!({ "type": "org.example.test", "sender": "@bob:example.org", "content": { "n": 1 } })
    );
}

#[tokio::test]
async fn who_changed_their_keys_between_two_syncs() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let phone = device(&server, &alice).await;
    let token = async || {
        let got = server.get("/_matrix/client/v3/sync", &alice).await.ok();
        got["next_batch"].as_str().unwrap().to_owned()
    };
    let from = token().await;
    let body = json!({ "device_keys": device_keys(&phone) });
    server.post(UPLOAD, &alice, body).await.ok();
    let to = token().await;
    let changes =
        |from: &str, to: &str| format!("/_matrix/client/v3/keys/changes?from={from}&to={to}");
    let path = changes(&from, &to);
    let got = server.get(&path, &alice).await.ok();
    assert_eq!(
        got,
        json!({ "changed": ["@alice:example.org"], "left": [] })
    );
    let path = changes(&to, &to);
    let got = server.get(&path, &alice).await.ok();
    assert_eq!(got, json!({ "changed": [], "left": [] }));
    // Who changes them once more has still changed them in between.
    let mut again = device_keys(&phone);
    again["keys"]["curve25519:new"] = "key".into();
    let body = json!({ "device_keys": again });
    server.post(UPLOAD, &alice, body).await.ok();
    let got = server.get(&changes(&from, &to), &alice).await.ok();
    assert_eq!(got["changed"], json!(["@alice:example.org"]));
    let path = changes("x", "y");
    server
        .get(&path, &alice)
        .await
        .fails(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn a_transaction_of_another_type_is_another_message() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let body = json!({ "messages": { "@alice:example.org": { "*": {} } } });
    for kind in ["m.one", "m.two", "m.one"] {
        let path = format!("/_matrix/client/v3/sendToDevice/{kind}/same");
        server.put(&path, &alice, body.clone()).await.ok();
    }
    let sync = server.get("/_matrix/client/v3/sync", &alice).await.ok();
    let events = sync["to_device"]["events"].as_array().unwrap();
    let kinds: Vec<_> = events.iter().map(|event| &event["type"]).collect();
    assert_eq!(kinds, ["m.one", "m.two"]);
}

const DEHYDRATED: &str = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device";

fn dehydrated(device: &str) -> Value {
    let mut keys = device_keys(device);
    keys["dehydrated"] = true.into();
    json!({
        "device_id": device,
        "device_data": { "algorithm": "m.dehydration.v2", "device_pickle": device, "nonce": "n" },
        "initial_device_display_name": "Dehydrated",
        "device_keys": keys,
        "one_time_keys": { "signed_curve25519:AAAA": { "key": device, "signatures": {} } },
        "fallback_keys": { "signed_curve25519:BBBB": { "key": device, "fallback": true, "signatures": {} } },
    })
}

async fn send_to(server: &Server, token: &str, device: &str, n: usize) {
    let path = format!("/_matrix/client/v3/sendToDevice/m.room_key/{device}{n}");
    let body = json!({ "messages": { "@alice:example.org": { (device): { "n": n } } } });
    server.put(&path, token, body).await.ok();
}

#[tokio::test]
async fn a_dehydrated_device_receives_until_another_takes_its_place() {
    let server = Server::start().await;
    let (alice, bob) = (server.user("alice").await, server.user("bob").await);
    server
        .get(DEHYDRATED, &alice)
        .await
        .fails(404, "M_NOT_FOUND");
    let put = server.put(DEHYDRATED, &alice, dehydrated("ONE")).await;
    assert_eq!(put.ok(), json!({ "device_id": "ONE" }));
    let got = server.get(DEHYDRATED, &alice).await.ok();
    assert_eq!(got["device_data"]["device_pickle"], "ONE");
    let wanted = json!({ "device_keys": { "@alice:example.org": ["ONE"] } });
    let got = server.post(QUERY, &bob, wanted).await.ok();
    assert_eq!(
        got["device_keys"]["@alice:example.org"]["ONE"]["dehydrated"],
        true
    );
    let wanted =
        json!({ "one_time_keys": { "@alice:example.org": { "ONE": "signed_curve25519" } } });
    let got = server.post(CLAIM, &bob, wanted).await.ok();
    let keys = &got["one_time_keys"]["@alice:example.org"]["ONE"];
    assert_eq!(keys["signed_curve25519:AAAA"]["key"], "ONE");

    for n in 0..150 {
        send_to(&server, &bob, "ONE", n).await;
    }
    // The same device again loses nothing.
    server.put(DEHYDRATED, &alice, dehydrated("ONE")).await.ok();
    let events = format!("{DEHYDRATED}/ONE/events");
    server
        .get(&format!("{DEHYDRATED}/TWO/events"), &alice)
        .await
        .fails(403, "M_FORBIDDEN");
    server.get(&events, &bob).await.fails(403, "M_FORBIDDEN");
    // Each form twice: nothing is deleted by being read.
    for _ in 0..2 {
        let first = server.get(&events, &alice).await.ok();
        let from = first["next_batch"].as_str().unwrap();
        let last = server
            .get(&format!("{events}?from={from}"), &alice)
            .await
            .ok();
        assert!(last.get("next_batch").is_none());
        let numbers = |page: &Value| -> Vec<u64> {
            let events = page["events"].as_array().unwrap().iter();
            events
                .map(|event| event["content"]["n"].as_u64().unwrap())
                .collect()
        };
        let all = [numbers(&first), numbers(&last)].concat();
        assert_eq!(all, (0..150).collect::<Vec<_>>());

        let (mut body, mut all) = (json!({}), Vec::new());
        loop {
            let page = server.post(&events, &alice, body).await.ok();
            if page["events"] == json!([]) {
                break;
            }
            all.extend(numbers(&page));
            body = json!({ "next_batch": page["next_batch"] });
        }
        assert_eq!(all, (0..150).collect::<Vec<_>>());
    }

    server.put(DEHYDRATED, &alice, dehydrated("TWO")).await.ok();
    server.get(&events, &alice).await.fails(403, "M_FORBIDDEN");
    let devices = server.get("/_matrix/client/v3/devices", &alice).await.ok();
    let ids: Vec<_> = devices["devices"].as_array().unwrap().iter().collect();
    assert!(ids.iter().any(|device| device["device_id"] == "TWO"));
    assert!(!ids.iter().any(|device| device["device_id"] == "ONE"));
    let gone = |got: super::Got| assert_eq!(got.ok(), json!({ "device_id": "TWO" }));
    gone(
        server
            .ask(Method::DELETE, DEHYDRATED, Some(&alice), json!({}))
            .await,
    );
    server
        .ask(Method::DELETE, DEHYDRATED, Some(&alice), json!({}))
        .await
        .fails(404, "M_NOT_FOUND");
    super::sound(&server).await;
}

#[tokio::test]
async fn nobody_logs_in_as_a_dehydrated_device_and_it_takes_no_other_devices_place() {
    let server = Server::start().await;
    let alice = server.user("alice").await;
    let phone = device(&server, &alice).await;
    server
        .put(DEHYDRATED, &alice, dehydrated(&phone))
        .await
        .fails(400, "M_INVALID_PARAM");
    for missing in ["device_id", "device_data", "device_keys"] {
        let mut body = dehydrated("DRY");
        body.as_object_mut().unwrap().remove(missing);
        server
            .put(DEHYDRATED, &alice, body)
            .await
            .fails(400, "M_MISSING_PARAM");
    }
    server.put(DEHYDRATED, &alice, dehydrated("DRY")).await.ok();
    let login = |device: &str| {
        let body = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": "alice" },
            "password": "correct horse",
            "device_id": device,
        });
        server.ask(Method::POST, "/_matrix/client/v3/login", None, body)
    };
    login("DRY").await.fails(403, "M_FORBIDDEN");
    // A new password ends sessions, and it has none; who logs out everywhere ends it too.
    let account = server.account("alice").await;
    let accounts = &server.state.accounts;
    accounts
        .set_password(account, "battery staple", true, None)
        .await
        .unwrap();
    assert!(accounts.dehydrated(account).await.unwrap().is_some());
    assert_eq!(accounts.devices(account).await.unwrap().len(), 1);
    accounts.logout_all(account).await.unwrap();
    assert!(accounts.dehydrated(account).await.unwrap().is_none());
    super::sound(&server).await;
}
