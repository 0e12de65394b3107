//! `/timeline` in a browser: headless Chromium reads the page and takes a screenshot of it.
//!
//! The screenshot is kept as `screenshots/timeline.png` (and `timeline-dark.png`) in the target folder. Without a browser the test says
//! so and passes, except in CI, where one is installed.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use resuni_consortium::{Consortium, Roster};
use resuni_feed::testing::Home;
use resuni_web::{Site, WebState, router};
use serde_json::json;
use tokio::{net::TcpListener, process::Command};

const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// A browser that hangs must not hang the tests.
const PATIENCE: Duration = Duration::from_secs(120);

fn browser() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    BROWSERS
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
        .find(|file| file.is_file())
}

/// `target/screenshots`, beside what Cargo keeps for tests in `target/tmp`.
fn screenshots() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("screenshots");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

async fn serve(home: &Home) -> String {
    let roster = Roster::new(home.rooms.server_name().to_owned(), Vec::new()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    let state = WebState {
        site: Arc::new(Site {
            base_url: base_url.clone(),
            registration: true,
        }),
        feed: home.feed.clone(),
        consortium: Consortium::new(roster, None),
    };
    tokio::spawn(async move { axum::serve(listener, router(state)).await });
    base_url
}

async fn run(browser: &Path, profile: &Path, arguments: &[String]) -> String {
    let output = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ])
        .args([
            "--hide-scrollbars",
            "--no-first-run",
            "--window-size=900,1200",
        ])
        .arg(format!("--user-data-dir={}", profile.display()))
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, output)
        .await
        .unwrap()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(!errors.contains("Content Security Policy"), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_timeline_in_a_browser() {
    let Some(browser) = browser() else {
        assert!(
            std::env::var_os("CI").is_none(),
            "CI has to install chromium"
        );
        eprintln!(
            "SKIPPED: no browser ({}) is installed; `make test` installs one",
            BROWSERS.join(", ")
        );
        return;
    };
    let home = Home::new().await;
    let (alice, bob) = (home.person("alice").await, home.person("bob").await);
    let profile = home.profile_room(&alice, "Alice Liddell").await;
    let group = home
        .room(&bob, "m.social.group", "Gardeners of Vienna", &[])
        .await;
    let said = home
        .post(
            &profile,
            &alice,
            "Curiouser and curiouser! https://example.org/rabbit-hole",
        )
        .await;
    home.post(&group, &bob, "The roses are red again.\nWho painted them?")
        .await;
    let theirs = home.profile_room(&bob, "Bob").await;
    let quote = json!({ "msgtype": "m.text", "body": "She said it:", "m.social.relates_to": {
        "rel_type": "m.social.repost", "event_id": said, "room_id": profile, "sender": alice } });
    home.send(&theirs, &bob, "m.social.post", quote).await;
    home.post(
        &profile,
        &alice,
        "<script>document.title = 'taken over'</script>",
    )
    .await;
    home.feed.catch_up().await.unwrap();

    let page = format!("{}/timeline", serve(&home).await);
    let folder = screenshots();
    let profile =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("browser-{}", std::process::id()));
    let dom = run(&browser, &profile, &["--dump-dom".to_owned(), page.clone()]).await;
    assert!(
        dom.contains("<title>Public timeline – home.test</title>"),
        "{dom}"
    );
    assert!(dom.contains("Curiouser and curiouser!"));
    assert!(dom.contains("in <bdi>Gardeners of Vienna</bdi>"));
    for (name, more) in [
        ("timeline.png", None),
        ("timeline-dark.png", Some("--force-dark-mode")),
    ] {
        let file = folder.join(name);
        let _ = std::fs::remove_file(&file);
        let mut arguments: Vec<String> = more.into_iter().map(str::to_owned).collect();
        arguments.extend([format!("--screenshot={}", file.display()), page.clone()]);
        run(&browser, &profile, &arguments).await;
        let picture = std::fs::read(&file).unwrap();
        assert!(
            picture.starts_with(b"\x89PNG") && picture.len() > 5_000,
            "{} bytes",
            picture.len()
        );
        println!("screenshot kept: {}", file.display());
    }
    std::fs::remove_dir_all(&profile).unwrap();
}
