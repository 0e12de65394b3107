//! What devices do all day: begin, follow, wait. Room lists as today's clients load them.

use std::time::{Duration, Instant};

use anyhow::Context;
use resuni_testkit::{Client, Server, sync_path};
use serde_json::json;

use super::{Bench, create_room, measured, next_batch, send};
use crate::{
    measure,
    table::{Row, What},
};

/// First syncs and first lists that are timed.
const FIRST: usize = 5;
/// People who talk and follow at once.
const FOLLOWERS: usize = 8;
/// How long clients wait, and for how long what that costs is taken.
const WAIT: Duration = Duration::from_secs(60);
const IDLE: Duration = Duration::from_secs(5);
/// What waits is begun in portions, so that no queue overflows.
const PORTION: usize = 50;
/// People who have several clients each, when there are many clients.
const WAITERS: usize = 200;

const SLIDING: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";

impl Bench {
    /// First syncs and the first window of a room list, of a user in more and more rooms.
    pub(super) async fn first_looks(&mut self, server: &Server) -> anyhow::Result<()> {
        let user = server.client()?.register("collector").await?;
        let (mut rooms, counts) = (0, self.sizes.room_counts);
        for (turn, count) in counts.iter().enumerate() {
            while rooms < *count {
                let room = create_room(&user, &format!("collected {rooms}")).await?;
                send(&user, &room, &format!("c{rooms}"), "hello").await?;
                rooms += 1;
            }
            // Synapse answers the same first sync from a cache for two minutes.
            let from = 10 + turn * FIRST;
            let limits = from..from + FIRST;
            let filters = limits
                .clone()
                .map(|limit| format!("{{\"room\":{{\"timeline\":{{\"limit\":{limit}}}}}}}"));
            let paths: Vec<String> = filters
                .map(|filter| sync_path("", Duration::ZERO, &filter))
                .collect();
            let before = measure::cpu_ms(server.pid()?)?;
            let mut samples = Vec::new();
            for path in paths {
                let begun = Instant::now();
                user.fetch(&path).await?;
                samples.push(begun.elapsed().as_secs_f64() * 1e3);
            }
            let cpu = measure::cpu_ms(server.pid()?)? - before;
            let name = format!("first sync of a user in {rooms} rooms");
            self.latency(What::FirstSyncOf(*count), &name, samples, Some(cpu));
            self.first_lists(server, &user, *count).await?;
        }
        Ok(())
    }

    /// The first 20 rooms by sliding sync (MSC4186), each with its newest event.
    async fn first_lists(
        &mut self,
        server: &Server,
        user: &Client,
        rooms: usize,
    ) -> anyhow::Result<()> {
        let mut samples = Vec::new();
        let before = measure::cpu_ms(server.pid()?)?;
        for n in 0..FIRST {
            let state = [
                ["m.room.name", ""],
                ["m.room.member", "$LAZY"],
                ["m.room.member", "$ME"],
            ];
            let list = json!({ "ranges": [[0, 19]], "required_state": state, "timeline_limit": 1 });
            let body = json!({ "conn_id": format!("list {n}"), "lists": { "all": list } });
            let begun = Instant::now();
            let answer = user.post(SLIDING, body).await?;
            samples.push(begun.elapsed().as_secs_f64() * 1e3);
            let told = answer["rooms"].as_object().map_or(0, serde_json::Map::len);
            anyhow::ensure!(told == rooms.min(20), "the first list has {told} rooms");
        }
        let cpu = measure::cpu_ms(server.pid()?)? - before;
        let name = format!("sliding sync, first 20 of {rooms} rooms");
        self.latency(What::FirstListOf(rooms), &name, samples, Some(cpu));
        Ok(())
    }

    /// Each says something in their own room and syncs until they have it, over and over.
    pub(super) async fn follow(&mut self, server: &Server, users: &[Client]) -> anyhow::Result<()> {
        let mut people = Vec::new();
        for user in users.iter().take(FOLLOWERS) {
            let room = create_room(user, "a diary").await?;
            let since = next_batch(&user.sync("", Duration::ZERO, "").await?)?;
            let since = std::sync::Arc::new(tokio::sync::Mutex::new(since));
            people.push((user.clone(), room, since));
        }
        let most = self.sizes.sends;
        let longest = self.sizes.send_time;
        let (load, cpu) = measured(server, people.len(), most, longest, move |worker, index| {
            let (user, room, since) = people[worker].clone();
            async move {
                send(&user, &room, &format!("f{index}"), "hello").await?;
                let mut since = since.lock().await;
                let answer = user.sync(&since, WAIT, "").await?;
                *since = next_batch(&answer)?;
                Ok(())
            }
        })
        .await?;
        let name = "a message and the sync that brings it to its sender";
        self.rate(What::Follow, name, &load, cpu);
        Ok(())
    }

    /// Many clients that wait, and nothing that happens: people who share no room, and whose presence nobody is told.
    pub(super) async fn wait(&mut self, server: &Server) -> anyhow::Result<()> {
        let waiting = self.sizes.idle_clients;
        let (mut users, mut tokens) = (Vec::new(), Vec::new());
        for n in 0..waiting.min(WAITERS) {
            let user = server.client()?.register(&format!("waiter{n}")).await?;
            create_room(&user, "to wait in").await?;
            // What only the first syncs bring is over with the second.
            let first = next_batch(&user.get(&silent("", Duration::ZERO)).await?)?;
            let second = user.get(&silent(&first, Duration::ZERO)).await?;
            tokens.push(next_batch(&second)?);
            users.push(user);
        }
        let before = measure::resident_mb(server.pid()?)?;
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..waiting {
            let user = users.get(n % users.len()).context("no users")?.clone();
            let path = silent(&tokens[n % users.len()], WAIT);
            tasks.spawn(async move { user.fetch(&path).await });
            if n % PORTION == PORTION - 1 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        tokio::time::sleep(IDLE).await;
        let after = measure::resident_mb(server.pid()?)?;
        let cpu = measure::cpu_ms(server.pid()?)?;
        tokio::time::sleep(IDLE).await;
        let cpu = (measure::cpu_ms(server.pid()?)? - cpu) / IDLE.as_millis() as f64 * 100.0;
        let ended = std::iter::from_fn(|| tasks.try_join_next()).count();
        tasks.abort_all();
        anyhow::ensure!(ended == 0, "{ended} of {waiting} did not wait");
        let row = |what, name: String, value, unit| Row {
            what,
            name,
            value,
            unit,
            more_is_better: false,
            cpu_ms: None,
            note: format!("of {} people", users.len()),
        };
        let kib = (after - before).max(0.0) * 1024.0 / waiting.max(1) as f64;
        let name = format!("memory for each of {waiting} waiting clients");
        self.push(row(What::WaitingMemory, name, kib, "KiB"));
        let name = format!("CPU while {waiting} clients wait");
        self.push(row(What::WaitingCpu, name, cpu, "% of a core"));
        Ok(())
    }
}

/// A sync that does not show its user as online.
fn silent(since: &str, timeout: Duration) -> String {
    sync_path(since, timeout, "") + "&set_presence=offline"
}
