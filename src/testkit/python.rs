//! Python, for servers and bridges that are written in it.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail};

/// The interpreter of the environment `venv`, which `packaging/setup.sh` makes for `purpose`; now, if it is missing.
///
/// # Errors
/// When it can't be made.
pub fn python(venv: &str, purpose: &str) -> anyhow::Result<PathBuf> {
    let home = std::env::var_os("HOME").context("HOME is not set")?;
    let home = Path::new(&home).join(".cache/resuni").join(venv);
    let python = home.join("bin/python");
    // It does nothing where everything is there, and knows what was cut short.
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/setup.sh");
    let status = Command::new(&script)
        .arg(purpose)
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("{} does not run", script.display()))?;
    if !status.success() {
        bail!("{purpose} can't be installed");
    }
    Ok(python)
}
