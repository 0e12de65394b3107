//! Devices and keys of our people (Server-Server API, "Device Management", "End-to-End Encryption").

use ruma::api::federation::{
    device::get_devices,
    keys::{claim_keys, get_keys},
};

use super::On;
use crate::{
    extract::{Answer, Reply, Ruma},
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new().on(devices).on(query).on(claim)
}

async fn devices(
    On(federation): On,
    Ruma { body, .. }: Ruma<get_devices::v1::Request>,
) -> Answer<get_devices::v1::Response> {
    Ok(Reply(federation.serve.user_devices(body).await?))
}

async fn query(
    On(federation): On,
    Ruma { body, .. }: Ruma<get_keys::v1::Request>,
) -> Answer<get_keys::v1::Response> {
    Ok(Reply(federation.serve.query_keys(body).await?))
}

async fn claim(
    On(federation): On,
    Ruma { body, .. }: Ruma<claim_keys::v1::Request>,
) -> Answer<claim_keys::v1::Response> {
    Ok(Reply(federation.serve.claim_keys(body).await?))
}
