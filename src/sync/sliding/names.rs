//! What a room is called, and who is in it.

use std::fmt::Write;

use resuni_rooms::{
    RoomView, SnapNum,
    fields::{member, string_member},
};

use super::{
    Look,
    room::{MEMBER, State},
};
use crate::{answer::list, error::SyncError, joined::quoted};

impl Look<'_> {
    /// Name, avatar, heroes and numbers of members, as far as they are new.
    pub(super) async fn write_names(
        &self,
        out: &mut String,
        view: &RoomView,
        (snap, initial): (SnapNum, bool),
        state: &State,
        live: bool,
    ) -> Result<(), SyncError> {
        let now = view.state_at_snap(snap);
        let text = async |kind: &str, field: &str| -> Result<Option<String>, SyncError> {
            let Some(num) = now.num(kind, "").await? else {
                return Ok(None);
            };
            // What was redacted is no name.
            let shown = view.shown(&[num]).await?;
            let content = shown.first().map(|shown| shown.pdu.content().get());
            let text = content.and_then(|content| string_member(content, field));
            Ok(text.filter(|text| !text.is_empty()))
        };
        let name = match state.name || state.people {
            true => text("m.room.name", "name").await?,
            false => None,
        };
        if state.name {
            match &name {
                Some(name) => drop(write!(out, ",\"name\":{}", quoted(name))),
                None if !initial => out.push_str(",\"name\":null"),
                None => {}
            }
        }
        if state.avatar {
            match text("m.room.avatar", "url").await? {
                Some(url) => drop(write!(out, ",\"avatar\":{}", quoted(&url))),
                None if !initial => out.push_str(",\"avatar\":null"),
                None => {}
            }
        }
        // Of a room that the user left, the people of today are not theirs to know.
        if !live {
            return Ok(());
        }
        if (state.name || state.people) && name.is_none() {
            out.push_str(",\"heroes\":");
            self.write_heroes(out, view, snap).await?;
        }
        if state.people {
            let (joined, invited) = (view.joined_count(), view.invited_count());
            let _ = write!(
                out,
                ",\"joined_count\":{joined},\"invited_count\":{invited}"
            );
        }
        Ok(())
    }

    async fn write_heroes(
        &self,
        out: &mut String,
        view: &RoomView,
        snap: SnapNum,
    ) -> Result<(), SyncError> {
        let state = view.state_at_snap(snap);
        let mut heroes = Vec::new();
        for user in view.heroes(self.who.user).await? {
            let mut hero = format!("{{\"user_id\":{}", quoted(user.as_str()));
            if let Some(event) = state.get(MEMBER, user.as_str()).await? {
                let content = event.content().get();
                for field in ["displayname", "avatar_url"] {
                    // As it was signed: a JSON string, or nothing.
                    if let Some(text) = member(content, field).filter(|text| text.starts_with('"'))
                    {
                        let _ = write!(hero, ",\"{field}\":{text}");
                    }
                }
            }
            hero.push('}');
            heroes.push(hero);
        }
        list(out, &heroes);
        Ok(())
    }
}
