//! Relations and what is counted from them.

use resuni_store::ScanRange;

use super::{Doctor, Rows};
use crate::{
    error::RoomError,
    relations::index::{
        AGGREGATES, ANNOTATIONS, Aggregate, BY_TYPE, EDITS, PARTICIPANTS, Related, THREADS,
        annotation,
    },
    tables::{REDACTIONS, RELATIONS, Relation},
    types::{EventHash, RoomNum},
};

type Key = (RoomNum, EventHash);

impl Doctor<'_> {
    /// Each relation has its rows, and each count is that of the relations.
    pub(super) async fn relations(&mut self) -> Result<(), RoomError> {
        let mut rows = Rows::of(&RELATIONS, ScanRange::all());
        let mut now: Option<(Key, Aggregate)> = None;
        let (mut relations, mut targets) = (0_u64, 0_u64);
        while let Some(page) = rows.next(&self.reader).await? {
            for ((room, target, position, sub), relation) in page {
                relations += 1;
                let place = (position, sub);
                let edit = self.relation(room, target, place, &relation).await?;
                let key = (room, target);
                if now.as_ref().is_none_or(|(known, _)| *known != key) {
                    targets += 1;
                    self.counted(now.replace((key, Aggregate::default())))
                        .await?;
                }
                if let Some((_, count)) = &mut now {
                    count.all += 1;
                    count.edits += u64::from(edit);
                    match relation.rel_type.as_str() {
                        "m.reference" => count.references += 1,
                        "m.thread" => {
                            count.threaded += 1;
                            count.newest = Some(place);
                        }
                        _ => {}
                    }
                }
            }
        }
        self.counted(now).await?;
        self.no_more(relations, targets).await
    }

    /// The rows of one relation; whether it is an edit.
    async fn relation(
        &mut self,
        room: RoomNum,
        target: EventHash,
        (position, sub): (resuni_store::Position, u32),
        relation: &Relation,
    ) -> Result<bool, RoomError> {
        let snapshot = self.reader.snapshot.clone();
        let row = self.reader.event_row(relation.event).await?;
        let pdu = self.reader.pdu_of(relation.event, &row).await?;
        let related = Related::of(&pdu, relation.event, row.sender);
        let same = related
            .as_ref()
            .is_some_and(|related| related.target == target && related.relation == *relation);
        let typed = (room, target, relation.rel_type.clone(), position, sub);
        let listed = snapshot.contains(&BY_TYPE, &typed).await?;
        let redacted = snapshot
            .contains(&REDACTIONS, &(room, position, sub))
            .await?;
        self.expect(same && listed && !redacted, || {
            format!("a relation to {target:?} is not what its event says, or was redacted")
        });
        if let (Some(key), "m.annotation") = (&relation.key, relation.rel_type.as_str()) {
            let name = annotation(&relation.kind, key);
            let key = (room, target, relation.sender, name, relation.event);
            let known = snapshot.contains(&ANNOTATIONS, &key).await?;
            self.expect(known, || {
                format!("an annotation of {target:?} could be sent twice")
            });
        }
        let Some((ts, id)) = related.and_then(|related| related.edit) else {
            return Ok(false);
        };
        let edit = (room, target, relation.sender, ts, id);
        let known = snapshot.contains(&EDITS, &edit).await?;
        self.expect(known, || format!("an edit of {target:?} is not found"));
        Ok(true)
    }

    /// The counts of one target, all relations of which were seen.
    async fn counted(&mut self, counted: Option<(Key, Aggregate)>) -> Result<(), RoomError> {
        let Some((key, count)) = counted else {
            return Ok(());
        };
        let found = self.reader.snapshot.get(&AGGREGATES, &key).await?;
        self.expect(found.as_ref() == Some(&count), || {
            format!(
                "what relates to {:?} is {count:?}, but counted as {found:?}",
                key.1
            )
        });
        let mut shares = 0;
        let mut rows = Rows::of(&PARTICIPANTS, ScanRange::prefix(&key));
        while let Some(page) = rows.next(&self.reader).await? {
            shares += page.into_iter().map(|(_, share)| share).sum::<u64>();
        }
        self.expect(shares == count.threaded, || {
            format!(
                "the participants of the thread {:?} sent {shares} of its {} events",
                key.1, count.threaded
            )
        });
        if let Some((position, sub)) = count.newest {
            let thread = self
                .reader
                .snapshot
                .get(&THREADS, &(key.0, position, sub))
                .await?;
            let listed = thread.is_some_and(|row| row.root == key.1);
            self.expect(listed, || {
                format!("the thread {:?} is not in its room's list", key.1)
            });
        }
        Ok(())
    }

    /// There are no rows besides.
    async fn no_more(&mut self, relations: u64, targets: u64) -> Result<(), RoomError> {
        let mut typed = 0;
        let mut rows = Rows::of(&BY_TYPE, ScanRange::all());
        while let Some(page) = rows.next(&self.reader).await? {
            typed += page.len() as u64;
        }
        self.expect(typed == relations, || {
            format!("there are {relations} relations and {typed} by type")
        });
        let (mut aggregates, mut threads) = (0, 0);
        let mut rows = Rows::of(&AGGREGATES, ScanRange::all());
        while let Some(page) = rows.next(&self.reader).await? {
            aggregates += page.len() as u64;
            threads += page.iter().filter(|(_, row)| row.newest.is_some()).count();
        }
        self.expect(aggregates == targets, || {
            format!("{targets} events are related to, and {aggregates} are counted so")
        });
        let mut listed = 0;
        let mut rows = Rows::of(&THREADS, ScanRange::all());
        while let Some(page) = rows.next(&self.reader).await? {
            listed += page.len();
        }
        self.expect(listed == threads, || {
            format!("there are {threads} threads, and {listed} are listed")
        });
        Ok(())
    }
}
