//! A client for browsers, Hydrogen, in Chromium: two people on two servers register, make a room, talk, react and send a
//! picture, through the client's own buttons.
//!
//! `packaging/setup.sh test` gets the client from npm and bundles it. Where it could not be had, the test says that it was
//! NOT run, and passes. What the second person sees at the end is kept as `screenshots/hydrogen.png` in the target folder.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, ensure};
use resuni_testkit::{Browser, Page, Server, World, browser};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// Where the set-up puts the client.
const CLIENT: &str = ".cache/resuni/web-client/dist";
/// A browser that hangs must not hang the tests.
const PATIENCE: Duration = Duration::from_secs(300);
const PASSWORD: &str = "a password of some length";

fn client() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("HOME")?).join(CLIENT);
    folder.join("main.js").is_file().then_some(folder)
}

/// Serves the files of a folder; answers its address.
async fn serve(folder: PathBuf) -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", listener.local_addr()?);
    let folder = Arc::new(folder);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let folder = folder.clone();
            tokio::spawn(async move { answer(stream, &folder).await });
        }
    });
    Ok(address)
}

/// One request for each connection.
async fn answer(mut stream: TcpStream, folder: &Path) -> anyhow::Result<()> {
    let mut lines = BufReader::new(&mut stream).lines();
    let request = lines.next_line().await?.context("no request")?;
    while lines
        .next_line()
        .await?
        .is_some_and(|line| !line.is_empty())
    {}
    let path = request.split(' ').nth(1).unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    let name = match path.trim_start_matches('/') {
        "" => "index.html",
        name => name,
    };
    let file = Path::new(name);
    let kind = match file.extension().and_then(|kind| kind.to_str()) {
        Some("html") => "text/html",
        Some("js") => "text/javascript",
        Some("css") => "text/css",
        Some("svg") => "image/svg+xml",
        Some("wasm") => "application/wasm",
        _ => "application/octet-stream",
    };
    let (status, body) = match std::fs::read(folder.join(file)) {
        Ok(body) if !name.contains("..") => ("200 OK", body),
        _ => ("404 Not Found", Vec::new()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body).await?;
    Ok(stream.shutdown().await?)
}

/// Opens the client for somebody of a server, makes their account and logs in.
async fn sign_in(
    browser: &Arc<Browser>,
    client: &str,
    server: &Server,
    name: &str,
) -> anyhow::Result<Page> {
    let page = browser
        .page(&format!("{client}/?server={}", server.url()))
        .await?;
    page.until("the client", "!!window.hydrogen").await?;
    // It has the code for it, but no form.
    let register = format!(
        "(async () => {{
            const {{ platform, Client }} = window.hydrogen;
            const registration = await new Client(platform).startRegistration(
                {}, {}, {}, 'a browser', flows => flows.find(flow => flow.stages[0] === 'm.login.dummy'));
            let stage = await registration.start();
            while (stage) stage = await registration.submitStage(stage);
            return registration.authData.userId;
        }})()",
        json!(server.url()),
        json!(name),
        json!(PASSWORD)
    );
    let user = page.eval(&register).await?;
    ensure!(
        user == json!(format!("@{name}:{}", server.name())),
        "registered as {user}"
    );
    page.fill("#username", name).await?;
    page.fill("#password", PASSWORD).await?;
    page.click(".PasswordLoginView button[type=submit]", "")
        .await?;
    page.until(
        "the list of rooms",
        "!!document.querySelector('.LeftPanel')",
    )
    .await?;
    Ok(page)
}

async fn say(page: &Page, text: &str) -> anyhow::Result<()> {
    page.fill(".MessageComposer_input textarea", text).await?;
    page.click(".MessageComposer_input button.send", "").await
}

/// Waits for a message with this text that was sent.
async fn is_shown(page: &Page, text: &str) -> anyhow::Result<()> {
    let shown = format!(
        "[...document.querySelectorAll('.Timeline_message:not(.unsent)')]
            .some(it => it.textContent.includes({}))",
        json!(text)
    );
    page.until(text, &shown).await.map(drop)
}

async fn in_menu(page: &Page, button: &str, option: &str) -> anyhow::Result<()> {
    page.click(button, "").await?;
    page.click(".menu button", option).await
}

/// A picture that can be told from all others: 64 times 48 points.
fn picture(folder: &Path) -> anyhow::Result<PathBuf> {
    let file = folder.join("sunset.png");
    let points = image::RgbImage::from_fn(64, 48, |x, y| {
        let (x, y) = (u8::try_from(x).unwrap_or(0), u8::try_from(y).unwrap_or(0));
        image::Rgb([255 - y * 4, 96, x * 4])
    });
    points.save(&file)?;
    Ok(file)
}

async fn talk(world: &World, program: &Path, client: PathBuf) -> anyhow::Result<()> {
    let (one, two) = (world.resuni("one").await?, world.resuni("two").await?);
    let client = serve(client).await?;
    let browser = Browser::start(program, &world.folder().join("browser"))?;
    let alice = sign_in(&browser, &client, &one, "alice").await?;
    let bob = sign_in(&browser, &client, &two, "bob").await?;

    in_menu(&alice, ".utilities button.create", "Create Room").await?;
    alice.fill(".CreateRoomView #name", "Picnic").await?;
    alice.click(".CreateRoomView #isPublic", "").await?;
    alice.fill(".CreateRoomView #roomAlias", "picnic").await?;
    alice.click(".CreateRoomView button.primary", "").await?;
    alice.click(".RoomList a", "Picnic").await?;
    say(&alice, "who brings the cake?").await?;
    is_shown(&alice, "who brings the cake?").await?;

    in_menu(&bob, ".utilities button.create", "Join Room").await?;
    let alias = format!("#picnic:{}", one.name());
    bob.fill(".JoinRoomView #id", &alias).await?;
    bob.click(".JoinRoomView button.primary", "").await?;
    is_shown(&bob, "who brings the cake?").await?;
    say(&bob, "I do").await?;
    is_shown(&alice, "I do").await?;

    // Alice reacts to what Bob said, and he sees it.
    let react = "(() => {
        const said = [...document.querySelectorAll('.Timeline_message')]
            .find(it => it.textContent.includes('I do'));
        said.querySelector('.Timeline_messageOptions').click(); return true; })()";
    alice.eval(react).await?;
    alice.click(".quick-reactions button", "🎉").await?;
    let reacted = "document.querySelector('.Timeline_messageReactions button')
        ?.textContent.includes('🎉 1')";
    bob.until("a reaction", reacted).await?;

    // A picture goes from the one server to the other, to people who are signed in only.
    let file = picture(world.folder())?;
    let ask = in_menu(
        &alice,
        ".MessageComposer_input button.sendFile",
        "Send picture",
    );
    alice.choose(&file, ask).await?;
    let loaded = "[...document.querySelectorAll('.Timeline_message:not(.unsent) .media img')]
        .some(it => it.complete && it.naturalWidth === 64 && it.naturalHeight === 48)";
    bob.until("the picture", loaded).await?;

    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("screenshots");
    std::fs::create_dir_all(&folder)?;
    let kept = folder.join("hydrogen.png");
    bob.screenshot(&kept).await?;
    println!("screenshot kept: {}", kept.display());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_people_meet_in_their_browsers() -> anyhow::Result<()> {
    let (Some(program), Some(client)) = (browser(), client()) else {
        eprintln!(
            "NOT run: no browser, or no Hydrogen; `make test` installs both where npm can be reached"
        );
        return Ok(());
    };
    let world = World::new("web-client")?;
    tokio::time::timeout(PATIENCE, talk(&world, &program, client))
        .await
        .context("it takes too long")??;
    world.passed();
    Ok(())
}
