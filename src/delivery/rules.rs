//! Push rules applied: what an event is to people with certain rules.
//!
//! An event is judged once for everybody (the predefined rules), once for each set of rules that
//! somebody in the room has made for themselves, and by person for those few whom it concerns as a
//! person: who is mentioned, and who sent it.

use resuni_accounts::{Accounts, PushRules};
use resuni_dag::Pdu;
use resuni_rooms::RoomView;
use ruma::{
    OwnedUserId, RoomId, UInt, UserId,
    events::room::power_levels::{
        RoomPowerLevels, RoomPowerLevelsEventContent, RoomPowerLevelsSource,
    },
    push::{Action, AnyPushRuleRef, FlattenedJson, PushCondition, PushConditionRoomCtx, Ruleset},
    serde::Raw,
};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::error::DeliveryError;

/// Predefined rules that name the person they are for. They can only match for whom an event names.
const PERSONAL: [&str; 3] = [
    ".m.rule.invite_for_me",
    ".m.rule.is_user_mention",
    ".m.rule.contains_user_name",
];

/// What an event is to somebody.
#[derive(Debug, Clone, Default)]
pub(crate) struct Verdict {
    pub notify: bool,
    pub highlight: bool,
    pub actions: Vec<Action>,
}

impl Verdict {
    fn of(rule: AnyPushRuleRef<'_>) -> Self {
        let notify = rule.triggers_notification();
        Self {
            notify,
            highlight: notify && rule.triggers_highlight(),
            actions: rule.actions().to_vec(),
        }
    }

    /// By how much this verdict moves the counts beyond another.
    pub fn beyond(&self, other: &Self) -> (i8, i8) {
        (
            i8::from(self.notify) - i8::from(other.notify),
            i8::from(self.highlight) - i8::from(other.highlight),
        )
    }
}

/// Under which rules somebody's events are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The predefined ones, as far as this room is concerned.
    Default,
    /// Rules of their own, that others may have too.
    Group(u64),
    /// Rules that depend on their display name.
    Alone,
}

/// Which of these rules can match in a room, for the comparison of people's rules.
fn relevant<'a>(rules: &'a Ruleset, room: &RoomId) -> impl Iterator<Item = AnyPushRuleRef<'a>> {
    let elsewhere = move |conditions: &[PushCondition], room: &RoomId| {
        conditions.iter().any(|condition| match condition {
            PushCondition::EventMatch(data) => {
                data.key == "room_id"
                    && !data.pattern.contains(['*', '?'])
                    && !data.pattern.eq_ignore_ascii_case(room.as_str())
            }
            _ => false,
        })
    };
    let room = room.to_owned();
    rules
        .iter()
        .filter(move |rule| rule.enabled() && !is_personal(*rule))
        .filter(move |rule| match rule {
            AnyPushRuleRef::Room(rule) => rule.rule_id == room,
            AnyPushRuleRef::Override(rule) | AnyPushRuleRef::Underride(rule) => {
                !elsewhere(&rule.conditions, &room)
            }
            _ => true,
        })
}

fn is_personal(rule: AnyPushRuleRef<'_>) -> bool {
    rule.is_server_default() && PERSONAL.contains(&rule.rule_id())
}

fn conditions_of(rule: AnyPushRuleRef<'_>) -> &[PushCondition] {
    match rule {
        AnyPushRuleRef::Override(rule)
        | AnyPushRuleRef::Underride(rule)
        | AnyPushRuleRef::PostContent(rule) => &rule.conditions,
        _ => &[],
    }
}

/// The hash of what a set of rules says in a room: what matches and what then happens, not how the
/// rules are called.
fn hash(rules: &Ruleset, room: &RoomId) -> u64 {
    let mut hash = Sha256::new();
    for rule in relevant(rules, room) {
        let what = match rule {
            AnyPushRuleRef::Content(rule) => format!("content {}", rule.pattern),
            AnyPushRuleRef::Room(_) => "room".to_owned(),
            AnyPushRuleRef::Sender(rule) => format!("sender {}", rule.rule_id),
            other => serde_json::to_string(conditions_of(other)).unwrap_or_default(),
        };
        // The length first, so that two lists never read alike.
        hash.update((what.len() as u64).to_be_bytes());
        hash.update(what);
        hash.update([
            u8::from(rule.triggers_notification()),
            u8::from(rule.triggers_highlight()),
        ]);
        // Sounds are for pushers, which are served by group too.
        let actions = serde_json::to_string(rule.actions()).unwrap_or_default();
        hash.update((actions.len() as u64).to_be_bytes());
        hash.update(actions);
    }
    let digest: [u8; 32] = hash.finalize().into();
    digest
        .iter()
        .take(8)
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The rules of nobody in particular.
pub(crate) struct Defaults {
    rules: Ruleset,
}

impl Defaults {
    pub fn new(accounts: &Accounts, nobody: &UserId) -> Self {
        Self {
            rules: accounts.predefined_push_rules(nobody),
        }
    }

    /// Under which rules somebody's events in a room are judged.
    pub fn standing(&self, rules: &PushRules, room: &RoomId) -> Standing {
        if !rules.custom {
            return Standing::Default;
        }
        #[expect(deprecated, reason = "people have such rules from before v1.7")]
        let by_name =
            |condition: &PushCondition| matches!(condition, PushCondition::ContainsDisplayName);
        if relevant(&rules.global, room).any(|rule| conditions_of(rule).iter().any(by_name)) {
            return Standing::Alone;
        }
        match hash(&rules.global, room) {
            own if own == hash(&self.rules, room) => Standing::Default,
            own => Standing::Group(own),
        }
    }
}

/// An event ready to be judged.
pub(crate) struct Case {
    event: FlattenedJson,
    context: PushConditionRoomCtx,
}

impl Case {
    /// `nobody` is a user id that nobody has: for whom the event is judged where it is not a person.
    pub async fn new(
        view: &RoomView,
        pdu: &Pdu,
        nobody: OwnedUserId,
    ) -> Result<Self, DeliveryError> {
        let members = UInt::try_from(view.joined_count()).unwrap_or(UInt::MAX);
        let room = view.room_id().to_owned();
        let context = PushConditionRoomCtx::new(room, members, nobody, String::new());
        // Those who follow the thread are asked by person.
        let mut context = following(context, false);
        let event = flattened(pdu);
        // Reading the levels of a large room costs more than all the rest.
        if event.get(r"content.m\.mentions.room").is_some() || pdu.content().get().contains("@room")
        {
            context.power_levels = power_levels(view).await?.map(Into::into);
        }
        Ok(Self { event, context })
    }

    /// An invite to a room that we are not in: nothing is known of the room.
    pub fn outside(room: &RoomId, pdu: &Pdu, nobody: OwnedUserId) -> Self {
        let context =
            PushConditionRoomCtx::new(room.to_owned(), UInt::from(2u8), nobody, String::new());
        Self {
            event: flattened(pdu),
            context,
        }
    }

    /// The event as the predefined rules see it.
    pub async fn for_everybody(&self, defaults: &Defaults) -> Verdict {
        self.for_group(&defaults.rules).await
    }

    /// The event under these rules, for nobody in particular.
    pub async fn for_group(&self, rules: &Ruleset) -> Verdict {
        for rule in rules.iter().filter(|rule| !is_personal(*rule)) {
            if rule.applies(&self.event, &self.context).await {
                return Verdict::of(rule);
            }
        }
        Verdict::default()
    }

    /// The event for one person, who follows the thread it is in or does not. Nobody is notified of what they sent.
    pub async fn for_person(
        &self,
        user: &UserId,
        name: String,
        follows: bool,
        rules: &Ruleset,
    ) -> Verdict {
        if self.event.get_str("sender") == Some(user.as_str()) {
            return Verdict::default();
        }
        let mut context = following(self.context.clone(), follows);
        context.user_id = user.to_owned();
        context.user_display_name = name;
        for rule in rules {
            if rule.applies(&self.event, &context).await {
                return Verdict::of(rule);
            }
        }
        Verdict::default()
    }

    /// The text that is searched for names, in lower case; none if mentions are told apart from it.
    pub fn text(&self) -> Option<String> {
        if self.event.contains_mentions() {
            return None;
        }
        Some(self.event.get_str("content.body")?.to_lowercase())
    }
}

/// The condition of MSC4306 for somebody who follows the event's thread, or does not.
fn following(context: PushConditionRoomCtx, follows: bool) -> PushConditionRoomCtx {
    context.with_has_thread_subscription_fn(move |_| Box::pin(std::future::ready(follows)))
}

fn flattened(pdu: &Pdu) -> FlattenedJson {
    let json = RawValue::from_string(pdu.json().to_owned()).unwrap_or_default();
    FlattenedJson::from_raw(&Raw::<()>::from_json(json))
}

async fn power_levels(view: &RoomView) -> Result<Option<RoomPowerLevels>, DeliveryError> {
    let Some(create) = view.state("m.room.create", "").await? else {
        return Ok(None);
    };
    let creators = resuni_dag::creators(&create, view.rules())
        .map(|creators| creators.into_iter().collect::<Vec<_>>())
        .unwrap_or_default();
    let content = view.state("m.room.power_levels", "").await?;
    let content: Option<RoomPowerLevelsEventContent> =
        content.and_then(|event| event.content_as().ok());
    let source = RoomPowerLevelsSource::from(content);
    let rules = &view.rules().ruma().authorization;
    Ok(Some(RoomPowerLevels::new(source, rules, creators)))
}
