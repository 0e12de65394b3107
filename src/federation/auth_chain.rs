//! Auth chains, for the answers that hold them.

use std::collections::HashSet;

use resuni_rooms::{EventNum, RoomView, tables::EVENTS};

use crate::error::FederationError;

/// Rows read at once.
const PAGE: usize = 500;

/// The auth events of `events`, theirs, and so on, without `events` themselves unless they are in the
/// chain of another. Oldest first as far as numbers tell.
///
/// # Errors
/// When the store fails.
pub(crate) async fn of(
    view: &RoomView,
    events: &[EventNum],
) -> Result<Vec<EventNum>, FederationError> {
    let mut seen: HashSet<EventNum> = HashSet::new();
    let mut todo: Vec<EventNum> = events.to_vec();
    let mut looked_at: HashSet<EventNum> = events.iter().copied().collect();
    while !todo.is_empty() {
        let page: Vec<EventNum> = todo.split_off(todo.len().saturating_sub(PAGE));
        for row in view
            .snapshot()
            .get_many(&EVENTS, &page)
            .await?
            .into_iter()
            .flatten()
        {
            for auth in row.auth {
                seen.insert(auth);
                if looked_at.insert(auth) {
                    todo.push(auth);
                }
            }
        }
    }
    let mut chain: Vec<EventNum> = seen.into_iter().collect();
    chain.sort_unstable();
    Ok(chain)
}
