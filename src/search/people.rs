//! People by name or id (client-server API, "User Directory").

use std::collections::{BTreeSet, HashMap, HashSet};

use resuni_dag::JoinRule;
use resuni_rooms::{RoomNum, RoomView, UserNum};
use resuni_store::{Direction, ScanRange, Snapshot};
use ruma::{OwnedUserId, UserId};

use crate::{
    Search,
    error::SearchError,
    tables::{NAMES, PEOPLE, Person},
    words::words,
};

/// Rows of the index that one search reads.
const BUDGET: usize = 5_000;
/// Rows read at once.
const CHUNK: usize = 256;

/// Somebody who was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Who.
    pub user_id: OwnedUserId,
    /// What they are called.
    pub name: Option<String>,
    /// Their avatar.
    pub avatar: Option<String>,
}

/// The words that somebody is found by.
pub(crate) fn terms(user: &UserId, person: &Person) -> BTreeSet<String> {
    let mut terms = words(user.localpart());
    terms.extend(words(person.name.as_deref().unwrap_or_default()));
    terms
}

/// What one search has found out.
struct Looking<'a> {
    reader: &'a UserId,
    snapshot: Snapshot,
    /// Whether the reader may know who is in a room.
    rooms: HashMap<RoomNum, bool>,
}

impl Search {
    /// People whose name or id has words that begin with those of `term`: those who share a room with the reader, or are
    /// in a room that anybody may join or read. Whether there are more than `limit`, too.
    ///
    /// # Errors
    /// When rooms or accounts can't be read.
    pub async fn people(
        &self,
        reader: &UserId,
        term: &str,
        limit: usize,
    ) -> Result<(Vec<Found>, bool), SearchError> {
        // The server of a full id says little; the local part is what one looks for.
        let local = term.strip_prefix('@').and_then(|id| id.split_once(':'));
        let wanted = words(local.map_or(term, |(local, _)| local));
        // The longest word is on the shortest list, mostly.
        let Some(first) = wanted.iter().max_by_key(|word| word.len()).cloned() else {
            return Ok((Vec::new(), false));
        };
        let mut looking = Looking {
            reader,
            snapshot: self.store.snapshot(),
            rooms: HashMap::new(),
        };
        let (mut found, mut done, mut read) = (Vec::new(), HashSet::new(), 0);
        let mut range = ScanRange::from(&first);
        while read < BUDGET {
            let rows = looking
                .snapshot
                .scan(&NAMES, range, Direction::Forward, CHUNK)
                .await?;
            read += CHUNK;
            let Some((last, _)) = rows.last() else {
                return Ok((found, false));
            };
            range = ScanRange::after(last);
            for ((name, user, room), ()) in rows {
                if !name.starts_with(&first) {
                    return Ok((found, false));
                }
                if done.contains(&user) {
                    continue;
                }
                let Some(person) = self.shown(&mut looking, user, room, &wanted).await? else {
                    continue;
                };
                done.insert(user);
                if found.len() == limit {
                    return Ok((found, true));
                }
                found.push(person);
            }
        }
        Ok((found, true))
    }

    /// Somebody of the index, if all that is wanted fits and the reader may know that they are in this room.
    async fn shown(
        &self,
        looking: &mut Looking<'_>,
        user: UserNum,
        room: RoomNum,
        wanted: &BTreeSet<String>,
    ) -> Result<Option<Found>, SearchError> {
        let Some(view) = self.rooms.view_num(room).await? else {
            return Ok(None);
        };
        let user_id = view.user_id(user).await?;
        let known = match looking.rooms.get(&room) {
            // In a room that everybody may know of one is found, too, but nobody looks for themselves among their friends.
            _ if user_id == looking.reader => is_open(&view).await?,
            Some(known) => *known,
            None => {
                let known = view.joined(looking.reader).await? || is_open(&view).await?;
                *looking.rooms.entry(room).or_insert(known)
            }
        };
        if !known || !view.joined(&user_id).await? {
            return Ok(None);
        }
        let person = match self.rooms.is_local(&user_id) {
            true => self.profile(&user_id).await?,
            false => looking
                .snapshot
                .get(&PEOPLE, &(user, room))
                .await?
                .unwrap_or_default(),
        };
        let terms = terms(&user_id, &person);
        let fits = |word: &String| terms.iter().any(|term| term.starts_with(word));
        Ok(wanted.iter().all(fits).then_some(Found {
            user_id,
            name: person.name,
            avatar: person.avatar,
        }))
    }
}

/// Whether everybody may know who is in the room.
async fn is_open(view: &RoomView) -> Result<bool, SearchError> {
    Ok(view.join_rule().await? == JoinRule::Public || view.world_readable().await?)
}
