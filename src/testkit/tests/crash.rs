//! `kill -9` in a loop under concurrent load: what was answered is there, nothing contradicts
//! anything, and clients go on with their old sync token and miss nothing.
//!
//! `RESUNI_CRASH_ROUNDS` says how often (50), `RESUNI_CRASH_SEED` repeats a run as far as the
//! machine's timing allows. What a power failure would lose is not tested here: the kernel keeps
//! the pages of a process that is killed.

#[path = "crash/writer.rs"]
mod writer;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use futures_util::future::try_join_all;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use resuni_testkit::{CallError, Reader, Server, World};
use serde_json::json;

use crate::writer::{Sent, Writer};

const WRITERS: usize = 5;
/// More than this means that something is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

fn number(variable: &str) -> anyhow::Result<Option<u64>> {
    match std::env::var(variable) {
        Ok(text) => Ok(Some(
            text.parse().with_context(|| format!("{variable}={text}"))?,
        )),
        Err(_) => Ok(None),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_is_there_after_kill_9() -> anyhow::Result<()> {
    let rounds = number("RESUNI_CRASH_ROUNDS")?.unwrap_or(50);
    let seed = number("RESUNI_CRASH_SEED")?.unwrap_or_else(rand::random);
    println!("{rounds} rounds, RESUNI_CRASH_SEED={seed}");
    let world = World::new("crash")?;
    let mut scenario = Scenario::begin(&world, seed).await?;
    for round in 1..=rounds {
        let killed = scenario.run_and_kill().await;
        killed.with_context(|| format!("round {round} of seed {seed}"))?;
        let checked = scenario.restart_and_check().await;
        checked.with_context(|| format!("after the crash of round {round} of seed {seed}"))?;
    }
    scenario.check_everything().await?;
    println!("{} events survived", scenario.sent.len());
    scenario.server.stop().await?;
    scenario.server.doctor()?;
    world.passed();
    Ok(())
}

struct Scenario {
    server: Server,
    writers: Vec<Writer>,
    reader: Option<Reader>,
    rooms: Arc<Vec<String>>,
    random: StdRng,
    answered: Arc<AtomicUsize>,
    /// Everything that was ever answered, by room.
    sent: Vec<Sent>,
    /// How much of it was looked at after a crash.
    checked: usize,
}

impl Scenario {
    /// One room of each writer and one of all; the reader is in every one.
    async fn begin(world: &World, seed: u64) -> anyhow::Result<Self> {
        let server = world.resuni("one").await?;
        let nobody = server.client()?;
        let reader = nobody.register("reader").await?;
        let mut people = Vec::new();
        let mut rooms = Vec::new();
        for n in 0..WRITERS {
            let person = nobody.register(&format!("writer{n}")).await?;
            let version = if n % 2 == 0 { "12" } else { "11" };
            let body = json!({ "preset": "public_chat", "room_version": version });
            rooms.push(person.create_room(body).await?);
            people.push(person);
        }
        let first = people.first().context("no writers")?;
        let body = json!({ "preset": "public_chat" });
        rooms.push(first.create_room(body).await?);
        let all = rooms.last().context("no rooms")?;
        for person in people.iter().skip(1) {
            person.join(all, &[]).await?;
        }
        for room in &rooms {
            reader.join(room, &[]).await?;
        }
        let rooms = Arc::new(rooms);
        let answered = Arc::new(AtomicUsize::new(0));
        let mut random = StdRng::seed_from_u64(seed);
        let writers = people
            .into_iter()
            .enumerate()
            .map(|(n, person)| {
                let random = StdRng::seed_from_u64(random.random());
                Writer::new(n, person, rooms.clone(), random, answered.clone())
            })
            .collect();
        Ok(Self {
            server,
            writers,
            reader: Some(Reader::new(reader)),
            rooms,
            random,
            answered,
            sent: Vec::new(),
            checked: 0,
        })
    }

    /// Load from all writers at once, and in the midst of it the end.
    async fn run_and_kill(&mut self) -> anyhow::Result<()> {
        let writing: Vec<_> = self
            .writers
            .drain(..)
            .map(|mut writer| {
                tokio::spawn(async move { writer.until_cut_off().await.map(|()| writer) })
            })
            .collect();
        let mut reader = self.reader.take().context("no reader")?;
        let reading = tokio::spawn(async move {
            loop {
                match reader.step(PATIENCE).await {
                    Ok(_) => {}
                    Err(CallError::Connection(_)) => return Ok(reader),
                    Err(error) => return Err(error),
                }
            }
        });

        let goal = self.answered.load(Ordering::Relaxed) + self.random.random_range(5..60);
        let begun = Instant::now();
        while self.answered.load(Ordering::Relaxed) < goal {
            if begun.elapsed() > PATIENCE || writing.iter().any(|task| task.is_finished()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let slow = begun.elapsed() > PATIENCE;
        tokio::time::sleep(Duration::from_micros(self.random.random_range(0..8_000))).await;
        self.server.kill()?;

        for task in writing {
            self.writers.push(task.await??);
        }
        self.reader = Some(reading.await??);
        if slow {
            bail!("too few answers within {PATIENCE:?}");
        }
        Ok(())
    }

    async fn restart_and_check(&mut self) -> anyhow::Result<()> {
        self.server.doctor()?;
        self.server.start().await?;
        for writer in &mut self.writers {
            writer.check_and_settle().await?;
            self.sent.append(&mut writer.sent);
        }
        let reader = self.reader.as_mut().context("no reader")?;
        let fresh = self.sent.get(self.checked..).unwrap_or_default();
        for some in fresh.chunks(16) {
            try_join_all(some.iter().map(|sent| sent.check(reader.client()))).await?;
        }
        for (room, events) in by_room(fresh) {
            reader.until_seen(room, &events, PATIENCE).await?;
        }
        reader.check_nothing_twice()?;
        self.checked = self.sent.len();
        Ok(())
    }

    /// At the end: each room's history has everything that was answered, each message once, and is
    /// what the reader was shown.
    async fn check_everything(&mut self) -> anyhow::Result<()> {
        let reader = self.reader.as_mut().context("no reader")?;
        while reader.step(Duration::ZERO).await? > 0 {}
        let sent = by_room(&self.sent);
        for room in self.rooms.iter() {
            reader.check_history(room).await?;
            let mut texts = BTreeSet::new();
            for event in reader.seen(room) {
                if let Some(text) = event["content"]["body"].as_str()
                    && !texts.insert(text)
                {
                    bail!("\"{text}\" is in {room} twice: a transaction was done again");
                }
            }
            let lost = sent
                .get(room.as_str())
                .into_iter()
                .flatten()
                .find(|event| !reader.has_seen(room, event));
            if let Some(event) = lost {
                bail!("{event} is not in the history of {room}");
            }
        }
        Ok(())
    }
}

fn by_room(sent: &[Sent]) -> BTreeMap<&str, Vec<String>> {
    let mut rooms = BTreeMap::<&str, Vec<String>>::new();
    for one in sent {
        rooms.entry(&one.room).or_default().push(one.event.clone());
    }
    rooms
}
