//! A small consortium with life in it, to look at: three operators, six people, their profiles and
//! posts, a group across borders and a chat.

use anyhow::Context;
use serde_json::{Value, json};

use crate::{Client, Server, World, escape};

/// An operator and the people of their server.
struct Member {
    folder: &'static str,
    operator: &'static str,
    country: &'static str,
    language: &'static str,
    people: [Person; 2],
}

struct Person {
    name: &'static str,
    called: &'static str,
    posts: [&'static str; 2],
}

const MEMBERS: [Member; 3] = [
    Member {
        folder: "donau",
        operator: "Donau-Netz",
        country: "AT",
        language: "de",
        people: [
            Person {
                name: "anna",
                called: "Anna Berger",
                posts: [
                    "Der Naschmarkt riecht heute nach Marillen.",
                    "Wer kommt am Samstag mit auf den Kahlenberg?",
                ],
            },
            Person {
                name: "jakob",
                called: "Jakob Huber",
                posts: [
                    "Neues Brot: Roggen, Walnuss, viel Geduld.",
                    "Die Straßenbahn steht. Ich gehe zu Fuß und sehe mehr.",
                ],
            },
        ],
    },
    Member {
        folder: "kamo",
        operator: "鴨川ネット",
        country: "JP",
        language: "ja",
        people: [
            Person {
                name: "yuki",
                called: "森 由紀",
                posts: [
                    "鴨川の桜がもうすぐ咲きます。",
                    "今日は抹茶を点てました。静かな午後。",
                ],
            },
            Person {
                name: "kenji",
                called: "田中 健二",
                posts: [
                    "古い自転車を直しました。まだ走ります。",
                    "夜の雨、本を一冊読み終えた。",
                ],
            },
        ],
    },
    Member {
        folder: "valle",
        operator: "Red del Valle",
        country: "MX",
        language: "es",
        people: [
            Person {
                name: "lupe",
                called: "Lupe Ramírez",
                posts: [
                    "El mole lleva tres días. Hoy por fin se come.",
                    "Llovió y el cerro amaneció verde.",
                ],
            },
            Person {
                name: "mateo",
                called: "Mateo Cruz",
                posts: [
                    "Aprendiendo a tejer con mi abuela.",
                    "La banda toca esta noche en el zócalo.",
                ],
            },
        ],
    },
];

/// The consortium, running.
pub struct Demo {
    /// The members' servers.
    pub servers: Vec<Server>,
    /// The people: of which server, and signed in.
    pub people: Vec<(usize, Client)>,
    /// The chat that all of them are in.
    pub chat: String,
}

impl Demo {
    /// Starts the servers and fills them.
    pub async fn start(world: &World) -> anyhow::Result<Self> {
        let mut servers = Vec::new();
        for member in &MEMBERS {
            servers.push(world.prepare_resuni(member.folder)?);
        }
        let roster = roster(&servers);
        for server in &mut servers {
            server.add_settings(&roster)?;
            server.set_environment("RESUNI_FEDERATION__MODE", "consortium");
            server.start().await?;
        }
        let mut people = Vec::new();
        let mut profiles = Vec::new();
        for (n, member) in MEMBERS.iter().enumerate() {
            for person in &member.people {
                let client = servers[n].client()?.register(person.name).await?;
                profiles.push((profile(&client, person).await?, servers[n].name()));
                people.push((n, client));
            }
        }
        follow(&people, &profiles).await?;
        post(&people, &profiles).await?;
        let via = servers[0].name();
        group(&people, &via).await?;
        let chat = chat(&people, &via).await?;
        Ok(Self {
            servers,
            people,
            chat,
        })
    }
}

/// The `[[consortium.members]]` that every member's settings have.
fn roster(servers: &[Server]) -> String {
    let entry = |(member, server): (&Member, &Server)| {
        let (operator, country, language) = (member.operator, member.country, member.language);
        let (name, url) = (server.name(), server.url());
        format!(
            "[[consortium.members]]\nname = \"{operator}\"\nserver_name = \"{name}\"\n\
             url = \"{url}\"\ncountry = \"{country}\"\nlanguage = \"{language}\"\n"
        )
    };
    MEMBERS.iter().zip(servers).map(entry).collect()
}

/// A profile as MSC4501 has it: a room that names its owner, and a field of the owner that names it.
async fn profile(client: &Client, person: &Person) -> anyhow::Result<String> {
    let me = client.user();
    let field = |key: &str| format!("/_matrix/client/v3/profile/{}/{key}", escape(me));
    client
        .put(
            &field("displayname"),
            json!({ "displayname": person.called }),
        )
        .await?;
    let owner = json!({ "user_id": me });
    let state = json!([
        public_history(),
        { "type": "m.social.profile_user_id", "state_key": "", "content": owner },
    ]);
    let room = client
        .create_room(json!({
            "preset": "public_chat",
            "name": person.called,
            "creation_content": { "type": "m.social.profile" },
            "initial_state": state,
        }))
        .await?;
    let key = "m.social.profile_room_id";
    client.put(&field(key), json!({ key: room })).await?;
    Ok(room)
}

fn public_history() -> Value {
    let content = json!({ "history_visibility": "world_readable" });
    json!({ "type": "m.room.history_visibility", "state_key": "", "content": content })
}

/// One person of each server follows everybody, so that every public timeline has all posts.
async fn follow(people: &[(usize, Client)], profiles: &[(String, String)]) -> anyhow::Result<()> {
    for (_, client) in people.iter().step_by(2) {
        for (room, server) in profiles {
            client.join(room, &[server]).await?;
        }
    }
    Ok(())
}

async fn post(people: &[(usize, Client)], profiles: &[(String, String)]) -> anyhow::Result<()> {
    let all = MEMBERS.iter().flat_map(|member| &member.people);
    for round in 0..2 {
        let authors = people.iter().zip(profiles).zip(all.clone());
        for (((_, client), (room, _)), person) in authors {
            say(client, room, "m.social.post", round, person.posts[round]).await?;
        }
    }
    Ok(())
}

async fn group(people: &[(usize, Client)], via: &str) -> anyhow::Result<()> {
    let (_, founder) = people.first().context("nobody is there")?;
    let room = founder
        .create_room(json!({
            "preset": "public_chat",
            "name": "Recipes without borders",
            "topic": "What we eat, and how it is made",
            "creation_content": { "type": "m.social.group" },
            "initial_state": [public_history()],
        }))
        .await?;
    let recipes = [
        "Marillenknödel: Topfenteig, eine Marille, ein Würfel Zucker.",
        "だし巻き卵：卵三つ、出汁、弱火でゆっくり。",
        "Mole negro: chilhuacle, chocolate, paciencia.",
    ];
    let members: Vec<&Client> = people.iter().step_by(2).map(|(_, client)| client).collect();
    // All before the first post: what was said earlier a server fetches when somebody scrolls back.
    for client in members.iter().skip(1) {
        client.join(&room, &[via]).await?;
    }
    for (n, (client, recipe)) in members.into_iter().zip(recipes).enumerate() {
        say(client, &room, "m.social.post", n, recipe).await?;
    }
    Ok(())
}

/// A chat that all are in.
async fn chat(people: &[(usize, Client)], via: &str) -> anyhow::Result<String> {
    let (_, founder) = people.first().context("nobody is there")?;
    let room = founder
        .create_room(json!({ "preset": "public_chat", "name": "Operators' lounge" }))
        .await?;
    for (n, (_, client)) in people.iter().enumerate() {
        if n > 0 {
            client.join(&room, &[via]).await?;
        }
        let hello = format!("Hello from {}", client.user());
        say(client, &room, "m.room.message", n, &hello).await?;
    }
    Ok(room)
}

async fn say(
    client: &Client,
    room: &str,
    kind: &str,
    number: usize,
    text: &str,
) -> anyhow::Result<()> {
    let room = escape(room);
    let path = format!("/_matrix/client/v3/rooms/{room}/send/{kind}/demo{number}");
    let content = json!({ "msgtype": "m.text", "body": text });
    client.put(&path, content).await?;
    Ok(())
}
