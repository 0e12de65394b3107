//! One look at everything a device may not have seen: which rooms to look at, and how.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use resuni_accounts::{AccountDataChange, InviteVerdict};
use resuni_rooms::{Form, Membership, RoomNum, RoomOf};
use resuni_store::Position;
use ruma::{OwnedUserId, api::client::filter::EventFormat};

use crate::{
    Sync, SyncRequest, SyncToken, Who,
    answer::{Answer, typed},
    changes::Changes,
    error::SyncError,
    filter,
    wanted_fields::WantedFields,
};

/// More rooms than this in the log since the token: the user's own list is the shorter way.
const MANY_ROOMS: usize = 256;

/// What the parts of one answer share.
pub(crate) struct Context<'a> {
    pub sync: &'a Sync,
    pub who: Who<'a>,
    pub request: &'a SyncRequest,
    pub now: SyncToken,
    /// Whose messages the user does not want to see.
    pub ignored: HashSet<OwnedUserId>,
    /// The fields of events that the client wants; none: all.
    fields: Option<WantedFields>,
    /// Global account data to tell.
    global: Vec<AccountDataChange>,
    /// Account data to tell, by room.
    by_room: BTreeMap<String, Vec<AccountDataChange>>,
}

impl<'a> Context<'a> {
    pub async fn new(
        sync: &'a Sync,
        who: Who<'a>,
        request: &'a SyncRequest,
        now: SyncToken,
    ) -> Result<Self, SyncError> {
        let snapshot = sync.rooms.store().snapshot();
        let changes = match request.since {
            Some(since) => {
                sync.accounts
                    .account_data_since(&snapshot, who.account, since.position, now.position)
                    .await?
            }
            None => {
                sync.accounts
                    .all_account_data(&snapshot, who.account)
                    .await?
            }
        };
        let (mut global, mut by_room) = (Vec::new(), BTreeMap::<String, Vec<_>>::new());
        for change in changes {
            match &change.room {
                None => global.push(change),
                Some(room) => by_room.entry(room.clone()).or_default().push(change),
            }
        }
        let ignored = sync.accounts.ignored_users(who.account).await?;
        Ok(Self {
            sync,
            who,
            request,
            now,
            ignored,
            fields: WantedFields::of(request.filter.event_fields.as_deref()),
            global,
            by_room,
        })
    }

    /// The position the client has seen everything up to; none for a first sync.
    pub fn since(&self) -> Option<Position> {
        self.request.since.map(|since| since.position)
    }

    /// Events as they are told: with the fields that the client wants.
    pub fn cut(&self, json: String) -> String {
        match &self.fields {
            Some(fields) => fields.cut(json),
            None => json,
        }
    }

    /// How events are to be written.
    pub fn form(&self) -> Form<'a> {
        Form {
            now_ms: self.sync.rooms.now_ms(),
            device: self.who.device.map(|device| device.as_str()),
            without_room_id: true,
            federation: self.request.filter.event_format == EventFormat::Federation,
            without_relations: false,
        }
    }

    pub fn account_data(&self, answer: &mut Answer) {
        let wanted = |change: &&AccountDataChange| {
            filter::global(&self.request.filter.account_data, &change.event.kind)
        };
        let events = self.global.iter().filter(wanted);
        answer
            .account_data
            .extend(events.map(|change| typed(&change.event.kind, change.event.content.get())));
    }

    /// The account data of a room as events.
    pub fn room_account_data(&self, room: &RoomOf) -> Vec<String> {
        let of_room = &self.request.filter.room.account_data;
        if !filter::events_of_room(of_room, &room.room_id) {
            return Vec::new();
        }
        let changes = self
            .by_room
            .get(room.room_id.as_str())
            .into_iter()
            .flatten();
        changes
            .filter(|change| filter::event(of_room, &change.event.kind, None))
            .map(|change| typed(&change.event.kind, change.event.content.get()))
            .collect()
    }

    /// Fills in the rooms.
    pub async fn rooms(&self, answer: &mut Answer) -> Result<(), SyncError> {
        for room in self.candidates().await? {
            if !filter::room(&self.request.filter.room, &room.room_id) {
                continue;
            }
            // A room that was left and forgotten since the token is still told as left.
            if room.row.forgotten && (self.since().is_none() || self.request.full_state) {
                continue;
            }
            let new = self.since().is_none_or(|since| room.row.position > since);
            match room.row.membership {
                Membership::Join => {
                    let sticky = &mut answer.sticky_up_to;
                    if let Some(json) = self.joined(&room, sticky).await? {
                        answer.join.push((room.room_id, json));
                    }
                }
                Membership::Invite if new => {
                    if let Some(json) = self.stripped("invite_state", &room).await? {
                        answer.invite.push((room.room_id, json));
                    }
                }
                Membership::Knock if new => {
                    if let Some(json) = self.stripped("knock_state", &room).await? {
                        answer.knock.push((room.room_id, json));
                    }
                }
                Membership::Leave | Membership::Ban if new => {
                    if self.since().is_none() && !self.request.filter.room.include_leave {
                        continue;
                    }
                    if let Some(json) = self.left(&room).await? {
                        answer.leave.push((room.room_id, json));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The rooms that may have something to tell: those the log names since the token, or, where the
    /// log is no longer in memory, all of the user's.
    async fn candidates(&self) -> Result<Vec<RoomOf>, SyncError> {
        let rooms = &self.sync.rooms;
        if let Some(since) = self.request.since
            && !self.request.full_state
            && let Some(named) = self.named_since(since)
        {
            return Ok(rooms.rooms_of_among(self.who.user, &named).await?);
        }
        Ok(rooms.rooms_of(self.who.user, &[]).await?)
    }

    fn named_since(&self, since: SyncToken) -> Option<Vec<RoomNum>> {
        if since.sticky < since.position {
            return None; // Any room may have more sticky events.
        }
        let entries = self
            .sync
            .rooms
            .store()
            .log()
            .recent(since.position, self.now.position)?;
        let mut rooms: BTreeSet<RoomNum> = Changes::of(&entries).rooms;
        rooms.extend(self.sync.typing.changed_since(since.typing));
        // Rooms with account data only are not in that list: the long way finds them.
        (rooms.len() <= MANY_ROOMS && self.by_room.is_empty()).then(|| rooms.into_iter().collect())
    }

    /// An invite or a knock, with the stripped state that came with it.
    async fn stripped(&self, name: &str, room: &RoomOf) -> Result<Option<String>, SyncError> {
        let Some(events) = self
            .sync
            .rooms
            .stripped_state(self.who.user, room.num)
            .await?
        else {
            return Ok(None);
        };
        let (sync, who) = (self.sync, self.who);
        if name == "invite_state" && !sync.wants_invite(who, room.num, &self.ignored).await? {
            return Ok(None);
        }
        Ok(Some(format!("{{\"{name}\":{{\"events\":{events}}}}}")))
    }
}

impl Sync {
    /// Whether the user is to be told of an invite: not of those of ignored users (spec, "Ignoring Users"), nor of what
    /// came although it is not wanted ("Invite permission").
    pub(crate) async fn wants_invite(
        &self,
        who: Who<'_>,
        room: RoomNum,
        ignored: &HashSet<OwnedUserId>,
    ) -> Result<bool, SyncError> {
        let Some(invite) = self.rooms.invite_event(who.user, room).await? else {
            return Ok(true);
        };
        if ignored.contains(invite.sender()) {
            return Ok(false);
        }
        let verdict = self
            .accounts
            .judge_invite(who.account, invite.sender())
            .await?;
        Ok(verdict == InviteVerdict::Allow)
    }
}
