//! Policy servers (server-server API, "Policy Servers"; MSC4284): a room may name a server that is asked about every event
//! before it is sent, and signs those that it recommends.
//!
//! The rooms decide whether a room has such a server and whether its signature is right. Who asks it is handed in
//! ([`Rooms::ask_policy_servers_by`]), and is never called under a room's lane.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::future::BoxFuture;
use resuni_dag::{Pdu, RoomRules, VerifyKey, VerifyKeys, verify_by};
use resuni_store::StoreError;
use ruma::{OwnedServerName, RoomId};
use serde::Deserialize;

use crate::{
    error::RoomError,
    events::NewEvent,
    line::Line,
    reader::Reader,
    rooms::Rooms,
    tables::SERVER_ROOMS,
    types::{RoomNum, SERVER_NUMBERS, ServerNum, SnapNum},
    view::RoomView,
};

/// The state event that names the policy server, and its name before version 1.18 of the specification.
const NAMES: [&str; 2] = ["m.room.policy", "org.matrix.msc4284.policy"];
/// "The Key ID for the `ed25519` key in `m.room.policy` is always `ed25519:policy_server`".
pub const KEY_ID: &str = "ed25519:policy_server";
/// Why an event without the signature is not shown: also the mark by which it stays so when it is judged again.
pub(crate) const NOT_RECOMMENDED: &str = "the room's policy server does not recommend it";

/// The policy server of a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The server.
    pub server: OwnedServerName,
    /// Whether the room names it as servers did before version 1.18.
    pub is_unstable: bool,
    key: VerifyKey,
}

/// Asks policy servers for their signatures.
pub trait PolicyAsker: Send + Sync {
    /// The event with the signature of the room's policy server added to it, unchecked.
    ///
    /// # Errors
    /// What the policy server said, or that it can't be reached.
    fn ask<'a>(
        &'a self,
        policy: &'a Policy,
        event: Pdu,
        rules: &'static RoomRules,
    ) -> BoxFuture<'a, Result<Pdu, RoomError>>;
}

impl Policy {
    /// What such a state event says, if it is valid.
    fn of(event: &Pdu, is_unstable: bool) -> Option<Self> {
        #[derive(Deserialize)]
        struct Content {
            via: OwnedServerName,
            public_keys: Option<Keys>,
            /// Of the unstable event only, in place of the other.
            public_key: Option<String>,
        }
        #[derive(Deserialize)]
        struct Keys {
            ed25519: String,
        }
        let content: Content = event.content_as().ok()?;
        let old = content.public_key.filter(|_| is_unstable);
        let key = content.public_keys.map(|keys| keys.ed25519).or(old)?;
        Some(Self {
            server: content.via,
            is_unstable,
            key: VerifyKey::from_base64(&key, u64::MAX)?,
        })
    }

    /// The policy server of a room with this current state: a valid state event names it, and a user of it is joined.
    async fn in_state(
        reader: &Reader,
        room: RoomNum,
        snap: SnapNum,
    ) -> Result<Option<Self>, StoreError> {
        for (kind, is_unstable) in NAMES.into_iter().zip([false, true]) {
            let event = reader.state_pdu(snap, kind, "").await?;
            let Some(policy) = event.and_then(|event| Self::of(&event, is_unstable)) else {
                continue;
            };
            let server = policy.server.as_bytes();
            if let Some(num) = reader.store.numbers().find(&SERVER_NUMBERS, server).await?
                && let key = (ServerNum(num), room)
                && reader.snapshot.get(&SERVER_ROOMS, &key).await?.is_some()
            {
                return Ok(Some(policy));
            }
        }
        Ok(None)
    }

    /// Whether the policy server has signed the event.
    #[must_use]
    pub fn recommends(&self, event: &Pdu, rules: &RoomRules) -> bool {
        let keys = BTreeMap::from([(KEY_ID.to_owned(), self.key.clone())]);
        let keys = VerifyKeys::from([(self.server.clone(), keys)]);
        verify_by(event, rules, &self.server, &keys).is_ok()
    }
}

/// Whether the policy server has a say about such an event: about all but that which names it, so that it can be
/// dismissed while it is out of reach.
fn is_asked(kind: &str, state_key: Option<&str>) -> bool {
    state_key != Some("") || !NAMES.contains(&kind)
}

impl RoomView {
    /// The policy server that the room has now.
    pub async fn policy(&self) -> Result<Option<Policy>, RoomError> {
        Ok(Policy::in_state(&self.reader, self.num(), self.snap()).await?)
    }
}

impl Rooms {
    /// From here on policy servers are asked by this. Without it rooms are as if they had none.
    pub fn ask_policy_servers_by(&self, asker: Arc<dyn PolicyAsker>) {
        // There is one for a whole run; a second would change nothing.
        let _ = self.policies.set(asker);
    }

    /// The policy server that has to be asked before such an event is sent into a room.
    pub(crate) async fn policy_for(
        &self,
        line: &Line<'_>,
        event: &NewEvent,
    ) -> Result<Option<Policy>, RoomError> {
        let asked = is_asked(&event.kind, event.state_key.as_deref());
        let head = line.live.head.as_ref().filter(|_| asked);
        let (Some(head), Some(_)) = (head, self.policies.get()) else {
            return Ok(None);
        };
        Ok(Policy::in_state(&line.work.reader, line.live.num, head.snap).await?)
    }

    /// An event of ours with the signature of the room's policy server, if the room has one.
    ///
    /// # Errors
    /// [`RoomError::Policy`] when it refuses to sign or can't be reached.
    pub async fn signed_by_policy(&self, view: &RoomView, event: Pdu) -> Result<Pdu, RoomError> {
        let asked = is_asked(event.kind(), event.state_key());
        let Some(asker) = self.policies.get().filter(|_| asked) else {
            return Ok(event);
        };
        match view.policy().await? {
            Some(policy) => sign_by(&**asker, &policy, event, view.rules()).await,
            None => Ok(event),
        }
    }

    /// An event of ours with the signature of this policy server.
    pub(crate) async fn asked(&self, policy: &Policy, event: Pdu) -> Result<Pdu, RoomError> {
        let view = self.view_known(event.room_id()).await?;
        match self.policies.get() {
            Some(asker) => sign_by(&**asker, policy, event, view.rules()).await,
            None => Ok(event),
        }
    }

    /// An event of another server: with the signature of the policy server where it can be had, and whether the event
    /// lacks one that it should have.
    pub(crate) async fn heed_policy(
        &self,
        room: &RoomId,
        event: Pdu,
    ) -> Result<(Pdu, bool), RoomError> {
        let asked = is_asked(event.kind(), event.state_key());
        let Some(asker) = self.policies.get().filter(|_| asked) else {
            return Ok((event, false));
        };
        let Some(view) = self.view(room).await? else {
            return Ok((event, false));
        };
        let Some(policy) = view.policy().await? else {
            return Ok((event, false));
        };
        let known = view.event_row(event.event_id()).await?;
        if known.is_some_and(|(_, row)| row.place.has_state())
            || policy.recommends(&event, view.rules())
        {
            return Ok((event, false));
        }
        match sign_by(&**asker, &policy, event.clone(), view.rules()).await {
            Ok(signed) => Ok((signed, false)),
            Err(error) => {
                tracing::info!(%room, event = %event.event_id(), %error, "not recommended by the policy server");
                Ok((event, true))
            }
        }
    }
}

async fn sign_by(
    asker: &dyn PolicyAsker,
    policy: &Policy,
    event: Pdu,
    rules: &'static RoomRules,
) -> Result<Pdu, RoomError> {
    let signed = asker.ask(policy, event, rules).await?;
    if policy.recommends(&signed, rules) {
        return Ok(signed);
    }
    Err(RoomError::Policy {
        status: 400,
        errcode: "M_FORBIDDEN".to_owned(),
        message: format!(
            "the policy server {} did not sign the event with the key that the room has of it",
            policy.server
        ),
    })
}
