//! The loads, in the order they are run. Each starts from what the one before left.

mod devices;
mod federation;
mod reads;
mod sends;

use std::time::Duration;

use anyhow::Context;
use resuni_testkit::{Client, Server};
use serde_json::{Value, json};

use crate::{
    load::{self, Load, percentile},
    measure,
    table::{Row, What},
};

/// Connections of a send load.
const SENDERS: usize = 16;

const TWO_AT_A_TIME: &str = "two servers of a kind at a time";

/// How much to do.
#[derive(Debug, Clone)]
pub struct Sizes {
    /// What the report is called.
    pub title: &'static str,
    /// The command that makes it.
    pub command: &'static str,
    /// What runs at the same time.
    pub servers: &'static str,
    /// Whether these are the sizes that the project's aims are about.
    pub aims: bool,
    /// Whether loads are bounded by the two below.
    pub bounded: bool,
    /// Messages of a send load at the most.
    pub sends: usize,
    /// A load's time at the most.
    pub send_time: Duration,
    /// Messages in the long room before it is measured.
    pub long_room: usize,
    /// Time for filling the long room at the most.
    pub fill_time: Duration,
    /// Members of the large room.
    pub members: usize,
    /// How many of them wait for a message at once.
    pub waiting: usize,
    /// Rooms of the busy user.
    pub rooms: usize,
    /// Messages in each of them.
    pub messages_per_room: usize,
    /// In how many rooms the user is whose first syncs are compared, growing.
    pub room_counts: &'static [usize],
    /// Clients that wait while nothing happens.
    pub idle_clients: usize,
    /// Samples of a delivery latency.
    pub deliveries: usize,
    /// Messages of the burst to the other server.
    pub burst: usize,
}

impl Sizes {
    /// To see that everything works.
    pub fn quick() -> Self {
        Self {
            title: "Performance: a short look",
            command: "resuni-bench --size quick",
            servers: TWO_AT_A_TIME,
            aims: true,
            bounded: true,
            sends: 500,
            send_time: Duration::from_secs(5),
            long_room: 500,
            fill_time: Duration::from_secs(10),
            members: 50,
            waiting: 20,
            rooms: 10,
            messages_per_room: 10,
            room_counts: &[10, 30],
            idle_clients: 200,
            deliveries: 20,
            burst: 50,
        }
    }

    /// What `docs/performance.md` shows.
    pub fn full() -> Self {
        Self {
            title: "Performance",
            command: "make bench",
            servers: TWO_AT_A_TIME,
            aims: true,
            bounded: true,
            sends: 20_000,
            send_time: Duration::from_secs(10),
            long_room: 10_000,
            fill_time: Duration::from_secs(150),
            members: 500,
            waiting: 200,
            rooms: 100,
            messages_per_room: 50,
            room_counts: &[10, 100, 1_000],
            idle_clients: 5_000,
            deliveries: 100,
            burst: 500,
        }
    }

    /// Ten times as much of what must not make a server slow. It takes other servers hours.
    pub fn large() -> Self {
        Self {
            title: "Performance: ten times as large",
            command: "resuni-bench --size large",
            aims: false,
            long_room: 100_000,
            members: 5_000,
            waiting: 1_000,
            rooms: 1_000,
            messages_per_room: 10,
            burst: 2_000,
            ..Self::full()
        }
    }
}

impl Sizes {
    /// The heading of the report about the sizes of rooms, which are measured by loads of their own.
    pub fn of_rooms() -> Self {
        Self {
            title: "Performance: what the size of a room costs",
            command: "make bench-rooms",
            servers: "one server at a time, beside a made-up one that holds the rooms,",
            aims: false,
            bounded: false,
            ..Self::full()
        }
    }
}

/// Runs everything against two servers of a kind and stops them. Gives the version that they say
/// they are, and what was measured.
pub async fn run(
    mut one: Server,
    mut two: Server,
    sizes: &Sizes,
) -> anyhow::Result<(String, Vec<Row>)> {
    let version = version(&one).await?;
    let mut bench = Bench {
        sizes: sizes.clone(),
        rows: Vec::new(),
    };
    // What a server does once after its start is not what it needs when idle.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let idle = measure::resident_mb(one.pid()?)?;
    bench.memory(What::MemoryIdle, "resident memory, idle", idle);
    let users = register(&one, sizes.members.max(SENDERS)).await?;
    let owner = users.first().context("no users")?.clone();
    bench.sends(&one, &users, &owner).await?;
    let large = bench.large_room(&one, &users, &owner).await?;
    bench.state(&one, &users, &owner).await?;
    bench.syncs(&one).await?;
    bench.first_looks(&one).await?;
    bench.follow(&one, &users).await?;
    bench.wait(&one).await?;
    bench.lazy_sync(&one, &users).await?;
    bench.local_delivery(&users, &owner).await?;
    bench.fan_out(&one, &users, &large).await?;
    bench.federation(&one, &two, &users, &large).await?;
    let after = measure::resident_mb(one.pid()?)?;
    bench.memory(What::MemoryAfter, "resident memory, after the run", after);
    one.stop().await?;
    two.stop().await?;
    Ok((version, bench.rows))
}

async fn version(server: &Server) -> anyhow::Result<String> {
    let client = server.client()?;
    let answer = client.get("/_matrix/federation/v1/version").await?;
    let version = answer["server"]["version"].as_str();
    Ok(version.unwrap_or("unknown version").to_owned())
}

async fn register(server: &Server, count: usize) -> anyhow::Result<Vec<Client>> {
    eprintln!("   registering {count} users");
    let client = server.client()?;
    let mut users = Vec::with_capacity(count);
    for n in 0..count {
        users.push(client.register(&format!("user{n}")).await?);
    }
    Ok(users)
}

/// A public room of the newest version that both kinds of servers know.
async fn create_room(owner: &Client, name: &str) -> anyhow::Result<String> {
    let body = json!({ "preset": "public_chat", "name": name, "room_version": "12" });
    owner.create_room(body).await
}

fn next_batch(sync: &Value) -> anyhow::Result<String> {
    let token = sync["next_batch"].as_str();
    Ok(token.context("a sync without next_batch")?.to_owned())
}

fn timeline<'a>(sync: &'a Value, room: &str) -> impl Iterator<Item = &'a Value> {
    let events = sync["rooms"]["join"][room]["timeline"]["events"].as_array();
    events.into_iter().flatten()
}

/// Sends a text without looking at the answer but for its status.
async fn send(user: &Client, room: &str, txn: &str, text: &str) -> anyhow::Result<()> {
    user.send(room, txn, text).await?;
    Ok(())
}

/// What has been measured so far.
struct Bench {
    sizes: Sizes,
    rows: Vec<Row>,
}

impl Bench {
    fn push(&mut self, row: Row) {
        let cpu = row
            .cpu_ms
            .map(|cpu| format!(", {cpu:.3} ms CPU"))
            .unwrap_or_default();
        eprintln!(
            "   {}: {:.2} {}{cpu} {}",
            row.name, row.value, row.unit, row.note
        );
        self.rows.push(row);
    }

    fn memory(&mut self, what: What, name: &str, megabytes: f64) {
        self.push(Row {
            what,
            name: name.to_owned(),
            value: megabytes,
            unit: "MB",
            more_is_better: false,
            cpu_ms: None,
            note: String::new(),
        });
    }

    fn rate(&mut self, what: What, name: &str, load: &Load, cpu: f64) {
        self.push(Row {
            what,
            name: name.to_owned(),
            value: load.rate(),
            unit: "/s",
            more_is_better: true,
            cpu_ms: Some(cpu / load.done.max(1) as f64),
            note: format!(
                "{} done, p50 {:.1} ms, p99 {:.1} ms",
                load.done,
                load.percentile(0.5),
                load.percentile(0.99)
            ),
        });
    }

    /// `cpu` is the server's for all samples, where it was taken.
    fn latency(&mut self, what: What, name: &str, mut samples: Vec<f64>, cpu: Option<f64>) {
        samples.sort_by(f64::total_cmp);
        self.push(Row {
            what,
            name: format!("{name}, p50"),
            value: percentile(&samples, 0.5),
            unit: "ms",
            more_is_better: false,
            cpu_ms: cpu.map(|cpu| cpu / samples.len().max(1) as f64),
            note: format!(
                "p10 {:.1} ms, p99 {:.1} ms, {} samples",
                percentile(&samples, 0.1),
                percentile(&samples, 0.99),
                samples.len()
            ),
        });
    }
}

/// Runs a load and takes the server's CPU time over it, in milliseconds.
async fn measured<F, Fut>(
    server: &Server,
    workers: usize,
    most: usize,
    longest: Duration,
    op: F,
) -> anyhow::Result<(Load, f64)>
where
    F: Fn(usize, usize) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = anyhow::Result<()>> + Send,
{
    let before = measure::cpu_ms(server.pid()?)?;
    let load = load::run(workers, most, longest, op).await?;
    Ok((load, measure::cpu_ms(server.pid()?)? - before))
}

/// A GET of one path by four connections of one user, over and over.
async fn read_load(
    server: &Server,
    user: &Client,
    path: String,
    most: usize,
    longest: Duration,
) -> anyhow::Result<(Load, f64)> {
    let user = user.clone();
    measured(server, 4, most, longest, move |_, _| {
        let (user, path) = (user.clone(), path.clone());
        async move {
            user.fetch(&path).await?;
            Ok(())
        }
    })
    .await
}
