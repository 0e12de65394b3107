//! Signing keys (Server-Server API, "Retrieving server keys").

use resuni_federation::Needed;
use ruma::{
    MilliSecondsSinceUnixEpoch,
    api::federation::discovery::{
        get_remote_server_keys, get_remote_server_keys_batch, get_server_keys,
    },
};

use super::On;
use crate::{
    extract::{Answer, Policy, Reply, Ruma},
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    // As servers ask of before the key's id was taken out of the path, "which is deprecated and ignored".
    let by_id = ["/_matrix/key/v2/server/{key_id}"];
    Routes::new()
        .on(own)
        .at(&by_id, Policy::CLIENT, own)
        .on(query)
        .on(query_many)
}

async fn own(
    On(federation): On,
    _: Ruma<get_server_keys::v2::Request>,
) -> Answer<get_server_keys::v2::Response> {
    Ok(Reply(get_server_keys::v2::Response::new(
        federation.network.keys.published()?,
    )))
}

async fn query(
    On(federation): On,
    Ruma { body, .. }: Ruma<get_remote_server_keys::v2::Request>,
) -> Answer<get_remote_server_keys::v2::Response> {
    let needed = Needed {
        server: body.server_name,
        key_ids: Vec::new(),
        at_ms: body.minimum_valid_until_ts.get().into(),
    };
    let keys = federation.network.keys.notarise(vec![needed]).await?;
    Ok(Reply(get_remote_server_keys::v2::Response::new(keys)))
}

async fn query_many(
    On(federation): On,
    Ruma { body, .. }: Ruma<get_remote_server_keys_batch::v2::Request>,
) -> Answer<get_remote_server_keys_batch::v2::Response> {
    let needed = body.server_keys.into_iter().map(|(server, keys)| {
        let until = keys
            .values()
            .filter_map(|asked| asked.minimum_valid_until_ts)
            .max();
        let until = until.unwrap_or_else(MilliSecondsSinceUnixEpoch::now);
        Needed {
            server,
            key_ids: keys.keys().map(ToString::to_string).collect(),
            at_ms: until.get().into(),
        }
    });
    let keys = federation.network.keys.notarise(needed.collect()).await?;
    Ok(Reply(get_remote_server_keys_batch::v2::Response::new(keys)))
}
