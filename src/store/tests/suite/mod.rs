mod doctor;
mod log;
mod numbers;
mod rows;

pub use doctor::*;
pub use log::*;
pub use numbers::*;
pub use rows::*;

use resuni_store::{Batch, Position, Store, Table, Topic};

pub use crate::Place;

pub static ROWS: Table<(u64, String), u64> = Table::new(0x0201, "rows");
pub static OTHERS: Table<u64, String> = Table::new(0x0202, "others");
/// In another column family of RocksDB.
pub static FAR: Table<u64, u64> = Table::new(0x0301, "far");
pub static TOPIC: Topic = Topic(0x0201);

pub async fn open(place: &Place) -> Store {
    Store::open(place.engine()).await.unwrap()
}

pub fn key(number: u64, text: &str) -> (u64, String) {
    (number, text.to_owned())
}

/// Commits one log entry and answers its position.
pub async fn log(store: &Store, scope: u64) -> Position {
    let mut batch = Batch::new();
    let reservation = store.reserve(1);
    let position = reservation.first();
    batch.log(position, TOPIC, scope, scope.to_be_bytes().to_vec());
    batch.attach(reservation);
    store.commit_durable(batch).await.unwrap();
    position
}
