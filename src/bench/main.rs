//! `resuni-bench`: measures any Matrix homeserver through its public API.
//!
//! It starts each server as a real process pair on loopback (two servers that federate over TLS),
//! runs the same bounded loads against both and writes a table with ratios and what the project
//! aims at. Beside every rate stand the server's own CPU milliseconds per operation, which hold on
//! a busy machine where rates do not.

mod goals;
mod load;
mod measure;
mod report;
mod rooms;
mod scenarios;
mod table;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use resuni_testkit::{Kind, World};

use crate::{rooms::RoomSizes, scenarios::Sizes, table::Run};

/// The command line.
#[derive(Debug, Parser)]
#[command(
    about = "Measures homeservers side by side through their public API",
    long_about = "Measures homeservers side by side through their public API. Resuni is the program of that name \
                  beside this one, or RESUNI_BIN; Synapse is installed by `packaging/setup.sh synapse`.",
    version
)]
struct Args {
    /// Which servers to run, in turn, each pair alone; a name that is given again is another round.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "synapse,resuni,resuni,synapse,resuni"
    )]
    servers: Vec<Kind>,
    /// Where to write the report (Markdown). Always printed too.
    #[arg(long)]
    out: Option<PathBuf>,
    /// A file with text for the end of the report: what bounds the figures that are not reached.
    #[arg(long)]
    remarks: Option<PathBuf>,
    /// How much to do.
    #[arg(long, value_enum, default_value = "full")]
    size: Size,
    /// Keep the servers' working folders (configuration, data, logs).
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Size {
    /// A minute or so: to see that everything works.
    Quick,
    /// What `docs/performance.md` shows.
    Full,
    /// What grows with rooms and what does not.
    Large,
    /// What the size of a room costs, up to 50,000 members: loads of their own.
    Rooms,
    /// The same with small rooms: to see that everything works.
    RoomsQuick,
}

impl Size {
    fn rooms(self) -> Option<RoomSizes> {
        match self {
            Self::Rooms => Some(RoomSizes::full()),
            Self::RoomsQuick => Some(RoomSizes::quick()),
            Self::Quick | Self::Full | Self::Large => None,
        }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let sizes = match args.size {
        Size::Quick => Sizes::quick(),
        Size::Full => Sizes::full(),
        Size::Large => Sizes::large(),
        Size::Rooms | Size::RoomsQuick => Sizes::of_rooms(),
    };
    let mut runs = Vec::new();
    for kind in &args.servers {
        eprintln!("== {kind}");
        runs.push(round(*kind, &sizes, args.size.rooms().as_ref(), args.keep).await?);
    }
    let remarks = args.remarks.map(std::fs::read_to_string).transpose()?;
    let text = report::markdown(&runs, &sizes, remarks.as_deref());
    println!("{text}");
    if let Some(out) = args.out {
        std::fs::write(&out, text)?;
        eprintln!("written to {}", out.display());
    }
    Ok(())
}

/// Everything, once, with new servers of a kind.
async fn round(
    kind: Kind,
    sizes: &Sizes,
    rooms: Option<&RoomSizes>,
    keep: bool,
) -> anyhow::Result<Run> {
    let world = World::new("bench")?.quiet();
    let disk_sync_ms = measure::disk_sync_ms(world.folder())?;
    let load_before = measure::load_average();
    let (version, rows) = match rooms {
        Some(rooms) => rooms::run(&world, kind, rooms).await?,
        None => {
            let one = world.server(kind, "one").await?;
            let two = world.server(kind, "two").await?;
            scenarios::run(one, two, sizes).await?
        }
    };
    if !keep {
        world.passed();
    }
    Ok(Run {
        kind,
        version,
        disk_sync_ms,
        load: (load_before, measure::load_average()),
        rows,
    })
}
