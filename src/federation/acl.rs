//! Who may take part in a room: server ACLs (client-server API, "Server Access Control Lists").

use resuni_dag::ServerAcl;
use resuni_rooms::{RoomError, RoomView};
use ruma::ServerName;

use crate::error::FederationError;

/// Whether the room's current ACL allows `server`.
///
/// # Errors
/// When the room cannot be read: nobody is let in by mistake.
pub(crate) async fn allows(view: &RoomView, server: &ServerName) -> Result<bool, RoomError> {
    let acl = view.state("m.room.server_acl", "").await?;
    Ok(acl.is_none_or(|acl| ServerAcl::read(acl.content()).allows(server)))
}

/// Refuses a server that the ACL denies (403 `M_FORBIDDEN`).
pub(crate) async fn require(view: &RoomView, server: &ServerName) -> Result<(), FederationError> {
    if allows(view, server).await? {
        Ok(())
    } else {
        let message = format!("{server} is denied access to this room by its server ACL");
        Err(FederationError::Forbidden(message))
    }
}
