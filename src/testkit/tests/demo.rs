//! The demo shows what it promises: every server's pages have everybody's posts, and the chat is
//! one room on all three.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use resuni_testkit::{Client, World, demo::Demo};

async fn page(url: &str) -> String {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    client.get(url).send().await.unwrap().text().await.unwrap()
}

/// What another server sends is there soon, but not at once.
async fn shows(url: &str, texts: &[&str]) {
    let mut last = String::new();
    for _ in 0..100 {
        last = page(url).await;
        if texts.iter().all(|text| last.contains(text)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{url} does not show all of {texts:?}:\n{last}");
}

/// The room has so many members, as soon as the last join has come from the other servers.
async fn sees(client: &Client, room: &str, people: usize) {
    let mut joined = 0;
    for _ in 0..100 {
        let state = client.full_state(room).await.unwrap();
        let members = state.iter().filter(|event| {
            event["type"] == "m.room.member" && event["content"]["membership"] == "join"
        });
        joined = members.count();
        if joined == people {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{} sees {joined} of {people}", client.user());
}

#[tokio::test(flavor = "multi_thread")]
async fn three_operators_share_timelines_and_a_chat() {
    let world = World::new("demo-test").unwrap();
    let mut demo = Demo::start(&world).await.unwrap();
    for server in &demo.servers {
        let posts = [
            "Kahlenberg",
            "静かな午後",
            "zócalo",
            "Marillenknödel",
            "Mole negro",
        ];
        shows(&format!("{}/timeline", server.url()), &posts).await;
        let members = ["Donau-Netz", "鴨川ネット", "Red del Valle"];
        shows(&format!("{}/consortium", server.url()), &members).await;
    }
    shows(
        &format!("{}/@lupe", demo.servers[2].url()),
        &["Lupe Ramírez", "cerro"],
    )
    .await;
    for (_, client) in &demo.people {
        sees(client, &demo.chat, demo.people.len()).await;
    }
    let said = demo.servers[0].check_room(&demo.chat).unwrap();
    assert_eq!(said.matches("the same state").count(), 2, "{said}");
    for server in &mut demo.servers {
        server.stop().await.unwrap();
        server.doctor().unwrap();
    }
    world.passed();
}
