//! Feed, consortium and pages: what they need from the settings, and `resuni consortium status`.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use resuni_config::{Config, FederationMode};
use resuni_consortium::{Consortium, Member, Reachability, Roster, Status};
use resuni_dag::SigningKey;
use resuni_federation::divergence::check::Checked;
use resuni_federation::{Client, Comparison, Federation, Mode};
use resuni_feed::Feed;
use resuni_store::Store;
use resuni_web::{Site, WebState};
use ruma::RoomId;
use tokio_util::sync::CancellationToken;

use crate::cli::SettingsFile;
use crate::parts::open_network;
use crate::settings;

/// The roster in the settings.
pub(crate) fn roster(config: &Config) -> Result<Roster> {
    let members = config.consortium.members.iter().map(|member| Member {
        name: member.name.clone(),
        server_name: member.server_name.clone(),
        url: member.url.clone(),
        country: member.country.clone(),
        language: member.language.clone(),
    });
    Roster::new(config.server_name.clone(), members.collect())
        .context("The consortium's members can't be used.")
}

/// Who may federate.
pub(crate) fn mode(config: &Config, roster: &Roster) -> Mode {
    match (config.federation.enabled, config.federation.mode) {
        (false, _) => Mode::Closed,
        (true, FederationMode::Open) => Mode::Open,
        (true, FederationMode::Consortium) => roster.mode(),
    }
}

/// The pages for people, to be merged with the Matrix API. Without a client the members are not asked.
pub(crate) fn pages(
    config: &Config,
    feed: Arc<Feed>,
    client: Option<Arc<Client>>,
) -> Result<Router> {
    let registration = &config.registration;
    let site = Site {
        base_url: config.base_url(),
        registration: registration.enabled && !registration.require_token,
    };
    Ok(resuni_web::router(WebState {
        site: Arc::new(site),
        feed,
        consortium: Consortium::new(roster(config)?, client),
    }))
}

/// Keeps the index of public posts until the server stops.
pub(crate) async fn follow(feed: Arc<Feed>, stopping: CancellationToken) {
    tokio::select! {
        ended = feed.run() => if let Err(error) = ended {
            tracing::error!(%error, "the public timeline stands still");
        },
        () = stopping.cancelled() => {}
    }
}

/// `resuni consortium status`: the members, and how this machine reaches them. A running server is not disturbed.
/// Fails when a member can't be reached.
pub(crate) fn status(file: &SettingsFile) -> Result<ExitCode> {
    let loaded = settings::load(file)?;
    let config = &loaded.config;
    let roster = roster(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("The threads can't be started.")?;
    let status = runtime.block_on(async {
        let client = match config.federation.enabled {
            true => Some(asking_client(config, &roster).await?),
            false => None,
        };
        anyhow::Ok(Consortium::new(roster, client).check().await)
    })?;
    print!("{}", table(config, &status));
    let lost = |member: &resuni_consortium::MemberStatus| {
        matches!(member.reachability, Reachability::Unreachable { .. })
    };
    Ok(match status.members.iter().any(lost) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

/// `resuni room check`: a line for each server in the room.
pub(crate) async fn check_room(federation: &Federation, room: &str) -> Result<Vec<String>> {
    let room = <&RoomId>::try_from(room).with_context(|| format!("`{room}` is not a room id."))?;
    let checked = federation.divergences.check(room).await?;
    if checked.is_empty() {
        return Ok(vec!["No other server is in this room.".to_owned()]);
    }
    Ok(checked.iter().map(checked_line).collect())
}

fn checked_line(checked: &Checked) -> String {
    let (server, event) = (&checked.server, &checked.event);
    match (&checked.comparison, &checked.parting) {
        (Ok(Comparison::Same), _) => format!("{server}\tthe same state at {event}"),
        (Ok(Comparison::Unknown), _) => {
            format!("{server}\tdoes not tell: no event in common, or no state digests (MSC4500)")
        }
        (Ok(Comparison::Differs(ours, theirs)), parting) => {
            let (here, there) = (ours.count, theirs.count);
            let since = match parting {
                Some(parting) if parting.same_before => {
                    format!("{} was judged differently", parting.event)
                }
                Some(parting) => format!("since {} at least", parting.event),
                None => "since when could not be found".to_owned(),
            };
            format!("{server}\tANOTHER STATE: {there} entries there, {here} here; {since}")
        }
        (Err(error), _) => format!("{server}\tcan't be asked: {error}"),
    }
}

/// A client that needs neither the data folder nor the server's key: to ask for a version is not signed.
async fn asking_client(config: &Config, roster: &Roster) -> Result<Arc<Client>> {
    let key = SigningKey::generate("status", rand::random())?;
    let store = Store::memory().await;
    let network = open_network(config, Arc::new(key), &store, roster.mode())?;
    Ok(network.client)
}

fn table(config: &Config, status: &Status) -> String {
    use std::fmt::Write as _;

    let mut text = match config.federation.mode {
        FederationMode::Open => "This server federates with everyone; its consortium is:\n",
        FederationMode::Consortium => "This server federates with these members only:\n",
    }
    .to_owned();
    if !config.federation.enabled {
        text = "This server does not federate; its consortium is:\n".to_owned();
    }
    let width = |of: fn(&Member) -> usize| {
        let widths = status.members.iter().map(|status| of(&status.member));
        widths.max().unwrap_or(0)
    };
    let name_width = width(|member| member.name.chars().count());
    let server_width = width(|member| member.server_name.as_str().len());
    for status in &status.members {
        let member = &status.member;
        let state = match &status.reachability {
            Reachability::Ourselves => "this server".to_owned(),
            Reachability::NotAsked => "not asked".to_owned(),
            Reachability::Reachable { software, millis } => match software {
                Some(software) => format!("reachable in {millis} ms, runs {software}"),
                None => format!("reachable in {millis} ms"),
            },
            Reachability::Unreachable { reason } => format!("NOT REACHABLE: {reason}"),
        };
        let country = member.country.as_deref().unwrap_or("–");
        let language = member.language.as_deref().unwrap_or("–");
        let _ = writeln!(
            text,
            "  {:name_width$}  {:server_width$}  {country:2}  {language:5}  {state}",
            member.name,
            member.server_name.as_str(),
        );
    }
    if status.members.is_empty() {
        text.push_str("  (no members: [[consortium.members]] in the settings lists them)\n");
    }
    text
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn config(mode: &str) -> Config {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = format!(
            "server_name = \"us.example\"\n[federation]\nmode = \"{mode}\"\n\
             [[consortium.members]]\nname = \"Us\"\nserver_name = \"us.example\"\n\
             [[consortium.members]]\nname = \"Them\"\nserver_name = \"them.example\"\ncountry = \"AT\"\n"
        );
        std::fs::write(file.path(), text).unwrap();
        resuni_config::load(Some(file.path()), std::iter::empty())
            .unwrap()
            .config
    }

    #[test]
    fn the_roster_is_who_may_federate() {
        let open = config("open");
        assert_eq!(mode(&open, &roster(&open).unwrap()), Mode::Open);
        let closed = config("consortium");
        let roster = roster(&closed).unwrap();
        assert_eq!(mode(&closed, &roster), roster.mode());
        assert!(matches!(roster.mode(), Mode::Consortium(members) if members.len() == 2));
    }

    #[test]
    fn the_table_says_who_is_not_there() {
        let config = config("consortium");
        let members = roster(&config).unwrap().members().to_vec();
        let of = |at: usize, reachability| resuni_consortium::MemberStatus {
            member: members[at].clone(),
            reachability,
        };
        let reason = "connection refused".to_owned();
        let status = Status {
            members: vec![
                of(0, Reachability::Ourselves),
                of(1, Reachability::Unreachable { reason }),
            ],
        };
        let text = table(&config, &status);
        assert!(text.contains("Us    us.example"), "{text}");
        assert!(text.contains("NOT REACHABLE: connection refused"), "{text}");
    }
}
