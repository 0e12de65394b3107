//! The wiring: each part is made from what it needs, from the bottom up.

use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use resuni_config::Config;
use resuni_store::{EngineConfig, RocksConfig, Store};
use tokio_util::sync::CancellationToken;

use crate::data::DataDir;

/// All parts of a running server.
pub(crate) struct Parts {
    store: Store,
    router: Router,
}

impl Parts {
    /// Opens the database and makes the parts. `stopping` releases whoever waits in a request.
    pub(crate) async fn open(
        config: &Config,
        data: &DataDir,
        stopping: CancellationToken,
    ) -> Result<Self> {
        let key = Arc::new(data.signing_key()?);
        let store = open_store(data).await?;
        let _ = (config, key, stopping);
        Ok(Self {
            store,
            router: Router::new(),
        })
    }

    /// What answers requests.
    pub(crate) fn router(&self) -> Router {
        self.router.clone()
    }

    /// Stops what runs on its own, and closes the database.
    pub(crate) async fn close(self) {
        self.store.close().await;
    }
}

/// Opens the database in the data folder.
pub(crate) async fn open_store(data: &DataDir) -> Result<Store> {
    Store::open(EngineConfig::Rocks(RocksConfig::new(data.database())))
        .await
        .context("The database can't be opened.")
}
