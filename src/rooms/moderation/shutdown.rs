//! Taking all of our users out of a room.

use std::sync::Arc;

use resuni_store::{Direction, ScanRange};
use ruma::{OwnedRoomId, OwnedUserId, RoomAliasId, RoomId, UserId};
use serde::Serialize;
use serde_json::json;

use super::jobs::{Job, JobStatus, Jobs};
use crate::create_content::{CreateRoom, MemberProfile, Preset};
use crate::error::RoomError;
use crate::events::NewEvent;
use crate::membership::MemberDetails;
use crate::rooms::Rooms;
use crate::tables::MEMBERS;
use crate::types::{Membership, RoomNum, UserNum};

/// Members read at a time.
const PAGE: usize = 200;

/// How a room is shut down.
#[derive(Debug, Clone)]
pub struct Shutdown {
    /// The operator.
    pub by: OwnedUserId,
    /// Whether nobody may come back.
    pub block: bool,
    /// Who makes a room in which people are told why; none: there is none.
    pub new_room_by: Option<OwnedUserId>,
    /// Its name.
    pub name: String,
    /// What is said in it.
    pub message: String,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize, PartialEq, Eq)]
pub struct ShutdownReport {
    /// Who left.
    pub kicked_users: Vec<OwnedUserId>,
    /// Who could not.
    pub failed_to_kick_users: Vec<OwnedUserId>,
    /// Aliases that point to the new room now.
    pub local_aliases: Vec<String>,
    /// The new room.
    pub new_room_id: Option<OwnedRoomId>,
}

/// The shutdown of a room.
pub type ShutdownJob = Job<OwnedRoomId, ShutdownReport>;

/// Those of this run of the server.
pub type Shutdowns = Jobs<OwnedRoomId, ShutdownReport>;

impl Rooms {
    /// The shutdowns of this run of the server.
    pub fn shutdowns(&self) -> &Shutdowns {
        &self.shutdowns
    }

    /// Begins to shut a room down, and answers the id under which one may ask how far it is.
    ///
    /// # Errors
    /// [`RoomError::NotFound`] when the room is not known here, [`RoomError::BadRequest`] while it is being shut down.
    pub async fn begin_shutdown(
        self: &Arc<Self>,
        room: &RoomId,
        how: Shutdown,
    ) -> Result<String, RoomError> {
        if self.reader().room_num(room).await?.is_none() {
            return Err(RoomError::NotFound(format!("there is no room {room} here")));
        }
        if self.shutdowns.is_active(&room.to_owned()) {
            return Err(RoomError::bad(
                "M_UNKNOWN",
                "this room is being shut down already",
            ));
        }
        let id = self.shutdowns.begin(room.to_owned(), self.now_ms());
        let (rooms, room, job) = (Arc::clone(self), room.to_owned(), id.clone());
        tokio::spawn(async move {
            let done = rooms.shut_down(&room, &how, |report| {
                rooms.shutdowns.report(&job, report.clone());
            });
            let status = match done.await {
                Ok(_) => JobStatus::Complete,
                Err(error) => {
                    tracing::warn!(%room, %error, "a room could not be shut down");
                    JobStatus::Failed(error.to_string())
                }
            };
            rooms.shutdowns.end(&job, status);
        });
        Ok(id)
    }

    /// Takes all of our users out of a room, and takes it out of the directory. What was said stays on disk.
    ///
    /// # Errors
    /// When it can't be written, or the new room can't be made. Who can't leave is in the report.
    pub async fn shut_down(
        &self,
        room: &RoomId,
        how: &Shutdown,
        mut tell: impl FnMut(&ShutdownReport),
    ) -> Result<ShutdownReport, RoomError> {
        let mut report = ShutdownReport::default();
        if how.block {
            self.block(room, &how.by, true).await?;
        }
        if let Some(by) = &how.new_room_by {
            report.new_room_id = Some(self.room_for_those_put_out(by, how).await?);
        }
        for membership in [Membership::Invite, Membership::Knock, Membership::Join] {
            self.put_out(room, membership, &mut report, &mut tell)
                .await?;
        }
        if let Some(view) = self.view(room).await? {
            self.publish(room, &how.by, true, false).await?;
            if let Some(new) = &report.new_room_id {
                for alias in view.aliases().await? {
                    self.point_alias_elsewhere(&alias, new, &how.by).await?;
                    report.local_aliases.push(alias);
                }
            }
        }
        tell(&report);
        Ok(report)
    }

    /// The room in which they are told why. They may read there, but not write.
    async fn room_for_those_put_out(
        &self,
        by: &UserId,
        how: &Shutdown,
    ) -> Result<OwnedRoomId, RoomError> {
        let mut levels = serde_json::Map::new();
        levels.insert("users_default".into(), (-10).into());
        let request = CreateRoom {
            preset: Some(Preset::PublicChat),
            name: Some(how.name.clone()),
            power_level_content_override: levels,
            ..CreateRoom::default()
        };
        let room = self.create(by, request).await?;
        let content = json!({ "msgtype": "m.text", "body": how.message });
        let content = serde_json::value::to_raw_value(&content)
            .map_err(|error| RoomError::Inconsistent(error.to_string()))?;
        let message = NewEvent::message("m.room.message", content);
        self.send(&room, by, message, None).await?;
        Ok(room)
    }

    /// Makes those of our users leave who have this membership.
    async fn put_out(
        &self,
        room: &RoomId,
        membership: Membership,
        report: &mut ShutdownReport,
        tell: &mut impl FnMut(&ShutdownReport),
    ) -> Result<(), RoomError> {
        let Some(num) = self.reader().room_num(room).await? else {
            return Ok(());
        };
        let mut after: Option<UserNum> = None;
        loop {
            let page = self.members_of(num, membership, after).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some(last.0);
            for (_, user) in page {
                if user.server_name() != self.server_name() {
                    continue;
                }
                match self
                    .put_one_out(room, &user, report.new_room_id.as_deref())
                    .await
                {
                    Ok(()) => report.kicked_users.push(user),
                    Err(error) => {
                        tracing::warn!(%room, %user, %error, "somebody could not be taken out of a room");
                        report.failed_to_kick_users.push(user);
                    }
                }
            }
            tell(report);
        }
    }

    async fn members_of(
        &self,
        room: RoomNum,
        membership: Membership,
        after: Option<UserNum>,
    ) -> Result<Vec<(UserNum, OwnedUserId)>, RoomError> {
        let reader = self.reader();
        let prefix = (room, membership);
        let range = match after {
            Some(user) => ScanRange::after(&(room, membership, user)).within(&prefix),
            None => ScanRange::prefix(&prefix),
        };
        let rows = reader
            .snapshot
            .scan(&MEMBERS, range, Direction::Forward, PAGE)
            .await?;
        let mut users = Vec::with_capacity(rows.len());
        for ((_, _, user), _) in rows {
            users.push((user, reader.user_id(user).await?));
        }
        Ok(users)
    }

    async fn put_one_out(
        &self,
        room: &RoomId,
        user: &UserId,
        new: Option<&RoomId>,
    ) -> Result<(), RoomError> {
        let view = self.view(room).await?;
        let member = match &view {
            Some(view) => view.state("m.room.member", user.as_str()).await?,
            None => None,
        };
        match self.leave(room, user, None).await {
            Err(RoomError::NoWay(_) | RoomError::Remote { .. }) => {
                self.leave_unheard(room, user).await?;
            }
            other => other?,
        }
        self.forget(room, user).await?;
        let Some(new) = new else { return Ok(()) };
        let profile = member.and_then(|member| {
            let content: serde_json::Map<String, serde_json::Value> = member.content_as().ok()?;
            let text = |key: &str| Some(content.get(key)?.as_str()?.to_owned());
            Some(MemberProfile {
                displayname: text("displayname"),
                avatar_url: text("avatar_url"),
            })
        });
        let details = MemberDetails {
            profile: profile.unwrap_or_default(),
            ..MemberDetails::default()
        };
        self.join(new, user, &details).await
    }

    async fn point_alias_elsewhere(
        &self,
        alias: &str,
        room: &RoomId,
        by: &UserId,
    ) -> Result<(), RoomError> {
        let alias = <&RoomAliasId>::try_from(alias)
            .map_err(|error| RoomError::Inconsistent(error.to_string()))?;
        match self.delete_alias(alias, by, true).await {
            // Somebody else was faster.
            Err(RoomError::NotFound(_)) => return Ok(()),
            // The alias itself is gone; that the old room's state still names it is not ours to change.
            Err(RoomError::UnknownRoom(_)) | Ok(()) => {}
            Err(error) => return Err(error),
        }
        self.create_alias(alias, room, by).await
    }
}
