//! One run: a consortium lives through bad times, then all is mended, and is checked.

use std::{
    collections::{BTreeSet, hash_map::DefaultHasher},
    hash::{Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use futures_util::FutureExt as _;
use parking_lot::Mutex;
use resuni_store::Position;
use ruma::{EventId, RoomId};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    chance::Chance,
    check::{self, Promise, Since},
    clock::SkewedClock,
    deeds::{self, Deed, Done},
    machine::{Aside, Machine, Server},
    network::{Net, Weather},
    people::Person,
};

/// Rooms of one run.
const MAX_ROOMS: usize = 4;
/// How long the consortium may take to come to rest once all is mended (simulated).
const REST_WITHIN: Duration = Duration::from_secs(4 * 3600);
/// A machine counts as at rest when it was so this often in a row, a few seconds apart.
const AT_REST: u32 = 4;
/// The clock of no machine is further off.
const MAX_SKEW_MS: u64 = 120_000;
/// All room versions that rooms may begin with.
const VERSIONS: [&str; 12] = [
    "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12",
];
/// What servers are called.
const NAMES: [&str; 7] = [
    "a.test", "b.test", "c.test", "d.test", "e.test", "f.test", "g.test",
];
/// What people are called.
const PEOPLE: [&str; 2] = ["ada", "bob"];

/// What a seed makes of a run. All of it can be set by hand to make a failing run smaller.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Servers, 3 to 7.
    pub servers: usize,
    /// Things that happen.
    pub steps: u64,
}

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut chance = Chance::new(seed ^ 0x706c_616e);
        let most = if chance.permille(800) { 5 } else { 8 };
        Self {
            seed,
            servers: 3 + chance.below(most - 3),
            steps: chance.between(20..100),
        }
    }
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What is wrong; nothing when all is well.
    pub wrong: Vec<String>,
    /// What happened, in order.
    pub trace: Vec<String>,
    /// A hash of the trace: the same in every run of a plan.
    pub hash: u64,
    /// Events that servers said they have.
    pub promises: usize,
}

/// What is known of all that was done.
#[derive(Default)]
struct Ledger {
    rooms: Vec<String>,
    promises: Vec<Promise>,
    trace: Vec<String>,
}

struct World {
    machines: Vec<Machine>,
    net: Arc<Net>,
    chance: Chance,
    began: Instant,
    ledger: Arc<Mutex<Ledger>>,
    since: Since,
    /// Machines of which nobody could speak up in a room the last time.
    silent: BTreeSet<(usize, String)>,
    under_way: JoinSet<()>,
    count: u64,
}

/// Runs a plan to its end. Must be called on a runtime with one thread and a paused clock.
///
/// # Errors
/// When the simulation itself can't go on: a server does not start, or can't be read.
pub async fn run(plan: &Plan) -> Result<Outcome> {
    let mut world = World::new(plan).await?;
    world.begin().await?;
    for _ in 0..plan.steps {
        let pause = world.chance.millis(0..4_000);
        tokio::time::sleep(pause).await;
        world.tend().await?;
        world.step();
    }
    world.mend().await?;
    let mut wrong = world.come_to_rest().await?;
    // What one server refused softly another may have built on: an event of each ties all ends together.
    for round in 0..3 {
        world.speak_up(round).await?;
        wrong.extend(world.come_to_rest().await?);
    }
    world.observe().await?;
    let rooms = world.ledger.lock().rooms.clone();
    let promises = world.ledger.lock().promises.clone();
    let (machines, since, silent) = (&world.machines, &world.since, &world.silent);
    wrong.extend(check::check(machines, &rooms, &promises, since, silent).await?);
    let trace = world.ledger.lock().trace.clone();
    let mut hasher = DefaultHasher::new();
    trace.hash(&mut hasher);
    Ok(Outcome {
        wrong,
        promises: promises.len(),
        hash: hasher.finish(),
        trace,
    })
}

impl World {
    async fn new(plan: &Plan) -> Result<Self> {
        let mut chance = Chance::new(plan.seed);
        let net = Net::new(chance.fork());
        let aside = Aside::new().await?;
        let began = Instant::now();
        let mut machines = Vec::new();
        for name in &NAMES[..plan.servers.clamp(2, NAMES.len())] {
            let clock = SkewedClock::new(began);
            machines.push(Machine::new(name, &mut chance, clock, &net, &aside)?);
        }
        for machine in &mut machines {
            machine.start().await?;
            machine.register(&PEOPLE.map(str::to_owned)).await?;
        }
        Ok(Self {
            machines,
            net,
            chance,
            began,
            ledger: Arc::default(),
            since: Since::new(),
            silent: BTreeSet::new(),
            under_way: JoinSet::new(),
            count: 0,
        })
    }

    fn note(&self, what: String) {
        let at = self.began.elapsed().as_secs_f64();
        let line = format!("{at:10.3} {what}");
        tracing::info!("{line}");
        self.ledger.lock().trace.push(line);
    }

    fn everybody(&self) -> Vec<String> {
        let of = |machine: &Machine| PEOPLE.map(|person| format!("@{person}:{}", machine.name));
        self.machines.iter().flat_map(of).collect()
    }

    fn person(&self, machine: usize, name: usize) -> Option<Person> {
        Person::at(&self.machines[machine], machine, PEOPLE[name])
    }

    /// While all is well: a room or two, and somebody of most servers in them.
    async fn begin(&mut self) -> Result<()> {
        for _ in 0..=self.chance.below(2) {
            let maker = self.chance.below(self.machines.len());
            let version = *self.chance.pick(&VERSIONS).context("versions")?;
            let who = self.person(maker, 0).context("a machine is off")?;
            let admins: Vec<String> = self
                .machines
                .iter()
                .map(|machine| format!("@ada:{}", machine.name))
                .filter(|_| self.chance.permille(600))
                .collect();
            let moderators: Vec<String> = self
                .machines
                .iter()
                .map(|machine| format!("@bob:{}", machine.name))
                .filter(|_| self.chance.permille(400))
                .collect();
            let room = deeds::create(&who, version, &admins, &moderators).await;
            let room = room.context("a room can't be made")?;
            self.note(format!("{} made {room} of version {version}", who.id));
            self.ledger.lock().rooms.push(room.clone());
            let via = vec![self.machines[maker].name.to_string()];
            for machine in 0..self.machines.len() {
                let Some(who) = self.person(machine, 0) else {
                    continue;
                };
                if machine != maker && self.chance.permille(850) {
                    let join = Deed::Own("join");
                    let done = deeds::perform(&who, &room, &join, &via, &[], 0).await;
                    self.note(format!("{} joins {room}: {}", who.id, done.status));
                }
            }
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        self.observe().await
    }

    /// One thing happens.
    fn step(&mut self) {
        match self.chance.between(0..100) {
            0..82 => self.deed(),
            82..87 => self.part(),
            87..90 => {
                self.net.mend();
                self.note("the network is mended".to_owned());
            }
            90..94 => self.power(),
            94..97 => self.weather(),
            97..99 => {
                let n = self.chance.below(self.machines.len());
                let ms = self.chance.between(0..2 * MAX_SKEW_MS).cast_signed();
                let ms = ms - MAX_SKEW_MS.cast_signed();
                self.machines[n].clock.set_skew(ms);
                self.note(format!(
                    "the clock of {} is {ms} ms off",
                    self.machines[n].name
                ));
            }
            _ => {
                let n = self.chance.below(self.machines.len());
                let latency = self.chance.millis(0..300);
                self.machines[n].disk.set_latency(latency);
                self.note(format!(
                    "a sync of {} takes {latency:?}",
                    self.machines[n].name
                ));
            }
        }
    }

    fn deed(&mut self) {
        let (machine, name) = (self.chance.below(self.machines.len()), self.chance.below(2));
        let people = self.everybody();
        self.count += 1;
        let count = self.count;
        let deed = deeds::draw(&mut self.chance, &people, count);
        let rooms = self.ledger.lock().rooms.clone();
        let room = self.chance.pick(&rooms).cloned().unwrap_or_default();
        let others: Vec<String> = self.machines.iter().map(|m| m.name.to_string()).collect();
        let first = self.chance.below(others.len());
        let via: Vec<String> = (0..3)
            .map(|n| others[(first + n) % others.len()].clone())
            .collect();
        if matches!(deed, Deed::Upgrade(_)) && rooms.len() >= MAX_ROOMS {
            return;
        }
        let Some(who) = self.person(machine, name) else {
            return;
        };
        self.note(format!("#{count} {} in {room}: {deed:?}", who.id));
        let (ledger, began) = (Arc::clone(&self.ledger), self.began);
        let Some(server) = self.machines[machine].server.clone() else {
            return;
        };
        let before = server.store.log().watermark();
        self.under_way.spawn(async move {
            let events: Vec<String> = {
                let ledger = ledger.lock();
                let of_room = ledger
                    .promises
                    .iter()
                    .filter(|promise| promise.room == room);
                of_room.map(|promise| promise.event.clone()).collect()
            };
            let done = deeds::perform(&who, &room, &deed, &via, &events, count).await;
            let at = began.elapsed();
            let is_new = is_new(&server, &room, &done, before).await;
            let mut ledger = ledger.lock();
            let line = format!("{:10.3} #{count} ended: {done:?}", at.as_secs_f64());
            tracing::info!("{line}");
            ledger.trace.push(line);
            if let Some(made) = done.room {
                ledger.rooms.push(made);
            }
            if let Some(event) = done.event.filter(|_| is_new) {
                ledger.promises.push(Promise {
                    machine: who.machine,
                    room,
                    event,
                    at,
                });
            }
        });
    }

    /// Some of the machines can't reach the others any more, or not in one direction.
    fn part(&mut self) {
        let count = self.machines.len();
        let side: BTreeSet<usize> = (0..count).filter(|_| self.chance.permille(500)).collect();
        let both = self.chance.permille(800);
        for from in 0..count {
            for to in 0..count {
                let crosses = side.contains(&from) && !side.contains(&to);
                if crosses || (both && side.contains(&to) && !side.contains(&from)) {
                    let (from, to) = (&self.machines[from].name, &self.machines[to].name);
                    self.net.cut(from.as_str(), to.as_str());
                }
            }
        }
        let names: Vec<_> = side
            .iter()
            .map(|n| self.machines[*n].name.as_str())
            .collect();
        let ways = if both {
            ""
        } else {
            " reach, but can't be reached by, nobody else"
        };
        self.note(format!("cut off: {names:?}{ways}"));
    }

    fn power(&mut self) {
        let n = self.chance.below(self.machines.len());
        let name = self.machines[n].name.clone();
        if self.machines[n].server.is_none() {
            return;
        }
        if self.chance.permille(600) {
            let writes = self.chance.between(1..25);
            self.machines[n].disk.fail_after(writes);
            self.note(format!(
                "the power of {name} will fail after {writes} writes"
            ));
        } else {
            self.machines[n].crash(&mut self.chance);
            self.note(format!("{name} crashes"));
        }
    }

    fn weather(&mut self) {
        let weather = Weather {
            lost: self.chance.between(0..150),
            unanswered: self.chance.between(0..150),
            repeated: self.chance.between(0..200),
            slow: self.chance.between(0..300),
        };
        self.net.set_weather(weather);
        self.note(format!("{weather:?}"));
    }

    /// Notices failed power, switches machines on again, and observes who is in which room.
    async fn tend(&mut self) -> Result<()> {
        for n in 0..self.machines.len() {
            if self.machines[n].has_failed() {
                self.machines[n].crash(&mut self.chance);
                self.note(format!("the power of {} failed", self.machines[n].name));
            } else if self.machines[n].server.is_none() && self.chance.permille(250) {
                self.machines[n].start().await?;
                self.note(format!("{} is on again", self.machines[n].name));
            }
        }
        self.observe().await
    }

    async fn observe(&mut self) -> Result<()> {
        let rooms = self.ledger.lock().rooms.clone();
        for (n, machine) in self.machines.iter().enumerate() {
            let Some(server) = &machine.server else {
                continue;
            };
            for room in &rooms {
                let id = <&RoomId>::try_from(room.as_str())?;
                // What can't be read now because the power fails this moment is read the next time.
                let Ok(view) = server.rooms.participating(id).await else {
                    continue;
                };
                let is_in = match view {
                    Some(view) => !view.local_members(1).await?.is_empty(),
                    None => false,
                };
                let key = (n, room.clone());
                if is_in {
                    let now = self.began.elapsed();
                    self.since.entry(key).or_insert(now);
                } else {
                    self.since.remove(&key);
                }
            }
        }
        Ok(())
    }

    /// All is well again.
    async fn mend(&mut self) -> Result<()> {
        self.net.mend();
        self.net.set_weather(Weather::default());
        for n in 0..self.machines.len() {
            if self.machines[n].has_failed() {
                self.machines[n].crash(&mut self.chance);
            }
            self.machines[n].disk.fail_after(u64::MAX);
            self.machines[n].disk.set_latency(Duration::from_millis(2));
            self.machines[n].clock.set_skew(0);
            if self.machines[n].server.is_none() {
                self.machines[n].start().await?;
            }
        }
        self.note("all is mended".to_owned());
        while self.under_way.join_next().await.is_some() {}
        self.observe().await
    }

    /// Waits until nobody has anything to send or to work off.
    async fn come_to_rest(&mut self) -> Result<Vec<String>> {
        let mut quiet = 0;
        let until = Instant::now() + REST_WITHIN;
        while quiet < AT_REST {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let busy = self.machines.iter().filter_map(|machine| {
                let stats = machine.server.as_ref()?.federation.stats();
                let busy = stats.staged + stats.queued + stats.destinations_waiting > 0;
                busy.then(|| format!("{} does not come to rest: {stats:?}", machine.name))
            });
            let busy: Vec<String> = busy.collect();
            quiet = if busy.is_empty() { quiet + 1 } else { 0 };
            if Instant::now() > until {
                return Ok(busy);
            }
        }
        self.note("at rest".to_owned());
        Ok(Vec::new())
    }

    /// Somebody of each server says something in each room, one after the other.
    async fn speak_up(&mut self, round: u64) -> Result<()> {
        let rooms = self.ledger.lock().rooms.clone();
        self.silent.clear();
        for room in rooms {
            let id = <&RoomId>::try_from(room.as_str())?.to_owned();
            for n in 0..self.machines.len() {
                let server = self.machines[n]
                    .server
                    .clone()
                    .context("a machine is off")?;
                let Some(view) = server.rooms.participating(&id).await? else {
                    continue;
                };
                let mut spoke = false;
                for user in view.local_members(10).await? {
                    let name = PEOPLE.iter().position(|name| *name == user.localpart());
                    let who = self.person(n, name.context("a stranger")?).context("off")?;
                    let say = Deed::Say(format!("round {round}"));
                    self.count += 1;
                    let done = deeds::perform(&who, &room, &say, &[], &[], self.count).await;
                    self.note(format!("{} speaks up in {room}: {done:?}", who.id));
                    if let Some(event) = done.event {
                        spoke = true;
                        let at = self.began.elapsed();
                        let promise = Promise {
                            machine: n,
                            room: room.clone(),
                            event,
                            at,
                        };
                        self.ledger.lock().promises.push(promise);
                        break;
                    }
                }
                if !spoke {
                    self.silent.insert((n, room.clone()));
                }
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        }
        Ok(())
    }
}

/// Whether the event that answers a request was made for it: state that is so already is answered with
/// the event that is there.
async fn is_new(server: &Server, room: &str, done: &Done, before: Position) -> bool {
    let (Ok(room), Some(event)) = (<&RoomId>::try_from(room), &done.event) else {
        return false;
    };
    let Ok(event) = <&EventId>::try_from(event.as_str()) else {
        return false;
    };
    let Ok(view) = server.rooms.view_known(room).await else {
        return false;
    };
    let place = view.place_in_timeline(event).await.ok().flatten();
    place.is_some_and(|place| place.position > before)
}

/// Runs a plan on a runtime of its own, on this thread.
///
/// # Errors
/// As [`run`].
pub fn run_here(plan: &Plan) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()?;
    let outcome = runtime.block_on(std::panic::AssertUnwindSafe(run(plan)).catch_unwind());
    // What still waits is of no interest.
    runtime.shutdown_background();
    outcome.unwrap_or_else(|_| Err(anyhow::anyhow!("the simulation panicked")))
}
