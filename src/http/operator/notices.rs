//! What operators tell people, at the endpoint that Synapse has for it.

use std::sync::Arc;

use axum::extract::State;
use resuni_accounts::Session;
use resuni_delivery::{Notice, NoticeError, Notices};
use ruma::{OwnedUserId, serde::Raw};
use serde_json::{Value, json};

use crate::{
    error::ApiError,
    extract::{Policy, RawJson, Ruma},
    routes::Routes,
};

/// The table of these endpoints.
pub fn routes() -> Routes {
    let policy = Policy {
        admin: true,
        ..Policy::CLIENT
    };
    Routes::new().with(policy, send).with(policy, send_once)
}

async fn send(
    State(notices): State<Option<Arc<Notices>>>,
    Ruma { body, caller, .. }: Ruma<wire::send::Request>,
) -> Result<RawJson, ApiError> {
    let said = Said {
        user: body.user_id,
        kind: body.kind,
        state_key: body.state_key,
        content: body.content,
    };
    said.send(notices.as_deref(), &caller, None).await
}

async fn send_once(
    State(notices): State<Option<Arc<Notices>>>,
    Ruma { body, caller, .. }: Ruma<wire::send_once::Request>,
) -> Result<RawJson, ApiError> {
    let said = Said {
        user: body.user_id,
        kind: body.kind,
        state_key: body.state_key,
        content: body.content,
    };
    said.send(notices.as_deref(), &caller, Some(body.txn_id))
        .await
}

struct Said {
    user: OwnedUserId,
    kind: String,
    state_key: Option<String>,
    content: Raw<Value>,
}

impl Said {
    async fn send(
        self,
        notices: Option<&Notices>,
        caller: &Session,
        txn: Option<String>,
    ) -> Result<RawJson, ApiError> {
        let notices = notices.ok_or_else(ApiError::unrecognized)?;
        let content = self.content.into_json();
        if !content.get().starts_with('{') {
            return Err(ApiError::bad_json("The content of an event is an object."));
        }
        let notice = Notice {
            user: self.user,
            kind: self.kind,
            state_key: self.state_key,
            content,
            transaction: txn.map(|txn| (caller.user_id.clone(), txn)),
        };
        let event = notices.send(notice).await?;
        Ok(RawJson::of(&json!({ "event_id": event })))
    }
}

impl From<NoticeError> for ApiError {
    fn from(error: NoticeError) -> ApiError {
        match error {
            NoticeError::NoSuchUser => ApiError::not_found(error.to_string()),
            NoticeError::NameTaken(_) => ApiError::internal(error),
            NoticeError::Other(error) => error.into(),
        }
    }
}

mod wire {
    fn message() -> String {
        "m.room.message".to_owned()
    }

    pub mod send {
        use ruma::{
            OwnedUserId,
            api::{auth_scheme::AccessToken, metadata, request, response},
            serde::Raw,
        };

        metadata! {
            method: POST,
            rate_limited: false,
            authentication: AccessToken,
            path: "/_synapse/admin/v1/send_server_notice",
        }

        /// Tells somebody something.
        #[request]
        pub struct Request {
            /// Whom.
            pub user_id: OwnedUserId,
            /// The content of the event.
            pub content: Raw<serde_json::Value>,
            /// Its type.
            #[serde(rename = "type", default = "super::message")]
            pub kind: String,
            /// The state key, if it is a state event.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub state_key: Option<String>,
        }

        /// It was sent.
        #[response]
        pub struct Response {}
    }

    pub mod send_once {
        use ruma::{
            OwnedUserId,
            api::{auth_scheme::AccessToken, metadata, request, response},
            serde::Raw,
        };

        metadata! {
            method: PUT,
            rate_limited: false,
            authentication: AccessToken,
            path: "/_synapse/admin/v1/send_server_notice/{txn_id}",
        }

        /// Tells somebody something, once.
        #[request]
        pub struct Request {
            /// The same again is the same notice.
            #[ruma_api(path)]
            pub txn_id: String,
            /// Whom.
            pub user_id: OwnedUserId,
            /// The content of the event.
            pub content: Raw<serde_json::Value>,
            /// Its type.
            #[serde(rename = "type", default = "super::message")]
            pub kind: String,
            /// The state key, if it is a state event.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub state_key: Option<String>,
        }

        /// It was sent.
        #[response]
        pub struct Response {}
    }
}
