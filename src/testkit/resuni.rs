//! Resuni as a process.

use std::path::PathBuf;

use anyhow::{Context, bail};

use crate::{
    Kind, Port, Server, World,
    process::{Launch, write},
    world::built,
};

/// The shared secret of every server started here.
pub(crate) const SECRET: &str = "testkit";

pub(crate) fn server(world: &World, name: &str) -> anyhow::Result<Server> {
    let program = program()?;
    let home = world.folder().join(name);
    std::fs::create_dir_all(&home)?;
    let (client_port, federation_port) = (Port::take()?, Port::take()?);
    let settings = settings(world, client_port.number(), federation_port.number());
    write(home.join("resuni.toml"), &settings)?;
    let arguments = ["serve", "--config", "resuni.toml", "--exit-on-stdin-eof"];
    Ok(Server {
        kind: Kind::Resuni,
        home,
        launch: Launch {
            program,
            arguments: arguments.map(str::to_owned).to_vec(),
            environment: Vec::new(),
        },
        client_port,
        federation_port,
        child: None,
    })
}

/// `RESUNI_BIN`, or what Cargo built beside this program.
fn program() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("RESUNI_BIN") {
        return Ok(std::path::absolute(path)?);
    }
    let path = built()?.join("resuni");
    if !path.exists() {
        bail!(
            "{} is missing. Build it first (cargo build -p resuni --bin resuni), \
             or name another in RESUNI_BIN.",
            path.display()
        );
    }
    Ok(path)
}

fn settings(world: &World, client_port: u16, federation_port: u16) -> String {
    let authority = world.authority();
    let (root, certificate, key) = (
        authority.root(),
        authority.certificate(),
        authority.private_key(),
    );
    let (root, certificate, key) = (root.display(), certificate.display(), key.display());
    let log_level = world.log_level();
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
tls_certificate = "{certificate}"
tls_private_key = "{key}"
[registration]
enabled = true
shared_secret = "{SECRET}"
[password_hashing]
cost = "minimum"
[rate_limits]
enabled = false
[federation]
extra_ca_files = ["{root}"]
[outbound]
deny_ip_ranges = []
[log]
level = "{log_level}"
"#
    )
}

impl Server {
    /// Adds tables to the settings of a Resuni that is stopped.
    pub fn add_settings(&self, tables: &str) -> anyhow::Result<()> {
        let path = self.home.join("resuni.toml");
        let settings = std::fs::read_to_string(&path)?;
        write(path, &format!("{settings}{tables}"))
    }

    /// Sets a variable for the next start.
    pub fn set_environment(&mut self, key: &str, value: &str) {
        self.launch.environment.push((key.to_owned(), value.into()));
    }

    /// Whether every row of the stopped server's database agrees with every other: an error that
    /// shows what the doctor found, if not.
    pub fn doctor(&self) -> anyhow::Result<()> {
        self.ask_the_doctor(&["--database"]).map(drop)
    }

    /// The digest of a room's state (MSC4500) on the stopped server.
    pub fn digest(&self, room: &str) -> anyhow::Result<String> {
        let answer = self.ask_the_doctor(&["--room", room])?;
        let digest = answer
            .lines()
            .find_map(|line| line.strip_prefix("state digest: "));
        Ok(digest
            .with_context(|| format!("no digest in: {answer}"))?
            .to_owned())
    }

    /// What `resuni room check` says about a room of a server that runs.
    pub fn check_room(&self, room: &str) -> anyhow::Result<String> {
        let output = self.run(&["room", "check", room, "--config", "resuni.toml"])?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(said)
    }

    fn ask_the_doctor(&self, what: &[&str]) -> anyhow::Result<String> {
        if self.kind != Kind::Resuni || self.child.is_some() {
            bail!("the doctor looks at a Resuni that is stopped");
        }
        let output = self.run(&[&["doctor", "--config", "resuni.toml"], what].concat())?;
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!(
                "the doctor of {} says ({}):\n{answer}{}",
                self.name(),
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(answer)
    }
}
