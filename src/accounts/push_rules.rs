//! Push rules: kept as the account data `m.push_rules`, changed rule by rule.

use std::sync::Arc;

use ruma::{
    UserId,
    push::{
        Action, ConditionalPushRule, ConditionalPushRuleInit, EventMatchConditionData,
        HighlightTweakValue, InsertPushRuleError, NewPushRule, PatternedPushRuleInit,
        PushCondition, RemovePushRuleError, RoomMemberCountConditionData, RoomMemberCountIs,
        RuleKind, Ruleset, SoundTweakValue, Tweak,
    },
    uint,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use crate::{AccountNum, Accounts, account_data::PUSH_RULES, error::AccountError, tables::DATA};

/// The content of `m.push_rules`.
#[derive(Serialize, Deserialize)]
struct Content {
    global: Ruleset,
}

/// A change of one rule.
#[derive(Clone, Debug)]
pub enum PushRuleChange {
    /// Adds a rule, or replaces the one with the same id.
    Put {
        /// The rule.
        rule: NewPushRule,
        /// The rule it comes after in importance.
        after: Option<String>,
        /// The rule it comes before.
        before: Option<String>,
    },
    /// Removes a rule of the user.
    Delete {
        /// Its kind.
        kind: RuleKind,
        /// Its id.
        rule_id: String,
    },
    /// Switches a rule on or off.
    SetEnabled {
        /// Its kind.
        kind: RuleKind,
        /// Its id.
        rule_id: String,
        /// On.
        enabled: bool,
    },
    /// Says what a rule does.
    SetActions {
        /// Its kind.
        kind: RuleKind,
        /// Its id.
        rule_id: String,
        /// What it does.
        actions: Vec<Action>,
    },
}

const NO_RULE: AccountError = AccountError::NotFound("There is no such push rule.");
const NO_ACCOUNT: AccountError = AccountError::NotFound("There is no such account.");

impl PushRuleChange {
    fn apply(self, rules: &mut Ruleset) -> Result<(), AccountError> {
        match self {
            Self::Put {
                rule,
                after,
                before,
            } => {
                check_actions(actions_of(&rule))?;
                put(rules, rule, after.as_deref(), before.as_deref())
            }
            Self::Delete { kind, rule_id } => {
                rules.remove(kind, rule_id).map_err(|error| match error {
                    RemovePushRuleError::NotFound => NO_RULE,
                    other => AccountError::InvalidParam(format!("Not possible: {other}.")),
                })
            }
            Self::SetEnabled {
                kind,
                rule_id,
                enabled,
            } => rules
                .set_enabled(kind, rule_id, enabled)
                .map_err(|_| NO_RULE),
            Self::SetActions {
                kind,
                rule_id,
                actions,
            } => {
                check_actions(&actions)?;
                rules
                    .set_actions(kind, rule_id, actions)
                    .map_err(|_| NO_RULE)
            }
        }
    }
}

fn actions_of(rule: &NewPushRule) -> &[Action] {
    match rule {
        NewPushRule::Override(rule)
        | NewPushRule::Underride(rule)
        | NewPushRule::PostContent(rule) => &rule.actions,
        NewPushRule::Content(rule) => &rule.actions,
        NewPushRule::Room(rule) => &rule.actions,
        NewPushRule::Sender(rule) => &rule.actions,
        _ => &[],
    }
}

/// "Push Rules: Actions", and the two that mean nothing since v1.7 but are still sent. Others would be read by every
/// client of the user.
fn check_actions(actions: &[Action]) -> Result<(), AccountError> {
    let known = |action: &Action| match serde_json::to_value(action) {
        Ok(Value::String(name)) => {
            matches!(name.as_str(), "notify" | "dont_notify" | "coalesce")
        }
        Ok(Value::Object(tweak)) => tweak.get("set_tweak").is_some_and(Value::is_string),
        _ => false,
    };
    match actions.iter().all(known) {
        true => Ok(()),
        false => Err(AccountError::InvalidParam(
            "An action of a push rule is \"notify\", or sets a tweak.".into(),
        )),
    }
}

/// Adds or replaces a rule. A rule that is to move is taken out first: ruma would look for its new
/// place in a list that still has it at the old one, which ends one place off or with a panic.
fn put(
    rules: &mut Ruleset,
    rule: NewPushRule,
    after: Option<&str>,
    before: Option<&str>,
) -> Result<(), AccountError> {
    let (kind, id) = (rule.kind(), rule.rule_id().to_owned());
    if after == Some(&id) || before == Some(&id) {
        return Err(AccountError::Rejected(
            "A push rule can't come before or after itself.".into(),
        ));
    }
    // MSC4306: "servers MUST ensure that clients MUST NOT be able to create custom rules" of this kind.
    if kind == RuleKind::PostContent {
        return Err(AccountError::InvalidParam(
            "Rules of the kind postcontent are predefined: nobody can add one.".into(),
        ));
    }
    let was_enabled = rules.get(kind.clone(), &id).map(|rule| rule.enabled());
    if was_enabled.is_some() && (after.is_some() || before.is_some()) && !id.starts_with('.') {
        rules
            .remove(kind.clone(), &id)
            .map_err(|error| AccountError::InvalidParam(format!("Not possible: {error}.")))?;
    }
    rules
        .insert(rule, after, before)
        .map_err(|error| match error {
            InsertPushRuleError::UnknownRuleId | InsertPushRuleError::BeforeHigherThanAfter => {
                AccountError::Rejected(format!("Not possible: {error}."))
            }
            other => AccountError::InvalidParam(format!("Not possible: {other}.")),
        })?;
    match was_enabled {
        Some(enabled) => rules.set_enabled(kind, id, enabled).map_err(|_| NO_RULE),
        None => Ok(()),
    }
}

/// The push rules of an account.
#[derive(Clone, Debug)]
pub struct PushRules {
    /// The rules themselves.
    pub global: Ruleset,
    /// Whether they differ from those of somebody who never touched them. Most people's don't, and
    /// are evaluated together.
    pub custom: bool,
}

/// Predefined rules of proposals that change what people are notified of: whether there are any is for the operator to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OptionalRules {
    /// A thread notifies only those who follow it (MSC4306).
    pub threads: bool,
    /// Devices are woken for every encrypted event of rooms that are not muted (MSC4028).
    pub encrypted: bool,
}

/// The rules that everybody begins with: the predefined ones of the spec, and
/// `.m.rule.contains_user_name`, which the spec had until v1.16 and which bridges and bots that
/// send no `m.mentions` still need; and those of the proposals that the operator wants.
fn default_push_rules(user: &UserId, optional: OptionalRules) -> Ruleset {
    let mut rules = Ruleset::server_default(user);
    if !optional.threads {
        rules.postcontent.clear();
    }
    if optional.encrypted {
        // "Just after the `.m.rule.master` push rule."
        let place = rules.override_.len().min(1);
        rules.override_.shift_insert(place, encrypted_rule());
    }
    let mention = PatternedPushRuleInit {
        actions: vec![
            Action::Notify,
            Action::SetTweak(Tweak::Sound(SoundTweakValue::Default)),
            Action::SetTweak(Tweak::Highlight(HighlightTweakValue::Yes)),
        ],
        default: true,
        enabled: true,
        rule_id: ".m.rule.contains_user_name".to_owned(),
        pattern: user.localpart().to_owned(),
    };
    rules.content.insert(mention.into());
    add_poll_rules(&mut rules);
    rules
}

/// The rule of MSC4028, under its unstable name.
fn encrypted_rule() -> ConditionalPushRule {
    let kind = EventMatchConditionData::new("type".into(), "m.room.encrypted".into());
    ConditionalPushRule::from(ConditionalPushRuleInit {
        actions: vec![Action::Notify],
        default: true,
        enabled: true,
        rule_id: ".org.matrix.msc4028.encrypted_event".to_owned(),
        conditions: vec![PushCondition::EventMatch(kind)],
    })
}

/// The rules for polls (MSC3930, under its unstable names). Written here: ruma's compare the type as a property, which
/// is what the proposal says now, while clients and their tests know them as patterns.
fn add_poll_rules(rules: &mut Ruleset) {
    let of_type = |kind: &str| {
        let kind = format!("org.matrix.msc3381.poll.{kind}");
        PushCondition::EventMatch(EventMatchConditionData::new("type".into(), kind))
    };
    let rule = |name: &str, conditions: Vec<PushCondition>, actions: Vec<Action>| {
        ConditionalPushRule::from(ConditionalPushRuleInit {
            actions,
            default: true,
            enabled: true,
            rule_id: format!(".org.matrix.msc3930.rule.{name}"),
            conditions,
        })
    };
    let response = rule("poll_response", vec![of_type("response")], Vec::new());
    let server_acl = ".m.rule.room.server_acl";
    let place = rules
        .override_
        .get_index_of(server_acl)
        .map_or(rules.override_.len(), |place| place + 1);
    rules.override_.shift_insert(place, response);
    for kind in ["start", "end"] {
        let two = RoomMemberCountIs::from(uint!(2));
        let of_two = PushCondition::RoomMemberCount(RoomMemberCountConditionData::new(two));
        let sound = Action::SetTweak(Tweak::Sound(SoundTweakValue::Default));
        rules.underride.insert(rule(
            &format!("poll_{kind}_one_to_one"),
            vec![of_two, of_type(kind)],
            vec![Action::Notify, sound],
        ));
        rules.underride.insert(rule(
            &format!("poll_{kind}"),
            vec![of_type(kind)],
            vec![Action::Notify],
        ));
    }
}

/// Stored rules, with the defaults as they are in this version of the server.
fn current(stored: Option<&str>, mut defaults: Ruleset) -> Result<Ruleset, AccountError> {
    let Some(stored) = stored else {
        return Ok(defaults);
    };
    let stored: Content = serde_json::from_str(stored).map_err(|error| {
        AccountError::Internal(format!("Stored push rules can't be read: {error}"))
    })?;
    let mut rules = stored.global;
    // This kind ruma leaves alone. All its rules are predefined; people switch them off, or change what they do.
    let changed = std::mem::take(&mut rules.postcontent);
    let threads = std::mem::take(&mut defaults.postcontent);
    rules.update_with_server_default(defaults);
    for mut rule in threads {
        if let Some(changed) = changed.get(rule.rule_id.as_str()) {
            rule.enabled = changed.enabled;
            rule.actions.clone_from(&changed.actions);
        }
        rules.postcontent.insert(rule);
    }
    Ok(rules)
}

fn unwritable(error: serde_json::Error) -> AccountError {
    AccountError::Internal(format!("Push rules can't be written: {error}"))
}

/// The rules as clients see them: with a list of each kind, also where there are none of it. Some clients expect that.
///
/// # Errors
/// If they can't be written, which would be a mistake of ours.
pub fn every_kind(rules: &Ruleset) -> Result<serde_json::Map<String, Value>, AccountError> {
    let mut written = match serde_json::to_value(rules).map_err(unwritable)? {
        Value::Object(written) => written,
        _ => serde_json::Map::new(),
    };
    for kind in ["override", "content", "room", "sender", "underride"] {
        written
            .entry(kind)
            .or_insert_with(|| Value::Array(Vec::new()));
    }
    Ok(written)
}

impl Accounts {
    /// The push rules of an account, for evaluation: its own changes on top of this server's
    /// defaults. From memory; a change is seen a moment after it was acknowledged at the latest.
    pub async fn push_rules(&self, account: AccountNum) -> Result<Arc<PushRules>, AccountError> {
        self.rules
            .get_or_load(account, || async move {
                let key = (account, String::new(), PUSH_RULES.to_owned());
                let row = self.snapshot().get(&DATA, &key).await?;
                let stored = row.as_ref().map(|row| row.content.as_str());
                let defaults = self.default_rules(account).await?;
                let Some(stored) = stored else {
                    return Ok::<_, AccountError>(Some(PushRules {
                        global: defaults,
                        custom: false,
                    }));
                };
                let global = current(Some(stored), defaults.clone())?;
                // Both are written in the order in which they are tried.
                let written = |rules: &Ruleset| serde_json::to_string(rules).map_err(unwritable);
                let custom = written(&global)? != written(&defaults)?;
                Ok(Some(PushRules { global, custom }))
            })
            .await?
            .ok_or(NO_ACCOUNT)
    }

    async fn default_rules(&self, account: AccountNum) -> Result<Ruleset, AccountError> {
        let row = self.account(account).await?.ok_or(NO_ACCOUNT)?;
        Ok(self.predefined_push_rules(&self.user_id(&row.localpart)?))
    }

    /// The rules of a user who never touched them.
    pub fn predefined_push_rules(&self, user: &UserId) -> Ruleset {
        default_push_rules(user, self.config.optional_rules)
    }

    /// The content of `m.push_rules` as clients see it, from what is stored in their snapshot.
    pub(crate) async fn push_rules_content(
        &self,
        account: AccountNum,
        stored: Option<&str>,
    ) -> Result<Box<RawValue>, AccountError> {
        let global = current(stored, self.default_rules(account).await?)?;
        let global = every_kind(&global)?;
        serde_json::value::to_raw_value(&serde_json::json!({ "global": global }))
            .map_err(unwritable)
    }

    /// Changes one push rule.
    pub async fn change_push_rules(
        &self,
        account: AccountNum,
        change: PushRuleChange,
    ) -> Result<(), AccountError> {
        let change = |rules: &mut Ruleset| change.apply(rules).map(|()| true);
        self.update_push_rules(account, change).await
    }

    /// Changes push rules; nothing is written if `change` answers that there was nothing to do.
    pub(crate) async fn update_push_rules(
        &self,
        account: AccountNum,
        change: impl FnOnce(&mut Ruleset) -> Result<bool, AccountError>,
    ) -> Result<(), AccountError> {
        let defaults = self.default_rules(account).await?;
        let changed = self
            .update_account_data(account, None, PUSH_RULES, |stored| {
                let mut global = current(stored, defaults)?;
                if !change(&mut global)? {
                    return Ok(None);
                }
                match serde_json::to_value(&Content { global }).map_err(unwritable)? {
                    Value::Object(content) => Ok(Some(content)),
                    _ => Ok(None),
                }
            })
            .await;
        self.rules.forget([account]);
        changed
    }
}

#[cfg(test)]
mod tests {
    use ruma::push::{NewConditionalPushRule, NewPatternedPushRule, NewSimplePushRule};

    use super::*;
    use crate::testing::{accounts, alice};

    fn word(id: &str) -> NewPushRule {
        NewPushRule::Content(NewPatternedPushRule::new(
            id.into(),
            id.into(),
            vec![Action::Notify],
        ))
    }

    fn plain(rule: NewPushRule) -> PushRuleChange {
        PushRuleChange::Put {
            rule,
            after: None,
            before: None,
        }
    }

    fn content_ids(rules: &Ruleset) -> Vec<&str> {
        let own = rules.content.iter().filter(|rule| !rule.default);
        own.map(|rule| rule.rule_id.as_str()).collect()
    }

    /// MSC4028: after the master rule, before all other predefined ones; what people said comes before it.
    #[tokio::test]
    async fn encrypted_events_are_pushed_unless_somebody_said_otherwise() {
        let mut config = crate::testing::config();
        config.optional_rules.encrypted = true;
        let accounts = crate::testing::accounts_with(config).await;
        let alice = alice(&accounts).await;
        let quiet = NewConditionalPushRule::new("quiet".into(), Vec::new(), Vec::new());
        accounts
            .change_push_rules(alice, plain(NewPushRule::Override(quiet)))
            .await
            .unwrap();
        let rules = accounts.push_rules(alice).await.unwrap();
        let ids = rules.global.override_.iter();
        let first: Vec<&str> = ids.take(3).map(|rule| rule.rule_id.as_str()).collect();
        let encrypted = ".org.matrix.msc4028.encrypted_event";
        assert_eq!(first, [".m.rule.master", "quiet", encrypted]);
    }

    #[test]
    fn rules_for_polls_stand_where_the_proposal_puts_them() {
        let alice = ruma::user_id!("@alice:example.org");
        let rules = default_push_rules(alice, OptionalRules::default());
        let ids = |rules: Vec<&ConditionalPushRule>| -> Vec<String> {
            rules.iter().map(|rule| rule.rule_id.clone()).collect()
        };
        let override_ = ids(rules.override_.iter().collect());
        let acl = override_
            .iter()
            .position(|id| id == ".m.rule.room.server_acl");
        assert_eq!(
            override_[acl.unwrap() + 1],
            ".org.matrix.msc3930.rule.poll_response"
        );
        let underride = ids(rules.underride.iter().collect());
        let encrypted = underride.iter().position(|id| id == ".m.rule.encrypted");
        assert_eq!(
            underride[encrypted.unwrap() + 1..],
            [
                "poll_start_one_to_one",
                "poll_start",
                "poll_end_one_to_one",
                "poll_end"
            ]
            .map(|name| format!(".org.matrix.msc3930.rule.{name}"))
        );
    }

    #[tokio::test]
    async fn rules_are_added_switched_and_removed() {
        let accounts = accounts().await;
        let alice = alice(&accounts).await;
        accounts
            .change_push_rules(alice, plain(word("cake")))
            .await
            .unwrap();
        accounts
            .change_push_rules(
                alice,
                PushRuleChange::SetEnabled {
                    kind: RuleKind::Override,
                    rule_id: ".m.rule.master".into(),
                    enabled: true,
                },
            )
            .await
            .unwrap();
        let rules = &accounts.push_rules(alice).await.unwrap().global;
        assert_eq!(content_ids(rules), ["cake"]);
        assert!(
            rules
                .get(RuleKind::Override, ".m.rule.master")
                .unwrap()
                .enabled()
        );
        let shown = accounts
            .account_data(alice, None, PUSH_RULES)
            .await
            .unwrap()
            .unwrap();
        assert!(shown.get().contains("cake"));
        let delete = |id: &str| PushRuleChange::Delete {
            kind: RuleKind::Content,
            rule_id: id.into(),
        };
        accounts
            .change_push_rules(alice, delete("cake"))
            .await
            .unwrap();
        assert!(matches!(
            accounts.change_push_rules(alice, delete("cake")).await,
            Err(AccountError::NotFound(_))
        ));
        assert!(content_ids(&accounts.push_rules(alice).await.unwrap().global).is_empty());
    }

    #[tokio::test]
    async fn default_rules_can_neither_be_removed_nor_imitated() {
        let accounts = accounts().await;
        let alice = alice(&accounts).await;
        let delete = PushRuleChange::Delete {
            kind: RuleKind::Override,
            rule_id: ".m.rule.master".into(),
        };
        for change in [delete, plain(word(".m.rule.mine")), plain(word("a/b"))] {
            assert!(matches!(
                accounts.change_push_rules(alice, change).await,
                Err(AccountError::InvalidParam(_))
            ));
        }
    }

    #[test]
    fn a_rule_can_be_moved_anywhere_and_keeps_its_switch() {
        let mut rules = Ruleset::new();
        for id in ["c", "b", "a"] {
            put(&mut rules, word(id), None, None).unwrap();
        }
        rules.set_enabled(RuleKind::Content, "a", false).unwrap();
        put(&mut rules, word("a"), Some("c"), None).unwrap();
        assert_eq!(content_ids(&rules), ["b", "c", "a"]);
        assert!(!rules.get(RuleKind::Content, "a").unwrap().enabled());
        put(&mut rules, word("a"), Some("b"), None).unwrap();
        assert_eq!(content_ids(&rules), ["b", "a", "c"]);
        put(&mut rules, word("c"), None, Some("b")).unwrap();
        assert_eq!(content_ids(&rules), ["c", "b", "a"]);
        for (after, before) in [(Some("a"), None), (None, Some("a")), (Some("x"), None)] {
            assert!(put(&mut rules.clone(), word("a"), after, before).is_err());
        }
    }

    #[test]
    fn a_room_rule_is_put_twice() {
        let mut rules = Ruleset::new();
        let room = ruma::owned_room_id!("!r:example.org");
        for actions in [vec![], vec![Action::Notify]] {
            let rule = NewPushRule::Room(NewSimplePushRule::new(room.clone(), actions));
            put(&mut rules, rule, None, None).unwrap();
        }
        assert_eq!(rules.room.len(), 1);
        assert_eq!(rules.room[0].actions.len(), 1);
    }
}
