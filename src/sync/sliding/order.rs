//! The rooms of a user in the order of their activity, and the lists that filters make of them.
//!
//! Kept in memory for users who sync this way, and brought up to date from the log: a request costs what changed since
//! the last one, not the number of rooms. Read anew from the tables when the log in memory does not reach back.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use resuni_accounts::AccountNum;
use resuni_rooms::{
    Membership, RoomNum, RoomOf, UserNum,
    tables::{EventLog, TOPIC_EVENT, TOPIC_WHOLE, WholeLog, flags},
};
use resuni_store::{LogEntry, Position};
use ruma::{OwnedRoomId, UserId};

use super::{filters::Facts, request::RoomFilters};
use crate::{Sync, Who, error::SyncError};

/// Lists with different filters that are kept for a user; the one that was used least recently gives way.
const LISTS: usize = 8;

/// What the order knows of a room of the user.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// When something last happened that the user may know of.
    pub activity: Position,
    pub membership: Membership,
    /// Since when that is so.
    pub since: Position,
    /// Whether it is in lists: a room that the user left is not, but one they were made to leave is (MSC4186, "Lists").
    pub listed: bool,
    /// What filters ask for, where one has asked.
    pub facts: Option<Arc<Facts>>,
}

type Place = (Reverse<Position>, RoomNum);

struct List {
    filters: RoomFilters,
    /// The spaces that the filters name, and the rooms that they link to.
    spaces: HashSet<RoomNum>,
    children: Option<HashSet<RoomNum>>,
    rooms: BTreeSet<Place>,
    used: u64,
}

/// The rooms of one user.
pub(crate) struct RoomList {
    user: Option<UserNum>,
    /// Up to here the log has had its effect.
    pub up_to: Position,
    pub rooms: HashMap<RoomNum, Entry>,
    /// Rooms that `m.direct` names.
    pub direct: HashSet<RoomNum>,
    /// Listed rooms that the user was put out of: few, if any.
    put_out: BTreeSet<RoomNum>,
    lists: Vec<List>,
    uses: u64,
}

impl RoomList {
    /// As the tables have it.
    pub async fn read(sync: &Sync, who: Who<'_>) -> Result<Self, SyncError> {
        let mut list = Self {
            user: sync.rooms.user_num(who.user).await?,
            up_to: sync.rooms.store().log().watermark(),
            rooms: HashMap::new(),
            direct: direct(sync, who).await?,
            put_out: BTreeSet::new(),
            lists: Vec::new(),
            uses: 0,
        };
        let rooms = sync.rooms.rooms_of(who.user, &[]).await?;
        list.insert(sync, who, rooms).await?;
        Ok(list)
    }

    /// The user's number, if they were ever in a room.
    pub fn user(&self) -> Option<UserNum> {
        self.user
    }

    /// What it weighs in memory, in rooms.
    pub fn weight(&self) -> usize {
        let listed: usize = self.lists.iter().map(|list| list.rooms.len()).sum();
        1 + self.rooms.len() + listed / 2
    }

    async fn insert(
        &mut self,
        sync: &Sync,
        who: Who<'_>,
        rooms: Vec<RoomOf>,
    ) -> Result<(), SyncError> {
        let nums: Vec<RoomNum> = rooms.iter().map(|room| room.num).collect();
        let activity = sync.rooms.activity(&nums).await?;
        for (room, activity) in rooms.iter().zip(activity) {
            let since = room.row.position;
            let joined = room.row.membership == Membership::Join;
            let listed = match room.row.membership {
                Membership::Join | Membership::Knock => true,
                Membership::Invite => {
                    let ignored = sync.accounts.ignored_users(who.account).await?;
                    sync.wants_invite(who, room.num, &ignored).await?
                }
                Membership::Leave | Membership::Ban => was_put_out(sync, who.user, room).await?,
            };
            let entry = Entry {
                activity: match activity {
                    Some(activity) if joined => activity.max(since),
                    _ => since,
                },
                membership: room.row.membership,
                since,
                listed: listed && !room.row.forgotten,
                facts: None,
            };
            let out = matches!(entry.membership, Membership::Leave | Membership::Ban);
            if out && entry.listed {
                self.put_out.insert(room.num);
            } else {
                self.put_out.remove(&room.num);
            }
            self.rooms.insert(room.num, entry);
        }
        Ok(())
    }

    /// Takes in what happened since the last time.
    pub async fn advance(&mut self, sync: &Sync, who: Who<'_>) -> Result<(), SyncError> {
        self.forget(sync, who).await?;
        let log = sync.rooms.store().log();
        let now = log.watermark();
        if now <= self.up_to {
            return Ok(());
        }
        let Some(entries) = log.recent(self.up_to, now) else {
            *self = Self::read(sync, who).await?;
            return Ok(());
        };
        if self.user.is_none() {
            self.user = sync.rooms.user_num(who.user).await?;
        }
        let mut news = News::default();
        for entry in &entries {
            news.take(entry, self, who.account);
        }
        if news.account && !self.account_changed(sync, who, now, &mut news).await? {
            *self = Self::read(sync, who).await?;
            return Ok(());
        }
        self.up_to = now;
        // What is in a space is asked once, until one of them changes or the user comes into a room.
        let other = |list: &List| {
            let moved = list.children.is_some() && !news.memberships.is_empty();
            !moved && list.spaces.is_disjoint(&news.states)
        };
        self.lists.retain(other);
        if !news.memberships.is_empty() {
            let rooms: Vec<RoomNum> = news.memberships.iter().copied().collect();
            let rows = sync.rooms.rooms_of_among(who.user, &rooms).await?;
            for room in rooms {
                self.unlist(room);
                self.rooms.remove(&room);
            }
            self.insert(sync, who, rows).await?;
        }
        for (room, activity) in &news.active {
            if let Some(entry) = self.rooms.get_mut(room)
                && entry.membership == Membership::Join
                && entry.activity < *activity
            {
                let old = (Reverse(entry.activity), *room);
                entry.activity = *activity;
                for list in &mut self.lists {
                    if list.rooms.remove(&old) {
                        list.rooms.insert((Reverse(*activity), *room));
                    }
                }
            }
        }
        let judged: Vec<RoomNum> = news.memberships.union(&news.changed).copied().collect();
        self.judge(sync, who, &judged).await
    }

    /// Takes rooms off the lists that the user was put out of and has forgotten, of which the log says nothing.
    async fn forget(&mut self, sync: &Sync, who: Who<'_>) -> Result<(), SyncError> {
        let out: Vec<RoomNum> = self.put_out.iter().copied().collect();
        if out.is_empty() {
            return Ok(());
        }
        let rows = sync.rooms.rooms_of_among(who.user, &out).await?;
        for room in rows.into_iter().filter(|room| room.row.forgotten) {
            self.unlist(room.num);
            self.put_out.remove(&room.num);
            if let Some(entry) = self.rooms.get_mut(&room.num) {
                entry.listed = false;
            }
        }
        Ok(())
    }

    /// Takes in changes of account data. `false` if they change who is in lists at all.
    async fn account_changed(
        &mut self,
        sync: &Sync,
        who: Who<'_>,
        now: Position,
        news: &mut News,
    ) -> Result<bool, SyncError> {
        let snapshot = sync.rooms.store().snapshot();
        let changes = sync
            .accounts
            .account_data_since(&snapshot, who.account, self.up_to, now)
            .await?;
        for change in changes {
            match (change.room.as_deref(), change.event.kind.as_str()) {
                (None, "m.direct") => {
                    let direct = direct(sync, who).await?;
                    let turned = direct.symmetric_difference(&self.direct);
                    news.changed.extend(turned);
                    self.direct = direct;
                }
                (None, kind) if kind == "m.ignored_user_list" || kind.contains("invite") => {
                    return Ok(false);
                }
                (Some(room), "m.tag") => {
                    let room = <&ruma::RoomId>::try_from(room).ok();
                    if let Some(room) = room {
                        news.changed.extend(sync.rooms.room_num(room).await?);
                    }
                }
                _ => {}
            }
        }
        Ok(true)
    }

    fn unlist(&mut self, room: RoomNum) {
        if let Some(entry) = self.rooms.get(&room) {
            let place = (Reverse(entry.activity), room);
            for list in &mut self.lists {
                list.rooms.remove(&place);
            }
        }
    }

    /// Puts these rooms into the lists that they belong to now.
    async fn judge(
        &mut self,
        sync: &Sync,
        who: Who<'_>,
        rooms: &[RoomNum],
    ) -> Result<(), SyncError> {
        for room in rooms {
            self.unlist(*room);
            if let Some(entry) = self.rooms.get_mut(room) {
                entry.facts = None;
            }
        }
        let mut lists = std::mem::take(&mut self.lists);
        for list in &mut lists {
            let (filters, children) = (&list.filters, list.children.as_ref());
            let matching = self.matching(sync, who, (filters, children), rooms).await?;
            list.rooms.extend(matching);
        }
        self.lists = lists;
        Ok(())
    }

    /// Those of `rooms` that the filters let through, at their places.
    async fn matching(
        &mut self,
        sync: &Sync,
        who: Who<'_>,
        (filters, children): (&RoomFilters, Option<&HashSet<RoomNum>>),
        rooms: &[RoomNum],
    ) -> Result<Vec<Place>, SyncError> {
        let mut found = Vec::new();
        for room in rooms {
            let Some(entry) = self.rooms.get_mut(room).filter(|entry| entry.listed) else {
                continue;
            };
            if filters
                .is_dm
                .is_some_and(|dm| dm != self.direct.contains(room))
                || filters
                    .is_invited
                    .is_some_and(|invited| invited != (entry.membership == Membership::Invite))
                || children.is_some_and(|children| !children.contains(room))
            {
                continue;
            }
            if filters.need_facts()
                && !entry
                    .facts
                    .as_ref()
                    .is_some_and(|facts| filters.are_told_by(facts))
            {
                let named = filters.name_like.is_some();
                let facts = Facts::read(sync, who, (*room, entry.membership), named).await?;
                entry.facts = Some(Arc::new(facts));
            }
            if filters.let_through(entry.facts.as_deref()) {
                found.push((Reverse(entry.activity), *room));
            }
        }
        Ok(found)
    }

    /// The list that these filters make: how many rooms are in it, and those in the ranges.
    pub async fn window(
        &mut self,
        sync: &Sync,
        who: Who<'_>,
        filters: &RoomFilters,
        ranges: Option<&[(usize, usize)]>,
    ) -> Result<(usize, Vec<RoomNum>), SyncError> {
        self.uses += 1;
        let at = match self.lists.iter().position(|list| list.filters == *filters) {
            Some(at) => at,
            None => self.add_list(sync, who, filters).await?,
        };
        let uses = self.uses;
        let Some(list) = self.lists.get_mut(at) else {
            return Ok((0, Vec::new()));
        };
        list.used = uses;
        let end = ranges.map_or(usize::MAX, |ranges| {
            ranges
                .iter()
                .map(|(_, last)| last.saturating_add(1))
                .max()
                .unwrap_or(0)
        });
        let within = |at: usize| {
            ranges.is_none_or(|ranges| {
                ranges
                    .iter()
                    .any(|(first, last)| (*first..=*last).contains(&at))
            })
        };
        let rooms = list.rooms.iter().enumerate().take(end);
        let rooms = rooms
            .filter(|(at, _)| within(*at))
            .map(|(_, (_, room))| *room);
        Ok((list.rooms.len(), rooms.collect()))
    }

    async fn add_list(
        &mut self,
        sync: &Sync,
        who: Who<'_>,
        filters: &RoomFilters,
    ) -> Result<usize, SyncError> {
        let rooms: Vec<RoomNum> = self.rooms.keys().copied().collect();
        let children = filters.children(sync, who.user).await?;
        let wanted = (filters, children.as_ref());
        let matching = self.matching(sync, who, wanted, &rooms).await?;
        if self.lists.len() >= LISTS
            && let Some(oldest) = (0..self.lists.len()).min_by_key(|at| self.lists[*at].used)
        {
            self.lists.swap_remove(oldest);
        }
        let mut spaces = HashSet::new();
        for space in filters.spaces.iter().flatten() {
            spaces.extend(sync.rooms.room_num(space).await?);
        }
        self.lists.push(List {
            filters: filters.clone(),
            spaces,
            children,
            rooms: matching.into_iter().collect(),
            used: self.uses,
        });
        Ok(self.lists.len() - 1)
    }
}

/// What entries of the log change in the order of a user.
#[derive(Default)]
struct News {
    /// Rooms in which the user's membership changed.
    memberships: BTreeSet<RoomNum>,
    /// Rooms in which something happened, and when.
    active: BTreeMap<RoomNum, Position>,
    /// Rooms that filters have to look at again.
    changed: BTreeSet<RoomNum>,
    /// Rooms, the user's or not, whose state changed: spaces may have other children.
    states: HashSet<RoomNum>,
    /// Something of the account changed.
    account: bool,
}

impl News {
    fn take(&mut self, entry: &LogEntry, list: &RoomList, account: AccountNum) {
        if entry.topic.0 >> 8 == crate::changes::ACCOUNTS {
            self.account |= entry.scope == account.0;
            return;
        }
        let (memberships, changed) = if entry.topic == TOPIC_EVENT {
            let Some(event) = EventLog::from_bytes(&entry.payload) else {
                return;
            };
            let users: Vec<UserNum> = event.memberships.into_iter().chain(event.target).collect();
            (users, event.flags & flags::STATE_CHANGED != 0)
        } else if entry.topic == TOPIC_WHOLE {
            let whole = WholeLog::from_bytes(&entry.payload);
            (
                whole.map(|whole| whole.memberships).unwrap_or_default(),
                true,
            )
        } else {
            return;
        };
        let room = RoomNum(entry.scope);
        if list.user.is_some_and(|user| memberships.contains(&user)) {
            self.memberships.insert(room);
        }
        self.active.insert(room, entry.position);
        if changed {
            self.states.insert(room);
            if list.rooms.contains_key(&room) {
                self.changed.insert(room);
            }
        }
    }
}

/// The rooms that the user's `m.direct` names.
async fn direct(sync: &Sync, who: Who<'_>) -> Result<HashSet<RoomNum>, SyncError> {
    let content = sync
        .accounts
        .account_data(who.account, None, "m.direct")
        .await?;
    let rooms: Option<BTreeMap<String, Vec<String>>> =
        content.and_then(|content| serde_json::from_str(content.get()).ok());
    let mut direct = HashSet::new();
    for room in rooms.into_iter().flat_map(BTreeMap::into_values).flatten() {
        if let Ok(room) = OwnedRoomId::try_from(room) {
            direct.extend(sync.rooms.room_num(&room).await?);
        }
    }
    Ok(direct)
}

/// Whether somebody else ended the user's membership, and they had been joined.
async fn was_put_out(sync: &Sync, user: &UserId, room: &RoomOf) -> Result<bool, SyncError> {
    if room.row.forgotten {
        return Ok(false);
    }
    let Some(view) = sync.rooms.view_num(room.num).await? else {
        return Ok(false);
    };
    let leave = view.pdus(&[room.row.event]).await?;
    let by_other = leave.first().is_some_and(|leave| leave.sender() != user);
    Ok(by_other && view.readable_state(user).await.is_ok())
}
