//! Which rooms an answer looks at, and what is wanted of each.

use std::{collections::BTreeMap, sync::Arc};

use resuni_rooms::{Membership, RoomNum};

use super::{
    connection::Seen,
    order::{Entry, RoomList},
    request::{RoomConfig, SlidingRequest, Wanted},
    stretch::Stretch,
};
use crate::{Sync, Who, error::SyncError};

/// The rooms of one answer.
pub(crate) struct Window {
    /// How many rooms each list has.
    pub counts: Vec<(String, usize)>,
    pub rooms: Vec<Chosen>,
}

/// A room that the request names or has in a window.
pub(crate) struct Chosen {
    pub num: RoomNum,
    pub entry: Entry,
    /// Whether it is a direct chat now.
    pub is_dm: bool,
    /// The lists in whose windows it is.
    pub lists: Vec<String>,
    /// Whether it is subscribed to.
    pub subscribed: bool,
    pub wanted: Arc<Wanted>,
    /// Whether something else is wanted of its state than before.
    pub other_state: bool,
}

impl Chosen {
    /// Whether it is told for the last time: the user left it, and nothing names it any more.
    pub fn is_farewell(&self) -> bool {
        self.lists.is_empty() && !self.subscribed
    }
}

#[derive(Default)]
struct Match<'a> {
    lists: Vec<&'a str>,
    subscribed: bool,
    configs: Vec<&'a Arc<RoomConfig>>,
}

impl Window {
    pub async fn open(
        sync: &Sync,
        who: Who<'_>,
        request: &SlidingRequest,
        seen: &Seen,
        stretch: &Stretch,
        list: &mut RoomList,
    ) -> Result<Self, SyncError> {
        let mut counts = Vec::with_capacity(request.lists.len());
        let mut matches: BTreeMap<RoomNum, Match<'_>> = BTreeMap::new();
        for (name, wanted) in &request.lists {
            let ranges = wanted.ranges.as_deref();
            let (count, rooms) = list.window(sync, who, &wanted.filters, ranges).await?;
            counts.push((name.clone(), count));
            for room in rooms {
                let found = matches.entry(room).or_default();
                found.lists.push(name);
                found.configs.push(&wanted.config);
            }
        }
        for (room, config) in &request.subscriptions {
            if let Some(room) = sync.rooms.room_num(room).await? {
                let found = matches.entry(room).or_default();
                found.subscribed = true;
                found.configs.push(config);
            }
        }
        let mut made = Made::default();
        let mut rooms = Vec::with_capacity(matches.len());
        for (num, found) in matches {
            // Only of rooms that are the user's anything is told.
            let Some(entry) = list.rooms.get(&num) else {
                continue;
            };
            let before = seen.rooms.get(&num).map(|sent| &sent.wanted);
            let (wanted, other_state) = made.wanted(&found.configs, before);
            rooms.push(Chosen {
                num,
                entry: entry.clone(),
                is_dm: list.direct.contains(&num),
                lists: found.lists.into_iter().map(str::to_owned).collect(),
                subscribed: found.subscribed,
                wanted,
                other_state,
            });
        }
        let mut window = Self { counts, rooms };
        window.add_left(seen, stretch, list);
        Ok(window)
    }

    /// Rooms that the client has and the user left meanwhile: they are in no list any more.
    fn add_left(&mut self, seen: &Seen, stretch: &Stretch, list: &RoomList) {
        let of_window = |num: RoomNum| {
            self.rooms
                .binary_search_by_key(&num, |room| room.num)
                .is_ok()
        };
        let left = |num: RoomNum| {
            let entry = list.rooms.get(&num)?;
            let sent = seen.rooms.get(&num)?;
            let out = matches!(entry.membership, Membership::Leave | Membership::Ban);
            (out && !of_window(num)).then(|| Chosen {
                num,
                entry: entry.clone(),
                is_dm: sent.is_dm,
                lists: Vec::new(),
                subscribed: false,
                wanted: sent.wanted.clone(),
                other_state: false,
            })
        };
        let rooms: Vec<Chosen> = match &stretch.log {
            Some(log) => log.moved.iter().copied().filter_map(left).collect(),
            None => seen.rooms.keys().copied().filter_map(left).collect(),
        };
        self.rooms.extend(rooms);
    }
}

/// What was put together already: rooms in the same lists share it.
#[derive(Default)]
struct Made<'a> {
    wanted: Vec<(Vec<&'a Arc<RoomConfig>>, Arc<Wanted>)>,
    /// What was compared with which: what they are in place of the new one, and whether the state is another.
    compared: Vec<(usize, usize, Option<Arc<Wanted>>, bool)>,
}

impl<'a> Made<'a> {
    /// What these configs want together, and whether that is another state than `before`. Where it is the same, so is
    /// the answer, so that a connection keeps few of them.
    fn wanted(
        &mut self,
        configs: &[&'a Arc<RoomConfig>],
        before: Option<&Arc<Wanted>>,
    ) -> (Arc<Wanted>, bool) {
        let made = self.make(configs);
        let Some(before) = before else {
            return (made, false);
        };
        let (old, new) = (Arc::as_ptr(before).addr(), Arc::as_ptr(&made).addr());
        if let Some((_, _, same, other)) = self
            .compared
            .iter()
            .find(|compared| (compared.0, compared.1) == (old, new))
        {
            return (same.clone().unwrap_or(made), *other);
        }
        let same = (**before == *made).then(|| before.clone());
        let other = same.is_none() && !before.same_state(&made);
        self.compared.push((old, new, same.clone(), other));
        (same.unwrap_or(made), other)
    }

    fn make(&mut self, configs: &[&'a Arc<RoomConfig>]) -> Arc<Wanted> {
        let same = |made: &Vec<&Arc<RoomConfig>>| {
            made.len() == configs.len() && made.iter().zip(configs).all(|(a, b)| Arc::ptr_eq(a, b))
        };
        if let Some((_, wanted)) = self.wanted.iter().find(|(made, _)| same(made)) {
            return wanted.clone();
        }
        let mut wanted = Wanted::default();
        configs.iter().for_each(|config| wanted.add(config));
        let wanted = Arc::new(wanted);
        self.wanted.push((configs.to_vec(), wanted.clone()));
        wanted
    }
}
