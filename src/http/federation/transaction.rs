//! Transactions (Server-Server API, "Transactions").

use resuni_federation::divergence::wire::transaction;

use super::On;
use crate::{
    extract::{Answer, Policy, Reply, Ruma},
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new().with(Policy::TRANSACTION, send)
}

async fn send(
    On(federation): On,
    Ruma { body, caller, .. }: Ruma<transaction::Request>,
) -> Answer<transaction::Response> {
    Ok(Reply(federation.ingest.transaction(&caller, body).await?))
}
