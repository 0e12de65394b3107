//! Who may see which event: history visibility, judged by the state *at* each event.
//!
//! Spec: client-server API, "Room History Visibility", and server-server API, "Backfilling and
//! retrieving missing events". What a state says is remembered by the state's number, so a page of
//! messages costs two look-ups however long it is.

use std::collections::{HashMap, HashSet};

use resuni_dag::{HistoryVisibility, Pdu};
use ruma::{EventId, OwnedServerName, OwnedUserId, ServerName, UserId};

use crate::error::RoomError;
use crate::events::SAYS_NOTHING;
use crate::fields::{EventFields, string_member};
use crate::page::TimelineEvent;
use crate::relations::Bundling;
use crate::tables::Place;
use crate::types::{EventNum, Membership, SnapNum, StateKeyNum, TimelineToken};
use crate::view::{RoomView, StoredEvent};

/// How many changes of a membership are walked back to find when somebody was last joined.
pub(crate) const MAX_STEPS: usize = 64;

/// A user who reads a room.
pub struct Viewer {
    view: RoomView,
    user: OwnedUserId,
    visibility_key: Option<StateKeyNum>,
    member_key: Option<StateKeyNum>,
    /// Until when the user was joined last.
    last_join: LastJoin,
    states: HashMap<SnapNum, AtState>,
    visibilities: HashMap<EventNum, HistoryVisibility>,
    memberships: HashMap<EventNum, Membership>,
    pub(crate) bundling: Bundling,
    /// Whether it is an operator who looks into a room of others.
    sees_all: bool,
}

/// What decides whether "the user joined at any point after the event".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LastJoin {
    /// Joined now.
    Now,
    /// Last joined by the event at this place, and not joined now.
    At(TimelineToken),
    /// Never.
    Never,
}

/// What a state says about the reader.
#[derive(Debug, Clone, Copy)]
struct AtState {
    visibility: HistoryVisibility,
    membership: Option<Membership>,
}

/// The rules 1 to 5 of the spec for one visibility and one membership.
fn allowed(
    visibility: HistoryVisibility,
    membership: Option<Membership>,
    joined_later: bool,
) -> bool {
    match (visibility, membership) {
        (HistoryVisibility::WorldReadable, _) | (_, Some(Membership::Join)) => true,
        (HistoryVisibility::Shared, _) => joined_later,
        (HistoryVisibility::Invited, Some(Membership::Invite)) => true,
        _ => false,
    }
}

impl RoomView {
    /// What `user` may see of the room. Make it once for a page.
    pub async fn viewer(&self, user: &UserId) -> Result<Viewer, RoomError> {
        let visibility_key = self
            .reader
            .state_key_num("m.room.history_visibility", "")
            .await?;
        let member_key = self
            .reader
            .state_key_num("m.room.member", user.as_str())
            .await?;
        Ok(Viewer {
            last_join: self.last_join(member_key).await?,
            view: self.clone(),
            user: user.to_owned(),
            visibility_key,
            member_key,
            states: HashMap::new(),
            visibilities: HashMap::new(),
            memberships: HashMap::new(),
            bundling: Bundling::default(),
            sees_all: false,
        })
    }

    /// What an operator sees of the room, whether or not they are in it: all of it.
    pub async fn operators_viewer(&self, operator: &UserId) -> Result<Viewer, RoomError> {
        let viewer = self.viewer(operator).await?;
        Ok(Viewer {
            sees_all: true,
            ..viewer
        })
    }

    /// Walks the user's member events back from the current one to the last that was a join.
    async fn last_join(&self, member_key: Option<StateKeyNum>) -> Result<LastJoin, RoomError> {
        let Some(key) = member_key else {
            return Ok(LastJoin::Never);
        };
        let mut snap = self.snap();
        for step in 0..MAX_STEPS {
            let root = self.reader.snap(snap).await?.root;
            let Some(num) = crate::tree::get(&self.reader, root, key).await? else {
                return Ok(LastJoin::Never);
            };
            let joined = membership_of(&self.reader.pdu(num).await?) == Some(Membership::Join);
            if joined && step == 0 {
                return Ok(LastJoin::Now);
            }
            let row = self.reader.event_row(num).await?;
            match row.place {
                Place::Timeline { position, sub } if joined => {
                    return Ok(LastJoin::At(TimelineToken { position, sub }));
                }
                Place::Timeline { .. } => snap = row.snap_before,
                // Of the time before our server came nothing more is known.
                _ => return Ok(LastJoin::Never),
            }
        }
        Ok(LastJoin::Never)
    }
}

impl Viewer {
    /// The room.
    pub fn view(&self) -> &RoomView {
        &self.view
    }

    /// The reader.
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// Whether the reader is joined now.
    pub fn is_joined(&self) -> bool {
        self.last_join == LastJoin::Now
    }

    /// Whether the reader may see the event.
    pub async fn sees(&mut self, event: &TimelineEvent) -> Result<bool, RoomError> {
        self.sees_json(event.row.snap_before, event.token, &event.row.pdu)
            .await
    }

    /// Whether the reader may see an event that was looked up by its id. What has no place in the timeline is seen by
    /// nobody.
    pub async fn sees_stored(&mut self, event: &StoredEvent) -> Result<bool, RoomError> {
        match event.token() {
            Some(token) => {
                self.sees_json(event.row.snap_before, token, event.pdu.json())
                    .await
            }
            None => Ok(false),
        }
    }

    async fn sees_json(
        &mut self,
        snap_before: SnapNum,
        token: TimelineToken,
        json: &str,
    ) -> Result<bool, RoomError> {
        if json.contains(SAYS_NOTHING) && EventFields::of(json).kind_str() == SAYS_NOTHING {
            return Ok(false);
        }
        if self.sees_all {
            return Ok(true);
        }
        let before = self.at(snap_before).await?;
        let joined_later = match self.last_join {
            LastJoin::Now => true,
            LastJoin::At(join) => token < join,
            LastJoin::Never => false,
        };
        if allowed(before.visibility, before.membership, joined_later) {
            return Ok(true);
        }
        // Only the two kinds of events that change the answer are looked into: "before *or* after".
        let fields = EventFields::of(json);
        Ok(match fields.kind_str() {
            "m.room.history_visibility" if fields.state_key_str() == Some("") => allowed(
                visibility_in(fields.content),
                before.membership,
                joined_later,
            ),
            "m.room.member" if fields.state_key_str() == Some(self.user.as_str()) => allowed(
                before.visibility,
                membership_in(fields.content),
                joined_later,
            ),
            _ => false,
        })
    }

    /// The reader's membership at the event, changes by the event included (`unsigned.membership`).
    pub async fn membership_at(&mut self, event: &TimelineEvent) -> Result<Membership, RoomError> {
        if event.row.flags & crate::tables::flags::MEMBER != 0 {
            let fields = event.fields();
            if fields.state_key_str() == Some(self.user.as_str()) {
                return Ok(membership_in(fields.content).unwrap_or(Membership::Leave));
            }
        }
        Ok(self
            .at(event.row.snap_before)
            .await?
            .membership
            .unwrap_or(Membership::Leave))
    }

    /// The reader's membership in the state before the event.
    pub(crate) async fn membership_before(
        &mut self,
        event: &TimelineEvent,
    ) -> Result<Option<Membership>, RoomError> {
        Ok(self.at(event.row.snap_before).await?.membership)
    }

    async fn at(&mut self, snap: SnapNum) -> Result<AtState, RoomError> {
        if let Some(state) = self.states.get(&snap) {
            return Ok(*state);
        }
        let root = self.view.reader.snap(snap).await?.root;
        let visibility = match self.visibility_key {
            Some(key) => crate::tree::get(&self.view.reader, root, key).await?,
            None => None,
        };
        let membership = match self.member_key {
            Some(key) => crate::tree::get(&self.view.reader, root, key).await?,
            None => None,
        };
        let visibility = match visibility {
            Some(event) => self.visibility_of(event).await?,
            None => HistoryVisibility::Shared,
        };
        let membership = match membership {
            Some(event) => self.membership_by(event).await?,
            None => None,
        };
        let state = AtState {
            visibility,
            membership,
        };
        self.states.insert(snap, state);
        Ok(state)
    }

    async fn visibility_of(&mut self, event: EventNum) -> Result<HistoryVisibility, RoomError> {
        if let Some(visibility) = self.visibilities.get(&event) {
            return Ok(*visibility);
        }
        let visibility = HistoryVisibility::of(Some(&self.view.reader.pdu(event).await?));
        self.visibilities.insert(event, visibility);
        Ok(visibility)
    }

    async fn membership_by(&mut self, event: EventNum) -> Result<Option<Membership>, RoomError> {
        if let Some(membership) = self.memberships.get(&event) {
            return Ok(Some(*membership));
        }
        let membership = membership_of(&self.view.reader.pdu(event).await?);
        if let Some(membership) = membership {
            self.memberships.insert(event, membership);
        }
        Ok(membership)
    }
}

/// A server that reads a room. It may see what one of its users may.
pub struct ServerViewer {
    view: RoomView,
    server: OwnedServerName,
    visibility_key: Option<StateKeyNum>,
    visibilities: HashMap<EventNum, HistoryVisibility>,
    /// The last state that was looked at, and the server's users in it who are joined or invited.
    members: Option<(SnapNum, HashMap<StateKeyNum, Membership>)>,
    answers: HashMap<SnapNum, (HistoryVisibility, bool, bool)>,
    /// State keys that are no member of the server.
    others: HashSet<StateKeyNum>,
}

impl RoomView {
    /// What a server may see of the room.
    pub async fn server_viewer(&self, server: &ServerName) -> Result<ServerViewer, RoomError> {
        Ok(ServerViewer {
            view: self.clone(),
            server: server.to_owned(),
            visibility_key: self
                .reader
                .state_key_num("m.room.history_visibility", "")
                .await?,
            visibilities: HashMap::new(),
            members: None,
            answers: HashMap::new(),
            others: HashSet::new(),
        })
    }
}

/// The largest state that is looked through for members of a server.
const MAX_LOOKED_THROUGH: u64 = 2_000;

impl RoomView {
    /// Whether the server was in the room at the event: a user of it was joined in the state before it.
    /// In a large room that is known only of events that are about a user of the server.
    pub async fn had_server(
        &self,
        server: &ServerName,
        event: &EventId,
    ) -> Result<bool, RoomError> {
        let Some((num, row)) = self.event_row(event).await? else {
            return Ok(false);
        };
        if !row.place.has_state() {
            return Ok(false);
        }
        let before = row.snap_before;
        let event = self.reader.pdu(num).await?;
        let about = event
            .state_key()
            .filter(|_| event.kind() == "m.room.member");
        if let Some(user) = about.filter(|user| server_of(user) == Some(server.as_str()))
            && let Some(member) = self.reader.state_pdu(before, "m.room.member", user).await?
            && membership_of(&member) == Some(Membership::Join)
        {
            return Ok(true);
        }
        if self.reader.snap(before).await?.count > MAX_LOOKED_THROUGH {
            return Ok(false);
        }
        let mut viewer = self.server_viewer(server).await?;
        let members = viewer.members_at(before).await?;
        Ok(members.values().any(|member| *member == Membership::Join))
    }
}

impl ServerViewer {
    /// Whether the server may see the event: it is shared or readable by the world, or a user of the server was
    /// joined (or for `invited` history: invited) at the event, or sent it.
    pub async fn sees(&mut self, snap_before: SnapNum, json: &str) -> Result<bool, RoomError> {
        let fields = EventFields::of(json);
        if server_of(fields.sender_str()) == Some(self.server.as_str()) {
            return Ok(true);
        }
        let (visibility, joined, invited) = self.at(snap_before).await?;
        let allowed = |visibility| match visibility {
            HistoryVisibility::WorldReadable | HistoryVisibility::Shared => true,
            HistoryVisibility::Invited => joined || invited,
            HistoryVisibility::Joined => joined,
        };
        Ok(allowed(visibility)
            || match fields.kind_str() {
                "m.room.history_visibility" => allowed(visibility_in(fields.content)),
                "m.room.member" => {
                    fields.state_key_str().and_then(server_of) == Some(self.server.as_str())
                        && matches!(
                            membership_in(fields.content),
                            Some(Membership::Join | Membership::Invite)
                        )
                }
                _ => false,
            })
    }

    async fn at(&mut self, snap: SnapNum) -> Result<(HistoryVisibility, bool, bool), RoomError> {
        if let Some(answer) = self.answers.get(&snap) {
            return Ok(*answer);
        }
        let visibility = self.visibility(snap).await?;
        let answer = match visibility {
            HistoryVisibility::WorldReadable | HistoryVisibility::Shared => {
                (visibility, true, true)
            }
            _ => {
                let members = self.members_at(snap).await?;
                let any = |wanted| members.values().any(|membership| *membership == wanted);
                (visibility, any(Membership::Join), any(Membership::Invite))
            }
        };
        self.answers.insert(snap, answer);
        Ok(answer)
    }

    async fn visibility(&mut self, snap: SnapNum) -> Result<HistoryVisibility, RoomError> {
        let Some(key) = self.visibility_key else {
            return Ok(HistoryVisibility::Shared);
        };
        let root = self.view.reader.snap(snap).await?.root;
        let Some(event) = crate::tree::get(&self.view.reader, root, key).await? else {
            return Ok(HistoryVisibility::Shared);
        };
        if let Some(visibility) = self.visibilities.get(&event) {
            return Ok(*visibility);
        }
        let visibility = HistoryVisibility::of(Some(&self.view.reader.pdu(event).await?));
        self.visibilities.insert(event, visibility);
        Ok(visibility)
    }

    /// The server's users in a state: the whole state once, then the difference to the last one that was asked for.
    async fn members_at(
        &mut self,
        snap: SnapNum,
    ) -> Result<&HashMap<StateKeyNum, Membership>, RoomError> {
        let (last, mut members) = self
            .members
            .take()
            .unwrap_or((SnapNum::EMPTY, HashMap::new()));
        for change in self.view.reader.state_diff(last, snap).await? {
            if self.others.contains(&change.key) {
                continue;
            }
            let (kind, state_key) = self.view.reader.state_key(change.key).await?;
            if kind != "m.room.member" || server_of(&state_key) != Some(self.server.as_str()) {
                self.others.insert(change.key);
                continue;
            }
            let membership = match change.after {
                Some(event) => membership_of(&self.view.reader.pdu(event).await?),
                None => None,
            };
            match membership {
                Some(membership) => members.insert(change.key, membership),
                None => members.remove(&change.key),
            };
        }
        Ok(&self.members.insert((snap, members)).1)
    }
}

/// The membership of a member event.
pub fn membership_of(event: &Pdu) -> Option<Membership> {
    membership_in(event.content().get())
}

fn membership_in(content: &str) -> Option<Membership> {
    Membership::from_name(&string_member(content, "membership")?)
}

pub(crate) fn visibility_in(content: &str) -> HistoryVisibility {
    let value = string_member(content, "history_visibility");
    value
        .and_then(|value| HistoryVisibility::parse(&value))
        .unwrap_or(HistoryVisibility::Shared)
}

fn server_of(user: &str) -> Option<&str> {
    user.split_once(':').map(|(_, server)| server)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of "Server behaviour" in the spec: visibility, membership at the event, joined later, seen.
    #[test]
    fn the_rules_of_the_spec() {
        use HistoryVisibility::{Invited, Joined, Shared, WorldReadable};
        use Membership::{Ban, Invite, Join, Knock, Leave};
        for membership in [
            None,
            Some(Invite),
            Some(Join),
            Some(Knock),
            Some(Leave),
            Some(Ban),
        ] {
            for later in [false, true] {
                let joined = membership == Some(Join);
                assert!(allowed(WorldReadable, membership, later));
                assert_eq!(allowed(Shared, membership, later), joined || later);
                assert_eq!(
                    allowed(Invited, membership, later),
                    joined || membership == Some(Invite)
                );
                assert_eq!(allowed(Joined, membership, later), joined);
            }
        }
    }
}
