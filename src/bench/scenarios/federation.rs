//! Delivery, to clients of the same server and of another one.

use std::time::{Duration, Instant};

use anyhow::Context;
use resuni_testkit::{Client, Server};

use super::{Bench, SENDERS, create_room, next_batch, send, timeline};
use crate::{
    load, measure,
    table::{Row, What},
};

const BIG_TIMELINE: &str = r#"{"room":{"timeline":{"limit":1000}}}"#;

/// Until the other server has settled after a join: what it does next is not part of a delivery.
const SETTLING: Duration = Duration::from_secs(3);

/// Messages to many waiting clients.
const FAN_OUTS: usize = 10;

/// Until all of them wait.
const FAN_OUT_PAUSE: Duration = Duration::from_secs(1);

impl Bench {
    pub(super) async fn local_delivery(
        &mut self,
        users: &[Client],
        owner: &Client,
    ) -> anyhow::Result<()> {
        let room = create_room(owner, "delivery").await?;
        let reader = users.get(1).context("one user only")?;
        reader.join(&room, &[]).await?;
        let samples = delivery(owner, reader, &room, self.sizes.deliveries).await?;
        let name = "delivery, send to another client's waiting sync";
        self.latency(What::Delivery, name, samples, None);
        Ok(())
    }

    /// One message to many clients that wait for it.
    pub(super) async fn fan_out(
        &mut self,
        server: &Server,
        users: &[Client],
        large: &str,
    ) -> anyhow::Result<()> {
        let waiting = self.sizes.waiting;
        let owner = users.first().context("no users")?;
        let readers: Vec<Client> = users.iter().skip(1).take(waiting).cloned().collect();
        let mut since = vec![next_batch(&owner.sync("", Duration::ZERO, "").await?)?; waiting];
        let mut samples = Vec::new();
        let before = measure::cpu_ms(server.pid()?)?;
        for n in 0..FAN_OUTS {
            let text = format!("to all {n}");
            let waiters: Vec<_> = readers
                .iter()
                .zip(since)
                .map(|(reader, since)| {
                    let place = large.to_owned();
                    tokio::spawn(arrival(reader.clone(), since, place, text.clone()))
                })
                .collect();
            tokio::time::sleep(FAN_OUT_PAUSE).await;
            let begun = Instant::now();
            send(owner, large, &format!("a{n}"), &text).await?;
            let (mut last, mut next) = (begun, Vec::new());
            for waiter in waiters {
                let (token, arrived) = waiter.await??;
                next.push(token);
                last = last.max(arrived);
            }
            since = next;
            samples.push(last.duration_since(begun).as_secs_f64() * 1e3);
        }
        let cpu = measure::cpu_ms(server.pid()?)? - before;
        let name = format!("one message to {waiting} waiting clients, the last of them");
        self.latency(What::FanOut, &name, samples, Some(cpu));
        Ok(())
    }

    pub(super) async fn federation(
        &mut self,
        one: &Server,
        two: &Server,
        users: &[Client],
        large: &str,
    ) -> anyhow::Result<()> {
        let owner = users.first().context("no users")?;
        let reader = two.client()?.register("reader").await?;
        let members = self.sizes.members;
        self.remote_join(one, two, &reader, large).await?;
        tokio::time::sleep(SETTLING).await;
        let samples = delivery(owner, &reader, large, self.sizes.deliveries).await?;
        let name = format!("delivery to the other server, room of {members}");
        self.latency(What::RemoteDelivery, &name, samples, None);
        self.burst(users, &reader, large).await
    }

    async fn remote_join(
        &mut self,
        one: &Server,
        two: &Server,
        reader: &Client,
        large: &str,
    ) -> anyhow::Result<()> {
        let used = || anyhow::Ok((measure::cpu_ms(one.pid()?)?, measure::cpu_ms(two.pid()?)?));
        let before = used()?;
        let begun = Instant::now();
        reader.join(large, &[one.name().as_str()]).await?;
        let took = begun.elapsed().as_secs_f64();
        let after = used()?;
        let members = self.sizes.members;
        self.push(Row {
            what: What::RemoteJoin,
            name: format!("federated join of a room with {members} members"),
            value: took,
            unit: "s",
            more_is_better: false,
            cpu_ms: Some(after.1 - before.1),
            note: format!(
                "CPU is the joining server's; the other's {:.0} ms",
                after.0 - before.0
            ),
        });
        Ok(())
    }

    /// Many messages at once, until the other server's client has them all.
    async fn burst(
        &mut self,
        users: &[Client],
        reader: &Client,
        large: &str,
    ) -> anyhow::Result<()> {
        let burst = self.sizes.burst;
        let mut since = next_batch(&reader.sync("", Duration::ZERO, "").await?)?;
        let senders: Vec<Client> = users.iter().take(SENDERS).cloned().collect();
        let (begun, room) = (Instant::now(), large.to_owned());
        let longest = Duration::from_secs(120);
        let sending = tokio::spawn(load::run(SENDERS, burst, longest, move |worker, index| {
            let (user, room) = (senders[worker].clone(), room.clone());
            async move { send(&user, &room, &format!("b{index}"), "burst").await }
        }));
        let mut seen = 0;
        while seen < burst && begun.elapsed() < Duration::from_secs(300) {
            let wait = Duration::from_secs(10);
            let answer = reader.sync(&since, wait, BIG_TIMELINE).await?;
            let new = timeline(&answer, large).filter(|event| event["content"]["body"] == "burst");
            seen += new.count();
            since = next_batch(&answer)?;
        }
        let took = begun.elapsed().as_secs_f64();
        let sent = sending.await??;
        self.push(Row {
            what: What::Burst,
            name: format!("a burst of {burst} messages to the other server"),
            value: seen as f64 / took,
            unit: "/s",
            more_is_better: true,
            cpu_ms: None,
            note: format!(
                "{seen} arrived in {took:.2} s; sent within {:.2} s",
                sent.wall.as_secs_f64()
            ),
        });
        Ok(())
    }
}

/// From the moment a send is begun until the waiting sync of `reader` has brought it, in
/// milliseconds, one at a time.
async fn delivery(
    sender: &Client,
    reader: &Client,
    room: &str,
    count: usize,
) -> anyhow::Result<Vec<f64>> {
    let mut since = next_batch(&reader.sync("", Duration::ZERO, "").await?)?;
    let mut samples = Vec::new();
    for n in 0..count {
        let text = format!("delivery {n}");
        let waiter = arrival(reader.clone(), since, room.to_owned(), text.clone());
        let waiting = tokio::spawn(waiter);
        tokio::time::sleep(Duration::from_millis(30)).await;
        let begun = Instant::now();
        let txn = format!("d{}{n}", reader.user().len());
        send(sender, room, &txn, &text).await?;
        let (next, arrived) = waiting.await??;
        since = next;
        samples.push(arrived.duration_since(begun).as_secs_f64() * 1e3);
    }
    Ok(samples)
}

/// Syncs until a message is there; gives the token after it and the moment it came.
async fn arrival(
    reader: Client,
    mut since: String,
    room: String,
    text: String,
) -> anyhow::Result<(String, Instant)> {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        let answer = reader.sync(&since, Duration::from_secs(30), "").await?;
        since = next_batch(&answer)?;
        if timeline(&answer, &room).any(|event| event["content"]["body"] == text.as_str()) {
            return Ok((since, Instant::now()));
        }
    }
    anyhow::bail!("a message was not delivered within a minute")
}
