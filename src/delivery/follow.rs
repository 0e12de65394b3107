//! The follower that judges events and keeps the tallies.
//!
//! Its batch holds the cursor, so an entry has its effect once, whatever happens in between.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use resuni_accounts::{
    ACCOUNT_DATA, AccountDataChanged, AccountNum, InviteVerdict, PUSHERS_CHANGED, PusherId,
    ThreadName,
};
use resuni_dag::Pdu;
use resuni_rooms::{
    EventNum, RoomNum, RoomView, UserNum,
    receipts::{ReceiptLog, TOPIC_RECEIPT},
    relation,
    tables::{EventLog, TOPIC_EVENT, flags},
};
use resuni_store::{Batch, Follower, LogEntry, Position, StoreError};
use ruma::{OwnedUserId, UserId};
use serde::Deserialize;

use crate::{
    Push,
    audience::{Audience, Audiences},
    counts,
    error::DeliveryError,
    rules::{Case, Verdict},
    tables::{
        ACTIVE, MAIN, NEWEST, NOTES, Note, PUSHES, PushRow, SENT, Subject, TALLIES, THREAD_NUMBERS,
        Tally,
    },
};

/// Log entries worked on at once.
const READ_LIMIT: usize = 256;
/// Positions that are passed without effect before the cursor is written nevertheless.
const PASSED: u64 = 10_000;
/// People an event can mention; its size allows some thousand.
const MENTIONS: usize = 1_000;

/// What the entries at hand come to, before it is written.
#[derive(Default)]
struct Work {
    batch: Batch,
    tallies: HashMap<(RoomNum, Subject, u64), Tally>,
    newest: HashMap<(RoomNum, u64), Position>,
    pushes: HashSet<PusherId>,
}

impl Push {
    /// Counts and sends until the store is closed.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn run(self: Arc<Self>) -> Result<(), DeliveryError> {
        let ended = tokio::try_join!(self.count(), self.send()).map(drop);
        // Nothing will be counted any more, so nobody need wait for it.
        self.counted.send_replace(Position(u64::MAX));
        ended
    }

    async fn count(&self) -> Result<(), DeliveryError> {
        let mut guard = self.follower.lock().await;
        let (follower, audiences) = &mut *guard;
        let mut watermark = self.store.log().watch();
        let mut seen = follower.cursor();
        loop {
            let up_to = tokio::select! {
                biased;
                moved = watermark.wait_for(|up_to| *up_to > seen) => match moved {
                    Ok(up_to) => *up_to,
                    Err(_) => return Ok(()),
                },
                reason = self.store.ended() => return ended(reason),
            };
            match self.follow(follower, audiences, seen, up_to).await {
                Ok(()) => seen = up_to,
                Err(DeliveryError::Store(reason)) => return ended(reason),
                Err(error) => return Err(error),
            }
        }
    }

    /// Works everything that is in the log now; for tests, beside no [`Push::run`].
    ///
    /// # Errors
    /// When the store fails.
    pub async fn catch_up(&self) -> Result<(), DeliveryError> {
        let mut guard = self.follower.lock().await;
        let (follower, audiences) = &mut *guard;
        let seen = follower.cursor();
        let up_to = self.store.log().watermark();
        self.follow(follower, audiences, seen, up_to).await
    }

    async fn follow(
        &self,
        follower: &mut Follower,
        audiences: &mut Audiences,
        mut seen: Position,
        up_to: Position,
    ) -> Result<(), DeliveryError> {
        while seen < up_to {
            let entries = self.store.log().read(seen, up_to, READ_LIMIT).await?;
            let Some(last) = entries.last() else { break };
            seen = last.position;
            let mut work = Work::default();
            for entry in &entries {
                match self.entry(&mut work, audiences, entry).await {
                    Err(error) if error.is_of_one_event() => {
                        tracing::warn!(position = entry.position.0, %error, "nobody is notified");
                    }
                    outcome => outcome?,
                }
            }
            if !work.batch.is_empty() || seen.0.saturating_sub(follower.cursor().0) >= PASSED {
                follower.advance(&mut work.batch, seen);
                // Nobody waits for it to be durable: what a crash takes is made again from the log.
                drop(self.store.commit(work.batch).await?);
            }
            self.counted.send_replace(seen);
            if !work.pushes.is_empty() {
                self.pending.lock().extend(work.pushes);
                self.to_send.notify_one();
            }
        }
        self.counted.send_replace(up_to.max(seen));
        Ok(())
    }

    async fn entry(
        &self,
        work: &mut Work,
        audiences: &mut Audiences,
        entry: &LogEntry,
    ) -> Result<(), DeliveryError> {
        match entry.topic {
            TOPIC_EVENT => {
                if let Some(log) = EventLog::from_bytes(&entry.payload) {
                    self.event(work, audiences, RoomNum(entry.scope), entry.position, &log)
                        .await?;
                }
            }
            TOPIC_RECEIPT => {
                if let Some(log) = ReceiptLog::from_bytes(&entry.payload).filter(|log| log.local) {
                    self.read(RoomNum(entry.scope), log.user).await?;
                }
            }
            PUSHERS_CHANGED => {
                self.changed(audiences, AccountNum(entry.scope)).await?;
            }
            ACCOUNT_DATA => {
                let change = AccountDataChanged::from_bytes(&entry.payload);
                if change.is_some_and(|change| change.kind == "m.push_rules") {
                    self.changed(audiences, AccountNum(entry.scope)).await?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Somebody's rules or pushers are others.
    async fn changed(
        &self,
        audiences: &mut Audiences,
        account: AccountNum,
    ) -> Result<(), DeliveryError> {
        self.badges.lock().remove(&account);
        let Some(user) = self.accounts.user_of(account).await? else {
            return Ok(());
        };
        match self.rooms.user_num(&user).await? {
            Some(num) => audiences.refresh_everywhere(&self.defaults, num).await,
            None => Ok(()),
        }
    }

    /// Somebody came or went: their badges are counted anew when they are needed.
    async fn forget_badge(&self, user: UserNum) -> Result<(), DeliveryError> {
        if self.badges.lock().is_empty() {
            return Ok(());
        }
        let user = self.rooms.user_id(user).await?;
        if let Some(account) = self.accounts.find_user(&user).await? {
            self.badges.lock().remove(&account);
        }
        Ok(())
    }

    async fn event(
        &self,
        work: &mut Work,
        audiences: &mut Audiences,
        room: RoomNum,
        position: Position,
        log: &EventLog,
    ) -> Result<(), DeliveryError> {
        for user in &log.memberships {
            self.forget_badge(*user).await?;
            audiences.refresh(&self.defaults, room, *user).await?;
        }
        if log.flags & flags::MEMBER != 0
            && let Some(target) = log.target.filter(|target| *target != log.sender)
        {
            self.invited(work, (room, log.event, position), target)
                .await?;
        }
        if log.flags & (flags::OUT_OF_BAND | flags::ADOPTED) != 0 {
            return Ok(());
        }
        let Some(view) = self.rooms.view_num(room).await? else {
            return Ok(());
        };
        let audience = audiences.of(&self.defaults, &view).await?;
        let others = audience.len() - usize::from(audience.contains(log.sender));
        if others == 0 {
            return Ok(());
        }
        let Some(pdu) = view.pdus(&[log.event]).await?.into_iter().next() else {
            return Ok(());
        };
        self.judge(work, &view, audience, position, log, &pdu).await
    }

    async fn judge(
        &self,
        work: &mut Work,
        view: &RoomView,
        audience: &Audience,
        position: Position,
        log: &EventLog,
        pdu: &Pdu,
    ) -> Result<(), DeliveryError> {
        let room = view.num();
        let case = Case::new(view, pdu, self.nobody.clone()).await?;
        let everybody = case.for_everybody(&self.defaults).await;
        let mut moved = vec![(Subject::Everybody, everybody.beyond(&Verdict::default()))];
        let mut groups = HashMap::new();
        for (hash, rules) in audience.groups() {
            let verdict = case.for_group(&rules.global).await;
            moved.push((Subject::Group(hash), verdict.beyond(&everybody)));
            groups.insert(hash, verdict);
        }
        let of_group = |user: UserNum| {
            let group = audience.group_of(user).and_then(|hash| groups.get(&hash));
            group.unwrap_or(&everybody)
        };
        let sends = !pdu.is_state() && pdu.kind() != "m.room.redaction";
        let mut persons = HashMap::new();
        let followers = self.followers(view, audience, pdu).await?;
        let mut concerned = self.concerned(view, audience, &case, pdu).await?;
        concerned.extend(&followers);
        for user in concerned {
            let follows = followers.contains(&user);
            let verdict = self.for_person(view, &case, user, follows).await?;
            moved.push((Subject::User(user), verdict.beyond(of_group(user))));
            persons.insert(user, verdict);
        }
        if audience.contains(log.sender) && !sends && !persons.contains_key(&log.sender) {
            let nothing = Verdict::default().beyond(of_group(log.sender));
            moved.push((Subject::User(log.sender), nothing));
        }
        moved.retain(|(_, by)| *by != (0, 0));
        let own = (audience.contains(log.sender) && sends).then_some(log.sender);
        if !moved.is_empty() || own.is_some() {
            let thread = self.thread_of(&mut work.batch, view, pdu).await?;
            if let Some(user) = own {
                work.batch.put(&SENT, &(room, user, thread), &position);
            }
            self.note(work, (room, thread, position), &moved).await?;
        }
        for (user, member) in audience.with_pushers() {
            let verdict = persons.get(&user).unwrap_or_else(|| of_group(user));
            if verdict.notify && user != log.sender {
                let subject = (room, log.event, position);
                self.push(work, member.account, subject, verdict, false)
                    .await?;
            }
        }
        Ok(())
    }

    /// Whom the event has to be judged for by person.
    async fn concerned(
        &self,
        view: &RoomView,
        audience: &Audience,
        case: &Case,
        pdu: &Pdu,
    ) -> Result<BTreeSet<UserNum>, DeliveryError> {
        let mut users: BTreeSet<UserNum> = audience.alone().collect();
        for user in mentioned(pdu) {
            if user.server_name() == self.rooms.server_name()
                && let Some(num) = view.user_num(&user).await?
                && audience.contains(num)
            {
                users.insert(num);
            }
        }
        if let Some(text) = case.text() {
            users.extend(audience.named_in(&text));
        }
        Ok(users)
    }

    /// Who of the audience follows the thread that an event is in, where that matters (MSC4306).
    async fn followers(
        &self,
        view: &RoomView,
        audience: &Audience,
        pdu: &Pdu,
    ) -> Result<BTreeSet<UserNum>, DeliveryError> {
        let mut found = BTreeSet::new();
        let wanted = self.accounts.optional_rules().threads;
        let Some((true, root)) = relation(pdu).filter(|_| wanted) else {
            return Ok(found);
        };
        let thread = ThreadName {
            room: view.room_id().to_string(),
            root: root.to_string(),
        };
        for account in self.accounts.followers(&thread).await? {
            if let Some(user) = self.accounts.user_of(account).await?
                && let Some(num) = view.user_num(&user).await?
                && audience.contains(num)
            {
                found.insert(num);
            }
        }
        Ok(found)
    }

    async fn for_person(
        &self,
        view: &RoomView,
        case: &Case,
        user: UserNum,
        follows: bool,
    ) -> Result<Verdict, DeliveryError> {
        let user = view.user_id(user).await?;
        let Some(account) = self.accounts.find_user(&user).await? else {
            return Ok(Verdict::default());
        };
        let rules = self.accounts.push_rules(account).await?;
        let name = display_name(view, &user).await?.unwrap_or_default();
        Ok(case.for_person(&user, name, follows, &rules.global).await)
    }

    /// Writes what an event moved.
    async fn note(
        &self,
        work: &mut Work,
        (room, thread, position): (RoomNum, u64, Position),
        moved: &[(Subject, (i8, i8))],
    ) -> Result<(), DeliveryError> {
        if moved.is_empty() {
            return Ok(());
        }
        for (subject, (notifications, highlights)) in moved {
            let key = (room, *subject, thread);
            let mut tally = match work.tallies.get(&key) {
                Some(tally) => *tally,
                None => counts::tally(&self.store.snapshot(), key, position).await?,
            };
            tally.notifications += i64::from(*notifications);
            tally.highlights += i64::from(*highlights);
            work.tallies.insert(key, tally);
            let row = (room, *subject, thread, position);
            work.batch.put(&TALLIES, &row, &tally);
        }
        let moved = moved
            .iter()
            .map(|(subject, (n, h))| (*subject, *n, *h))
            .collect();
        work.batch
            .put(&NOTES, &(room, position), &Note { thread, moved });
        if thread != MAIN {
            let key = (room, thread);
            let old = match work.newest.insert(key, position) {
                Some(old) => Some(old),
                None => self.store.snapshot().get(&NEWEST, &key).await?,
            };
            if let Some(old) = old {
                work.batch.delete(&ACTIVE, &(room, old));
            }
            work.batch.put(&NEWEST, &key, &position);
            work.batch.put(&ACTIVE, &(room, position), &thread);
        }
        Ok(())
    }

    /// The thread an event is in (spec, "Threaded read receipts").
    async fn thread_of(
        &self,
        batch: &mut Batch,
        view: &RoomView,
        pdu: &Pdu,
    ) -> Result<u64, DeliveryError> {
        let Some(root) = view.thread_of(pdu).await? else {
            return Ok(MAIN);
        };
        let mut name = view.num().0.to_be_bytes().to_vec();
        name.extend_from_slice(root.as_str().as_bytes());
        let numbers = self.store.numbers();
        // Numbers begin at zero, which is the main timeline.
        Ok(numbers.assign(&THREAD_NUMBERS, &name, batch).await? + 1)
    }

    async fn invited(
        &self,
        work: &mut Work,
        (room, event, position): (RoomNum, EventNum, Position),
        target: UserNum,
    ) -> Result<(), DeliveryError> {
        let user = self.rooms.user_id(target).await?;
        let Some(account) = self.accounts.find_user(&user).await? else {
            return Ok(());
        };
        if !self.accounts.has_pushers(account).await? {
            return Ok(());
        }
        let Some(invite) = self.rooms.invite_event(&user, room).await? else {
            return Ok(());
        };
        let verdict = self.accounts.judge_invite(account, invite.sender()).await?;
        if verdict != InviteVerdict::Allow {
            return Ok(());
        }
        let rules = self.accounts.push_rules(account).await?;
        let case = Case::outside(invite.room_id(), &invite, self.nobody.clone());
        let verdict = case
            .for_person(&user, String::new(), false, &rules.global)
            .await;
        if verdict.notify {
            let subject = (room, event, position);
            self.push(work, account, subject, &verdict, true).await?;
        }
        Ok(())
    }

    /// Puts a notification before each pusher of an account.
    async fn push(
        &self,
        work: &mut Work,
        account: AccountNum,
        (room, event, position): (RoomNum, EventNum, Position),
        verdict: &Verdict,
        invite: bool,
    ) -> Result<(), DeliveryError> {
        let actions = serde_json::to_string(&verdict.actions).unwrap_or_default();
        for pusher in self.accounts.pushers(account).await? {
            let ids = pusher.pusher.ids;
            let row = PushRow {
                room,
                event,
                actions: actions.clone(),
                at_ms: self.rooms.now_ms(),
                invite,
            };
            let key = (account, ids.app_id, ids.pushkey, position);
            work.batch.put(&PUSHES, &key, &row);
            let id = PusherId {
                account,
                app_id: key.1,
                pushkey: key.2,
            };
            work.pushes.insert(id);
        }
        Ok(())
    }
}

pub(crate) fn ended(reason: StoreError) -> Result<(), DeliveryError> {
    match reason {
        StoreError::Closed => Ok(()),
        reason => Err(reason.into()),
    }
}

/// Whom an event mentions (spec, "User and room mentions").
fn mentioned(pdu: &Pdu) -> Vec<OwnedUserId> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.mentions")]
        mentions: Mentions,
    }
    #[derive(Deserialize)]
    struct Mentions {
        #[serde(default)]
        user_ids: Vec<String>,
    }
    if !pdu.content().get().contains("user_ids") {
        return Vec::new();
    }
    let Ok(content) = pdu.content_as::<Content>() else {
        return Vec::new();
    };
    let users = content.mentions.user_ids.into_iter().take(MENTIONS);
    users.filter_map(|user| UserId::parse(user).ok()).collect()
}

/// What a member is called in a room.
pub(crate) async fn display_name(
    view: &RoomView,
    user: &UserId,
) -> Result<Option<String>, DeliveryError> {
    let member = view.state("m.room.member", user.as_str()).await?;
    Ok(member.and_then(|event| {
        resuni_rooms::fields::string_member(event.content().get(), "displayname")
    }))
}
