//! What a person has said about a room goes along when the room is upgraded.
//!
//! Spec: client-server API, "Room Upgrades": "the server should automatically transfer/replicate some of the user's
//! personalized settings such as notifications, tags, etc."

use ruma::{
    RoomId,
    push::{NewConditionalPushRule, NewPushRule, NewSimplePushRule, PushCondition, Ruleset},
};
use serde_json::Value;

use crate::{
    AccountNum, Accounts,
    error::AccountError,
    tags::{self, TAG},
};

/// The rooms that are direct chats, by the other person.
const DIRECT: &str = "m.direct";

impl Accounts {
    /// Replicates push rules, tags and the mark of a direct chat from a room to the one that replaces it. What the person
    /// has said about the new room already stays; doing it again changes nothing.
    pub async fn carry_over(
        &self,
        account: AccountNum,
        from: &RoomId,
        to: &RoomId,
    ) -> Result<(), AccountError> {
        self.update_push_rules(account, |rules| copy_rules(rules, from, to))
            .await?;
        let old = self.tags(account, from.as_str()).await?;
        if !old.is_empty() {
            self.update_account_data(account, Some(to.as_str()), TAG, |stored| {
                Ok(stored.is_none().then(|| tags::content(old)))
            })
            .await?;
        }
        self.update_account_data(account, None, DIRECT, |stored| {
            let content = stored.and_then(|stored| serde_json::from_str(stored).ok());
            let Some(Value::Object(mut rooms)) = content else {
                return Ok(None);
            };
            let lists = rooms.values_mut().filter_map(Value::as_array_mut);
            let changed = lists
                .map(|list| add_beside(list, from, to))
                .filter(|added| *added);
            Ok((changed.count() > 0).then_some(rooms))
        })
        .await
    }
}

/// Lists the new room where the old one is.
fn add_beside(list: &mut Vec<Value>, from: &RoomId, to: &RoomId) -> bool {
    let has = |room: &RoomId, list: &[Value]| list.iter().any(|item| item == room.as_str());
    let missing = has(from, list) && !has(to, list);
    if missing {
        list.push(to.as_str().into());
    }
    missing
}

/// Whether a rule was added: the one for the room itself, and overriding ones that are named after it, as clients make
/// them to silence a room.
fn copy_rules(rules: &mut Ruleset, from: &RoomId, to: &RoomId) -> Result<bool, AccountError> {
    let mut added = false;
    let known = rules.room.contains(to.as_str());
    if let Some(rule) = rules.room.get(from.as_str()).filter(|_| !known) {
        let enabled = rule.enabled;
        let rule = NewSimplePushRule::new(to.to_owned(), rule.actions.clone());
        added |= add(rules, NewPushRule::Room(rule), enabled)?;
    }
    let known = rules.override_.contains(to.as_str());
    if let Some(rule) = rules.override_.get(from.as_str()).filter(|_| !known) {
        let conditions = rule
            .conditions
            .iter()
            .map(|condition| of_room(condition, from, to));
        let (conditions, actions) = (conditions.collect(), rule.actions.clone());
        let enabled = rule.enabled;
        let rule = NewConditionalPushRule::new(to.to_string(), conditions, actions);
        added |= add(rules, NewPushRule::Override(rule), enabled)?;
    }
    Ok(added)
}

fn add(rules: &mut Ruleset, rule: NewPushRule, enabled: bool) -> Result<bool, AccountError> {
    let (kind, id) = (rule.kind(), rule.rule_id().to_owned());
    let internal = |error: String| AccountError::Internal(error);
    rules
        .insert(rule, None, None)
        .map_err(|error| internal(error.to_string()))?;
    let switched = rules.set_enabled(kind, id, enabled);
    switched.map_err(|error| internal(error.to_string()))?;
    Ok(true)
}

/// A condition that asks for the old room asks for the new one.
fn of_room(condition: &PushCondition, from: &RoomId, to: &RoomId) -> PushCondition {
    let mut condition = condition.clone();
    if let PushCondition::EventMatch(event) = &mut condition
        && event.key == "room_id"
        && event.pattern == from.as_str()
    {
        event.pattern = to.to_string();
    }
    condition
}

#[cfg(test)]
mod tests {
    use ruma::{
        push::{Action, RuleKind},
        room_id,
    };
    use serde_json::json;

    use super::*;
    use crate::{PushRuleChange, testing};

    #[tokio::test]
    async fn what_was_said_about_a_room_goes_along() {
        let accounts = testing::accounts().await;
        let account = testing::alice(&accounts).await;
        let (from, to) = (room_id!("!old:x"), room_id!("!new:x"));
        let put = |rule| PushRuleChange::Put {
            rule,
            after: None,
            before: None,
        };
        let own = NewSimplePushRule::new(from.to_owned(), vec![Action::Notify]);
        let room = PushCondition::EventMatch(ruma::push::EventMatchConditionData::new(
            "room_id".to_owned(),
            from.to_string(),
        ));
        let mute = NewConditionalPushRule::new(from.to_string(), vec![room], vec![]);
        for rule in [NewPushRule::Room(own), NewPushRule::Override(mute)] {
            accounts
                .change_push_rules(account, put(rule))
                .await
                .unwrap();
        }
        let info = || json!({"order": 0.5}).as_object().unwrap().clone();
        accounts
            .set_tag(account, from.as_str(), "m.favourite", info())
            .await
            .unwrap();
        let direct = |rooms: Value| json!({"@bob:x": rooms}).as_object().unwrap().clone();
        accounts
            .set_account_data(account, None, DIRECT, &direct(json!([from])))
            .await
            .unwrap();

        for _ in 0..2 {
            accounts.carry_over(account, from, to).await.unwrap();
            let rules = accounts.push_rules(account).await.unwrap();
            let rules = &rules.global;
            for id in [from, to] {
                assert!(rules.get(RuleKind::Room, id).is_some(), "{id}");
                let mute = rules.override_.get(id.as_str()).unwrap();
                let condition = serde_json::to_value(&mute.conditions[0]).unwrap();
                assert_eq!(condition["pattern"], id.as_str());
            }
            let tags = accounts.tags(account, to.as_str()).await.unwrap();
            assert_eq!(tags["m.favourite"], Value::Object(info()));
            let stored = accounts
                .account_data(account, None, DIRECT)
                .await
                .unwrap()
                .unwrap();
            let stored: Value = serde_json::from_str(stored.get()).unwrap();
            assert_eq!(stored, json!({"@bob:x": [from, to]}));
        }
        // What is said about the new room stays.
        accounts
            .delete_tag(account, to.as_str(), "m.favourite")
            .await
            .unwrap();
        accounts.carry_over(account, from, to).await.unwrap();
        assert!(
            accounts
                .tags(account, to.as_str())
                .await
                .unwrap()
                .is_empty()
        );
        // Nothing is written about rooms of which nothing was said.
        let other = room_id!("!other:x");
        accounts
            .carry_over(account, other, room_id!("!more:x"))
            .await
            .unwrap();
        let data = accounts
            .account_data(account, Some("!more:x"), TAG)
            .await
            .unwrap();
        assert!(data.is_none());
    }
}
