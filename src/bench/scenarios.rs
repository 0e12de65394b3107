//! The loads, in the order they are run. Each starts from what the one before left.

use std::time::{Duration, Instant};

use anyhow::Context;
use reqwest::Method;
use serde_json::Value;

use crate::{
    api::{Api, escape, sync_path},
    load::{self, Load, percentile},
    measure,
    servers::{Pair, SECRET, Server},
};

/// How much to do.
#[derive(Debug, Clone)]
pub struct Sizes {
    /// Messages of a send load at the most.
    pub sends: usize,
    /// A send load's time at the most.
    pub send_time: Duration,
    /// Messages in the long room before it is measured.
    pub long_room: usize,
    /// Time for filling the long room at the most.
    pub fill_time: Duration,
    /// Members of the large room.
    pub members: usize,
    /// Rooms of the busy user.
    pub rooms: usize,
    /// Messages in each of them.
    pub messages_per_room: usize,
    /// Samples of a delivery latency.
    pub deliveries: usize,
    /// Messages of the burst to the other server.
    pub burst: usize,
}

impl Sizes {
    /// To see that everything works.
    pub fn quick() -> Self {
        Self {
            sends: 500,
            send_time: Duration::from_secs(5),
            long_room: 500,
            fill_time: Duration::from_secs(10),
            members: 50,
            rooms: 10,
            messages_per_room: 10,
            deliveries: 20,
            burst: 50,
        }
    }

    /// What `docs/performance.md` shows.
    pub fn full() -> Self {
        Self {
            sends: 20_000,
            send_time: Duration::from_secs(10),
            long_room: 10_000,
            fill_time: Duration::from_secs(150),
            members: 500,
            rooms: 100,
            messages_per_room: 50,
            deliveries: 100,
            burst: 500,
        }
    }
}

/// One line of the report.
#[derive(Debug, Clone)]
pub struct Row {
    /// What was done.
    pub name: String,
    /// The value, in `unit`.
    pub value: f64,
    /// The unit of `value`.
    pub unit: &'static str,
    /// Whether a larger value is the better one.
    pub more_is_better: bool,
    /// The server's CPU per operation, in milliseconds, where it was taken.
    pub cpu_ms: Option<f64>,
    /// A remark: spread, or how far a load came.
    pub note: String,
}

/// What one server did.
#[derive(Debug)]
pub struct Results {
    /// The server's name and version.
    pub server: String,
    /// In the order they were run.
    pub rows: Vec<Row>,
}

/// Runs everything against a pair of servers and stops it.
pub async fn run(mut pair: Pair, sizes: &Sizes) -> anyhow::Result<Results> {
    let mut bench = Bench {
        sizes: sizes.clone(),
        rows: Vec::new(),
    };
    tokio::time::sleep(Duration::from_secs(2)).await;
    let idle = measure::resident_mb(pair.one.pid())?;
    bench.plain("resident memory, idle", idle, "MB", false);
    let users = register(&pair.one, sizes.members.max(16)).await?;
    let owner = users.first().context("no users")?.clone();
    bench.sends(&pair.one, &users, &owner).await?;
    let large = bench.large_room(&pair.one, &users, &owner).await?;
    bench.state_of_200(&pair.one, &users, &owner).await?;
    bench.syncs(&pair.one).await?;
    bench.local_delivery(&users, &owner).await?;
    bench.federation(&pair, &users, &owner, &large).await?;
    let after = measure::resident_mb(pair.one.pid())?;
    bench.plain("resident memory, after the run", after, "MB", false);
    pair.one.stop()?;
    let server = format!("{} {}", pair.kind, pair.version);
    Ok(Results {
        server,
        rows: bench.rows,
    })
}

async fn register(server: &Server, count: usize) -> anyhow::Result<Vec<Api>> {
    eprintln!("   registering {count} users");
    let mut users = Vec::with_capacity(count);
    for n in 0..count {
        users.push(server.api.register(SECRET, &format!("user{n}")).await?);
    }
    Ok(users)
}

struct Bench {
    sizes: Sizes,
    rows: Vec<Row>,
}

impl Bench {
    fn push(&mut self, row: Row) {
        let cpu = row
            .cpu_ms
            .map(|c| format!(", {c:.3} ms CPU"))
            .unwrap_or_default();
        eprintln!(
            "   {}: {:.2} {}{cpu} {}",
            row.name, row.value, row.unit, row.note
        );
        self.rows.push(row);
    }

    fn plain(&mut self, name: &str, value: f64, unit: &'static str, more_is_better: bool) {
        self.push(Row {
            name: name.into(),
            value,
            unit,
            more_is_better,
            cpu_ms: None,
            note: String::new(),
        });
    }

    fn rate(&mut self, name: &str, load: &Load, cpu: f64) {
        self.push(Row {
            name: name.into(),
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

    fn latency(&mut self, name: &str, mut samples: Vec<f64>) {
        samples.sort_by(f64::total_cmp);
        self.push(Row {
            name: format!("{name}, p50"),
            value: percentile(&samples, 0.5),
            unit: "ms",
            more_is_better: false,
            cpu_ms: None,
            note: format!(
                "p99 {:.1} ms, {} samples",
                percentile(&samples, 0.99),
                samples.len()
            ),
        });
    }

    /// Runs a load and takes the server's CPU time over it.
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
        let before = measure::cpu_ms(server.pid())?;
        let load = load::run(workers, most, longest, op).await?;
        Ok((load, measure::cpu_ms(server.pid())? - before))
    }

    /// Sixteen connections send into one room.
    async fn send_load(
        &self,
        server: &Server,
        senders: &[Api],
        room: &str,
        most: usize,
        longest: Duration,
        tag: &'static str,
    ) -> anyhow::Result<(Load, f64)> {
        let senders: Vec<Api> = senders.iter().take(16).cloned().collect();
        let room = room.to_owned();
        Self::measured(server, 16, most, longest, move |worker, index| {
            let api = senders[worker % senders.len()].clone();
            let room = room.clone();
            async move {
                api.send(
                    &room,
                    &format!("{tag}{index}"),
                    "The quick brown fox jumps over the lazy dog",
                )
                .await
            }
        })
        .await
    }

    async fn sends(&mut self, server: &Server, users: &[Api], owner: &Api) -> anyhow::Result<()> {
        let (sends, time) = (self.sizes.sends, self.sizes.send_time);
        let room = owner.create_room("one").await?;
        for user in users.iter().take(16).skip(1) {
            user.join(&room, None).await?;
        }
        let (load, cpu) = self
            .send_load(server, users, &room, sends, time, "n")
            .await?;
        self.rate("sends into a new room, 16 connections", &load, cpu);

        let rooms = self.many_rooms(users).await?;
        let all: Vec<Api> = users.iter().take(16).cloned().collect();
        let (load, cpu) = Self::measured(server, 16, sends, time, move |worker, index| {
            let (api, room) = (all[worker].clone(), rooms[worker].clone());
            async move {
                api.send(
                    &room,
                    &format!("m{index}"),
                    "The quick brown fox jumps over the lazy dog",
                )
                .await
            }
        })
        .await?;
        self.rate("sends into 16 rooms, 16 connections", &load, cpu);

        let long = owner.create_room("long").await?;
        for user in users.iter().take(16).skip(1) {
            user.join(&long, None).await?;
        }
        let before = measure::bytes_on_disk(&server.data);
        let (fill, _) = self
            .send_load(
                server,
                users,
                &long,
                self.sizes.long_room,
                self.sizes.fill_time,
                "f",
            )
            .await?;
        let bytes = measure::bytes_on_disk(&server.data).saturating_sub(before);
        self.plain(
            "bytes on disk per message",
            bytes as f64 / fill.done.max(1) as f64,
            "bytes",
            false,
        );
        let (load, cpu) = self
            .send_load(server, users, &long, sends, time, "g")
            .await?;
        self.rate(
            &format!("sends into a room with {} messages", fill.done),
            &load,
            cpu,
        );
        self.history(server, owner, &long).await
    }

    async fn many_rooms(&self, users: &[Api]) -> anyhow::Result<Vec<String>> {
        let mut rooms = Vec::new();
        for user in users.iter().take(16) {
            rooms.push(user.create_room("own").await?);
        }
        Ok(rooms)
    }

    /// Pages of 100 backwards, by one client.
    async fn history(&mut self, server: &Server, owner: &Api, room: &str) -> anyhow::Result<()> {
        let (mut from, mut events) = (String::new(), 0_usize);
        let cpu = measure::cpu_ms(server.pid())?;
        let (begun, mut pages, mut waited) = (Instant::now(), 0, Duration::ZERO);
        while begun.elapsed() < self.sizes.send_time {
            let from_query = if from.is_empty() {
                String::new()
            } else {
                format!("&from={from}")
            };
            let path = format!(
                "/_matrix/client/v3/rooms/{}/messages?dir=b&limit=100{from_query}",
                escape(room)
            );
            let asked = Instant::now();
            let bytes = owner.call_bytes(Method::GET, &path, None).await?;
            waited += asked.elapsed();
            let answer: Value = serde_json::from_slice(&bytes)?;
            let chunk = answer["chunk"].as_array().map_or(0, Vec::len);
            (events, pages) = (events + chunk, pages + 1);
            match answer["end"].as_str() {
                Some(end) if chunk > 0 => from = end.to_owned(),
                _ => break,
            }
        }
        let cpu = measure::cpu_ms(server.pid())? - cpu;
        self.push(Row {
            name: "pages of history (100 a page), one client".into(),
            value: events as f64 / waited.as_secs_f64().max(1e-9),
            unit: "events/s",
            more_is_better: true,
            cpu_ms: Some(cpu / f64::from(pages.max(1))),
            note: format!("{events} events; CPU is per page"),
        });
        Ok(())
    }

    async fn large_room(
        &mut self,
        server: &Server,
        users: &[Api],
        owner: &Api,
    ) -> anyhow::Result<String> {
        let large = owner.create_room("large").await?;
        let joiners: Vec<Api> = users
            .iter()
            .skip(1)
            .take(self.sizes.members - 1)
            .cloned()
            .collect();
        let (room, most) = (large.clone(), joiners.len());
        let (load, cpu) = Self::measured(
            server,
            8,
            most,
            Duration::from_secs(300),
            move |_, index| {
                let (api, room) = (joiners[index].clone(), room.clone());
                async move { api.join(&room, None).await }
            },
        )
        .await?;
        self.rate("local joins of a public room, 8 at once", &load, cpu);
        let (load, cpu) = self
            .send_load(
                server,
                users,
                &large,
                self.sizes.sends,
                self.sizes.send_time,
                "l",
            )
            .await?;
        self.rate(
            &format!(
                "sends into a room with {} local members",
                self.sizes.members
            ),
            &load,
            cpu,
        );
        Ok(large)
    }

    async fn state_of_200(
        &mut self,
        server: &Server,
        users: &[Api],
        owner: &Api,
    ) -> anyhow::Result<()> {
        let room = owner.create_room("two hundred").await?;
        let members = users.len().min(200);
        for user in users.iter().take(members).skip(1) {
            user.join(&room, None).await?;
        }
        let path = format!("/_matrix/client/v3/rooms/{}/state", escape(&room));
        let api = owner.clone();
        let (load, cpu) = Self::measured(server, 4, 2_000, self.sizes.send_time, move |_, _| {
            let (api, path) = (api.clone(), path.clone());
            async move { api.call_bytes(Method::GET, &path, None).await.map(drop) }
        })
        .await?;
        self.rate(&format!("/state of {members} members"), &load, cpu);
        Ok(())
    }

    async fn syncs(&mut self, server: &Server) -> anyhow::Result<()> {
        let (rooms, messages) = (self.sizes.rooms, self.sizes.messages_per_room);
        let busy = server.api.register(SECRET, "busy").await?;
        let calm = server.api.register(SECRET, "calm").await?;
        calm.create_room("calm").await?;
        let mut ids = Vec::new();
        for n in 0..rooms {
            ids.push(busy.create_room(&format!("room {n}")).await?);
        }
        let (api, count) = (busy.clone(), ids.len());
        load::run(
            8,
            rooms * messages,
            Duration::from_secs(300),
            move |_, index| {
                let (api, room) = (api.clone(), ids[index % count].clone());
                async move { api.send(&room, &format!("s{index}"), "hello").await }
            },
        )
        .await?;
        let filter = format!("{{\"room\":{{\"timeline\":{{\"limit\":{messages}}}}}}}");
        let mut samples = Vec::new();
        for _ in 0..5 {
            let begun = Instant::now();
            busy.call_bytes(Method::GET, &sync_path("", 0, &filter), None)
                .await?;
            samples.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        let first = samples.first().copied().unwrap_or_default();
        self.plain(
            &format!("first sync, {rooms} rooms × {messages} messages, first of five"),
            first,
            "ms",
            false,
        );
        self.latency(
            &format!("first sync, {rooms} rooms × {messages} messages"),
            samples,
        );
        self.empty_sync(server, &calm, "a user in 1 room".to_owned())
            .await?;
        self.empty_sync(server, &busy, format!("a user in {rooms} rooms"))
            .await
    }

    async fn empty_sync(&mut self, server: &Server, user: &Api, who: String) -> anyhow::Result<()> {
        let since = next_batch(&user.sync("", 0, "").await?)?;
        let since = next_batch(&user.sync(&since, 0, "").await?)?;
        let user = user.clone();
        let (load, cpu) = Self::measured(server, 4, 10_000, self.sizes.send_time, move |_, _| {
            let (user, path) = (user.clone(), sync_path(&since, 0, ""));
            async move { user.call_bytes(Method::GET, &path, None).await.map(drop) }
        })
        .await?;
        self.rate(&format!("empty incremental sync, {who}"), &load, cpu);
        Ok(())
    }

    async fn local_delivery(&mut self, users: &[Api], owner: &Api) -> anyhow::Result<()> {
        let room = owner.create_room("delivery").await?;
        let reader = users.get(1).context("one user only")?;
        reader.join(&room, None).await?;
        let samples = delivery(owner, reader, &room, self.sizes.deliveries).await?;
        self.latency("delivery, send to another client's waiting sync", samples);
        Ok(())
    }

    async fn federation(
        &mut self,
        pair: &Pair,
        users: &[Api],
        owner: &Api,
        large: &str,
    ) -> anyhow::Result<()> {
        let reader = pair.two.api.register(SECRET, "reader").await?;
        let begun = Instant::now();
        reader.join(large, Some(&pair.one.name)).await?;
        let took = begun.elapsed().as_secs_f64();
        self.plain(
            &format!(
                "federated join of a room with {} members",
                self.sizes.members
            ),
            took,
            "s",
            false,
        );
        let samples = delivery(owner, &reader, large, self.sizes.deliveries).await?;
        self.latency(
            &format!(
                "delivery to the other server, room of {}",
                self.sizes.members
            ),
            samples,
        );

        let (burst, mut since) = (
            self.sizes.burst,
            next_batch(&reader.sync("", 0, "").await?)?,
        );
        let senders: Vec<Api> = users.iter().take(16).cloned().collect();
        let (begun, room) = (Instant::now(), large.to_owned());
        let sending = tokio::spawn(load::run(
            16,
            burst,
            Duration::from_secs(120),
            move |worker, index| {
                let (api, room) = (senders[worker].clone(), room.clone());
                async move { api.send(&room, &format!("b{index}"), "burst").await }
            },
        ));
        let mut seen = 0;
        while seen < burst && begun.elapsed() < Duration::from_secs(300) {
            let answer = reader.sync(&since, 10_000, BIG_TIMELINE).await?;
            seen += timeline(&answer, large)
                .filter(|e| e["content"]["body"] == "burst")
                .count();
            since = next_batch(&answer)?;
        }
        let took = begun.elapsed().as_secs_f64();
        sending.await??;
        self.plain(
            &format!("a burst of {burst} messages to the other server"),
            seen as f64 / took,
            "/s",
            true,
        );
        Ok(())
    }
}

const BIG_TIMELINE: &str = r#"{"room":{"timeline":{"limit":1000}}}"#;

fn next_batch(sync: &Value) -> anyhow::Result<String> {
    Ok(sync["next_batch"]
        .as_str()
        .context("a sync without next_batch")?
        .to_owned())
}

fn timeline<'a>(sync: &'a Value, room: &str) -> impl Iterator<Item = &'a Value> {
    sync["rooms"]["join"][room]["timeline"]["events"]
        .as_array()
        .into_iter()
        .flatten()
}

/// From the moment a send is begun until the waiting sync of `reader` has brought it, one at a time.
async fn delivery(
    sender: &Api,
    reader: &Api,
    room: &str,
    count: usize,
) -> anyhow::Result<Vec<f64>> {
    let mut since = next_batch(&reader.sync("", 0, "").await?)?;
    let mut samples = Vec::new();
    for n in 0..count {
        let body = format!("delivery {n}");
        let (waiter, from, wanted, place) =
            (reader.clone(), since.clone(), body.clone(), room.to_owned());
        let waiting = tokio::spawn(async move {
            let mut since = from;
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(60) {
                let answer = waiter.sync(&since, 30_000, "").await?;
                since = next_batch(&answer)?;
                if timeline(&answer, &place).any(|e| e["content"]["body"] == wanted.as_str()) {
                    return Ok((since, Instant::now()));
                }
            }
            anyhow::bail!("a message was not delivered within a minute")
        });
        tokio::time::sleep(Duration::from_millis(30)).await;
        let begun = Instant::now();
        sender
            .send(room, &format!("d{}{n}", reader.user_id.len()), &body)
            .await?;
        let (next, arrived) = waiting.await??;
        since = next;
        samples.push(arrived.duration_since(begun).as_secs_f64() * 1e3);
    }
    Ok(samples)
}
