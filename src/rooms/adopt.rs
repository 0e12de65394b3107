//! Coming into a room with another server's help, and memberships of rooms we are not in.

use std::collections::{HashMap, HashSet};

use resuni_dag::Pdu;
use resuni_store::Position;
use ruma::{OwnedRoomId, RoomId, RoomVersionId, UserId};

use crate::{
    delta::{self, Judged, member_of},
    error::RoomError,
    lane::Tip,
    line::Line,
    partial::{Omitted, Told, Whole},
    plan::Verdict,
    receive::Refs,
    rooms::{Rooms, rules_of},
    send::again,
    tables::{Given, MEMBERS, Place, TOPIC_EVENT, USER_ROOMS, UserRoom, flags},
    types::{EventNum, Membership, SnapNum, StateKeyNum},
    work::Era,
};

impl Rooms {
    /// The answer of `send_join`: our join, the state of the room before it, and the auth chain of that state. The join
    /// becomes the newest event of the room's timeline, and what we know of its history stays.
    ///
    /// Signatures, hashes and format were checked before. Events that their auth events don't allow are left out of the
    /// state. With users of ours in the room already, the state that was handed to us is resolved with our own.
    ///
    /// With `omitted`, members were left out: the room is partial until [`Rooms::complete`] (MSC3902).
    pub async fn adopt(
        &self,
        join: Pdu,
        version: &RoomVersionId,
        state: Vec<Pdu>,
        auth_chain: Vec<Pdu>,
        omitted: Option<Omitted>,
    ) -> Result<Position, RoomError> {
        let given = (state, auth_chain, omitted);
        again(|| self.try_adopt(join.clone(), version, given.clone())).await
    }

    async fn try_adopt(
        &self,
        join: Pdu,
        version: &RoomVersionId,
        (state, auth_chain, omitted): (Vec<Pdu>, Vec<Pdu>, Option<Omitted>),
    ) -> Result<Position, RoomError> {
        let room_id: OwnedRoomId = join.room_id().to_owned();
        let mut lane = self.lanes.enter(&room_id).await;
        let mut line = self
            .begin(&mut lane, &room_id, rules_of(version.as_str())?)
            .await?;
        if line.live.rules.version != *version {
            let known = &line.live.rules.version;
            return Err(refused(
                &room_id,
                &format!("it has version {known}, and the other server says {version}"),
            ));
        }
        let ids: Vec<_> = state.iter().filter(|pdu| pdu.is_state()).cloned().collect();
        line.outliers(state.into_iter().chain(auth_chain).collect())
            .await?;
        line.enter_era(omitted).await?;
        let before = line.state_handed_over(ids).await?;
        if line
            .work
            .reader
            .state_event(before, "m.room.create", "")
            .await?
            .is_none()
        {
            return Err(refused(&room_id, "its state has no create event"));
        }
        line.come_in(join, before).await?;
        let positions = line.finish(lane).await?.durable().await?;
        Ok(positions.first().copied().unwrap_or(Position(0)))
    }
}

fn refused(room: &RoomId, why: &str) -> RoomError {
    RoomError::bad(
        "M_UNKNOWN",
        format!("the room {room} can't be taken over from the other server: {why}"),
    )
}

impl Line<'_> {
    /// Whether what is written from here on has to be judged again.
    async fn enter_era(&mut self, omitted: Option<Omitted>) -> Result<(), RoomError> {
        let inside = delta::has_local_members(&self.work, self.live.num).await?;
        let Some(Omitted { resident, servers }) = omitted else {
            // With a whole state there is nothing left to wait for, but while we are in there may be.
            if self.work.era == Era::Partial && !inside {
                self.work.era = Era::Whole;
                self.whole = Some(Whole::default());
            }
            return Ok(());
        };
        if inside && self.work.era == Era::Whole {
            let why = "this server came into it meanwhile, and knows more of its state";
            return Err(refused(&self.live.room_id, why));
        }
        self.work.era = Era::Partial;
        let mut told = HashSet::with_capacity(servers.len());
        for server in servers {
            told.insert(self.work.server(server.as_str()).await?);
        }
        let own = self.work.server(self.work.rooms.server_name().as_str());
        told.remove(&own.await?);
        self.told = Some(Told {
            resident,
            servers: told,
        });
        Ok(())
    }

    /// The state of these events, as far as they are here and were not rejected.
    async fn state_handed_over(&mut self, state: Vec<Pdu>) -> Result<SnapNum, RoomError> {
        let mut entries: HashMap<StateKeyNum, EventNum> = HashMap::with_capacity(state.len());
        for pdu in state {
            let Some(num) = self.work.reader.event_num(pdu.event_id()).await? else {
                continue;
            };
            let row = self.work.reader.event_row(num).await?;
            let Some(key) = row
                .state_key
                .filter(|_| row.room == self.live.num)
                .filter(|_| !matches!(row.place, Place::Rejected | Place::Unchecked))
            else {
                continue;
            };
            if entries.insert(key, num).is_some_and(|other| other != num) {
                let what = format!(
                    "its state has two events for {} {:?}",
                    pdu.kind(),
                    pdu.state_key()
                );
                return Err(refused(&self.live.room_id, &what));
            }
        }
        let near = self
            .live
            .head
            .as_ref()
            .map_or(SnapNum::EMPTY, |head| head.snap);
        Ok(self
            .work
            .state_of(near, entries.into_iter().collect(), self.told.is_some())
            .await?)
    }

    async fn come_in(&mut self, join: Pdu, before: SnapNum) -> Result<(), RoomError> {
        let refs = Refs::of(&self.work, self.live.num, &join).await?;
        if let Some(missing) = refs.missing_auth.first() {
            return Err(refused(
                &self.live.room_id,
                &format!("the auth event {missing} of our join is missing"),
            ));
        }
        let inside = delta::has_local_members(&self.work, self.live.num).await?;
        if !inside {
            // What was the current state when we left says nothing today.
            self.live.tips.clear();
        }
        let before = self
            .learn_of(before, &refs.auth, Some(join.sender()))
            .await?;
        match self.judge_in(&join, &refs.auth, before, inside).await? {
            Verdict::Accept => {}
            Verdict::Reject(reason) | Verdict::SoftFail(reason) => {
                return Err(RoomError::Forbidden(reason));
            }
        }
        let tip = Tip {
            event: EventNum(0),
            id: join.event_id().to_owned(),
            depth: join.depth(),
        };
        let mut event = self.judged(join, refs.auth, before, true).await?;
        if self.told.is_some() && !refs.missing_prev.is_empty() {
            event.given = Given::Wanted;
        }
        if inside {
            let follows = self.followed(refs.prev).await?;
            return self.extend(event, &follows, flags::ADOPTED).await;
        }
        let tips = vec![Tip {
            event: event.num,
            ..tip
        }];
        self.lay(event, tips, flags::ADOPTED).await
    }
}

/// A membership of one of our users in a room that we are not in.
pub struct OutOfBand<'a> {
    /// Whose.
    pub user: &'a UserId,
    /// The room.
    pub room: &'a RoomId,
    /// Its version.
    pub version: &'a RoomVersionId,
    /// The stripped state, a JSON list, checked and pruned. `None` at the end of an invite or a knock.
    pub stripped: Option<String>,
    /// The member event, signatures and hashes checked.
    pub event: Pdu,
}

impl Rooms {
    /// One of our users was invited to a room (`PUT /_matrix/federation/v2/invite`).
    pub async fn record_invite(&self, invite: OutOfBand<'_>) -> Result<(), RoomError> {
        self.check_not_blocked(invite.room).await?;
        self.record(invite, Membership::Invite).await
    }

    /// Another server took our user's knock.
    pub async fn record_knock(&self, knock: OutOfBand<'_>) -> Result<(), RoomError> {
        self.record(knock, Membership::Knock).await
    }

    /// The end of an invite or a knock: our user declined it over another server, or it was taken back.
    pub async fn record_remote_leave(&self, leave: OutOfBand<'_>) -> Result<(), RoomError> {
        self.record(leave, Membership::Leave).await
    }

    async fn record(&self, what: OutOfBand<'_>, membership: Membership) -> Result<(), RoomError> {
        let fits = member_of(&what.event) == Some(what.user)
            && delta::membership_in(&what.event) == Some(membership);
        if !fits || what.event.room_id() != what.room {
            return Err(RoomError::bad(
                "M_INVALID_PARAM",
                "the event is not the membership that it is sent for",
            ));
        }
        let room: OwnedRoomId = what.room.to_owned();
        let mut lane = self.lanes.enter(&room).await;
        let mut line = self
            .begin(&mut lane, &room, rules_of(what.version.as_str())?)
            .await?;
        let (work, num) = (&mut line.work, line.live.num);
        let user = work.user(what.user).await?;
        if delta::has_local_members(work, num).await? {
            for now in [Membership::Join, Membership::Ban] {
                if work
                    .reader
                    .snapshot
                    .get(&MEMBERS, &(num, now, user))
                    .await?
                    .is_some()
                {
                    let name = now.as_str();
                    return Err(RoomError::Forbidden(format!(
                        "the membership of {} is {name} already",
                        what.user
                    )));
                }
            }
        }
        let event = line
            .judged(what.event, Vec::new(), SnapNum::EMPTY, false)
            .await?;
        let (event_num, pdu) = (event.num, event.pdu.clone());
        let known = line
            .work
            .reader
            .snapshot
            .get(&crate::tables::EVENTS, &event_num)
            .await?
            .is_some();
        if !known {
            delta::put_event(
                &mut line.work,
                num,
                Judged {
                    place: Place::Unchecked,
                    ..event
                },
            )
            .await?;
        }
        let position = line
            .work
            .positions(1)
            .first()
            .copied()
            .unwrap_or(Position(0));
        let stripped = Some(what.stripped.unwrap_or_else(|| "[]".to_owned()));
        let row = UserRoom {
            membership,
            event: event_num,
            position,
            stripped,
            forgotten: false,
        };
        line.work.batch.put(&USER_ROOMS, &(user, num), &row);
        let mut entry =
            delta::log_entry(&mut line.work, event_num, &pdu, flags::OUT_OF_BAND).await?;
        entry.memberships.push(user);
        line.work
            .batch
            .log(position, TOPIC_EVENT, num.0, entry.to_bytes());
        line.finish(lane).await?.durable().await?;
        Ok(())
    }
}
