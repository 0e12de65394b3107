//! What is told besides rooms: messages to the device, keys, account data, receipts, who types, threads.

use std::collections::HashSet;

use resuni_accounts::AccountDataChange;
use resuni_rooms::{Membership, RoomNum, RoomView, receipts::receipt_content};
use resuni_store::Position;
use serde_json::json;

use super::{Draft, Look, connection::Sent, object, request::Scope, window::Chosen};
use crate::{
    answer::{list, typed},
    error::SyncError,
    joined::quoted,
    sticky,
};

/// Messages to the device in one answer, if the client wants no fewer.
const MESSAGES: usize = 100;

/// The extensions that tell of rooms; the numbers are those of [`Sent::behind`].
const ACCOUNT_DATA: usize = 0;
const RECEIPTS: usize = 1;
const TYPING: usize = 2;
const STICKY: usize = 3;

/// What the client lacks of a room in an extension.
enum Lacks {
    /// Nothing.
    Nothing,
    /// All.
    All,
    /// What came after this.
    Since(Position),
}

impl Look<'_> {
    /// Adds the extensions that the request asks for.
    pub async fn extend(&self, rooms: &[Chosen], draft: &mut Draft) -> Result<(), SyncError> {
        self.to_device(draft).await?;
        self.e2ee(draft).await?;
        self.account_data(rooms, draft).await?;
        self.receipts(rooms, draft).await?;
        self.typing(rooms, draft).await?;
        self.sticky(rooms, draft).await?;
        self.thread_subscriptions(draft).await?;
        self.note_behind(draft);
        Ok(())
    }

    fn since(&self) -> Option<Position> {
        self.seen.token.map(|token| token.position)
    }

    async fn to_device(&self, draft: &mut Draft) -> Result<(), SyncError> {
        let (Some(wanted), Some(device)) = (&self.request.extensions.to_device, self.who.device)
        else {
            return Ok(());
        };
        let snapshot = self.sync.rooms.store().snapshot();
        let since = wanted.since.unwrap_or_default();
        let limit = wanted.limit.unwrap_or(MESSAGES).clamp(1, MESSAGES);
        let (account, now) = (self.who.account, self.now.position);
        let accounts = &self.sync.accounts;
        let page = accounts
            .to_device(&snapshot, account, device, since, now, limit)
            .await?;
        let next = match page.messages.last() {
            Some(last) if page.more => last.position,
            _ => now.max(since),
        };
        let events: Vec<String> = page
            .messages
            .into_iter()
            .map(|message| message.event.get().to_owned())
            .collect();
        draft.extended |= !events.is_empty();
        let mut out = format!("{{\"next_batch\":\"{}\",\"events\":", next.0);
        list(&mut out, &events);
        out.push('}');
        draft.extensions.push(("to_device", out));
        Ok(())
    }

    async fn e2ee(&self, draft: &mut Draft) -> Result<(), SyncError> {
        let Some(device) = self.who.device.filter(|_| self.request.extensions.e2ee) else {
            return Ok(());
        };
        let snapshot = self.sync.rooms.store().snapshot();
        let accounts = &self.sync.accounts;
        let keys = accounts
            .one_time_keys(&snapshot, self.who.account, device)
            .await?;
        let mut out = json!({
            "device_one_time_keys_count": keys.counts,
            "device_unused_fallback_key_types": keys.unused_fallback,
        });
        if let Some(since) = self.since() {
            let now = self.now.position;
            let lists = self.sync.device_lists(self.who.user, since, now).await?;
            if !lists.changed.is_empty() || !lists.left.is_empty() {
                draft.extended = true;
                out["device_lists"] = json!({ "changed": lists.changed, "left": lists.left });
            }
        }
        draft.extensions.push(("e2ee", out.to_string()));
        Ok(())
    }

    /// Whether a room is one of those that the extension is wanted of.
    fn in_scope(&self, scope: &Scope, room: &Chosen, named: &HashSet<RoomNum>) -> bool {
        let lists = scope.lists.as_ref();
        room.lists
            .iter()
            .any(|list| lists.is_none_or(|lists| lists.contains(list)))
            || room.subscribed && (scope.rooms.is_none() || named.contains(&room.num))
    }

    /// The rooms that the extension is wanted of and that the client has, with what it lacks of each.
    async fn lacking<'a>(
        &self,
        (extension, scope): (usize, &Scope),
        rooms: &'a [Chosen],
        draft: &mut Draft,
    ) -> Result<Vec<(&'a Chosen, Lacks)>, SyncError> {
        let mut named = HashSet::new();
        for room in scope.rooms.iter().flatten() {
            named.extend(self.sync.rooms.room_num(room).await?);
        }
        draft.step.extensions[extension] = true;
        let mut found = Vec::new();
        for room in rooms
            .iter()
            .filter(|room| self.in_scope(scope, room, &named))
        {
            let before = self.seen.rooms.get(&room.num);
            let lacks = match before {
                Some(sent) if self.seen.extensions[extension] => {
                    self.lacks(extension, room.num, sent)
                }
                // A room that the client is not told of has no extensions either.
                None if !matches!(draft.step.rooms.get(&room.num), Some(Some(_))) => Lacks::Nothing,
                _ => Lacks::All,
            };
            draft.told[extension].insert(room.num);
            if let Some(sent) = self.sent(room.num, draft)
                && sent.is_behind(extension).is_some()
            {
                let mut sent = sent.clone();
                sent.set_behind(extension, None);
                draft.step.rooms.insert(room.num, Some(sent));
            }
            if !matches!(lacks, Lacks::Nothing) {
                found.push((room, lacks));
            }
        }
        Ok(found)
    }

    fn lacks(&self, extension: usize, room: RoomNum, sent: &Sent) -> Lacks {
        match (sent.is_behind(extension), self.since()) {
            (Some(behind), _) => Lacks::Since(behind),
            // Who has just joined lacks what came before, too.
            (None, Some(_)) if extension == STICKY && self.may_have_joined(room) => Lacks::All,
            (None, Some(since)) if self.is_touched(extension, room) => Lacks::Since(since),
            _ => Lacks::Nothing,
        }
    }

    fn is_touched(&self, extension: usize, room: RoomNum) -> bool {
        let log = self.stretch.log.as_ref();
        match extension {
            ACCOUNT_DATA => self.stretch.by_room.contains_key(&room),
            RECEIPTS => log.is_none_or(|log| log.receipts.contains(&room)),
            STICKY => log.is_none_or(|log| log.touched.contains(&room)),
            _ => log.is_none_or(|log| log.typing.contains(&room)),
        }
    }

    fn may_have_joined(&self, room: RoomNum) -> bool {
        let log = self.stretch.log.as_ref();
        log.is_none_or(|log| log.moved.contains(&room))
    }

    /// What the client has of a room with this answer.
    fn sent<'a>(&'a self, room: RoomNum, draft: &'a Draft) -> Option<&'a Sent> {
        match draft.step.rooms.get(&room) {
            Some(sent) => sent.as_ref(),
            None => self.seen.rooms.get(&room),
        }
    }

    /// Rooms that the client has, that have news, and that the extensions were not wanted of this time: when they are,
    /// they are told from here.
    fn note_behind(&self, draft: &mut Draft) {
        let Some(since) = self.since() else { return };
        let wanted = &self.request.extensions;
        let scopes = [
            &wanted.account_data,
            &wanted.receipts,
            &wanted.typing,
            &wanted.sticky,
        ];
        for (extension, scope) in scopes.into_iter().enumerate() {
            if scope.is_none() || !self.seen.extensions[extension] {
                continue;
            }
            let log = self.stretch.log.as_ref();
            let touched: Vec<RoomNum> = match (extension, log) {
                (ACCOUNT_DATA, _) => self.stretch.by_room.keys().copied().collect(),
                (_, None) => self.seen.rooms.keys().copied().collect(),
                (RECEIPTS, Some(log)) => log.receipts.iter().copied().collect(),
                (STICKY, Some(log)) => log.touched.iter().copied().collect(),
                (_, Some(log)) => log.typing.iter().copied().collect(),
            };
            let told = &draft.told[extension];
            let behind: Vec<(RoomNum, Sent)> = touched
                .into_iter()
                .filter(|room| !told.contains(room))
                .filter_map(|room| {
                    let sent = self.sent(room, draft)?;
                    let mut sent = sent.is_behind(extension).is_none().then(|| sent.clone())?;
                    sent.set_behind(extension, Some(since));
                    Some((room, sent))
                })
                .collect();
            for (room, sent) in behind {
                draft.step.rooms.insert(room, Some(sent));
            }
        }
    }

    async fn account_data(&self, rooms: &[Chosen], draft: &mut Draft) -> Result<(), SyncError> {
        let Some(scope) = &self.request.extensions.account_data else {
            return Ok(());
        };
        let snapshot = self.sync.rooms.store().snapshot();
        let (accounts, account) = (&self.sync.accounts, self.who.account);
        let fresh = self.since().is_none() || !self.seen.extensions[ACCOUNT_DATA];
        let event =
            |change: &AccountDataChange| typed(&change.event.kind, change.event.content.get());
        let global: Vec<String> = match fresh {
            true => accounts
                .account_data_of(&snapshot, account, None)
                .await?
                .iter()
                .map(event)
                .collect(),
            false => self.stretch.global.iter().map(event).collect(),
        };
        let mut of_rooms = Vec::new();
        for (room, lacks) in self.lacking((ACCOUNT_DATA, scope), rooms, draft).await? {
            let Some(id) = self.sync.rooms.room_id(room.num).await? else {
                continue;
            };
            let since = match lacks {
                Lacks::Since(since) => Some(since),
                _ => None,
            };
            let all = accounts
                .account_data_of(&snapshot, account, Some(id.as_str()))
                .await?;
            let new =
                |change: &&AccountDataChange| since.is_none_or(|since| change.position > since);
            let events: Vec<String> = all.iter().filter(new).map(event).collect();
            if !events.is_empty() {
                let mut out = String::new();
                list(&mut out, &events);
                of_rooms.push((id, out));
            }
        }
        draft.extended |= !global.is_empty() || !of_rooms.is_empty();
        let mut out = String::from("{\"global\":");
        list(&mut out, &global);
        object(&mut out, "rooms", of_rooms);
        out.push('}');
        draft.extensions.push(("account_data", out));
        Ok(())
    }

    async fn receipts(&self, rooms: &[Chosen], draft: &mut Draft) -> Result<(), SyncError> {
        let Some(scope) = &self.request.extensions.receipts else {
            return Ok(());
        };
        let mut of_rooms = Vec::new();
        for (room, lacks) in self.lacking((RECEIPTS, scope), rooms, draft).await? {
            if room.entry.membership != Membership::Join {
                continue;
            }
            let Some(view) = self.sync.rooms.view_num(room.num).await? else {
                continue;
            };
            let (now, reader) = (self.now.position, self.who.user);
            let mut receipts = match lacks {
                Lacks::Since(since) => view.receipts_since(since, now, reader).await?,
                _ => self.first_receipts(&view, draft).await?,
            };
            receipts.retain(|receipt| !self.ignored.contains(&receipt.user_id));
            if let Some(content) = receipt_content(&receipts) {
                of_rooms.push((view.room_id().to_owned(), typed("m.receipt", &content)));
            }
        }
        draft.extended |= !of_rooms.is_empty();
        let mut out = String::from("{");
        object(&mut out, "rooms", of_rooms);
        out.remove(1);
        out.push('}');
        draft.extensions.push(("receipts", out));
        Ok(())
    }

    /// Of a room that is new to the client: the user's own receipts, and those of the events that it is told.
    async fn first_receipts(
        &self,
        view: &RoomView,
        draft: &Draft,
    ) -> Result<Vec<resuni_rooms::Receipt>, SyncError> {
        let mut receipts = view.own_receipts(self.who.user).await?;
        let Some(events) = draft.shown.get(&view.num()) else {
            return Ok(receipts);
        };
        let latest = view
            .receipts_since(Position(0), self.now.position, self.who.user)
            .await?;
        let others = latest.into_iter().filter(|receipt| {
            receipt.user_id != *self.who.user && events.contains(&receipt.event_id)
        });
        receipts.extend(others);
        Ok(receipts)
    }

    async fn typing(&self, rooms: &[Chosen], draft: &mut Draft) -> Result<(), SyncError> {
        let Some(scope) = &self.request.extensions.typing else {
            return Ok(());
        };
        let mut of_rooms = Vec::new();
        for (room, lacks) in self.lacking((TYPING, scope), rooms, draft).await? {
            let typing = self.sync.typing.now(room.num);
            // Of a room that is new to the client, that nobody types is no news.
            let nobody = matches!(lacks, Lacks::All) && typing.users.is_empty();
            if room.entry.membership != Membership::Join || nobody {
                continue;
            }
            let Some(id) = self.sync.rooms.room_id(room.num).await? else {
                continue;
            };
            let users = typing
                .users
                .iter()
                .filter(|user| !self.ignored.contains(*user));
            let users: Vec<String> = users.map(|user| quoted(user.as_str())).collect();
            let mut out = String::from("{\"user_ids\":");
            list(&mut out, &users);
            out.push('}');
            of_rooms.push((id, typed("m.typing", &out)));
        }
        draft.extended |= !of_rooms.is_empty();
        let mut out = String::from("{");
        object(&mut out, "rooms", of_rooms);
        out.remove(1);
        out.push('}');
        draft.extensions.push(("typing", out));
        Ok(())
    }

    /// Sticky events (MSC4354). They follow what the connection has been sent of each room, so the token of their own that
    /// Synapse's form has is only given back: nothing is lost in a room that comes into a window later.
    async fn sticky(&self, rooms: &[Chosen], draft: &mut Draft) -> Result<(), SyncError> {
        let Some(scope) = &self.request.extensions.sticky else {
            return Ok(());
        };
        let (now, now_ms) = (self.now.position, self.sync.rooms.now_ms());
        let mut of_rooms = Vec::new();
        for (room, lacks) in self.lacking((STICKY, scope), rooms, draft).await? {
            if room.entry.membership != Membership::Join {
                continue;
            }
            let Some(view) = self.sync.rooms.view_num(room.num).await? else {
                continue;
            };
            let since = match lacks {
                Lacks::Since(since) => since,
                _ => Position(0),
            };
            let shown = draft.timelines.remove(&room.num).unwrap_or_default();
            let (events, more) =
                sticky::new(&view, (since, now), now_ms, &shown, &self.ignored).await?;
            if more.is_some()
                && let Some(mut sent) = self.sent(room.num, draft).cloned()
            {
                sent.set_behind(STICKY, more);
                draft.step.rooms.insert(room.num, Some(sent));
            }
            if !events.is_empty() {
                let mut viewer = view.viewer(self.who.user).await?;
                let list = viewer.list(&events, &self.form()).await?;
                of_rooms.push((view.room_id().to_owned(), format!("{{\"events\":{list}}}")));
            }
        }
        draft.extended |= !of_rooms.is_empty();
        let mut out = format!("{{\"next_batch\":\"sticky_{}\"", now.0);
        object(&mut out, "rooms", of_rooms);
        out.push('}');
        draft
            .extensions
            .push(("org.matrix.msc4354.sticky_events", out));
        Ok(())
    }
}
