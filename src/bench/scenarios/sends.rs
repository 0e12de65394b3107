//! Sending: into a new room, into many, into a long and into a large one; joins; bytes on disk.

use std::time::Duration;

use resuni_testkit::{Client, Server};

use super::{Bench, SENDERS, create_room, measured, send};
use crate::{
    load::Load,
    measure,
    table::{Row, What},
};

const TEXT: &str = "The quick brown fox jumps over the lazy dog";

/// Joins that take longer in all are not going to end.
const JOINING: Duration = Duration::from_secs(300);

impl Bench {
    pub(super) async fn sends(
        &mut self,
        server: &Server,
        users: &[Client],
        owner: &Client,
    ) -> anyhow::Result<()> {
        let empty = measure::bytes_on_disk(&server.data());
        let room = room_of_senders(users, owner, "one").await?;
        let (load, cpu) = self.send_load(server, users, &room, "n").await?;
        let name = "sends into a new room, 16 connections";
        self.rate(What::Sends, name, &load, cpu);
        let many = self.sends_into_many(server, users).await?;
        let (long, sent) = self.long_room(server, users, owner).await?;
        self.disk(server, empty, load.done + many + sent);
        self.history(server, owner, &long).await
    }

    /// What all messages so far cost on disk: many, so that a journal which is about to be dropped, or was just
    /// dropped, is little of it.
    fn disk(&mut self, server: &Server, empty: u64, messages: usize) {
        let bytes = measure::bytes_on_disk(&server.data()).saturating_sub(empty);
        self.push(Row {
            what: What::DiskBytes,
            name: "bytes on disk per message".to_owned(),
            value: bytes as f64 / messages.max(1) as f64,
            unit: "bytes",
            more_is_better: false,
            cpu_ms: None,
            note: format!("{messages} messages, the journal included"),
        });
    }

    /// How many were sent.
    async fn sends_into_many(
        &mut self,
        server: &Server,
        users: &[Client],
    ) -> anyhow::Result<usize> {
        let senders: Vec<Client> = users.iter().take(SENDERS).cloned().collect();
        let mut rooms = Vec::new();
        for user in &senders {
            rooms.push(create_room(user, "own").await?);
        }
        let (sends, time) = (self.sizes.sends, self.sizes.send_time);
        let (load, cpu) = measured(server, SENDERS, sends, time, move |worker, index| {
            let (user, room) = (senders[worker].clone(), rooms[worker].clone());
            async move { send(&user, &room, &format!("m{index}"), TEXT).await }
        })
        .await?;
        let name = "sends into 16 rooms, 16 connections";
        self.rate(What::SendsManyRooms, name, &load, cpu);
        Ok(load.done)
    }

    /// The room and how many messages were sent into it.
    async fn long_room(
        &mut self,
        server: &Server,
        users: &[Client],
        owner: &Client,
    ) -> anyhow::Result<(String, usize)> {
        let long = room_of_senders(users, owner, "long").await?;
        let (most, time) = (self.sizes.long_room, self.sizes.fill_time);
        let (fill, _) = send_into(server, users, &long, most, time, "f").await?;
        let (load, cpu) = self.send_load(server, users, &long, "g").await?;
        let name = format!("sends into a room with {} messages", self.sizes.long_room);
        self.rate(What::SendsLong, &name, &load, cpu);
        if let Some(row) = self.rows.last_mut() {
            row.note.push_str(&format!(", {} before", fill.done));
        }
        Ok((long, fill.done + load.done))
    }

    pub(super) async fn large_room(
        &mut self,
        server: &Server,
        users: &[Client],
        owner: &Client,
    ) -> anyhow::Result<String> {
        let large = create_room(owner, "large").await?;
        let members = self.sizes.members;
        let joiners: Vec<Client> = users.iter().take(members).skip(1).cloned().collect();
        let (room, most) = (large.clone(), joiners.len());
        let (load, cpu) = measured(server, 8, most, JOINING, move |_, index| {
            let (user, room) = (joiners[index].clone(), room.clone());
            async move { Ok(user.join(&room, &[]).await?) }
        })
        .await?;
        let name = "local joins of a public room, 8 at once";
        self.rate(What::Joins, name, &load, cpu);
        let (load, cpu) = self.send_load(server, users, &large, "l").await?;
        let name = format!("sends into a room with {members} local members");
        self.rate(What::SendsLarge, &name, &load, cpu);
        Ok(large)
    }

    /// Sixteen connections send into one room, as much as the sizes allow.
    async fn send_load(
        &self,
        server: &Server,
        users: &[Client],
        room: &str,
        tag: &'static str,
    ) -> anyhow::Result<(Load, f64)> {
        let (most, longest) = (self.sizes.sends, self.sizes.send_time);
        send_into(server, users, room, most, longest, tag).await
    }
}

/// A new room in which the first sixteen users are.
async fn room_of_senders(users: &[Client], owner: &Client, name: &str) -> anyhow::Result<String> {
    let room = create_room(owner, name).await?;
    for user in users.iter().take(SENDERS).skip(1) {
        user.join(&room, &[]).await?;
    }
    Ok(room)
}

async fn send_into(
    server: &Server,
    users: &[Client],
    room: &str,
    most: usize,
    longest: Duration,
    tag: &'static str,
) -> anyhow::Result<(Load, f64)> {
    let senders: Vec<Client> = users.iter().take(SENDERS).cloned().collect();
    let room = room.to_owned();
    measured(server, SENDERS, most, longest, move |worker, index| {
        let (user, room) = (senders[worker].clone(), room.clone());
        async move { send(&user, &room, &format!("{tag}{index}"), TEXT).await }
    })
    .await
}
