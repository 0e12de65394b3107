//! Which thread an event is in (client-server API, "Threaded read receipts").

use resuni_dag::Pdu;
use ruma::{EventId, OwnedEventId};

use super::Content;
use crate::{error::RoomError, view::RoomView};

/// Relations that are followed to find the thread an event is in: the spec recommends 3.
const HOPS: usize = 3;

/// What an event relates to, and whether as part of a thread.
pub fn relation(pdu: &Pdu) -> Option<(bool, OwnedEventId)> {
    if !pdu.content().get().contains("m.relates_to") {
        return None;
    }
    let relation = pdu.content_as::<Content>().ok()?.relates_to;
    Some((relation.rel_type == "m.thread", relation.event_id))
}

impl RoomView {
    /// The root of the thread that an event is in; none for the main timeline.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn thread_of(&self, pdu: &Pdu) -> Result<Option<OwnedEventId>, RoomError> {
        let mut relates = relation(pdu);
        for _ in 0..HOPS {
            match relates {
                None => return Ok(None),
                Some((true, root)) => return Ok(Some(root)),
                Some((false, parent)) => relates = self.relation_of(&parent).await?,
            }
        }
        Ok(relates.and_then(|(thread, root)| thread.then_some(root)))
    }

    /// Whether an event is the root of a thread or related to it, in whatever way and by way of whatever events.
    pub(crate) async fn is_related(&self, event: &EventId, root: &str) -> Result<bool, RoomError> {
        if event.as_str() == root {
            return Ok(true);
        }
        let mut relates = self.relation_of(event).await?;
        for _ in 0..HOPS {
            match relates {
                None => return Ok(false),
                Some((_, parent)) if parent.as_str() == root => return Ok(true),
                Some((_, parent)) => relates = self.relation_of(&parent).await?,
            }
        }
        Ok(false)
    }

    async fn relation_of(
        &self,
        event: &EventId,
    ) -> Result<Option<(bool, OwnedEventId)>, RoomError> {
        let event = self.event(event).await?;
        Ok(event.and_then(|event| relation(&event.pdu)))
    }
}
