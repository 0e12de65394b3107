//! Reading the settings, and `resuni config check`.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use resuni_config::{Config, Loaded};

use crate::cli::SettingsFile;

/// Reads the settings, the environment over them, and checks what only the binary knows.
pub(crate) fn load(file: &SettingsFile) -> Result<Loaded> {
    // A variable that is not UTF-8 is none of ours.
    let variables = std::env::vars_os()
        .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    let loaded = resuni_config::load(file.config.as_deref(), variables)
        .context("The settings can't be used.")?;
    check_room_version(&loaded.config)?;
    Ok(loaded)
}

fn check_room_version(config: &Config) -> Result<()> {
    let version = config.rooms.default_version.as_str();
    if !resuni_dag::SUPPORTED.contains(&version) {
        bail!(
            "rooms.default_version: version {version} is not built. Use one of {}.",
            resuni_dag::SUPPORTED.join(", ")
        );
    }
    Ok(())
}

/// `resuni config check`
pub(crate) fn check(file: &SettingsFile) -> Result<ExitCode> {
    let loaded = load(file)?;
    for warning in &loaded.warnings {
        println!("warning: {warning}");
    }
    let config = &loaded.config;
    println!("The settings are good.");
    println!("  server name  {}", config.server_name);
    println!("  base URL     {}", config.base_url());
    println!("  data         {}", config.data_dir.display());
    for listener in config.listeners() {
        let scheme = if listener.tls_certificate.is_some() {
            "https"
        } else {
            "http"
        };
        let address = std::net::SocketAddr::new(listener.address, listener.port);
        println!("  listens on   {scheme}://{address}");
    }
    Ok(ExitCode::SUCCESS)
}
