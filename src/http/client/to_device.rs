//! Messages from device to device (Client-Server API, "Send-to-Device messaging").

use std::{collections::BTreeMap, sync::Arc};

use axum::extract::State;
use resuni_accounts::{Accounts, e2e::MessageId};
use resuni_federation::Federation;
use ruma::{OwnedUserId, api::client::to_device::send_event_to_device};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    error::ApiError,
    extract::{Answer, Policy, Reply, Ruma},
    limits::Class,
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new().with(Policy::GUEST.class(Class::Keys), send)
}

/// The body as it came: contents, which are objects, by user and device.
#[derive(Deserialize)]
struct Body {
    messages: BTreeMap<OwnedUserId, BTreeMap<String, Map<String, Value>>>,
}

async fn send(
    State(accounts): State<Arc<Accounts>>,
    State(federation): State<Option<Arc<Federation>>>,
    Ruma {
        body, caller, raw, ..
    }: Ruma<send_event_to_device::v3::Request>,
) -> Answer<send_event_to_device::v3::Response> {
    let messages: Body =
        serde_json::from_slice(&raw).map_err(|error| ApiError::bad_json(error.to_string()))?;
    let (mut local, mut remote) = (BTreeMap::new(), BTreeMap::new());
    for (user, by_device) in messages.messages {
        let by_device = by_device
            .into_iter()
            .map(|(device, content)| (device, Value::Object(content)))
            .collect();
        if user.server_name() != accounts.server_name() {
            remote.insert(user, by_device);
        } else if let Some(account) = accounts.find_user(&user).await? {
            local.insert(account, by_device);
        }
    }
    // Transaction ids are scoped to the device and the path (v1.7, "Transaction identifiers"), in which the type of
    // the event is; a service without a device has its own scope.
    let kind = body.event_type.to_string();
    let id = MessageId::Transaction {
        device: caller.device_id.as_ref().map_or("", |id| id.as_str()),
        kind: &kind,
        txn: body.txn_id.as_str(),
    };
    accounts
        .send_to_device(&caller.user_id, id, &kind, &local)
        .await?;
    // A repeated request has the same id there too, so nothing arrives twice.
    if let (false, Some(federation)) = (remote.is_empty(), federation) {
        let id = id.for_other_servers(&caller.user_id);
        federation
            .sender
            .send_to_device(&caller.user_id, &kind, &id, remote)
            .await?;
    }
    Ok(Reply(send_event_to_device::v3::Response::new()))
}
