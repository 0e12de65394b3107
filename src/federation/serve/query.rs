//! Questions about our people, aliases and public rooms.

use resuni_rooms::{DirectoryQuery, Networks, spaces::Hierarchy};
use ruma::{
    RoomId, ServerName,
    api::federation::{
        directory::{
            get_public_rooms::v1 as public_rooms, get_public_rooms_filtered::v1 as filtered,
        },
        query::{
            get_profile_information::v1 as profile, get_room_information::v1 as room_information,
        },
    },
    directory::Filter,
};
use serde_json::Value;

use super::Serve;
use crate::error::FederationError;

/// Rooms of one page of the directory.
const MAX_ROOMS: usize = 500;

impl Serve {
    /// `GET /v1/query/profile`.
    ///
    /// # Errors
    /// 404 when there is no such user, or no such field.
    pub async fn profile(
        &self,
        request: profile::Request,
    ) -> Result<profile::Response, FederationError> {
        let unknown = || FederationError::NotFound("there is no such profile".to_owned());
        if request.user_id.server_name() != self.own {
            return Err(FederationError::invalid("the user is not of this server"));
        }
        let fields = self
            .accounts
            .profile(request.user_id.localpart())
            .await?
            .ok_or_else(unknown)?;
        let wanted = request.field.as_ref().map(ToString::to_string);
        let fields = fields
            .into_iter()
            .filter(|(key, _)| wanted.as_ref().is_none_or(|w| w == key));
        let answer: profile::Response = fields
            .collect::<Vec<(String, Value)>>()
            .into_iter()
            .collect();
        if wanted.is_some() && answer.iter().next().is_none() {
            return Err(unknown());
        }
        Ok(answer)
    }

    /// `GET /v1/hierarchy/{roomId}`.
    ///
    /// # Errors
    /// 404 for rooms that we are not in or that the server may not know of.
    pub async fn hierarchy(
        &self,
        origin: &ServerName,
        room: &RoomId,
        suggested_only: bool,
    ) -> Result<Hierarchy, FederationError> {
        let view = self.room(origin, room).await?;
        if !self.rooms.may_preview_from(&view, origin).await? {
            return Err(super::unknown_room(room));
        }
        Ok(self
            .rooms
            .hierarchy_for(&view, origin, suggested_only)
            .await?)
    }

    /// `GET /v1/query/directory`.
    ///
    /// # Errors
    /// 404 when there is no such alias.
    pub async fn directory(
        &self,
        request: room_information::Request,
    ) -> Result<room_information::Response, FederationError> {
        if request.room_alias.server_name() != self.own {
            return Err(FederationError::invalid("the alias is not of this server"));
        }
        match self.rooms.resolve_alias(&request.room_alias).await? {
            Some((room, servers)) => Ok(room_information::Response::new(room, servers)),
            None => Err(FederationError::NotFound(
                "there is no such alias".to_owned(),
            )),
        }
    }

    /// `GET /v1/publicRooms`.
    ///
    /// # Errors
    /// 400 for a token that is none.
    pub async fn public_rooms(
        &self,
        request: public_rooms::Request,
    ) -> Result<public_rooms::Response, FederationError> {
        let limit = request.limit.map(u64::from);
        let page = self.page(limit, request.since, Filter::new()).await?;
        let mut response = public_rooms::Response::new();
        response.chunk = page.chunk;
        response.next_batch = page.next_batch;
        response.prev_batch = page.prev_batch;
        response.total_room_count_estimate = page.total_room_count_estimate;
        Ok(response)
    }

    /// `POST /v1/publicRooms`.
    ///
    /// # Errors
    /// 400 for a token that is none.
    pub async fn public_rooms_filtered(
        &self,
        request: filtered::Request,
    ) -> Result<filtered::Response, FederationError> {
        self.page(request.limit.map(u64::from), request.since, request.filter)
            .await
    }

    async fn page(
        &self,
        limit: Option<u64>,
        since: Option<String>,
        filter: Filter,
    ) -> Result<filtered::Response, FederationError> {
        let types = (!filter.room_types.is_empty()).then(|| {
            let types = filter.room_types.iter();
            types.map(|kind| kind.as_str().map(str::to_owned)).collect()
        });
        let limit = limit.and_then(|limit| usize::try_from(limit).ok());
        let query = DirectoryQuery {
            limit: Some(limit.unwrap_or(MAX_ROOMS).min(MAX_ROOMS)),
            since,
            search: filter.generic_search_term,
            room_types: types,
            networks: Networks::Own,
        };
        let page = self.rooms.public_rooms(&query).await?;
        let mut response = filtered::Response::new();
        response.total_room_count_estimate = Some(ruma::UInt::new_saturating(
            page.total_room_count_estimate as u64,
        ));
        response.next_batch = page.next_batch;
        response.prev_batch = page.prev_batch;
        // The same fields under the same names, in the types of this API.
        let chunk = serde_json::to_value(&page.chunk).and_then(serde_json::from_value);
        response.chunk = chunk.map_err(|e| FederationError::Internal(e.to_string()))?;
        Ok(response)
    }
}
