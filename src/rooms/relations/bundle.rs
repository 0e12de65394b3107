//! What a reader is told with an event of those that relate to it (client-server API, "Aggregations of child events").

use std::collections::HashSet;

use resuni_store::{Direction, ScanRange};
use ruma::OwnedUserId;

use super::index::{AGGREGATES, Aggregate, BY_TYPE, EDITS, PARTICIPANTS};
use crate::{
    client_format::push_string,
    client_view::Form,
    error::RoomError,
    fields::{EventFields, member, string_member},
    page::TimelineEvent,
    types::{EventHash, EventNum, TimelineToken, UserNum},
    view::RoomView,
    visibility::Viewer,
};

/// References that are bundled; a client that wants more asks for the relations.
const REFERENCES: usize = 100;
/// Newest events of a thread among which one is looked for that the reader may see and wants to.
const LATEST: usize = 32;
/// Newest edits among which a valid one is looked for. All are of the event's own sender.
const EDITS_READ: usize = 8;

/// What a reader's bundles share.
#[derive(Default)]
pub(crate) struct Bundling {
    /// Whether anything at all relates to anything in the room.
    any: Option<bool>,
    ignored: HashSet<OwnedUserId>,
    /// The same, as far as they were ever heard of.
    ignored_nums: Option<HashSet<UserNum>>,
}

impl Viewer {
    /// Whose events this reader does not want to have counted ("Ignoring users").
    #[must_use]
    pub fn ignoring(mut self, users: HashSet<OwnedUserId>) -> Self {
        self.bundling.ignored = users;
        self
    }

    /// Whether an event may have a bundle at all: state events have none.
    pub(crate) async fn may_have_relations(
        &mut self,
        event: &TimelineEvent,
        form: &Form<'_>,
    ) -> Result<bool, RoomError> {
        if form.without_relations || event.is_state() {
            return Ok(false);
        }
        if let Some(any) = self.bundling.any {
            return Ok(any);
        }
        let range = ScanRange::prefix(&self.view().num());
        let rows = self
            .view()
            .snapshot()
            .scan(&AGGREGATES, range, Direction::Forward, 1)
            .await?;
        Ok(*self.bundling.any.insert(!rows.is_empty()))
    }

    /// The value of `m.relations`.
    pub(crate) async fn relations(
        &mut self,
        event: &TimelineEvent,
        form: &Form<'_>,
    ) -> Result<Option<String>, RoomError> {
        let key = (self.view().num(), event.row.id.key());
        let Some(aggregate) = self.view().snapshot().get(&AGGREGATES, &key).await? else {
            return Ok(None);
        };
        let mut parts = Vec::new();
        // A redacted event is not what it was edited to either.
        if aggregate.edits > 0
            && event.redaction.is_none()
            && let Some(edit) = self.newest_edit(event).await?
        {
            let alone = Form {
                without_relations: true,
                ..*form
            };
            let edit = self.json(&edit, &alone).await?;
            parts.push(format!("\"m.replace\":{edit}"));
        }
        if aggregate.references > 0 {
            parts.extend(self.references(event.row.id.key()).await?);
        }
        if aggregate.threaded > 0 && !relates(&event.fields()) {
            parts.extend(self.thread(event, &aggregate, form).await?);
        }
        Ok((!parts.is_empty()).then(|| format!("{{{}}}", parts.join(","))))
    }

    /// The most recent valid edit ("Event replacements"): of the same sender and type, and of no edit.
    async fn newest_edit(
        &mut self,
        event: &TimelineEvent,
    ) -> Result<Option<TimelineEvent>, RoomError> {
        let view = self.view().clone();
        let fields = event.fields();
        if rel_type(&fields).as_deref() == Some("m.replace") {
            return Ok(None);
        }
        let sender = view.reader.event_row(event.row.event).await?.sender;
        for num in view.edits(event.row.id.key(), sender).await? {
            let Some(edit) = view.numbered(num).await? else {
                continue;
            };
            if edit.fields().kind == fields.kind && self.sees(&edit).await? {
                return Ok(Some(edit));
            }
        }
        Ok(None)
    }

    async fn references(&mut self, target: EventHash) -> Result<Option<String>, RoomError> {
        let view = self.view().clone();
        let range = ScanRange::prefix(&(view.num(), target, "m.reference".to_owned()));
        let rows = view
            .snapshot()
            .scan(&BY_TYPE, range, Direction::Forward, REFERENCES)
            .await?;
        let mut chunk = String::new();
        for ((_, _, _, position, sub), sender) in rows {
            if self.ignores(sender).await? {
                continue;
            }
            let place = TimelineToken { position, sub };
            if let Some(event) = view.at_place(place).await?
                && self.sees(&event).await?
            {
                chunk.push_str(if chunk.is_empty() { "" } else { "," });
                chunk.push_str("{\"event_id\":");
                push_string(&mut chunk, event.event_id().as_str());
                chunk.push('}');
            }
        }
        Ok((!chunk.is_empty()).then(|| format!("\"m.reference\":{{\"chunk\":[{chunk}]}}")))
    }

    /// "Server-side aggregation of `m.thread` relationships".
    async fn thread(
        &mut self,
        root: &TimelineEvent,
        aggregate: &Aggregate,
        form: &Form<'_>,
    ) -> Result<Option<String>, RoomError> {
        let Some(latest) = self.latest_of_thread(root.row.id.key()).await? else {
            return Ok(None);
        };
        let mut count = aggregate.threaded;
        for ignored in self.ignored_nums().await? {
            count = count.saturating_sub(self.share_of(root.row.id.key(), ignored).await?);
        }
        let participated = self.participated(root).await?;
        // It is part of a thread, so it has none of its own.
        let latest = self.json(&latest, form).await?;
        Ok(Some(format!(
            "\"m.thread\":{{\"latest_event\":{latest},\"count\":{count},\"current_user_participated\":{participated}}}"
        )))
    }

    /// The newest event of a thread that the reader may see, of nobody they ignore.
    pub(crate) async fn latest_of_thread(
        &mut self,
        root: EventHash,
    ) -> Result<Option<TimelineEvent>, RoomError> {
        let view = self.view().clone();
        let range = ScanRange::prefix(&(view.num(), root, "m.thread".to_owned()));
        let rows = view
            .snapshot()
            .scan(&BY_TYPE, range, Direction::Backward, LATEST)
            .await?;
        for ((_, _, _, position, sub), sender) in rows {
            if self.ignores(sender).await? {
                continue;
            }
            let place = TimelineToken { position, sub };
            if let Some(event) = view.at_place(place).await?
                && self.sees(&event).await?
            {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Whether the reader sent the root of a thread or anything in it.
    pub(crate) async fn participated(&mut self, root: &TimelineEvent) -> Result<bool, RoomError> {
        if root.fields().sender_str() == self.user().as_str() {
            return Ok(true);
        }
        match self.view().user_num(self.user()).await? {
            Some(user) => Ok(self.share_of(root.row.id.key(), user).await? > 0),
            None => Ok(false),
        }
    }

    /// How many events of a thread are a user's.
    async fn share_of(&self, root: EventHash, user: UserNum) -> Result<u64, RoomError> {
        let key = (self.view().num(), root, user);
        let share = self.view().snapshot().get(&PARTICIPANTS, &key).await?;
        Ok(share.unwrap_or(0))
    }

    /// Whether the reader ignores a user.
    pub(crate) async fn ignores(&mut self, user: UserNum) -> Result<bool, RoomError> {
        Ok(!self.bundling.ignored.is_empty() && self.ignored_nums().await?.contains(&user))
    }

    async fn ignored_nums(&mut self) -> Result<HashSet<UserNum>, RoomError> {
        if let Some(nums) = &self.bundling.ignored_nums {
            return Ok(nums.clone());
        }
        let mut nums = HashSet::new();
        for user in &self.bundling.ignored {
            nums.extend(self.view().user_num(user).await?);
        }
        Ok(self.bundling.ignored_nums.insert(nums).clone())
    }
}

impl RoomView {
    /// The newest edits of an event by its sender, the most recent first. Those of another type are not valid.
    pub async fn edits(
        &self,
        event: EventHash,
        sender: UserNum,
    ) -> Result<Vec<EventNum>, RoomError> {
        let range = ScanRange::prefix(&(self.num(), event, sender));
        let edits = self
            .snapshot()
            .scan(&EDITS, range, Direction::Backward, EDITS_READ)
            .await?;
        Ok(edits.into_iter().map(|(_, num)| num).collect())
    }
}

/// Whether an event relates to another with a `rel_type`: then no thread can hang on it.
pub(crate) fn relates(fields: &EventFields<'_>) -> bool {
    rel_type(fields).is_some()
}

fn rel_type(fields: &EventFields<'_>) -> Option<String> {
    string_member(member(fields.content, "m.relates_to")?, "rel_type")
}
