//! Who sent an incoming request.

use std::sync::Arc;

use resuni_dag::verify_text;
use resuni_store::SharedClock;
use ruma::OwnedServerName;

use crate::{
    admission::Admission,
    backoff::Backoff,
    error::FederationError,
    keys::Keys,
    xmatrix::{SignedParts, XMatrix},
};

/// `Authorization` headers of one request that are looked at: a server may sign with several keys.
const MAX_HEADERS: usize = 4;

/// An incoming request as far as its signature covers it.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// GET, PUT …
    pub method: &'a str,
    /// Path and query exactly as in the request line.
    pub uri: &'a str,
    /// The values of its `Authorization` headers.
    pub authorization: &'a [&'a str],
    /// The body; empty when there is none.
    pub body: &'a [u8],
}

/// Checks `X-Matrix` signatures.
pub struct Authenticator {
    own: OwnedServerName,
    keys: Arc<Keys>,
    admission: Arc<Admission>,
    backoff: Arc<Backoff>,
    clock: SharedClock,
}

impl Authenticator {
    /// An authenticator of requests to `own`.
    #[must_use]
    pub fn new(
        own: OwnedServerName,
        keys: Arc<Keys>,
        admission: Arc<Admission>,
        backoff: Arc<Backoff>,
        clock: SharedClock,
    ) -> Self {
        Self {
            own,
            keys,
            admission,
            backoff,
            clock,
        }
    }

    /// The server that signed the request. It is there, so its back-off ends; the second value says
    /// whether there was one, so that what waits for it can be sent.
    ///
    /// # Errors
    /// [`FederationError::Unauthorized`] when the signature is missing, wrong or meant for another
    /// server, [`FederationError::NotAdmitted`] when the server is left out by `federation.mode` (it is
    /// refused before any key is fetched).
    pub async fn origin(
        &self,
        request: Incoming<'_>,
    ) -> Result<(OwnedServerName, bool), FederationError> {
        let mut refusal = unauthorized("this endpoint needs an X-Matrix Authorization header");
        for header in request.authorization.iter().take(MAX_HEADERS) {
            match self.check(request, header).await {
                Ok(origin) => {
                    let returned = self.backoff.success(&origin);
                    return Ok((origin, returned));
                }
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    async fn check(
        &self,
        request: Incoming<'_>,
        header: &str,
    ) -> Result<OwnedServerName, FederationError> {
        let header = XMatrix::parse(header).map_err(|e| unauthorized(e.to_string()))?;
        if header
            .destination
            .as_ref()
            .is_some_and(|destination| *destination != self.own)
        {
            return Err(unauthorized(format!(
                "this is {}, not the destination",
                self.own
            )));
        }
        if header.origin == self.own {
            return Err(unauthorized("a server does not send requests to itself"));
        }
        if !self.admission.allows(&header.origin) {
            return Err(FederationError::NotAdmitted(header.origin));
        }
        let parts = SignedParts {
            method: request.method,
            uri: request.uri,
            origin: &header.origin,
            destination: &self.own,
            body: request.body,
        };
        let text = parts
            .text()
            .map_err(|e| FederationError::bad_json(e.to_string()))?;
        let keys = self.keys.of_requester(&header.origin, &header.key).await;
        let (key, sig, now) = (&header.key, &header.sig, self.clock.now_ms());
        verify_text(&text, &header.origin, key, sig, &keys, Some(now))
            .map_err(|e| unauthorized(e.to_string()))?;
        Ok(header.origin)
    }
}

fn unauthorized(message: impl Into<String>) -> FederationError {
    FederationError::Unauthorized(message.into())
}
