//! Which files rooms name.

use std::collections::BTreeSet;

use resuni_store::{Direction, Position, ScanRange};
use serde_json::Value;

use crate::error::RoomError;
use crate::page::{Gaps, PageQuery};
use crate::rooms::Rooms;
use crate::tables::ROOMS;
use crate::types::TimelineToken;
use crate::visibility::Viewer;

/// Rooms, and events, read at a time.
const PAGE: usize = 500;
/// Files that are named in one room, at most.
const MOST: usize = 100_000;

/// Where the content of an event names files.
const PLACES: [&str; 5] = [
    "/url",
    "/avatar_url",
    "/info/thumbnail_url",
    "/file/url",
    "/info/thumbnail_file/url",
];

impl Rooms {
    /// The pictures of all rooms.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn pictures(&self) -> Result<Vec<String>, RoomError> {
        let (mut range, mut found) = (ScanRange::all(), Vec::new());
        loop {
            let page = self
                .store()
                .snapshot()
                .scan(&ROOMS, range, Direction::Forward, PAGE)
                .await?;
            let Some((last, _)) = page.last() else {
                return Ok(found);
            };
            range = ScanRange::after(last);
            for (num, _) in page {
                if let Some(view) = self.view_num(num).await? {
                    found.extend(view.text_of("m.room.avatar", "url").await?);
                }
            }
        }
    }
}

impl Viewer {
    /// The addresses of files that the events of the room name, the newest events first. Of encrypted events nobody here
    /// can say it.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn files_named(&mut self) -> Result<BTreeSet<String>, RoomError> {
        let mut found = BTreeSet::new();
        let mut from = self.view().end();
        let start = TimelineToken::live(Position(0));
        loop {
            let query = PageQuery {
                from,
                to: Some(start),
                dir: Direction::Backward,
                limit: PAGE,
                gaps: Gaps::Pass,
            };
            let page = self
                .page(query, |event| event.row.pdu.contains("mxc://"))
                .await?;
            for event in &page.events {
                let content = event.fields().content;
                let Ok(content) = serde_json::from_str::<Value>(content) else {
                    continue;
                };
                let named = PLACES.iter().filter_map(|place| content.pointer(place));
                let named = named.filter_map(Value::as_str);
                found.extend(
                    named
                        .filter(|uri| uri.starts_with("mxc://"))
                        .map(str::to_owned),
                );
            }
            match page.end {
                Some(end) if end != from && found.len() < MOST => from = end,
                _ => return Ok(found),
            }
        }
    }
}
