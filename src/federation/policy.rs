//! Asking policy servers for their signatures (server-server API, "Asking for a Policy Server signature on an event").

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{FutureExt as _, future::BoxFuture};
use resuni_dag::{Pdu, RoomRules, add_signature};
use resuni_rooms::{Policy, PolicyAsker, RoomError, policy::KEY_ID};
use ruma::{OwnedServerName, ServerName};
use serde_json::value::RawValue;

use crate::{
    client::{Client, Terms},
    error::FederationError,
    handshake::raw,
};

/// How long a policy server may take: whoever sends an event waits for it.
const TERMS: Terms = Terms::ASKED.within(Duration::from_secs(10)).up_to(64 << 10);

/// Server → key id → signature.
type Signatures = BTreeMap<String, BTreeMap<String, String>>;

mod sign {
    use ruma::api::{federation::authentication::ServerSignatures, metadata, request, response};
    use serde_json::value::RawValue;

    metadata! {
        method: POST,
        rate_limited: true,
        authentication: ServerSignatures,
        path: "/_matrix/policy/v1/sign",
    }

    #[request]
    pub struct Request {
        #[ruma_api(body)]
        pub pdu: Box<RawValue>,
    }

    #[response]
    pub struct Response {
        #[ruma_api(body)]
        pub signatures: super::Signatures,
    }
}

/// The same before version 1.18 of the specification.
mod sign_unstable {
    use ruma::api::{federation::authentication::ServerSignatures, metadata, request, response};
    use serde_json::value::RawValue;

    metadata! {
        method: POST,
        rate_limited: true,
        authentication: ServerSignatures,
        path: "/_matrix/policy/unstable/org.matrix.msc4284/sign",
    }

    #[request]
    pub struct Request {
        #[ruma_api(body)]
        pub pdu: Box<RawValue>,
    }

    #[response]
    pub struct Response {
        #[ruma_api(body)]
        pub signatures: super::Signatures,
    }
}

/// Asks policy servers.
pub struct PolicyServers {
    own: OwnedServerName,
    client: Arc<Client>,
}

impl PolicyServers {
    /// Asks with `client`, as the server `own`.
    #[must_use]
    pub fn new(own: OwnedServerName, client: Arc<Client>) -> Self {
        Self { own, client }
    }

    async fn signed(
        &self,
        policy: &Policy,
        event: Pdu,
        rules: &'static RoomRules,
    ) -> Result<Pdu, FederationError> {
        if policy.server == self.own {
            let message = format!("{} is no policy server, though the room names it", self.own);
            return Err(FederationError::NotFound(message));
        }
        let json = raw(&event)?;
        let signatures = self.signatures(policy, &json).await?;
        // An empty answer is a refusal (MSC4284, "Unstable prefix").
        let signature = signatures
            .get(policy.server.as_str())
            .and_then(|keys| keys.get(KEY_ID))
            .ok_or_else(|| {
                let server = &policy.server;
                FederationError::Forbidden(format!(
                    "the policy server {server} does not recommend this event for the room"
                ))
            })?;
        add_signature(&event, rules, &policy.server, (KEY_ID, signature))
            .map_err(|error| FederationError::bad_answer(&policy.server, error))
    }

    /// Under the name that goes with the room's state event, or the other where the server does not know that one.
    async fn signatures(
        &self,
        policy: &Policy,
        event: &RawValue,
    ) -> Result<Signatures, FederationError> {
        let server = &policy.server;
        match self.ask_at(server, event, policy.is_unstable).await {
            Err(error) if error.remote_code() == Some("M_UNRECOGNIZED") => {
                self.ask_at(server, event, !policy.is_unstable).await
            }
            answer => answer,
        }
    }

    async fn ask_at(
        &self,
        server: &ServerName,
        event: &RawValue,
        unstable: bool,
    ) -> Result<Signatures, FederationError> {
        let pdu = event.to_owned();
        Ok(match unstable {
            false => {
                let request = sign::Request { pdu };
                self.client.send(server, request, TERMS).await?.signatures
            }
            true => {
                let request = sign_unstable::Request { pdu };
                self.client.send(server, request, TERMS).await?.signatures
            }
        })
    }
}

impl PolicyAsker for PolicyServers {
    fn ask<'a>(
        &'a self,
        policy: &'a Policy,
        event: Pdu,
        rules: &'static RoomRules,
    ) -> BoxFuture<'a, Result<Pdu, RoomError>> {
        async move {
            let signed = self.signed(policy, event, rules).await;
            signed.map_err(|error| refusal(&policy.server, error))
        }
        .boxed()
    }
}

/// "If the Policy Server returned an error, that error SHOULD be provided to the client verbatim."
fn refusal(server: &ServerName, error: FederationError) -> RoomError {
    let (status, errcode, message) = match error {
        FederationError::Remote(remote) if remote.status.is_client_error() => {
            let errcode = remote.errcode.unwrap_or_else(|| "M_FORBIDDEN".to_owned());
            (remote.status.as_u16(), errcode, remote.error)
        }
        FederationError::Forbidden(message) => (400, "M_FORBIDDEN".to_owned(), message),
        error => {
            let message = format!("the room's policy server {server} can't be asked: {error}");
            (502, "M_UNKNOWN".to_owned(), message)
        }
    };
    RoomError::Policy {
        status,
        errcode,
        message,
    }
}
