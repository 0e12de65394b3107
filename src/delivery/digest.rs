//! E-mail pushers: what somebody has not read for a while is mailed to them, all of it in one mail.
//!
//! What waits is the same rows as for push gateways. They wait until the oldest is old enough, and until a pause since the
//! last mail has passed; the pause grows while there is always more to mail, so that who does not read is not flooded.

use std::{sync::Arc, time::Duration};

use resuni_accounts::PusherId;
use resuni_store::{Batch, Direction, Position, ScanRange};
use sha2::{Digest as _, Sha256};

use crate::{
    Mailer, Push,
    error::DeliveryError,
    follow::{display_name, ended},
    gateway::{FIRST_PAUSE, LONGEST_PAUSE, News, stated},
    letter::{Entry, Unread},
    tables::{DIGESTS, DigestName, DigestRow, PUSHES, PushRow, UNSUBSCRIBE},
};

/// By what the pause between mails grows, from the delay on, and what it grows to.
const GROWTH: u64 = 6;
const LONGEST_PAUSE_MS: u64 = 24 * 3_600_000;
/// After so long without anything to mail, the pauses begin anew.
const QUIET_MS: u64 = 12 * 3_600_000;
/// What is older is not mailed any more. It is longer than the longest pause.
const TOO_OLD_MS: u64 = 3 * 24 * 3_600_000;
/// Rows read at a time, and for one mail; what is beyond them is in the next.
const PAGE: usize = 200;
const MOST: usize = 5_000;

/// What mails notifications.
#[derive(Clone)]
pub struct Digests {
    /// The way.
    pub mailer: Arc<Mailer>,
    /// How long a notification waits to be read, in milliseconds.
    pub delay_ms: u64,
}

impl DigestRow {
    /// When the next mail may go out whose oldest notification is of `oldest_ms`.
    fn due_ms(&self, oldest_ms: u64, delay_ms: u64) -> u64 {
        let ripe = oldest_ms.saturating_add(delay_ms);
        ripe.max(self.last_ms.saturating_add(self.pause_ms))
    }

    /// After a mail at `now_ms`.
    fn mailed(mut self, now_ms: u64, delay_ms: u64) -> Self {
        let quiet_until = self.last_ms.saturating_add(self.pause_ms);
        let was_quiet = now_ms.saturating_sub(quiet_until) > QUIET_MS;
        self.pause_ms = match self.pause_ms {
            pause if pause == 0 || was_quiet => delay_ms,
            pause => pause.saturating_mul(GROWTH),
        }
        .min(LONGEST_PAUSE_MS);
        self.last_ms = now_ms;
        self
    }
}

fn name(id: &PusherId) -> (resuni_accounts::AccountNum, String, String) {
    (id.account, id.app_id.clone(), id.pushkey.clone())
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

impl Push {
    /// Mails what waits for one pusher until nothing does.
    pub(crate) async fn serve_mail(
        &self,
        digests: &Digests,
        id: &PusherId,
    ) -> Result<(), DeliveryError> {
        let mut retry = FIRST_PAUSE;
        while let Some((_, oldest)) = self.first_push(id).await? {
            // Addresses that an account gives up take their pusher with them.
            if self.accounts.pusher(id).await?.is_none() {
                return self.forget(id).await;
            }
            let row = self.digest_row(id).await?;
            let due = row.due_ms(oldest.at_ms, digests.delay_ms);
            let wait = match due.saturating_sub(self.rooms.now_ms()) {
                0 => match self.mail(digests, id, row).await {
                    Ok(()) => {
                        retry = FIRST_PAUSE;
                        continue;
                    }
                    Err(error @ DeliveryError::Mail(_)) => {
                        tracing::warn!(%error, "notifications wait for the mail server");
                        let wait = retry;
                        retry = (retry * 2).min(LONGEST_PAUSE);
                        wait
                    }
                    Err(error) => return Err(error),
                },
                ms => Duration::from_millis(ms),
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                reason = self.store.ended() => return ended(reason),
            }
        }
        Ok(())
    }

    async fn digest_row(&self, id: &PusherId) -> Result<DigestRow, DeliveryError> {
        let row = self.store.snapshot().get(&DIGESTS, &name(id)).await?;
        match row {
            Some(row) => Ok(row),
            None => Ok(DigestRow {
                last_ms: 0,
                pause_ms: 0,
                token: self.accounts.new_secret("unsub_")?,
            }),
        }
    }

    /// Mails what waits and is still unread, if anything is.
    async fn mail(
        &self,
        digests: &Digests,
        id: &PusherId,
        row: DigestRow,
    ) -> Result<(), DeliveryError> {
        let Some(user) = self.accounts.user_of(id.account).await? else {
            return self.forget(id).await;
        };
        let rows = self.waiting(id).await?;
        let mut unread = Unread::default();
        for (position, row) in &rows {
            if let Some(news) = self.news(&user, *position, row, TOO_OLD_MS).await? {
                unread.add(self.entry_of(&news).await?);
            }
        }
        let mut batch = Batch::new();
        if !unread.is_empty() {
            let link = digests.mailer.unsubscribe_link(&row.token);
            let letter = unread.letter(digests.mailer.server_name(), &user, link);
            // The link works before anybody can open it.
            let mut link = Batch::new();
            let pusher = DigestName {
                account: id.account,
                app_id: id.app_id.clone(),
                pushkey: id.pushkey.clone(),
            };
            link.put(&UNSUBSCRIBE, &hash(&row.token), &pusher);
            link.put(&DIGESTS, &name(id), &row);
            drop(self.store.commit(link).await?);
            digests.mailer.send_letter(&id.pushkey, letter).await?;
            let row = row.mailed(self.rooms.now_ms(), digests.delay_ms);
            batch.put(&DIGESTS, &name(id), &row);
        }
        // What was mailed is not mailed again, but after a crash just now.
        for page in rows.chunks(PAGE) {
            for (position, _) in page {
                let (account, app_id, pushkey) = name(id);
                batch.delete(&PUSHES, &(account, app_id, pushkey, *position));
            }
            drop(self.store.commit(std::mem::take(&mut batch)).await?);
        }
        Ok(())
    }

    async fn waiting(&self, id: &PusherId) -> Result<Vec<(Position, PushRow)>, DeliveryError> {
        let snapshot = self.store.snapshot();
        let range = ScanRange::prefix(&name(id));
        let rows = snapshot
            .scan(&PUSHES, range, Direction::Forward, MOST)
            .await?;
        Ok(rows.into_iter().map(|(key, row)| (key.3, row)).collect())
    }

    async fn entry_of(&self, news: &News) -> Result<Entry, DeliveryError> {
        let sender = news.pdu.sender();
        let (room_name, sender_name) = match &news.view {
            // What an inviter says of the room is not passed on: nobody has let them in yet.
            None => (None, None),
            Some(view) => {
                let mut room = stated(view, "m.room.name", "name").await?;
                if room.as_ref().is_none_or(String::is_empty) {
                    room = stated(view, "m.room.canonical_alias", "alias").await?;
                }
                (room, display_name(view, sender).await?)
            }
        };
        Ok(Entry::new(&news.pdu, &news.room, room_name, sender_name))
    }

    /// Ends the mails whose link has this token; false if there are none.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn unsubscribe(&self, token: &str) -> Result<bool, DeliveryError> {
        let row = self
            .store
            .snapshot()
            .get(&UNSUBSCRIBE, &hash(token))
            .await?;
        let Some(pusher) = row else {
            return Ok(false);
        };
        let id = PusherId {
            account: pusher.account,
            app_id: pusher.app_id,
            pushkey: pusher.pushkey,
        };
        self.accounts.delete_pusher(&id).await?;
        self.forget(&id).await?;
        Ok(true)
    }

    /// Adds the end of what is known of a pusher's mails to a batch.
    pub(crate) async fn forget_digests(
        &self,
        batch: &mut Batch,
        id: &PusherId,
    ) -> Result<(), DeliveryError> {
        let row = self.store.snapshot().get(&DIGESTS, &name(id)).await?;
        if let Some(row) = row {
            batch.delete(&DIGESTS, &name(id));
            batch.delete(&UNSUBSCRIBE, &hash(&row.token));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    #[test]
    fn pauses_grow_while_there_is_more_to_mail_and_begin_anew_after_a_quiet_time() {
        let mut row = DigestRow {
            last_ms: 0,
            pause_ms: 0,
            token: String::new(),
        };
        let mut now = 1_000_000 * MINUTE;
        let mut pauses = Vec::new();
        for _ in 0..6 {
            // There is always a new message, a minute after the last mail.
            now = row.due_ms(now + MINUTE, 10 * MINUTE);
            row = row.mailed(now, 10 * MINUTE);
            pauses.push(row.pause_ms / MINUTE);
        }
        assert_eq!(pauses, [10, 60, 360, 1440, 1440, 1440]);
        now += LONGEST_PAUSE_MS + QUIET_MS + MINUTE;
        assert_eq!(row.due_ms(now, 10 * MINUTE), now + 10 * MINUTE);
        assert_eq!(row.mailed(now, 10 * MINUTE).pause_ms, 10 * MINUTE);
    }
}
