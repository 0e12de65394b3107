//! Which threads people follow (MSC4306), and what changed of that (MSC4308).
//!
//! Whether a thread exists and who may see it is not asked here.

use resuni_store::{Batch, Direction, Position, ScanRange, Snapshot, StoreError};

use crate::{
    Accounts,
    error::AccountError,
    tables::{
        AccountNum, FOLLOWERS, FOLLOWERS_KNOWN, Following, THREAD_CHANGES, THREADS,
        THREADS_CHANGED, ThreadName, ThreadRow,
    },
};

/// The longest room id and event id, in bytes.
const ID_BYTES: usize = 255;
/// Rows written in one batch.
const PAGE: usize = 500;

/// A thread that somebody follows, or followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadChange {
    /// Where.
    pub thread: ThreadName,
    /// Whether they follow it.
    pub following: Following,
    /// When that changed: `bump_stamp`.
    pub position: Position,
}

/// A page of changes, the newest first.
#[derive(Clone, Debug, Default)]
pub struct ThreadChanges {
    /// The changes.
    pub changes: Vec<ThreadChange>,
    /// There are older ones.
    pub more: bool,
}

/// Why somebody does not follow a thread although their client asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoppedFollowing;

impl Accounts {
    /// Lets somebody follow a thread. By themselves with no `cause`; a client does it for them because of an event that
    /// came at the position `cause`, and that changes nothing if they stopped following the thread after it, or follow
    /// it already.
    ///
    /// # Errors
    /// The inner one says that they stopped.
    pub async fn follow_thread(
        &self,
        account: AccountNum,
        thread: &ThreadName,
        cause: Option<Position>,
    ) -> Result<Result<(), StoppedFollowing>, AccountError> {
        if thread.room.len() > ID_BYTES || thread.root.len() > ID_BYTES {
            return Err(AccountError::InvalidParam(format!(
                "A room id and an event id have at most {ID_BYTES} bytes."
            )));
        }
        let applied = {
            let _lane = self.lanes.enter(account).await;
            let old = self.thread_row(account, thread).await?;
            let following = match (old.as_ref(), cause) {
                (Some(old), Some(cause)) if old.following == Following::No => {
                    if cause <= old.position {
                        return Ok(Err(StoppedFollowing));
                    }
                    Following::ByClient
                }
                (None, Some(_)) => Following::ByClient,
                // Who follows it goes on as they did: by their own wish, if so.
                (Some(_), Some(_)) => return Ok(Ok(())),
                (Some(old), None) if old.following == Following::ByUser => return Ok(Ok(())),
                (_, None) => Following::ByUser,
            };
            self.write_thread(account, thread, old, following).await?
        };
        applied.durable().await?;
        Ok(Ok(()))
    }

    /// Lets somebody follow a thread no more. That they did not is no error.
    pub async fn unfollow_thread(
        &self,
        account: AccountNum,
        thread: &ThreadName,
    ) -> Result<(), AccountError> {
        let applied = {
            let _lane = self.lanes.enter(account).await;
            let old = self.thread_row(account, thread).await?;
            let Some(old) = old.filter(|old| old.following != Following::No) else {
                return Ok(());
            };
            self.write_thread(account, thread, Some(old), Following::No)
                .await?
        };
        Ok(applied.durable().await?)
    }

    /// Whether somebody follows a thread.
    pub async fn follows_thread(
        &self,
        account: AccountNum,
        thread: &ThreadName,
    ) -> Result<Following, AccountError> {
        let row = self.thread_row(account, thread).await?;
        Ok(row.map_or(Following::No, |row| row.following))
    }

    /// What changed after `since` and before `before`, the newest first; a thread is there once, with its newest change.
    pub async fn thread_changes(
        &self,
        snapshot: &Snapshot,
        account: AccountNum,
        (since, before): (Position, Position),
        limit: usize,
    ) -> Result<ThreadChanges, AccountError> {
        let from = Position(since.0.saturating_add(1));
        if from >= before {
            return Ok(ThreadChanges::default());
        }
        let range = ScanRange::between(&(account, from), &(account, before));
        let mut rows = snapshot
            .scan(
                &THREAD_CHANGES,
                range,
                Direction::Backward,
                limit.saturating_add(1),
            )
            .await?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let keys: Vec<_> = rows
            .iter()
            .map(|(_, thread)| (account, thread.room.clone(), thread.root.clone()))
            .collect();
        let threads = snapshot.get_many(&THREADS, &keys).await?;
        let changes = rows
            .into_iter()
            .zip(threads)
            .filter_map(|((_, thread), row)| {
                let ThreadRow {
                    following,
                    position,
                } = row?;
                Some(ThreadChange {
                    thread,
                    following,
                    position,
                })
            });
        Ok(ThreadChanges {
            changes: changes.collect(),
            more,
        })
    }

    /// Who follows a thread.
    pub async fn followers(&self, thread: &ThreadName) -> Result<Vec<AccountNum>, StoreError> {
        let range = ScanRange::prefix(&(thread.room.clone(), thread.root.clone()));
        let rows = self
            .snapshot()
            .scan(&FOLLOWERS, range, Direction::Forward, usize::MAX)
            .await?;
        Ok(rows
            .into_iter()
            .map(|((_, _, account), ())| account)
            .collect())
    }

    /// Databases of before there was an index of followers get one.
    pub(crate) async fn index_followers(&self) -> Result<(), AccountError> {
        if self.snapshot().get(&FOLLOWERS_KNOWN, &()).await?.is_some() {
            return Ok(());
        }
        let mut range = ScanRange::all();
        loop {
            let snapshot = self.snapshot();
            let rows = snapshot
                .scan(&THREADS, range, Direction::Forward, PAGE)
                .await?;
            let mut batch = Batch::new();
            for ((account, room, root), row) in &rows {
                if row.following != Following::No {
                    batch.put(&FOLLOWERS, &(room.clone(), root.clone(), *account), &());
                }
            }
            let Some((last, _)) = rows.into_iter().next_back() else {
                batch.put(&FOLLOWERS_KNOWN, &(), &1);
                self.store.commit(batch).await?.durable().await?;
                return Ok(());
            };
            range = ScanRange::after(&last);
            drop(self.store.commit(batch).await?);
        }
    }

    async fn thread_row(
        &self,
        account: AccountNum,
        thread: &ThreadName,
    ) -> Result<Option<ThreadRow>, AccountError> {
        let key = (account, thread.room.clone(), thread.root.clone());
        Ok(self.snapshot().get(&THREADS, &key).await?)
    }

    /// Writes the row and moves its row in the index of changes; inside the lane.
    async fn write_thread(
        &self,
        account: AccountNum,
        thread: &ThreadName,
        old: Option<ThreadRow>,
        following: Following,
    ) -> Result<resuni_store::Applied, AccountError> {
        let mut batch = Batch::new();
        let position = self.announce(&mut batch, THREADS_CHANGED, account, thread)?;
        if let Some(old) = old {
            batch.delete(&THREAD_CHANGES, &(account, old.position));
        }
        batch.put(&THREAD_CHANGES, &(account, position), thread);
        let follower = (thread.room.clone(), thread.root.clone(), account);
        match following {
            Following::No => batch.delete(&FOLLOWERS, &follower),
            Following::ByUser | Following::ByClient => batch.put(&FOLLOWERS, &follower, &()),
        };
        let key = (account, thread.room.clone(), thread.root.clone());
        let row = ThreadRow {
            following,
            position,
        };
        batch.put(&THREADS, &key, &row);
        Ok(self.store.commit(batch).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{accounts, alice};

    fn thread(root: &str) -> ThreadName {
        ThreadName {
            room: "!r:h".to_owned(),
            root: root.to_owned(),
        }
    }

    /// MSC4306, "Server-side automatic subscription ordering".
    #[tokio::test]
    async fn what_somebody_ended_is_not_begun_again_by_what_they_knew() {
        let accounts = accounts().await;
        let alice = alice(&accounts).await;
        let thread = thread("$a");
        let follow = async |cause| accounts.follow_thread(alice, &thread, cause).await.unwrap();
        let follows = async || accounts.follows_thread(alice, &thread).await.unwrap();
        accounts.unfollow_thread(alice, &thread).await.unwrap();
        assert_eq!(follow(Some(Position(1))).await, Ok(()));
        assert_eq!(follows().await, Following::ByClient);
        follow(None).await.unwrap();
        follow(Some(Position(1))).await.unwrap();
        assert_eq!(follows().await, Following::ByUser);
        accounts.unfollow_thread(alice, &thread).await.unwrap();
        let ended = accounts.store.log().watermark();
        assert_eq!(follow(Some(ended)).await, Err(StoppedFollowing));
        assert_eq!(follows().await, Following::No);
        assert_eq!(follow(Some(Position(ended.0 + 1))).await, Ok(()));
        assert_eq!(follows().await, Following::ByClient);
    }

    /// Also in a database that was made before there was an index of them.
    #[tokio::test]
    async fn the_followers_of_a_thread_are_known() {
        let accounts = accounts().await;
        let (alice, bob) = (alice(&accounts).await, crate::testing::bob(&accounts).await);
        let (thread, other) = (thread("$a"), thread("$b"));
        for (account, thread) in [(alice, &thread), (bob, &thread), (alice, &other)] {
            let followed = accounts.follow_thread(account, thread, None).await;
            assert_eq!(followed.unwrap(), Ok(()));
        }
        accounts.unfollow_thread(bob, &thread).await.unwrap();
        assert_eq!(accounts.followers(&thread).await.unwrap(), [alice]);
        let mut batch = Batch::new();
        batch.delete(&FOLLOWERS_KNOWN, &());
        for root in ["$a", "$b"] {
            batch.delete(&FOLLOWERS, &("!r:h".to_owned(), root.to_owned(), alice));
        }
        drop(accounts.store.commit(batch).await.unwrap());
        assert!(accounts.followers(&thread).await.unwrap().is_empty());
        accounts.index_followers().await.unwrap();
        assert_eq!(accounts.followers(&thread).await.unwrap(), [alice]);
        assert_eq!(accounts.followers(&other).await.unwrap(), [alice]);
    }

    #[tokio::test]
    async fn changes_are_paged_from_the_newest_and_told_once() {
        let accounts = accounts().await;
        let alice = alice(&accounts).await;
        for root in ["$a", "$b", "$c", "$a"] {
            if root == "$a" {
                accounts
                    .unfollow_thread(alice, &thread(root))
                    .await
                    .unwrap();
            }
            let followed = accounts.follow_thread(alice, &thread(root), None).await;
            assert_eq!(followed.unwrap(), Ok(()));
        }
        let snapshot = accounts.snapshot();
        let all = (Position(0), Position(u64::MAX));
        let page = accounts
            .thread_changes(&snapshot, alice, all, 2)
            .await
            .unwrap();
        let roots = |page: &ThreadChanges| -> Vec<String> {
            let changes = page.changes.iter();
            changes.map(|change| change.thread.root.clone()).collect()
        };
        assert_eq!(
            (roots(&page), page.more),
            (vec!["$a".to_owned(), "$c".to_owned()], true)
        );
        let rest = (Position(0), page.changes[1].position);
        let page = accounts
            .thread_changes(&snapshot, alice, rest, 2)
            .await
            .unwrap();
        assert_eq!((roots(&page), page.more), (vec!["$b".to_owned()], false));
    }
}
