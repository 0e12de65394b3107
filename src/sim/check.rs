//! What must be so once everybody can reach everybody again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, Result};
use resuni_rooms::{Membership, RoomView, doctor, membership_of};
use ruma::{EventId, OwnedEventId, OwnedUserId, RoomId, ServerName, UserId};

use crate::machine::{Machine, Server};

/// How many forward extremities a room may be left with.
const MAX_EXTREMITIES: usize = 10;
/// How long members may be missing from a room that was joined (simulated).
const WHOLE_WITHIN: Duration = Duration::from_secs(600);

/// An event that a server said it has.
#[derive(Clone, Debug)]
pub struct Promise {
    /// Which machine said so.
    pub machine: usize,
    /// In which room.
    pub room: String,
    /// The event.
    pub event: String,
    /// When, since the beginning.
    pub at: Duration,
}

/// Since when machines are in rooms without having left.
pub type Since = BTreeMap<(usize, String), Duration>;

/// A room as one server has it.
struct Side {
    machine: usize,
    name: String,
    view: RoomView,
    state: BTreeMap<(String, String), OwnedEventId>,
    /// Members: joined or not, and whether the event is their own.
    members: BTreeMap<OwnedUserId, (bool, bool)>,
    digest: Option<[u8; 32]>,
    extremities: BTreeSet<OwnedEventId>,
}

/// All that is wrong; nothing when all is well. `silent` are the machines that had nobody who may speak
/// in a room at the end.
///
/// # Errors
/// When a server can't even be asked.
pub async fn check(
    machines: &[Machine],
    rooms: &[String],
    promises: &[Promise],
    since: &Since,
    silent: &BTreeSet<(usize, String)>,
) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for machine in machines {
        let server = machine.server.as_ref().context("a machine is off")?;
        let found = doctor::check(&server.store, &machine.name).await?;
        wrong.extend(
            found
                .into_iter()
                .map(|what| format!("{}: doctor: {what}", machine.name)),
        );
        let stats = server.federation.stats();
        if stats.staged + stats.queued + stats.destinations_waiting > 0 {
            wrong.push(format!("{} is still busy: {stats:?}", machine.name));
        }
    }
    for room in rooms {
        let id = <&RoomId>::try_from(room.as_str())?;
        let (mut sides, mut partial) = (Vec::new(), Vec::new());
        for (index, machine) in machines.iter().enumerate() {
            let server = machine.server.as_ref().context("a machine is off")?;
            match side(index, machine, server, id).await? {
                Found::Whole(side) => sides.push(*side),
                Found::Partial => partial.push(&machine.name),
                Found::Nothing => {}
            }
        }
        // Who is in the room for nobody else gets its state from nobody.
        let is_in = |name: &ServerName| {
            let joined = |(user, (joined, _)): (&OwnedUserId, &(bool, bool))| {
                *joined && user.server_name() == name
            };
            sides.iter().any(|side| side.members.iter().any(joined))
        };
        for name in partial.into_iter().filter(|name| is_in(name)) {
            wrong.push(format!("{name}: members of {room} are still missing"));
        }
        let removed = put_out_silently(&sides);
        sides.retain(|side| !removed.contains(&side.machine));
        let all_spoke = sides
            .iter()
            .all(|side| !silent.contains(&(side.machine, room.clone())));
        compare(room, &sides, all_spoke, &mut wrong);
        for promise in promises.iter().filter(|promise| promise.room == *room) {
            kept(machines, &sides, promise, since, &mut wrong).await?;
        }
    }
    Ok(wrong)
}

/// What a server has of a room.
enum Found {
    /// Nobody of it is in there.
    Nothing,
    /// Members are missing.
    Partial,
    /// All of it.
    Whole(Box<Side>),
}

async fn side(index: usize, machine: &Machine, server: &Server, room: &RoomId) -> Result<Found> {
    let Some(view) = server.rooms.participating(room).await? else {
        return Ok(Found::Nothing);
    };
    if view.local_members(1).await?.is_empty() {
        return Ok(Found::Nothing);
    }
    let whole = tokio::time::timeout(WHOLE_WITHIN, server.rooms.whole(room)).await;
    let Ok(whole) = whole else {
        return Ok(Found::Partial);
    };
    let state = whole?.state_all().await?;
    let entry = |pdu: &resuni_dag::Pdu| {
        let key = pdu.state_key().unwrap_or_default().to_owned();
        ((pdu.kind().to_owned(), key), pdu.event_id().to_owned())
    };
    let view = server.rooms.view_known(room).await?;
    Ok(Found::Whole(Box::new(Side {
        machine: index,
        name: machine.name.to_string(),
        state: state.iter().map(entry).collect(),
        members: state.iter().filter_map(member).collect(),
        digest: view.state_digest().await?,
        extremities: view.extremities().await?.into_iter().collect(),
        view,
    })))
}

fn member(pdu: &resuni_dag::Pdu) -> Option<(OwnedUserId, (bool, bool))> {
    let user = UserId::parse(pdu.state_key().filter(|_| pdu.kind() == "m.room.member")?).ok()?;
    let joined = membership_of(pdu) == Some(Membership::Join);
    let own = pdu.sender() == user;
    Some((user, (joined, own)))
}

/// Machines that most others have nobody of in the room, by state resolution alone: nobody put their
/// users out with an event that could be sent to them, and the protocol has no other way to tell them.
fn put_out_silently(sides: &[Side]) -> BTreeSet<usize> {
    let out = |side: &Side, by: &Side| {
        side.members
            .iter()
            .filter(|(user, (joined, _))| *joined && user.server_name().as_str() == side.name)
            .all(|(user, _)| {
                let there = by.members.get(user);
                there.is_none_or(|(joined, own)| !joined && *own)
            })
    };
    let mut found = BTreeSet::new();
    for side in sides {
        let others = sides.iter().filter(|other| other.machine != side.machine);
        let says = others.clone().filter(|other| out(side, other)).count();
        if says * 2 > others.count() {
            found.insert(side.machine);
        }
    }
    found
}

fn compare(room: &str, sides: &[Side], all_spoke: bool, wrong: &mut Vec<String>) {
    let Some((first, others)) = sides.split_first() else {
        return;
    };
    for side in sides {
        if side.extremities.len() > MAX_EXTREMITIES {
            let count = side.extremities.len();
            wrong.push(format!("{}: {room} has {count} ends", side.name));
        }
    }
    for other in others {
        let pair = format!("{} and {}", first.name, other.name);
        // An end that one server refused softly goes no further if nobody who has it may speak.
        if !all_spoke && other.extremities != first.extremities {
            continue;
        }
        if other.extremities != first.extremities {
            wrong.push(format!(
                "{pair}: {room} has ends {:?} and {:?}",
                first.extremities, other.extremities
            ));
        }
        let keys: BTreeSet<_> = first.state.keys().chain(other.state.keys()).collect();
        for key in keys {
            let (here, there) = (first.state.get(key), other.state.get(key));
            if here != there {
                wrong.push(format!(
                    "{pair}: {room} has at {key:?} {here:?} and {there:?}"
                ));
            }
        }
        if other.state == first.state && other.digest != first.digest {
            wrong.push(format!(
                "{pair}: the digests of equal states of {room} differ"
            ));
        }
    }
}

async fn kept(
    machines: &[Machine],
    sides: &[Side],
    promise: &Promise,
    since: &Since,
    wrong: &mut Vec<String>,
) -> Result<()> {
    let event = <&EventId>::try_from(promise.event.as_str())?;
    let maker = &machines[promise.machine];
    let server = maker.server.as_ref().context("a machine is off")?;
    let room = <&RoomId>::try_from(promise.room.as_str())?;
    let view = server.rooms.view_known(room).await?;
    if !has(&view, event).await? {
        wrong.push(format!("{} lost its own {promise:?}", maker.name));
        return Ok(());
    }
    // Who was put out of the room meanwhile may have spoken to nobody.
    if sides.iter().all(|side| side.machine != promise.machine) {
        return Ok(());
    }
    for side in sides {
        let joined = since.get(&(side.machine, promise.room.clone()));
        let was_in = joined.is_some_and(|since| *since < promise.at);
        if was_in && !has(&side.view, event).await? {
            wrong.push(format!("{} does not have {promise:?}", side.name));
        }
    }
    Ok(())
}

async fn has(view: &RoomView, event: &EventId) -> Result<bool> {
    let row = view.event_row(event).await?;
    Ok(row.is_some_and(|(_, row)| row.place.has_state()))
}
