//! A homeserver as a process that can be stopped, killed and started again.

use std::{
    fmt,
    fs::{File, OpenOptions},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    str::FromStr,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use crate::{Client, Port, client::CallError};

/// A server that has not answered after this time never will.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at whether something has happened.
const STEP: Duration = Duration::from_millis(10);
/// Lines of a log that an error shows.
const LINES: usize = 30;

/// Which homeserver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// This project's.
    Resuni,
    /// The reference implementation.
    Synapse,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resuni => "Resuni",
            Self::Synapse => "Synapse",
        })
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "resuni" => Ok(Self::Resuni),
            "synapse" => Ok(Self::Synapse),
            _ => Err(format!("`{name}` is neither `resuni` nor `synapse`")),
        }
    }
}

/// How a server is started.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, PathBuf)>,
}

/// A homeserver with its data. It is killed when this value is dropped.
#[derive(Debug)]
pub struct Server {
    pub(crate) kind: Kind,
    pub(crate) home: PathBuf,
    pub(crate) launch: Launch,
    pub(crate) client_port: Port,
    pub(crate) federation_port: Port,
    pub(crate) child: Option<Child>,
}

impl Server {
    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its server name, which is also its address for other servers.
    pub fn name(&self) -> String {
        format!("127.0.0.1:{}", self.federation_port.number())
    }

    /// Where clients reach it, over plain HTTP.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port.number())
    }

    /// The folder with its settings, data and log.
    pub fn home(&self) -> &std::path::Path {
        &self.home
    }

    /// The folder with its data.
    pub fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    /// The number of its process; an error if it is not running.
    pub fn pid(&self) -> anyhow::Result<u32> {
        let child = self.child.as_ref();
        Ok(child
            .with_context(|| format!("{} is not started", self.name()))?
            .id())
    }

    /// A client that nobody is signed in to.
    pub fn client(&self) -> anyhow::Result<Client> {
        Client::new(&self.url())
    }

    /// Starts the process and waits until it answers.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        if self.child.is_some() {
            bail!("{} runs already", self.name());
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())?;
        // Standard input stays open as long as the child value lives: Resuni ends with it, so that
        // a test that is killed leaves nothing behind.
        let child = self
            .command(&self.launch.arguments)
            .stdout(log.try_clone()?)
            .stderr(log)
            .stdin(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} does not start", self.launch.program.display()))?;
        self.child = Some(child);
        self.ready().await
    }

    async fn ready(&mut self) -> anyhow::Result<()> {
        let client = self.client()?;
        let begun = Instant::now();
        loop {
            match client.get("/_matrix/client/versions").await {
                Ok(_) => return Ok(()),
                Err(CallError::Connection(_)) => {}
                Err(error) => return Err(error.into()),
            }
            let ended = match &mut self.child {
                Some(child) => child.try_wait()?,
                None => bail!("{} is not started", self.name()),
            };
            if let Some(status) = ended {
                self.child = None;
                bail!(
                    "{} ended with {status}:\n{}",
                    self.name(),
                    self.last_lines()
                );
            }
            if begun.elapsed() > PATIENCE {
                bail!("{} does not answer:\n{}", self.name(), self.last_lines());
            }
            tokio::time::sleep(STEP).await;
        }
    }

    /// Asks the process to end (SIGTERM) and waits until it has. An error if it ended badly.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        Command::new("kill").arg(child.id().to_string()).status()?;
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                if !status.success() {
                    bail!(
                        "{} ended with {status}:\n{}",
                        self.name(),
                        self.last_lines()
                    );
                }
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                drop(child.kill());
                drop(child.wait());
                bail!("{} does not stop:\n{}", self.name(), self.last_lines());
            }
            tokio::time::sleep(STEP).await;
        }
    }

    /// Ends the process at once (SIGKILL), whatever it is doing.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            if let Some(status) = child.try_wait()? {
                bail!(
                    "{} had ended by itself with {status}:\n{}",
                    self.name(),
                    self.last_lines()
                );
            }
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Runs the server's own program with other arguments, in its folder, and waits for its end.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        self.command(&arguments)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("{} does not run", self.launch.program.display()))
    }

    fn command(&self, arguments: &[String]) -> Command {
        let mut command = Command::new(&self.launch.program);
        command.args(arguments).current_dir(&self.home);
        for (name, value) in &self.launch.environment {
            command.env(name, value);
        }
        command
    }

    fn log(&self) -> PathBuf {
        self.home.join("server.log")
    }

    fn last_lines(&self) -> String {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(LINES);
        lines.get(from..).unwrap_or_default().join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Writes a file of a server's folder.
pub(crate) fn write(path: PathBuf, text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    let mut file =
        File::create(&path).with_context(|| format!("{} can't be made", path.display()))?;
    file.write_all(text.as_bytes())?;
    Ok(())
}
