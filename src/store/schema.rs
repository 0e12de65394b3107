//! What a database says about itself, and how an old one becomes a new one.

use std::{future::Future, pin::Pin};

use crate::{
    Batch, CommitError, Direction, OpenError, Position, ScanRange, Snapshot, Store, Table,
    TableInfo, engine::Engine, log::LOG, versioned,
};

static META: Table<(), Meta> = Table::new(0x0100, "meta");
static MIGRATIONS: Table<u32, String> = Table::new(0x0105, "migrations");
/// No position at or above was ever given out.
pub(crate) static NEXT_POSITION: Table<(), Position> = Table::new(0x0106, "next position");

pub(crate) const TABLES: [TableInfo; 3] = [META.info(), MIGRATIONS.info(), NEXT_POSITION.info()];

/// The schema of a database made before there was any migration.
const FIRST_SCHEMA: u32 = 1;

/// The family of programs that give the tables the meaning they have here. A fork that changes a
/// table's meaning takes another name, so that neither opens the other's database.
const FAMILY: &str = "resuni";

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Meta {
    family: String,
    /// Made at random with the database; see [`Store::lineage`].
    pub lineage: [u8; 16],
    schema: u32,
    /// The oldest schema whose programs can read the database as it is now.
    oldest_reader: u32,
}
versioned!(Meta, 1);

/// One step from an older schema to a newer one.
///
/// Migrations are numbered from 2 on, without holes, and run in order, before anybody else uses the
/// store. One that was interrupted runs again from its beginning, so it must be idempotent; it may
/// commit as many batches as it needs.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// The schema that it makes.
    pub number: u32,
    /// What it does, in a few words.
    pub name: &'static str,
    /// The oldest schema whose programs can still read the database afterwards.
    pub oldest_reader: u32,
    /// The step.
    pub run: MigrationStep,
}

/// What a migration does to a store.
pub type MigrationStep =
    for<'a> fn(&'a Store) -> Pin<Box<dyn Future<Output = Result<(), CommitError>> + Send + 'a>>;

/// What is known of a database before anything is written to it.
pub(crate) struct Examined {
    /// None: it is new.
    pub meta: Option<Meta>,
    /// The first position that was never given out.
    pub next: u64,
}

/// Refuses a database that is not ours to write to.
pub(crate) async fn examine(
    engine: &Engine,
    migrations: &[Migration],
) -> Result<Examined, OpenError> {
    let snapshot = Snapshot::new(Position(0), engine.snapshot());
    let meta = snapshot.get(&META, &()).await;
    let meta = meta.map_err(|error| OpenError::Foreign(error.to_string()))?;
    match &meta {
        None if !snapshot.is_empty()? => {
            return Err(OpenError::Foreign(
                "it has rows but does not say who wrote them".into(),
            ));
        }
        Some(meta) if meta.family != FAMILY => {
            return Err(OpenError::Foreign(format!("it belongs to {}", meta.family)));
        }
        Some(meta) if meta.oldest_reader > newest(migrations) => {
            return Err(OpenError::Newer {
                found: meta.schema,
                needs: meta.oldest_reader,
                known: newest(migrations),
            });
        }
        _ => {}
    }
    let mark = snapshot.get(&NEXT_POSITION, &()).await?;
    let last = snapshot
        .scan(&LOG, ScanRange::all(), Direction::Backward, 1)
        .await?;
    let above_last = last.first().map_or(1, |(position, _)| position.0 + 1);
    Ok(Examined {
        meta,
        next: above_last.max(mark.map_or(1, |next| next.0)),
    })
}

fn newest(migrations: &[Migration]) -> u32 {
    migrations.last().map_or(FIRST_SCHEMA, |last| last.number)
}

/// Makes a new database, or brings an old one up to date.
pub(crate) async fn migrate(
    store: &Store,
    examined: Option<Meta>,
    migrations: &[Migration],
) -> Result<Meta, OpenError> {
    let Some(mut meta) = examined else {
        return create(store, migrations).await;
    };
    let found = meta.schema;
    for migration in migrations
        .iter()
        .filter(|migration| migration.number > found)
    {
        tracing::info!(
            number = migration.number,
            name = migration.name,
            "bringing the database up to date"
        );
        let failed = |source| OpenError::Migration {
            number: migration.number,
            name: migration.name,
            source,
        };
        (migration.run)(store).await.map_err(failed)?;
        let mut batch = Batch::new();
        batch.guard_equals(&META, &(), &meta);
        meta.schema = migration.number;
        meta.oldest_reader = meta.oldest_reader.max(migration.oldest_reader);
        batch.put(&META, &(), &meta);
        batch.put(&MIGRATIONS, &migration.number, &migration.name.to_owned());
        store.commit_durable(batch).await.map_err(failed)?;
    }
    Ok(meta)
}

async fn create(store: &Store, migrations: &[Migration]) -> Result<Meta, OpenError> {
    let oldest_reader = migrations
        .iter()
        .map(|migration| migration.oldest_reader)
        .max()
        .unwrap_or(FIRST_SCHEMA);
    let meta = Meta {
        family: FAMILY.into(),
        lineage: rand::random(),
        schema: newest(migrations),
        oldest_reader,
    };
    let mut batch = Batch::new();
    batch.guard_absent(&META, &());
    batch.put(&META, &(), &meta);
    store.commit_durable(batch).await?;
    Ok(meta)
}
