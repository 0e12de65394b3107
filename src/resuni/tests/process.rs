//! The binary as an operator meets it: start, commands, stop.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

const SETTINGS: &str = r#"
server_name = "test.example"
public_baseurl = "http://localhost"
[[listeners]]
port = 0
[registration]
shared_secret = "secret"
[password_hashing]
cost = "minimum"
[federation]
enabled = false
[support]
users = ["@operator:test.example"]
[metrics]
listener = "127.0.0.1:0"
"#;

struct Server {
    child: Child,
    url: String,
    figures: String,
    folder: TempDir,
}

fn resuni(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_resuni"));
    command.args(arguments).current_dir(folder);
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    resuni(folder, arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Server {
    fn start(folder: TempDir) -> Self {
        std::fs::write(folder.path().join("resuni.toml"), SETTINGS).unwrap();
        let arguments = ["serve", "--config", "resuni.toml", "--exit-on-stdin-eof"];
        let mut child = resuni(folder.path(), &arguments)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let (mut url, mut figures) = (None, None);
        let mut line = String::new();
        while log.read_line(&mut line).unwrap() > 0 {
            if let Some((_, address)) = line.split_once("listening on ") {
                url = Some(address.trim().to_owned());
            }
            if let Some((_, address)) = line.split_once("figures for Prometheus at ") {
                figures = Some(address.trim().to_owned());
            }
            if line.contains("ready after") {
                break;
            }
            line.clear();
        }
        // The rest of the log is read by nobody, but must not fill its pipe.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        let url = url.expect("the server did not start");
        let figures = figures.expect("no figures");
        Self {
            child,
            url,
            figures,
            folder,
        }
    }

    async fn get(&self, path: &str) -> (u16, String) {
        get(&format!("{}{path}", self.url)).await
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Waits for the end; the folder can be used again.
    fn ended(mut self) -> TempDir {
        assert!(self.child.wait().unwrap().success());
        self.folder
    }
}

async fn get(url: &str) -> (u16, String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let response = client.get(url).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

fn provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

#[tokio::test]
async fn it_serves_until_it_is_told_to_stop() {
    provider();
    let server = Server::start(tempfile::tempdir().unwrap());
    let (status, body) = server.get("/_matrix/client/versions").await;
    assert_eq!(status, 200);
    assert!(body.contains("versions"), "{body}");
    let (status, body) = server.get("/_matrix/client/v3/nothing").await;
    assert_eq!(status, 404);
    assert!(body.contains("M_UNRECOGNIZED"), "{body}");
    server.signal("HUP");
    assert_eq!(server.get("/_matrix/client/versions").await.0, 200);
    server.signal("TERM");
    let folder = server.ended();

    // The same folder again, and the other two ways to stop.
    let server = Server::start(folder);
    server.signal("INT");
    let mut server = Server::start(server.ended());
    drop(server.child.stdin.take());
    server.ended();
}

/// What comes back for these bytes, until the server closes the connection. `over` says that nothing will follow them:
/// the server then need not answer what it has not begun to.
fn raw_exchange(url: &str, sent: &str, over: bool) -> String {
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.write_all(sent.as_bytes()).unwrap();
    if over {
        stream.shutdown(std::net::Shutdown::Write).unwrap();
    }
    let mut answer = Vec::new();
    // A connection that is cut off is an answer too.
    let _ = std::io::Read::read_to_end(&mut stream, &mut answer);
    text(&answer)
}

/// CVE-2024-41671, CVE-2020-10108: where a proxy could see other requests than we do, there is none at all.
#[test]
fn s122_requests_are_not_smuggled() {
    let server = Server::start(tempfile::tempdir().unwrap());
    let inner = "GET /_matrix/client/versions HTTP/1.1\r\nHost: a\r\n\r\n";
    let smuggled = |headers: &str, body: &str| {
        let request = "POST /_matrix/client/v3/login HTTP/1.1\r\nHost: a\r\n";
        let answer = raw_exchange(
            &server.url,
            &format!("{request}{headers}\r\n{body}{inner}"),
            true,
        );
        assert!(!answer.contains("\"versions\""), "{headers:?}: {answer}");
    };
    let length = inner.len();
    smuggled("Content-Length: 0\r\nContent-Length: 5\r\n", "");
    smuggled(
        &format!("Content-Length: {length}\r\nContent-Length: 0\r\n"),
        "",
    );
    smuggled("Content-Length: +0\r\n", "");
    smuggled("Content-Length: 0x0\r\n", "");
    smuggled("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n");
    smuggled("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n");
    smuggled("Transfer-Encoding : chunked\r\n", "0\r\n\r\n");
    smuggled("X: y\rContent-Length: 0\r\n", "");
    // A chunk that says less than it holds.
    smuggled("Transfer-Encoding: chunked\r\n", "1;\n\r\n0\r\n\r\n");

    // What is right is answered in its order.
    let unknown = "GET /_matrix/client/v3/nothing HTTP/1.1\r\nHost: a\r\n\r\n";
    let last = inner.replace("Host: a", "Host: a\r\nConnection: close");
    let answer = raw_exchange(&server.url, &format!("{unknown}{unknown}{last}"), false);
    let first = answer.find("M_UNRECOGNIZED").expect("the first answer");
    let second = answer.rfind("M_UNRECOGNIZED").expect("the second answer");
    let third = answer.find("\"versions\"").expect("the third answer");
    assert!(first < second && second < third, "{answer}");
    server.signal("TERM");
    server.ended();
}

#[tokio::test]
async fn the_operator_sees_figures_health_and_whom_people_may_ask() {
    provider();
    let server = Server::start(tempfile::tempdir().unwrap());
    assert_eq!(server.get("/health").await, (200, "OK".to_owned()));
    let (status, body) = server.get("/.well-known/matrix/support").await;
    assert!(
        status == 200 && body.contains("@operator:test.example"),
        "{body}"
    );
    let (status, body) = get(&server.figures).await;
    assert_eq!(status, 200);
    for name in [
        "resuni_http_request_seconds_bucket{",
        "resuni_build_info{",
        "process_resident_memory_bytes",
        "/.well-known/matrix/support",
    ] {
        assert!(body.contains(name), "{name} is missing in {body}");
    }
    // Only there: the other listener is for everybody.
    assert_eq!(server.get("/metrics").await.0, 404);
    server.signal("TERM");
    server.ended();
}

#[test]
fn accounts_can_be_managed_with_and_without_a_running_server() {
    provider();
    let server = Server::start(tempfile::tempdir().unwrap());
    let manage = |folder: &Path, arguments: &[&str]| {
        let arguments = [arguments, &["--config", "resuni.toml"]].concat();
        let output = run(folder, &arguments);
        (
            output.status.success(),
            text(&output.stdout) + &text(&output.stderr),
        )
    };
    let here = server.folder.path();
    let (done, said) = manage(here, &["user", "create", "alice", "--admin"]);
    assert!(
        done && said.contains("Made @alice:test.example") && said.contains("password is"),
        "{said}"
    );
    let (done, said) = manage(here, &["user", "create", "alice"]);
    assert!(!done && said.contains("resuni: "), "{said}");
    let (done, said) = manage(here, &["user", "create", "eve"]);
    assert!(done, "{said}");
    let (done, said) = manage(here, &["user", "deactivate", "eve"]);
    assert!(
        done && said == "@eve:test.example is deactivated.\n",
        "{said}"
    );
    let (done, said) = manage(here, &["user", "list", "--deactivated"]);
    assert!(done && said == "@eve:test.example\tdeactivated\n", "{said}");
    server.signal("TERM");
    let folder = server.ended();

    let here = folder.path();
    let (done, said) = manage(here, &["user", "set-password", "alice"]);
    assert!(done && said.contains("password is"), "{said}");
    let (done, said) = manage(here, &["user", "set-password", "bob"]);
    assert!(!done && said.contains("no account bob"), "{said}");
    let (done, token) = manage(here, &["token", "create", "--uses", "3"]);
    assert!(done, "{token}");
    let (done, said) = manage(here, &["token", "list"]);
    assert!(
        done && said == format!("{}\tused 0 of 3\n", token.trim()),
        "{said}"
    );
    let (done, said) = manage(here, &["user", "list"]);
    assert!(
        done && said == "@alice:test.example\tadministrator\n@eve:test.example\tdeactivated\n",
        "{said}"
    );
    let (done, said) = manage(here, &["user", "create", "bob"]);
    assert!(done, "{said}");
    for (filter, expected) in [
        (&["--admins"][..], "@alice:test.example\tadministrator\n"),
        (&["--name", "bo"], "@bob:test.example\n"),
        (&["--admins", "--name", "bo"], ""),
        (&["--locked"], ""),
    ] {
        let (done, said) = manage(here, &[&["user", "list"], filter].concat());
        assert!(done && said == expected, "{filter:?}: {said}");
    }
    let (done, said) = manage(here, &["user", "set-admin", "bob"]);
    assert!(done, "{said}");
    let (done, said) = manage(here, &["user", "set-admin", "alice", "--off"]);
    assert!(done, "{said}");
    let (done, said) = manage(here, &["user", "list", "--admins"]);
    assert!(
        done && said == "@bob:test.example\tadministrator\n",
        "{said}"
    );
    let (done, said) = manage(here, &["user", "login-token", "alice"]);
    assert!(
        done && said.starts_with("rsl_") && said.contains("2 minutes"),
        "{said}"
    );
    // Nobody could take them out of their rooms.
    let (done, said) = manage(here, &["user", "deactivate", "alice"]);
    assert!(!done && said.contains("start it first"), "{said}");
}

#[test]
fn a_password_is_read_from_standard_input() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("resuni.toml"), SETTINGS).unwrap();
    let arguments = [
        "user",
        "create",
        "carol",
        "--password-file",
        "-",
        "--config",
        "resuni.toml",
    ];
    let mut child = resuni(folder.path(), &arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"a good long password\n")
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(text(&output.stdout), "Made @carol:test.example.\n");
}

#[test]
fn a_bad_setting_stops_the_start_and_names_its_key() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("a.toml"),
        "server_name = \"a.org\"\nlisteners = 3\n",
    )
    .unwrap();
    let output = run(folder.path(), &["serve", "--config", "a.toml"]);
    assert!(!output.status.success());
    assert!(
        text(&output.stderr).contains("listeners"),
        "{}",
        text(&output.stderr)
    );
    assert!(!folder.path().join("data").exists());

    std::fs::write(
        folder.path().join("b.toml"),
        "server_name = \"a.org\"\n[rooms]\ndefault_version = \"99\"\n",
    )
    .unwrap();
    let output = run(folder.path(), &["config", "check", "--config", "b.toml"]);
    assert!(
        text(&output.stderr).contains("rooms.default_version"),
        "{}",
        text(&output.stderr)
    );
}
