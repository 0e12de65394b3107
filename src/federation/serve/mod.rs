//! What other servers ask of us. `http` finds out who asks and routes here; every decision is made here.

mod devices;
mod history;
mod member;
mod query;
mod relationships;

use std::{sync::Arc, time::Duration};

use resuni_accounts::{
    Accounts,
    limits::{Limiter, Rate},
};
use resuni_dag::SigningKey;
use resuni_rooms::{RoomView, Rooms, WholeRoom};
use resuni_store::SharedClock;
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId,
    ServerName, UInt,
};

use crate::{acl, checks::Checker, error::FederationError, sender::Sender};

/// Answers other servers.
pub struct Serve {
    own: OwnedServerName,
    key: Arc<SigningKey>,
    rooms: Arc<Rooms>,
    accounts: Arc<Accounts>,
    checker: Checker,
    sender: Arc<Sender>,
    clock: SharedClock,
    /// Accumulators asked for, by server and room.
    accumulators: Limiter<(OwnedServerName, OwnedRoomId)>,
}

/// Accumulators that a server may ask for in a room: at once those of two searches for an event, then one each second
/// (MSC4500, "Rate limiting").
const ACCUMULATORS: Rate = Rate {
    burst: 60,
    interval: Duration::from_secs(1),
};
/// Servers and rooms of which it is remembered how many were asked for.
const ASKERS: usize = 4_096;

/// The parts of a [`Serve`].
pub struct ServeParts {
    /// Our name.
    pub own: OwnedServerName,
    /// Our key.
    pub key: Arc<SigningKey>,
    /// The rooms.
    pub rooms: Arc<Rooms>,
    /// Our people.
    pub accounts: Arc<Accounts>,
    /// Checks events.
    pub checker: Checker,
    /// Passes on what came in by way of us.
    pub sender: Arc<Sender>,
    /// The time.
    pub clock: SharedClock,
}

/// How long a request for a state waits for it to become whole.
const WHOLE_WITHIN: Duration = Duration::from_secs(20);
/// Events of one request at which a server that is not in the room any more may have been in it.
const MAX_PAST: usize = 10;

impl Serve {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: ServeParts) -> Self {
        let ServeParts {
            own,
            key,
            rooms,
            accounts,
            checker,
            sender,
            clock,
        } = parts;
        Self {
            own,
            key,
            rooms,
            accounts,
            checker,
            sender,
            clock,
            accumulators: Limiter::new(ACCUMULATORS, ASKERS),
        }
    }

    /// A room that we are in and whose ACL lets `origin` take part. A room that we don't know and one
    /// that we have left are the same: there is nothing to say about it.
    async fn room(&self, origin: &ServerName, room: &RoomId) -> Result<RoomView, FederationError> {
        let view = match self.rooms.view(room).await? {
            Some(view) if view.has_server(&self.own).await? => view,
            _ => return Err(unknown_room(room)),
        };
        acl::require(&view, origin).await?;
        Ok(view)
    }

    /// As [`Serve::room`], for what needs all of its state: one whose members are still arriving is not to be joined by way
    /// of us.
    async fn whole_room(
        &self,
        origin: &ServerName,
        room: &RoomId,
    ) -> Result<RoomView, FederationError> {
        let view = self.room(origin, room).await?;
        member::require_whole(&view)?;
        Ok(view)
    }

    /// As [`Serve::room_at`], once its state is whole: waits a while for that.
    async fn settled_room(
        &self,
        origin: &ServerName,
        room: &RoomId,
        event: &OwnedEventId,
    ) -> Result<WholeRoom, FederationError> {
        let at = std::slice::from_ref(event);
        self.room_at(origin, room, at).await?;
        let whole = tokio::time::timeout(WHOLE_WITHIN, self.rooms.whole(room)).await;
        let whole = whole.map_err(|_| {
            FederationError::Forbidden(format!(
                "this server does not have all of the state of the room {room} yet"
            ))
        })??;
        // Meanwhile its server may have left, or turned out never to have been there.
        self.room_at(origin, room, at).await?;
        Ok(whole)
    }

    /// As [`Serve::shared_room`], also for a server that was in the room at each of these events: what
    /// put it out it can only take in if it can have what that builds on. And also once we have left: what we said last
    /// is worth nothing to who can't have what came before it.
    async fn room_at(
        &self,
        origin: &ServerName,
        room: &RoomId,
        events: &[OwnedEventId],
    ) -> Result<RoomView, FederationError> {
        let view = self.rooms.view(room).await?;
        let view = view.ok_or_else(|| unknown_room(room))?;
        let is_ours = view.has_server(&self.own).await?;
        if is_ours {
            acl::require(&view, origin).await?;
            if view.has_server(origin).await? {
                return Ok(view);
            }
        }
        let mut was_in = (1..=MAX_PAST).contains(&events.len());
        for event in events {
            was_in = was_in && view.had_server(origin, event).await?;
        }
        match (was_in, is_ours) {
            (true, true) => Ok(view),
            // To all others a room that we have left is one that we don't know.
            (true, false) if acl::require(&view, origin).await.is_ok() => Ok(view),
            (false, true) => Err(not_in_room(origin)),
            _ => Err(unknown_room(room)),
        }
    }

    /// As [`Serve::room`], for what only servers in the room are told.
    async fn shared_room(
        &self,
        origin: &ServerName,
        room: &RoomId,
    ) -> Result<RoomView, FederationError> {
        let view = self.room(origin, room).await?;
        if view.has_server(origin).await? {
            Ok(view)
        } else {
            Err(not_in_room(origin))
        }
    }

    fn now(&self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(UInt::new_saturating(self.clock.now_ms()))
    }
}

fn not_in_room(origin: &ServerName) -> FederationError {
    FederationError::Forbidden(format!("{origin} is not in this room"))
}

fn unknown_room(room: &RoomId) -> FederationError {
    FederationError::NotFound(format!("this server is not in the room {room}"))
}

pub(crate) fn unknown_event(event: &EventId) -> FederationError {
    FederationError::NotFound(format!("the event {event} is not known here"))
}
