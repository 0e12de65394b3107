//! Addresses of people elsewhere, over the router and a small mail server; and the pages that go with them.

use std::sync::Arc;

use axum::body::Body;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use resuni_delivery::{MailConfig, MailTls, Mailer};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tower::ServiceExt;

use super::Server;
use crate::router;

const REGISTER: &str = "/_matrix/client/v3/register";
const PASSWORD: &str = "/_matrix/client/v3/account/password";

/// A mail server that keeps what it is given.
#[derive(Clone, Default)]
struct Mailbox(Arc<Mutex<Vec<String>>>);

impl Mailbox {
    async fn open() -> (Mailbox, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mailbox = Mailbox::default();
        let kept = mailbox.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(kept.clone().talk(stream));
            }
        });
        (mailbox, port)
    }

    async fn talk(self, stream: TcpStream) -> Option<()> {
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        write.write_all(b"220 mail.example\r\n").await.ok()?;
        while let Some(line) = lines.next_line().await.ok()? {
            let answer: &[u8] = match line.get(..4).unwrap_or_default() {
                "EHLO" => b"250-mail.example\r\n250 8BITMIME\r\n",
                "DATA" => {
                    write.write_all(b"354 go on\r\n").await.ok()?;
                    let mut mail = String::new();
                    while let Some(line) = lines.next_line().await.ok()?.filter(|l| l != ".") {
                        mail.push_str(&line);
                        mail.push('\n');
                    }
                    self.0.lock().push(mail);
                    b"250 kept\r\n"
                }
                "QUIT" => b"221 bye\r\n",
                _ => b"250 fine\r\n",
            };
            write.write_all(answer).await.ok()?;
        }
        None
    }

    fn count(&self) -> usize {
        self.0.lock().len()
    }

    /// The link of the newest mail, as a path.
    fn link(&self) -> String {
        let mail = self.0.lock().last().cloned().unwrap();
        let mail = mail.replace("=\n", "").replace("=3D", "=");
        let at = mail.find("https://example.org/").unwrap();
        let link = mail[at..].split_whitespace().next().unwrap();
        link.strip_prefix("https://example.org").unwrap().to_owned()
    }
}

impl Server {
    /// With mail, and whether an address is needed to register.
    async fn with_mail(require_email: bool) -> (Server, Mailbox) {
        let mut server =
            Server::start_with(|settings| settings.registration.require_email = require_email)
                .await;
        let (mailbox, port) = Mailbox::open().await;
        server.mail_goes_to(port);
        (server, mailbox)
    }

    fn mail_goes_to(&mut self, port: u16) {
        let mailer = Mailer::new(MailConfig {
            host: "127.0.0.1".to_owned(),
            port,
            tls: MailTls::None,
            login: None,
            from: "Example <matrix@example.org>".to_owned(),
            extra_ca_files: Vec::new(),
            base_url: "https://example.org".to_owned(),
            server_name: "example.org".to_owned(),
        });
        self.state.mail = Some(Arc::new(mailer.unwrap()));
        self.router = router(self.state.clone());
    }

    async fn asked(&self, what: &str, address: &str) -> super::Got {
        let path = format!("/_matrix/client/v3/{what}/email/requestToken");
        let body = json!({ "client_secret": "a.secret", "email": address, "send_attempt": 1 });
        self.ask(Method::POST, &path, None, body).await
    }

    /// Asks for a mail, and answers the credentials to show afterwards.
    async fn session(&self, what: &str, address: &str) -> Value {
        let got = self.asked(what, address).await.ok();
        json!({ "sid": got["sid"], "client_secret": "a.secret" })
    }

    async fn page(&self, method: Method, path: &str, form: &str) -> (StatusCode, String) {
        let request = Request::builder().method(method).uri(path);
        let request = request.body(Body::from(form.to_owned())).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let csp = response.headers()["content-security-policy"].to_str();
        assert!(csp.unwrap().contains("frame-ancestors 'none'"));
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    /// Opens the link of a mail and presses the button.
    async fn confirm(&self, link: &str) {
        let (path, query) = link.split_once('?').unwrap();
        let (status, page) = self.page(Method::GET, link, "").await;
        assert_eq!(status, 200);
        assert!(page.contains("<button"), "{page}");
        let (status, page) = self.page(Method::POST, path, query).await;
        assert_eq!(status, 200, "{page}");
    }

    async fn adds(&self, token: &str, name: &str, shown: &Value) -> super::Got {
        let auth = json!({ "type": "m.login.password", "password": "correct horse",
            "identifier": { "type": "m.id.user", "user": name } });
        let body =
            json!({ "sid": shown["sid"], "client_secret": shown["client_secret"], "auth": auth });
        self.post("/_matrix/client/v3/account/3pid/add", token, body)
            .await
    }
}

#[tokio::test]
async fn an_account_may_need_an_address() {
    let (server, mailbox) = Server::with_mail(true).await;
    let register = |auth: Value| {
        let mut body = json!({ "username": "alice", "password": "correct horse" });
        if !auth.is_null() {
            body["auth"] = auth;
        }
        server.ask(Method::POST, REGISTER, None, body)
    };
    let got = register(Value::Null).await;
    let flows = json!([{ "stages": ["m.login.email.identity"] }]);
    assert_eq!((got.status.as_u16(), &got.body["flows"]), (401, &flows));
    let session = got.body["session"].clone();
    let shown = server.session("register", "Alice@X.example").await;
    let auth =
        json!({ "type": "m.login.email.identity", "session": session, "threepid_creds": shown });
    let early = register(auth.clone()).await;
    early.fails(401, "M_THREEPID_AUTH_FAILED");
    // To look at the page is not to confirm: mail programs open links.
    let link = mailbox.link();
    server.page(Method::GET, &link, "").await;
    register(auth.clone())
        .await
        .fails(401, "M_THREEPID_AUTH_FAILED");
    server.confirm(&link).await;
    let got = register(auth).await.ok();
    let token = got["access_token"].as_str().unwrap();
    let list = server
        .get("/_matrix/client/v3/account/3pid", token)
        .await
        .ok();
    assert_eq!(list["threepids"][0]["address"], "alice@x.example");
    assert_eq!(list["threepids"][0]["medium"], "email");
    let again = server.asked("register", "alice@x.example").await;
    again.fails(400, "M_THREEPID_IN_USE");
    let login = json!({ "type": "m.login.password", "password": "correct horse",
        "identifier": { "type": "m.id.thirdparty", "medium": "email", "address": "ALICE@x.example" } });
    let got = server.ask(Method::POST, "/_matrix/client/v3/login", None, login);
    assert_eq!(got.await.ok()["user_id"], "@alice:example.org");
}

#[tokio::test]
async fn a_forgotten_password_is_set_anew_by_mail() {
    let (server, mailbox) = Server::with_mail(false).await;
    let alice = server.user("alice").await;
    let unknown = server.asked("account/password", "alice@x.example").await;
    unknown.fails(400, "M_THREEPID_NOT_FOUND");
    let shown = server.session("account/3pid", "alice@x.example").await;
    server
        .adds(&alice, "alice", &shown)
        .await
        .fails(400, "M_THREEPID_AUTH_FAILED");
    server.confirm(&mailbox.link()).await;
    server.adds(&alice, "alice", &shown).await.ok();

    let reset = |auth: Value| {
        let mut body = json!({ "new_password": "another horse" });
        if !auth.is_null() {
            body["auth"] = auth;
        }
        server.ask(Method::POST, PASSWORD, None, body)
    };
    let got = reset(Value::Null).await;
    let session = got.body["session"].clone();
    let stages = json!([{ "stages": ["m.login.email.identity"] }]);
    assert_eq!(got.body["flows"], stages);
    // What was shown for another purpose does not count.
    let auth = |shown: &Value| json!({ "type": "m.login.email.identity", "session": session, "threepid_creds": shown });
    reset(auth(&shown))
        .await
        .fails(401, "M_THREEPID_AUTH_FAILED");
    let shown = server.session("account/password", "alice@x.example").await;
    server.confirm(&mailbox.link()).await;
    reset(auth(&shown)).await.ok();
    let whoami = server
        .get("/_matrix/client/v3/account/whoami", &alice)
        .await;
    whoami.fails(401, "M_UNKNOWN_TOKEN");
    let login = json!({ "type": "m.login.password", "password": "another horse",
        "identifier": { "type": "m.id.user", "user": "alice" } });
    server
        .ask(Method::POST, "/_matrix/client/v3/login", None, login)
        .await
        .ok();
    assert_eq!(mailbox.count(), 2);
}

#[tokio::test]
async fn without_mail_nobody_is_promised_any() {
    let mut server = Server::start().await;
    for what in ["register", "account/password", "account/3pid"] {
        let got = server.asked(what, "alice@x.example").await;
        got.fails(400, "M_THREEPID_MEDIUM_NOT_SUPPORTED");
    }
    let body = json!({ "new_password": "another horse" });
    let got = server.ask(Method::POST, PASSWORD, None, body).await;
    got.fails(401, "M_MISSING_TOKEN");
    let alice = server.user("alice").await;
    let changes = |got: &Value| got["capabilities"]["m.3pid_changes"]["enabled"].clone();
    let capabilities = "/_matrix/client/v3/capabilities";
    assert_eq!(changes(&server.get(capabilities, &alice).await.ok()), false);
    // Where there was a mail server, and is none any more.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = gone.local_addr().unwrap().port();
    drop(gone);
    server.mail_goes_to(port);
    assert_eq!(changes(&server.get(capabilities, &alice).await.ok()), true);
    let got = server.asked("register", "alice@x.example").await;
    got.fails(502, "M_UNKNOWN");
    let got = server.asked("register", "alice").await;
    got.fails(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn pages_show_what_they_are_given_as_text_only() {
    let (server, _) = Server::with_mail(false).await;
    let odd = "%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E";
    for path in [
        format!("/_resuni/email/confirm?sid={odd}&client_secret={odd}&token={odd}"),
        format!("/_matrix/client/v3/auth/m.login.dummy/fallback/web?session={odd}"),
        format!("/_matrix/client/v3/auth/{odd}/fallback/web?session=x"),
    ] {
        let (_, page) = server.page(Method::GET, &path, "").await;
        assert!(!page.contains("<script>"), "{page}");
    }
    let form = format!("sid={odd}&client_secret={odd}&token={odd}");
    let (status, page) = server
        .page(Method::POST, "/_resuni/email/confirm", &form)
        .await;
    assert_eq!(status, 404);
    assert!(!page.contains("<script>"), "{page}");
}

#[tokio::test]
async fn the_way_on_is_shown_but_not_taken() {
    let (server, mailbox) = Server::with_mail(false).await;
    let body = json!({ "client_secret": "a.secret", "email": "a@x.example", "send_attempt": 1,
        "next_link": "https://client.example/?a=1&b='\"<2>" });
    let path = "/_matrix/client/v3/register/email/requestToken";
    server.ask(Method::POST, path, None, body).await.ok();
    let link = mailbox.link();
    let (path, query) = link.split_once('?').unwrap();
    let (status, page) = server.page(Method::POST, path, query).await;
    assert_eq!(status, 200);
    assert!(
        page.contains("https://client.example/?a=1&amp;b=&#39;&quot;&lt;2&gt;"),
        "{page}"
    );
}

#[tokio::test]
async fn a_stage_may_be_done_on_a_page() {
    let server = Server::start().await;
    let body = json!({ "username": "alice", "password": "correct horse" });
    let got = server.ask(Method::POST, REGISTER, None, body.clone()).await;
    let session = got.body["session"].as_str().unwrap().to_owned();
    let page = |kind: &str, session: &str| {
        format!("/_matrix/client/v3/auth/{kind}/fallback/web?session={session}")
    };
    let own = page("m.login.dummy", &session);
    for unknown in [
        page("m.login.dummy", "none"),
        page("m.login.password", &session),
        page("m.login.email.identity", &session),
        page("m.login.nonsense", &session),
    ] {
        assert_eq!(server.page(Method::GET, &unknown, "").await.0, 404);
        assert_eq!(server.page(Method::POST, &unknown, "").await.0, 404);
    }
    let mut body = body;
    body["auth"] = json!({ "session": session });
    let early = server.ask(Method::POST, REGISTER, None, body.clone()).await;
    assert_eq!(early.status.as_u16(), 401);
    assert_eq!(server.page(Method::GET, &own, "").await.0, 200);
    let (status, done) = server.page(Method::POST, &own, "").await;
    assert_eq!(status, 200);
    assert!(done.contains(r#"data-page="done""#), "{done}");
    server
        .ask(Method::POST, REGISTER, None, body.clone())
        .await
        .ok();
    // It was for one account.
    let again = server.ask(Method::POST, REGISTER, None, body).await;
    again.fails(400, "M_USER_IN_USE");

    let alice = "/_matrix/client/v3/login";
    let login = json!({ "type": "m.login.password", "password": "correct horse",
        "identifier": { "type": "m.id.user", "user": "alice" } });
    let login = server.ask(Method::POST, alice, None, login).await.ok();
    let token = login["access_token"].as_str().unwrap();
    let devices = "/_matrix/client/v3/delete_devices";
    let body = json!({ "devices": [] });
    let got = server.post(devices, token, body.clone()).await;
    let session = got.body["session"].as_str().unwrap();
    let own = page("m.login.password", session);
    let (status, _) = server.page(Method::POST, &own, "password=wrong").await;
    assert_eq!(status, 401);
    let (status, _) = server
        .page(Method::POST, &own, "password=correct+horse")
        .await;
    assert_eq!(status, 200);
    let body = json!({ "devices": [], "auth": { "session": session } });
    server.post(devices, token, body).await.ok();
}

#[tokio::test]
async fn the_login_page_comes_with_its_script() {
    let server = Server::start().await;
    let path = "/_matrix/static/client/login/?device_id=X";
    let (status, page) = server.page(Method::GET, path, "").await;
    assert_eq!(status, 200);
    let script = page
        .split("src=\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    let (status, script) = server.page(Method::GET, script, "").await;
    assert_eq!(status, 200);
    assert!(script.contains("matrixLogin.onLogin"));
}

/// The page for who wants no more mails asks first, as programs open links; a token that is not known ends nothing.
#[tokio::test]
async fn the_page_that_ends_mails_asks_first() {
    let (server, mailbox) = Server::with_mail(false).await;
    let link = "/_resuni/email/unsubscribe?token=nonsense";
    let (status, page) = server.page(Method::GET, link, "").await;
    assert_eq!(status, 200);
    assert!(page.contains("<button"), "{page}");
    let one_click = "List-Unsubscribe=One-Click";
    let (status, _) = server.page(Method::POST, link, one_click).await;
    assert_eq!(status, 404);

    // With a pusher for their own address, which is nobody else's.
    let alice = server.user("alice").await;
    let shown = server.session("account/3pid", "a@x.example").await;
    server.confirm(&mailbox.link()).await;
    let pusher = json!({ "kind": "email", "app_id": "m.email", "pushkey": "a@x.example", "lang": "en",
        "app_display_name": "Mail", "device_display_name": "a@x.example", "data": {} });
    let set = async || {
        server
            .post("/_matrix/client/v3/pushers/set", &alice, pusher.clone())
            .await
    };
    set().await.fails(400, "M_THREEPID_NOT_FOUND");
    server.adds(&alice, "alice", &shown).await.ok();
    set().await.ok();
    let listed = server.get("/_matrix/client/v3/pushers", &alice).await.ok();
    assert_eq!(listed["pushers"][0]["kind"], "email");
}
