//! What the operators tell people, in a room of its own for each (client-server API, "Server Notices").
//!
//! The server has an account of its own for it, which nobody logs in to. A person's room is written down before they
//! are invited to it, so a crash in between leaves an empty room that nobody sees, and never a second one.

use std::sync::Arc;

use resuni_accounts::{AccountKind, AccountNum, Accounts, NewAccount};
use resuni_rooms::{
    CreateRoom, MemberDetails, MemberProfile, Membership, NewEvent, Preset, Rooms, TxnKey,
};
use resuni_store::Batch;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde_json::{Map, Value, json, value::RawValue};
use tokio::sync::Mutex;

use crate::{DeliveryError, tables::NOTICE_ROOMS};

/// The label of the server's own account, by which it is told from one of a person with the same name.
const USER_TYPE: &str = "server_notices";
/// By which clients know the room.
const TAG: &str = "m.server_notice";

/// Who speaks for the server, and where.
#[derive(Clone, Debug)]
pub struct NoticesConfig {
    /// The local part of its user id.
    pub localpart: String,
    /// Its name.
    pub display_name: String,
    /// The name of the rooms.
    pub room_name: String,
}

/// What an operator wants to tell somebody.
#[derive(Clone, Debug)]
pub struct Notice {
    /// Whom.
    pub user: OwnedUserId,
    /// The type of the event.
    pub kind: String,
    /// The state key, if it is a state event.
    pub state_key: Option<String>,
    /// The content of the event.
    pub content: Box<RawValue>,
    /// Who sends it, and the id of their transaction: the same again is the same notice.
    pub transaction: Option<(OwnedUserId, String)>,
}

/// Why a notice was not sent, or could never be.
#[derive(Debug, thiserror::Error)]
pub enum NoticeError {
    /// The name of the server's account is taken.
    #[error("{0} is somebody's account. Choose another server_notices.localpart.")]
    NameTaken(OwnedUserId),
    /// Nobody here is called so.
    #[error("There is no such user on this server.")]
    NoSuchUser,
    /// Something else failed.
    #[error(transparent)]
    Other(#[from] DeliveryError),
}

/// Sends notices to people.
pub struct Notices {
    rooms: Arc<Rooms>,
    accounts: Arc<Accounts>,
    config: NoticesConfig,
    sender: OwnedUserId,
    /// One at a time: each person has one room.
    turn: Mutex<()>,
}

impl Notices {
    /// Makes the server's account unless it is there.
    ///
    /// # Errors
    /// [`NoticeError::NameTaken`] when a person has its name.
    pub async fn open(
        rooms: Arc<Rooms>,
        accounts: Arc<Accounts>,
        config: NoticesConfig,
    ) -> Result<Arc<Self>, NoticeError> {
        let sender = accounts
            .user_id(&config.localpart)
            .map_err(DeliveryError::from)?;
        let found = accounts
            .find_user(&sender)
            .await
            .map_err(DeliveryError::from)?;
        let account = match found {
            Some(account) => {
                let row = accounts
                    .account(account)
                    .await
                    .map_err(DeliveryError::from)?;
                let own = row.is_some_and(|row| row.user_type.as_deref() == Some(USER_TYPE));
                own.then_some(account)
                    .ok_or_else(|| NoticeError::NameTaken(sender.clone()))?
            }
            None => {
                let new = NewAccount {
                    localpart: Some(config.localpart.clone()),
                    user_type: Some(USER_TYPE.to_owned()),
                    ..NewAccount::of_kind(AccountKind::User)
                };
                let registered = accounts.register(new).await;
                registered.map_err(DeliveryError::from)?.account
            }
        };
        let name = Value::from(config.display_name.as_str());
        accounts
            .set_profile_field(account, "displayname", name)
            .await
            .map_err(DeliveryError::from)?;
        Ok(Arc::new(Self {
            rooms,
            accounts,
            config,
            sender,
            turn: Mutex::default(),
        }))
    }

    /// Sends a notice to one of our users, and invites them to their room unless they are in it.
    ///
    /// # Errors
    /// [`NoticeError::NoSuchUser`], or that it could not be written.
    pub async fn send(&self, notice: Notice) -> Result<OwnedEventId, NoticeError> {
        let account = self.recipient(&notice.user).await?;
        let _turn = self.turn.lock().await;
        let room = match self.room(account).await? {
            Some(room) => room,
            None => self.create(account).await?,
        };
        self.invite(&room, &notice.user, account).await?;
        let event = match notice.state_key {
            Some(key) => NewEvent::state(notice.kind, key, notice.content),
            None => NewEvent::message(notice.kind, notice.content),
        };
        let txn = notice.transaction.map(|(by, txn)| TxnKey {
            device: format!("\u{0}{by}"),
            txn,
        });
        let sent = self.rooms.send(&room, &self.sender, event, txn).await;
        Ok(sent.map_err(DeliveryError::from)?)
    }

    async fn recipient(&self, user: &UserId) -> Result<AccountNum, NoticeError> {
        let found = self.accounts.find_user(user).await;
        let account = found
            .map_err(DeliveryError::from)?
            .ok_or(NoticeError::NoSuchUser)?;
        let row = self.accounts.account(account).await;
        let row = row.map_err(DeliveryError::from)?;
        // The server says nothing to itself, nor to who is gone.
        row.filter(|row| row.deactivated.is_none() && user != self.sender)
            .map(|_| account)
            .ok_or(NoticeError::NoSuchUser)
    }

    /// Whether this is the room in which the server speaks to this user.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn is_room_of(&self, user: &UserId, room: &RoomId) -> Result<bool, DeliveryError> {
        let Some(account) = self.accounts.find_user(user).await? else {
            return Ok(false);
        };
        Ok(self.room(account).await?.as_deref() == Some(room))
    }

    /// Whether the user would reject an invite to that room by leaving it, which they may not: only who has joined may
    /// leave.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn must_not_leave(
        &self,
        user: &UserId,
        room: &RoomId,
    ) -> Result<bool, DeliveryError> {
        if !self.is_room_of(user, room).await? {
            return Ok(false);
        }
        let member = match self.rooms.view(room).await? {
            Some(view) => view.member(user).await?,
            None => None,
        };
        Ok(member == Some(Membership::Invite))
    }

    async fn room(&self, account: AccountNum) -> Result<Option<OwnedRoomId>, DeliveryError> {
        let snapshot = self.rooms.store().snapshot();
        let row = snapshot.get(&NOTICE_ROOMS, &account).await?;
        Ok(row.and_then(|room| RoomId::parse(room).ok()))
    }

    /// A room in which only the server speaks, known to no other server.
    async fn create(&self, account: AccountNum) -> Result<OwnedRoomId, DeliveryError> {
        let object = |value: Value| match value {
            Value::Object(object) => object,
            _ => Map::new(),
        };
        let request = CreateRoom {
            preset: Some(Preset::PrivateChat),
            name: Some(self.config.room_name.clone()),
            creation_content: object(json!({ "m.federate": false })),
            power_level_content_override: object(json!({ "users_default": -10 })),
            creator_profile: MemberProfile {
                displayname: Some(self.config.display_name.clone()),
                ..MemberProfile::default()
            },
            ..CreateRoom::default()
        };
        let room = self.rooms.create(&self.sender, request).await?;
        let mut batch = Batch::new();
        batch.put(&NOTICE_ROOMS, &account, &room.to_string());
        self.rooms.store().commit_durable(batch).await?;
        Ok(room)
    }

    /// Invites who is not there, with the tag by which their clients know the room. Who wants no invites gets this one:
    /// it is their own server that writes.
    async fn invite(
        &self,
        room: &RoomId,
        user: &UserId,
        account: AccountNum,
    ) -> Result<(), DeliveryError> {
        let member = match self.rooms.view(room).await? {
            Some(view) => view.member(user).await?,
            None => None,
        };
        if matches!(member, Some(Membership::Join | Membership::Invite)) {
            return Ok(());
        }
        self.accounts
            .set_tag(account, room.as_str(), TAG, Map::new())
            .await?;
        let details = MemberDetails::default();
        Ok(self
            .rooms
            .invite(room, &self.sender, user, &details)
            .await?)
    }
}
