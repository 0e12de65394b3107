//! Policy rooms that the operator follows (client-server API, "Moderation policy lists"; MSC2313): whom and what they
//! recommend to ban.
//!
//! What their rules say is in memory, by entity; rules with wildcards are apart. It is read when the server starts, and
//! then follows the log: of a state that changed only the difference is looked at. By it
//!
//! * invites of users and servers that are banned are refused, whoever is invited, and nobody here is invited to a room
//!   that is;
//! * users of banned servers are not invited from here;
//! * nobody here joins a room that is banned, or knocks at it. Who is in stays in.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use parking_lot::{Mutex, RwLock};
use resuni_dag::{Pdu, glob};
use resuni_store::{Position, StoreError};
use ruma::{EventId, OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId};
use serde::Deserialize;

use crate::{
    error::RoomError,
    events::NewEvent,
    fields::string_member,
    rooms::Rooms,
    tables::{EventLog, TOPIC_EVENT},
    types::{EventNum, RoomNum, SnapNum},
    view::RoomView,
};

/// Rules of all policy rooms together; more are left out, and the log says so.
const MAX_RULES: usize = 100_000;
/// The longest user id, server name or room id, in bytes; no longer pattern is of use.
const MAX_ENTITY: usize = 255;
/// Events read at a time.
const PAGE: usize = 500;
/// Log entries read at a time.
const READ_LIMIT: usize = 256;

/// What a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BanKind {
    /// A user.
    User,
    /// A server, and all its users.
    Server,
    /// A room.
    Room,
}

impl BanKind {
    /// The type of a rule's event: that of the specification, and those it had before.
    fn of(kind: &str) -> Option<Self> {
        let kind = ["m.policy.rule.", "m.room.rule.", "org.matrix.mjolnir.rule."]
            .iter()
            .find_map(|prefix| kind.strip_prefix(prefix))?;
        match kind {
            "user" => Some(Self::User),
            "server" => Some(Self::Server),
            "room" => Some(Self::Room),
            _ => None,
        }
    }
}

/// A rule that recommends a ban.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    /// What it is about.
    pub kind: BanKind,
    /// Whom: an id or a name, in which `*` stands for anything and `?` for one character.
    pub entity: String,
    /// Why.
    pub reason: Option<String>,
    /// The policy room that says so.
    pub by: OwnedRoomId,
}

impl Ban {
    /// The rule of a state event; none if it is none, or recommends nothing that is known.
    fn of(event: &Pdu, by: &RoomId) -> Option<Self> {
        #[derive(Deserialize)]
        struct Content {
            entity: String,
            recommendation: String,
            reason: Option<String>,
        }
        let kind = BanKind::of(event.kind())?;
        let content: Content = event.content_as().ok()?;
        let known = ["m.ban", "org.matrix.mjolnir.ban"].contains(&&*content.recommendation);
        if !known || content.entity.is_empty() || content.entity.len() > MAX_ENTITY {
            return None;
        }
        let entity = match kind {
            BanKind::Server => content.entity.to_ascii_lowercase(),
            BanKind::User | BanKind::Room => content.entity,
        };
        Some(Self {
            kind,
            entity,
            reason: content.reason,
            by: by.to_owned(),
        })
    }
}

/// The rules by what they are about.
#[derive(Default)]
struct Index {
    rules: HashMap<EventNum, Ban>,
    exact: HashMap<(BanKind, String), BTreeSet<EventNum>>,
    globs: BTreeMap<EventNum, (BanKind, String)>,
}

impl Index {
    fn add(&mut self, event: EventNum, ban: Ban) -> bool {
        if self.rules.len() >= MAX_RULES {
            return false;
        }
        let name = (ban.kind, ban.entity.clone());
        if ban.entity.contains(['*', '?']) {
            self.globs.insert(event, name);
        } else {
            self.exact.entry(name).or_default().insert(event);
        }
        self.rules.insert(event, ban);
        true
    }

    fn remove(&mut self, event: EventNum) {
        let Some(ban) = self.rules.remove(&event) else {
            return;
        };
        self.globs.remove(&event);
        let name = (ban.kind, ban.entity);
        if let Some(events) = self.exact.get_mut(&name) {
            events.remove(&event);
            if events.is_empty() {
                self.exact.remove(&name);
            }
        }
    }

    fn find(&self, kind: BanKind, entity: &str) -> Option<&Ban> {
        let exact = self.exact.get(&(kind, entity.to_owned()));
        let exact = exact.and_then(|events| events.first());
        let event = exact.or_else(|| {
            let mut globs = self.globs.iter();
            let found = globs.find(|(_, (k, pattern))| *k == kind && glob(pattern, entity));
            found.map(|(event, _)| event)
        })?;
        self.rules.get(event)
    }
}

/// What the policy rooms say that the operator follows.
pub struct Bans {
    /// This server, which no rule bans from itself.
    own: OwnedServerName,
    /// The policy rooms, with the state that was read; none where it is not here.
    rooms: Mutex<BTreeMap<OwnedRoomId, Option<(RoomNum, SnapNum)>>>,
    index: RwLock<Index>,
}

impl Bans {
    pub(crate) fn new(own: OwnedServerName) -> Self {
        Self {
            own,
            rooms: Mutex::default(),
            index: RwLock::default(),
        }
    }

    /// The rule by which a user is banned: one about them, or about their server.
    pub fn user(&self, user: &UserId) -> Option<Ban> {
        let found = self
            .index
            .read()
            .find(BanKind::User, user.as_str())
            .cloned();
        found.or_else(|| self.server(user.server_name()))
    }

    /// The rule by which a server is banned, whatever its port.
    pub fn server(&self, server: &ServerName) -> Option<Ban> {
        if server == self.own {
            return None;
        }
        let host = server.host().to_ascii_lowercase();
        self.index.read().find(BanKind::Server, &host).cloned()
    }

    /// The rule by which a room is banned; by its id, or one of its aliases.
    pub fn room(&self, name: &str) -> Option<Ban> {
        self.index.read().find(BanKind::Room, name).cloned()
    }

    /// The rooms that are followed, with how many rules of each count; none where the room is not here.
    pub fn rooms(&self) -> Vec<(OwnedRoomId, Option<usize>)> {
        let index = self.index.read();
        let rooms = self.rooms.lock();
        let count = |room: &OwnedRoomId| index.rules.values().filter(|ban| ban.by == *room).count();
        let rooms = rooms.iter().map(|(room, read)| (room, read.is_some()));
        rooms
            .map(|(room, here)| (room.clone(), here.then(|| count(room))))
            .collect()
    }

    /// Whether `sender` may invite `target` to the room, which may be one that does not exist yet.
    ///
    /// # Errors
    /// [`RoomError::Forbidden`] with the rule.
    pub fn may_invite(
        &self,
        sender: &UserId,
        target: &UserId,
        room: Option<&RoomId>,
    ) -> Result<(), RoomError> {
        let ban = self
            .user(sender)
            .or_else(|| self.server(target.server_name()))
            .or_else(|| self.room(room?.as_str()));
        ban.map_or(Ok(()), |ban| Err(refused("this invite", &ban)))
    }

    /// Whether people of this server may join the room of this id or alias.
    ///
    /// # Errors
    /// [`RoomError::Forbidden`] with the rule.
    pub fn may_join(&self, room: &str) -> Result<(), RoomError> {
        let ban = self.room(room);
        ban.map_or(Ok(()), |ban| Err(refused("joining this room", &ban)))
    }
}

fn refused(what: &str, ban: &Ban) -> RoomError {
    let reason = ban.reason.as_deref().filter(|reason| !reason.is_empty());
    let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    RoomError::Forbidden(format!(
        "a moderation policy of this server stands against {what}{reason}"
    ))
}

impl Rooms {
    /// What policy rooms say.
    pub fn bans(&self) -> &Bans {
        &self.bans
    }

    /// Refuses what the policies of this server stand against, in a membership that one of our users sends.
    pub(crate) async fn check_bans(
        &self,
        room: &RoomId,
        sender: &UserId,
        event: &NewEvent,
    ) -> Result<(), RoomError> {
        let target = event
            .state_key
            .as_deref()
            .filter(|_| event.kind == "m.room.member");
        let Some(target) = target.and_then(|target| <&UserId>::try_from(target).ok()) else {
            return Ok(());
        };
        match string_member(event.content.get(), "membership").as_deref() {
            Some("invite") => self.bans.may_invite(sender, target, Some(room)),
            Some("join" | "knock") => match self.bans.may_join(room.as_str()) {
                // Who is in may change their name.
                Err(_) if self.is_in(room, sender).await? => Ok(()),
                verdict => verdict,
            },
            _ => Ok(()),
        }
    }

    async fn is_in(&self, room: &RoomId, user: &UserId) -> Result<bool, RoomError> {
        match self.participating(room).await? {
            Some(view) => view.joined(user).await,
            None => Ok(false),
        }
    }

    /// Begins to follow policy rooms, those that are here and those that will be: reads what they say now.
    /// [`Rooms::follow_policy_rooms`] goes on from there.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn read_policy_rooms(&self, rooms: &[OwnedRoomId]) -> Result<Position, RoomError> {
        let seen = self.store().log().watermark();
        let named = rooms.iter().map(|room| (room.clone(), None));
        self.bans.rooms.lock().extend(named);
        for room in rooms {
            self.read_policy_room(room).await?;
        }
        Ok(seen)
    }

    /// Follows them from there, until the store is closed.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn follow_policy_rooms(&self, mut seen: Position) -> Result<(), RoomError> {
        let mut watermark = self.store().log().watch();
        loop {
            let up_to = tokio::select! {
                moved = watermark.wait_for(|up_to| *up_to > seen) => match moved {
                    Ok(up_to) => *up_to,
                    Err(_) => return Ok(()),
                },
                reason = self.store().ended() => match reason {
                    StoreError::Closed => return Ok(()),
                    reason => return Err(reason.into()),
                },
            };
            self.follow_bans(seen, up_to).await?;
            seen = up_to;
        }
    }

    /// Takes in what the log says after `seen`, up to a position.
    pub(crate) async fn follow_bans(
        &self,
        mut seen: Position,
        up_to: Position,
    ) -> Result<(), RoomError> {
        while seen < up_to {
            let entries = self.store().log().read(seen, up_to, READ_LIMIT).await?;
            let Some(last) = entries.last() else { break };
            seen = last.position;
            let mut touched = BTreeMap::new();
            for entry in &entries {
                // Events, and whatever else changes a room: a state that is whole, or healed.
                if entry.topic.0 >> 8 == TOPIC_EVENT.0 >> 8 {
                    let events: &mut Vec<EventNum> = touched.entry(entry.scope).or_default();
                    if entry.topic == TOPIC_EVENT {
                        events.extend(EventLog::from_bytes(&entry.payload).map(|log| log.event));
                    }
                }
            }
            let rooms: Vec<_> = self.bans.rooms.lock().clone().into_iter().collect();
            for (room, read) in rooms {
                let events = read.and_then(|(num, _)| touched.get(&num.0));
                if events.is_none() && read.is_some() {
                    continue;
                }
                self.read_policy_room(&room).await?;
                for event in events.into_iter().flatten() {
                    self.read_redaction(&room, *event).await?;
                }
            }
        }
        Ok(())
    }

    /// Takes in what a policy room says now: of a room that was read before, what changed.
    async fn read_policy_room(&self, room: &RoomId) -> Result<(), RoomError> {
        let Some(view) = self.participating(room).await? else {
            return Ok(());
        };
        let now = (view.num(), view.snap());
        let before = self.bans.rooms.lock().get(room).copied().flatten();
        let (gone, new) = match before {
            Some(before) if before == now => return Ok(()),
            Some((_, before)) => {
                let changes = view.state_diff(before, view.snap()).await?;
                let gone = changes.iter().filter_map(|change| change.before).collect();
                let new = changes.iter().filter_map(|change| change.after).collect();
                (gone, new)
            }
            None => {
                let state = view.state_at_snap(view.snap());
                (Vec::new(), state.nums_without_members(&[]).await?)
            }
        };
        self.change_bans(&view, &gone, &new).await?;
        self.bans.rooms.lock().insert(room.to_owned(), Some(now));
        Ok(())
    }

    async fn change_bans(
        &self,
        view: &RoomView,
        gone: &[EventNum],
        new: &[EventNum],
    ) -> Result<(), RoomError> {
        for event in gone {
            self.bans.index.write().remove(*event);
        }
        for page in new.chunks(PAGE) {
            let shown = view.shown(page).await?;
            let mut index = self.bans.index.write();
            for (event, shown) in page.iter().zip(shown) {
                index.remove(*event);
                if let Some(ban) = Ban::of(&shown.pdu, view.room_id())
                    && !index.add(*event, ban)
                {
                    tracing::warn!(room = %view.room_id(), "there are more than {MAX_RULES} policy rules");
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// A rule that is redacted stays in the state, and says nothing any more.
    async fn read_redaction(&self, room: &RoomId, event: EventNum) -> Result<(), RoomError> {
        let Some(view) = self.participating(room).await? else {
            return Ok(());
        };
        let pdu = view.pdus(&[event]).await?.into_iter().next();
        let target: Option<&EventId> = pdu.as_ref().and_then(|pdu| pdu.redacts(view.rules()));
        let Some(target) = target else {
            return Ok(());
        };
        let target = view.event(target).await?.map(|stored| stored.num);
        let is_rule = |event: &EventNum| self.bans.index.read().rules.contains_key(event);
        match target.filter(is_rule) {
            Some(rule) => self.change_bans(&view, &[], &[rule]).await,
            None => Ok(()),
        }
    }
}
