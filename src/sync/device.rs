//! What a sync tells a device for end-to-end encryption (spec, "Extensions to /sync" of the modules
//! "Send-to-Device messaging" and "End-to-End Encryption").

use resuni_accounts::e2e::ToDevicePage;
use resuni_store::Position;
use ruma::DeviceId;
use serde_json::json;

use crate::{Sync, Who, answer::Answer, context::Context, error::SyncError};

/// Messages in one answer, as the spec recommends.
const MESSAGES: usize = 100;

impl Sync {
    /// Adds the counts of the device's keys. Every answer has them, also one without news: a client takes what is
    /// missing for none, and makes new keys.
    pub(crate) async fn key_counts(
        &self,
        who: Who<'_>,
        answer: &mut Answer,
    ) -> Result<(), SyncError> {
        let Some(device) = who.device else {
            return Ok(());
        };
        let snapshot = self.rooms.store().snapshot();
        let keys = self
            .accounts
            .one_time_keys(&snapshot, who.account, device)
            .await?;
        answer.key_counts =
            Some([json!(keys.counts), json!(keys.unused_fallback)].map(|part| part.to_string()));
        Ok(())
    }
}

impl Context<'_> {
    /// Adds the device's messages, the counts of its keys, and whose keys it has to look at again.
    pub async fn device(&self, answer: &mut Answer) -> Result<(), SyncError> {
        let Some(device) = self.who.device else {
            return Ok(());
        };
        self.messages(device, answer).await?;
        self.sync.key_counts(self.who, answer).await?;
        if let Some(since) = self.since() {
            let lists = self
                .sync
                .device_lists(self.who.user, since, self.now.position)
                .await?;
            (answer.changed, answer.left) = (lists.changed, lists.left);
        }
        Ok(())
    }

    /// The messages that the device has not acknowledged.
    async fn messages(&self, device: &DeviceId, answer: &mut Answer) -> Result<(), SyncError> {
        let (accounts, account) = (&self.sync.accounts, self.who.account);
        let since = self
            .request
            .since
            .map_or(Position(0), |token| token.to_device);
        let snapshot = self.sync.rooms.store().snapshot();
        let up_to = self.now.position;
        let ToDevicePage { messages, more } = accounts
            .to_device(&snapshot, account, device, since, up_to, MESSAGES)
            .await?;
        if more {
            answer.to_device_up_to = messages.last().map(|message| message.position);
        }
        let events = messages.into_iter();
        answer.to_device = events
            .map(|message| message.event.get().to_owned())
            .collect();
        Ok(())
    }
}
