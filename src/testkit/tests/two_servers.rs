//! Two servers that federate over TLS: a room that people on both write to at once is the same
//! room on both in the end, also when one of them was down for a while, or killed.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, bail};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use resuni_testkit::{CallError, Client, Reader, Server, World, agree_within};
use serde_json::json;

/// Messages from each side.
const MESSAGES: usize = 500;
/// More than this means that something is stuck.
const PATIENCE: Duration = Duration::from_secs(120);

/// One side of a room: somebody with power who writes, somebody who comes and goes, and a reader.
struct Side {
    writer: Client,
    guest: Client,
    /// The guest is in.
    inside: bool,
    reader: Reader,
    /// The name of the server through which the room can be joined.
    via: String,
    sent: Vec<String>,
    random: StdRng,
}

/// A room in which the writers of both sides are moderators.
async fn shared_room(
    one: &Server,
    two: &Server,
    version: &str,
) -> anyhow::Result<(String, [Side; 2])> {
    let mut sides = Vec::new();
    for (server, other) in [(one, two), (two, one)] {
        let nobody = server.client()?;
        let name = |role: &str| format!("{role}-v{version}");
        sides.push(Side {
            writer: nobody.register(&name("writer")).await?,
            guest: nobody.register(&name("guest")).await?,
            inside: false,
            reader: Reader::new(nobody.register(&name("reader")).await?),
            via: other.name(),
            sent: Vec::new(),
            random: StdRng::seed_from_u64(7 + sides.len() as u64),
        });
    }
    let [a, b]: [Side; 2] = sides.try_into().ok().context("two sides")?;
    let body = json!({ "preset": "public_chat", "room_version": version });
    let room = a.writer.create_room(body).await?;
    a.reader.client().join(&room, &[]).await?;
    for client in [&b.writer, b.reader.client()] {
        client.join(&room, &[&b.via]).await?;
    }
    let mut levels = a.writer.state(&room, "m.room.power_levels", "").await?;
    levels["users"][b.writer.user()] = json!(90);
    a.writer
        .set_state(&room, "m.room.power_levels", "", levels)
        .await?;
    Ok((room, [a, b]))
}

impl Side {
    /// Messages, and between them topics, power levels, joins, leaves and kicks.
    async fn write(&mut self, room: &str, messages: usize, round: &str) -> anyhow::Result<()> {
        for n in 0..messages {
            let (txn, text) = (format!("{round}-{n}"), format!("{round} {n}"));
            let event = self.writer.send(room, &txn, &text).await?;
            self.sent.push(event);
            match self.random.random_range(0..40) {
                0 => {
                    let topic =
                        json!({ "topic": format!("{round} {n} by {}", self.writer.user()) });
                    let event = self.writer.set_state(room, "m.room.topic", "", topic).await;
                    self.sent.extend(allowed(event)?);
                }
                1 => {
                    let mut levels = self.writer.state(room, "m.room.power_levels", "").await?;
                    levels["events"]["eu.resuni.test"] = json!(self.random.random_range(0..50));
                    let kind = "m.room.power_levels";
                    let event = self.writer.set_state(room, kind, "", levels).await;
                    // What changes nothing is answered with the event that there is.
                    let event = allowed(event)?.filter(|event| !self.sent.contains(event));
                    self.sent.extend(event);
                }
                2 | 3 => self.come_or_go(room).await?,
                _ => {}
            }
        }
        Ok(())
    }

    async fn come_or_go(&mut self, room: &str) -> anyhow::Result<()> {
        if self.inside {
            if self.random.random_bool(0.5) {
                let user = self.guest.user().to_owned();
                allowed(self.writer.membership(room, "kick", Some(&user)).await)?;
            } else {
                allowed(self.guest.membership(room, "leave", None).await)?;
            }
        } else {
            self.guest.join(room, &[&self.via]).await?;
        }
        self.inside = !self.inside;
        Ok(())
    }
}

/// What two people do at once may contradict: then one of them may be refused.
fn allowed<T>(outcome: Result<T, CallError>) -> Result<Option<T>, CallError> {
    match outcome {
        Ok(done) => Ok(Some(done)),
        Err(CallError::Answer { status, .. }) if status == 403 => Ok(None),
        Err(error) => Err(error),
    }
}

/// Both have the same events and state, and the readers of both were shown everything, in order.
async fn same_in_the_end(room: &str, sides: &mut [Side; 2]) -> anyhow::Result<()> {
    let [a, b] = sides;
    let everything: Vec<String> = a.sent.iter().chain(&b.sent).cloned().collect();
    for reader in [&mut a.reader, &mut b.reader] {
        reader.until_seen(room, &everything, PATIENCE).await?;
    }
    agree_within(a.reader.client(), b.reader.client(), room, PATIENCE).await?;
    for reader in [&mut a.reader, &mut b.reader] {
        while reader.step(Duration::ZERO).await? > 0 {}
        reader.check_nothing_twice()?;
    }
    in_order(room, &a.sent, &b.reader)?;
    in_order(room, &b.sent, &a.reader)
}

/// One writer's events are shown to the other side in the order in which they were written.
fn in_order(room: &str, sent: &[String], reader: &Reader) -> anyhow::Result<()> {
    let place: HashMap<&str, usize> = sent
        .iter()
        .enumerate()
        .map(|(n, event)| (event.as_str(), n))
        .collect();
    let shown: Vec<usize> = reader
        .seen(room)
        .iter()
        .filter_map(|event| place.get(event["event_id"].as_str()?).copied())
        .collect();
    if shown.len() != sent.len() {
        bail!("{} of {} events were shown", shown.len(), sent.len());
    }
    let late = shown.windows(2).find(|pair| pair[0] > pair[1]);
    match late {
        None => Ok(()),
        Some(pair) => bail!(
            "{} was shown the {}th event before the {}th",
            reader.client().user(),
            pair[0],
            pair[1]
        ),
    }
}

async fn doctor(mut servers: [Server; 2], rooms: &[String]) -> anyhow::Result<()> {
    for server in &mut servers {
        server.stop().await?;
        server.doctor()?;
    }
    let [one, two] = &servers;
    for room in rooms {
        let (mine, theirs) = (one.digest(room)?, two.digest(room)?);
        if mine != theirs {
            bail!("the digests of {room} differ: {mine} and {theirs}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rooms_are_the_same_on_both() -> anyhow::Result<()> {
    let world = World::new("both")?;
    let (one, two) = (world.resuni("one").await?, world.resuni("two").await?);
    let (twelve, mut in_twelve) = shared_room(&one, &two, "12").await?;
    let (eleven, mut in_eleven) = shared_room(&two, &one, "11").await?;
    let [a, b] = &mut in_twelve;
    let [c, d] = &mut in_eleven;
    tokio::try_join!(
        a.write(&twelve, MESSAGES, "a"),
        b.write(&twelve, MESSAGES, "b"),
        c.write(&eleven, MESSAGES, "c"),
        d.write(&eleven, MESSAGES, "d"),
    )?;
    same_in_the_end(&twelve, &mut in_twelve)
        .await
        .context("version 12")?;
    same_in_the_end(&eleven, &mut in_eleven)
        .await
        .context("version 11")?;
    doctor([one, two], &[twelve, eleven]).await?;
    world.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_down_catches_up() -> anyhow::Result<()> {
    let world = World::new("down")?;
    let (one, mut two) = (world.resuni("one").await?, world.resuni("two").await?);
    let (room, mut sides) = shared_room(&one, &two, "12").await?;
    for side in &mut sides {
        side.write(&room, 10, "before").await?;
    }
    same_in_the_end(&room, &mut sides).await.context("before")?;

    two.stop().await?;
    let [a, b] = &mut sides;
    // More than a transaction and a page of missing events can carry.
    for n in 0..150 {
        let event = a
            .writer
            .send(&room, &format!("down-{n}"), &format!("down {n}"))
            .await?;
        a.sent.push(event);
        if n % 50 == 0 {
            let topic = json!({ "topic": format!("down {n}") });
            a.sent
                .push(a.writer.set_state(&room, "m.room.topic", "", topic).await?);
        }
    }
    two.start().await?;
    // It writes before it knows what it missed, so that the room forks and joins again.
    b.write(&room, 5, "after").await?;
    a.write(&room, 5, "after").await?;
    same_in_the_end(&room, &mut sides).await.context("after")?;
    doctor([one, two], &[room]).await?;
    world.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_loses_nothing_of_another() -> anyhow::Result<()> {
    let world = World::new("killed")?;
    let (one, mut two) = (world.resuni("one").await?, world.resuni("two").await?);
    let (room, mut sides) = shared_room(&one, &two, "12").await?;
    for round in 0..5 {
        let [a, b] = &mut sides;
        let name = format!("round{round}");
        let killer = async {
            tokio::time::sleep(Duration::from_millis(150 + 70 * round)).await;
            two.kill()?;
            two.doctor()?;
            two.start().await
        };
        tokio::try_join!(a.write(&room, 40, &name), killer)?;
        b.write(&room, 5, &name).await?;
    }
    same_in_the_end(&room, &mut sides).await?;
    doctor([one, two], &[room]).await?;
    world.passed();
    Ok(())
}
