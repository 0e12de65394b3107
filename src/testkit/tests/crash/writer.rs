//! Somebody who writes until the server is gone, and remembers what was answered.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, bail};
use rand::{RngExt, rngs::StdRng};
use resuni_testkit::{CallError, Client};
use serde_json::{Value, json};

const STATE: &str = "eu.resuni.test";

/// An event whose id was answered.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Its room.
    pub room: String,
    /// Its id.
    pub event: String,
    /// Its content.
    content: Value,
    /// The transaction that made it, of a message.
    txn: Option<String>,
}

impl Sent {
    /// Whether it can be read, as it was sent.
    pub async fn check(&self, client: &Client) -> anyhow::Result<()> {
        let event = client.event(&self.room, &self.event).await?;
        if event["content"] != self.content {
            bail!("{} was {}, it is {event}", self.event, self.content);
        }
        Ok(())
    }
}

/// What is known of a value that a request may have changed when the server was killed.
#[derive(Debug)]
struct Belief<T> {
    known: T,
    asked: Option<T>,
}

impl<T: PartialEq + std::fmt::Debug> Belief<T> {
    /// The value as it is now: the known one, or the one asked for last.
    fn settle(&mut self, is: T) -> anyhow::Result<()> {
        if is != self.known && self.asked.as_ref() != Some(&is) {
            bail!(
                "it is {is:?} instead of {:?} (asked for: {:?})",
                self.known,
                self.asked
            );
        }
        self.known = is;
        self.asked = None;
        Ok(())
    }

    fn answered(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.known = asked;
        }
    }
}

/// A message without an answer.
#[derive(Debug)]
struct Pending {
    room: String,
    txn: String,
    text: String,
}

/// Writes to the rooms: its own is the `n`th, the last is everybody's.
pub struct Writer {
    n: usize,
    client: Client,
    rooms: Arc<Vec<String>>,
    random: StdRng,
    answered: Arc<AtomicUsize>,
    count: u64,
    /// What was answered since it was last taken.
    pub sent: Vec<Sent>,
    pending: Option<Pending>,
    /// State keys of its own room.
    state: BTreeMap<String, Belief<Option<u64>>>,
    /// Whether it is in the next writer's room.
    guest: Belief<bool>,
    /// People who came during the load, and whether they are in everybody's room.
    newcomers: Vec<(Client, Belief<bool>)>,
}

impl Writer {
    /// A writer that has not begun.
    pub fn new(
        n: usize,
        client: Client,
        rooms: Arc<Vec<String>>,
        random: StdRng,
        answered: Arc<AtomicUsize>,
    ) -> Self {
        Self {
            n,
            client,
            rooms,
            random,
            answered,
            count: 0,
            sent: Vec::new(),
            pending: None,
            state: BTreeMap::new(),
            guest: Belief {
                known: false,
                asked: None,
            },
            newcomers: Vec::new(),
        }
    }

    fn room(&self, n: usize) -> anyhow::Result<String> {
        self.rooms.get(n).cloned().context("no such room")
    }

    /// The last room is everybody's, the one after one's own (in a ring) the neighbour's.
    fn neighbours(&self) -> anyhow::Result<String> {
        self.room((self.n + 1) % (self.rooms.len() - 1))
    }

    fn everybodys(&self) -> anyhow::Result<String> {
        self.room(self.rooms.len() - 1)
    }

    /// Writes until nobody answers any more. A refusal is an error.
    pub async fn until_cut_off(&mut self) -> anyhow::Result<()> {
        loop {
            self.count += 1;
            let done = match self.random.random_range(0..100) {
                0..60 => self.message().await,
                60..78 => self.set_state().await,
                78..97 => self.come_or_go().await,
                _ => self.bring_somebody().await,
            };
            match done {
                Ok(()) => self.answered.fetch_add(1, Ordering::Relaxed),
                Err(error) => match error.downcast_ref::<CallError>() {
                    Some(CallError::Connection(_)) => return Ok(()),
                    _ => return Err(error),
                },
            };
        }
    }

    async fn message(&mut self) -> anyhow::Result<()> {
        let mine = self.random.random_bool(0.5);
        let room = if mine {
            self.room(self.n)?
        } else {
            self.everybodys()?
        };
        let text = format!("{} of writer {}", self.count, self.n);
        let txn = format!("t{}", self.count);
        self.pending = Some(Pending { room, txn, text });
        self.send_pending().await
    }

    async fn send_pending(&mut self) -> anyhow::Result<()> {
        let Some(pending) = &self.pending else {
            return Ok(());
        };
        let (room, text) = (pending.room.clone(), pending.text.clone());
        let event = self.client.send(&room, &pending.txn, &text).await?;
        let txn = self.pending.take().map(|pending| pending.txn);
        let content = json!({ "msgtype": "m.text", "body": text });
        self.sent.push(Sent {
            room,
            event,
            content,
            txn,
        });
        Ok(())
    }

    async fn set_state(&mut self) -> anyhow::Result<()> {
        let room = self.room(self.n)?;
        let key = format!("key{}", self.random.random_range(0..4));
        let belief = self.state.entry(key.clone()).or_insert(Belief {
            known: None,
            asked: None,
        });
        belief.asked = Some(Some(self.count));
        let content = json!({ "value": self.count });
        let event = self
            .client
            .set_state(&room, STATE, &key, content.clone())
            .await?;
        belief.answered();
        self.sent.push(Sent {
            room,
            event,
            content,
            txn: None,
        });
        Ok(())
    }

    async fn come_or_go(&mut self) -> anyhow::Result<()> {
        let room = self.neighbours()?;
        self.guest.asked = Some(!self.guest.known);
        if self.guest.known {
            self.client.membership(&room, "leave", None).await?;
        } else {
            self.client.join(&room, &[]).await?;
        }
        self.guest.answered();
        Ok(())
    }

    async fn bring_somebody(&mut self) -> anyhow::Result<()> {
        let room = self.everybodys()?;
        let name = format!("newcomer{}-{}", self.n, self.count);
        let client = self.client.register(&name).await?;
        let belief = Belief {
            known: false,
            asked: Some(true),
        };
        self.newcomers.push((client.clone(), belief));
        client.join(&room, &[]).await?;
        if let Some((_, belief)) = self.newcomers.last_mut() {
            belief.answered();
        }
        Ok(())
    }

    /// After a crash: what was answered is so; what was not may be so, and is found out. A message
    /// without an answer is sent again, one with an answer gets the same again.
    pub async fn check_and_settle(&mut self) -> anyhow::Result<()> {
        self.settle_state().await.context("a piece of state")?;
        let room = self.neighbours()?;
        let is = joined(&self.client, &room, self.client.user()).await?;
        self.guest.settle(is).context("a membership")?;

        let everybodys = self.everybodys()?;
        for (newcomer, belief) in &mut self.newcomers {
            let me = newcomer.get("/_matrix/client/v3/account/whoami").await?;
            if me["user_id"] != newcomer.user() {
                bail!("{} has become {me}", newcomer.user());
            }
            let is = joined(&self.client, &everybodys, newcomer.user()).await?;
            belief.settle(is).context("a newcomer's membership")?;
        }
        self.newcomers.clear();

        if let Some(sent) = self.sent.iter().rfind(|sent| sent.txn.is_some())
            && let (Some(txn), Some(text)) = (&sent.txn, sent.content["body"].as_str())
        {
            let again = self.client.send(&sent.room, txn, text).await?;
            if again != sent.event {
                bail!("transaction {txn} was {}, now it is {again}", sent.event);
            }
        }
        self.send_pending().await
    }

    async fn settle_state(&mut self) -> anyhow::Result<()> {
        let room = self.room(self.n)?;
        for (key, belief) in &mut self.state {
            let is = match self.client.state(&room, STATE, key).await {
                Ok(content) => content["value"].as_u64(),
                Err(CallError::Answer { status, .. }) if status == 404 => None,
                Err(error) => return Err(error.into()),
            };
            belief.settle(is)?;
        }
        Ok(())
    }
}

async fn joined(client: &Client, room: &str, user: &str) -> Result<bool, CallError> {
    match client.state(room, "m.room.member", user).await {
        Ok(content) => Ok(content["membership"] == "join"),
        // Nobody, or nobody any more: whoever left may not look.
        Err(CallError::Answer { status, .. }) if status == 404 || status == 403 => Ok(false),
        Err(error) => Err(error),
    }
}
