//! Resuni and Synapse, each once as a room's creator: people join from the other server, write,
//! change things, are invited and kicked, and leave; in the end both have the same room. Also
//! what happens less often, see [`life`].

#[path = "synapse/life.rs"]
mod life;

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context, bail};
use futures_util::future::try_join_all;
use resuni_testkit::{CallError, Client, Reader, Server, World, agree_within};
use serde_json::{Value, json};

use life::{People, Versions};

/// More than this means that something is stuck.
const PATIENCE: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rooms_with_synapse() -> anyhow::Result<()> {
    let world = World::new("synapse")?;
    let (mut resuni, mut synapse) = (
        world.resuni("resuni").await?,
        world.synapse("synapse").await?,
    );
    for version in ["1", "3", "6", "9", "10", "11", "12"] {
        for (creator, joiner) in [(&resuni, &synapse), (&synapse, &resuni)] {
            let shared = share_a_room(creator, joiner, version).await;
            shared.with_context(|| {
                format!("a room of version {version} made by {:?}", creator.kind())
            })?;
        }
    }
    resuni.stop().await?;
    synapse.stop().await?;
    resuni.doctor()?;
    world.passed();
    Ok(())
}

/// Every version from the oldest to the newest is made on each side.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn life_with_synapse() -> anyhow::Result<()> {
    let world = World::new("life")?;
    let (mut resuni, mut synapse) = (
        world.resuni("resuni").await?,
        world.synapse("synapse").await?,
    );
    let ours = Versions {
        invites: "1",
        knocks: "9",
        restricted: "9",
        bans: "6",
        redactions: "1",
        upgrade: ("11", "12"),
        history: "12",
        outage: "10",
    };
    let theirs = Versions {
        invites: "6",
        knocks: "11",
        restricted: "12",
        bans: "1",
        redactions: "11",
        upgrade: ("9", "12"),
        history: "10",
        outage: "12",
    };
    let people = [
        People::of(&resuni, &synapse, ours).await?,
        People::of(&synapse, &resuni, theirs).await?,
    ];
    let met = people.iter().map(|people| async {
        let met = people.meet().await;
        met.with_context(|| format!("with {} as the creator", people.here))
    });
    try_join_all(met).await?;
    for people in &people {
        let room = people.shared().await?;
        let (here, there) = (&people.anna, &people.ben);
        let (creators, others) = match people.here == resuni.name() {
            true => (&mut resuni, &mut synapse),
            false => (&mut synapse, &mut resuni),
        };
        let away = people.outage(&room, (here, there), others);
        away.await.context("who joined was away")?;
        let away = people.outage(&room, (there, here), creators);
        away.await.context("who made the room was away")?;
    }
    resuni.stop().await?;
    synapse.stop().await?;
    resuni.doctor()?;
    world.passed();
    Ok(())
}

async fn share_a_room(creator: &Server, joiner: &Server, version: &str) -> anyhow::Result<()> {
    let role = |role: &str| format!("{role}-{:?}-v{version}", creator.kind()).to_lowercase();
    let (here, there) = (creator.client()?, joiner.client()?);
    let anna = here.register(&role("anna")).await?;
    let ben = there.register(&role("ben")).await?;
    let guest = there.register(&role("guest")).await?;
    let room = anna
        .create_room(json!({ "preset": "public_chat", "room_version": version }))
        .await?;
    let via = creator.name();

    // By invitation, and by the room's id.
    anna.membership(&room, "invite", Some(ben.user())).await?;
    wait_for_invite(&ben, &room).await?;
    ben.join(&room, &[]).await.context("the invited joins")?;
    guest.join(&room, &[&via]).await.context("somebody joins")?;
    let mut annas = Reader::new(anna.clone());
    let mut bens = Reader::new(ben.clone());

    let mut sent = Vec::new();
    for n in 0..30 {
        sent.push(
            anna.send(&room, &format!("a{n}"), &format!("anna {n}"))
                .await?,
        );
        sent.push(
            ben.send(&room, &format!("b{n}"), &format!("ben {n}"))
                .await?,
        );
    }
    annas.until_seen(&room, &sent, PATIENCE).await?;
    bens.until_seen(&room, &sent, PATIENCE).await?;

    let mut levels = anna.state(&room, "m.room.power_levels", "").await?;
    levels["users"][ben.user()] = json!(50);
    let given = anna
        .set_state(&room, "m.room.power_levels", "", levels)
        .await?;
    bens.until_seen(&room, &[given], PATIENCE).await?;
    let topic = json!({ "topic": "from the other server" });
    let changed = ben.set_state(&room, "m.room.topic", "", topic).await?;
    annas.until_seen(&room, &[changed], PATIENCE).await?;
    anna.membership(&room, "kick", Some(guest.user())).await?;
    wait_for_membership(&ben, &room, guest.user(), "leave").await?;
    agree_within(&anna, &ben, &room, PATIENCE).await?;

    guest.join(&room, &[&via]).await.context("back again")?;
    wait_for_membership(&anna, &room, guest.user(), "join").await?;
    guest.membership(&room, "leave", None).await?;
    wait_for_membership(&anna, &room, guest.user(), "leave").await?;
    ben.membership(&room, "ban", Some(guest.user())).await?;
    wait_for_membership(&anna, &room, guest.user(), "ban").await?;
    agree_within(&anna, &ben, &room, PATIENCE).await?;
    annas.check_nothing_twice()?;
    bens.check_nothing_twice()
}

/// A first sync that is made for this moment: Synapse answers the same one from a cache for two minutes.
async fn look(client: &Client) -> anyhow::Result<Value> {
    static LOOKS: AtomicUsize = AtomicUsize::new(1);
    let limit = LOOKS.fetch_add(1, Ordering::Relaxed);
    let filter = json!({ "room": { "timeline": { "limit": limit }, "include_leave": true } });
    Ok(client.sync("", Duration::ZERO, &filter.to_string()).await?)
}

async fn wait_for_invite(client: &Client, room: &str) -> anyhow::Result<()> {
    let begun = std::time::Instant::now();
    loop {
        let answer = look(client).await?;
        if !answer["rooms"]["invite"][room].is_null() {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            bail!("{} was not shown the invitation to {room}", client.user());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn wait_for_membership(
    client: &Client,
    room: &str,
    user: &str,
    wanted: &str,
) -> anyhow::Result<()> {
    let begun = std::time::Instant::now();
    loop {
        match client.state(room, "m.room.member", user).await {
            Ok(content) if content["membership"] == wanted => return Ok(()),
            Ok(_) => {}
            Err(CallError::Answer { status, .. }) if status == 404 => {}
            Err(error) => return Err(error.into()),
        }
        if begun.elapsed() > PATIENCE {
            bail!("{} does not see that {user} is {wanted}", client.user());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
