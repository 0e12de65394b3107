//! Following threads (MSC4306, MSC4308; in their unstable form).

use std::{collections::BTreeMap, sync::Arc};

use axum::extract::State;
use http::StatusCode;
use resuni_delivery::{Push, ThreadError};
use resuni_store::Position;
use resuni_sync::Sync;
use ruma::api::{
    client::threads::{
        get_thread_subscription, get_thread_subscriptions_changes, subscribe_thread,
        unsubscribe_thread,
    },
    error::ErrorCode,
};

use crate::{
    error::ApiError,
    extract::{Answer, RawJson, Reply, Ruma},
    routes::Routes,
};

/// Changes of a page, if the client wants no fewer.
const PAGE: u64 = 100;

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new()
        .on(follow)
        .on(unfollow)
        .on(follows)
        .on(changes)
}

impl From<ThreadError> for ApiError {
    fn from(error: ThreadError) -> ApiError {
        let message = error.to_string();
        let unstable = |status, name: &str| {
            let code = ErrorCode::from(format!("IO.ELEMENT.MSC4306.{name}"));
            ApiError::new(status, code, message.clone())
        };
        match error {
            ThreadError::NoThread => ApiError::not_found(message),
            ThreadError::NotInThread => unstable(StatusCode::BAD_REQUEST, "M_NOT_IN_THREAD"),
            ThreadError::Stopped => unstable(StatusCode::CONFLICT, "M_CONFLICTING_UNSUBSCRIPTION"),
            ThreadError::Failed(error) => error.into(),
        }
    }
}

async fn follow(
    State(push): State<Arc<Push>>,
    Ruma { body, caller, .. }: Ruma<subscribe_thread::unstable::Request>,
) -> Answer<subscribe_thread::unstable::Response> {
    let who = (caller.account, &*caller.user_id);
    let thread = (&*body.room_id, &*body.thread_root);
    push.follow_thread(who, thread, body.automatic.as_deref())
        .await?;
    Ok(Reply(subscribe_thread::unstable::Response::new()))
}

async fn unfollow(
    State(push): State<Arc<Push>>,
    Ruma { body, caller, .. }: Ruma<unsubscribe_thread::unstable::Request>,
) -> Answer<unsubscribe_thread::unstable::Response> {
    let who = (caller.account, &*caller.user_id);
    push.unfollow_thread(who, (&body.room_id, &body.thread_root))
        .await?;
    Ok(Reply(unsubscribe_thread::unstable::Response::new()))
}

async fn follows(
    State(push): State<Arc<Push>>,
    Ruma { body, caller, .. }: Ruma<get_thread_subscription::unstable::Request>,
) -> Answer<get_thread_subscription::unstable::Response> {
    let who = (caller.account, &*caller.user_id);
    let automatic = push
        .is_followed_by_client(who, (&body.room_id, &body.thread_root))
        .await?;
    Ok(Reply(get_thread_subscription::unstable::Response::new(
        automatic,
    )))
}

async fn changes(
    State(sync): State<Arc<Sync>>,
    Ruma { body, caller, .. }: Ruma<get_thread_subscriptions_changes::unstable::Request>,
) -> Result<RawJson, ApiError> {
    let limit = body.limit.map_or(PAGE, u64::from).min(PAGE);
    if limit == 0 {
        return Err(ApiError::invalid_param(
            "`limit` is to be greater than zero.",
        ));
    }
    let from = body.from.as_deref().map(parse::<false>).transpose()?;
    let to = body.to.as_deref().map(parse::<true>).transpose()?;
    let span = (to.unwrap_or_default(), from.unwrap_or(Position(u64::MAX)));
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let changes = sync.thread_changes(caller.account, span, limit).await?;
    let mut page: BTreeMap<&str, serde_json::Value> = BTreeMap::new();
    changes.write(&mut page, "end", true);
    Ok(RawJson::of(&serde_json::json!(page)))
}

/// A place in the changes, or, for `to`, a position of a sliding sync.
fn parse<const POS: bool>(token: &str) -> Result<Position, ApiError> {
    let number = match token.strip_prefix('s') {
        Some(pos) if POS => pos.split('_').next().unwrap_or_default(),
        _ => token,
    };
    let number = number.parse().map(Position);
    number.map_err(|_| ApiError::invalid_param("This is not a token of this endpoint."))
}
