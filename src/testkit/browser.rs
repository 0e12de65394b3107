//! Chromium without a window, spoken to in its DevTools protocol over two pipes.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
    sync::{broadcast, oneshot},
};

/// How browsers are called that will do.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
/// More than this means that something is stuck.
const PATIENCE: Duration = Duration::from_secs(60);
/// Events of the browser that nobody has looked at yet.
const EVENTS: usize = 4_096;
/// Lines of a page's console that are kept.
const CONSOLE: usize = 200;

/// Where a browser is installed; none: there is none.
pub fn browser() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    BROWSERS
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
        .find(|file| file.is_file())
}

/// A browser that runs. It ends with this value.
pub struct Browser {
    /// Killed when it is dropped.
    _process: Child,
    requests: tokio::sync::Mutex<ChildStdin>,
    waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Value>>>>,
    next: AtomicU64,
    events: broadcast::Sender<Value>,
}

impl Browser {
    /// Starts one whose profile is in `folder`.
    pub fn start(program: &Path, folder: &Path) -> anyhow::Result<Arc<Self>> {
        // The protocol is spoken on the descriptors 3 and 4.
        let shell = r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1"#;
        let mut process = Command::new("sh")
            .args(["-c", shell])
            .arg(program)
            .args(["--headless", "--no-sandbox", "--disable-gpu"])
            .args(["--disable-dev-shm-usage", "--no-first-run"])
            .args(["--remote-debugging-pipe", "--window-size=1200,900"])
            .arg(format!("--user-data-dir={}", folder.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("the browser can't be started")?;
        let requests = process.stdin.take().context("no pipe to the browser")?;
        let answers = process.stdout.take().context("no pipe from the browser")?;
        let waiting = Arc::new(Mutex::new(HashMap::<u64, oneshot::Sender<Value>>::new()));
        let (events, _) = broadcast::channel(EVENTS);
        let (known, told) = (waiting.clone(), events.clone());
        tokio::spawn(async move {
            let mut answers = BufReader::new(answers);
            loop {
                let mut bytes = Vec::new();
                match answers.read_until(0, &mut bytes).await {
                    Ok(read) if read > 0 => {}
                    _ => return,
                }
                bytes.pop();
                let Ok(message) = serde_json::from_slice::<Value>(&bytes) else {
                    continue;
                };
                let asked = message["id"].as_u64();
                match asked.and_then(|id| known.lock().ok()?.remove(&id)) {
                    Some(asker) => drop(asker.send(message)),
                    None => drop(told.send(message)),
                }
            }
        });
        Ok(Arc::new(Self {
            _process: process,
            requests: tokio::sync::Mutex::new(requests),
            waiting,
            next: AtomicU64::new(1),
            events,
        }))
    }

    async fn call(
        &self,
        session: Option<&str>,
        method: &str,
        params: Value,
    ) -> anyhow::Result<Value> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut request = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = session {
            request["sessionId"] = json!(session);
        }
        let (answered, answer) = oneshot::channel();
        if let Ok(mut waiting) = self.waiting.lock() {
            waiting.insert(id, answered);
        }
        let mut bytes = serde_json::to_vec(&request)?;
        bytes.push(0);
        self.requests.lock().await.write_all(&bytes).await?;
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        let answer = answer.with_context(|| format!("no answer to {method}"))??;
        match answer.get("error") {
            Some(error) => bail!("{method}: {error}"),
            None => Ok(answer["result"].clone()),
        }
    }

    /// Opens a page in a profile of its own, as if in another browser.
    pub async fn page(self: &Arc<Self>, url: &str) -> anyhow::Result<Page> {
        let profile = self.call(None, "Target.createBrowserContext", json!({}));
        let profile = profile.await?["browserContextId"].clone();
        let target = json!({ "url": "about:blank", "browserContextId": profile });
        let target = self.call(None, "Target.createTarget", target).await?;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = self.call(None, "Target.attachToTarget", attach).await?;
        let session = attached["sessionId"].as_str().context("no session")?;
        let page = Page {
            browser: self.clone(),
            session: session.to_owned(),
            console: Arc::default(),
        };
        page.listen();
        for domain in ["Page.enable", "Runtime.enable", "DOM.enable"] {
            page.call(domain, json!({})).await?;
        }
        page.call("Page.navigate", json!({ "url": url })).await?;
        Ok(page)
    }
}

/// A page in a browser.
pub struct Page {
    browser: Arc<Browser>,
    session: String,
    /// What it said last.
    console: Arc<Mutex<Vec<String>>>,
}

impl Page {
    async fn call(&self, method: &str, params: Value) -> anyhow::Result<Value> {
        self.browser.call(Some(&self.session), method, params).await
    }

    /// Keeps what the page writes to its console, for when something is wrong.
    fn listen(&self) {
        let mut events = self.browser.events.subscribe();
        let (session, console) = (self.session.clone(), self.console.clone());
        tokio::spawn(async move {
            loop {
                let event = match events.recv().await {
                    Ok(event) => event,
                    Err(broadcast::error::RecvError::Lagged(_)) => continue,
                    Err(broadcast::error::RecvError::Closed) => return,
                };
                let said = match event["method"].as_str() {
                    Some("Runtime.consoleAPICalled") => &event["params"]["args"],
                    Some("Runtime.exceptionThrown") => &event["params"]["exceptionDetails"],
                    _ => continue,
                };
                if event["sessionId"] == session.as_str()
                    && let Ok(mut console) = console.lock()
                    && console.len() < CONSOLE
                {
                    console.push(said.to_string());
                }
            }
        });
    }

    /// What an expression comes to, as JSON; promises are waited for.
    pub async fn eval(&self, expression: &str) -> anyhow::Result<Value> {
        let params = json!({ "expression": expression, "awaitPromise": true,
            "returnByValue": true, "userGesture": true });
        let answer = self.call("Runtime.evaluate", params).await?;
        match answer.get("exceptionDetails") {
            Some(wrong) => bail!("{expression}: {wrong}"),
            None => Ok(answer["result"]["value"].clone()),
        }
    }

    /// Waits until an expression is true, or something.
    pub async fn until(&self, what: &str, expression: &str) -> anyhow::Result<Value> {
        let begun = Instant::now();
        loop {
            let value = self.eval(expression).await?;
            if !matches!(value, Value::Null | Value::Bool(false)) {
                return Ok(value);
            }
            if begun.elapsed() > PATIENCE {
                let said = self.console.lock().map(|said| said.join("\n"));
                let text = self.eval("document.body.innerText").await?;
                bail!(
                    "not on the page: {what}\n-- it shows:\n{text}\n-- it said:\n{}",
                    said.unwrap_or_default()
                );
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Clicks the first element of a CSS selector whose text has `text`, as soon as there is one.
    pub async fn click(&self, selector: &str, text: &str) -> anyhow::Result<()> {
        let (selector, text) = (json!(selector), json!(text));
        let click = format!(
            "(() => {{ const found = [...document.querySelectorAll({selector})]
                .find(it => !it.disabled && it.textContent.includes({text}));
                found?.click(); return !!found; }})()"
        );
        let what = format!("{selector} {text}");
        self.until(&what, &click).await.map(drop)
    }

    /// Types into the first element of a CSS selector, in place of what is there.
    pub async fn fill(&self, selector: &str, text: &str) -> anyhow::Result<()> {
        let name = json!(selector);
        let focus = format!(
            "(() => {{ const found = document.querySelector({name});
                found?.focus(); found?.select?.(); return !!found && !found.disabled; }})()"
        );
        self.until(selector, &focus).await?;
        self.call("Input.insertText", json!({ "text": text }))
            .await?;
        let changed = format!(
            "document.querySelector({name}).dispatchEvent(new Event('change', {{ bubbles: true }}))"
        );
        self.eval(&changed).await.map(drop)
    }

    /// Does something that makes the page ask for a file, and gives it this one.
    pub async fn choose(
        &self,
        file: &Path,
        ask: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        let mut events = self.browser.events.subscribe();
        let intercept = json!({ "enabled": true });
        self.call("Page.setInterceptFileChooserDialog", intercept)
            .await?;
        ask.await?;
        let asked = async {
            loop {
                let event = events.recv().await?;
                if event["method"] == "Page.fileChooserOpened"
                    && event["sessionId"] == self.session.as_str()
                {
                    return anyhow::Ok(event["params"]["backendNodeId"].clone());
                }
            }
        };
        let node = tokio::time::timeout(PATIENCE, asked).await;
        let node = node.context("the page does not ask for a file")??;
        let files = json!({ "files": [file], "backendNodeId": node });
        self.call("DOM.setFileInputFiles", files).await.map(drop)
    }

    /// Keeps what the page looks like, as a PNG.
    pub async fn screenshot(&self, file: &Path) -> anyhow::Result<()> {
        let taken = self.call("Page.captureScreenshot", json!({})).await?;
        let data = taken["data"].as_str().context("no picture")?;
        std::fs::write(file, STANDARD.decode(data)?)?;
        Ok(())
    }
}
