//! Rooms whose members are still arriving (MSC3902): what says so must agree.

use resuni_store::ScanRange;

use super::{Doctor, Rows};
use crate::{
    error::RoomError,
    tables::{EVENTS, HEAD, PARTIAL, PARTIAL_EVENTS, SERVER_ROOMS, TOLD_SERVERS},
    types::RoomNum,
};

impl Doctor<'_> {
    /// A head, its state and the row of what is missing say the same of a room; nothing is left of rooms that are whole.
    pub(super) async fn partial(&mut self) -> Result<(), RoomError> {
        let mut rows = Rows::of(&HEAD, ScanRange::all());
        while let Some(page) = rows.next(&self.reader).await? {
            for (num, head) in page {
                let said = head.whole_since.is_none();
                let listed = self.reader.snapshot.contains(&PARTIAL, &num).await?;
                let state = self.reader.snap(head.snap).await?.partial;
                self.expect(said == listed && said == state, || {
                    format!(
                        "room number {}: its head says that it is {}, its state {}, the list {}",
                        num.0,
                        name(said),
                        name(state),
                        name(listed)
                    )
                });
            }
        }
        let mut rows = Rows::of(&PARTIAL, ScanRange::all());
        while let Some(page) = rows.next(&self.reader).await? {
            for (num, _) in page {
                let known = self.reader.snapshot.contains(&HEAD, &num).await?;
                self.expect(known, || {
                    format!("room number {} is partial and has no head", num.0)
                });
            }
        }
        self.partial_events().await?;
        self.told_servers().await
    }

    async fn partial_events(&mut self) -> Result<(), RoomError> {
        let mut rows = Rows::of(&PARTIAL_EVENTS, ScanRange::all());
        while let Some(page) = rows.next(&self.reader).await? {
            for ((room, event), _) in page {
                self.expect_partial(room, "an event that waits for its state")
                    .await?;
                let row = self.reader.snapshot.get(&EVENTS, &event).await?;
                let fine = row.is_some_and(|row| row.room == room && row.place.has_state());
                self.expect(fine, || {
                    format!(
                        "the event number {} waits for the state of room number {} and was never judged there",
                        event.0, room.0
                    )
                });
            }
        }
        Ok(())
    }

    async fn told_servers(&mut self) -> Result<(), RoomError> {
        let mut rows = Rows::of(&TOLD_SERVERS, ScanRange::all());
        while let Some(page) = rows.next(&self.reader).await? {
            for ((room, server), ()) in page {
                self.expect_partial(room, "a server that we were told of")
                    .await?;
                let key = (server, room);
                let listed = self.reader.snapshot.contains(&SERVER_ROOMS, &key).await?;
                self.expect(listed, || {
                    format!(
                        "the server number {} doesn't list room number {}, as we were told",
                        server.0, room.0
                    )
                });
            }
        }
        Ok(())
    }

    async fn expect_partial(&mut self, room: RoomNum, what: &str) -> Result<(), RoomError> {
        let partial = self.reader.snapshot.contains(&PARTIAL, &room).await?;
        self.expect(partial, || {
            format!("room number {} is whole and has {what}", room.0)
        });
        Ok(())
    }
}

fn name(partial: bool) -> &'static str {
    if partial { "partial" } else { "whole" }
}
