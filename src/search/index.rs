//! The follower that keeps the indexes. Working an entry of the log again, after a crash, has the same outcome.

use std::collections::HashMap;

use resuni_dag::Pdu;
use resuni_rooms::{
    RoomNum, RoomView, UserNum,
    fields::string_member,
    tables::{EventLog, MEMBERS, TOPIC_EVENT, TOPIC_WHOLE, flags},
};
use resuni_store::{Batch, Direction, Follower, LogEntry, Position, ScanRange, StoreError};
use ruma::UserId;

use crate::{
    Search,
    error::SearchError,
    people::terms,
    tables::{NAMES, PEOPLE, Person, WORDS},
    text::text_of,
    words::words,
};

/// Log entries read at once.
const READ_LIMIT: usize = 256;
/// Members of a room that are read at once when this server joins it.
const MEMBERS_AT_ONCE: usize = 500;
/// Rows after which a batch is written.
const BATCH_ROWS: usize = 20_000;

/// What the entries at hand come to, before it is written.
#[derive(Default)]
struct Work {
    batch: Batch,
    /// People as they will be.
    people: HashMap<(UserNum, RoomNum), Option<Person>>,
    views: HashMap<RoomNum, RoomView>,
}

impl Search {
    /// Keeps the indexes until the store is closed.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn run(&self) -> Result<(), SearchError> {
        let mut follower = self.follower.lock().await;
        let mut watermark = self.store.log().watch();
        let mut seen = follower.cursor();
        loop {
            let up_to = tokio::select! {
                biased;
                moved = watermark.wait_for(|up_to| *up_to > seen) => match moved {
                    Ok(up_to) => *up_to,
                    Err(_) => return Ok(()),
                },
                reason = self.store.ended() => return match reason {
                    StoreError::Closed => Ok(()),
                    reason => Err(reason.into()),
                },
            };
            match self.follow(&mut follower, up_to).await {
                Ok(()) => seen = up_to,
                Err(SearchError::Store(StoreError::Closed)) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Works everything that is in the log now; for tests and tools, beside no [`Search::run`].
    ///
    /// # Errors
    /// When the store fails.
    pub async fn catch_up(&self) -> Result<(), SearchError> {
        let mut follower = self.follower.lock().await;
        let up_to = self.store.log().watermark();
        self.follow(&mut follower, up_to).await
    }

    async fn follow(&self, follower: &mut Follower, up_to: Position) -> Result<(), SearchError> {
        let mut seen = follower.cursor();
        while seen < up_to {
            let entries = self.store.log().read(seen, up_to, READ_LIMIT).await?;
            let Some(last) = entries.last() else { break };
            seen = last.position;
            let mut work = Work::default();
            for entry in &entries {
                match self.entry(&mut work, entry).await {
                    // One event that can't be read is no reason not to find all later ones.
                    Err(error) if error.is_of_one_event() => {
                        tracing::warn!(position = entry.position.0, %error, "passed over by the search index");
                    }
                    outcome => outcome?,
                }
                if work.batch.len() > BATCH_ROWS {
                    // Every row may be written twice, so the cursor can wait.
                    drop(self.store.commit(std::mem::take(&mut work.batch)).await?);
                }
            }
            follower.advance(&mut work.batch, seen);
            // Nobody waits for it to be durable: what a crash takes is made again from the log.
            drop(self.store.commit(work.batch).await?);
        }
        Ok(())
    }

    async fn entry(&self, work: &mut Work, entry: &LogEntry) -> Result<(), SearchError> {
        if entry.topic == TOPIC_WHOLE {
            // The members of a partial room have arrived (MSC3902).
            let room = RoomNum(entry.scope);
            if let Some(view) = self.rooms.view_num(room).await? {
                self.everybody(work, &view).await?;
                work.views.insert(room, view);
            }
            return Ok(());
        }
        if entry.topic != TOPIC_EVENT {
            return Ok(());
        }
        let Some(log) = EventLog::from_bytes(&entry.payload) else {
            tracing::warn!(
                position = entry.position.0,
                "an entry of the log can't be read"
            );
            return Ok(());
        };
        let room = RoomNum(entry.scope);
        if log.flags & flags::OUT_OF_BAND != 0 {
            return Ok(());
        }
        let view = match work.views.get(&room) {
            Some(view) => view.clone(),
            None => match self.rooms.view_num(room).await? {
                Some(view) => work.views.entry(room).or_insert(view).clone(),
                None => return Ok(()),
            },
        };
        if log.flags & flags::ADOPTED != 0 {
            self.everybody(work, &view).await?;
        }
        if let Some(user) = log.target {
            self.member(work, &view, user).await?;
        }
        if let Some(pdu) = view.pdus(&[log.event]).await?.pop() {
            self.index(work, &view, &pdu, entry.position).await?;
        }
        Ok(())
    }

    /// Words that come, and words that go with a redaction.
    async fn index(
        &self,
        work: &mut Work,
        view: &RoomView,
        pdu: &Pdu,
        position: Position,
    ) -> Result<(), SearchError> {
        if let Some((_, text)) = text_of(pdu.kind(), pdu.content().get()) {
            for word in words(&text) {
                work.batch.put(&WORDS, &(view.num(), word, position), &());
            }
        }
        let Some(target) = pdu.redacts(view.rules()) else {
            return Ok(());
        };
        if let Some(event) = view.timeline_event(target).await?
            && event.redaction.is_some()
        {
            let fields = event.fields();
            if let Some((_, text)) = text_of(fields.kind_str(), fields.content) {
                for word in words(&text) {
                    let key = (view.num(), word, event.token.position);
                    work.batch.delete(&WORDS, &key);
                }
            }
        }
        Ok(())
    }

    /// All who are or were in a room that this server has just come into, or learned the state of: some may be gone
    /// who were found there before.
    async fn everybody(&self, work: &mut Work, view: &RoomView) -> Result<(), SearchError> {
        let prefix = view.num();
        let mut range = ScanRange::prefix(&prefix);
        loop {
            let rows = view
                .snapshot()
                .scan(&MEMBERS, range, Direction::Forward, MEMBERS_AT_ONCE)
                .await?;
            let Some((last, _)) = rows.last() else {
                return Ok(());
            };
            range = ScanRange::after(last).within(&prefix);
            for ((_, _, user), _) in &rows {
                self.member(work, view, *user).await?;
            }
        }
    }

    /// What a user is called in a room, as it is now.
    async fn member(
        &self,
        work: &mut Work,
        view: &RoomView,
        user: UserNum,
    ) -> Result<(), SearchError> {
        let id = view.user_id(user).await?;
        let key = (user, view.num());
        let old = match work.people.get(&key) {
            Some(old) => old.clone(),
            None => view.snapshot().get(&PEOPLE, &key).await?,
        };
        let new = match view.joined(&id).await? {
            true => Some(self.person(view, &id).await?),
            false => None,
        };
        if old == new {
            return Ok(());
        }
        for term in old.iter().flat_map(|person| terms(&id, person)) {
            work.batch.delete(&NAMES, &(term, user, view.num()));
        }
        match &new {
            None => work.batch.delete(&PEOPLE, &key),
            Some(person) => {
                work.batch.put(&PEOPLE, &key, person);
                for term in terms(&id, person) {
                    work.batch.put(&NAMES, &(term, user, view.num()), &());
                }
            }
        }
        work.people.insert(key, new);
        Ok(())
    }

    async fn person(&self, view: &RoomView, user: &UserId) -> Result<Person, SearchError> {
        if self.rooms.is_local(user) {
            return self.profile(user).await;
        }
        let member = view.state("m.room.member", user.as_str()).await?;
        let text = |name| {
            let content = member.as_ref()?.content().get();
            string_member(content, name).filter(|text| !text.is_empty())
        };
        Ok(Person {
            name: text("displayname"),
            avatar: text("avatar_url"),
        })
    }

    /// One of our own people: what they call themselves in a single room is for that room only.
    pub(crate) async fn profile(&self, user: &UserId) -> Result<Person, SearchError> {
        let profile = self.accounts.profile(user.localpart()).await?;
        let profile = profile.unwrap_or_default();
        let text = |name| Some(profile.get(name)?.as_str()?.to_owned());
        Ok(Person {
            name: text("displayname"),
            avatar: text("avatar_url"),
        })
    }
}
