//! Whose profile a room is: the account says so, and the room does.

use resuni_rooms::RoomView;
use ruma::{OwnedRoomId, OwnedUserId, UserId};

use crate::{
    Feed, PostPage, PostToken, RoomKind,
    error::FeedError,
    kind_in,
    names::{PROFILE_ROOM_ID, PROFILE_USER_ID},
    posts::text_in,
};

/// The public profile of one of our people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Whose.
    pub user_id: OwnedUserId,
    /// The room.
    pub room_id: OwnedRoomId,
    /// The name: the room's, or else the account's.
    pub display_name: Option<String>,
    /// The picture, an `mxc://` URI as its owner gave it: the room's, or else the account's.
    pub avatar_url: Option<String>,
    /// A few words: the room's topic.
    pub bio: Option<String>,
    /// How many follow, the owner not counted.
    pub followers: u64,
}

impl Feed {
    /// The profile of a local part, if they have one that anybody may read.
    ///
    /// None as well for somebody without an account: a stranger is not told who has one.
    ///
    /// # Errors
    /// When the account or the room cannot be read.
    pub async fn profile(&self, localpart: &str) -> Result<Option<Profile>, FeedError> {
        let Ok(user_id) = UserId::parse_with_server_name(localpart, self.server_name()) else {
            return Ok(None);
        };
        let Some(fields) = self.accounts.profile(localpart).await? else {
            return Ok(None);
        };
        let field = |name: &str| fields.get(name).and_then(|value| value.as_str());
        let room_id = PROFILE_ROOM_ID.iter().find_map(|name| field(name));
        let room_id = room_id.and_then(|id| OwnedRoomId::try_from(id).ok());
        let view = match room_id {
            Some(room_id) => self.rooms.view(&room_id).await?,
            None => None,
        };
        let Some(view) = view else { return Ok(None) };
        if !is_profile_of(&view, &user_id).await? {
            return Ok(None);
        }
        let state = |kind: &'static str, name: &'static str| {
            let view = &view;
            async move {
                let event = view.state(kind, "").await?;
                Ok::<_, FeedError>(event.and_then(|event| text_in(&event, name)))
            }
        };
        let or_field = |text: Option<String>, name| text.or(field(name).map(str::to_owned));
        let joined = view.joined(&user_id).await?;
        Ok(Some(Profile {
            display_name: or_field(state("m.room.name", "name").await?, "displayname"),
            avatar_url: or_field(state("m.room.avatar", "url").await?, "avatar_url"),
            bio: state("m.room.topic", "topic").await?,
            followers: view.joined_count().saturating_sub(u64::from(joined)),
            room_id: view.room_id().to_owned(),
            user_id,
        }))
    }

    /// The posts of a profile, newest first; as [`Feed::timeline`].
    ///
    /// # Errors
    /// When the store or the room cannot be read.
    pub async fn posts_of(
        &self,
        profile: &Profile,
        before: Option<PostToken>,
        limit: usize,
    ) -> Result<PostPage, FeedError> {
        match self.rooms.view(&profile.room_id).await? {
            Some(view) => self.room_posts(view.num(), before, limit).await,
            None => Ok(PostPage::default()),
        }
    }
}

/// Whether the room is the user's own and anybody may read it.
///
/// MSC4501, "Security considerations": each of the two fields may be set by anybody to anything, so both have to agree.
/// Beyond that, the room's must come from the user or from a creator of the room (a bridge makes rooms for the people
/// it speaks for): a moderator can't make a room somebody's.
async fn is_profile_of(view: &RoomView, user: &UserId) -> Result<bool, FeedError> {
    if kind_in(view).await? != Some(RoomKind::Profile)
        || !view.world_readable().await?
        || view.local_members(1).await?.is_empty()
    {
        return Ok(false);
    }
    for name in PROFILE_USER_ID {
        if let Some(event) = view.state(name, "").await? {
            let create = view.state("m.room.create", "").await?;
            let by_creator = create.is_some_and(|create| create.sender() == event.sender());
            return Ok(text_in(&event, "user_id").as_deref() == Some(user.as_str())
                && (event.sender() == user || by_creator));
        }
    }
    Ok(false)
}
