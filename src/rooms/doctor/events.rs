//! Events, their ids and places, and the marks that others leave on them.

use resuni_dag::{Pdu, RoomRules};
use resuni_store::ScanRange;

use super::{Doctor, Rows};
use crate::{
    error::RoomError,
    rooms::rules_of,
    tables::{
        EVENT_IDS, EVENTS, EventRow, HELD_REDACTIONS, MISSING, OUTLIERS, Place, REDACTED_OUTLIERS,
        REDACTIONS, RELATIONS, SNAPS, TIMELINE, TXNS, TimelineRow,
    },
    types::{EventHash, EventNum, RoomNum, SnapNum, StoredId},
};

impl Doctor<'_> {
    /// `EVENTS`, and the ways to and from it.
    pub(super) async fn events(&mut self) -> Result<(), RoomError> {
        let mut rows = Rows::of(&EVENTS, ScanRange::all());
        while let Some(page) = rows.next(&self.reader).await? {
            for (num, row) in page {
                self.event(num, row).await?;
            }
        }
        let mut rows = Rows::of(&EVENT_IDS, ScanRange::all());
        while let Some(page) = rows.next(&self.reader).await? {
            for (hash, num) in page {
                let row = self.reader.snapshot.get(&EVENTS, &num).await?;
                self.expect(row.is_some_and(|row| row.id.key() == hash), || {
                    format!(
                        "the id {hash:?} leads to event number {}, which is another or none",
                        num.0
                    )
                });
            }
        }
        let mut rows = Rows::of(&OUTLIERS, ScanRange::all());
        while let Some(page) = rows.next(&self.reader).await? {
            for (num, _) in page {
                let row = self.reader.snapshot.get(&EVENTS, &num).await?;
                let outside = row.is_some_and(|row| !matches!(row.place, Place::Timeline { .. }));
                self.expect(outside, || {
                    format!("the event number {} is kept twice, or has no row", num.0)
                });
            }
        }
        Ok(())
    }

    async fn event(&mut self, num: EventNum, row: EventRow) -> Result<(), RoomError> {
        let id = row.id.clone();
        let found = self.reader.snapshot.get(&EVENT_IDS, &id.key()).await?;
        self.expect(found == Some(num), || {
            format!("the event {id:?} has another number than its id leads to")
        });
        let json = match row.place {
            Place::Timeline { position, sub } => {
                let timeline = self
                    .reader
                    .snapshot
                    .get(&TIMELINE, &(row.room, position, sub))
                    .await?;
                let timeline =
                    timeline.filter(|timeline| timeline.event == num && timeline.id == id);
                let agree = timeline
                    .as_ref()
                    .is_none_or(|timeline| timeline.snap_before == row.snap_before);
                self.expect(agree, || {
                    format!("the event {id:?} has two states before it")
                });
                timeline.map(|timeline| timeline.pdu)
            }
            _ => self
                .reader
                .snapshot
                .get(&OUTLIERS, &num)
                .await?
                .map(|outlier| outlier.pdu),
        };
        match json {
            Some(json) => self.event_json(&row, &json).await?,
            None => self.find(|| {
                format!(
                    "the event {id:?} is not where its row says: {:?}",
                    row.place
                )
            }),
        }
        for snap in [row.snap_before, row.snap_after] {
            let known =
                snap == SnapNum::EMPTY || self.reader.snapshot.get(&SNAPS, &snap).await?.is_some();
            self.expect(known, || {
                format!("the event {id:?} has the state {}, which is none", snap.0)
            });
        }
        for auth in &row.auth {
            let lower = self.reader.snapshot.get(&EVENTS, auth).await?;
            let lower = lower.is_some_and(|auth| auth.generation < row.generation);
            self.expect(lower, || {
                format!("the event {id:?} has an auth event that is not before it")
            });
        }
        Ok(())
    }

    async fn event_json(&mut self, row: &EventRow, json: &str) -> Result<(), RoomError> {
        let id = &row.id;
        let Some(rules) = self.rules(row.room).await? else {
            self.find(|| {
                format!(
                    "the event {id:?} is of room number {}, which is no room",
                    row.room.0
                )
            });
            return Ok(());
        };
        let pdu = match Pdu::parse(json, rules) {
            Ok(pdu) => pdu,
            Err(error) => {
                self.find(|| format!("the JSON of the event {id:?} is damaged: {error}"));
                return Ok(());
            }
        };
        self.expect(StoredId::of(pdu.event_id()) == *id, || {
            format!("the JSON of the event {id:?} has another id")
        });
        let complete = row.place == Place::Unchecked || row.auth.len() == pdu.auth_events().len();
        self.expect(complete, || {
            format!("the event {id:?} has auth events that are not known")
        });
        Ok(())
    }

    async fn rules(&self, room: RoomNum) -> Result<Option<&'static RoomRules>, RoomError> {
        Ok(self
            .reader
            .room_row(room)
            .await?
            .and_then(|row| rules_of(&row.version).ok()))
    }

    /// `TIMELINE`, and the backward extremities that follow from it.
    pub(super) async fn timelines(&mut self) -> Result<(), RoomError> {
        let mut rows = Rows::of(&TIMELINE, ScanRange::all());
        while let Some(page) = rows.next(&self.reader).await? {
            for ((room, position, sub), row) in page {
                let event = self.reader.snapshot.get(&EVENTS, &row.event).await?;
                let here = event.is_some_and(|event| {
                    event.room == room && event.place == Place::Timeline { position, sub }
                });
                self.expect(here, || {
                    format!(
                        "the event {:?} stands in a timeline where its row doesn't say",
                        row.id
                    )
                });
                self.edges(room, &row).await?;
            }
        }
        Ok(())
    }

    async fn edges(&mut self, room: RoomNum, row: &TimelineRow) -> Result<(), RoomError> {
        let Ok(pdu) = crate::reader::stored_pdu(&row.id, row.pdu.clone()) else {
            return Ok(());
        };
        for prev in pdu.prev_events() {
            let hash = EventHash::of(prev);
            let missing = self
                .reader
                .snapshot
                .get(&MISSING, &(room, hash))
                .await?
                .is_some();
            let known = self.known(hash).await?;
            self.expect(missing != known, || match known {
                true => format!("the event {prev} is here and counts as missing"),
                false => format!(
                    "the event {prev} is missing before {:?} and doesn't count as that",
                    row.id
                ),
            });
        }
        Ok(())
    }

    async fn known(&self, hash: EventHash) -> Result<bool, RoomError> {
        let Some(num) = self.reader.snapshot.get(&EVENT_IDS, &hash).await? else {
            return Ok(false);
        };
        Ok(self
            .reader
            .snapshot
            .get(&EVENTS, &num)
            .await?
            .is_some_and(|row| row.place.has_state()))
    }

    /// What refers to events by their place or number: redactions, relations, transactions.
    pub(super) async fn marks(&mut self) -> Result<(), RoomError> {
        let mut rows = Rows::of(&REDACTIONS, ScanRange::all());
        while let Some(page) = rows.next(&self.reader).await? {
            for (key, redaction) in page {
                let target = self.reader.snapshot.get(&TIMELINE, &key).await?.is_some();
                let known = self
                    .reader
                    .snapshot
                    .get(&EVENTS, &redaction)
                    .await?
                    .is_some();
                self.expect(target && known, || {
                    format!(
                        "a redaction at {} of room number {} leads nowhere",
                        key.1.0, key.0.0
                    )
                });
            }
        }
        let mut rows = Rows::of(&REDACTED_OUTLIERS, ScanRange::all());
        while let Some(page) = rows.next(&self.reader).await? {
            for ((_, target), redaction) in page {
                let target = self.reader.snapshot.get(&EVENTS, &target).await?;
                let outlier = target.is_some_and(|row| row.place == Place::Outlier);
                let known = self.reader.snapshot.contains(&EVENTS, &redaction).await?;
                self.expect(outlier && known, || {
                    "a redaction of an outlier leads nowhere".to_owned()
                });
            }
        }
        let mut rows = Rows::of(&HELD_REDACTIONS, ScanRange::all());
        while let Some(page) = rows.next(&self.reader).await? {
            for ((_, target, redaction), ()) in page {
                let known = self
                    .reader
                    .snapshot
                    .get(&EVENTS, &redaction)
                    .await?
                    .is_some();
                self.expect(known, || {
                    format!("a redaction of {target:?} is held and not there")
                });
            }
        }
        let mut rows = Rows::of(&RELATIONS, ScanRange::all());
        while let Some(page) = rows.next(&self.reader).await? {
            for ((room, target, position, sub), relation) in page {
                let row = self
                    .reader
                    .snapshot
                    .get(&TIMELINE, &(room, position, sub))
                    .await?;
                let there = row.is_some_and(|row| row.event == relation.event);
                self.expect(there, || {
                    format!("a relation to {target:?} leads to an event that is not there")
                });
            }
        }
        let mut rows = Rows::of(&TXNS, ScanRange::all());
        while let Some(page) = rows.next(&self.reader).await? {
            for (key, event) in page {
                let known = self.reader.snapshot.get(&EVENTS, &event).await?.is_some();
                self.expect(known, || {
                    format!(
                        "the transaction {} is answered with an event that is not there",
                        key.4
                    )
                });
            }
        }
        Ok(())
    }
}
