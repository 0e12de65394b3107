//! Where another server has to help: `resuni_rooms` says so, `resuni_federation` does it.

use http::StatusCode;
use resuni_federation::{
    Federation, Handshake, Joined,
    identity::{Address, IdentityServer},
};
use resuni_rooms::{MemberDetails, Membership, RoomError, Rooms};
use ruma::{
    OwnedServerName, OwnedUserId, RoomId, UserId,
    api::{client::membership::Invite3pid, error::ErrorCode},
};

use crate::error::ApiError;

/// The rooms, and the way to those of others where federation is on.
pub struct Remote<'a> {
    /// The rooms of this server.
    pub rooms: &'a Rooms,
    /// Other servers.
    pub federation: Option<&'a Federation>,
}

impl Remote<'_> {
    /// The way to other servers, if `error` says that one is needed.
    fn way(&self, error: RoomError) -> Result<(&Federation, Vec<OwnedServerName>), ApiError> {
        match (error, self.federation) {
            (RoomError::Remote { via, .. }, Some(federation)) => Ok((federation, via)),
            (RoomError::Remote { .. }, None) => Err(ApiError::not_found(
                "This room is not here, and federation is switched off.",
            )),
            (error, _) => Err(error.into()),
        }
    }

    /// Joins a room, here or by way of others.
    pub async fn join(
        &self,
        room: &RoomId,
        user: &UserId,
        details: &MemberDetails,
    ) -> Result<(), ApiError> {
        let Err(error) = self.rooms.join(room, user, details).await else {
            return Ok(());
        };
        let (federation, via) = self.way(error)?;
        let content = details.content(Membership::Join);
        let handshake = Handshake {
            room,
            user,
            via: &via,
            content,
        };
        match federation.handshakes.join(handshake).await? {
            Joined::Yes => Ok(()),
            Joined::ServerIsIn => Ok(self.rooms.join(room, user, details).await?),
        }
    }

    /// Knocks on a room, here or by way of others.
    pub async fn knock(
        &self,
        room: &RoomId,
        user: &UserId,
        details: &MemberDetails,
    ) -> Result<(), ApiError> {
        let Err(error) = self.rooms.knock(room, user, details).await else {
            return Ok(());
        };
        let (federation, via) = self.way(error)?;
        let content = details.content(Membership::Knock);
        Ok(federation
            .handshakes
            .knock(Handshake {
                room,
                user,
                via: &via,
                content,
            })
            .await?)
    }

    /// Leaves a room; of one that is elsewhere it is an invite or a knock that ends.
    pub async fn leave(
        &self,
        room: &RoomId,
        user: &UserId,
        reason: Option<&str>,
    ) -> Result<(), ApiError> {
        let error = match self.rooms.leave(room, user, reason).await {
            Ok(()) => return Ok(()),
            // Nobody is left to tell.
            Err(RoomError::NoWay(_)) => return Ok(self.rooms.leave_unheard(room, user).await?),
            Err(error) => error,
        };
        let (federation, via) = self.way(error)?;
        let details = MemberDetails {
            reason: reason.map(str::to_owned),
            ..MemberDetails::default()
        };
        let content = details.content(Membership::Leave);
        Ok(federation
            .handshakes
            .leave(Handshake {
                room,
                user,
                via: &via,
                content,
            })
            .await?)
    }

    /// Invites somebody: one of another server by way of it, as it has to sign the invite.
    pub async fn invite(
        &self,
        room: &RoomId,
        sender: &UserId,
        target: &UserId,
        details: &MemberDetails,
    ) -> Result<(), ApiError> {
        let Err(error) = self.rooms.invite(room, sender, target, details).await else {
            return Ok(());
        };
        let (federation, _) = self.way(error)?;
        let content = details.content(Membership::Invite);
        federation
            .invites
            .send(room, sender, target, content)
            .await?;
        Ok(())
    }

    /// Invites somebody by an address. Who it is, if the identity server knows: they are not invited yet.
    pub async fn invite_address(
        &self,
        room: &RoomId,
        sender: &UserId,
        who: Invite3pid,
    ) -> Result<Option<OwnedUserId>, ApiError> {
        let Some(federation) = self.federation else {
            return Err(ApiError::new(
                StatusCode::FORBIDDEN,
                ErrorCode::ThreepidDenied,
                "People can only be invited by their user id, since federation is switched off.",
            ));
        };
        let name = OwnedServerName::try_from(who.id_server);
        let name = name.map_err(|_| ApiError::invalid_param("`id_server` is no host name"))?;
        let server = IdentityServer {
            name,
            token: who.id_access_token,
        };
        let address = Address {
            medium: who.medium.to_string(),
            address: who.address,
        };
        let invites = &federation.third_party;
        Ok(invites.invite(room, sender, &server, &address).await?)
    }

    /// Leaves all rooms, and declines all invites: for an account that ends.
    pub async fn leave_all(&self, user: &UserId) -> Result<(), ApiError> {
        let here = [Membership::Join, Membership::Invite, Membership::Knock];
        for room in self.rooms.rooms_of(user, &here).await? {
            if let Err(error) = self.leave(&room.room_id, user, None).await {
                tracing::warn!(room = %room.room_id, %user, ?error, "a deactivated user is still in");
            }
        }
        Ok(())
    }
}
