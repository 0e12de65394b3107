//! Events that are known without their place in the history: states and auth chains that other servers hand out.

use resuni_dag::{Edges, Pdu, create_event_id, topological_order};
use ruma::{OwnedEventId, OwnedRoomId, RoomId};

use crate::{
    delta::{self, Judged},
    error::RoomError,
    line::Line,
    plan::judge_by_auth_events,
    receive::{auth_of, auth_pdus},
    rooms::Rooms,
    tables::Place,
    types::SnapNum,
};

/// Outliers after which other tasks get their turn.
const TURN: usize = 64;

/// What became of a set of outliers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outliers {
    /// How many are newly kept, the rejected ones included.
    pub stored: usize,
    /// Those that their auth events don't allow. They are kept, marked as rejected, and never enter a state.
    pub rejected: Vec<(OwnedEventId, String)>,
    /// Auth events that are neither here nor among these. What needs them was not kept.
    pub missing: Vec<OwnedEventId>,
}

impl Rooms {
    /// Keeps events of a room's states and auth chains, in whatever order they come. Signatures and hashes were checked
    /// before; here each is authorised by its auth events.
    pub async fn receive_outliers(
        &self,
        room: &RoomId,
        pdus: Vec<Pdu>,
    ) -> Result<Outliers, RoomError> {
        let room: OwnedRoomId = room.to_owned();
        let mut lane = self.lanes.enter(&room).await;
        let Some(mut line) = Line::open(self, &mut lane, &room).await? else {
            return Err(RoomError::UnknownRoom(room));
        };
        let outliers = line.outliers(pdus).await?;
        line.finish(lane).await?.durable().await?;
        Ok(outliers)
    }
}

impl Line<'_> {
    /// See [`Rooms::receive_outliers`]. Events of other rooms are passed over.
    pub async fn outliers(&mut self, pdus: Vec<Pdu>) -> Result<Outliers, RoomError> {
        let mut done = Outliers::default();
        let create = create_event_id(&self.live.room_id);
        let own = pdus
            .into_iter()
            .filter(|pdu| pdu.room_id() == self.live.room_id)
            .collect::<Vec<_>>();
        let (first, rest): (Vec<Pdu>, Vec<Pdu>) =
            own.into_iter().partition(|pdu| pdu.is("m.room.create", ""));
        let rest = topological_order(rest, Edges::Auth);
        for (i, pdu) in first.into_iter().chain(rest).enumerate() {
            self.outlier(pdu, create.as_ref(), &mut done).await?;
            if i % TURN == TURN - 1 {
                tokio::task::yield_now().await;
            }
            if self.work.is_large() {
                self.flush().await?;
            }
        }
        done.missing.sort_unstable();
        done.missing.dedup();
        Ok(done)
    }

    async fn outlier(
        &mut self,
        pdu: Pdu,
        create: Option<&OwnedEventId>,
        done: &mut Outliers,
    ) -> Result<(), RoomError> {
        if let Some(num) = self.work.reader.event_num(pdu.event_id()).await?
            && self.work.reader.event_row(num).await?.place != Place::Unchecked
        {
            return Ok(());
        }
        let (auth, mut missing) = auth_of(&self.work, &pdu).await?;
        // In room version 12 no event names the create event, and all need it.
        if let Some(create) = create.filter(|create| *create != pdu.event_id())
            && self.work.reader.event_num(create).await?.is_none()
        {
            missing.push(create.clone());
        }
        if !missing.is_empty() {
            done.missing.extend(missing);
            return Ok(());
        }
        let verdict = judge_by_auth_events(
            &pdu,
            self.work.rules,
            &auth_pdus(&self.work, &pdu, &auth).await?,
        );
        let event = self.judged(pdu, auth, SnapNum::EMPTY, false).await?;
        let event = match verdict {
            Ok(()) => event,
            Err(reason) => {
                done.rejected
                    .push((event.pdu.event_id().to_owned(), reason.clone()));
                Judged {
                    place: Place::Rejected,
                    reason: Some(reason),
                    ..event
                }
            }
        };
        done.stored += 1;
        delta::put_event(&mut self.work, self.live.num, event).await
    }
}
