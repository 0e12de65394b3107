//! The sweep: every operation of the specification, as `endpoints.tsv` lists them, asked rightly and wrongly.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use axum::body::Body;
use http::{Method, Request, header};
use resuni_accounts::{Turn, TurnAccess};
use serde_json::{Value, json};

use super::{Got, Server};
use crate::Support;

const INVENTORY: &str = include_str!("endpoints.tsv");

/// Operations that are not answered, and why. Each of them has to say `M_UNRECOGNIZED`.
const ELSEWHERE: &[(&str, &str)] = &[
    ("GET /_matrix/client/v1/auth_metadata", "OAuth 2.0"),
    (
        "GET /_matrix/client/v3/login/sso/redirect",
        "single sign-on",
    ),
    (
        "GET /_matrix/client/v3/login/sso/redirect/{idpId}",
        "single sign-on",
    ),
    (
        "GET /.well-known/matrix/policy_server",
        "for policy servers, which this is not",
    ),
    (
        "POST /_matrix/policy/v1/sign",
        "for policy servers, which this is not",
    ),
    (
        "GET /_matrix/federation/v1/query/{queryType}",
        "there are no other types",
    ),
    (
        "POST /_matrix/client/v3/account/3pid/bind",
        "identity servers",
    ),
];

/// A line of the inventory.
struct Operation {
    method: Method,
    path: &'static str,
    auth: &'static str,
    body: &'static str,
    refuses_suspended: bool,
    who: &'static str,
    status: &'static str,
    query: &'static str,
    example: &'static str,
}

impl Operation {
    fn is_elsewhere(&self) -> bool {
        let name = self.name();
        ELSEWHERE.iter().any(|(elsewhere, _)| *elsewhere == name)
    }

    fn is_for_servers(&self) -> bool {
        self.auth == "signed"
    }

    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

fn inventory() -> Vec<Operation> {
    let lines = INVENTORY.lines().filter(|line| !line.starts_with('#'));
    let operations: Vec<_> = lines.map(operation).collect();
    assert_eq!(operations.len(), 207);
    operations
}

fn operation(line: &'static str) -> Operation {
    let columns: Vec<&str> = line.split('\t').collect();
    let [
        method,
        path,
        auth,
        body,
        suspended,
        _section,
        who,
        status,
        query,
        example,
    ] = columns[..]
    else {
        panic!("{line}");
    };
    let given = |column: &'static str| if column == "-" { "" } else { column };
    Operation {
        method: method.parse().unwrap(),
        path,
        auth,
        body,
        refuses_suspended: suspended == "refused",
        who,
        status,
        query: given(query),
        example: given(example),
    }
}

/// The names of the operations that other servers sign.
pub(super) fn for_servers() -> Vec<String> {
    let signed = answered().filter(Operation::is_for_servers);
    signed.map(|operation| operation.name()).collect()
}

/// Those that this server answers.
fn answered() -> impl Iterator<Item = Operation> {
    inventory().into_iter().filter(|o| !o.is_elsewhere())
}

/// A server with somebody and something in it.
struct World {
    server: Server,
    /// What stands for the variables of paths, queries and bodies.
    values: BTreeMap<&'static str, String>,
    me: String,
    admin: String,
    /// How many people were made for one request only.
    made: usize,
}

impl World {
    async fn new() -> World {
        let server = Server::start_with(|settings| {
            settings.public_baseurl = Some("https://example.org".to_owned());
            settings.well_known_server = Some("example.org:443".try_into().unwrap());
            settings.turn = Some(Turn {
                uris: vec!["turn:turn.example.org".to_owned()],
                access: TurnAccess::SharedSecret("secret".to_owned()),
                lifetime: Duration::from_secs(60),
            });
            settings.support = Support {
                emails: vec!["operator@example.org".to_owned()],
                ..Support::default()
            };
        })
        .await;
        let me = server.user("alice").await;
        server.user("bob").await;
        let admin = server.user("root").await;
        let account = server.account("root").await;
        server
            .state
            .accounts
            .set_admin(account, true)
            .await
            .unwrap();
        let mut world = World {
            server,
            values: BTreeMap::new(),
            me,
            admin,
            made: 0,
        };
        world.furnish().await;
        world
    }

    async fn furnish(&mut self) {
        let (server, me) = (&self.server, &self.me);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let room = json!({ "preset": "public_chat", "name": "a room" });
        let room = server.post("/_matrix/client/v3/createRoom", me, room).await;
        let room = text(&room.ok()["room_id"]);
        let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/1");
        let sent = server.put(&path, me, json!({ "body": "hello" })).await;
        let whoami = server
            .get("/_matrix/client/v3/account/whoami", me)
            .await
            .ok();
        let backup = json!({ "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": { "public_key": "a" } });
        let backup = server
            .post("/_matrix/client/v3/room_keys/version", me, backup)
            .await;
        let path = "/_matrix/client/v3/user/@alice:example.org/filter";
        let filter = server.post(path, me, json!({})).await;
        let sync = server.get("/_matrix/client/v3/sync", me).await;
        let media = server.upload("", "image/png", me, PNG).await.ok();
        let media = text(&media["content_uri"]);
        let media = media.rsplit('/').next().unwrap().to_owned();
        let fixed = [
            ("userId", "@alice:example.org"),
            ("other", "@bob:example.org"),
            ("roomAlias", "%23x:example.org"),
            ("serverName", "example.org"),
            ("fileName", "a.png"),
            ("appserviceId", "irc"),
            ("networkId", "irc"),
            ("authType", "m.login.dummy"),
            ("idpId", "x"),
            ("protocol", "irc"),
            ("keyName", "displayname"),
            ("kind", "override"),
            ("ruleId", ".m.rule.master"),
            ("receiptType", "m.read"),
            ("relType", "m.reference"),
            ("stateKey", "x"),
            ("tag", "u.a"),
            ("type", "org.example"),
            ("txnId", "t"),
            ("sessionId", "s"),
            ("mediaId", media.as_str()),
            ("roomId", room.as_str()),
            ("roomIdOrAlias", room.as_str()),
        ];
        self.values = fixed
            .into_iter()
            .map(|(k, v)| (k, v.to_owned()))
            .chain([
                ("eventId", text(&sent.ok()["event_id"])),
                ("deviceId", text(&whoami["device_id"])),
                ("version", text(&backup.ok()["version"])),
                ("filterId", text(&filter.ok()["filter_id"])),
                ("since", text(&sync.ok()["next_batch"])),
            ])
            .collect();
    }

    /// Somebody new, by name.
    async fn somebody(&mut self) -> (String, String) {
        self.made += 1;
        let name = format!("spare{}", self.made);
        let token = self.server.user(&name).await;
        (name, token)
    }

    /// The text with its variables filled in.
    fn filled(&self, text: &str, own: &[(&str, &str)], operation: &Operation) -> String {
        let mut out = text.to_owned();
        let event_type = if operation.path.contains("/state/") {
            "m.room.name"
        } else {
            "m.room.message"
        };
        for (name, value) in own.iter().copied().chain([("eventType", event_type)]) {
            out = out.replace(&format!("{{{name}}}"), value);
        }
        for (name, value) in &self.values {
            out = out.replace(&format!("{{{name}}}"), value);
        }
        out
    }

    fn path(&self, operation: &Operation) -> String {
        self.filled(operation.path, &[], operation)
    }

    async fn ask(&self, operation: &Operation, token: Option<&str>, body: Value) -> Got {
        let path = self.path(operation);
        self.server
            .ask(operation.method.clone(), &path, token, body)
            .await
    }

    /// The example of an operation.
    async fn example(&mut self, operation: &Operation) -> Got {
        let (name, own) = match operation.who {
            "new" | "admin" => self.somebody().await,
            _ => ("alice".to_owned(), self.me.clone()),
        };
        let token = match operation.who {
            "-" => None,
            "bridge" => Some("as-secret".to_owned()),
            "admin" => Some(self.admin.clone()),
            _ => Some(own),
        };
        let user = format!("@{name}:example.org");
        let spare = format!("@{}:example.org", self.somebody().await.0);
        let mut own = vec![("me", name.as_str()), ("spare", spare.as_str())];
        if matches!(operation.who, "admin" | "new") {
            own.push(("userId", user.as_str()));
        }
        let mut uri = self.filled(operation.path, &own, operation);
        if !operation.query.is_empty() {
            uri = format!("{uri}?{}", self.filled(operation.query, &own, operation));
        }
        let mut request = Request::builder()
            .method(operation.method.clone())
            .uri(uri.replace(['{', '}'], ""));
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = self.filled(operation.example, &own, operation);
        self.server
            .send(request.body(Body::from(body)).unwrap())
            .await
    }
}

/// A picture of one pixel.
const PNG: &[u8] = include_bytes!("pixel.png");

/// Collects what is wrong, so that one run tells of all.
#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn check(&mut self, operation: &Operation, case: &str, got: &Got, status: u16, code: &str) {
        let is = (got.status.as_u16(), got.errcode());
        if is != (status, code) {
            let name = operation.name();
            self.0.push(format!(
                "{name}, {case}: {is:?} and not {:?}",
                (status, code)
            ));
        }
    }

    #[track_caller]
    fn none(self) {
        assert!(self.0.is_empty(), "{}", self.0.join("\n"));
    }
}

#[tokio::test]
async fn every_operation_does_what_its_example_says() {
    let mut world = World::new().await;
    let mut faults = Vec::new();
    for operation in answered().filter(|o| o.status != "-") {
        let got = world.example(&operation).await;
        let status = got.status.as_u16().to_string();
        if status != operation.status || got.errcode() == "M_UNRECOGNIZED" {
            faults.push(format!(
                "{}: {status} and not {}: {}",
                operation.name(),
                operation.status,
                got.body
            ));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test]
async fn what_is_built_elsewhere_is_unrecognized() {
    let world = World::new().await;
    let mut faults = Faults::default();
    let mut seen = 0;
    for operation in inventory().into_iter().filter(Operation::is_elsewhere) {
        seen += 1;
        let got = world.ask(&operation, Some(&world.me), json!({})).await;
        // Where another method of the same path is answered, the status is 405.
        if !(got.status == 405 && got.errcode() == "M_UNRECOGNIZED") {
            faults.check(&operation, "not built", &got, 404, "M_UNRECOGNIZED");
        }
    }
    assert_eq!(
        seen,
        ELSEWHERE.len(),
        "an operation that the specification does not have"
    );
    faults.none();
}

#[tokio::test]
async fn every_operation_wants_the_token_it_needs() {
    let world = World::new().await;
    let mut faults = Faults::default();
    for operation in answered() {
        let mut check = async |case, token, status, code| {
            let got = world.ask(&operation, token, json!({})).await;
            faults.check(&operation, case, &got, status, code);
        };
        match operation.auth {
            "token" | "service" => {
                check("no token", None, 401, "M_MISSING_TOKEN").await;
                check("empty token", Some(""), 401, "M_MISSING_TOKEN").await;
                check("unknown token", Some("x"), 401, "M_UNKNOWN_TOKEN").await;
                if operation.auth == "service" {
                    check("a person's token", Some(&world.me), 403, "M_FORBIDDEN").await;
                }
            }
            "optional" => check("unknown token", Some("x"), 401, "M_UNKNOWN_TOKEN").await,
            "signed" => {
                check("unsigned", None, 401, "M_UNAUTHORIZED").await;
                check("a person's token", Some(&world.me), 401, "M_UNAUTHORIZED").await;
            }
            _ => {
                let got = world.ask(&operation, None, json!({})).await;
                if got.errcode() == "M_MISSING_TOKEN" || got.errcode() == "M_UNRECOGNIZED" {
                    faults.check(&operation, "no token", &got, 200, "");
                }
            }
        }
    }
    faults.none();
}

#[tokio::test]
async fn the_deactivated_the_locked_and_the_suspended_are_told_so_everywhere() {
    let world = World::new().await;
    let accounts = &world.server.state.accounts;
    let gone = world.server.user("gone").await;
    let account = world.server.account("gone").await;
    accounts.deactivate(account, false).await.unwrap();
    let locked = world.server.user("locked").await;
    let account = world.server.account("locked").await;
    accounts.set_locked(account, true).await.unwrap();
    let suspended = world.server.user("suspended").await;
    let account = world.server.account("suspended").await;
    accounts.set_suspended(account, true).await.unwrap();
    let mut faults = Faults::default();
    for operation in answered().filter(|o| o.auth == "token") {
        let got = world.ask(&operation, Some(&gone), json!({})).await;
        faults.check(&operation, "deactivated", &got, 401, "M_UNKNOWN_TOKEN");
        // "Account locking": they may still log out.
        if !operation.path.contains("/logout") {
            let got = world.ask(&operation, Some(&locked), json!({})).await;
            faults.check(&operation, "locked", &got, 401, "M_USER_LOCKED");
            assert_eq!(got.body["soft_logout"], true, "{}", operation.name());
        }
        if operation.path.contains("/logout") {
            continue;
        }
        let got = world.ask(&operation, Some(&suspended), json!({})).await;
        if operation.refuses_suspended {
            faults.check(&operation, "suspended", &got, 403, "M_USER_SUSPENDED");
        } else if got.errcode() == "M_USER_SUSPENDED" {
            faults.check(&operation, "suspended", &got, 200, "");
        }
    }
    faults.none();
}

#[tokio::test]
async fn wrong_methods_are_told_apart_from_unknown_paths() {
    let world = World::new().await;
    let mut faults = Faults::default();
    let mut methods = BTreeMap::<&str, BTreeSet<String>>::new();
    for operation in inventory() {
        let known = methods.entry(operation.path).or_default();
        known.insert(operation.method.to_string());
    }
    for mut operation in answered() {
        for method in [
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::DELETE,
            Method::PATCH,
        ] {
            if methods[operation.path].contains(method.as_str()) {
                continue;
            }
            // The form of the page is sent there.
            if operation.path.ends_with("/fallback/web") && method == Method::POST {
                continue;
            }
            operation.method = method;
            let got = world.ask(&operation, Some(&world.me), json!({})).await;
            faults.check(&operation, "wrong method", &got, 405, "M_UNRECOGNIZED");
        }
    }
    faults.none();
}

#[tokio::test]
async fn bodies_that_can_not_be_read_are_told_why() {
    let world = World::new().await;
    let mut faults = Faults::default();
    let reads = |o: &Operation| o.body != "none" && !o.is_for_servers();
    for operation in answered().filter(reads) {
        let token = match operation.who {
            "bridge" => "as-secret",
            "admin" => &world.admin,
            _ => &world.me,
        };
        let uri = format!("{}?{}", world.path(&operation), operation.query);
        let uri = world.filled(&uri, &[], &operation);
        let request = |body: Body, length: Option<u64>| {
            let mut request = Request::builder()
                .method(operation.method.clone())
                .uri(uri.as_str())
                .header(header::AUTHORIZATION, format!("Bearer {token}"));
            if let Some(length) = length {
                request = request.header(header::CONTENT_LENGTH, length);
            }
            world.server.send(request.body(body).unwrap())
        };
        let got = request(Body::from("{"), Some(1 << 40)).await;
        faults.check(&operation, "too large", &got, 413, "M_TOO_LARGE");
        if operation.body == "json" {
            for text in ["{", "nonsense", "{\"a\":\"\u{7f}\"} {}"] {
                let got = request(Body::from(text), None).await;
                faults.check(&operation, text, &got, 400, "M_NOT_JSON");
            }
            let got = request(Body::from("[]"), None).await;
            faults.check(&operation, "[]", &got, 400, "M_BAD_JSON");
        }
    }
    faults.none();
}

#[tokio::test]
async fn browsers_may_call_every_operation_for_clients() {
    let world = World::new().await;
    for operation in answered() {
        let path = world.path(&operation);
        let name = operation.name();
        let ask = |method, token| world.server.ask(method, &path, token, Value::Null);
        let preflight = ask(Method::OPTIONS, None).await;
        let answer = ask(operation.method.clone(), None).await;
        let server_only =
            path.starts_with("/_matrix/federation/") || path.starts_with("/_matrix/key/");
        if server_only {
            assert!(
                !answer.headers.contains_key("access-control-allow-origin"),
                "{name}"
            );
            continue;
        }
        assert_eq!(preflight.status.as_u16(), 200, "{name}");
        for got in [&preflight, &answer] {
            let header = |name| got.headers.get(name).map(|value| value.to_str().unwrap());
            assert_eq!(header("access-control-allow-origin"), Some("*"), "{name}");
            let methods = header("access-control-allow-methods").unwrap_or_default();
            assert!(methods.contains(operation.method.as_str()), "{name}");
            let headers = header("access-control-allow-headers").unwrap_or_default();
            assert!(headers.contains("Authorization") && headers.contains("Content-Type"));
            assert_eq!(header("access-control-allow-credentials"), None, "{name}");
        }
    }
}
