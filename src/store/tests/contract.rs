//! What every engine owes the store: one suite, run against each of them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod suite;

use resuni_store::{EngineConfig, RocksConfig};

/// A place for one store, and how it is opened there.
pub struct Place {
    directory: Option<tempfile::TempDir>,
}

impl Place {
    fn memory() -> Self {
        Self { directory: None }
    }

    fn rocks() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            directory: Some(directory),
        }
    }

    /// The engine of a store in this place.
    pub fn engine(&self) -> EngineConfig {
        match &self.directory {
            None => EngineConfig::Memory,
            Some(directory) => EngineConfig::Rocks(RocksConfig::new(directory.path())),
        }
    }

    /// Whether what was written is there when the store is opened again.
    pub fn keeps(&self) -> bool {
        self.directory.is_some()
    }
}

macro_rules! contract {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                super::suite::$name(super::Place::memory()).await;
            })*
        }

        mod rocks {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                super::suite::$name(super::Place::rocks()).await;
            })*
        }
    };
}

contract!(
    rows_are_written_read_and_removed,
    a_refused_batch_leaves_nothing,
    guards_see_what_is_applied,
    of_two_guarded_writers_one_wins,
    a_snapshot_does_not_change,
    scans_page_both_ways,
    ranges_hold_what_they_say,
    tables_do_not_touch,
    a_batch_has_a_limit,
    a_log_entry_needs_its_reservation,
    given_up_positions_are_passed,
    the_watermark_waits_for_the_lowest,
    the_log_is_read_from_memory_and_from_disk,
    a_snapshot_holds_the_log_up_to_its_position,
    readers_never_miss_an_entry,
    followers_go_on_from_their_cursor,
    a_refused_batch_does_not_move_a_follower,
    names_have_one_number,
    writers_agree_on_a_new_name,
    a_dropped_batch_forgets_its_names,
    sequences_never_repeat,
    reopening_goes_on_above,
    a_closed_store_takes_no_writes,
    followers_read_the_rest_of_a_closed_log,
    the_doctor_sees_every_row,
    migrations_run_once_and_forward,
);
