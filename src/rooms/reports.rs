//! What users report to the operator (client-server API, "Reporting Content").

use resuni_store::{Batch, Direction, Namespace, ScanRange, Table, TableInfo, versioned};
use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde::{Deserialize, Serialize};

use crate::{error::RoomError, rooms::Rooms};

/// Reports by the time they came, in milliseconds since the epoch, and a number.
pub static REPORTS: Table<(u64, u64), Report> = Table::new(0x0245, "reports");

/// So that no two reports are one.
static REPORT_NUMBERS: Namespace = Namespace::new(0x08, "reports");

/// The tables of this file.
pub const TABLES: &[TableInfo] = &[REPORTS.info()];

/// Reports that are read for one answer.
const MAX_READ: usize = 100_000;
/// Bytes of a reason that are kept.
const MAX_REASON: usize = 4096;

/// A row of [`REPORTS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Who reports.
    pub by: OwnedUserId,
    /// What.
    pub what: Reported,
    /// Why.
    pub reason: String,
}
versioned!(Report, 1);

/// A report of an event as it was filed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FiledReport {
    /// Its number.
    pub id: u64,
    /// When it came, in milliseconds since the epoch.
    pub received_ms: u64,
    /// What it says.
    pub report: Report,
    /// Who sent the event; none where it is not here any more.
    pub sender: Option<OwnedUserId>,
}

/// Which reports of events an operator looks for.
#[derive(Debug, Clone, Default)]
pub struct ReportsQuery {
    /// By this user.
    pub by: Option<OwnedUserId>,
    /// Of events in this room.
    pub room: Option<OwnedRoomId>,
    /// Of events of this user.
    pub sender: Option<OwnedUserId>,
    /// Whether the oldest come first.
    pub oldest_first: bool,
    /// How many to pass over.
    pub from: usize,
    /// How many to find.
    pub limit: usize,
}

/// What is reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reported {
    /// An event.
    Event(OwnedRoomId, OwnedEventId),
    /// A room.
    Room(OwnedRoomId),
    /// A user.
    User(OwnedUserId),
}

impl Rooms {
    /// Reports an event of a room that the user is in.
    ///
    /// # Errors
    /// [`RoomError::NotFound`] when they may not see it.
    pub async fn report_event(
        &self,
        by: &UserId,
        room: &RoomId,
        event: &EventId,
        reason: &str,
    ) -> Result<(), RoomError> {
        let unknown =
            || RoomError::NotFound("there is no such event in a room that you are in".to_owned());
        let view = self.view(room).await?.ok_or_else(unknown)?;
        if !view.joined(by).await? {
            return Err(unknown());
        }
        let mut viewer = view.viewer(by).await?;
        viewer.event(event).await?.ok_or_else(unknown)?;
        let what = Reported::Event(room.to_owned(), event.to_owned());
        self.report(by, what, reason).await
    }

    /// Reports a room, whether or not the user is in it.
    ///
    /// # Errors
    /// [`RoomError::NotFound`] when this server does not know it.
    pub async fn report_room(
        &self,
        by: &UserId,
        room: &RoomId,
        reason: &str,
    ) -> Result<(), RoomError> {
        if self.view(room).await?.is_none() && self.membership(room, by).await?.is_none() {
            return Err(RoomError::NotFound("there is no such room here".to_owned()));
        }
        self.report(by, Reported::Room(room.to_owned()), reason)
            .await
    }

    /// Reports a user. Whether they exist is not told ("servers may return 200 regardless").
    ///
    /// # Errors
    /// When it can't be written.
    pub async fn report_user(
        &self,
        by: &UserId,
        user: &UserId,
        reason: &str,
    ) -> Result<(), RoomError> {
        self.report(by, Reported::User(user.to_owned()), reason)
            .await
    }

    async fn report(&self, by: &UserId, what: Reported, reason: &str) -> Result<(), RoomError> {
        let mut end = reason.len().min(MAX_REASON);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        tracing::warn!(%by, ?what, "something was reported");
        let report = Report {
            by: by.to_owned(),
            what,
            reason: reason.get(..end).unwrap_or_default().to_owned(),
        };
        let mut batch = Batch::new();
        let number = self.store().numbers().next(&REPORT_NUMBERS);
        batch.put(&REPORTS, &(self.now_ms(), number), &report);
        Ok(self.store().commit_durable(batch).await?)
    }

    /// The reports of events that an operator looks for, and how many there are of them. Reads all reports.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn event_reports(
        &self,
        query: &ReportsQuery,
    ) -> Result<(Vec<FiledReport>, usize), RoomError> {
        let (mut found, mut total) = (Vec::new(), 0);
        let mut keys = self.report_keys().await?;
        if !query.oldest_first {
            keys.reverse();
        }
        for key in keys {
            let Some(filed) = self.filed(key).await? else {
                continue;
            };
            let Reported::Event(room, _) = &filed.report.what else {
                continue;
            };
            let fits = query.by.as_ref().is_none_or(|by| *by == filed.report.by)
                && query.room.as_ref().is_none_or(|wanted| wanted == room)
                && (query.sender.is_none() || query.sender == filed.sender);
            if !fits {
                continue;
            }
            if total >= query.from && found.len() < query.limit {
                found.push(filed);
            }
            total += 1;
        }
        Ok((found, total))
    }

    /// The keys of all reports, oldest first.
    async fn report_keys(&self) -> Result<Vec<(u64, u64)>, RoomError> {
        let rows = self
            .store()
            .snapshot()
            .scan(&REPORTS, ScanRange::all(), Direction::Forward, MAX_READ)
            .await?;
        Ok(rows.into_iter().map(|(key, _)| key).collect())
    }

    async fn filed(&self, key: (u64, u64)) -> Result<Option<FiledReport>, RoomError> {
        let Some(report) = self.store().snapshot().get(&REPORTS, &key).await? else {
            return Ok(None);
        };
        let sender = match &report.what {
            Reported::Event(room, event) => match self.view(room).await? {
                Some(view) => view.event(event).await?,
                None => None,
            },
            _ => None,
        };
        Ok(Some(FiledReport {
            id: key.1,
            received_ms: key.0,
            report,
            sender: sender.map(|event| event.pdu.sender().to_owned()),
        }))
    }

    /// A report of an event by its number.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn event_report(&self, id: u64) -> Result<Option<FiledReport>, RoomError> {
        let mut keys = self.report_keys().await?.into_iter();
        let Some(key) = keys.find(|(_, number)| *number == id) else {
            return Ok(None);
        };
        let is_event = |filed: &FiledReport| matches!(filed.report.what, Reported::Event(..));
        Ok(self.filed(key).await?.filter(is_event))
    }

    /// Removes a report of an event. Answers whether there was one.
    ///
    /// # Errors
    /// When it can't be written.
    pub async fn delete_event_report(&self, id: u64) -> Result<bool, RoomError> {
        let Some(filed) = self.event_report(id).await? else {
            return Ok(false);
        };
        let mut batch = Batch::new();
        batch.delete(&REPORTS, &(filed.received_ms, filed.id));
        self.store().commit_durable(batch).await?;
        Ok(true)
    }

    /// The newest reports, with their times.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn reports(&self, limit: usize) -> Result<Vec<(u64, Report)>, RoomError> {
        let rows = self
            .store()
            .snapshot()
            .scan(&REPORTS, ScanRange::all(), Direction::Backward, limit)
            .await?;
        Ok(rows
            .into_iter()
            .map(|((time, _), report)| (time, report))
            .collect())
    }
}
