//! What people do to each other in rooms.

use http::Method;
use serde_json::{Map, Value, json};

use crate::{
    chance::Chance,
    people::{Person, segment},
};

/// What somebody does. All choices are made when it is drawn, so that they follow from the seed.
#[derive(Clone, Debug)]
pub enum Deed {
    /// A message.
    Say(String),
    /// A state event that the person thinks up.
    Set(&'static str, String, Value),
    /// `m.room.power_levels` as they are, with one change.
    Level(String, i64),
    /// A membership: join, leave.
    Own(&'static str),
    /// A membership of somebody else: invite, kick, ban, unban.
    Other(&'static str, String),
    /// The n-th last event that is known of the room.
    Redact(usize),
    /// Replaces the room.
    Upgrade(String),
}

/// How a deed ended.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// The HTTP status; zero when there was no answer.
    pub status: u16,
    /// The event that the server said it has.
    pub event: Option<String>,
    /// The room that the server said it made.
    pub room: Option<String>,
}

/// Draws a deed.
pub fn draw(chance: &mut Chance, people: &[String], count: u64) -> Deed {
    let whom = |chance: &mut Chance| chance.pick(people).cloned().unwrap_or_default();
    let one = |chance: &mut Chance, of: &[&'static str]| chance.pick(of).copied().unwrap_or("");
    match chance.between(0..100) {
        0..30 => Deed::Say(format!("message {count}")),
        30..37 => {
            let key = if chance.permille(500) {
                "topic"
            } else {
                "name"
            };
            let kind = if key == "topic" {
                "m.room.topic"
            } else {
                "m.room.name"
            };
            Deed::Set(kind, String::new(), json!({ key: format!("{count}") }))
        }
        37..43 => {
            let key = format!("key{}", chance.between(0..4));
            Deed::Set("org.example.flag", key, json!({ "flag": count }))
        }
        43..51 => {
            let level = [0, 25, 50, 75, 100];
            let level = chance.pick(&level).copied().unwrap_or_default();
            Deed::Level(whom(chance), level)
        }
        51..55 => {
            let rule = one(chance, &["public", "public", "invite", "knock"]);
            Deed::Set(
                "m.room.join_rules",
                String::new(),
                json!({ "join_rule": rule }),
            )
        }
        55..57 => {
            let who = one(chance, &["shared", "joined", "invited", "world_readable"]);
            let content = json!({ "history_visibility": who });
            Deed::Set("m.room.history_visibility", String::new(), content)
        }
        57..71 => Deed::Own("join"),
        71..75 => Deed::Own("leave"),
        75..82 => Deed::Other("invite", whom(chance)),
        82..87 => Deed::Other("kick", whom(chance)),
        87..91 => Deed::Other("ban", whom(chance)),
        91..95 => Deed::Other("unban", whom(chance)),
        95..99 => Deed::Redact(chance.below(30)),
        _ => Deed::Upgrade(one(chance, &["10", "11", "12"]).to_owned()),
    }
}

/// Does it. `via` are the servers that a join goes by, `events` what is known of the room.
pub async fn perform(
    who: &Person,
    room: &str,
    deed: &Deed,
    via: &[String],
    events: &[String],
    transaction: u64,
) -> Done {
    let at = format!("rooms/{}", segment(room));
    let done = match deed {
        Deed::Say(text) => {
            let path = format!("{at}/send/m.room.message/{transaction}");
            let content = json!({ "msgtype": "m.text", "body": text });
            who.ask(Method::PUT, &path, &content).await
        }
        Deed::Set(kind, key, content) => {
            let path = format!("{at}/state/{kind}/{}", segment(key));
            who.ask(Method::PUT, &path, content).await
        }
        Deed::Level(user, level) => levels(who, &at, user, *level).await,
        Deed::Own("join") => {
            let via: Vec<String> = via.iter().map(|name| format!("via={name}")).collect();
            let path = format!("join/{}?{}", segment(room), via.join("&"));
            who.ask(Method::POST, &path, &json!({})).await
        }
        Deed::Own(what) => {
            let path = format!("{at}/{what}");
            who.ask(Method::POST, &path, &json!({})).await
        }
        Deed::Other(what, user) => {
            let path = format!("{at}/{what}");
            who.ask(Method::POST, &path, &json!({ "user_id": user }))
                .await
        }
        Deed::Redact(nth) => {
            let Some(event) = events.iter().rev().nth(*nth) else {
                return Done::default();
            };
            let path = format!("{at}/redact/{}/{transaction}", segment(event));
            who.ask(Method::PUT, &path, &json!({})).await
        }
        Deed::Upgrade(version) => {
            let path = format!("{at}/upgrade");
            who.ask(Method::POST, &path, &json!({ "new_version": version }))
                .await
        }
    };
    let Some((status, body)) = done else {
        return Done::default();
    };
    let text = |key: &str| body[key].as_str().map(str::to_owned);
    Done {
        status,
        event: text("event_id"),
        room: text("replacement_room"),
    }
}

/// Makes a room in which several people have power. The room, if there is one.
pub async fn create(
    who: &Person,
    version: &str,
    admins: &[String],
    moderators: &[String],
) -> Option<String> {
    let mut users = Map::new();
    for admin in admins.iter().filter(|admin| **admin != who.id) {
        users.insert(admin.clone(), 100.into());
    }
    for moderator in moderators {
        users.entry(moderator.clone()).or_insert_with(|| 50.into());
    }
    if version != "12" {
        users.insert(who.id.clone(), 100.into());
    } else {
        users.remove(&who.id);
    }
    let request = json!({
        "preset": "public_chat",
        "room_version": version,
        "power_level_content_override": { "users": users, "events": { "org.example.flag": 0 } },
    });
    let (_, body) = who.ask(Method::POST, "createRoom", &request).await?;
    body["room_id"].as_str().map(str::to_owned)
}

async fn levels(who: &Person, at: &str, user: &str, level: i64) -> Option<(u16, Value)> {
    let path = format!("{at}/state/m.room.power_levels/");
    let (status, mut levels) = who.ask(Method::GET, &path, &json!({})).await?;
    if status != 200 {
        return Some((status, Value::Null));
    }
    levels["users"][user] = level.into();
    who.ask(Method::PUT, &path, &levels).await
}
