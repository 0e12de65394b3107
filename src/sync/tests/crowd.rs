//! More clients wait than are looked up one by one.

use std::time::Duration;

use futures_util::{StreamExt, stream::FuturesUnordered};

use super::{Home, Person};
use crate::{FEW, audience::Audiences};

async fn crowd(home: &Home) -> Vec<Person> {
    let mut people = Vec::new();
    for n in 0..=FEW {
        people.push(home.person(&format!("p{n}")).await);
    }
    people
}

#[tokio::test]
async fn an_audience_follows_who_comes_and_goes() {
    let home = Home::new().await;
    let people = crowd(&home).await;
    let room = home.room(&people[0]).await;
    home.join(&room, &people[1]).await;
    let view = home.rooms.view(&room).await.unwrap().unwrap();
    let mut numbers = Vec::new();
    for person in &people[..2] {
        numbers.push(view.user_num(&person.id).await.unwrap().unwrap());
    }
    let num = view.num();
    let mut audiences = Audiences::default();
    assert_eq!(audiences.of(&home.rooms, num).await.unwrap(), numbers);

    home.rooms.leave(&room, &people[1].id, None).await.unwrap();
    // Known from before, until it is told.
    assert_eq!(audiences.of(&home.rooms, num).await.unwrap(), numbers);
    audiences.moved(&home.rooms, num, numbers[1]).await.unwrap();
    assert_eq!(audiences.of(&home.rooms, num).await.unwrap(), &numbers[..1]);

    home.join(&room, &people[1]).await;
    for _ in 0..2 {
        audiences.moved(&home.rooms, num, numbers[1]).await.unwrap();
        assert_eq!(audiences.of(&home.rooms, num).await.unwrap(), numbers);
    }
}

#[tokio::test]
async fn everybody_in_the_room_is_woken_and_nobody_else() {
    let home = Home::new().await;
    let people = crowd(&home).await;
    let room = home.room(&people[0]).await;
    let other = home.room(&people[1]).await;
    let mut inside = vec![&people[0]];
    for person in &people[2..] {
        home.join(&room, person).await;
        inside.push(person);
    }
    // The second round finds the audience of the first, but for who came and who went.
    for round in 0..2 {
        if round == 1 {
            home.join(&room, &people[1]).await;
            home.rooms.leave(&room, &people[2].id, None).await.unwrap();
            inside.retain(|person| person.id != people[2].id);
            inside.push(&people[1]);
        }
        let mut waiting = FuturesUnordered::new();
        for person in &people {
            let since = home.sync(person, "").await["next_batch"].clone();
            let (home, room) = (&home, &room);
            waiting.push(async move {
                let since = since.as_str().unwrap();
                let long = |request: &mut crate::SyncRequest| {
                    request.timeout = Duration::from_secs(100);
                };
                let answer = home.sync_with(person, since, long).await;
                let told = answer["rooms"]["join"].get(room.as_str()).is_some();
                (person.id.clone(), told)
            });
        }
        // Everybody waits before anything happens.
        let nothing = futures_util::poll!(waiting.next());
        assert!(nothing.is_pending());
        let text = format!("round {round}");
        home.say(&room, &people[0], &text).await;
        let mut told = Vec::new();
        while told.len() < inside.len() {
            let (person, is_told) = waiting.next().await.unwrap();
            assert!(is_told, "{person} was woken for nothing");
            told.push(person);
        }
        let mut expected: Vec<_> = inside.iter().map(|person| person.id.clone()).collect();
        expected.sort();
        told.sort();
        assert_eq!(told, expected);
        drop(waiting);
    }
    drop(other);
}
