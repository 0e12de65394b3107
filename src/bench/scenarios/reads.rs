//! Reading: pages of history, the state of a room, first and empty syncs.

use std::time::{Duration, Instant};

use anyhow::Context;
use resuni_testkit::{Client, Server, escape, sync_path};
use serde_json::Value;

use super::{Bench, create_room, next_batch, read_load, send};
use crate::{
    load, measure,
    table::{Row, What},
};

/// First syncs that are timed.
const FIRST_SYNCS: usize = 5;
const LAZY_SYNCS: usize = 20;

impl Bench {
    /// Pages of 100 backwards, by one client.
    pub(super) async fn history(
        &mut self,
        server: &Server,
        owner: &Client,
        room: &str,
    ) -> anyhow::Result<()> {
        let path = format!(
            "/_matrix/client/v3/rooms/{}/messages?dir=b&limit=100",
            escape(room)
        );
        let (mut next, mut events, mut pages) = (path.clone(), 0, 0_u32);
        let before = measure::cpu_ms(server.pid()?)?;
        let (begun, mut waited) = (Instant::now(), Duration::ZERO);
        while begun.elapsed() < self.sizes.send_time {
            let asked = Instant::now();
            let bytes = owner.fetch(&next).await?;
            // What the client does with the answer is not the server's time.
            waited += asked.elapsed();
            let answer: Value = serde_json::from_slice(&bytes)?;
            let chunk = answer["chunk"].as_array().map_or(0, Vec::len);
            (events, pages) = (events + chunk, pages + 1);
            match answer["end"].as_str() {
                Some(end) if chunk > 0 => next = format!("{path}&from={}", escape(end)),
                _ => break,
            }
        }
        let cpu = measure::cpu_ms(server.pid()?)? - before;
        self.push(Row {
            what: What::History,
            name: "pages of history (100 a page), one client".into(),
            value: events as f64 / waited.as_secs_f64().max(1e-9),
            unit: "events/s",
            more_is_better: true,
            cpu_ms: Some(cpu / f64::from(pages.max(1))),
            note: format!("{events} events; CPU is per page"),
        });
        Ok(())
    }

    pub(super) async fn state(
        &mut self,
        server: &Server,
        users: &[Client],
        owner: &Client,
    ) -> anyhow::Result<()> {
        let room = create_room(owner, "two hundred").await?;
        let members = users.len().min(200);
        for user in users.iter().take(members).skip(1) {
            user.join(&room, &[]).await?;
        }
        let path = format!("/_matrix/client/v3/rooms/{}/state", escape(&room));
        let (load, cpu) = read_load(server, owner, path, 4_000, self.sizes.send_time).await?;
        self.rate(
            What::State,
            &format!("/state of {members} members"),
            &load,
            cpu,
        );
        Ok(())
    }

    pub(super) async fn syncs(&mut self, server: &Server) -> anyhow::Result<()> {
        let rooms = self.sizes.rooms;
        let busy = server.client()?.register("busy").await?;
        let calm = server.client()?.register("calm").await?;
        create_room(&calm, "calm").await?;
        self.fill_rooms(&busy).await?;
        self.first_syncs(server, &busy).await?;
        self.empty_sync(server, &calm, What::EmptySyncOne, "a user in 1 room")
            .await?;
        let who = format!("a user in {rooms} rooms");
        self.empty_sync(server, &busy, What::EmptySyncMany, &who)
            .await
    }

    async fn fill_rooms(&self, user: &Client) -> anyhow::Result<()> {
        let mut ids = Vec::new();
        for n in 0..self.sizes.rooms {
            ids.push(create_room(user, &format!("room {n}")).await?);
        }
        let most = ids.len() * self.sizes.messages_per_room;
        let user = user.clone();
        load::run(8, most, Duration::from_secs(300), move |_, index| {
            let (user, room) = (user.clone(), ids[index % ids.len()].clone());
            async move { send(&user, &room, &format!("s{index}"), "hello").await }
        })
        .await?;
        Ok(())
    }

    async fn first_syncs(&mut self, server: &Server, user: &Client) -> anyhow::Result<()> {
        let (rooms, messages) = (self.sizes.rooms, self.sizes.messages_per_room);
        let mut samples = Vec::new();
        let before = measure::cpu_ms(server.pid()?)?;
        for n in 0..FIRST_SYNCS {
            // Synapse answers the same first sync from a cache for two minutes.
            let limit = messages + n;
            let filter = format!("{{\"room\":{{\"timeline\":{{\"limit\":{limit}}}}}}}");
            let begun = Instant::now();
            user.fetch(&sync_path("", Duration::ZERO, &filter)).await?;
            samples.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        let cpu = measure::cpu_ms(server.pid()?)? - before;
        let name = format!("first sync, {rooms} rooms × {messages} messages");
        self.latency(What::FirstSync, &name, samples, Some(cpu));
        Ok(())
    }

    /// The first sync of a member of the large room who is in no other, as clients ask for it.
    pub(super) async fn lazy_sync(
        &mut self,
        server: &Server,
        users: &[Client],
    ) -> anyhow::Result<()> {
        let members = self.sizes.members;
        let user = users.get(members - 1).context("no users")?;
        let mut samples = Vec::new();
        let before = measure::cpu_ms(server.pid()?)?;
        for n in 0..LAZY_SYNCS {
            let limit = 20 + n;
            let filter = format!(
                r#"{{"room":{{"timeline":{{"limit":{limit}}},"state":{{"lazy_load_members":true}}}}}}"#
            );
            let begun = Instant::now();
            user.fetch(&sync_path("", Duration::ZERO, &filter)).await?;
            samples.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        let cpu = measure::cpu_ms(server.pid()?)? - before;
        let name = format!("first sync with lazily loaded members, room of {members}");
        self.latency(What::LazySync, &name, samples, Some(cpu));
        Ok(())
    }

    async fn empty_sync(
        &mut self,
        server: &Server,
        user: &Client,
        what: What,
        who: &str,
    ) -> anyhow::Result<()> {
        let since = next_batch(&user.sync("", Duration::ZERO, "").await?)?;
        let since = next_batch(&user.sync(&since, Duration::ZERO, "").await?)?;
        let path = sync_path(&since, Duration::ZERO, "");
        let (load, cpu) = read_load(server, user, path, 20_000, self.sizes.send_time).await?;
        self.rate(what, &format!("empty incremental sync, {who}"), &load, cpu);
        Ok(())
    }
}
