//! What happens to rooms in the course of time: people who decline, knock, are let in, banned and let in again; a room
//! that goes on in another one; a long history; and a server that is away.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures_util::future::try_join_all;
use resuni_testkit::{CallError, Client, Reader, Server, agree_within};
use serde_json::{Value, json};

use super::{PATIENCE, look, wait_for_invite, wait_for_membership};

/// Messages that are there before somebody of the other server comes.
const HISTORY: usize = 1_000;
/// Messages that are sent at a time.
const AT_ONCE: usize = 20;

/// Somebody on each server: `anna` where the rooms are made, `ben` on the other.
pub struct People {
    pub anna: Client,
    pub ben: Client,
    /// The server of `anna`.
    pub here: String,
}

impl People {
    /// Registers them.
    pub async fn of(creator: &Server, joiner: &Server) -> anyhow::Result<Self> {
        let role = |role: &str| format!("{role}-of-{:?}", creator.kind()).to_lowercase();
        Ok(Self {
            anna: creator.client()?.register(&role("anna")).await?,
            ben: joiner.client()?.register(&role("ben")).await?,
            here: creator.name(),
        })
    }

    async fn room(&self, preset: &str, more: Value) -> anyhow::Result<String> {
        let mut body = json!({ "preset": preset, "room_version": "11" });
        if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
            body.extend(more);
        }
        self.anna.create_room(body).await
    }

    /// All that needs both servers to be up.
    pub async fn meet(&self) -> anyhow::Result<()> {
        self.invites().await.context("invites")?;
        self.knocks().await.context("knocks")?;
        self.restricted().await.context("restricted joins")?;
        self.bans().await.context("bans")?;
        self.upgrade().await.context("an upgrade")?;
        self.history().await.context("a long history")
    }

    /// Declined, and taken back.
    async fn invites(&self) -> anyhow::Result<()> {
        let Self { anna, ben, .. } = self;
        let room = self.room("private_chat", json!({})).await?;
        anna.membership(&room, "invite", Some(ben.user())).await?;
        wait_for_invite(ben, &room).await?;
        ben.membership(&room, "leave", None).await?;
        wait_for_membership(anna, &room, ben.user(), "leave").await?;
        anna.membership(&room, "invite", Some(ben.user())).await?;
        wait_for_invite(ben, &room).await?;
        anna.membership(&room, "kick", Some(ben.user())).await?;
        let begun = Instant::now();
        while !look(ben).await?["rooms"]["invite"][&room].is_null() {
            ensure!(begun.elapsed() < PATIENCE, "the invite stays");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anna.membership(&room, "invite", Some(ben.user())).await?;
        wait_for_invite(ben, &room).await?;
        ben.join(&room, &[]).await?;
        agree_within(anna, ben, &room, PATIENCE).await
    }

    async fn knocks(&self) -> anyhow::Result<()> {
        let Self { anna, ben, here } = self;
        let rule = json!({ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } });
        let room = self
            .room("public_chat", json!({ "initial_state": [rule] }))
            .await?;
        ensure!(
            ben.join(&room, &[here]).await.is_err(),
            "joined without knocking"
        );
        let path = format!(
            "/_matrix/client/v3/knock/{}?via={here}&server_name={here}",
            resuni_testkit::escape(&room),
            here = resuni_testkit::escape(here)
        );
        ben.post(&path, json!({ "reason": "let me in" })).await?;
        wait_for_membership(anna, &room, ben.user(), "knock").await?;
        anna.membership(&room, "kick", Some(ben.user())).await?;
        wait_for_membership(anna, &room, ben.user(), "leave").await?;
        ben.post(&path, json!({})).await.context("again")?;
        wait_for_membership(anna, &room, ben.user(), "knock").await?;
        anna.membership(&room, "invite", Some(ben.user())).await?;
        wait_for_invite(ben, &room).await?;
        ben.join(&room, &[here]).await?;
        agree_within(anna, ben, &room, PATIENCE).await
    }

    /// Members of one room may join another.
    async fn restricted(&self) -> anyhow::Result<()> {
        let Self { anna, ben, here } = self;
        let club = self.room("public_chat", json!({})).await?;
        let content = json!({
            "join_rule": "restricted",
            "allow": [{ "type": "m.room_membership", "room_id": club }],
        });
        let rule = json!({ "type": "m.room.join_rules", "state_key": "", "content": content });
        let room = self
            .room("private_chat", json!({ "initial_state": [rule] }))
            .await?;
        ensure!(
            ben.join(&room, &[here]).await.is_err(),
            "joined without being a member"
        );
        ben.join(&club, &[here]).await?;
        wait_for_membership(anna, &club, ben.user(), "join").await?;
        ben.join(&room, &[here]).await?;
        let entry = ben.state(&room, "m.room.member", ben.user()).await?;
        ensure!(
            entry["join_authorised_via_users_server"] == anna.user(),
            "nobody vouched: {entry}"
        );
        agree_within(anna, ben, &room, PATIENCE).await
    }

    async fn bans(&self) -> anyhow::Result<()> {
        let Self { anna, ben, here } = self;
        let room = self.room("public_chat", json!({})).await?;
        ben.join(&room, &[here]).await?;
        wait_for_membership(anna, &room, ben.user(), "join").await?;
        anna.membership(&room, "ban", Some(ben.user())).await?;
        wait_until_out(ben, &room).await?;
        ensure!(
            ben.join(&room, &[here]).await.is_err(),
            "joined though banned"
        );
        anna.membership(&room, "unban", Some(ben.user())).await?;
        wait_for_membership(anna, &room, ben.user(), "leave").await?;
        ben.join(&room, &[here]).await?;
        agree_within(anna, ben, &room, PATIENCE).await
    }

    async fn upgrade(&self) -> anyhow::Result<()> {
        let Self { anna, ben, here } = self;
        let room = self
            .room("public_chat", json!({ "name": "The old one" }))
            .await?;
        ben.join(&room, &[here]).await?;
        let path = format!(
            "/_matrix/client/v3/rooms/{}/upgrade",
            resuni_testkit::escape(&room)
        );
        let answer = anna.post(&path, json!({ "new_version": "12" })).await?;
        let next = answer["replacement_room"].as_str().context("no new room")?;
        let begun = Instant::now();
        let tombstone = loop {
            match ben.state(&room, "m.room.tombstone", "").await {
                Ok(tombstone) => break tombstone,
                Err(CallError::Answer { status, .. }) if status == 404 => {}
                Err(error) => return Err(error.into()),
            }
            ensure!(begun.elapsed() < PATIENCE, "no tombstone");
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        ensure!(tombstone["replacement_room"] == next, "{tombstone}");
        ben.join(next, &[here]).await.context("the new room")?;
        let name = ben.state(next, "m.room.name", "").await?;
        ensure!(name["name"] == "The old one", "{name}");
        agree_within(anna, ben, &room, PATIENCE).await?;
        agree_within(anna, ben, next, PATIENCE).await
    }

    /// Somebody who comes late reads all that was said.
    async fn history(&self) -> anyhow::Result<()> {
        let Self { anna, ben, here } = self;
        let room = self.room("public_chat", json!({})).await?;
        let mut sent = Vec::with_capacity(HISTORY);
        for first in (0..HISTORY).step_by(AT_ONCE) {
            let ids: Vec<String> = (first..first + AT_ONCE).map(|n| n.to_string()).collect();
            sent.extend(try_join_all(ids.iter().map(|id| anna.send(&room, id, id))).await?);
        }
        ben.join(&room, &[here]).await?;
        let read = ben.history(&room).await?;
        let read: std::collections::HashSet<&str> = read
            .iter()
            .filter_map(|event| event["event_id"].as_str())
            .collect();
        let missing = sent.iter().filter(|id| !read.contains(id.as_str()));
        let missing = missing.count();
        ensure!(missing == 0, "{missing} of {HISTORY} are missing");
        agree_within(anna, ben, &room, PATIENCE).await
    }

    /// A room that goes on while the other server is away.
    pub async fn shared(&self) -> anyhow::Result<String> {
        let room = self.room("public_chat", json!({})).await?;
        self.ben.join(&room, &[&self.here]).await?;
        wait_for_membership(&self.anna, &room, self.ben.user(), "join").await?;
        Ok(room)
    }

    /// `speaker` says and changes things while `away` is stopped; when it is back it learns of all of it.
    pub async fn outage(
        &self,
        room: &str,
        (speaker, listener): (&Client, &Client),
        away: &mut Server,
    ) -> anyhow::Result<()> {
        away.stop().await?;
        let mut said = Vec::new();
        for n in 0..60 {
            let txn = format!("away-{n}");
            said.push(speaker.send(room, &txn, &txn).await?);
        }
        away.start().await?;
        let mut listener = Reader::new(listener.clone());
        said.push(speaker.send(room, "back", "are you there?").await?);
        listener.until_seen(room, &said[60..], PATIENCE).await?;
        agree_within(&self.anna, &self.ben, room, PATIENCE).await
    }
}

/// Waits until a room has put somebody out, as they see it themselves.
async fn wait_until_out(client: &Client, room: &str) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let answer = look(client).await?;
        if answer["rooms"]["join"][room].is_null() {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            bail!("{} is still in {room}", client.user());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
