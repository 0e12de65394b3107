//! Making a state that differs from another server's the same again, as far as it was us who were wrong.
//!
//! The other server is asked for the state before the event at which the two part. What of it is not here is fetched and
//! checked as all events are, and then the rooms judge that event and all that follow it again, by the rules. A server
//! that has no other events than we do, or none that the rules let in, changes nothing, whatever digests it claims.

use futures_util::FutureExt as _;
use resuni_rooms::JudgedAgain;
use ruma::{EventId, OwnedEventId, OwnedServerName, RoomId, ServerName};

use super::{Comparison, Divergences, Parting};
use crate::error::FederationError;

/// Events at which it is tried: where the first lies on a branch that is the same, the difference came by another.
const MAX_TRIES: usize = 3;

impl Divergences {
    /// Judges again what may have been judged wrongly here, from where the two states part. Whether that changed anything.
    ///
    /// # Errors
    /// When the other server can't be reached or does not tell, or the room can't be read.
    pub async fn heal(
        &self,
        server: &OwnedServerName,
        room: &RoomId,
        mut parting: Parting,
    ) -> Result<JudgedAgain, FederationError> {
        let mut tries = 1;
        loop {
            let event = &parting.event;
            let told = self.fetcher.state_at(room, server, event).boxed().await?;
            let judged = self.rooms.judge_again(room, event, &told).boxed();
            let done = judged.await?;
            if done.changed > 0 || parting.same_before || tries == MAX_TRIES {
                return Ok(done);
            }
            tries += 1;
            let Some(parent) = self.parent_that_differs(server, room, event).await? else {
                return Ok(done);
            };
            match self.locate(server, room, &parent).await? {
                Some(next) => parting = next,
                None => return Ok(done),
            }
        }
    }

    /// One of the event's `prev_events` after which the states differ.
    async fn parent_that_differs(
        &self,
        server: &ServerName,
        room: &RoomId,
        event: &EventId,
    ) -> Result<Option<OwnedEventId>, FederationError> {
        let view = self.rooms.view_known(room).await?;
        let Some(stored) = view.event(event).await? else {
            return Ok(None);
        };
        for parent in stored.pdu.prev_events() {
            if let Comparison::Differs(..) = self.at(server, &view, parent).await? {
                return Ok(Some(parent.clone()));
            }
        }
        Ok(None)
    }

    /// Heals, and tells the operator what came of it.
    pub(super) async fn try_to_heal(
        &self,
        server: &OwnedServerName,
        room: &RoomId,
        event: &EventId,
        parting: Parting,
    ) {
        match self.heal_and_compare(server, room, event, parting).await {
            Ok((done, true)) => {
                metrics::counter!("resuni_federation_states_healed_total").increment(1);
                tracing::warn!(%room, %server, judged = done.judged, changed = done.changed, "the state of the room was healed: it is the same here and there again");
            }
            Ok((done, false)) => {
                tracing::warn!(%room, %server, judged = done.judged, changed = done.changed, "the state of the room still differs: by the rules we stand by ours");
            }
            Err(error) => {
                tracing::warn!(%room, %server, %error, "the state of the room could not be healed");
            }
        }
    }

    async fn heal_and_compare(
        &self,
        server: &OwnedServerName,
        room: &RoomId,
        event: &EventId,
        parting: Parting,
    ) -> Result<(JudgedAgain, bool), FederationError> {
        let done = self.heal(server, room, parting).await?;
        if done.changed == 0 {
            return Ok((done, false));
        }
        let view = self.rooms.view_known(room).await?;
        let compared = self.at(server, &view, event).await?;
        Ok((done, compared == Comparison::Same))
    }
}
