//! What an application service is interested in (Application Service API, "Registration"): rooms
//! and aliases in its namespaces, and whatever its users are concerned by.

use std::{collections::HashMap, sync::Arc};

use resuni_accounts::AppService;
use resuni_rooms::{Membership, RoomNum, RoomView, Rooms, tables::EventLog};
use ruma::UserId;

use crate::error::DeliveryError;

/// Rooms of which it is remembered whether users of the service are in them.
const ROOMS: usize = 100_000;

/// The interest of one service.
pub(super) struct Interest {
    rooms: Arc<Rooms>,
    service: Arc<AppService>,
    /// Whether a user of the service is in a room. Looked up once, and again when one leaves.
    members: HashMap<RoomNum, bool>,
}

impl Interest {
    pub fn new(rooms: Arc<Rooms>, service: Arc<AppService>) -> Self {
        Self {
            rooms,
            service,
            members: HashMap::new(),
        }
    }

    /// Whether a user is the service's own. Users of other servers never are.
    pub fn owns(&self, user: &UserId) -> bool {
        user.server_name() == self.rooms.server_name() && self.service.owns_user(user)
    }

    /// Somebody may have come or gone.
    pub async fn moved(&mut self, room: RoomNum, log: &EventLog) -> Result<(), DeliveryError> {
        for user in &log.memberships {
            let user = self.rooms.user_id(*user).await?;
            if self.owns(&user) {
                self.members.remove(&room);
            }
        }
        Ok(())
    }

    /// Whether the service is told of an event.
    pub async fn in_event(
        &mut self,
        view: &RoomView,
        log: &EventLog,
    ) -> Result<bool, DeliveryError> {
        for user in [Some(log.sender), log.target].into_iter().flatten() {
            if self.owns(&self.rooms.user_id(user).await?) {
                return Ok(true);
            }
        }
        self.in_room(view).await
    }

    /// Whether the service is told of what happens in a room.
    pub async fn in_room(&mut self, view: &RoomView) -> Result<bool, DeliveryError> {
        if self.service.owns_room(view.room_id().as_str()) {
            return Ok(true);
        }
        if self.has_members(view).await? {
            return Ok(true);
        }
        let aliases = view.aliases().await?;
        Ok(aliases.iter().any(|alias| self.service.owns_alias(alias)))
    }

    /// Whether the service may know somebody's keys: their own, and of those who are in a room with them.
    pub async fn sees_keys(&mut self, user: &UserId) -> Result<bool, DeliveryError> {
        if self.owns(user) {
            return Ok(true);
        }
        let rooms = self.rooms.clone();
        for room in rooms.rooms_of(user, &[Membership::Join]).await? {
            if let Some(view) = rooms.view_num(room.num).await?
                && self.in_room(&view).await?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a user of the service other than this one is in the room.
    pub async fn has_others(
        &self,
        view: &RoomView,
        except: &UserId,
    ) -> Result<bool, DeliveryError> {
        let members = view.local_members(usize::MAX).await?;
        Ok(members.iter().any(|user| user != except && self.owns(user)))
    }

    async fn has_members(&mut self, view: &RoomView) -> Result<bool, DeliveryError> {
        if let Some(known) = self.members.get(&view.num()) {
            return Ok(*known);
        }
        let members = view.local_members(usize::MAX).await?;
        let found = members.iter().any(|user| self.owns(user));
        if self.members.len() >= ROOMS {
            self.members.clear();
        }
        self.members.insert(view.num(), found);
        Ok(found)
    }
}
