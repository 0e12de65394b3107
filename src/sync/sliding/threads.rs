//! Changes of the threads that somebody follows (MSC4308).

use std::collections::BTreeMap;

use resuni_accounts::{AccountNum, Following, ThreadChanges};
use resuni_store::Position;
use serde_json::{Value, json};

use super::{Draft, Look};
use crate::{Sync, error::SyncError};

/// Changes in one answer at most.
const CHANGES: usize = 100;
const NAME: &str = "io.element.msc4308.thread_subscriptions";

/// Changes that are ready to be written.
pub struct ThreadPage(ThreadChanges);

impl ThreadPage {
    /// Adds `subscribed`, `unsubscribed` where the client can know of what ended, and under the name `more` the place
    /// where older changes go on.
    pub fn write(&self, out: &mut BTreeMap<&str, Value>, more: &'static str, ended: bool) {
        for change in &self.0.changes {
            let stamp = change.position.0;
            let (name, value) = match change.following {
                Following::No if !ended => continue,
                Following::No => ("unsubscribed", json!({ "bump_stamp": stamp })),
                following => {
                    let automatic = following == Following::ByClient;
                    (
                        "subscribed",
                        json!({ "automatic": automatic, "bump_stamp": stamp }),
                    )
                }
            };
            let rooms = out.entry(name).or_insert_with(|| json!({}));
            rooms[&change.thread.room][&change.thread.root] = value;
        }
        if let (true, Some(oldest)) = (self.0.more, self.0.changes.last()) {
            out.insert(more, json!(oldest.position.0.to_string()));
        }
    }
}

impl Sync {
    /// What changed of the threads that somebody follows, after the first position and before the second, the newest
    /// first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn thread_changes(
        &self,
        account: AccountNum,
        span: (Position, Position),
        limit: usize,
    ) -> Result<ThreadPage, SyncError> {
        let snapshot = self.rooms.store().snapshot();
        let changes = self
            .accounts
            .thread_changes(&snapshot, account, span, limit);
        Ok(ThreadPage(changes.await?))
    }
}

impl Look<'_> {
    pub(super) async fn thread_subscriptions(&self, draft: &mut Draft) -> Result<(), SyncError> {
        let Some(limit) = self.request.extensions.thread_subscriptions else {
            return Ok(());
        };
        let now = self.now.position;
        let span = (self.seen.threads, Position(now.0.saturating_add(1)));
        let limit = limit.clamp(1, CHANGES);
        let page = self
            .sync
            .thread_changes(self.who.account, span, limit)
            .await?;
        draft.step.threads = now;
        let mut out = BTreeMap::new();
        // Who was told of nothing yet follows nothing.
        page.write(&mut out, "prev_batch", self.seen.threads > Position(0));
        if !out.is_empty() {
            draft.extended = true;
            draft.extensions.push((NAME, json!(out).to_string()));
        }
        Ok(())
    }
}
