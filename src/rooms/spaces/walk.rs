//! A walk through a space, depth first, in pages.
//!
//! The walk asks nobody: where a room is not here it says so ([`Step::Ask`]), and whoever runs it brings the answer.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use quick_cache::sync::Cache;
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId};

use super::{Hierarchy, SpaceRoom, Told};
use crate::{error::RoomError, rooms::Rooms};

/// The deepest that is gone into a space.
const MAX_DEPTH: u32 = 50;
/// The most rooms of one walk, those that were left out included.
const MAX_ROOMS: usize = 2_000;
/// Walks that can be gone on with.
const MAX_WALKS: usize = 1_000;

/// A walk through a space for one user.
#[derive(Debug, Clone)]
pub struct Walk {
    root: OwnedRoomId,
    user: OwnedUserId,
    suggested_only: bool,
    max_depth: u32,
    /// Rooms to look at, the next one last.
    stack: Vec<Node>,
    seen: HashSet<OwnedRoomId>,
    told: Told,
}

#[derive(Debug, Clone)]
struct Node {
    room: OwnedRoomId,
    via: Vec<OwnedServerName>,
    depth: u32,
}

/// Where a walk has come to.
#[derive(Debug)]
pub enum Step {
    /// To a room that the user may know of.
    Room(Box<SpaceRoom>),
    /// To a room that is not here: ask one of these servers and tell with [`Walk::answer`].
    Ask {
        /// The room.
        room: OwnedRoomId,
        /// Servers that may know it.
        via: Vec<OwnedServerName>,
    },
    /// To its end.
    End,
}

impl Walk {
    /// A walk from this room on.
    pub fn new(
        root: OwnedRoomId,
        user: OwnedUserId,
        suggested_only: bool,
        max_depth: Option<u32>,
    ) -> Self {
        let node = Node {
            room: root.clone(),
            via: Vec::new(),
            depth: 0,
        };
        Self {
            user,
            suggested_only,
            max_depth: max_depth.unwrap_or(MAX_DEPTH).min(MAX_DEPTH),
            stack: vec![node],
            seen: HashSet::from([root.clone()]),
            told: Told::new(),
            root,
        }
    }

    /// Whether only suggested rooms are walked to.
    pub fn suggested_only(&self) -> bool {
        self.suggested_only
    }

    /// Whether nothing is left.
    pub fn is_over(&self) -> bool {
        self.stack.is_empty()
    }

    /// Goes on to the next room that the user may know of.
    pub async fn step(&mut self, rooms: &Rooms) -> Result<Step, RoomError> {
        while let Some(node) = self.stack.pop() {
            if let Some(view) = rooms.participating(&node.room).await? {
                if rooms.may_preview(&view, &self.user).await? {
                    let room = view.space_room(self.suggested_only).await?;
                    return Ok(self.arrive(room, node.depth));
                }
                continue;
            }
            match self.told.get(&node.room) {
                Some(None) => {}
                // A room that is no space was told of as a child with all there is to it.
                Some(Some(details)) if !details.is_space() => {
                    let details = details.clone();
                    if rooms.may_preview_remote(&details, &self.user).await? {
                        let room = SpaceRoom {
                            details,
                            children_state: Vec::new(),
                        };
                        return Ok(self.arrive(room, node.depth));
                    }
                }
                _ if node.via.is_empty() => {}
                _ => {
                    let ask = Step::Ask {
                        room: node.room.clone(),
                        via: node.via.clone(),
                    };
                    self.stack.push(node);
                    return Ok(ask);
                }
            }
        }
        Ok(Step::End)
    }

    /// What another server said of the room that [`Step::Ask`] was for; `None` when nobody knew.
    pub async fn answer(
        &mut self,
        rooms: &Rooms,
        answer: Option<Hierarchy>,
    ) -> Result<Option<SpaceRoom>, RoomError> {
        let Some(node) = self.stack.pop() else {
            return Ok(None);
        };
        let Some(mut answer) = answer.filter(|a| a.room.details.summary.room_id == node.room)
        else {
            return Ok(None);
        };
        for child in answer.children.into_iter().take(MAX_ROOMS) {
            let room = child.summary.room_id.clone();
            self.tell(room, Some(child));
        }
        for room in answer.inaccessible_children.into_iter().take(MAX_ROOMS) {
            self.tell(room, None);
        }
        if !rooms
            .may_preview_remote(&answer.room.details, &self.user)
            .await?
        {
            return Ok(None);
        }
        let space = answer.room.details.is_space();
        answer.room.children_state.retain(|child| {
            space
                && child.kind == "m.space.child"
                && !child.via().is_empty()
                && (!self.suggested_only || child.suggested())
        });
        super::sort(&mut answer.room.children_state);
        match self.arrive(answer.room, node.depth) {
            Step::Room(room) => Ok(Some(*room)),
            _ => Ok(None),
        }
    }

    fn tell(&mut self, room: OwnedRoomId, details: Option<super::RoomDetails>) {
        if self.told.len() < MAX_ROOMS {
            self.told.entry(room).or_insert(details);
        }
    }

    /// A room to show; its children come next.
    fn arrive(&mut self, mut room: SpaceRoom, depth: u32) -> Step {
        room.children_state.truncate(super::MAX_CHILDREN);
        if depth < self.max_depth {
            for child in room.children_state.iter().rev() {
                if self.seen.len() < MAX_ROOMS && !self.seen.contains(&child.state_key) {
                    self.stack.push(Node {
                        room: child.state_key.clone(),
                        via: child.via(),
                        depth: depth + 1,
                    });
                }
            }
            let children = room.children_state.iter();
            self.seen
                .extend(children.map(|child| child.state_key.clone()));
        }
        Step::Room(Box::new(room))
    }
}

/// Walks that their users may go on with. The oldest are forgotten first; after a restart none is known.
pub struct Walks {
    next: AtomicU64,
    walks: Cache<u64, Arc<Walk>>,
}

impl Walks {
    /// None yet. `first` is greater than all numbers that an earlier run gave out: the time will do.
    pub fn new(first: u64) -> Self {
        Self {
            next: AtomicU64::new(first),
            walks: Cache::new(MAX_WALKS),
        }
    }

    /// Keeps a walk; its token.
    pub fn keep(&self, walk: Walk) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.walks.insert(number, Arc::new(walk));
        format!("w{number}")
    }

    /// Goes on with a walk. What the client asks for again has to be what it asked for first.
    ///
    /// # Errors
    /// `M_INVALID_PARAM` for tokens of others, of other rooms, and of walks that were forgotten.
    pub fn resume(&self, token: &str, again: &Walk, depth_given: bool) -> Result<Walk, RoomError> {
        let number = token.strip_prefix('w').and_then(|n| n.parse().ok());
        let walk = number.and_then(|number: u64| self.walks.get(&number));
        let walk = walk
            .filter(|walk| walk.user == again.user && walk.root == again.root)
            .ok_or_else(|| {
                RoomError::bad(
                    "M_INVALID_PARAM",
                    "the token `from` is not known (any more)",
                )
            })?;
        let same = (!depth_given || walk.max_depth == again.max_depth)
            && (!again.suggested_only || walk.suggested_only);
        if !same {
            return Err(RoomError::bad(
                "M_INVALID_PARAM",
                "suggested_only and max_depth cannot change from page to page",
            ));
        }
        Ok(Walk::clone(&walk))
    }
}
