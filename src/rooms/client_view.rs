//! Events as one reader gets them: what `client_format` writes, filled with what the reader may know.

use resuni_dag::Pdu;
use ruma::EventId;

use crate::client_format::{self, Unsigned, client_event};
use crate::error::RoomError;
use crate::page::TimelineEvent;
use crate::sticky;
use crate::tables::Place;
use crate::types::{EventNum, Membership, TimelineToken};
use crate::view::{RoomView, Shown, StoredEvent};
use crate::visibility::Viewer;

/// How a reader wants events written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Form<'a> {
    /// The time by our clock in milliseconds, for `age`.
    pub now_ms: u64,
    /// The device that reads: it alone is told the transaction ids of what it sent.
    pub device: Option<&'a str>,
    /// Leave `room_id` out, because the answer implies it (`/sync`).
    pub without_room_id: bool,
    /// As a PDU (`event_format: federation`).
    pub federation: bool,
    /// Leave out what relates to the events ("Aggregations of child events").
    pub without_relations: bool,
}

impl Viewer {
    /// Writes an event of a page for this reader. Whether they may see it was asked before ([`Viewer::page`]).
    pub async fn write(
        &mut self,
        out: &mut String,
        event: &TimelineEvent,
        form: &Form<'_>,
    ) -> Result<(), RoomError> {
        let event_id = event.event_id();
        let membership = self.membership_at(event).await?;
        let replaced = self.replaced(event).await?;
        let shown = match event.redaction {
            None => None,
            Some(redaction) => {
                let pdu = crate::reader::stored_pdu(&event.row.id, event.row.pdu.clone())?;
                Some(self.view().redacted(pdu, Some(redaction)).await?)
            }
        };
        let because = shown
            .as_ref()
            .and_then(|shown| self.view().because(shown, form));
        let relations = match self.may_have_relations(event, form).await? {
            true => Box::pin(self.relations(event, form)).await?,
            false => None,
        };
        let unsigned = Unsigned {
            now_ms: form.now_ms,
            transaction_id: self.transaction_id(event, form),
            redacted_because: because.as_deref(),
            prev_content: replaced
                .as_ref()
                .and_then(|(_, content)| content.as_ref())
                .map(|pdu| pdu.content().get()),
            prev_sender: replaced
                .as_ref()
                .and_then(|(_, content)| content.as_ref())
                .map(|pdu| pdu.sender().as_str()),
            replaces_state: replaced.as_ref().map(|(id, _)| id.as_ref()),
            membership: Some(membership.as_str()),
            sticky_ms: sticky::rest_ms(event, form.now_ms),
            relations: relations.as_deref(),
        };
        let json = shown
            .as_ref()
            .map_or(event.row.pdu.as_str(), |shown| shown.pdu.json());
        self.view().write(out, &event_id, json, &unsigned, form);
        Ok(())
    }

    /// As [`Viewer::write`], to a string of its own.
    pub async fn json(
        &mut self,
        event: &TimelineEvent,
        form: &Form<'_>,
    ) -> Result<String, RoomError> {
        let mut out = String::with_capacity(event.row.pdu.len() + 128);
        self.write(&mut out, event, form).await?;
        Ok(out)
    }

    /// A JSON list of events for this reader.
    pub async fn list(
        &mut self,
        events: &[TimelineEvent],
        form: &Form<'_>,
    ) -> Result<String, RoomError> {
        let mut out = String::with_capacity(
            2 + events
                .iter()
                .map(|event| event.row.pdu.len() + 128)
                .sum::<usize>(),
        );
        out.push('[');
        for (n, event) in events.iter().enumerate() {
            if n > 0 {
                out.push(',');
            }
            self.write(&mut out, event, form).await?;
        }
        out.push(']');
        Ok(out)
    }

    fn transaction_id<'a>(&self, event: &'a TimelineEvent, form: &Form<'_>) -> Option<&'a str> {
        let (device, txn) = event.row.txn.as_ref()?;
        let own = Some(device.as_str()) == form.device
            && event.fields().sender_str() == self.user().as_str();
        own.then_some(txn.as_str())
    }

    /// The state event that this one replaced: its id, and the event itself if the reader may see it.
    async fn replaced(
        &mut self,
        event: &TimelineEvent,
    ) -> Result<Option<(ruma::OwnedEventId, Option<Pdu>)>, RoomError> {
        if !event.is_state() {
            return Ok(None);
        }
        let row = self.view().reader.event_row(event.row.event).await?;
        let Some(key) = row.state_key else {
            return Ok(None);
        };
        let reader = self.view().reader.clone();
        let root = reader.snap(row.snap_before).await?.root;
        let Some(before) = crate::tree::get(&reader, root, key).await? else {
            return Ok(None);
        };
        // A member of the time saw the whole state, and everybody sees their own membership.
        let fields = event.fields();
        let own = event.row.flags & crate::tables::flags::MEMBER != 0
            && fields.state_key_str() == Some(self.user().as_str());
        let visible = own || self.membership_before(event).await? == Some(Membership::Join);
        let shown = self.view().shown(&[before]).await?.into_iter().next();
        Ok(shown.map(|shown| {
            (
                shown.pdu.event_id().to_owned(),
                visible.then_some(shown.pdu),
            )
        }))
    }
}

impl RoomView {
    fn write(
        &self,
        out: &mut String,
        event_id: &EventId,
        json: &str,
        unsigned: &Unsigned<'_>,
        form: &Form<'_>,
    ) {
        if form.federation {
            client_format::write_federation_event(out, json, unsigned);
        } else {
            let room_id = (!form.without_room_id).then(|| self.room_id());
            client_format::write_client_event(out, event_id, room_id, json, unsigned);
        }
    }

    fn because(&self, shown: &Shown, form: &Form<'_>) -> Option<String> {
        let redaction = shown.redacted_because.as_ref()?;
        let unsigned = Unsigned {
            now_ms: form.now_ms,
            ..Unsigned::default()
        };
        let room_id = (!form.without_room_id).then(|| self.room_id());
        Some(client_event(
            redaction.event_id(),
            room_id,
            redaction.json(),
            &unsigned,
        ))
    }

    /// Writes state events for a client, as JSON objects, in the order of `nums` (`/state`, `/members`, the state of a
    /// sync). What was redacted is written so.
    pub async fn state_json(
        &self,
        nums: &[EventNum],
        form: &Form<'_>,
    ) -> Result<Vec<String>, RoomError> {
        let shown = self.shown(nums).await?;
        Ok(shown
            .iter()
            .map(|shown| self.shown_json(shown, form))
            .collect())
    }

    /// One event for a client, without what only the timeline knows.
    pub fn shown_json(&self, shown: &Shown, form: &Form<'_>) -> String {
        let because = self.because(shown, form);
        let unsigned = Unsigned {
            now_ms: form.now_ms,
            redacted_because: because.as_deref(),
            ..Unsigned::default()
        };
        let mut out = String::with_capacity(shown.pdu.json().len() + 128);
        self.write(
            &mut out,
            shown.pdu.event_id(),
            shown.pdu.json(),
            &unsigned,
            form,
        );
        out
    }

    /// An event of the timeline by its id, as a page would have it.
    pub async fn timeline_event(
        &self,
        event_id: &EventId,
    ) -> Result<Option<TimelineEvent>, RoomError> {
        match self.event(event_id).await? {
            Some(event) => self.in_timeline(&event).await,
            None => Ok(None),
        }
    }

    async fn in_timeline(&self, event: &StoredEvent) -> Result<Option<TimelineEvent>, RoomError> {
        match event.token() {
            Some(token) => self.at_place(token).await,
            None => Ok(None),
        }
    }

    /// As [`RoomView::timeline_event`], by number.
    pub(crate) async fn numbered(&self, num: EventNum) -> Result<Option<TimelineEvent>, RoomError> {
        let row = self.reader.event_row(num).await?;
        match row.place {
            Place::Timeline { position, sub } if row.room == self.num() => {
                self.at_place(TimelineToken { position, sub }).await
            }
            _ => Ok(None),
        }
    }

    /// The event at this place.
    pub async fn at_place(&self, token: TimelineToken) -> Result<Option<TimelineEvent>, RoomError> {
        let key = (self.num(), token.position, token.sub);
        let row = self.snapshot().get(&crate::tables::TIMELINE, &key).await?;
        let redaction = self
            .snapshot()
            .get(&crate::tables::REDACTIONS, &key)
            .await?;
        Ok(row.map(|row| TimelineEvent {
            token,
            row,
            redaction,
        }))
    }
}
