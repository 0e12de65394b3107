//! Settings of notifications.

use crate::describe::settings;

settings! {
    /// What people are notified of.
    pub struct Push {
        /// Whether a thread notifies only those who follow it, and who are mentioned in it (MSC4306). People whose
        /// clients can't follow threads are then not notified of them.
        value followed_threads_only: bool = false;

        /// Whether devices are woken for every encrypted message of rooms that are not muted (MSC4028), so that they
        /// can look for mentions in rooms where people want nothing else. Unread counts rise with it.
        value all_encrypted: bool = false;
    }
}
