//! `resuni doctor`: looks at what is kept, with the server stopped, and names what is wrong.

use std::process::ExitCode;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use resuni_config::Config;
use resuni_store::{Snapshot, Store, TableInfo};
use ruma::RoomId;

use crate::cli::SettingsFile;
use crate::data::{DataDir, InUse};
use crate::{parts, settings};

/// Unreadable rows that are named; the rest are only counted.
const NAMED: usize = 1_000;

/// What to look at besides the settings and the folder.
pub(crate) struct Questions {
    /// Every row of the database.
    pub(crate) database: bool,
    /// The state of one room.
    pub(crate) room: Option<String>,
}

/// Prints what is found; fails when anything is wrong.
pub(crate) fn doctor(file: &SettingsFile, questions: &Questions) -> Result<ExitCode> {
    let loaded = settings::load(file)?;
    for warning in &loaded.warnings {
        println!("warning: {warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("The threads can't be started.")?;
    runtime.block_on(examine(&loaded.config, questions))
}

async fn examine(config: &Config, questions: &Questions) -> Result<ExitCode> {
    let data = match DataDir::open(&config.data_dir) {
        Err(error) if error.is::<InUse>() => {
            return Err(error.context("The doctor looks at a server that is stopped."));
        }
        data => data?,
    };
    let key = data.signing_key()?;
    println!("The signing key {} is in its place.", key.key_id());
    let store = parts::open_store(&data).await?;
    println!("The database can be opened.");
    let mut found = Vec::new();
    if questions.database {
        found.extend(rows(&store.snapshot())?);
        let accounts = parts::open_accounts(config, &store).await?;
        found.extend(accounts.doctor(&store.snapshot()).await?);
        found.extend(resuni_rooms::doctor::check(&store, &config.server_name).await?);
    }
    if let Some(room) = &questions.room {
        about_room(config, key, &store, room).await?;
    }
    store.close().await;
    for sentence in &found {
        println!("WRONG: {sentence}");
    }
    Ok(if found.is_empty() {
        println!("Nothing wrong was found.");
        ExitCode::SUCCESS
    } else {
        println!("{} things are wrong.", found.len());
        ExitCode::FAILURE
    })
}

/// Every row can be read by the table it is in.
fn rows(snapshot: &Snapshot) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut unnamed = 0_usize;
    let counts = snapshot.check(&tables(), &mut |row| {
        if found.len() >= NAMED {
            unnamed += 1;
            return;
        }
        let name = row.name.unwrap_or("?");
        found.push(format!(
            "table {:#06x} {name}, key {:02x?}: {}",
            row.table, row.key, row.problem
        ));
    })?;
    for count in counts {
        let name = count.name.unwrap_or("?");
        println!(
            "{:#06x} {name:<28} {:>10} rows {:>12} bytes",
            count.table, count.rows, count.bytes
        );
    }
    if unnamed > 0 {
        found.push(format!("and {unnamed} more rows that can't be read"));
    }
    Ok(found)
}

/// The tables of all crates.
fn tables() -> Vec<TableInfo> {
    let rooms = resuni_rooms::TABLES.iter().flat_map(|tables| tables.iter());
    rooms
        .chain(resuni_accounts::TABLES)
        .chain(resuni_media::TABLES)
        .chain(resuni_federation::tables::TABLES)
        .chain(resuni_delivery::TABLES)
        .chain(resuni_feed::TABLES)
        .chain(resuni_search::TABLES)
        .copied()
        .collect()
}

async fn about_room(
    config: &Config,
    key: resuni_dag::SigningKey,
    store: &Store,
    room: &str,
) -> Result<()> {
    let room = RoomId::parse(room).with_context(|| format!("{room} is not a room id."))?;
    let rooms = parts::open_rooms(config, key.into(), store).await?;
    let view = rooms
        .view_known(&room)
        .await
        .with_context(|| format!("{room} can't be read."))?;
    println!("room version: {}", view.version());
    println!("joined: {}", view.joined_count());
    match view.state_digest().await? {
        Some(digest) => println!("state digest: {}", STANDARD_NO_PAD.encode(digest)),
        None => println!("state digest: none, its members are still arriving"),
    }
    Ok(())
}
