//! Two rooms that people on two servers fill at once: messages from each side, and between them joins, leaves, kicks, topics
//! and power levels, all by the library. In the end both servers have the same rooms, and each client was shown everything.

use anyhow::{Context, ensure};
use matrix_sdk::{
    Room, RoomState,
    config::SyncSettings,
    ruma::{
        Int, OwnedRoomId, OwnedServerName, RoomId, RoomOrAliasId, RoomVersionId,
        api::client::{
            filter::FilterDefinition,
            room::create_room::v3::{Request, RoomPreset},
            sync::sync_events::v3::Filter,
        },
        events::room::message::RoomMessageEventContent,
        uint,
    },
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use resuni_testkit::{Client, Server, World, agree_within};

use crate::{PATIENCE, Person, client, patiently};

/// Messages from each side.
const MESSAGES: usize = 500;

/// One side of a room.
struct Side {
    /// Somebody with power, who writes.
    writer: Person,
    /// Somebody who comes and goes.
    guest: Person,
    inside: bool,
    room: Room,
    via: OwnedServerName,
    name: &'static str,
    random: StdRng,
}

/// Signs in with a client that is told of many events at once: of those between two syncs none is left out.
async fn person(server: &Server, name: &str) -> anyhow::Result<Person> {
    server.client()?.register(name).await?;
    let client = client(server).await?;
    let password = format!("password-of-{name}");
    let login = client.matrix_auth().login_username(name, &password);
    login.send().await?;
    let mut filter = FilterDefinition::default();
    filter.room.timeline.limit = Some(uint!(1000));
    let settings = SyncSettings::new()
        .timeout(std::time::Duration::from_secs(10))
        .filter(Filter::FilterDefinition(filter));
    Ok(Person::begin_with(client, settings))
}

/// What two people do at once may contradict: then one of them may be refused.
fn allowed<T>(outcome: matrix_sdk::Result<T>) -> anyhow::Result<Option<T>> {
    match outcome {
        Ok(done) => Ok(Some(done)),
        Err(error) => match error.client_api_error_kind().map(|kind| kind.errcode()) {
            Some(code) if code.as_str() == "M_FORBIDDEN" => Ok(None),
            _ => Err(error.into()),
        },
    }
}

async fn join(person: &Person, room: &RoomId, via: &OwnedServerName) -> anyhow::Result<Room> {
    let servers = std::slice::from_ref(via);
    let room = <&RoomOrAliasId>::from(room);
    person
        .client
        .join_room_by_id_or_alias(room, servers)
        .await
        .context("joining")
}

impl Side {
    async fn write(&mut self) -> anyhow::Result<()> {
        for n in 0..MESSAGES {
            let text = format!("{} {n}", self.name);
            let content = RoomMessageEventContent::text_plain(&text);
            self.room.send(content).await?;
            match self.random.random_range(0..40) {
                0 => drop(allowed(self.room.set_room_topic(&text).await)?),
                1 => {
                    let level = Int::from(self.random.random_range(0..50_u8));
                    let guest = self.guest.id()?;
                    let levels = self.room.update_power_levels(vec![(&guest, level)]);
                    allowed(levels.await)?;
                }
                2 | 3 => self.come_or_go().await?,
                _ => {}
            }
        }
        Ok(())
    }

    async fn come_or_go(&mut self) -> anyhow::Result<()> {
        if !self.inside {
            join(&self.guest, self.room.room_id(), &self.via).await?;
        } else if self.random.random_bool(0.5) {
            let guest = self.guest.id()?;
            allowed(self.room.kick_user(&guest, Some("for a while")).await)?;
        } else if let Some(room) = self.guest.client.get_room(self.room.room_id()) {
            allowed(room.leave().await)?;
        }
        self.inside = !self.inside;
        Ok(())
    }

    /// The messages of a side, as this client was shown them.
    fn shown_of(&self, name: &str) -> Vec<String> {
        let Ok(shown) = self.writer.shown.lock() else {
            return Vec::new();
        };
        let of = format!("{name} ");
        let texts = shown.iter().filter(|text| text.starts_with(&of));
        texts.cloned().collect()
    }

    /// Each message of both sides once, and those of one side in their order.
    async fn was_shown_everything(&self, names: &[&str]) -> anyhow::Result<()> {
        for name in names {
            let sent: Vec<String> = (0..MESSAGES).map(|n| format!("{name} {n}")).collect();
            let wrong = format!("{} was not shown all of {name}", self.name);
            patiently(&wrong, async || {
                Ok((self.shown_of(name).len() >= sent.len()).then_some(()))
            })
            .await?;
            ensure!(
                self.shown_of(name) == sent,
                "{} was shown {name} otherwise than it was written",
                self.name
            );
        }
        Ok(())
    }
}

/// A room of somebody on the first server, with somebody of the second who has nearly all power, and readers of both.
async fn shared(
    (here, there): (&Server, &Server),
    (first, second): (&'static str, &'static str),
    version: RoomVersionId,
    readers: &[&Client],
) -> anyhow::Result<(OwnedRoomId, [Side; 2])> {
    let (writer, other) = (person(here, first).await?, person(there, second).await?);
    let guests = [
        person(here, &format!("guest-{first}")).await?,
        person(there, &format!("guest-{second}")).await?,
    ];
    let mut request = Request::new();
    request.preset = Some(RoomPreset::PublicChat);
    request.room_version = Some(version);
    let room = writer.client.create_room(request).await?;
    let id = room.room_id().to_owned();
    let (via_here, via_there) = (
        OwnedServerName::try_from(here.name())?,
        OwnedServerName::try_from(there.name())?,
    );
    join(&other, &id, &via_here).await?;
    for reader in readers {
        reader.join(id.as_str(), &[&here.name()]).await?;
    }
    let trusted = other.id()?;
    room.update_power_levels(vec![(&trusted, Int::from(90_u8))])
        .await?;
    let theirs = other.room(&id, RoomState::Joined).await?;
    // Until the other server has it.
    patiently("the power levels never arrived", async || {
        // An error until the client knows who made the room.
        let level = theirs.get_user_power_level(&trusted).await.ok();
        Ok(level.filter(|level| *level >= Int::from(90_u8)).map(drop))
    })
    .await?;
    let ours = writer.room(&id, RoomState::Joined).await?;
    let [one, two] = guests;
    let side = |writer, guest, room, via, name, seed| Side {
        writer,
        guest,
        inside: false,
        room,
        via,
        name,
        random: StdRng::seed_from_u64(seed),
    };
    let sides = [
        side(writer, one, ours, via_there, first, 7),
        side(other, two, theirs, via_here, second, 8),
    ];
    Ok((id, sides))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_busy_rooms_are_the_same_on_both_servers() -> anyhow::Result<()> {
    let world = World::new("sdk-busy")?;
    let (mut one, mut two) = (world.resuni("one").await?, world.resuni("two").await?);
    let readers = [
        one.client()?.register("reader").await?,
        two.client()?.register("reader").await?,
    ];
    let both: Vec<&Client> = readers.iter().collect();
    let twelve = shared((&one, &two), ("anna", "ben"), RoomVersionId::V12, &both);
    let (twelve, [mut a, mut b]) = twelve.await.context("version 12")?;
    let eleven = shared((&two, &one), ("carl", "dora"), RoomVersionId::V11, &both);
    let (eleven, [mut c, mut d]) = eleven.await.context("version 11")?;
    tokio::try_join!(a.write(), b.write(), c.write(), d.write())?;
    for side in [&a, &b] {
        side.was_shown_everything(&["anna", "ben"]).await?;
    }
    for side in [&c, &d] {
        side.was_shown_everything(&["carl", "dora"]).await?;
    }
    for room in [&twelve, &eleven] {
        agree_within(&readers[0], &readers[1], room.as_str(), PATIENCE).await?;
    }
    drop((a, b, c, d));
    for server in [&mut one, &mut two] {
        server.stop().await?;
        server.doctor()?;
    }
    for room in [&twelve, &eleven] {
        let (mine, theirs) = (one.digest(room.as_str())?, two.digest(room.as_str())?);
        ensure!(
            mine == theirs,
            "the digests of {room} differ: {mine} and {theirs}"
        );
    }
    world.passed();
    Ok(())
}
