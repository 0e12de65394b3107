//! The operator's commands about accounts and rooms. While the server runs it has the database, so the
//! command asks it through a socket in the data folder that only its own user can open; else the
//! command opens the database itself. Either way [`execute`] does the work.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use resuni_accounts::{AccountNum, AccountSummary, Accounts, NewAccount, NewRegistrationToken};
use resuni_config::Config;
use resuni_federation::Federation;
use resuni_rooms::{Bans, Rooms};
use ruma::{ServerName, UserId};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::cli::SettingsFile;
use crate::data::{DataDir, InUse};
use crate::{parts, settings};

/// The longest request, in bytes.
const MOST_BYTES: u64 = 64 * 1024;
/// Accounts read at a time for the list.
const PAGE: usize = 1_000;
/// How long one command may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What an operator can ask for.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// A new account; without a password one is made up.
    CreateUser {
        localpart: String,
        password: Option<String>,
        admin: bool,
    },
    /// Accounts.
    ListUsers(Listed),
    /// An end to an account. Only a running server can take it out of its rooms.
    Deactivate { localpart: String },
    /// An administrator, or one no longer.
    SetAdmin { localpart: String, admin: bool },
    /// A token to log in with, once.
    LoginToken { localpart: String },
    /// A new password, and an end to all sessions.
    SetPassword {
        localpart: String,
        password: Option<String>,
    },
    /// A token to register with.
    CreateToken { uses: Option<u64> },
    /// All tokens.
    ListTokens,
    /// An end to a token.
    DeleteToken { token: String },
    /// The policy rooms that are followed, and whether a rule stands against somebody.
    Moderation { entity: Option<String> },
    /// A room's state compared with every server in it. Only a running server can ask others.
    CheckRoom { room: String },
}

/// Which accounts are listed: those that are all of this.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Listed {
    pub(crate) admins: bool,
    pub(crate) deactivated: bool,
    pub(crate) locked: bool,
    /// With this in the user id.
    pub(crate) name: Option<String>,
}

impl Listed {
    fn wants(&self, summary: &AccountSummary) -> bool {
        let row = &summary.row;
        let name = self.name.as_deref().unwrap_or_default();
        (!self.admins || row.admin)
            && (!self.deactivated || row.deactivated.is_some())
            && (!self.locked || row.locked)
            && summary.user_id.as_str().contains(name)
    }
}

/// What answers.
pub(crate) struct Answering {
    /// The accounts.
    pub(crate) accounts: Arc<Accounts>,
    /// The rooms of a server that runs.
    pub(crate) rooms: Option<Arc<Rooms>>,
    /// Other servers, where there are any.
    pub(crate) federation: Option<Arc<Federation>>,
}

/// Lines for the operator, or what is wrong.
type Reply = Result<Vec<String>, String>;

/// Carries out a command of the command line and prints what comes of it.
pub(crate) fn command(file: &SettingsFile, request: &Request) -> Result<ExitCode> {
    let config = settings::load(file)?.config;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("The threads can't be started.")?;
    let reply = runtime.block_on(async {
        match DataDir::open(&config.data_dir) {
            Ok(data) => directly(&config, &data, request).await,
            Err(error) if error.is::<InUse>() => ask(&config.data_dir, request).await,
            Err(error) => Err(error),
        }
    })?;
    for line in reply.map_err(|message| anyhow!(message))? {
        println!("{line}");
    }
    Ok(ExitCode::SUCCESS)
}

async fn directly(config: &Config, data: &DataDir, request: &Request) -> Result<Reply> {
    let store = parts::open_store(data).await?;
    let accounts = parts::open_accounts(config, &store).await?;
    let parts = Answering {
        accounts,
        rooms: None,
        federation: None,
    };
    let reply = execute(&parts, request).await;
    store.close().await;
    Ok(reply)
}

async fn ask(folder: &Path, request: &Request) -> Result<Reply> {
    let path = DataDir::operator_socket(folder);
    let exchange = async {
        let mut stream = UnixStream::connect(&path).await?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        anyhow::Ok(serde_json::from_slice(&answer)?)
    };
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .context("The running server does not answer.")?
        .with_context(|| format!("The running server can't be asked at {}.", path.display()))
}

/// Answers the commands that come through the socket, until `stop`.
pub(crate) struct Door {
    socket: UnixListener,
    path: PathBuf,
}

impl Door {
    /// Makes the socket; the data folder's lock says that a socket found there is a dead one's.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let path = DataDir::operator_socket(folder);
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error).with_context(|| format!("{} can't be replaced.", path.display()));
        }
        let socket = UnixListener::bind(&path)
            .with_context(|| format!("{} can't be made.", path.display()))?;
        // The folder is closed to others already.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { socket, path })
    }

    /// One command after the other.
    pub(crate) async fn serve(self, parts: Answering, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.socket.accept() => accepted,
            };
            let outcome = match accepted {
                Ok((stream, _)) => tokio::time::timeout(PATIENCE, answer(stream, &parts))
                    .await
                    .unwrap_or_else(|_| Err(anyhow!("it took too long"))),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = outcome {
                tracing::warn!("an operator's command failed: {error:#}");
            }
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, "the operator's socket was gone");
        }
    }
}

async fn answer(stream: UnixStream, parts: &Answering) -> Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(MOST_BYTES))
        .read_line(&mut line)
        .await?;
    if !line.ends_with('\n') {
        bail!("the request is too long or was cut off");
    }
    let reply = execute(parts, &serde_json::from_str(&line)?).await;
    write.write_all(&serde_json::to_vec(&reply)?).await?;
    Ok(write.shutdown().await?)
}

async fn execute(parts: &Answering, request: &Request) -> Reply {
    let accounts = &*parts.accounts;
    let done = match request {
        Request::CreateUser {
            localpart,
            password,
            admin,
        } => create_user(accounts, localpart, password.as_deref(), *admin).await,
        Request::ListUsers(wanted) => list_users(accounts, wanted).await,
        Request::Deactivate { localpart } => deactivate(parts, localpart).await,
        Request::SetAdmin { localpart, admin } => set_admin(accounts, localpart, *admin).await,
        Request::LoginToken { localpart } => login_token(accounts, localpart).await,
        Request::SetPassword {
            localpart,
            password,
        } => set_password(accounts, localpart, password.as_deref()).await,
        Request::CreateToken { uses } => create_token(accounts, *uses).await,
        Request::ListTokens => list_tokens(accounts).await,
        Request::DeleteToken { token } => accounts
            .delete_registration_token(token)
            .await
            .map(|()| vec!["The token can no longer be used.".to_owned()])
            .map_err(Into::into),
        Request::Moderation { entity } => match &parts.rooms {
            Some(rooms) => moderation(rooms.bans(), entity.as_deref()),
            None => Err(anyhow!(
                "The rules are known to a running server; start it first."
            )),
        },
        Request::CheckRoom { room } => match &parts.federation {
            Some(federation) => crate::social::check_room(federation, room).await,
            None => Err(anyhow!(
                "Others can be asked by a running server that federates; start it first."
            )),
        },
    };
    done.map_err(|error: anyhow::Error| format!("{error:#}"))
}

/// The policy rooms, or the rule against a user, a server, or a room.
fn moderation(bans: &Bans, entity: Option<&str>) -> Result<Vec<String>> {
    let Some(entity) = entity else {
        let rooms = bans.rooms().into_iter().map(|(room, rules)| match rules {
            Some(rules) => format!("{room}\t{rules} rules"),
            None => format!("{room}\tnobody of this server is in it"),
        });
        return Ok(rooms.collect());
    };
    let found = match entity.chars().next() {
        Some('@') => bans.user(<&UserId>::try_from(entity)?),
        Some('!' | '#') => bans.room(entity),
        _ => bans.server(<&ServerName>::try_from(entity)?),
    };
    Ok(vec![match found {
        Some(ban) => format!(
            "{entity} is banned by the rule \"{}\" of {}: {}",
            ban.entity,
            ban.by,
            ban.reason.as_deref().unwrap_or("no reason is given")
        ),
        None => format!("No rule stands against {entity}."),
    }])
}

/// The password that was given, or a new one and the line that tells it.
fn password_or_new(given: Option<&str>) -> (String, Option<String>) {
    /// Without letters that look alike.
    const LETTERS: &[u8] = b"abcdefghijkmnpqrstuvwxyz23456789";
    const LENGTH: usize = 20;
    match given {
        Some(password) => (password.to_owned(), None),
        None => {
            // 32 letters divide a byte's values evenly; 20 of them are 100 bits.
            let bytes: [u8; LENGTH] = rand::random();
            let password: String = bytes
                .iter()
                .map(|b| char::from(LETTERS[usize::from(*b) % LETTERS.len()]))
                .collect();
            let line = format!("The password is {password}");
            (password, Some(line))
        }
    }
}

async fn create_user(
    accounts: &Accounts,
    localpart: &str,
    password: Option<&str>,
    admin: bool,
) -> Result<Vec<String>> {
    let (password, line) = password_or_new(password);
    let new = NewAccount {
        admin,
        ..NewAccount::user(localpart, password)
    };
    let registered = accounts.register(new).await?;
    let mut lines = vec![format!("Made {}.", registered.user_id)];
    lines.extend(line);
    Ok(lines)
}

async fn set_password(
    accounts: &Accounts,
    localpart: &str,
    password: Option<&str>,
) -> Result<Vec<String>> {
    let account = named(accounts, localpart).await?;
    let (password, line) = password_or_new(password);
    accounts
        .set_password(account, &password, true, None)
        .await?;
    let mut lines = vec!["The password is changed, and all sessions are ended.".to_owned()];
    lines.extend(line);
    Ok(lines)
}

async fn named(accounts: &Accounts, localpart: &str) -> Result<AccountNum> {
    let account = accounts.find(localpart).await?;
    account.with_context(|| format!("There is no account {localpart} on this server."))
}

async fn deactivate(parts: &Answering, localpart: &str) -> Result<Vec<String>> {
    let accounts = &*parts.accounts;
    let Some(rooms) = &parts.rooms else {
        bail!("The account has to be taken out of its rooms by a running server; start it first.");
    };
    let account = named(accounts, localpart).await?;
    let user = accounts.user_of(account).await?;
    let user = user.with_context(|| format!("There is no account {localpart} on this server."))?;
    let federation = parts.federation.as_deref();
    resuni_http::end_account(accounts, rooms, federation, account, &user, false)
        .await
        .map_err(|error| anyhow!(error.to_string()))?;
    Ok(vec![format!("{user} is deactivated.")])
}

async fn set_admin(accounts: &Accounts, localpart: &str, admin: bool) -> Result<Vec<String>> {
    let account = named(accounts, localpart).await?;
    accounts.set_admin(account, admin).await?;
    Ok(vec![match admin {
        true => format!("{localpart} is an administrator."),
        false => format!("{localpart} is no administrator."),
    }])
}

async fn login_token(accounts: &Accounts, localpart: &str) -> Result<Vec<String>> {
    let account = named(accounts, localpart).await?;
    accounts.active(account).await?;
    let (token, lasts_ms) = accounts.create_login_token(account).await?;
    let minutes = lasts_ms / 60_000;
    Ok(vec![
        token,
        format!("It can be used once, within {minutes} minutes."),
    ])
}

async fn list_users(accounts: &Accounts, wanted: &Listed) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut after = None;
    loop {
        let page = accounts.list(after, PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(lines);
        };
        after = Some(last.account);
        for summary in page.iter().filter(|summary| wanted.wants(summary)) {
            let row = &summary.row;
            let traits = [
                (row.admin, "administrator"),
                (row.locked, "locked"),
                (row.suspended, "suspended"),
                (row.deactivated.is_some(), "deactivated"),
            ];
            let words: Vec<&str> = traits
                .iter()
                .filter(|(is, _)| *is)
                .map(|(_, w)| *w)
                .collect();
            lines.push(
                format!("{}\t{}", summary.user_id, words.join(", "))
                    .trim_end()
                    .to_owned(),
            );
        }
    }
}

async fn create_token(accounts: &Accounts, uses: Option<u64>) -> Result<Vec<String>> {
    let new = NewRegistrationToken {
        uses_allowed: uses,
        ..NewRegistrationToken::default()
    };
    let token = accounts.create_registration_token(new).await?;
    Ok(vec![token.token])
}

async fn list_tokens(accounts: &Accounts) -> Result<Vec<String>> {
    let tokens = accounts.registration_tokens().await?;
    Ok(tokens
        .into_iter()
        .map(|t| match t.uses_allowed {
            Some(allowed) => format!("{}\tused {} of {allowed}", t.token, t.used),
            None => format!("{}\tused {}", t.token, t.used),
        })
        .collect())
}
