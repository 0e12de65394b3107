//! Servers that speak at the same time, and hear of each other in any order, end with the same state.

use std::collections::BTreeSet;

use proptest::prelude::*;
use resuni_dag::Pdu;

use super::{between::*, *};

/// What happens, by server.
#[derive(Debug, Clone)]
enum Step {
    /// Somebody on a server does something; the rules may forbid it.
    Act {
        server: usize,
        user: usize,
        what: usize,
        on: usize,
    },
    /// A server hears of the n-th event that it doesn't have.
    Hear { server: usize, nth: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let act = (0..3usize, 0..2usize, 0..9usize, 0..6usize);
    let hear = (0..3usize, 0..100usize);
    let step = prop_oneof![
        3 => act.prop_map(|(server, user, what, on)| Step::Act { server, user, what, on }),
        2 => hear.prop_map(|(server, nth)| Step::Hear { server, nth }),
    ];
    prop::collection::vec(step, 1..60)
}

const NAMES: [&str; 3] = ["a", "bb", "ccc"];

fn who(server: usize, user: usize) -> String {
    format!("@{}:{}", ["admin", "guest"][user], NAMES[server])
}

/// An admin's or a guest's deed.
fn deed(server: usize, user: usize, what: usize, on: usize) -> NewEvent {
    // Admins stay, so that each server remains in the room.
    let victim = who(on % 3, 1);
    let level = [0, 50, 100][on % 3];
    let me = who(server, user);
    match what {
        0 | 1 => message("hello"),
        2 => state("m.room.topic", json!({"topic": format!("{me} {on}")})),
        3 => member(&victim, "ban"),
        4 => member(&victim, "leave"),
        5 => member(&who(server, 1), "join"),
        6 => state(
            "m.room.join_rules",
            json!({"join_rule": (["public", "invite"][on % 2])}),
        ),
        7 => state("m.room.name", json!({"name": format!("{me} {on}")})),
        _ => state("m.room.power_levels", levels(Some((&victim, level)))),
    }
}

fn levels(extra: Option<(&str, i64)>) -> serde_json::Value {
    // The creator is in the list before room version 12 only; here the others are, in every version.
    let mut users = json!({"@admin:bb": 100, "@admin:ccc": 100});
    if let Some((user, level)) = extra {
        users[user] = json!(level);
    }
    json!({"users": users, "state_default": 0, "events": {"m.room.power_levels": 50}})
}

struct World {
    servers: Vec<Arc<Rooms>>,
    room: OwnedRoomId,
    /// The depth of the last event of the beginning, which all have.
    began: u64,
    events: Vec<Pdu>,
    heard: Vec<BTreeSet<usize>>,
}

impl World {
    async fn new(version: RoomVersionId) -> Self {
        let mut servers = Vec::new();
        for name in NAMES {
            servers.push(server(name).await);
        }
        let room = room(&servers[0], version.clone(), "@admin:a").await;
        let mut first = levels(None);
        if version != RoomVersionId::V12 {
            first["users"]["@admin:a"] = json!(100);
        }
        let admin = user("@admin:a");
        servers[0]
            .send(&room, &admin, state("m.room.power_levels", first), None)
            .await
            .unwrap();
        join(&servers[0], &servers[1], &room, "@admin:bb").await;
        let third = join(&servers[0], &servers[2], &room, "@admin:ccc").await;
        servers[1].receive(&room, third.clone()).await.unwrap();
        Self {
            servers,
            room,
            began: third.depth(),
            events: Vec::new(),
            heard: vec![BTreeSet::new(); 3],
        }
    }

    async fn act(&mut self, server: usize, sender: &str, event: NewEvent) {
        if let Ok(id) = self.servers[server]
            .send(&self.room, &user(sender), event, None)
            .await
        {
            let event = pdu(&self.servers[server], &id).await;
            // State that was so already is answered with the event that is there.
            if event.depth() > self.began && !self.events.contains(&event) {
                self.heard[server].insert(self.events.len());
                self.events.push(event);
            }
        }
    }

    /// Whether the server took it.
    async fn hear(&mut self, server: usize, event: usize) -> bool {
        let received = self.servers[server]
            .receive(&self.room, self.events[event].clone())
            .await
            .unwrap();
        if matches!(received, Received::Missing { .. }) {
            return false;
        }
        self.heard[server].insert(event);
        true
    }

    fn unheard(&self, server: usize) -> Vec<usize> {
        (0..self.events.len())
            .filter(|event| !self.heard[server].contains(event))
            .collect()
    }

    /// Every server hears everything, newest first where it can be.
    async fn settle(&mut self) {
        for server in 0..3 {
            loop {
                let unheard = self.unheard(server);
                if unheard.is_empty() {
                    break;
                }
                let before = unheard.len();
                for event in unheard.into_iter().rev() {
                    self.hear(server, event).await;
                }
                assert!(
                    self.unheard(server).len() < before,
                    "nothing more can be heard"
                );
            }
        }
    }
}

async fn run(version: RoomVersionId, steps: Vec<Step>) {
    let mut world = World::new(version).await;
    for step in steps {
        match step {
            Step::Act {
                server,
                user,
                what,
                on,
            } => {
                world
                    .act(server, &who(server, user), deed(server, user, what, on))
                    .await;
            }
            Step::Hear { server, nth } => {
                let unheard = world.unheard(server);
                if !unheard.is_empty() {
                    let event = unheard[nth % unheard.len()];
                    world.hear(server, event).await;
                }
            }
        }
    }
    world.settle().await;
    // What one server soft-failed, another may build on; an event of each in turn ties all ends together.
    for server in [0, 1, 2, 0] {
        world
            .act(server, &who(server, 0), message("all together"))
            .await;
        world.settle().await;
    }
    let first = head(&world.servers[0], &world.room).await;
    assert_eq!(first.extremities.len(), 1);
    let expected = digest(&world.servers[0], &world.room).await;
    for server in &world.servers {
        assert_eq!(digest(server, &world.room).await, expected);
        assert_eq!(head(server, &world.room).await.joined, first.joined);
        assert_healthy(server).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn servers_end_with_the_same_state(
        steps in steps(),
        // Each way of state resolution, and of event ids.
        version in prop::sample::select(vec!["1", "2", "3", "11", "12"]),
    ) {
        let version = RoomVersionId::try_from(version).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(run(version, steps));
    }
}
