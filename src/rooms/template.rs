//! Events that we prepare and another server signs: `make_join` and its kin.

use resuni_dag::sign;
use ruma::{CanonicalJsonObject, OwnedRoomId, RoomId, RoomVersionId, UserId};

use crate::{
    build, delta,
    error::RoomError,
    events::NewEvent,
    line::Line,
    plan::{AuthState, judge_own},
    rooms::Rooms,
    send::checked,
};

impl Rooms {
    /// An event at the end of the room, for a user of another server to sign, and the room's version. It is refused if the
    /// rules would refuse it.
    pub async fn template(
        &self,
        room: &RoomId,
        sender: &UserId,
        event: NewEvent,
    ) -> Result<(CanonicalJsonObject, RoomVersionId), RoomError> {
        let room: OwnedRoomId = room.to_owned();
        let mut lane = self.lanes.enter(&room).await;
        let line = Line::open(self, &mut lane, &room).await?;
        let mut line = line
            .filter(|line| line.live.head.is_some())
            .ok_or_else(|| RoomError::UnknownRoom(room.clone()))?;
        // Where we are no more, others know better.
        if !delta::has_local_members(&line.work, line.live.num).await? {
            return Err(RoomError::UnknownRoom(room));
        }
        let spot = build::end_of(&mut line.work, &line.live).await?;
        let (draft, _) =
            build::draft(&line.work, &line.live, &spot, sender, checked(event)?).await?;
        let rules = line.work.rules;
        let object = draft.to_object(rules)?;
        // Signed by us for the length of this function only: the rules want a whole event.
        let pdu = sign(draft, rules, self.server_name(), &self.config.key)?;
        let state = AuthState::read(&line.work.reader, spot.before, &pdu, rules).await?;
        lane.leave(line.live);
        judge_own(&pdu, rules, &state).map_err(RoomError::Forbidden)?;
        Ok((object, rules.version.clone()))
    }
}
