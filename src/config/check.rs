//! What types can't express: values that contradict each other, files that are not there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::error::Problem;
use crate::{Config, FederationMode};

impl Config {
    /// Makes relative paths start at `folder`.
    pub(crate) fn resolve_paths(&mut self, folder: &Path) {
        let at = |path: &mut PathBuf| *path = folder.join(&*path);
        at(&mut self.data_dir);
        for listener in &mut self.listeners {
            listener.tls_certificate.iter_mut().for_each(at);
            listener.tls_private_key.iter_mut().for_each(at);
        }
        self.federation.extra_ca_files.iter_mut().for_each(at);
        self.email.extra_ca_files.iter_mut().for_each(at);
        self.appservices.config_files.iter_mut().for_each(at);
    }

    /// Everything that stands against a start with these settings.
    pub(crate) fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.check_names(&mut problems);
        self.check_listeners(&mut problems);
        self.check_registration(&mut problems);
        self.check_rates(&mut problems);
        self.check_consortium(&mut problems);
        self.check_calls(&mut problems);
        self.check_mail(&mut problems);
        self.check_files(&mut problems);
        problems
    }

    fn check_names(&self, problems: &mut Vec<Problem>) {
        let url = self.public_baseurl.as_deref().map(|text| {
            let good = text
                .strip_prefix("https://")
                .or_else(|| text.strip_prefix("http://"))
                .is_some_and(|rest| !rest.is_empty() && !rest.contains([' ', '?', '#']));
            (text, good)
        });
        if let Some((text, false)) = url {
            problems.push(Problem::new(
                "public_baseurl",
                format!("`{text}` is not a web address."),
                "It starts with https:// and has no query, like \"https://matrix.example.org\".",
            ));
        }
        if self.log.level.trim().is_empty() {
            problems.push(Problem::new("log.level", "it is empty.", "Try \"info\"."));
        }
        if self.media.max_upload_bytes == 0 {
            problems.push(Problem::new(
                "media.max_upload_bytes",
                "nothing could be uploaded.",
                "Try 52428800, which is 50 MiB.",
            ));
        }
    }

    fn check_listeners(&self, problems: &mut Vec<Problem>) {
        let mut seen = BTreeSet::new();
        for (i, listener) in self.listeners.iter().enumerate() {
            if listener.port != 0 && !seen.insert((listener.address, listener.port)) {
                problems.push(Problem::new(
                    format!("listeners[{i}]"),
                    format!(
                        "{} port {} is there twice.",
                        listener.address, listener.port
                    ),
                    "Give each listener its own port.",
                ));
            }
            let (key, missing) = match (&listener.tls_certificate, &listener.tls_private_key) {
                (Some(_), None) => ("tls_certificate", "tls_private_key"),
                (None, Some(_)) => ("tls_private_key", "tls_certificate"),
                _ => continue,
            };
            problems.push(Problem::new(
                format!("listeners[{i}].{key}"),
                format!("it is set, but {missing} is not."),
                "TLS needs both; plain HTTP has neither.",
            ));
        }
    }

    fn check_registration(&self, problems: &mut Vec<Problem>) {
        let registration = &self.registration;
        if registration
            .shared_secret
            .as_ref()
            .is_some_and(|s| s.expose().is_empty())
        {
            problems.push(Problem::new(
                "registration.shared_secret",
                "it is empty, so anyone could make administrators.",
                "Set a long random text, or remove the key.",
            ));
        }
    }

    fn check_rates(&self, problems: &mut Vec<Problem>) {
        let limits = &self.rate_limits;
        let rates = [
            ("send", limits.send),
            ("register", limits.register),
            ("login", limits.login),
            ("join", limits.join),
            ("invite", limits.invite),
            ("keys", limits.keys),
            ("federation", limits.federation),
            ("other", limits.other),
        ];
        for (key, rate) in rates {
            if rate.burst == 0 || rate.per_minute == 0 {
                problems.push(Problem::new(
                    format!("rate_limits.{key}"),
                    "with 0 nobody could ever do it.",
                    "Both burst and per_minute are at least 1.",
                ));
            }
        }
    }

    fn check_consortium(&self, problems: &mut Vec<Problem>) {
        let members = &self.consortium.members;
        let mut seen = BTreeSet::new();
        for (i, member) in members.iter().enumerate() {
            if member.name.trim().is_empty() {
                problems.push(Problem::new(
                    format!("consortium.members[{i}].name"),
                    "it is missing.",
                    "People read it on the page of members.",
                ));
            }
            if !seen.insert(&member.server_name) {
                problems.push(Problem::new(
                    format!("consortium.members[{i}].server_name"),
                    format!("{} is there twice.", member.server_name),
                    "One member, one server.",
                ));
            }
        }
        if self.federation.mode == FederationMode::Consortium
            && !members.iter().any(|m| m.server_name == self.server_name)
        {
            problems.push(Problem::new(
                "federation.mode",
                format!(
                    "it is \"consortium\", but {} is not a member.",
                    self.server_name
                ),
                "Add a [[consortium.members]] for this server and for each other member.",
            ));
        }
    }

    fn check_calls(&self, problems: &mut Vec<Problem>) {
        let turn = &self.turn;
        for uri in &turn.uris {
            if !uri.starts_with("turn:") && !uri.starts_with("turns:") {
                problems.push(Problem::new(
                    "turn.uris",
                    format!("`{uri}` is not the address of a TURN server."),
                    "It starts with turn: or turns:, like \"turn:turn.example.org\".",
                ));
            }
        }
        let fixed = (turn.username.is_some(), turn.password.is_some());
        let known = turn.shared_secret.is_some() || fixed == (true, true);
        let both = turn.shared_secret.is_some() && fixed != (false, false);
        if !turn.uris.is_empty() && (!known || both) {
            problems.push(Problem::new(
                "turn.uris",
                "how the TURN server knows its users is not told, or told twice.",
                "Set turn.shared_secret, or else turn.username and turn.password.",
            ));
        }
        for url in &self.calls.livekit_service_urls {
            if !url.starts_with("https://") && !url.starts_with("http://") {
                problems.push(Problem::new(
                    "calls.livekit_service_urls",
                    format!("`{url}` is not a web address."),
                    "It starts with https://, like \"https://rtc.example.org\".",
                ));
            }
        }
    }

    fn check_mail(&self, problems: &mut Vec<Problem>) {
        let email = &self.email;
        if email.smtp_host.is_some() && email.from.as_ref().is_none_or(|from| !from.contains('@')) {
            problems.push(Problem::new(
                "email.from",
                "who mail is from is not told.",
                "Set an address, like \"Example <matrix@example.org>\".",
            ));
        }
        if email.username.is_some() != email.password.is_some() {
            problems.push(Problem::new(
                "email.username",
                "a name goes with a password, and a password with a name.",
                "Set email.username and email.password, or neither.",
            ));
        }
        if self.registration.require_email && email.smtp_host.is_none() {
            problems.push(Problem::new(
                "registration.require_email",
                "without mail nobody could make an account.",
                "Set email.smtp_host and email.from.",
            ));
        }
    }

    fn check_files(&self, problems: &mut Vec<Problem>) {
        let mut files: Vec<(String, &Path)> = Vec::new();
        for (i, listener) in self.listeners.iter().enumerate() {
            if let Some(path) = &listener.tls_certificate {
                files.push((format!("listeners[{i}].tls_certificate"), path));
            }
            if let Some(path) = &listener.tls_private_key {
                files.push((format!("listeners[{i}].tls_private_key"), path));
            }
        }
        for path in &self.federation.extra_ca_files {
            files.push(("federation.extra_ca_files".to_owned(), path));
        }
        for path in &self.email.extra_ca_files {
            files.push(("email.extra_ca_files".to_owned(), path));
        }
        for path in &self.appservices.config_files {
            files.push(("appservices.config_files".to_owned(), path));
        }
        for (key, path) in files {
            if let Err(error) = std::fs::File::open(path) {
                problems.push(Problem::new(
                    key,
                    format!("{} can't be read: {error}.", path.display()),
                    "Check the path and that the server's user may read it.",
                ));
            }
        }
    }

    /// Usable, but perhaps not meant.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let public = self.listeners().iter().any(|l| !l.address.is_loopback());
        if self.registration.enabled && !self.registration.require_token && public {
            warnings.push(
                "Anyone who reaches this server can make accounts (registration.enabled without \
                 registration.require_token)."
                    .to_owned(),
            );
        }
        let plain = self
            .listeners()
            .iter()
            .any(|l| !l.address.is_loopback() && l.tls_certificate.is_none());
        if plain {
            warnings.push(
                "A listener that others can reach speaks plain HTTP: passwords pass unencrypted \
                 unless a proxy in front of it speaks TLS."
                    .to_owned(),
            );
        }
        if !self.federation.destinations.is_empty() {
            warnings.push(
                "federation.destinations is set: those servers are not looked up, which is meant \
                 for tests."
                    .to_owned(),
            );
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use crate::{Config, FederationMode, Listener, Member, Secret};

    fn keys_of(config: &Config) -> Vec<String> {
        config.check().into_iter().map(|p| p.key).collect()
    }

    #[test]
    fn defaults_are_good() {
        assert!(keys_of(&Config::default()).is_empty());
        assert!(keys_of(&Config::local()).is_empty());
        assert!(Config::local().warnings().is_empty());
    }

    #[test]
    fn contradictions_are_named() {
        let mut config = Config {
            public_baseurl: Some("matrix.example.org".to_owned()),
            listeners: vec![
                Listener {
                    tls_certificate: Some("/dev/null".into()),
                    ..Listener::default()
                },
                Listener::default(),
            ],
            ..Config::default()
        };
        config.registration.shared_secret = Some(Secret::new(""));
        config.rate_limits.login.burst = 0;
        config.federation.mode = FederationMode::Consortium;
        config.federation.extra_ca_files = vec!["/nowhere/ca.crt".into()];
        config.turn.uris = vec!["turn:turn.example.org".to_owned()];
        config.calls.livekit_service_urls = vec!["rtc.example.org".to_owned()];
        assert_eq!(
            keys_of(&config),
            [
                "public_baseurl",
                "listeners[0].tls_certificate",
                "listeners[1]",
                "registration.shared_secret",
                "rate_limits.login",
                "federation.mode",
                "turn.uris",
                "calls.livekit_service_urls",
                "federation.extra_ca_files",
            ]
        );
        config.consortium.members = vec![Member {
            name: "Here".to_owned(),
            server_name: config.server_name.clone(),
            ..Member::default()
        }];
        assert!(!keys_of(&config).contains(&"federation.mode".to_owned()));
    }
}
