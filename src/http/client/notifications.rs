//! Pushers and the list of notifications (Client-Server API, "Push Notifications").

use std::sync::Arc;

use axum::extract::State;
use resuni_accounts::{Accounts, PusherId};
use resuni_delivery::{Mailer, Push};
use resuni_store::Position;
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::client::push::{PusherKind, get_notifications, get_pushers, set_pusher},
    serde::Raw,
};
use serde_json::value::RawValue;

use crate::{
    error::ApiError,
    extract::{Answer, Reply, Ruma},
    routes::Routes,
};

/// Notifications of a page when the client names no number.
const DEFAULT_LIMIT: usize = 20;

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new().on(pushers).on(set).on(notifications)
}

async fn pushers(
    State(accounts): State<Arc<Accounts>>,
    Ruma { caller, .. }: Ruma<get_pushers::v3::Request>,
) -> Answer<get_pushers::v3::Response> {
    let pushers = accounts.pushers(caller.account).await?;
    let pushers = pushers.into_iter().map(|stored| stored.pusher).collect();
    Ok(Reply(get_pushers::v3::Response::new(pushers)))
}

async fn set(
    State(accounts): State<Arc<Accounts>>,
    State(mail): State<Option<Arc<Mailer>>>,
    Ruma { body, caller, .. }: Ruma<set_pusher::v3::Request>,
) -> Answer<set_pusher::v3::Response> {
    use set_pusher::v3::PusherAction;
    match body.action {
        PusherAction::Post(data) => {
            if mail.is_none() && matches!(data.pusher.kind, PusherKind::Email(_)) {
                return Err(ApiError::invalid_param("This server sends no mail."));
            }
            let device = caller.device_id.as_ref().map(|device| device.as_str());
            accounts
                .set_pusher(caller.account, device, &data.pusher, data.append)
                .await?;
        }
        PusherAction::Delete(ids) => {
            let id = PusherId {
                account: caller.account,
                app_id: ids.app_id,
                pushkey: ids.pushkey,
            };
            accounts.delete_pusher(&id).await?;
        }
        _ => return Err(ApiError::invalid_param("There is no such kind of pusher.")),
    }
    Ok(Reply(set_pusher::v3::Response::new()))
}

async fn notifications(
    State(push): State<Arc<Push>>,
    Ruma { body, caller, .. }: Ruma<get_notifications::v3::Request>,
) -> Answer<get_notifications::v3::Response> {
    let from = body.from.as_deref().map(str::parse).transpose();
    let from = from
        .map_err(|_| ApiError::invalid_param("`from` is not a token of this list."))?
        .map(Position);
    let limit = body.limit.map_or(DEFAULT_LIMIT, |limit| {
        usize::try_from(u64::from(limit)).unwrap_or(usize::MAX)
    });
    let device = caller.device_id.as_ref().map(|device| device.as_str());
    let highlights = body.only.as_deref() == Some("highlight");
    let who = (caller.account, &*caller.user_id);
    let page = push
        .notifications(who, device, from, limit, highlights)
        .await?;
    let mut notifications = Vec::with_capacity(page.notifications.len());
    for notification in page.notifications {
        let event = RawValue::from_string(notification.event).map_err(ApiError::internal)?;
        let ts = UInt::try_from(notification.ts).unwrap_or_default();
        notifications.push(get_notifications::v3::Notification::new(
            notification.actions,
            Raw::from_json(event),
            notification.read,
            notification.room_id,
            MilliSecondsSinceUnixEpoch(ts),
        ));
    }
    let mut response = get_notifications::v3::Response::new(notifications);
    response.next_token = page.next.map(|position| position.0.to_string());
    Ok(Reply(response))
}
