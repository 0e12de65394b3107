//! Pushers: notifications on their way to push gateways (Push Gateway API).
//!
//! What is to be sent is a row until the gateway has taken it, so nothing is lost with the process.
//! Each pusher is served in order and by itself: a gateway that does not answer delays its own.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use resuni_accounts::{AccountNum, PusherId, StoredPusher};
use resuni_dag::Pdu;
use resuni_federation::net::WebClient;
use resuni_rooms::{Membership, RoomNum, RoomView, UserNum};
use resuni_store::{Batch, Direction, Position, ScanRange};
use ruma::{
    OwnedRoomId, OwnedUserId, UserId,
    api::client::push::PusherKind,
    push::{Action, HighlightTweakValue, PushFormat, Tweak},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    Push, Ways,
    counts::{ReadUpTo, root_of},
    error::DeliveryError,
    follow::{display_name, ended},
    tables::{NOTES, PUSHES, PushRow},
};

/// Requests to gateways under way at a time.
const AT_ONCE: usize = 64;
/// How long a gateway may take to answer, and how much of the answer is read.
const TIMEOUT: Duration = Duration::from_secs(30);
const ANSWER_BYTES: usize = 64 * 1024;
/// The pauses after failures: doubled from the first to the longest.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_secs(1);
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(3_600);
/// What is older than this is not sent any more: it is no news.
const TOO_OLD_MS: u64 = 24 * 3_600_000;
/// Rows removed in one batch.
const PAGE: usize = 500;

/// What somebody has not read, by room: what badges show.
#[derive(Default)]
pub(crate) struct Badges {
    rooms: HashMap<RoomNum, u64>,
    /// What the gateways were told last.
    told: Option<u64>,
}

impl Badges {
    fn total(&self) -> u64 {
        self.rooms.values().sum()
    }
}

impl Push {
    /// Sends what there is to send until the store is closed.
    pub(crate) async fn send(self: &Arc<Self>) -> Result<(), DeliveryError> {
        if self.ways.gateways.is_none() && self.ways.mail.is_none() {
            return ended(self.store.ended().await);
        }
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        let mut active: HashSet<PusherId> = HashSet::new();
        let mut tasks = JoinSet::new();
        let mut wanted: HashSet<PusherId> = self.waiting_pushers().await?.into_iter().collect();
        loop {
            for id in wanted.drain() {
                if active.insert(id.clone()) {
                    let (push, slots) = (Arc::clone(self), slots.clone());
                    tasks.spawn(async move {
                        let outcome = push.serve(&slots, &id).await;
                        (id, outcome)
                    });
                }
            }
            tokio::select! {
                () = self.to_send.notified() => {}
                Some(ended) = tasks.join_next() => {
                    let Ok((id, outcome)) = ended else { continue };
                    active.remove(&id);
                    if let Err(error) = outcome {
                        tracing::warn!(%error, app = id.app_id, "a pusher stands still");
                    } else if self.first_push(&id).await?.is_some() {
                        wanted.insert(id);
                    }
                }
                reason = self.store.ended() => return ended(reason),
            }
            wanted.extend(std::mem::take(&mut *self.pending.lock()));
        }
    }

    /// The pushers with something before them.
    async fn waiting_pushers(&self) -> Result<Vec<PusherId>, DeliveryError> {
        let mut found = Vec::new();
        let mut range = ScanRange::all();
        loop {
            let snapshot = self.store.snapshot();
            let rows = snapshot.scan(&PUSHES, range, Direction::Forward, 1).await?;
            let Some(((account, app_id, pushkey, _), _)) = rows.into_iter().next() else {
                return Ok(found);
            };
            let last = Position(u64::MAX);
            range = ScanRange::after(&(account, app_id.clone(), pushkey.clone(), last));
            found.push(PusherId {
                account,
                app_id,
                pushkey,
            });
        }
    }

    pub(crate) async fn first_push(
        &self,
        id: &PusherId,
    ) -> Result<Option<(Position, PushRow)>, DeliveryError> {
        let prefix = (id.account, id.app_id.clone(), id.pushkey.clone());
        let range = ScanRange::prefix(&prefix);
        let rows = self
            .store
            .snapshot()
            .scan(&PUSHES, range, Direction::Forward, 1)
            .await?;
        Ok(rows.into_iter().next().map(|(key, row)| (key.3, row)))
    }

    async fn taken(&self, id: &PusherId, position: Position) -> Result<(), DeliveryError> {
        let mut batch = Batch::new();
        let key = (id.account, id.app_id.clone(), id.pushkey.clone(), position);
        batch.delete(&PUSHES, &key);
        // If a crash takes this, the gateway gets the event again and knows its id.
        drop(self.store.commit(batch).await?);
        Ok(())
    }

    /// Sends all that waits for one pusher.
    async fn serve(&self, slots: &Semaphore, id: &PusherId) -> Result<(), DeliveryError> {
        let Some(pusher) = self.accounts.pusher(id).await? else {
            return self.forget(id).await;
        };
        match (&pusher.pusher.kind, &self.ways) {
            (
                PusherKind::Email(_),
                Ways {
                    mail: Some(mail), ..
                },
            ) => self.serve_mail(mail, id).await,
            (
                PusherKind::Http(_),
                Ways {
                    gateways: Some(gateways),
                    ..
                },
            ) => self.serve_gateway(gateways, slots, id).await,
            // There is no such way any more.
            _ => self.forget(id).await,
        }
    }

    async fn serve_gateway(
        &self,
        gateways: &WebClient,
        slots: &Semaphore,
        id: &PusherId,
    ) -> Result<(), DeliveryError> {
        let mut pause = FIRST_PAUSE;
        while let Some((position, row)) = self.first_push(id).await? {
            let Some(pusher) = self.accounts.pusher(id).await? else {
                return self.forget(id).await;
            };
            let Some(notification) = self.notification(id, &pusher, position, &row).await? else {
                self.taken(id, position).await?;
                continue;
            };
            let slot = slots.acquire().await;
            let answer = post(gateways, &pusher, &notification).await;
            drop(slot);
            match answer {
                Ok(rejected) => {
                    self.taken(id, position).await?;
                    pause = FIRST_PAUSE;
                    if rejected.contains(&id.pushkey) {
                        tracing::info!(app = id.app_id, "the gateway rejected a push key");
                        self.accounts.delete_pusher(id).await?;
                        return self.forget(id).await;
                    }
                }
                Err(error) => {
                    tracing::debug!(app = id.app_id, %error, "the push gateway took nothing");
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        reason = self.store.ended() => return ended(reason),
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        Ok(())
    }

    /// Removes what waits for a pusher that is gone.
    pub(crate) async fn forget(&self, id: &PusherId) -> Result<(), DeliveryError> {
        loop {
            let prefix = (id.account, id.app_id.clone(), id.pushkey.clone());
            let snapshot = self.store.snapshot();
            let range = ScanRange::prefix(&prefix);
            let rows = snapshot
                .scan(&PUSHES, range, Direction::Forward, PAGE)
                .await?;
            let mut batch = Batch::new();
            if rows.is_empty() {
                self.forget_digests(&mut batch, id).await?;
            }
            if batch.is_empty() && rows.is_empty() {
                return Ok(());
            }
            for (key, _) in &rows {
                batch.delete(&PUSHES, key);
            }
            drop(self.store.commit(batch).await?);
        }
    }

    /// What the gateway is told; none if it need not know any more.
    async fn notification(
        &self,
        id: &PusherId,
        pusher: &StoredPusher,
        position: Position,
        row: &PushRow,
    ) -> Result<Option<Value>, DeliveryError> {
        let Some(user) = self.accounts.user_of(id.account).await? else {
            return Ok(None);
        };
        let Some(News { pdu, room, view }) = self.news(&user, position, row, TOO_OLD_MS).await?
        else {
            return Ok(None);
        };
        let unread = self.badge(id.account, &user, Some(row.room)).await?;
        if let Some(badges) = self.badges.lock().get_mut(&id.account) {
            badges.told = Some(unread);
        }
        let details = Details {
            user: &user,
            pdu: &pdu,
            room,
            view: view.as_ref(),
        };
        Ok(Some(details.write(pusher, row, unread).await?))
    }

    /// What somebody is to be told of; none if it is older than `too_old_ms`, has been read, or is no more.
    pub(crate) async fn news(
        &self,
        user: &UserId,
        position: Position,
        row: &PushRow,
        too_old_ms: u64,
    ) -> Result<Option<News>, DeliveryError> {
        if self.rooms.now_ms().saturating_sub(row.at_ms) > too_old_ms {
            return Ok(None);
        }
        if row.invite {
            let invite = self.rooms.invite_event(user, row.room).await?;
            return Ok(invite.map(|pdu| News {
                room: pdu.room_id().to_owned(),
                pdu,
                view: None,
            }));
        }
        let Some(view) = self.rooms.view_num(row.room).await? else {
            return Ok(None);
        };
        if self.has_read(&view, user, position).await? {
            return Ok(None);
        }
        let shown = view.shown(&[row.event]).await?.into_iter().next();
        let shown = shown.filter(|shown| shown.redacted_because.is_none());
        Ok(shown.map(|shown| News {
            pdu: shown.pdu,
            room: view.room_id().to_owned(),
            view: Some(view),
        }))
    }

    async fn has_read(
        &self,
        view: &RoomView,
        user: &UserId,
        position: Position,
    ) -> Result<bool, DeliveryError> {
        let Some(read) = ReadUpTo::of(view, user).await? else {
            return Ok(true); // They are no longer in the room.
        };
        let note = view.snapshot().get(&NOTES, &(view.num(), position)).await?;
        let thread = note.unwrap_or_default().thread;
        let root = root_of(&self.store, thread).await?.unwrap_or_default();
        Ok(read.in_thread(view.snapshot(), thread, &root).await? >= position)
    }

    /// How much somebody has not read in all rooms, of which `room` has to be counted again.
    async fn badge(
        &self,
        account: AccountNum,
        user: &UserId,
        room: Option<RoomNum>,
    ) -> Result<u64, DeliveryError> {
        let known = self.badges.lock().contains_key(&account);
        let rooms: Vec<RoomNum> = if known {
            room.into_iter().collect()
        } else {
            let joined = self.rooms.rooms_of(user, &[Membership::Join]).await?;
            joined.into_iter().map(|room| room.num).collect()
        };
        let now = self.store.log().watermark();
        let mut counts = HashMap::new();
        for room in rooms {
            let Some(view) = self.rooms.view_num(room).await? else {
                continue;
            };
            let unread = self.unread(&view, account, user, now).await?;
            counts.insert(room, unread.total().notifications);
        }
        let mut badges = self.badges.lock();
        let badges = badges.entry(account).or_default();
        badges.rooms.extend(counts);
        badges.rooms.retain(|_, count| *count > 0);
        Ok(badges.total())
    }

    /// Somebody read something: their badges may be smaller.
    pub(crate) async fn read(&self, room: RoomNum, user: UserNum) -> Result<(), DeliveryError> {
        let Some(gateways) = self.ways.gateways.clone() else {
            return Ok(());
        };
        let user = self.rooms.user_id(user).await?;
        let Some(account) = self.accounts.find_user(&user).await? else {
            return Ok(());
        };
        // Whose badge was never told is told with their next notification.
        let told = self
            .badges
            .lock()
            .get(&account)
            .and_then(|badges| badges.told);
        let Some(told) = told else { return Ok(()) };
        let unread = self.badge(account, &user, Some(room)).await?;
        if unread == told {
            return Ok(());
        }
        if let Some(badges) = self.badges.lock().get_mut(&account) {
            badges.told = Some(unread);
        }
        for pusher in self.accounts.pushers(account).await? {
            if !matches!(pusher.pusher.kind, PusherKind::Http(_)) {
                continue;
            }
            let gateways = gateways.clone();
            let notification = json!({ "notification": {
                "counts": counts(unread),
                "devices": [device(&pusher, &[])],
            } });
            // The next count makes up for one that is lost.
            tokio::spawn(async move { post(&gateways, &pusher, &notification).await });
        }
        Ok(())
    }
}

/// An event that somebody is to be told of.
pub(crate) struct News {
    pub pdu: Pdu,
    pub room: OwnedRoomId,
    /// None for an invite.
    pub view: Option<RoomView>,
}

/// What a notification says.
struct Details<'a> {
    user: &'a OwnedUserId,
    pdu: &'a Pdu,
    room: OwnedRoomId,
    /// None for an invite.
    view: Option<&'a RoomView>,
}

impl Details<'_> {
    async fn write(
        &self,
        pusher: &StoredPusher,
        row: &PushRow,
        unread: u64,
    ) -> Result<Value, DeliveryError> {
        let actions: Vec<Action> = serde_json::from_str(&row.actions).unwrap_or_default();
        let tweaks: Vec<Tweak> = actions
            .into_iter()
            .filter_map(|action| match action {
                Action::SetTweak(tweak) => Some(tweak),
                _ => None,
            })
            .collect();
        let mut notification = Map::new();
        let mut set = |key: &str, value: Value| notification.insert(key.to_owned(), value);
        set("event_id", json!(self.pdu.event_id()));
        set("room_id", json!(self.room));
        set("counts", counts(unread));
        set("devices", json!([device(pusher, &tweaks)]));
        // Encrypted events have to be looked at by the device to know what they are.
        let high = !tweaks.is_empty() || self.pdu.kind() == "m.room.encrypted";
        set("prio", json!(if high { "high" } else { "low" }));
        if !is_event_id_only(pusher) {
            set("type", json!(self.pdu.kind()));
            set("sender", json!(self.pdu.sender()));
            set("content", json!(self.pdu.content()));
            if self.pdu.kind() == "m.room.member" {
                let target = self.pdu.state_key() == Some(self.user.as_str());
                set("user_is_target", json!(target));
            }
            if let Some(view) = self.view {
                let names = [
                    (
                        "sender_display_name",
                        display_name(view, self.pdu.sender()).await?,
                    ),
                    ("room_name", stated(view, "m.room.name", "name").await?),
                    (
                        "room_alias",
                        stated(view, "m.room.canonical_alias", "alias").await?,
                    ),
                ];
                for (key, value) in names {
                    if let Some(value) = value {
                        set(key, json!(value));
                    }
                }
            }
        }
        Ok(json!({ "notification": notification }))
    }
}

/// A string that the state of a room says.
pub(crate) async fn stated(
    view: &RoomView,
    kind: &str,
    key: &str,
) -> Result<Option<String>, DeliveryError> {
    let event = view.state(kind, "").await?;
    Ok(event.and_then(|event| resuni_rooms::fields::string_member(event.content().get(), key)))
}

/// Counts that are zero are left out (Push Gateway API, `counts`).
fn counts(unread: u64) -> Value {
    if unread == 0 {
        json!({})
    } else {
        json!({ "unread": unread })
    }
}

fn is_event_id_only(pusher: &StoredPusher) -> bool {
    let PusherKind::Http(data) = &pusher.pusher.kind else {
        return false;
    };
    data.format == Some(PushFormat::EventIdOnly)
}

/// The device as the gateway is told of it: everything its client set but the address.
fn device(pusher: &StoredPusher, tweaks: &[Tweak]) -> Value {
    let mut data = match &pusher.pusher.kind {
        PusherKind::Http(data) => serde_json::to_value(data).unwrap_or_default(),
        _ => json!({}),
    };
    if let Some(data) = data.as_object_mut() {
        data.remove("url");
    }
    let tweaks: Map<String, Value> = tweaks
        .iter()
        .map(|tweak| {
            let value = match tweak {
                Tweak::Highlight(value) => json!(*value == HighlightTweakValue::Yes),
                other => other.value().map_or(Value::Null, |value| json!(value)),
            };
            (tweak.set_tweak().to_owned(), value)
        })
        .collect();
    json!({
        "app_id": pusher.pusher.ids.app_id,
        "pushkey": pusher.pusher.ids.pushkey,
        "pushkey_ts": pusher.set_ms / 1_000,
        "data": data,
        "tweaks": tweaks,
    })
}

/// Why a gateway took nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GatewayError {
    #[error(transparent)]
    Http(#[from] resuni_federation::net::HttpError),
    #[error("the gateway answered {0}")]
    Status(http::StatusCode),
    #[error("a pusher of an unknown kind")]
    Kind,
}

/// Posts a notification; the answer is the push keys that the gateway rejects.
pub(crate) async fn post(
    gateways: &WebClient,
    pusher: &StoredPusher,
    notification: &Value,
) -> Result<Vec<String>, GatewayError> {
    #[derive(Default, Deserialize)]
    struct Taken {
        #[serde(default)]
        rejected: Vec<String>,
    }
    let PusherKind::Http(data) = &pusher.pusher.kind else {
        return Err(GatewayError::Kind);
    };
    let body = notification.to_string();
    let answer = gateways
        .post_json(&data.url, body.into(), TIMEOUT, ANSWER_BYTES)
        .await?;
    if !answer.status.is_success() {
        return Err(GatewayError::Status(answer.status));
    }
    // Gateways that answer without a list have taken it too.
    let taken: Taken = serde_json::from_slice(&answer.body).unwrap_or_default();
    Ok(taken.rejected)
}
