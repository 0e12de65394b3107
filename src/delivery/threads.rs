//! Following threads (MSC4306), as far as somebody may see them.

use resuni_accounts::{AccountNum, Following, StoppedFollowing, ThreadName};
use resuni_rooms::{TimelineEvent, Viewer};
use ruma::{EventId, RoomId, UserId};
use serde::Deserialize;

use crate::{Push, error::DeliveryError};

/// Why somebody does not follow a thread.
#[derive(Debug, thiserror::Error)]
pub enum ThreadError {
    /// There is no such event, or they may not see it, or they do not follow the thread.
    #[error("there is no such thread for you")]
    NoThread,
    /// The event that a client follows the thread for is not in it.
    #[error("the event that is named as the cause is not in this thread")]
    NotInThread,
    /// They stopped following the thread after that event.
    #[error("this thread was unsubscribed from after the event that is named as the cause")]
    Stopped,
    /// Something could not be read or written.
    #[error(transparent)]
    Failed(#[from] DeliveryError),
}

impl Push {
    /// Lets somebody follow a thread, by themselves or because of an event in it.
    ///
    /// # Errors
    /// [`ThreadError`].
    pub async fn follow_thread(
        &self,
        (account, user): (AccountNum, &UserId),
        (room, root): (&RoomId, &EventId),
        cause: Option<&EventId>,
    ) -> Result<(), ThreadError> {
        let mut viewer = self.viewer(user, room).await?;
        self.visible(&mut viewer, root)
            .await?
            .ok_or(ThreadError::NoThread)?;
        let cause = match cause {
            None => None,
            Some(cause) => {
                let event = self.visible(&mut viewer, cause).await?;
                let event = event.filter(|event| is_in_thread(event, root));
                Some(event.ok_or(ThreadError::NotInThread)?.token.position)
            }
        };
        let followed = self
            .accounts
            .follow_thread(account, &name(room, root), cause)
            .await
            .map_err(DeliveryError::from)?;
        followed.map_err(|StoppedFollowing| ThreadError::Stopped)
    }

    /// Lets somebody follow a thread no more.
    ///
    /// # Errors
    /// [`ThreadError`].
    pub async fn unfollow_thread(
        &self,
        (account, user): (AccountNum, &UserId),
        (room, root): (&RoomId, &EventId),
    ) -> Result<(), ThreadError> {
        let mut viewer = self.viewer(user, room).await?;
        self.visible(&mut viewer, root)
            .await?
            .ok_or(ThreadError::NoThread)?;
        let thread = name(room, root);
        let unfollowed = self.accounts.unfollow_thread(account, &thread);
        Ok(unfollowed.await.map_err(DeliveryError::from)?)
    }

    /// Whether it was the client that made somebody follow a thread.
    ///
    /// # Errors
    /// [`ThreadError::NoThread`] also when they do not follow it.
    pub async fn is_followed_by_client(
        &self,
        (account, user): (AccountNum, &UserId),
        (room, root): (&RoomId, &EventId),
    ) -> Result<bool, ThreadError> {
        let mut viewer = self.viewer(user, room).await?;
        self.visible(&mut viewer, root)
            .await?
            .ok_or(ThreadError::NoThread)?;
        let thread = name(room, root);
        let follows = self.accounts.follows_thread(account, &thread);
        match follows.await.map_err(DeliveryError::from)? {
            Following::No => Err(ThreadError::NoThread),
            following => Ok(following == Following::ByClient),
        }
    }

    async fn viewer(&self, user: &UserId, room: &RoomId) -> Result<Viewer, ThreadError> {
        let view = self.rooms.view(room).await.map_err(DeliveryError::from)?;
        let view = view.ok_or(ThreadError::NoThread)?;
        Ok(view.viewer(user).await.map_err(DeliveryError::from)?)
    }

    async fn visible(
        &self,
        viewer: &mut Viewer,
        event: &EventId,
    ) -> Result<Option<TimelineEvent>, ThreadError> {
        Ok(viewer.event(event).await.map_err(DeliveryError::from)?)
    }
}

fn name(room: &RoomId, root: &EventId) -> ThreadName {
    ThreadName {
        room: room.to_string(),
        root: root.to_string(),
    }
}

fn is_in_thread(event: &TimelineEvent, root: &EventId) -> bool {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.relates_to")]
        relates_to: Relation,
    }
    #[derive(Deserialize)]
    struct Relation {
        rel_type: String,
        event_id: String,
    }
    let content: Option<Content> = serde_json::from_str(event.fields().content).ok();
    content.is_some_and(|Content { relates_to }| {
        relates_to.rel_type == "m.thread" && relates_to.event_id == root.as_str()
    })
}
