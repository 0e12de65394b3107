//! Push rules (Client-Server API, "Push Rules: API").

use std::sync::Arc;

use axum::extract::State;
use resuni_accounts::{Accounts, PushRuleChange, every_kind};
use ruma::{
    api::client::push::{
        PushRule, RuleKind, delete_pushrule, get_pushrule, get_pushrule_actions,
        get_pushrule_enabled, get_pushrules_all, get_pushrules_global_scope, set_pushrule,
        set_pushrule_actions, set_pushrule_enabled,
    },
    push::Ruleset,
};
use serde_json::json;

use crate::{
    error::ApiError,
    extract::{Answer, RawJson, Reply, Ruma},
    routes::Routes,
};

/// The table of this section.
pub fn routes() -> Routes {
    Routes::new()
        .on(all)
        .on(global)
        .on(one)
        .on(put)
        .on(delete)
        .on(actions)
        .on(set_actions)
        .on(enabled)
        .on(set_enabled)
}

async fn all(
    State(accounts): State<Arc<Accounts>>,
    Ruma { caller, .. }: Ruma<get_pushrules_all::v3::Request>,
) -> Result<RawJson, ApiError> {
    let rules = accounts.push_rules(caller.account).await?;
    Ok(RawJson::of(
        &json!({ "global": every_kind(&rules.global)? }),
    ))
}

async fn global(
    State(accounts): State<Arc<Accounts>>,
    Ruma { caller, .. }: Ruma<get_pushrules_global_scope::v3::Request>,
) -> Result<RawJson, ApiError> {
    let rules = accounts.push_rules(caller.account).await?;
    Ok(RawJson::of(&json!(every_kind(&rules.global)?)))
}

/// MSC4306 says `postcontent`; ruma knows the kind by its unstable name only.
fn named(kind: RuleKind) -> RuleKind {
    match kind.as_str() {
        "postcontent" => RuleKind::PostContent,
        _ => kind,
    }
}

fn find(rules: &Ruleset, kind: RuleKind, id: &str) -> Result<PushRule, ApiError> {
    let rule = rules
        .get(named(kind), id)
        .map(|rule| rule.to_owned().into());
    rule.ok_or_else(|| ApiError::not_found("There is no such push rule."))
}

async fn one(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<get_pushrule::v3::Request>,
) -> Answer<get_pushrule::v3::Response> {
    let rules = accounts.push_rules(caller.account).await?;
    let rule = find(&rules.global, body.kind, &body.rule_id)?;
    Ok(Reply(get_pushrule::v3::Response::new(rule)))
}

async fn actions(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<get_pushrule_actions::v3::Request>,
) -> Answer<get_pushrule_actions::v3::Response> {
    let rules = accounts.push_rules(caller.account).await?;
    let rule = find(&rules.global, body.kind, &body.rule_id)?;
    Ok(Reply(get_pushrule_actions::v3::Response::new(rule.actions)))
}

async fn enabled(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<get_pushrule_enabled::v3::Request>,
) -> Answer<get_pushrule_enabled::v3::Response> {
    let rules = accounts.push_rules(caller.account).await?;
    let rule = find(&rules.global, body.kind, &body.rule_id)?;
    Ok(Reply(get_pushrule_enabled::v3::Response::new(rule.enabled)))
}

async fn put(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<set_pushrule::v3::Request>,
) -> Answer<set_pushrule::v3::Response> {
    let change = PushRuleChange::Put {
        rule: body.rule,
        after: body.after,
        before: body.before,
    };
    accounts.change_push_rules(caller.account, change).await?;
    Ok(Reply(set_pushrule::v3::Response::new()))
}

async fn delete(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<delete_pushrule::v3::Request>,
) -> Answer<delete_pushrule::v3::Response> {
    let change = PushRuleChange::Delete {
        kind: named(body.kind),
        rule_id: body.rule_id,
    };
    accounts.change_push_rules(caller.account, change).await?;
    Ok(Reply(delete_pushrule::v3::Response::new()))
}

async fn set_actions(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<set_pushrule_actions::v3::Request>,
) -> Answer<set_pushrule_actions::v3::Response> {
    let (kind, rule_id, actions) = (named(body.kind), body.rule_id, body.actions);
    let change = PushRuleChange::SetActions {
        kind,
        rule_id,
        actions,
    };
    accounts.change_push_rules(caller.account, change).await?;
    Ok(Reply(set_pushrule_actions::v3::Response::new()))
}

async fn set_enabled(
    State(accounts): State<Arc<Accounts>>,
    Ruma { body, caller, .. }: Ruma<set_pushrule_enabled::v3::Request>,
) -> Answer<set_pushrule_enabled::v3::Response> {
    let (kind, rule_id, enabled) = (named(body.kind), body.rule_id, body.enabled);
    let change = PushRuleChange::SetEnabled {
        kind,
        rule_id,
        enabled,
    };
    accounts.change_push_rules(caller.account, change).await?;
    Ok(Reply(set_pushrule_enabled::v3::Response::new()))
}
