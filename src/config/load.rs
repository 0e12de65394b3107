//! From a file and the environment to a [`Config`].

use std::path::{Path, PathBuf};

use strsim::damerau_levenshtein;
use toml::{Table, Value};

use crate::describe::{Described, Field, Shape};
use crate::error::{ConfigError, Problem};
use crate::{Config, environment};

/// Where settings came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A file, and the environment over it.
    File(PathBuf),
    /// No file, but a server name in the environment: the defaults, and the environment over them.
    Environment,
    /// Neither: [`Config::local`], and the environment over it.
    Local,
}

/// Settings that were read and found usable.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings; paths in it no longer depend on where the file is.
    pub config: Config,
    /// Where they came from.
    pub origin: Origin,
    /// Sentences for the operator: usable, but perhaps not meant.
    pub warnings: Vec<String>,
}

/// Reads the settings: the file if there is one, and `variables` over it.
///
/// # Errors
/// When the file can't be read or is not TOML, a key is unknown, or a value can't be used.
pub fn load(
    file: Option<&Path>,
    variables: impl Iterator<Item = (String, String)>,
) -> Result<Loaded, ConfigError> {
    let fields = Config::fields();
    let variables: Vec<(String, String)> = variables.collect();
    let (origin, mut table) = match file {
        Some(path) => (Origin::File(path.to_owned()), read(path)?),
        None if variables
            .iter()
            .any(|(name, _)| name == "RESUNI_SERVER_NAME") =>
        {
            (Origin::Environment, Table::new())
        }
        None => (Origin::Local, local()?),
    };
    let mut problems = Vec::new();
    unknown_keys(&table, &fields, "", &mut problems);
    problems.extend(environment::overlay(
        &mut table,
        &fields,
        variables.into_iter(),
    ));
    if !table.contains_key("server_name") {
        problems.push(Problem::new(
            "server_name",
            "it is missing.",
            "Write server_name = \"example.org\" with the name of your server.",
        ));
    }
    if !problems.is_empty() {
        return Err(ConfigError::Problems(problems));
    }
    let mut config: Config =
        serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
            let path = error.path().to_string();
            ConfigError::Problems(vec![bad_value(&fields, &path, error.inner())])
        })?;
    if let Some(folder) = file.and_then(Path::parent) {
        config.resolve_paths(folder);
    }
    let problems = config.check();
    if !problems.is_empty() {
        return Err(ConfigError::Problems(problems));
    }
    let warnings = config.warnings();
    Ok(Loaded {
        config,
        origin,
        warnings,
    })
}

fn read(path: &Path) -> Result<Table, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    toml::from_str(&text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        message: error.to_string(),
    })
}

fn local() -> Result<Table, ConfigError> {
    Table::try_from(Config::local()).map_err(|error| {
        ConfigError::Problems(vec![Problem::new("the defaults", error.to_string(), "")])
    })
}

/// What a key is for, as the remedy of a value that can't be used.
pub(crate) fn meaning(field: &Field) -> String {
    let doc = field
        .doc
        .iter()
        .map(|line| line.trim())
        .collect::<Vec<_>>()
        .join(" ");
    match &field.shape {
        Shape::Value { sample, .. } | Shape::Required { sample } => {
            format!("It is written like `{} = {sample}`. {doc}", field.key)
        }
        Shape::Table(_) | Shape::Tables(_) => doc,
    }
}

fn bad_value(fields: &[Field], path: &str, error: &toml::de::Error) -> Problem {
    let what = error.message().trim().trim_end_matches('.');
    let remedy = describe(fields, path).map(meaning).unwrap_or_default();
    Problem::new(path, format!("{what}."), remedy)
}

/// The description of a key by its path, such as `listeners[0].port`.
fn describe<'a>(fields: &'a [Field], path: &str) -> Option<&'a Field> {
    let (first, rest) = path
        .split_once('.')
        .map_or((path, None), |(a, b)| (a, Some(b)));
    let key = first.split('[').next().unwrap_or(first);
    let field = fields.iter().find(|f| f.key == key)?;
    match (&field.shape, rest) {
        (Shape::Table(inner) | Shape::Tables(inner), Some(rest)) => {
            describe(inner, rest).or(Some(field))
        }
        _ => Some(field),
    }
}

fn unknown_keys(table: &Table, fields: &[Field], prefix: &str, problems: &mut Vec<Problem>) {
    for (key, value) in table {
        let name = format!("{prefix}{key}");
        let Some(field) = fields.iter().find(|f| f.key == key) else {
            problems.push(Problem::new(
                name,
                "there is no such setting.",
                nearest(key, prefix),
            ));
            continue;
        };
        match (&field.shape, value) {
            (Shape::Table(inner), Value::Table(table)) => {
                unknown_keys(table, inner, &format!("{name}."), problems);
            }
            (Shape::Tables(inner), Value::Array(list)) => {
                for table in list.iter().filter_map(Value::as_table) {
                    unknown_keys(table, inner, &format!("{name}."), problems);
                }
            }
            _ => {}
        }
    }
}

/// The known key most like an unknown one, by its full name first, so that a key in the wrong
/// section is found where it belongs.
fn nearest(key: &str, prefix: &str) -> String {
    let mut best: Option<(usize, String)> = None;
    let mut offer = |candidate: &str, full: &str| {
        let near = if full.starts_with(prefix) && !full[prefix.len()..].contains('.') {
            0
        } else {
            1
        };
        let distance = 2 * damerau_levenshtein(candidate, key) + near;
        if best.as_ref().is_none_or(|(d, _)| distance < *d) {
            best = Some((distance, full.to_owned()));
        }
    };
    for (full, _) in crate::keys() {
        let mut parts: Vec<&str> = full.split('.').collect();
        while let Some(last) = parts.last().copied() {
            offer(last, &parts.join("."));
            parts.pop();
        }
    }
    best.map_or_else(String::new, |(_, full)| format!("The nearest is {full}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resuni.toml");
        std::fs::write(&path, text).unwrap();
        let variables = variables
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        load(Some(&path), variables)
            .map(|l| l.config)
            .map_err(|e| e.to_string())
    }

    /// The names that are fixed: they are in files people already have.
    #[test]
    fn the_agreed_names_are_read() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["tls.crt", "tls.key", "ca.crt", "bridge.yaml"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let path = folder.path().join("c.toml");
        let text = r#"
            server_name = "127.0.0.1:8448"
            public_baseurl = "https://127.0.0.1:8448"
            data_dir = "data"
            [[listeners]]
            address = "127.0.0.1"
            port = 8448
            tls_certificate = "tls.crt"
            tls_private_key = "tls.key"
            [registration]
            enabled = true
            require_token = false
            guests = true
            shared_secret = "secret"
            [password_hashing]
            cost = "minimum"
            [rate_limits]
            enabled = true
            [rooms]
            default_version = "12"
            [federation]
            enabled = true
            mode = "open"
            extra_ca_files = ["ca.crt"]
            destinations = { hs2 = "127.0.0.1:14321" }
            [outbound]
            deny_ip_ranges = []
            [appservices]
            config_files = ["bridge.yaml"]
            [log]
            level = "info"
            format = "text"
        "#;
        std::fs::write(&path, text).unwrap();
        let config = load(Some(&path), std::iter::empty()).unwrap().config;
        assert_eq!(config.data_dir, folder.path().join("data"));
        assert_eq!(
            config.listeners[0].tls_private_key,
            Some(folder.path().join("tls.key"))
        );
        assert_eq!(config.federation.destinations.len(), 1);
        assert!(config.outbound.deny_ip_ranges.is_empty());
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let error = from(
            "server_name = \"a.org\"\n[federation]\nenabeld = true\n",
            &[],
        )
        .unwrap_err();
        assert_eq!(
            error,
            "federation.enabeld: there is no such setting. The nearest is federation.enabled."
        );
        let error = from(
            "server_name = \"a.org\"\n[federatoin]\nenabled = true\n",
            &[],
        )
        .unwrap_err();
        assert!(
            error.contains("federatoin") && error.contains("nearest is federation"),
            "{error}"
        );
        let error = from("server_name = \"a.org\"\ndefault_version = \"11\"\n", &[]).unwrap_err();
        assert!(
            error.contains("nearest is rooms.default_version"),
            "{error}"
        );
    }

    #[test]
    fn a_bad_value_names_its_key_and_a_remedy() {
        let error = from(
            "server_name = \"a.org\"\n[federation]\nmode = \"closed\"\n",
            &[],
        )
        .unwrap_err();
        assert!(
            error.starts_with("federation.mode: ") && error.contains("consortium"),
            "{error}"
        );
        let error = from(
            "server_name = \"a.org\"\n[[listeners]]\nport = 99999\n",
            &[],
        )
        .unwrap_err();
        assert!(
            error.starts_with("listeners[0].port: ") && error.contains("8448"),
            "{error}"
        );
        let error = from("server_name = \"a b\"\n", &[]).unwrap_err();
        assert!(error.starts_with("server_name: "), "{error}");
        let error = from("[log]\nlevel = \"info\"\n", &[]).unwrap_err();
        assert!(error.starts_with("server_name: it is missing."), "{error}");
        let error = from("server_name = \n", &[]).unwrap_err();
        assert!(error.contains("line 1"), "{error}");
    }

    #[test]
    fn the_environment_lies_over_the_file() {
        let text = "server_name = \"a.org\"\n[federation]\nenabled = true\n";
        let variables = [
            ("RESUNI_SERVER_NAME", "b.org"),
            ("RESUNI_FEDERATION__ENABLED", "false"),
            ("RESUNI_ROOMS__DEFAULT_VERSION", "11"),
            ("RESUNI_REGISTRATION__SHARED_SECRET", "true"),
            ("RESUNI_LISTENERS", "[{ port = 9000 }]"),
            ("RESUNI_OUTBOUND__DENY_IP_RANGES", "[]"),
            ("RESUNI_SOMEBODY_ELSES", "1"),
            ("PATH", "/bin"),
        ];
        let config = from(text, &variables).unwrap();
        assert_eq!(config.server_name, "b.org");
        assert!(!config.federation.enabled);
        assert_eq!(config.rooms.default_version, ruma::RoomVersionId::V11);
        assert_eq!(config.registration.shared_secret.unwrap().expose(), "true");
        assert_eq!(config.listeners[0].port, 9000);
        assert!(config.outbound.deny_ip_ranges.is_empty());
    }

    #[test]
    fn a_misspelt_variable_is_refused() {
        let text = "server_name = \"a.org\"\n";
        let error = from(text, &[("RESUNI_FEDERATION__ENABELD", "1")]).unwrap_err();
        assert!(error.contains("RESUNI_FEDERATION__ENABLED"), "{error}");
        let error = from(text, &[("RESUNI_SERVERNAME", "x")]).unwrap_err();
        assert!(error.contains("RESUNI_SERVER_NAME"), "{error}");
        let error = from(text, &[("RESUNI_FEDERATION__ENABLED", "maybe")]).unwrap_err();
        assert!(error.contains("not a TOML value"), "{error}");
    }

    #[test]
    fn without_a_file_only_this_machine_is_served() {
        let loaded = load(None, std::iter::empty()).unwrap();
        assert_eq!(loaded.origin, Origin::Local);
        let listeners = loaded.config.listeners();
        assert!(listeners.iter().all(|l| l.address.is_loopback()));
        assert!(!loaded.config.federation.enabled);
    }

    /// A container is configured this way; what is open on this machine only must not be there.
    #[test]
    fn a_server_name_in_the_environment_means_the_usual_defaults() {
        let variables = [("RESUNI_SERVER_NAME".to_owned(), "a.org".to_owned())];
        let loaded = load(None, variables.into_iter()).unwrap();
        assert_eq!(loaded.origin, Origin::Environment);
        assert!(!loaded.config.registration.enabled && loaded.config.federation.enabled);
    }
}
