use super::*;
use crate::testing::Room;

#[test]
fn parents_come_first_whatever_order_they_are_given_in() {
    let (mut room, start) = Room::with("12", &["alice creates", "alice joins"]);
    let (mut left, mut right) = (start.clone(), start);
    for n in 0..5 {
        room.say(
            &mut left,
            &format!("alice sets m.room.topic / {{\"topic\":\"{n}\"}}"),
        )
        .unwrap();
        room.say(
            &mut right,
            &format!("alice sets m.room.name / {{\"name\":\"{n}\"}}"),
        )
        .unwrap();
    }
    for edges in [Edges::Prev, Edges::Auth] {
        let mut pdus: Vec<Pdu> = room.events.values().cloned().collect();
        let first = topological_order(pdus.clone(), edges);
        pdus.sort_by(|a, b| b.event_id().cmp(a.event_id()));
        let twice = pdus.iter().chain(&pdus).cloned();
        assert_eq!(first, topological_order(twice, edges));
        assert_eq!(first.len(), pdus.len());
        for (at, pdu) in first.iter().enumerate() {
            for parent in edges.of(pdu) {
                assert!(
                    first[..at]
                        .iter()
                        .any(|earlier| earlier.event_id() == parent)
                );
            }
        }
    }
}

#[test]
fn edges_out_of_the_set_count_for_nothing() {
    let (mut room, mut branch) = Room::with("11", &["alice creates", "alice joins"]);
    let a = room.say(&mut branch, "alice sends m.one {}").unwrap();
    let b = room.say(&mut branch, "alice sends m.two {}").unwrap();
    let order = topological_order([b.clone(), a.clone()], Edges::Prev);
    assert_eq!(order, [a, b.clone()]);
    assert_eq!(topological_order([b.clone()], Edges::Prev), [b]);
    assert!(topological_order([], Edges::Auth).is_empty());
}
