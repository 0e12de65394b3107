//! What `/events` and `/initialSync` tell beside events: who types, who has read what, who is there.

use std::collections::BTreeSet;

use resuni_rooms::{
    Membership, RoomNum, RoomView, client_format::push_string, receipts::receipt_contents,
};

use crate::{Sync, SyncToken, Who, answer::list, error::SyncError, joined::quoted};

/// A message of a room that is no event.
fn of_room(view: &RoomView, kind: &str, content: &str) -> String {
    let mut out = String::from("{\"type\":");
    push_string(&mut out, kind);
    out.push_str(",\"room_id\":");
    push_string(&mut out, view.room_id().as_str());
    out.push_str(",\"content\":");
    out.push_str(content);
    out.push('}');
    out
}

impl Sync {
    /// What came between two tokens of these rooms, and, of `everything`, in all rooms of the user. Who only looks into
    /// a room is told nothing of it.
    pub(crate) async fn ephemeral_came(
        &self,
        who: Who<'_>,
        rooms: &[RoomNum],
        everything: bool,
        (since, until): (SyncToken, SyncToken),
    ) -> Result<Vec<String>, SyncError> {
        let ignored = self.accounts.ignored_users(who.account).await?;
        let mut told = Vec::new();
        let mut rooms: BTreeSet<RoomNum> = rooms.iter().copied().collect();
        let moved = until.typing > since.typing;
        if moved && everything {
            let typing = self.typing.changed_since(since.typing);
            let of_user = self.rooms.rooms_of_among(who.user, &typing).await?;
            rooms.extend(of_user.into_iter().map(|room| room.num));
        }
        for room in rooms {
            let Some(view) = self.rooms.view_num(room).await? else {
                continue;
            };
            if view.member(who.user).await? != Some(Membership::Join) {
                continue;
            }
            let receipts = view
                .receipts_since(since.position, until.position, who.user)
                .await?;
            let receipts: Vec<_> = receipts
                .into_iter()
                .filter(|receipt| !ignored.contains(&receipt.user_id))
                .collect();
            let receipts = receipt_contents(&receipts);
            told.extend(
                receipts
                    .iter()
                    .map(|content| of_room(&view, "m.receipt", content)),
            );
            let typing = self.typing.now(room);
            if moved && typing.serial > since.typing {
                let users = typing.users.iter().filter(|user| !ignored.contains(*user));
                let users: Vec<String> = users.map(|user| quoted(user.as_str())).collect();
                let mut content = String::from("{\"user_ids\":");
                list(&mut content, &users);
                content.push('}');
                told.push(of_room(&view, "m.typing", &content));
            }
        }
        if moved && everything {
            let changed = self.presence_since(who.user, Some(since.typing)).await?;
            told.extend(
                changed
                    .into_iter()
                    .filter(|(user, _)| !ignored.contains(user))
                    .map(|(_, event)| event),
            );
        }
        Ok(told)
    }

    /// Who is there, of those who share a room with the user.
    pub(crate) async fn present_to(&self, who: Who<'_>) -> Result<Vec<String>, SyncError> {
        let ignored = self.accounts.ignored_users(who.account).await?;
        let present = self.presence_since(who.user, None).await?;
        let shown = present
            .into_iter()
            .filter(|(user, _)| !ignored.contains(user));
        Ok(shown.map(|(_, event)| event).collect())
    }
}
