//! Synapse as a process, on SQLite.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, bail};

use crate::{
    Kind, Port, Server, World,
    process::{Launch, write},
    python,
    resuni::SECRET,
};

const LOG: &str = "version: 1
formatters: {line: {format: '%(asctime)s %(levelname)s %(name)s %(message)s'}}
handlers: {console: {class: logging.StreamHandler, formatter: line}}
root: {level: LEVEL, handlers: [console]}
disable_existing_loggers: false
";

pub(crate) fn server(world: &World, name: &str) -> anyhow::Result<Server> {
    let program = python("synapse-venv", "synapse")?;
    let home = world.folder().join(name);
    std::fs::create_dir_all(home.join("data"))?;
    let (client_port, federation_port) = (Port::take()?, Port::take()?);
    let log = LOG.replace(
        "LEVEL",
        match world.log_level() {
            "warn" => "WARNING",
            _ => "INFO",
        },
    );
    write(home.join("log.yaml"), &log)?;
    let settings = settings(world, &home, client_port.number(), federation_port.number());
    write(home.join("homeserver.yaml"), &settings)?;
    let arguments = ["-m", "synapse.app.homeserver", "-c", "homeserver.yaml"];
    let keys = Command::new(&program)
        .args(arguments)
        .arg("--generate-keys")
        .current_dir(&home)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{} does not run", program.display()))?;
    if !keys.status.success() {
        let text = String::from_utf8_lossy(&keys.stderr);
        bail!("Synapse can't write its keys: {text}");
    }
    Ok(Server {
        kind: Kind::Synapse,
        home,
        launch: Launch {
            program,
            arguments: arguments.map(str::to_owned).to_vec(),
            environment: vec![("SSL_CERT_FILE".to_owned(), world.authority().root())],
        },
        client_port,
        federation_port,
        child: None,
    })
}

fn settings(world: &World, home: &Path, client_port: u16, federation_port: u16) -> String {
    let authority = world.authority();
    let (root, certificate, key) = (
        authority.root(),
        authority.certificate(),
        authority.private_key(),
    );
    let (root, certificate, key) = (root.display(), certificate.display(), key.display());
    let home = home.display();
    let unlimited = "{per_second: 100000, burst_count: 100000}";
    format!(
        r#"server_name: "127.0.0.1:{federation_port}"
public_baseurl: "http://127.0.0.1:{client_port}/"
pid_file: {home}/pid
log_config: {home}/log.yaml
report_stats: false
media_store_path: {home}/data/media
signing_key_path: {home}/signing.key
database: {{name: sqlite3, args: {{database: {home}/data/homeserver.db}}}}
tls_certificate_path: {certificate}
tls_private_key_path: {key}
federation_custom_ca_list: [{root}]
listeners:
  - {{port: {client_port}, bind_addresses: ["127.0.0.1"], type: http, resources: [{{names: [client, federation]}}]}}
  - {{port: {federation_port}, bind_addresses: ["127.0.0.1"], type: http, tls: true, resources: [{{names: [federation]}}]}}
registration_shared_secret: {SECRET}
bcrypt_rounds: 4
trusted_key_servers: []
ip_range_blacklist: []
federation_ip_range_blacklist: []
presence: {{enabled: false}}
federation: {{destination_min_retry_interval: 1s, destination_max_retry_interval: 2s}}
rc_message: {unlimited}
rc_registration: {unlimited}
rc_login: {{address: {unlimited}, account: {unlimited}, failed_attempts: {unlimited}}}
rc_joins: {{local: {unlimited}, remote: {unlimited}}}
rc_joins_per_room: {unlimited}
rc_invites: {{per_room: {unlimited}, per_user: {unlimited}, per_issuer: {unlimited}}}
rc_room_creation: {unlimited}
rc_federation: {{window_size: 1000, sleep_limit: 100000, reject_limit: 100000, concurrent: 1000}}
"#
    )
}
