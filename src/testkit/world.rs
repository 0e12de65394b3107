//! The folder in which one scenario runs.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::{Authority, Kind, Server};

/// A folder, a certificate authority and what is made with them. The folder goes away with
/// [`World::passed`]; a scenario that ends any other way leaves it, with settings, data and logs.
#[derive(Debug)]
pub struct World {
    folder: PathBuf,
    authority: Authority,
    log_level: &'static str,
    passed: bool,
}

impl World {
    /// A new one under the target folder: `/tmp` may be memory, and syncing to it means nothing.
    pub fn new(scenario: &str) -> anyhow::Result<Self> {
        let parent = built()?
            .parent()
            .context("no target folder")?
            .join("testkit");
        std::fs::create_dir_all(&parent)?;
        let folder = tempfile::Builder::new()
            .prefix(&format!("{scenario}-"))
            .tempdir_in(&parent)?
            .keep();
        let authority = Authority::create(&folder)?;
        Ok(Self {
            folder,
            authority,
            log_level: "info",
            passed: false,
        })
    }

    /// Servers made from here on log warnings only: for measuring.
    pub fn quiet(mut self) -> Self {
        self.log_level = "warn";
        self
    }

    /// From which level on servers log: `info` or `warn`.
    pub(crate) fn log_level(&self) -> &'static str {
        self.log_level
    }

    /// Where everything lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The servers' certificates.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// A Resuni that is up. Its data lie in a folder of this name.
    pub async fn resuni(&self, name: &str) -> anyhow::Result<Server> {
        let mut server = crate::resuni::server(self, name)?;
        server.start().await?;
        Ok(server)
    }

    /// A Resuni that is ready to be started, for those who have more to set.
    pub fn prepare_resuni(&self, name: &str) -> anyhow::Result<Server> {
        crate::resuni::server(self, name)
    }

    /// A Synapse that is up.
    pub async fn synapse(&self, name: &str) -> anyhow::Result<Server> {
        let mut server = crate::synapse::server(self, name)?;
        server.start().await?;
        Ok(server)
    }

    /// A server of a kind that is up.
    pub async fn server(&self, kind: Kind, name: &str) -> anyhow::Result<Server> {
        match kind {
            Kind::Resuni => self.resuni(name).await,
            Kind::Synapse => self.synapse(name).await,
        }
    }

    /// All went well: nothing needs to be kept.
    pub fn passed(mut self) {
        self.passed = true;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.passed {
            drop(std::fs::remove_dir_all(&self.folder));
        } else {
            eprintln!(
                "settings, data and logs are kept in {}",
                self.folder.display()
            );
        }
    }
}

/// Where Cargo puts what it builds, `target/debug` say, seen from the running program.
pub(crate) fn built() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("this program's own path is not known")?;
    let folder = program.parent().context("no folder")?;
    let folder = match folder.file_name().and_then(|name| name.to_str()) {
        // Tests, and examples.
        Some("deps" | "examples") => folder.parent().context("no folder above deps")?,
        _ => folder,
    };
    Ok(folder.to_owned())
}
