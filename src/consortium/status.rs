//! How each member can be reached, asked the way that events would go to it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use resuni_federation::{Client, FederationError, Terms};
use ruma::{ServerName, api::federation::discovery::get_server_version::v1 as version};
use tokio::{sync::watch, time::Instant};

use crate::roster::{Member, Roster};

/// How long a member has for its answer, connecting included.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer that is read.
const MAX_ANSWER: usize = 64 << 10;
/// Members that are asked at a time.
const AT_A_TIME: usize = 16;
/// How long an outcome is shown before the members are asked again: visitors of a page must not be able to make us
/// send requests.
const FRESH: Duration = Duration::from_secs(60);
/// Characters of another server's name for its software that are shown.
const SOFTWARE_CHARS: usize = 80;

/// How a member can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reachability {
    /// It is this server.
    Ourselves,
    /// Not asked: this server does not federate.
    NotAsked,
    /// It answered.
    Reachable {
        /// What it runs, as it says.
        software: Option<String>,
        /// How long the answer took, in milliseconds.
        millis: u64,
    },
    /// It did not. The reason is for operators.
    Unreachable {
        /// A sentence.
        reason: String,
    },
}

/// A member and how it can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// The member.
    pub member: Member,
    /// How it can be reached.
    pub reachability: Reachability,
}

/// All members, in the order of the roster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// The members.
    pub members: Vec<MemberStatus>,
}

/// The roster and the way to its members. Share it in an `Arc`.
pub struct Consortium {
    roster: Roster,
    client: Option<Arc<Client>>,
    last: watch::Sender<Option<(Instant, Arc<Status>)>>,
    /// The members are being asked for `last`.
    asking: AtomicBool,
}

impl Consortium {
    /// The consortium of this roster; without a client (a server that does not federate) nobody is asked.
    pub fn new(roster: Roster, client: Option<Arc<Client>>) -> Arc<Self> {
        Arc::new(Self {
            roster,
            client,
            last: watch::Sender::default(),
            asking: AtomicBool::new(false),
        })
    }

    /// The roster.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Asks every member now; takes a few seconds at most for each sixteen of them.
    pub async fn check(&self) -> Status {
        let asked = self.roster.members().iter().map(|member| {
            let member = member.clone();
            async move {
                MemberStatus {
                    reachability: self.reach(&member.server_name).await,
                    member,
                }
            }
        });
        // Collected first, as the compiler can't tell that a stream of borrowing closures may be sent.
        let asked: Vec<_> = asked.collect();
        let members = stream::iter(asked).buffered(AT_A_TIME).collect().await;
        Status { members }
    }

    /// What the members answered last. The first callers wait for the answers; later ones get those at hand, and when
    /// these are a minute old the members are asked again behind them. A caller who goes away ends nothing, so that
    /// nobody can have the members asked more often than that.
    pub async fn status(self: &Arc<Self>) -> Arc<Status> {
        let mut last = self.last.subscribe();
        let fresh = matches!(&*last.borrow(), Some((at, _)) if at.elapsed() < FRESH);
        if !fresh && !self.asking.swap(true, Ordering::AcqRel) {
            let this = Arc::clone(self);
            tokio::spawn(async move {
                let status = Arc::new(this.check().await);
                this.last.send_replace(Some((Instant::now(), status)));
                this.asking.store(false, Ordering::Release);
            });
        }
        let known = last.wait_for(Option::is_some).await;
        match known.as_deref() {
            Ok(Some((_, status))) => Arc::clone(status),
            // The sender lives as long as we do.
            _ => Arc::default(),
        }
    }

    async fn reach(&self, server: &ServerName) -> Reachability {
        if server == self.roster.own_name() {
            return Reachability::Ourselves;
        }
        let Some(client) = &self.client else {
            return Reachability::NotAsked;
        };
        let terms = Terms::ASKED.within(TIMEOUT).up_to(MAX_ANSWER);
        let began = Instant::now();
        let asked = client.send_unsigned(server, version::Request::new(), terms);
        // Looking a name up has limits of its own, which are longer.
        match tokio::time::timeout(TIMEOUT * 2, asked).await {
            Ok(Ok(answer)) => Reachability::Reachable {
                software: answer.server.and_then(software),
                millis: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            },
            Ok(Err(error)) => {
                tracing::debug!(%server, %error, "a member does not answer");
                Reachability::Unreachable {
                    reason: reason(server, &error),
                }
            }
            Err(_) => Reachability::Unreachable {
                reason: format!("no answer within {} s", (TIMEOUT * 2).as_secs()),
            },
        }
    }
}

/// Without the server's name in front, where it is said beside it.
fn reason(server: &ServerName, error: &FederationError) -> String {
    let text = error.to_string();
    match text.strip_prefix(&format!("{server}: ")) {
        Some(rest) => rest.to_owned(),
        None => text,
    }
}

/// `Resuni 0.1.0`
fn software(server: version::Server) -> Option<String> {
    let parts = [server.name, server.version];
    let text = parts.into_iter().flatten().collect::<Vec<_>>().join(" ");
    let printable = text.chars().filter(|c| !c.is_control());
    let text: String = printable.take(SOFTWARE_CHARS).collect();
    (!text.trim().is_empty()).then_some(text)
}
