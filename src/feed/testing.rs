//! A home in memory with people, rooms and posts.
#![expect(
    clippy::unwrap_used,
    reason = "for tests: what fails here fails the test"
)]

use std::sync::Arc;

use resuni_accounts::{Accounts, AccountsConfig, AppServices, NewAccount, PasswordCost};
use resuni_dag::SigningKey;
use resuni_rooms::{
    CreateRoom, InitialState, MemberDetails, MemberProfile, NewEvent, Preset, Rooms, RoomsConfig,
};
use resuni_store::{SharedClock, Store, SystemClock};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, UserId};
use serde_json::{Value, json, value::to_raw_value};

use crate::Feed;

/// The home: everything is on one store in memory.
pub struct Home {
    /// The store.
    pub store: Store,
    /// The rooms.
    pub rooms: Arc<Rooms>,
    /// The people.
    pub accounts: Arc<Accounts>,
    /// What they post. It follows when [`Feed::catch_up`] is called.
    pub feed: Arc<Feed>,
}

impl Home {
    /// An empty home with the name `home.test`.
    pub async fn new() -> Self {
        let store = Store::memory().await;
        let clock: SharedClock = Arc::new(SystemClock);
        let name = ruma::owned_server_name!("home.test");
        let settings = AccountsConfig {
            password_cost: PasswordCost::Minimum,
            ..AccountsConfig::new(name.clone())
        };
        let (services, shared) = (AppServices::default(), clock.clone());
        let accounts = Accounts::open(settings, services, store.clone(), shared)
            .await
            .unwrap();
        let settings = RoomsConfig {
            server_name: name,
            key: Arc::new(SigningKey::generate("test", [7; 32]).unwrap()),
            default_version: RoomVersionId::V12,
        };
        let rooms = Rooms::open(settings, store.clone(), clock).await.unwrap();
        let feed = Feed::open(rooms.clone(), accounts.clone()).await.unwrap();
        Self {
            store,
            rooms,
            accounts,
            feed,
        }
    }

    /// A new account.
    pub async fn person(&self, localpart: &str) -> OwnedUserId {
        let account = NewAccount::user(localpart, "a long password".to_owned());
        self.accounts.register(account).await.unwrap();
        UserId::parse_with_server_name(localpart, self.rooms.server_name()).unwrap()
    }

    /// A public room that anybody may read.
    pub async fn room(
        &self,
        creator: &UserId,
        room_type: &str,
        name: &str,
        state: &[(&str, Value)],
    ) -> OwnedRoomId {
        let mut initial = vec![(
            "m.room.history_visibility",
            json!({ "history_visibility": "world_readable" }),
        )];
        initial.extend(state.iter().cloned());
        let object = |value: Value| value.as_object().cloned().unwrap_or_default();
        let request = CreateRoom {
            preset: Some(Preset::PublicChat),
            name: Some(name.to_owned()),
            creation_content: object(json!({ "type": room_type })),
            initial_state: initial
                .into_iter()
                .map(|(kind, content)| InitialState {
                    kind: kind.to_owned(),
                    state_key: String::new(),
                    content: object(content),
                })
                .collect(),
            creator_profile: MemberProfile {
                // A profile is called what its owner is called; a group is not.
                displayname: room_type.ends_with("profile").then(|| name.to_owned()),
                avatar_url: None,
            },
            ..CreateRoom::default()
        };
        self.rooms.create(creator, request).await.unwrap()
    }

    /// A profile, as its owner's client makes it: both fields agree.
    pub async fn profile_room(&self, owner: &UserId, name: &str) -> OwnedRoomId {
        let state = ("m.social.profile_user_id", json!({ "user_id": owner }));
        let room = self.room(owner, "m.social.profile", name, &[state]).await;
        self.point_at(owner, &room).await;
        room
    }

    /// Sets `m.social.profile_room_id` of an account.
    pub async fn point_at(&self, user: &UserId, room: &RoomId) {
        let account = self.accounts.find_user(user).await.unwrap().unwrap();
        let key = "m.social.profile_room_id";
        self.accounts
            .set_profile_field(account, key, json!(room))
            .await
            .unwrap();
    }

    /// Lets somebody follow.
    pub async fn join(&self, room: &RoomId, user: &UserId) {
        let details = MemberDetails::default();
        self.rooms.join(room, user, &details).await.unwrap();
    }

    /// Posts a text.
    pub async fn post(&self, room: &RoomId, author: &UserId, text: &str) -> OwnedEventId {
        let content = json!({ "msgtype": "m.text", "body": text });
        self.send(room, author, "m.social.post", content).await
    }

    /// Sends any event that is not state.
    pub async fn send(
        &self,
        room: &RoomId,
        sender: &UserId,
        kind: &str,
        content: Value,
    ) -> OwnedEventId {
        let mut event = NewEvent::message(kind, to_raw_value(&content).unwrap());
        event.redacts = content["redacts"].as_str().map(|id| id.try_into().unwrap());
        self.rooms.send(room, sender, event, None).await.unwrap()
    }

    /// Sends a state event with an empty state key.
    pub async fn state(&self, room: &RoomId, sender: &UserId, kind: &str, content: Value) {
        let event = NewEvent::state(kind, "", to_raw_value(&content).unwrap());
        self.rooms.send(room, sender, event, None).await.unwrap();
    }

    /// Sets who may read what is sent from now on.
    pub async fn visibility(&self, room: &RoomId, sender: &UserId, who: &str) {
        let content = json!({ "history_visibility": who });
        self.state(room, sender, "m.room.history_visibility", content)
            .await;
    }

    /// Takes an event back.
    pub async fn redact(&self, room: &RoomId, sender: &UserId, event: &OwnedEventId) {
        let content = json!({ "redacts": event });
        self.send(room, sender, "m.room.redaction", content).await;
    }
}
