//! Redacting what somebody has said, room by room.

use std::collections::BTreeMap;
use std::sync::Arc;

use resuni_store::Direction;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::json;

use super::jobs::{Job, JobStatus, Jobs};
use crate::error::RoomError;
use crate::events::{NewEvent, SAYS_NOTHING};
use crate::page::{Gaps, PageQuery};
use crate::rooms::Rooms;

/// Events of one room that are looked at at a time, and in all.
const PAGE: usize = 500;
const LOOKED_AT: usize = 100_000;

/// What is redacted, and in whose name.
#[derive(Debug, Clone)]
pub struct Redaction {
    /// Who redacts, in rooms where they may; none: the user themself.
    pub by: Option<OwnedUserId>,
    /// In these rooms; none named: in all that we know the user in.
    pub rooms: Vec<OwnedRoomId>,
    /// Why.
    pub reason: Option<String>,
    /// Only what was sent after this time, in milliseconds since 1970.
    pub after_ms: u64,
    /// The newest, so many in each room.
    pub limit: usize,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RedactionReport {
    /// How many events are redacted.
    pub redacted: usize,
    /// Those that could not be, and why.
    pub failed: BTreeMap<OwnedEventId, String>,
}

/// A redaction of what a user has said.
pub type RedactionJob = Job<OwnedUserId, RedactionReport>;

/// Those of this run of the server.
pub type Redactions = Jobs<OwnedUserId, RedactionReport>;

impl Rooms {
    /// The redactions of this run of the server.
    pub fn redactions(&self) -> &Redactions {
        &self.redactions
    }

    /// Begins to redact what a user has said, and answers the id under which one may ask how far it is.
    ///
    /// # Errors
    /// [`RoomError::BadRequest`] while that is under way.
    pub async fn begin_redaction(
        self: &Arc<Self>,
        user: &UserId,
        how: Redaction,
    ) -> Result<String, RoomError> {
        if self.redactions.is_active(&user.to_owned()) {
            return Err(RoomError::bad(
                "M_UNKNOWN",
                "what this user has said is being redacted already",
            ));
        }
        let rooms = match how.rooms.is_empty() {
            false => how.rooms.clone(),
            true => {
                let rooms = self.rooms_of(user, &[]).await?;
                rooms.into_iter().map(|room| room.room_id).collect()
            }
        };
        let id = self.redactions.begin(user.to_owned(), self.now_ms());
        let (all, user, job) = (Arc::clone(self), user.to_owned(), id.clone());
        tokio::spawn(async move {
            let mut report = RedactionReport::default();
            for room in &rooms {
                if let Err(error) = all.redact_in(room, &user, &how, &mut report).await {
                    tracing::warn!(%room, %user, %error, "what somebody has said could not be redacted");
                    all.redactions
                        .end(&job, JobStatus::Failed(error.to_string()));
                    return;
                }
                all.redactions.report(&job, report.clone());
            }
            all.redactions.end(&job, JobStatus::Complete);
        });
        Ok(id)
    }

    /// The newest messages of the user in a room that are not redacted.
    async fn redact_in(
        &self,
        room: &RoomId,
        user: &UserId,
        how: &Redaction,
        report: &mut RedactionReport,
    ) -> Result<(), RoomError> {
        let Some(view) = self.view(room).await? else {
            return Ok(());
        };
        let by = how.by.as_deref().unwrap_or(user);
        let mut query = PageQuery {
            from: view.end(),
            to: None,
            dir: Direction::Backward,
            limit: PAGE,
            gaps: Gaps::Pass,
        };
        let (mut looked_at, mut tried) = (0, 0);
        while looked_at < LOOKED_AT {
            let page = view.page(query).await?;
            looked_at += page.events.len();
            for event in &page.events {
                let fields = event.fields();
                let kind = fields.kind_str();
                let wanted = fields.sender_str() == user.as_str()
                    && !event.is_state()
                    && event.redaction.is_none()
                    && kind != "m.room.redaction"
                    && kind != SAYS_NOTHING
                    && fields.timestamp() > how.after_ms;
                if !wanted {
                    continue;
                }
                if tried == how.limit {
                    return Ok(());
                }
                tried += 1;
                match self.redact_one(room, by, event.event_id(), how).await {
                    Ok(()) => report.redacted += 1,
                    Err(error @ RoomError::Store(_)) => return Err(error),
                    Err(error) => {
                        report.failed.insert(event.event_id(), error.to_string());
                    }
                }
            }
            match page.end {
                Some(end) => query.from = end,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    async fn redact_one(
        &self,
        room: &RoomId,
        by: &UserId,
        event: OwnedEventId,
        how: &Redaction,
    ) -> Result<(), RoomError> {
        let content = match &how.reason {
            Some(reason) => json!({ "reason": reason }),
            None => json!({}),
        };
        let content = serde_json::value::to_raw_value(&content)
            .map_err(|error| RoomError::Inconsistent(error.to_string()))?;
        let event = NewEvent {
            redacts: Some(event),
            ..NewEvent::message("m.room.redaction", content)
        };
        self.send(room, by, event, None).await?;
        Ok(())
    }
}
