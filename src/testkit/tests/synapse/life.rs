//! What happens to rooms in the course of time: people who decline, knock, are let in, kicked, banned and let in again;
//! what was said is taken back; a room goes on in another one; a long history; and a server that is away.

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

/// The version of the room in which each thing happens.
pub struct Versions {
    pub invites: &'static str,
    /// 7 at least.
    pub knocks: &'static str,
    /// 8 at least.
    pub restricted: &'static str,
    pub bans: &'static str,
    pub redactions: &'static str,
    /// From this one to the other.
    pub upgrade: (&'static str, &'static str),
    pub history: &'static str,
    pub outage: &'static str,
}

/// Somebody on each server: `anna` where the rooms are made, `ben` on the other.
pub struct People {
    pub anna: Client,
    pub ben: Client,
    /// The server of `anna`.
    pub here: String,
    versions: Versions,
}

impl People {
    /// Registers them.
    pub async fn of(creator: &Server, joiner: &Server, versions: Versions) -> anyhow::Result<Self> {
        let role = |role: &str| format!("{role}-of-{:?}", creator.kind()).to_lowercase();
        Ok(Self {
            anna: creator.client()?.register(&role("anna")).await?,
            ben: joiner.client()?.register(&role("ben")).await?,
            here: creator.name(),
            versions,
        })
    }

    async fn room(&self, version: &str, preset: &str, more: Value) -> anyhow::Result<String> {
        let mut body = json!({ "preset": preset, "room_version": version });
        if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
            body.extend(more);
        }
        self.anna.create_room(body).await
    }

    /// A room of theirs with this join rule.
    async fn ruled(&self, version: &str, rule: Value) -> anyhow::Result<String> {
        let rule = json!({ "type": "m.room.join_rules", "state_key": "", "content": rule });
        self.room(version, "public_chat", json!({ "initial_state": [rule] }))
            .await
    }

    /// Ben joins, and anna sees it.
    async fn comes(&self, room: &str) -> anyhow::Result<()> {
        let Self {
            anna, ben, here, ..
        } = self;
        ben.join(room, &[here]).await?;
        wait_for_membership(anna, room, ben.user(), "join").await
    }

    async fn agree(&self, room: &str) -> anyhow::Result<()> {
        agree_within(&self.anna, &self.ben, room, PATIENCE).await
    }

    /// All that needs both servers to be up.
    pub async fn meet(&self) -> anyhow::Result<()> {
        self.invites().await.context("invites")?;
        self.knocks().await.context("knocks")?;
        self.restricted().await.context("restricted joins")?;
        let knocked = self.knock_restricted().await;
        knocked.context("restricted joins, or knocks")?;
        self.bans().await.context("bans")?;
        self.redactions().await.context("redactions")?;
        self.upgrade().await.context("an upgrade")?;
        self.history().await.context("a long history")
    }

    /// Declined, and taken back.
    async fn invites(&self) -> anyhow::Result<()> {
        let Self { anna, ben, .. } = self;
        let version = self.versions.invites;
        let room = self.room(version, "private_chat", json!({})).await?;
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
        self.agree(&room).await
    }

    async fn knocks(&self) -> anyhow::Result<()> {
        let Self {
            anna, ben, here, ..
        } = self;
        let rule = json!({ "join_rule": "knock" });
        let room = self.ruled(self.versions.knocks, rule).await?;
        ensure!(
            ben.join(&room, &[here]).await.is_err(),
            "joined without knocking"
        );
        self.knock(&room).await?;
        anna.membership(&room, "kick", Some(ben.user())).await?;
        wait_for_membership(anna, &room, ben.user(), "leave").await?;
        self.knock(&room).await.context("again")?;
        anna.membership(&room, "invite", Some(ben.user())).await?;
        wait_for_invite(ben, &room).await?;
        ben.join(&room, &[here]).await?;
        self.agree(&room).await
    }

    /// Ben knocks, and anna hears it.
    async fn knock(&self, room: &str) -> anyhow::Result<()> {
        let path = format!(
            "/_matrix/client/v3/knock/{}?via={here}&server_name={here}",
            resuni_testkit::escape(room),
            here = resuni_testkit::escape(&self.here)
        );
        let reason = json!({ "reason": "let me in" });
        self.ben.post(&path, reason).await?;
        wait_for_membership(&self.anna, room, self.ben.user(), "knock").await
    }

    /// Members of one room may join another.
    async fn restricted(&self) -> anyhow::Result<()> {
        let version = self.versions.restricted;
        let club = self.room(version, "public_chat", json!({})).await?;
        let room = self.ruled(version, of_members("restricted", &club)).await?;
        let early = self.ben.join(&room, &[&self.here]).await;
        ensure!(early.is_err(), "joined without being a member");
        self.comes(&club).await?;
        self.is_vouched_for(&room).await
    }

    /// Who is no member may knock.
    async fn knock_restricted(&self) -> anyhow::Result<()> {
        let Self {
            anna, ben, here, ..
        } = self;
        let club = self.room("10", "public_chat", json!({})).await?;
        let rule = of_members("knock_restricted", &club);
        let room = self.ruled("10", rule).await?;
        let early = ben.join(&room, &[here]).await;
        ensure!(early.is_err(), "joined without being a member");
        self.knock(&room).await?;
        anna.membership(&room, "kick", Some(ben.user())).await?;
        wait_for_membership(anna, &room, ben.user(), "leave").await?;
        self.comes(&club).await?;
        self.is_vouched_for(&room).await
    }

    /// Ben, a member of the other room, joins because a user of anna's server may invite.
    async fn is_vouched_for(&self, room: &str) -> anyhow::Result<()> {
        let Self { anna, ben, .. } = self;
        self.comes(room).await?;
        let entry = ben.state(room, "m.room.member", ben.user()).await?;
        ensure!(
            entry["join_authorised_via_users_server"] == anna.user(),
            "nobody vouched: {entry}"
        );
        self.agree(room).await
    }

    /// Kicked and back again, banned and let in again.
    async fn bans(&self) -> anyhow::Result<()> {
        let Self {
            anna, ben, here, ..
        } = self;
        let version = self.versions.bans;
        let room = self.room(version, "public_chat", json!({})).await?;
        self.comes(&room).await?;
        // Synapse never has all of a room that it was put out of while the members were still arriving.
        self.agree(&room).await.context("before the kick")?;
        anna.membership(&room, "kick", Some(ben.user())).await?;
        wait_until_out(ben, &room, "leave").await?;
        self.comes(&room).await.context("after the kick")?;
        self.agree(&room).await.context("before the ban")?;
        anna.membership(&room, "ban", Some(ben.user())).await?;
        wait_until_out(ben, &room, "ban").await?;
        ensure!(
            ben.join(&room, &[here]).await.is_err(),
            "joined though banned"
        );
        anna.membership(&room, "unban", Some(ben.user())).await?;
        wait_for_membership(anna, &room, ben.user(), "leave").await?;
        self.comes(&room).await.context("after the ban")?;
        self.agree(&room).await
    }

    /// Each takes back what they said, and anna what ben said.
    async fn redactions(&self) -> anyhow::Result<()> {
        let Self { anna, ben, .. } = self;
        let version = self.versions.redactions;
        let room = self.room(version, "public_chat", json!({})).await?;
        self.comes(&room).await?;
        for (n, (author, redacter)) in [(anna, anna), (ben, ben), (ben, anna)].iter().enumerate() {
            let said = author.send(&room, &format!("said-{n}"), "oops").await?;
            for reader in [anna, ben] {
                let shown = until_shown(reader, &room, &said, |event| {
                    event["content"]["body"] == "oops"
                });
                shown.await.context("before it is taken back")?;
            }
            let path = format!(
                "/_matrix/client/v3/rooms/{}/redact/{}/back-{n}",
                resuni_testkit::escape(&room),
                resuni_testkit::escape(&said)
            );
            let answer = redacter.put(&path, json!({ "reason": "oops" })).await?;
            for reader in [anna, ben] {
                let shown = until_shown(reader, &room, &said, |event| {
                    event["content"] == json!({})
                        && event["unsigned"]["redacted_because"]["event_id"] == answer["event_id"]
                });
                shown.await.context("after it is taken back")?;
            }
        }
        self.agree(&room).await
    }

    async fn upgrade(&self) -> anyhow::Result<()> {
        let Self {
            anna, ben, here, ..
        } = self;
        let (old, new) = self.versions.upgrade;
        let name = json!({ "name": "The old one" });
        let room = self.room(old, "public_chat", name).await?;
        self.comes(&room).await?;
        let path = format!(
            "/_matrix/client/v3/rooms/{}/upgrade",
            resuni_testkit::escape(&room)
        );
        let answer = anna.post(&path, json!({ "new_version": new })).await?;
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
        let create = ben.state(next, "m.room.create", "").await?;
        ensure!(create["predecessor"]["room_id"] == room, "{create}");
        let name = ben.state(next, "m.room.name", "").await?;
        ensure!(name["name"] == "The old one", "{name}");
        self.agree(&room).await?;
        self.agree(next).await
    }

    /// Somebody who comes late reads all that was said.
    async fn history(&self) -> anyhow::Result<()> {
        let Self {
            anna, ben, here, ..
        } = self;
        let version = self.versions.history;
        let room = self.room(version, "public_chat", json!({})).await?;
        let mut sent = Vec::with_capacity(HISTORY);
        for first in (0..HISTORY).step_by(AT_ONCE) {
            let ids: Vec<String> = (first..first + AT_ONCE).map(|n| n.to_string()).collect();
            sent.extend(try_join_all(ids.iter().map(|id| anna.send(&room, id, id))).await?);
        }
        ben.join(&room, &[here]).await?;
        // A join follows at most ten of the room's ends. To the others leads what is said next.
        for n in 0..3 {
            let text = format!("welcome {n}");
            sent.push(anna.send(&room, &format!("w{n}"), &text).await?);
        }
        let mut reader = Reader::new(ben.clone());
        reader.until_seen(&room, &sent[HISTORY..], PATIENCE).await?;
        let read = ben.history(&room).await?;
        let read: std::collections::HashSet<&str> = read
            .iter()
            .filter_map(|event| event["event_id"].as_str())
            .collect();
        let missing = sent.iter().filter(|id| !read.contains(id.as_str()));
        let missing = missing.count();
        ensure!(missing == 0, "{missing} of {HISTORY} are missing");
        self.agree(&room).await
    }

    /// A room that goes on while the other server is away.
    pub async fn shared(&self) -> anyhow::Result<String> {
        let version = self.versions.outage;
        let room = self.room(version, "public_chat", json!({})).await?;
        self.comes(&room).await?;
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
        let nickname = json!({ "membership": "join", "displayname": "Who stayed" });
        let renamed = speaker.set_state(room, "m.room.member", speaker.user(), nickname);
        said.push(renamed.await?);
        away.start().await?;
        let mut listener = Reader::new(listener.clone());
        said.push(speaker.send(room, "back", "are you there?").await?);
        listener.until_seen(room, &said, PATIENCE).await?;
        self.agree(room).await
    }
}

/// A join rule for the members of a room.
fn of_members(rule: &str, room: &str) -> Value {
    let condition = json!({ "type": "m.room_membership", "room_id": room });
    json!({ "join_rule": rule, "allow": [condition] })
}

/// Waits until somebody is shown an event as it is wanted.
async fn until_shown(
    client: &Client,
    room: &str,
    event: &str,
    wanted: impl Fn(&Value) -> bool,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let shown = client.event(room, event).await;
        match &shown {
            Ok(shown) if wanted(shown) => return Ok(()),
            Ok(_) => {}
            Err(CallError::Answer { status, .. }) if matches!(status.as_u16(), 403 | 404) => {}
            Err(error) => bail!("{error}"),
        }
        if begun.elapsed() > PATIENCE {
            bail!("{} is shown {shown:?}", client.user());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits until a room has put somebody out, as they are shown it themselves.
async fn wait_until_out(client: &Client, room: &str, how: &str) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let answer = look(client).await?;
        let left = &answer["rooms"]["leave"][room];
        let parts = [&left["timeline"]["events"], &left["state"]["events"]];
        let mut events = parts.iter().filter_map(|part| part.as_array()).flatten();
        let is_out = |event: &Value| {
            event["state_key"] == client.user() && event["content"]["membership"] == how
        };
        if events.any(is_out) {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            bail!("{} is not shown that {room} put them out", client.user());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
