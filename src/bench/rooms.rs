//! What the size of a room costs: a server joins rooms that are made up by [`Resident`], of 500 to 50,000 members, and
//! is sent messages, joins and forks.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use resuni_testkit::{Client, Deed, Kind, Resident, Server, World, escape, sync_path};
use serde_json::{Value, json};

use crate::{
    load::{self, percentile},
    measure,
    table::{Row, What},
};

/// A first sync without the members one can do without.
const LAZY: &str = r#"{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":50}}}"#;
/// Events of one transaction.
const TRANSACTION: usize = 50;
/// Until a server has settled: what it does next is not part of what is measured.
const SETTLING: Duration = Duration::from_secs(2);
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// Connections of the load of own messages.
const SENDERS: usize = 8;

/// How much to do.
#[derive(Debug, Clone)]
pub struct RoomSizes {
    /// Members of the rooms, growing.
    pub members: &'static [usize],
    /// Branches of the forks, growing.
    pub branches: &'static [usize],
    /// Members of the room that is forked.
    pub forked: usize,
    /// Messages one at a time.
    pub single: usize,
    /// Messages and joins in transactions, and own messages.
    pub many: usize,
}

impl RoomSizes {
    /// To see that everything works.
    pub fn quick() -> Self {
        Self {
            members: &[50, 500],
            branches: &[10, 50],
            forked: 500,
            single: 20,
            many: 100,
        }
    }

    /// The same for a server of this kind: a thousand branches take Synapse six minutes.
    fn of(&self, kind: Kind) -> Self {
        let branches = match kind {
            Kind::Synapse => &self.branches[..self.branches.len().min(2)],
            _ => self.branches,
        };
        Self {
            branches,
            ..self.clone()
        }
    }

    /// What `docs/performance-rooms.md` shows.
    pub fn full() -> Self {
        Self {
            members: &[500, 5_000, 50_000],
            branches: &[10, 100, 1_000],
            forked: 10_000,
            single: 200,
            many: 1_000,
        }
    }
}

/// Runs everything against servers of a kind, each new. Gives the version that they say they are.
pub async fn run(
    world: &World,
    kind: Kind,
    sizes: &RoomSizes,
) -> anyhow::Result<(String, Vec<Row>)> {
    let sizes = sizes.of(kind);
    let (mut version, mut rows) = (String::new(), Vec::new());
    for members in sizes.members {
        let mut visit = Visit::begin(world, kind, ("guest", *members)).await?;
        version = visit.server_version().await?;
        visit.join().await?;
        visit.singles(sizes.single).await?;
        visit.stream(sizes.many).await?;
        visit.joins(sizes.many).await?;
        visit.own(sizes.many).await?;
        rows.append(&mut visit.rows);
        visit.server.stop().await?;
    }
    let mut visit = Visit::begin(world, kind, ("fork", sizes.forked)).await?;
    visit.enter().await?;
    for branches in sizes.branches {
        visit.fork(*branches).await?;
    }
    rows.append(&mut visit.rows);
    visit.server.stop().await?;
    Ok((version, rows))
}

/// A new server, and the room that one user of it enters.
struct Visit {
    server: Server,
    resident: Resident,
    reader: Client,
    members: usize,
    room: String,
    since: String,
    rows: Vec<Row>,
}

impl Visit {
    /// A new server of a name that begins with this, and a room of so many members.
    async fn begin(
        world: &World,
        kind: Kind,
        (name, members): (&str, usize),
    ) -> anyhow::Result<Self> {
        eprintln!("   making up a room with {members} members");
        let resident = Resident::start(world, members).await?;
        let server = world.server(kind, &format!("{name}{members}")).await?;
        let reader = server.client()?.register("reader").await?;
        // What a server does once after its start is no part of a join.
        tokio::time::sleep(SETTLING).await;
        let since = token(&reader.sync("", Duration::ZERO, LAZY).await?)?;
        Ok(Self {
            room: resident.room_id(),
            server,
            resident,
            reader,
            members,
            since,
            rows: Vec::new(),
        })
    }

    async fn server_version(&self) -> anyhow::Result<String> {
        let client = self.server.client()?;
        let answer = client.get("/_matrix/federation/v1/version").await?;
        let version = answer["server"]["version"].as_str();
        Ok(version.unwrap_or("unknown version").to_owned())
    }

    fn push(
        &mut self,
        what: What,
        name: String,
        (value, unit): (f64, &'static str),
        cpu_ms: Option<f64>,
        note: String,
    ) {
        let cpu = cpu_ms
            .map(|cpu| format!(", {cpu:.3} ms CPU"))
            .unwrap_or_default();
        eprintln!("   {name}: {value:.2} {unit}{cpu} {note}");
        self.rows.push(Row {
            what,
            name,
            value,
            unit,
            more_is_better: unit == "/s",
            cpu_ms,
            note,
        });
    }

    fn cpu(&self) -> anyhow::Result<f64> {
        measure::cpu_ms(self.server.pid()?)
    }

    /// The join, from the call on: until it is answered, until the next message is there, until all members are.
    async fn join(&mut self) -> anyhow::Result<()> {
        let pid = self.server.pid()?;
        let before = measure::resident_mb(pid)?;
        measure::forget_peak(pid)?;
        let (begun, cpu) = (Instant::now(), self.cpu()?);
        self.reader
            .join(&self.room, &[self.resident.name()])
            .await?;
        let answered = begun.elapsed().as_secs_f64();
        self.say_and_see("the first").await?;
        let readable = begun.elapsed().as_secs_f64();
        self.all_members().await?;
        let whole = begun.elapsed().as_secs_f64();
        let cpu = self.cpu()? - cpu;
        let peak = measure::peak_mb(pid)? - before;
        let members = self.members;
        let of = |what: &str| format!("join of a room with {members} members: {what}");
        let note = format!("answered after {answered:.2} s");
        self.push(
            What::JoinReadable(members),
            of("first message read"),
            (readable, "s"),
            None,
            note,
        );
        let note = "CPU is that of the whole join".to_owned();
        self.push(
            What::JoinWhole(members),
            of("all members there"),
            (whole, "s"),
            Some(cpu),
            note,
        );
        let note = format!("{before:.0} MB before");
        self.push(
            What::JoinMemory(members),
            of("memory at the most"),
            (peak, "MB"),
            None,
            note,
        );
        Ok(())
    }

    /// The join alone.
    async fn enter(&mut self) -> anyhow::Result<()> {
        self.reader
            .join(&self.room, &[self.resident.name()])
            .await?;
        self.all_members().await
    }

    async fn all_members(&self) -> anyhow::Result<()> {
        let path = format!(
            "/_matrix/client/v3/rooms/{}/joined_members",
            escape(&self.room)
        );
        let begun = Instant::now();
        loop {
            if let Ok(answer) = self.reader.get(&path).await {
                let joined = answer["joined"]
                    .as_object()
                    .map_or(0, |joined| joined.len());
                if joined > self.members {
                    return Ok(());
                }
            }
            anyhow::ensure!(begun.elapsed() < PATIENCE, "the members never arrived");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A message of the other server, until the reader's sync has it.
    async fn say_and_see(&mut self, text: &str) -> anyhow::Result<f64> {
        let events = self.resident.make(vec![Deed::say(text)])?;
        let begun = Instant::now();
        self.resident.send(&self.server.name(), &events).await?;
        while begun.elapsed() < PATIENCE {
            let path = sync_path(&self.since, Duration::from_secs(10), LAZY);
            let answer = self.reader.get(&path).await?;
            self.since = token(&answer)?;
            let timeline = &answer["rooms"]["join"][&self.room]["timeline"]["events"];
            let mut events = timeline.as_array().into_iter().flatten();
            if events.any(|event| event["content"]["body"] == text) {
                return Ok(begun.elapsed().as_secs_f64() * 1e3);
            }
        }
        anyhow::bail!("the message {text} was never seen")
    }

    async fn singles(&mut self, count: usize) -> anyhow::Result<()> {
        tokio::time::sleep(SETTLING).await;
        let cpu = self.cpu()?;
        let mut samples = Vec::new();
        for n in 0..count {
            samples.push(self.say_and_see(&format!("single {n}")).await?);
        }
        let cpu = (self.cpu()? - cpu) / count.max(1) as f64;
        samples.sort_by(f64::total_cmp);
        let name = format!(
            "a message of another server read, room of {}, p50",
            self.members
        );
        let note = format!("p99 {:.1} ms, {count} samples", percentile(&samples, 0.99));
        let p50 = percentile(&samples, 0.5);
        self.push(
            What::RoomLatency(self.members),
            name,
            (p50, "ms"),
            Some(cpu),
            note,
        );
        Ok(())
    }

    /// Messages in full transactions, one after the other.
    async fn stream(&mut self, count: usize) -> anyhow::Result<()> {
        let deeds = (0..count).map(|n| Deed::say(&format!("stream {n}")));
        let events = self.resident.make(deeds.collect())?;
        let (rate, cpu) = self.transactions(&events).await?;
        let name = format!("messages of another server, room of {}", self.members);
        let note = format!("{count} in transactions of {TRANSACTION}; CPU is per message");
        self.push(
            What::RoomMessages(self.members),
            name,
            (rate, "/s"),
            Some(cpu),
            note,
        );
        Ok(())
    }

    /// Joins, each of which changes the state.
    async fn joins(&mut self, count: usize) -> anyhow::Result<()> {
        let deeds = (0..count).map(|n| self.resident.joining(&format!("late{n}")));
        let events = self.resident.make(deeds.collect())?;
        let (rate, cpu) = self.transactions(&events).await?;
        let name = format!("joins on another server, room of {}", self.members);
        let note = format!("{count} in transactions of {TRANSACTION}; CPU is per join");
        self.push(
            What::RoomJoins(self.members),
            name,
            (rate, "/s"),
            Some(cpu),
            note,
        );
        Ok(())
    }

    /// Sends events; how many a second, and the CPU time of each.
    async fn transactions(&self, events: &[String]) -> anyhow::Result<(f64, f64)> {
        let (begun, cpu) = (Instant::now(), self.cpu()?);
        for some in events.chunks(TRANSACTION) {
            self.resident.send(&self.server.name(), some).await?;
        }
        let rate = events.len() as f64 / begun.elapsed().as_secs_f64();
        Ok((rate, (self.cpu()? - cpu) / events.len().max(1) as f64))
    }

    /// Messages of the server's own user.
    async fn own(&mut self, count: usize) -> anyhow::Result<()> {
        let cpu = self.cpu()?;
        let (reader, room) = (self.reader.clone(), self.room.clone());
        let load = load::run(SENDERS, count, PATIENCE, move |_, index| {
            let (reader, room) = (reader.clone(), room.clone());
            async move {
                reader.send(&room, &format!("own{index}"), "own").await?;
                Ok(())
            }
        });
        let load = load.await?;
        let cpu = (self.cpu()? - cpu) / load.done.max(1) as f64;
        let name = format!("own messages, room of {}", self.members);
        let note = format!(
            "p50 {:.1} ms, p99 {:.1} ms",
            load.percentile(0.5),
            load.percentile(0.99)
        );
        self.push(
            What::RoomOwn(self.members),
            name,
            (load.rate(), "/s"),
            Some(cpu),
            note,
        );
        Ok(())
    }

    /// Branches that all follow the same event and disagree: topics, and now and then power levels; then a message that
    /// follows some of them.
    async fn fork(&mut self, branches: usize) -> anyhow::Result<()> {
        let deeds = (0..branches).map(|n| match n % 10 {
            9 => {
                let levels = json!({ "users": {}, "state_default": 50, "events_default": 0,
                    "events": { format!("branch.{branches}"): n } });
                Deed::set("m.room.power_levels", "", levels)
            }
            _ => Deed::set(
                "m.room.topic",
                "",
                json!({ "topic": format!("{branches} {n}") }),
            ),
        });
        let events = self.resident.fork(deeds.collect())?;
        let (begun, cpu) = (Instant::now(), self.cpu()?);
        for some in events.chunks(TRANSACTION) {
            self.resident.send(&self.server.name(), some).await?;
        }
        // The message follows some of the ends, so its own state has to be resolved too.
        let last = self.resident.make(vec![Deed::say("the fork ends")])?;
        self.resident.send(&self.server.name(), &last).await?;
        let took = begun.elapsed().as_secs_f64() * 1e3 / branches.max(1) as f64;
        let cpu = (self.cpu()? - cpu) / branches.max(1) as f64;
        let name = format!(
            "a fork with {branches} branches, room of {}, per branch",
            self.members
        );
        let note = format!("all within {:.2} s", begun.elapsed().as_secs_f64());
        self.push(What::Fork(branches), name, (took, "ms"), Some(cpu), note);
        Ok(())
    }
}

fn token(sync: &Value) -> anyhow::Result<String> {
    let token = sync["next_batch"].as_str();
    Ok(token.context("a sync without next_batch")?.to_owned())
}
