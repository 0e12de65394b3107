use super::*;
use crate::testing::{Room, rules, user};

fn levels(version: &str, lines: &[&str]) -> PowerLevels {
    let (room, branch) = Room::with(version, lines);
    let create = room.create_of(&branch).unwrap();
    let power = room.find(&branch.state, "m.room.power_levels", "");
    PowerLevels::read(&create, power.as_ref(), rules(version)).unwrap()
}

fn of(levels: &PowerLevels, name: &str) -> Power {
    levels.user(user(name).as_str().try_into().unwrap())
}

#[test]
fn defaults_without_an_event() {
    let room = levels("11", &["alice creates", "alice joins"]);
    assert_eq!(of(&room, "alice"), Power::Level(100));
    assert_eq!(of(&room, "bob"), Power::Level(0));
    assert_eq!(
        (room.invite(), room.kick(), room.ban(), room.redact()),
        (0, 50, 50, 50)
    );
    assert_eq!(room.required("m.room.topic", Some("")), 50);
    assert_eq!(room.required("m.room.message", None), 0);
    assert_eq!(room.notification("room"), 50);
}

#[test]
fn what_the_event_says() {
    let power = r#"alice power {"users":{"@alice:one":100,"@bob:two":7},"users_default":3,
        "events":{"m.room.topic":4},"events_default":1,"state_default":9,"invite":10,"kick":11,
        "ban":12,"redact":13,"notifications":{"room":14}}"#;
    let room = levels("11", &["alice creates", "alice joins", power]);
    assert_eq!(of(&room, "bob@two"), Power::Level(7));
    assert_eq!(of(&room, "carol"), Power::Level(3));
    assert_eq!(
        (room.invite(), room.kick(), room.ban(), room.redact()),
        (10, 11, 12, 13)
    );
    assert_eq!(room.required("m.room.topic", Some("")), 4);
    assert_eq!(room.required("m.room.name", Some("")), 9);
    assert_eq!(room.required("m.room.message", None), 1);
    assert_eq!(room.notification("room"), 14);
    let id = |name: &str| ruma::OwnedUserId::try_from(user(name)).unwrap();
    assert!(room.may_send(&id("bob@two"), "m.room.topic", Some("")));
    assert!(!room.may_send(&id("bob@two"), "m.room.name", Some("")));
    assert!(room.may_redact(&id("alice"), &id("bob@two")));
    assert!(room.may_redact(&id("bob@two"), &id("dave@two")));
    assert!(!room.may_redact(&id("bob@two"), &id("alice")));
}

#[test]
fn an_event_that_lists_nobody_takes_the_creator_down_before_version_12() {
    let lines = &[
        "alice creates",
        "alice joins",
        r#"alice power {"users_default":5}"#,
    ];
    assert_eq!(of(&levels("11", lines), "alice"), Power::Level(5));
    assert_eq!(of(&levels("12", lines), "alice"), Power::Infinite);
}

#[test]
fn creators_of_version_12_are_above_every_level() {
    let create = r#"alice creates {"additional_creators":["@bob:two"]}"#;
    let room = levels("12", &[create, "alice joins"]);
    for creator in ["alice", "bob@two"] {
        assert_eq!(of(&room, creator), Power::Infinite);
        assert!(of(&room, creator).reaches(i64::MAX));
        assert!(of(&room, creator) > Power::Level(i64::MAX));
    }
    assert_eq!(of(&room, "carol"), Power::Level(0));
    // The field means nothing in an older version.
    assert_eq!(
        of(&levels("11", &[create, "alice joins"]), "bob@two"),
        Power::Level(0)
    );
}

#[test]
fn up_to_version_9_levels_may_be_strings() {
    let power = r#"alice power {"users":{"@alice:one":"100","@bob:two":" +0007 "},"ban":"-3",
        "events":{"m.room.topic":" 4"}}"#;
    let room = levels("9", &["alice creates", "alice joins", power]);
    assert_eq!(of(&room, "alice"), Power::Level(100));
    assert_eq!(of(&room, "bob@two"), Power::Level(7));
    assert_eq!((room.ban(), room.required("m.room.topic", None)), (-3, 4));
    let (mut room, mut branch) = Room::with("10", &["alice creates", "alice joins"]);
    assert!(room.say(&mut branch, power).is_err());
}

#[test]
fn levels_are_read_as_leniently_as_the_specification_says() {
    let read = |json: &str| {
        serde_json::from_str::<Level>(json)
            .ok()
            .map(|level| level.0)
    };
    assert_eq!(read("50"), Some(50));
    assert_eq!(read("50.9"), Some(50));
    assert_eq!(read("-1.5"), Some(-1));
    assert_eq!(read("1e300"), Some(i64::MAX));
    assert_eq!(read(r#"" -00100 ""#), Some(-100));
    for bad in [r#""""#, r#""1.5""#, r#""ten""#, "true", "[]", "null"] {
        assert_eq!(read(bad), None, "{bad}");
    }
}
