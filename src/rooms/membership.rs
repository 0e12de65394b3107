//! Changes of membership that this server decides: join, leave, invite, kick, ban, unban, knock, forget.
//!
//! Spec: client-server API, "Room membership". Where another server has to help, the answer is
//! [`RoomError::Remote`] and federation does it. The auth rules have the last word in
//! [`Rooms::send`]; what is asked here first is only what makes a better answer.

use resuni_dag::JoinRule;
use resuni_store::{Batch, CommitError};
use ruma::{OwnedServerName, OwnedUserId, RoomId, UserId};
use serde_json::{Map, Value};

use crate::create_content::MemberProfile;
use crate::error::RoomError;
use crate::events::NewEvent;
use crate::rooms::Rooms;
use crate::tables::{EventLog, TOPIC_EVENT, USER_ROOMS, UserRoom, flags};
use crate::types::{Membership, RoomNum, UserNum};
use crate::view::RoomView;

/// How many local members are looked at for one who may let somebody into a restricted room.
const MAX_AUTHORISERS: usize = 1_000;
/// How often a row is tried again that somebody else changed in between.
const ATTEMPTS: usize = 8;
/// How many servers are named as a way into a room.
const MAX_VIA: usize = 20;

/// What goes along with a change of membership.
#[derive(Debug, Clone, Default)]
pub struct MemberDetails {
    /// The profile of whom it is about; empty for kicks and bans.
    pub profile: MemberProfile,
    /// `reason`.
    pub reason: Option<String>,
    /// `is_direct`, of an invite.
    pub is_direct: bool,
    /// Servers that may know the room, from the client.
    pub via: Vec<OwnedServerName>,
    /// `third_party_invite` of the member event (`third_party_signed` in the request).
    pub third_party_invite: Option<Value>,
    /// Further keys of the content that the client wants there. What the server decides wins.
    pub extra: Map<String, Value>,
}

/// Keys of a membership event that a client can't choose.
const DECIDED_HERE: [&str; 7] = [
    "membership",
    "displayname",
    "avatar_url",
    "reason",
    "is_direct",
    "third_party_invite",
    "join_authorised_via_users_server",
];

impl MemberDetails {
    /// The content of the membership event.
    pub fn content(&self, membership: Membership) -> Map<String, Value> {
        let mut content = self.extra.clone();
        content.retain(|key, _| !DECIDED_HERE.contains(&key.as_str()));
        content.extend(self.profile.member_content(membership.as_str()));
        if let Some(reason) = &self.reason {
            content.insert("reason".into(), reason.as_str().into());
        }
        if self.is_direct && membership == Membership::Invite {
            content.insert("is_direct".into(), true.into());
        }
        if let Some(invite) = &self.third_party_invite {
            content.insert("third_party_invite".into(), invite.clone());
        }
        content
    }
}

/// What a kick or ban says that redacts what its target has said.
fn redacting(redact: bool) -> Map<String, Value> {
    let flag = redact.then(|| (crate::clear::FLAG.to_owned(), true.into()));
    flag.into_iter().collect()
}

/// Whether somebody may join a restricted room, as far as this server can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestrictedJoin {
    /// The join needs nobody's word: the room isn't restricted, or the user is invited or joined.
    NotNeeded,
    /// This user of ours vouches for it (`join_authorised_via_users_server`).
    Authorised(OwnedUserId),
    /// The user is in an allowed room, but nobody here may invite (`M_UNABLE_TO_GRANT_JOIN`).
    NobodyMayInvite,
    /// Some of the allowed rooms are unknown here (`M_UNABLE_TO_AUTHORISE_JOIN`).
    Unknown,
    /// The user is in none of the allowed rooms.
    Refused,
}

impl Rooms {
    /// Joins a room of ours. Who is joined already stays as they are.
    pub async fn join(
        &self,
        room: &RoomId,
        user: &UserId,
        details: &MemberDetails,
    ) -> Result<(), RoomError> {
        self.check_not_blocked(room).await?;
        let Some(view) = self.participating(room).await? else {
            self.bans().may_join(room.as_str())?;
            return Err(self.way_into(room, user, &details.via).await?);
        };
        if view.joined(user).await? {
            return Ok(());
        }
        self.bans().may_join(room.as_str())?;
        let mut content = details.content(Membership::Join);
        match self.restricted_join(&view, user).await? {
            RestrictedJoin::NotNeeded => {}
            RestrictedJoin::Authorised(by) => {
                content.insert(
                    "join_authorised_via_users_server".into(),
                    by.as_str().into(),
                );
            }
            RestrictedJoin::NobodyMayInvite | RestrictedJoin::Unknown => {
                let via = self.other_servers(&view).await?;
                if via.is_empty() {
                    return Err(RoomError::Forbidden(
                        "you are not in a room whose members may join this one".into(),
                    ));
                }
                return Err(RoomError::Remote {
                    room: room.to_owned(),
                    via,
                });
            }
            RestrictedJoin::Refused => {
                return Err(RoomError::Forbidden(
                    "you are not in a room whose members may join this one".into(),
                ));
            }
        }
        self.send_member(room, user, user, content).await
    }

    /// Whether, and by whose word, a user may join a room with a restricted join rule.
    pub async fn restricted_join(
        &self,
        view: &RoomView,
        user: &UserId,
    ) -> Result<RestrictedJoin, RoomError> {
        let rule = view.join_rule().await?;
        let known = match &rule {
            JoinRule::Restricted(_) => view.rules().restricted_joins(),
            JoinRule::KnockRestricted(_) => view.rules().knock_restricted_joins(),
            _ => false,
        };
        let Some(allowed) = rule.allowed_rooms().filter(|_| known) else {
            return Ok(RestrictedJoin::NotNeeded);
        };
        if matches!(
            view.member(user).await?,
            Some(Membership::Invite | Membership::Join)
        ) {
            return Ok(RestrictedJoin::NotNeeded);
        }
        let (mut member, mut unknown) = (false, false);
        for room in allowed {
            match self.participating(room).await? {
                Some(room) => member |= room.joined(user).await?,
                None => unknown = true,
            }
            if member {
                break;
            }
        }
        if !member {
            return Ok(if unknown {
                RestrictedJoin::Unknown
            } else {
                RestrictedJoin::Refused
            });
        }
        let levels = view.power_levels().await?;
        let local = view.local_members(MAX_AUTHORISERS).await?;
        let by = local
            .into_iter()
            .find(|candidate| levels.user(candidate).reaches(levels.invite()));
        Ok(by.map_or(RestrictedJoin::NobodyMayInvite, RestrictedJoin::Authorised))
    }

    /// Leaves a room, declines an invite or takes back a knock. Who has left already stays so. For a room that we are
    /// not in the answer is [`RoomError::Remote`]; when no server answers, [`Rooms::leave_unheard`] ends it here.
    pub async fn leave(
        &self,
        room: &RoomId,
        user: &UserId,
        reason: Option<&str>,
    ) -> Result<(), RoomError> {
        let Some(view) = self.participating(room).await? else {
            let row = self.out_of_band(room, user).await?;
            return match row.map(|row| row.membership) {
                Some(Membership::Invite | Membership::Knock) => {
                    Err(self.way_into(room, user, &[]).await?)
                }
                Some(Membership::Leave) => Ok(()),
                _ => Err(RoomError::UnknownRoom(room.to_owned())),
            };
        };
        match view.member(user).await? {
            Some(Membership::Join | Membership::Invite | Membership::Knock) => {}
            Some(Membership::Leave) => return Ok(()),
            Some(Membership::Ban) => {
                return Err(RoomError::Forbidden("you are banned from this room".into()));
            }
            None => return Err(RoomError::Forbidden("you are not in this room".into())),
        }
        let details = MemberDetails {
            reason: reason.map(str::to_owned),
            ..MemberDetails::default()
        };
        self.send_member(room, user, user, details.content(Membership::Leave))
            .await
    }

    /// Ends an invite or a knock of a room that we are not in, here only: when no server of the room can be reached to
    /// decline it. Their server goes on believing in it.
    pub async fn leave_unheard(&self, room: &RoomId, user: &UserId) -> Result<(), RoomError> {
        for _ in 0..ATTEMPTS {
            let reader = self.reader();
            let (Some(num), Some(user)) =
                (reader.room_num(room).await?, reader.user_num(user).await?)
            else {
                return Err(RoomError::UnknownRoom(room.to_owned()));
            };
            let row = reader.snapshot.get(&USER_ROOMS, &(user, num)).await?;
            let waiting = |row: &UserRoom| {
                row.stripped.is_some()
                    && matches!(row.membership, Membership::Invite | Membership::Knock)
            };
            let Some(row) = row.filter(waiting) else {
                return Err(RoomError::Forbidden("you have no invite to decline".into()));
            };
            let mut batch = Batch::new();
            let reservation = self.store().reserve(1);
            let position = reservation.first();
            batch.attach(reservation);
            batch.guard_equals(&USER_ROOMS, &(user, num), &row);
            let left = UserRoom {
                membership: Membership::Leave,
                position,
                stripped: Some("[]".into()),
                ..row
            };
            batch.put(&USER_ROOMS, &(user, num), &left);
            let entry = EventLog {
                event: left.event,
                flags: flags::OUT_OF_BAND,
                sender: user,
                target: Some(user),
                memberships: vec![user],
            };
            batch.log(position, TOPIC_EVENT, num.0, entry.to_bytes());
            match self.store().commit_durable(batch).await {
                Err(CommitError::Guard { .. }) => {}
                other => return Ok(other?),
            }
        }
        Err(RoomError::Contended)
    }

    /// Invites one of our users. For a user of another server the answer is [`RoomError::Remote`] with their server:
    /// it has to sign the invite. Who is invited already stays so.
    pub async fn invite(
        &self,
        room: &RoomId,
        sender: &UserId,
        target: &UserId,
        details: &MemberDetails,
    ) -> Result<(), RoomError> {
        self.check_not_blocked(room).await?;
        let view = self.view_for(room, sender).await?;
        self.bans().may_invite(sender, target, Some(room))?;
        match view.member(target).await? {
            Some(Membership::Join) => {
                return Err(RoomError::Forbidden(format!(
                    "{target} is already in the room"
                )));
            }
            Some(Membership::Ban) => {
                return Err(RoomError::Forbidden(format!(
                    "{target} is banned from the room"
                )));
            }
            Some(Membership::Invite) => return Ok(()),
            _ => {}
        }
        let levels = view.power_levels().await?;
        if !levels.user(sender).reaches(levels.invite()) {
            return Err(RoomError::Forbidden(
                "you may not invite people to this room".into(),
            ));
        }
        if target.server_name() != self.server_name() {
            if !view.is_federated().await? {
                return Err(RoomError::Forbidden(
                    "this room is for users of its own server only (`m.federate` is false)".into(),
                ));
            }
            return Err(RoomError::Remote {
                room: room.to_owned(),
                via: vec![target.server_name().to_owned()],
            });
        }
        self.send_member(room, sender, target, details.content(Membership::Invite))
            .await
    }

    /// Makes somebody leave, or takes back their invite or knock; with `redact` what they have said goes too (MSC4293).
    pub async fn kick(
        &self,
        room: &RoomId,
        sender: &UserId,
        target: &UserId,
        reason: Option<&str>,
        redact: bool,
    ) -> Result<(), RoomError> {
        let view = self.view_for(room, sender).await?;
        match view.member(target).await? {
            Some(Membership::Join | Membership::Invite | Membership::Knock) => {}
            // Whom we have not heard of may well be in a partial room.
            None if view.is_partial() => {}
            _ => return Err(RoomError::Forbidden(format!("{target} is not in the room"))),
        }
        let details = MemberDetails {
            reason: reason.map(str::to_owned),
            extra: redacting(redact),
            ..MemberDetails::default()
        };
        self.send_member(room, sender, target, details.content(Membership::Leave))
            .await
    }

    /// Keeps somebody out, whether or not they are in; with `redact` what they have said goes too (MSC4293).
    pub async fn ban(
        &self,
        room: &RoomId,
        sender: &UserId,
        target: &UserId,
        reason: Option<&str>,
        redact: bool,
    ) -> Result<(), RoomError> {
        self.view_for(room, sender).await?;
        let details = MemberDetails {
            reason: reason.map(str::to_owned),
            extra: redacting(redact),
            ..MemberDetails::default()
        };
        self.send_member(room, sender, target, details.content(Membership::Ban))
            .await
    }

    /// Ends a ban.
    pub async fn unban(
        &self,
        room: &RoomId,
        sender: &UserId,
        target: &UserId,
        reason: Option<&str>,
    ) -> Result<(), RoomError> {
        let view = self.view_for(room, sender).await?;
        let member = view.member(target).await?;
        if member != Some(Membership::Ban) && !(member.is_none() && view.is_partial()) {
            return Err(RoomError::Forbidden(format!(
                "{target} is not banned from the room"
            )));
        }
        let details = MemberDetails {
            reason: reason.map(str::to_owned),
            ..MemberDetails::default()
        };
        self.send_member(room, sender, target, details.content(Membership::Leave))
            .await
    }

    /// Asks to be let in.
    pub async fn knock(
        &self,
        room: &RoomId,
        user: &UserId,
        details: &MemberDetails,
    ) -> Result<(), RoomError> {
        self.check_not_blocked(room).await?;
        self.bans().may_join(room.as_str())?;
        let Some(view) = self.participating(room).await? else {
            return Err(self.way_into(room, user, &details.via).await?);
        };
        match view.member(user).await? {
            Some(Membership::Knock) => return Ok(()),
            Some(Membership::Join | Membership::Invite) => {
                return Err(RoomError::Forbidden(
                    "you are in this room, or invited to it".into(),
                ));
            }
            _ => {}
        }
        if !view.rules().knocking() || !view.join_rule().await?.knockable() {
            return Err(RoomError::Forbidden("this room takes no knocks".into()));
        }
        self.send_member(room, user, user, details.content(Membership::Knock))
            .await
    }

    /// Forgets a room that the user has left: it is not listed any more and its history is closed to them.
    pub async fn forget(&self, room: &RoomId, user: &UserId) -> Result<(), RoomError> {
        let not_left = || RoomError::bad("M_UNKNOWN", "leave the room before you forget it");
        for _ in 0..ATTEMPTS {
            let reader = self.reader();
            let Some(num) = reader.room_num(room).await? else {
                return Err(RoomError::UnknownRoom(room.to_owned()));
            };
            // Who was never there has nothing to forget.
            let Some(user) = reader.user_num(user).await? else {
                return Ok(());
            };
            let key: (UserNum, RoomNum) = (user, num);
            let Some(row) = reader.snapshot.get(&USER_ROOMS, &key).await? else {
                return Ok(());
            };
            if !matches!(row.membership, Membership::Leave | Membership::Ban) {
                return Err(not_left());
            }
            if row.forgotten {
                return Ok(());
            }
            let mut batch = Batch::new();
            batch.guard_equals(&USER_ROOMS, &key, &row);
            batch.put(
                &USER_ROOMS,
                &key,
                &UserRoom {
                    forgotten: true,
                    ..row
                },
            );
            match self.store().commit_durable(batch).await {
                Err(CommitError::Guard { .. }) => {}
                other => return Ok(other?),
            }
        }
        Err(RoomError::Contended)
    }

    pub(crate) async fn send_member(
        &self,
        room: &RoomId,
        sender: &UserId,
        target: &UserId,
        content: Map<String, Value>,
    ) -> Result<(), RoomError> {
        let content = serde_json::value::to_raw_value(&content)
            .map_err(|error| RoomError::Inconsistent(error.to_string()))?;
        self.send(
            room,
            sender,
            NewEvent::state("m.room.member", target.as_str(), content),
            None,
        )
        .await?;
        Ok(())
    }

    /// The room, for somebody who is in it.
    ///
    /// # Errors
    /// [`RoomError::UnknownRoom`], or [`RoomError::Forbidden`] for others.
    pub async fn view_for(&self, room: &RoomId, sender: &UserId) -> Result<RoomView, RoomError> {
        let view = self.view_known(room).await?;
        if !view.joined(sender).await? {
            return Err(RoomError::Forbidden("you are not in this room".into()));
        }
        Ok(view)
    }

    /// The room if events can be made for it here: one of our users is in it, or nobody of any server is. Of a partial room
    /// that we have left nobody can say the latter.
    pub async fn participating(&self, room: &RoomId) -> Result<Option<RoomView>, RoomError> {
        let Some(view) = self.view(room).await? else {
            return Ok(None);
        };
        let empty = view.joined_count() == 0 && !view.is_partial();
        let here = empty || view.has_server(self.server_name()).await?;
        Ok(here.then_some(view))
    }

    pub(crate) async fn out_of_band(
        &self,
        room: &RoomId,
        user: &UserId,
    ) -> Result<Option<UserRoom>, RoomError> {
        match self.reader().room_num(room).await? {
            Some(num) => self.user_room(user, num).await,
            None => Ok(None),
        }
    }

    async fn other_servers(&self, view: &RoomView) -> Result<Vec<OwnedServerName>, RoomError> {
        let mut servers = view.servers(MAX_VIA).await?;
        servers.retain(|server| server != self.server_name());
        Ok(servers)
    }

    /// Which servers to ask about a room that we are not in: those the client named and who invited the user; else those
    /// that were in it when we left, and the one in the room's id.
    async fn way_into(
        &self,
        room: &RoomId,
        user: &UserId,
        via: &[OwnedServerName],
    ) -> Result<RoomError, RoomError> {
        let mut servers: Vec<OwnedServerName> = via.to_vec();
        if let Some(row) = self.out_of_band(room, user).await?
            && matches!(row.membership, Membership::Invite | Membership::Knock)
        {
            let event = self.reader().pdu(row.event).await?;
            servers.push(event.sender().server_name().to_owned());
        }
        if servers.is_empty() {
            if let Some(view) = self.view(room).await? {
                servers.extend(view.servers(MAX_VIA).await?);
            }
            servers.extend(room.server_name().map(ToOwned::to_owned));
        }
        let mut seen = std::collections::HashSet::new();
        servers.retain(|server| server != self.server_name() && seen.insert(server.clone()));
        servers.truncate(MAX_VIA);
        Ok(if servers.is_empty() {
            RoomError::NoWay(room.to_owned())
        } else {
            RoomError::Remote {
                room: room.to_owned(),
                via: servers,
            }
        })
    }
}
