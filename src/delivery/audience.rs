//! Who of our users is in a room, as far as notifications are concerned.
//!
//! Kept in memory for the rooms where something happens, so that an event costs what it concerns:
//! the sets of rules, the people it names and the people with pushers, not the members.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use resuni_accounts::{AccountNum, Accounts, PushRules};
use resuni_rooms::{RoomNum, RoomView, Rooms, UserNum};
use ruma::UserId;

use crate::{
    error::DeliveryError,
    rules::{Defaults, Standing},
};

/// Members of all rooms that are remembered at a time, some hundred bytes each. When there are more,
/// rooms are forgotten and read again at their next event.
const MEMBERS: usize = 200_000;
/// Members read before others get their turn.
const TURN: usize = 256;

/// One of our users in a room.
#[derive(Clone)]
pub(crate) struct Member {
    pub account: AccountNum,
    pub rules: Arc<PushRules>,
    pub standing: Standing,
    pub pushers: bool,
}

/// Our users in a room.
#[derive(Default)]
pub(crate) struct Audience {
    /// Those who are told apart: who has rules of their own or pushers.
    members: HashMap<UserNum, Member>,
    /// Everybody, by the first word of their local part.
    words: HashMap<String, Vec<UserNum>>,
    everybody: HashSet<UserNum>,
    groups: BTreeMap<u64, (Arc<PushRules>, usize)>,
}

impl Audience {
    /// How many of our users are in the room.
    pub fn len(&self) -> usize {
        self.everybody.len()
    }

    pub fn contains(&self, user: UserNum) -> bool {
        self.everybody.contains(&user)
    }

    /// The sets of rules that people here have made for themselves.
    pub fn groups(&self) -> impl Iterator<Item = (u64, &Arc<PushRules>)> {
        self.groups.iter().map(|(hash, (rules, _))| (*hash, rules))
    }

    /// The hash of each of them.
    pub fn group_of(&self, user: UserNum) -> Option<u64> {
        match self.members.get(&user)?.standing {
            Standing::Group(hash) => Some(hash),
            _ => None,
        }
    }

    /// Who has to be asked one by one.
    pub fn alone(&self) -> impl Iterator<Item = UserNum> {
        let alone = |(user, member): (&UserNum, &Member)| {
            (member.standing == Standing::Alone).then_some(*user)
        };
        self.members.iter().filter_map(alone)
    }

    /// Who has pushers.
    pub fn with_pushers(&self) -> impl Iterator<Item = (UserNum, &Member)> {
        let members = self.members.iter();
        members.filter_map(|(user, member)| member.pushers.then_some((*user, member)))
    }

    /// Whose local part may be in this text, which is in lower case.
    pub fn named_in(&self, text: &str) -> HashSet<UserNum> {
        words(text)
            .filter_map(|word| self.words.get(word))
            .flatten()
            .copied()
            .collect()
    }

    fn insert(&mut self, num: UserNum, localpart: &str, member: Option<Member>) {
        self.remove(num, localpart);
        self.everybody.insert(num);
        if let Some(word) = words(&localpart.to_lowercase()).next() {
            self.words.entry(word.to_owned()).or_default().push(num);
        }
        let Some(member) = member else { return };
        if let Standing::Group(hash) = member.standing {
            let group = self.groups.entry(hash);
            group.or_insert_with(|| (member.rules.clone(), 0)).1 += 1;
        }
        self.members.insert(num, member);
    }

    fn remove(&mut self, num: UserNum, localpart: &str) {
        if !self.everybody.remove(&num) {
            return;
        }
        if let Some(word) = words(&localpart.to_lowercase()).next()
            && let Some(users) = self.words.get_mut(word)
        {
            users.retain(|user| *user != num);
        }
        if let Some(member) = self.members.remove(&num)
            && let Standing::Group(hash) = member.standing
            && let Some((_, count)) = self.groups.get_mut(&hash)
        {
            *count -= 1;
            if *count == 0 {
                self.groups.remove(&hash);
            }
        }
    }
}

/// The words of a text as push rules see them (spec, "Content-specific rules"): what is between
/// characters other than `[A-Za-z0-9_]`.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| !word.is_empty())
}

/// The audiences that are remembered.
pub(crate) struct Audiences {
    rooms: Arc<Rooms>,
    accounts: Arc<Accounts>,
    known: HashMap<RoomNum, Audience>,
    /// Members of all of them.
    size: usize,
}

impl Audiences {
    pub fn new(rooms: Arc<Rooms>, accounts: Arc<Accounts>) -> Self {
        Self {
            rooms,
            accounts,
            known: HashMap::new(),
            size: 0,
        }
    }

    /// Who is in the room now.
    pub async fn of(
        &mut self,
        defaults: &Defaults,
        view: &RoomView,
    ) -> Result<&Audience, DeliveryError> {
        let room = view.num();
        if !self.known.contains_key(&room) {
            let audience = self.read(defaults, view).await?;
            if self.size + audience.len() > MEMBERS {
                self.known.clear();
                self.size = 0;
            }
            self.size += audience.len();
            self.known.insert(room, audience);
        }
        Ok(self.known.entry(room).or_default())
    }

    async fn read(&self, defaults: &Defaults, view: &RoomView) -> Result<Audience, DeliveryError> {
        let mut audience = Audience::default();
        for (n, user) in view.local_members(usize::MAX).await?.iter().enumerate() {
            let Some(num) = view.user_num(user).await? else {
                continue;
            };
            let member = self.member(defaults, view, user).await?;
            audience.insert(num, user.localpart(), member);
            if n % TURN == TURN - 1 {
                tokio::task::yield_now().await;
            }
        }
        Ok(audience)
    }

    /// What tells a member apart; none if nothing does.
    async fn member(
        &self,
        defaults: &Defaults,
        view: &RoomView,
        user: &UserId,
    ) -> Result<Option<Member>, DeliveryError> {
        let Some(account) = self.accounts.find_user(user).await? else {
            return Ok(None);
        };
        let rules = self.accounts.push_rules(account).await?;
        let standing = defaults.standing(&rules, view.room_id());
        let pushers = self.accounts.has_pushers(account).await?;
        if standing == Standing::Default && !pushers {
            return Ok(None);
        }
        Ok(Some(Member {
            account,
            rules,
            standing,
            pushers,
        }))
    }

    /// Looks at one user of a room again: they came, went, or changed their rules or pushers.
    pub async fn refresh(
        &mut self,
        defaults: &Defaults,
        room: RoomNum,
        num: UserNum,
    ) -> Result<(), DeliveryError> {
        if !self.known.contains_key(&room) {
            return Ok(());
        }
        let Some(view) = self.rooms.view_num(room).await? else {
            return Ok(());
        };
        let user = view.user_id(num).await?;
        let joined = view.joined(&user).await?;
        let member = match joined {
            true => self.member(defaults, &view, &user).await?,
            false => None,
        };
        if let Some(audience) = self.known.get_mut(&room) {
            let before = audience.len();
            if joined {
                audience.insert(num, user.localpart(), member);
            } else {
                audience.remove(num, user.localpart());
            }
            self.size = (self.size + audience.len()).saturating_sub(before);
        }
        Ok(())
    }

    /// Looks at a user again in every room that is remembered.
    pub async fn refresh_everywhere(
        &mut self,
        defaults: &Defaults,
        num: UserNum,
    ) -> Result<(), DeliveryError> {
        let of_user =
            |(room, audience): (&RoomNum, &Audience)| audience.contains(num).then_some(*room);
        let rooms: Vec<RoomNum> = self.known.iter().filter_map(of_user).collect();
        for room in rooms {
            self.refresh(defaults, room, num).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_by_their_first_word() {
        let mut audience = Audience::default();
        audience.insert(UserNum(1), "user-2-bob", None);
        audience.insert(UserNum(2), "alice", None);
        audience.insert(UserNum(3), "user_2", None);
        let named = |text: &str| {
            let mut found: Vec<u64> = audience.named_in(text).iter().map(|u| u.0).collect();
            found.sort_unstable();
            found
        };
        assert_eq!(named("hello @user-2-bob:hs1!"), [1]);
        assert_eq!(named("alice, user_2"), [2, 3]);
        assert!(named("malice").is_empty());
        audience.remove(UserNum(2), "alice");
        assert!(audience.named_in("alice").is_empty());
        assert_eq!(audience.len(), 2);
    }
}
