//! A room with forks, delivered in any order, against the rules over whole states.
//!
//! The bytes say who does what where. A plain model knows for each event the state before and after it: with several
//! `prev_events`, what ruma's state resolution makes of the whole states with their whole auth chains. The rooms get the
//! events one by one, newest first as often as not, and must say the same of each, whatever was soft-failed meanwhile.

mod model;

use resuni_dag::Lattice;
use resuni_rooms::{Received, RoomView, Rooms, doctor};
use resuni_store::Store;

use crate::{
    bytes::Bytes,
    peer::{block_on, here, rooms},
};
use model::{Model, Node};

/// Deliveries of everything before it must all be there.
const ROUNDS: usize = 200;

/// Makes a room of the bytes and delivers it.
pub fn run(bytes: &[u8]) {
    let mut bytes = Bytes::new(bytes);
    let model = Model::of(&mut bytes);
    block_on(async {
        let rooms = rooms(Store::memory().await).await;
        model.adopt(&rooms).await;
        if deliver(&model, &rooms, &mut bytes).await {
            compare(&model, &rooms).await;
        }
        let found = doctor::check(rooms.store(), here()).await.unwrap();
        assert_eq!(found, Vec::<String>::new());
    });
}

/// Delivers all events after the join, in an order that the bytes say. Whether this server was in the room all the time.
async fn deliver(model: &Model, rooms: &Rooms, bytes: &mut Bytes<'_>) -> bool {
    let mut waiting: Vec<&Node> = model.later().iter().collect();
    for _ in 0..ROUNDS {
        let mut left = Vec::new();
        while !waiting.is_empty() {
            let at = bytes.below(waiting.len().min(256));
            let node = waiting.remove(at);
            match rooms.receive(model.room(), node.pdu.clone()).await.unwrap() {
                Received::Missing { prev, auth } => {
                    assert!(prev.iter().chain(&auth).all(|id| model.knows(id)));
                    left.push(node);
                }
                // Nobody of ours is in it any more.
                Received::Known => return false,
                received => {
                    let rejected = matches!(received, Received::Rejected { .. });
                    assert_eq!(rejected, node.rejected, "{} {received:?}", node.pdu.json());
                }
            }
        }
        if left.is_empty() {
            return true;
        }
        waiting = left;
    }
    panic!("{} events wait for others for ever", waiting.len());
}

async fn compare(model: &Model, rooms: &Rooms) {
    let view = rooms.view(model.room()).await.unwrap().unwrap();
    for node in model.later() {
        same(&view, node, model).await;
    }
    // The last event follows all ends that fit into one.
    let last = &model.nodes[model.nodes.len() - 1];
    if model.ties_all() && !last.rejected && view.extremities().await.unwrap().len() == 1 {
        let digest = view.state_digest().await.unwrap();
        assert_eq!(digest, Some(lattice(&last.after)), "the current state");
    }
}

/// The states around an event are those of the model. That their digests are right, the doctor says.
async fn same(view: &RoomView, node: &Node, model: &Model) {
    let id = node.pdu.event_id();
    let (before, after) = (view.state_before(id).await, view.state_at(id).await);
    for (ours, expected) in [(before, &node.before), (after, &node.after)] {
        let ours = ours.unwrap();
        let events = ours.all().await.unwrap();
        let entry = |pdu: &resuni_dag::Pdu| {
            let key = pdu.state_key().unwrap().to_owned();
            ((pdu.kind().to_owned(), key), pdu.event_id().to_owned())
        };
        let state = events.iter().map(entry).collect();
        model.assert_equal(&state, expected, &node.pdu);
        assert_eq!(ours.count().await.unwrap(), expected.len() as u64);
    }
}

fn lattice(state: &model::State) -> [u8; 32] {
    let mut lattice = Lattice::empty();
    for ((kind, key), id) in state {
        lattice.add(kind, key, id.as_str());
    }
    lattice.digest().0
}
