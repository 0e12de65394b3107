//! Transactions (Server-Server API, "Transactions").

use ruma::api::federation::transactions::send_transaction_message;

use super::On;
use crate::{
    extract::{Answer, Policy, Reply, Ruma},
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new().with(Policy::TRANSACTION, transaction)
}

async fn transaction(
    On(federation): On,
    Ruma { body, caller, .. }: Ruma<send_transaction_message::v1::Request>,
) -> Answer<send_transaction_message::v1::Response> {
    Ok(Reply(federation.ingest.transaction(&caller, body).await?))
}
