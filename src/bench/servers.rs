//! Starting homeservers as processes: two of a kind that federate over TLS on loopback.

use std::{
    fmt, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::ValueEnum;

use crate::{api::Api, tls};

/// The shared secret of every server started here.
pub const SECRET: &str = "bench";

/// Which homeserver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// This project's server.
    Resuni,
    /// Synapse on SQLite.
    Synapse,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Resuni => "Resuni",
            Kind::Synapse => "Synapse",
        })
    }
}

/// One running server.
pub struct Server {
    /// `127.0.0.1:port`: its server name and federation address.
    pub name: String,
    /// Where its data lies.
    pub data: PathBuf,
    /// An anonymous client.
    pub api: Api,
    child: Child,
}

impl Server {
    /// The process to measure.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks the server to stop and waits for it (20 s, then it is killed).
    #[expect(
        clippy::disallowed_methods,
        reason = "the load has ended: nobody is kept waiting"
    )]
    pub fn stop(&mut self) -> anyhow::Result<()> {
        Command::new("kill").arg(self.pid().to_string()).status()?;
        let begun = Instant::now();
        while self.child.try_wait()?.is_none() {
            if begun.elapsed() > Duration::from_secs(20) {
                self.child.kill()?;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Two servers of a kind.
pub struct Pair {
    /// What they are.
    pub kind: Kind,
    /// What the first said its version is.
    pub version: String,
    /// The first, on which most loads run.
    pub one: Server,
    /// The second, to federate with.
    pub two: Server,
    // Held for its Drop, which removes the folder.
    _dir: Option<tempfile::TempDir>,
}

impl Pair {
    /// Starts both and waits until they answer.
    pub async fn start(
        kind: Kind,
        resuni: &Path,
        python: &Path,
        keep: bool,
    ) -> anyhow::Result<Pair> {
        let dir = tempfile::Builder::new()
            .prefix("bench-")
            .tempdir_in(scratch()?)?;
        let path = dir.path().to_owned();
        let dir = if keep {
            eprintln!("   working folder: {}", dir.keep().display());
            None
        } else {
            Some(dir)
        };
        tls::write(&path)?;
        let mut servers = Vec::new();
        for n in ["one", "two"] {
            let home = path.join(n);
            fs::create_dir_all(home.join("data"))?;
            let (client_port, federation_port) = (free_port()?, free_port()?);
            let (program, arguments) = match kind {
                Kind::Resuni => {
                    fs::write(
                        home.join("resuni.toml"),
                        resuni_config(&path, client_port, federation_port),
                    )?;
                    (
                        resuni.to_owned(),
                        vec![
                            "serve".to_owned(),
                            "--config".to_owned(),
                            "resuni.toml".to_owned(),
                        ],
                    )
                }
                Kind::Synapse => {
                    fs::write(home.join("log.yaml"), SYNAPSE_LOG)?;
                    fs::write(
                        home.join("homeserver.yaml"),
                        synapse_config(&path, &home, client_port, federation_port),
                    )?;
                    let run = [
                        "-m",
                        "synapse.app.homeserver",
                        "-c",
                        "homeserver.yaml",
                        "--generate-keys",
                    ];
                    let status = Command::new(python)
                        .args(run)
                        .current_dir(&home)
                        .stdout(Stdio::null())
                        .status();
                    if !status
                        .with_context(|| format!("{} does not run", python.display()))?
                        .success()
                    {
                        bail!("Synapse could not write its keys");
                    }
                    (
                        python.to_owned(),
                        run.iter().take(4).map(|s| (*s).to_owned()).collect(),
                    )
                }
            };
            let log = fs::File::create(home.join("server.log"))?;
            let program = if program.components().count() > 1 {
                std::path::absolute(&program)?
            } else {
                program
            };
            let child = Command::new(&program)
                .args(arguments)
                .current_dir(&home)
                .env("SSL_CERT_FILE", path.join("ca.crt"))
                .stdout(log.try_clone()?)
                .stderr(log)
                .stdin(Stdio::null())
                .spawn()
                .with_context(|| format!("{} does not start", program.display()))?;
            let api = Api::new(&format!("http://127.0.0.1:{client_port}"))?;
            servers.push(Server {
                name: format!("127.0.0.1:{federation_port}"),
                data: home.join("data"),
                api,
                child,
            });
        }
        let mut version = String::new();
        for server in &servers {
            version = ready(server).await?;
        }
        let (two, one) = (
            servers.pop().context("no server")?,
            servers.pop().context("no server")?,
        );
        Ok(Pair {
            kind,
            version,
            one,
            two,
            _dir: dir,
        })
    }
}

/// Waits for the first good answer and gives the server's version.
async fn ready(server: &Server) -> anyhow::Result<String> {
    let begun = Instant::now();
    loop {
        if server
            .api
            .call(reqwest::Method::GET, "/_matrix/client/versions", None)
            .await
            .is_ok()
        {
            let path = "/_matrix/federation/v1/version";
            let answer = server
                .api
                .call(reqwest::Method::GET, path, None)
                .await
                .unwrap_or_default();
            return Ok(answer["server"]["version"]
                .as_str()
                .unwrap_or("unknown version")
                .to_owned());
        }
        if begun.elapsed() > Duration::from_secs(60) {
            bail!(
                "{} is not up after a minute; its log is in {}",
                server.name,
                server.data.with_file_name("server.log").display()
            );
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A folder on the disk the project lies on: `/tmp` may be memory.
fn scratch() -> anyhow::Result<PathBuf> {
    let dir = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from("target"), PathBuf::from)
        .join("bench");
    fs::create_dir_all(&dir)?;
    Ok(std::path::absolute(dir)?)
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn resuni_config(dir: &Path, client_port: u16, federation_port: u16) -> String {
    let dir = dir.display();
    format!(
        r#"server_name = "127.0.0.1:{federation_port}"
public_baseurl = "http://127.0.0.1:{client_port}"
data_dir = "data"
[[listeners]]
address = "127.0.0.1"
port = {client_port}
[[listeners]]
address = "127.0.0.1"
port = {federation_port}
tls_certificate = "{dir}/tls.crt"
tls_private_key = "{dir}/tls.key"
[registration]
enabled = true
shared_secret = "{SECRET}"
[password_hashing]
cost = "minimum"
[rate_limits]
enabled = false
[rooms]
default_version = "11"
[federation]
extra_ca_files = ["{dir}/ca.crt"]
[outbound]
deny_ip_ranges = []
[log]
level = "warn"
"#
    )
}

const SYNAPSE_LOG: &str = "version: 1\nroot: {level: WARNING}\ndisable_existing_loggers: false\n";

fn synapse_config(dir: &Path, home: &Path, client_port: u16, federation_port: u16) -> String {
    let (dir, home) = (dir.display(), home.display());
    let unlimited = "{per_second: 100000, burst_count: 100000}";
    format!(
        r#"server_name: "127.0.0.1:{federation_port}"
public_baseurl: "http://127.0.0.1:{client_port}/"
pid_file: {home}/pid
log_config: {home}/log.yaml
report_stats: false
media_store_path: {home}/data/media
signing_key_path: {home}/signing.key
default_room_version: "11"
database: {{name: sqlite3, args: {{database: {home}/data/homeserver.db}}}}
tls_certificate_path: {dir}/tls.crt
tls_private_key_path: {dir}/tls.key
federation_custom_ca_list: [{dir}/ca.crt]
listeners:
  - {{port: {client_port}, bind_addresses: ["127.0.0.1"], type: http, resources: [{{names: [client, federation]}}]}}
  - {{port: {federation_port}, bind_addresses: ["127.0.0.1"], type: http, tls: true, resources: [{{names: [federation]}}]}}
registration_shared_secret: {SECRET}
bcrypt_rounds: 4
trusted_key_servers: []
ip_range_blacklist: []
federation_ip_range_blacklist: []
presence: {{enabled: false}}
rc_message: {unlimited}
rc_registration: {unlimited}
rc_admin_redaction: {unlimited}
rc_login: {{address: {unlimited}, account: {unlimited}, failed_attempts: {unlimited}}}
rc_joins: {{local: {unlimited}, remote: {unlimited}}}
rc_joins_per_room: {unlimited}
rc_room_creation: {unlimited}
rc_federation: {{window_size: 1000, sleep_limit: 100000, reject_limit: 100000, concurrent: 1000}}
"#
    )
}
