//! The endpoints that operators' tools use: files.

use axum::body::Body;
use http::{Method, Request};
use serde_json::{Value, json};

use super::Server;

struct World {
    server: Server,
    root: String,
    alice: String,
}

async fn world() -> World {
    let server = Server::start().await;
    let (root, alice) = (server.operator().await, server.user("alice").await);
    World {
        server,
        root,
        alice,
    }
}

impl World {
    /// Uploads a text; answers its id.
    async fn upload(&self, token: &str, text: &str) -> String {
        let request = Request::builder()
            .method(Method::POST)
            .uri("/_matrix/media/v3/upload?filename=a.txt")
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "text/plain")
            .body(Body::from(text.to_owned()))
            .unwrap();
        let got = self.server.send(request).await.ok();
        let uri = got["content_uri"].as_str().unwrap();
        uri.rsplit('/').next().unwrap().to_owned()
    }

    async fn ask(&self, method: Method, path: &str) -> super::Got {
        let path = format!("/_synapse/admin/v1/{path}");
        self.server
            .ask(method, &path, Some(&self.root), Value::Null)
            .await
    }

    /// The statuses of all ways to get a file.
    async fn statuses(&self, token: &str, id: &str) -> Vec<u16> {
        let mut statuses = Vec::new();
        for path in [
            format!("/_matrix/client/v1/media/download/example.org/{id}"),
            format!("/_matrix/client/v1/media/download/example.org/{id}/b.txt"),
            format!("/_matrix/client/v1/media/thumbnail/example.org/{id}?width=1&height=1"),
            format!("/_matrix/media/v3/download/example.org/{id}"),
            format!("/_matrix/media/v3/download/example.org/{id}/b.txt"),
            format!("/_matrix/media/v3/thumbnail/example.org/{id}?width=1&height=1"),
        ] {
            statuses.push(self.server.get(&path, token).await.status.as_u16());
        }
        statuses
    }
}

#[tokio::test]
async fn s060_s061_quarantined_bytes_are_given_to_nobody_on_any_path() {
    let world = world().await;
    let bob = world.server.user("bob").await;
    let bad = world.upload(&world.alice, "bad").await;
    let again = world.upload(&bob, "bad").await;
    let good = world.upload(&world.alice, "good").await;
    // A text has no thumbnail, which is said of it as long as it is given.
    let given = [200, 200, 400, 200, 200, 400];
    assert_eq!(world.statuses(&bob, &bad).await, given);
    let path = format!("media/quarantine/example.org/{bad}");
    world.ask(Method::POST, &path).await.ok();
    for token in [&world.root, &world.alice, &bob] {
        for id in [&bad, &again] {
            assert_eq!(world.statuses(token, id).await, [404; 6]);
        }
        assert_eq!(world.statuses(token, &good).await, given);
    }
    // Nor to those who upload them from now on.
    let later = world.upload(&bob, "bad").await;
    assert_eq!(world.statuses(&bob, &later).await, [404; 6]);
    let about = format!("media/example.org/{later}");
    let got = world.ask(Method::GET, &about).await.ok();
    assert_eq!(got["media_info"]["quarantined_by"], "@root:example.org");
    // What is elsewhere is not fetched.
    let far = "media/quarantine/elsewhere.example/abc";
    world.ask(Method::POST, far).await.ok();
    let far = "/_matrix/client/v1/media/download/elsewhere.example/abc";
    world.server.get(far, &bob).await.fails(404, "M_NOT_FOUND");
    let path = format!("media/unquarantine/example.org/{bad}");
    world.ask(Method::POST, &path).await.ok();
    assert_eq!(world.statuses(&bob, &later).await, given);
    let path = "media/quarantine/example.org/..%2F..";
    world
        .ask(Method::POST, path)
        .await
        .fails(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn files_of_users_and_rooms_are_quarantined_but_protected_ones_are_not() {
    let world = world().await;
    let (one, two) = (
        world.upload(&world.alice, "one").await,
        world.upload(&world.alice, "two").await,
    );
    let path = format!("media/protect/{two}");
    world.ask(Method::POST, &path).await.ok();
    world
        .ask(Method::POST, "media/protect/nothing")
        .await
        .fails(404, "M_NOT_FOUND");
    let room = world.server.room(&world.alice).await;
    let say = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/1");
    let content = json!({ "msgtype": "m.image", "body": "x", "url": format!("mxc://example.org/{one}"),
        "info": { "thumbnail_url": "mxc://elsewhere.example/thumb" } });
    world.server.put(&say, &world.alice, content).await.ok();
    let path = format!("room/{room}/media");
    let got = world.ask(Method::GET, &path).await.ok();
    assert_eq!(
        got,
        json!({ "local": [format!("mxc://example.org/{one}")], "remote": ["mxc://elsewhere.example/thumb"] })
    );
    let path = format!("room/{room}/media/quarantine");
    let got = world.ask(Method::POST, &path).await.ok();
    assert_eq!(got, json!({ "num_quarantined": 2 }));
    assert_eq!(world.statuses(&world.alice, &one).await, [404; 6]);
    let path = "user/@alice:example.org/media/quarantine";
    assert_eq!(
        world.ask(Method::POST, path).await.ok()["num_quarantined"],
        1
    );
    assert_eq!(world.statuses(&world.alice, &two).await[0], 200);
    let path = format!("media/unprotect/{two}");
    world.ask(Method::POST, &path).await.ok();
    let path = "user/@alice:example.org/media/quarantine";
    assert_eq!(
        world.ask(Method::POST, path).await.ok()["num_quarantined"],
        2
    );
    assert_eq!(world.statuses(&world.alice, &two).await, [404; 6]);
}

#[tokio::test]
async fn files_are_listed_counted_and_removed() {
    let world = world().await;
    let small = world.upload(&world.alice, "a").await;
    let large = world.upload(&world.alice, "a longer text").await;
    let path = "users/@alice:example.org/media";
    let list = |query: &'static str| {
        let (path, world) = (format!("{path}{query}"), &world);
        async move { world.ask(Method::GET, &path).await.ok() }
    };
    let got = list("?order_by=media_length").await;
    assert_eq!(got["total"], 2);
    assert_eq!(
        (&got["media"][0]["media_id"], &got["media"][1]["media_id"]),
        (&json!(small), &json!(large))
    );
    assert_eq!(got["media"][0]["upload_name"], "a.txt");
    assert_eq!(got["media"][0]["media_type"], "text/plain");
    let got = list("?order_by=media_length&dir=b&limit=1").await;
    assert_eq!(
        (&got["media"][0]["media_id"], &got["next_token"]),
        (&json!(large), &json!(1))
    );
    let got = world.ask(Method::GET, "statistics/users/media").await.ok();
    let usage = json!({ "displayname": "alice", "media_count": 2, "media_length": 14, "user_id": "@alice:example.org" });
    assert_eq!(got, json!({ "users": [usage], "total": 1 }));
    let got = world
        .ask(Method::GET, "statistics/users/media?search_term=bob")
        .await
        .ok();
    assert_eq!(got["total"], 0);

    // A picture of somebody stays where it is asked for.
    let picture = world.upload(&world.alice, "a picture").await;
    let avatar = "/_matrix/client/v3/profile/@alice:example.org/avatar_url";
    let uri = json!({ "avatar_url": format!("mxc://example.org/{picture}") });
    world.server.put(avatar, &world.alice, uri).await.ok();
    world
        .ask(Method::POST, "media/delete?before_ts=1")
        .await
        .fails(400, "M_INVALID_PARAM");
    world
        .ask(Method::POST, "media/delete")
        .await
        .fails(400, "M_INVALID_PARAM");
    let got = world
        .ask(
            Method::POST,
            "media/delete?before_ts=99999999999999&size_gt=1",
        )
        .await
        .ok();
    assert_eq!(got, json!({ "deleted_media": [large], "total": 1 }));
    assert_eq!(world.statuses(&world.alice, &large).await, [404; 6]);
    let path = format!("media/example.org/{small}");
    let got = world.ask(Method::DELETE, &path).await.ok();
    assert_eq!(got, json!({ "deleted_media": [small], "total": 1 }));
    world
        .ask(Method::DELETE, &path)
        .await
        .fails(404, "M_NOT_FOUND");
    world
        .ask(Method::DELETE, "media/elsewhere.example/x")
        .await
        .fails(400, "M_INVALID_PARAM");
    let got = world
        .ask(Method::POST, "purge_media_cache?before_ts=99999999999999")
        .await
        .ok();
    assert_eq!(got, json!({ "deleted": 0 }));
    let got = world
        .ask(Method::DELETE, "users/@alice:example.org/media")
        .await
        .ok();
    assert_eq!(got["deleted_media"], json!([picture]));
}
