//! Accounts: the list, one of them, what is changed of it, in the form of Synapse's admin API.

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{Method, StatusCode};
use resuni_accounts::{
    AccountFound, AccountKind, AccountNum, AccountOrder, AccountQuery, AccountSummary, Accounts,
    NewAccount, Restriction, Session,
};
use resuni_federation::Federation;
use resuni_rooms::Rooms;
use ruma::{OwnedUserId, UserId, api::error::ErrorCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::{Asked, Named, Next, Operator, Sent, Span, given};
use crate::{
    client::{contacts_of, end_account, member_profile},
    error::{ApiError, json_response},
    extract::RawJson,
    routes::Routes,
};

/// The table of these endpoints.
pub fn routes() -> Routes {
    const ONE: &str = "/_synapse/admin/v2/users/{user}";
    Routes::new()
        .operator(Method::GET, "/_synapse/admin/v2/users", list)
        .operator(Method::GET, "/_synapse/admin/v3/users", list_any)
        .operator(Method::GET, ONE, one)
        .operator(Method::PUT, ONE, set)
}

/// What a tool may ask of the list, beside what part of it.
#[derive(Deserialize)]
struct List {
    name: Option<String>,
    user_id: Option<String>,
    guests: Option<bool>,
    deactivated: Option<bool>,
    locked: Option<bool>,
    admins: Option<bool>,
    order_by: Option<String>,
}

async fn list(
    _: Operator,
    State(accounts): State<Arc<Accounts>>,
    Asked(asked): Asked<List>,
    Asked(span): Asked<Span>,
    Asked(pairs): Asked<Vec<(String, String)>>,
) -> Result<RawJson, ApiError> {
    // Here the word says whether deactivated accounts are among the others.
    let deactivated = match asked.deactivated {
        Some(true) => None,
        _ => Some(false),
    };
    found(&accounts, asked, span, &pairs, deactivated).await
}

async fn list_any(
    _: Operator,
    State(accounts): State<Arc<Accounts>>,
    Asked(asked): Asked<List>,
    Asked(span): Asked<Span>,
    Asked(pairs): Asked<Vec<(String, String)>>,
) -> Result<RawJson, ApiError> {
    let deactivated = asked.deactivated;
    found(&accounts, asked, span, &pairs, deactivated).await
}

async fn found(
    accounts: &Accounts,
    asked: List,
    span: Span,
    pairs: &[(String, String)],
    deactivated: Option<bool>,
) -> Result<RawJson, ApiError> {
    let not_types = pairs.iter().filter(|(key, _)| key == "not_user_type");
    let query = AccountQuery {
        name: asked.name,
        user_id: asked.user_id,
        guests: asked.guests.filter(|guests| !guests),
        admins: asked.admins,
        deactivated,
        locked: match asked.locked {
            Some(true) => None,
            _ => Some(false),
        },
        not_types: not_types.map(|(_, value)| value.clone()).collect(),
        order: order(asked.order_by.as_deref())?,
        backward: span.backward(),
        from: span.from,
        limit: span.limit(),
    };
    let (found, total) = accounts.search(&query).await?;
    let users: Vec<Value> = found.iter().map(described).collect();
    Ok(span.answer("users", users, total, Next::Text))
}

fn order(named: Option<&str>) -> Result<AccountOrder, ApiError> {
    Ok(match named {
        None | Some("name") => AccountOrder::Name,
        Some("is_guest") => AccountOrder::Guest,
        Some("admin") => AccountOrder::Admin,
        Some("user_type") => AccountOrder::Type,
        Some("deactivated") => AccountOrder::Deactivated,
        Some("locked") => AccountOrder::Locked,
        Some("displayname") => AccountOrder::DisplayName,
        Some("avatar_url") => AccountOrder::Avatar,
        Some("creation_ts") => AccountOrder::Created,
        Some("last_seen_ts") => AccountOrder::LastSeen,
        // Nobody is shadow-banned here, so they are all equal.
        Some("shadow_banned") => AccountOrder::Name,
        Some(_) => return Err(ApiError::invalid_param("There is no such order_by.")),
    })
}

/// An account as the tools know it.
fn described(found: &AccountFound) -> Value {
    let row = &found.account.row;
    let ended = row.deactivated.as_ref();
    json!({
        "name": found.account.user_id,
        "displayname": found.display_name,
        "avatar_url": found.avatar_url,
        "is_guest": row.kind == AccountKind::Guest,
        "admin": row.admin,
        "user_type": row.user_type,
        "deactivated": ended.is_some(),
        "erased": ended.is_some_and(|ended| ended.erase),
        "shadow_banned": false,
        "locked": row.locked,
        "suspended": row.suspended,
        "creation_ts": row.created_ms,
        "last_seen_ts": found.last_seen_ms,
    })
}

/// An account with everything that is known of it.
async fn whole(accounts: &Accounts, user: &UserId) -> Result<Value, ApiError> {
    let account = accounts.local_account(user).await?;
    let row = accounts.account(account).await?;
    let row = row.ok_or_else(|| ApiError::not_found("There is no such account."))?;
    let service = match &row.kind {
        AccountKind::AppService(id) => Some(id.clone()),
        _ => None,
    };
    let summary = AccountSummary {
        account,
        user_id: user.to_owned(),
        row: (*row).clone(),
    };
    let mut answer = described(&accounts.described(summary).await?);
    answer["threepids"] = contacts_of(accounts, account).await?.into();
    answer["external_ids"] = json!([]);
    answer["appservice_id"] = json!(service);
    for never in [
        "consent_server_notice_sent",
        "consent_version",
        "consent_ts",
    ] {
        answer[never] = Value::Null;
    }
    Ok(answer)
}

async fn one(
    _: Operator,
    State(accounts): State<Arc<Accounts>>,
    Named(user): Named<OwnedUserId>,
) -> Result<RawJson, ApiError> {
    Ok(RawJson::of(&whole(&accounts, &user).await?))
}

/// What a tool wants an account to be; what it leaves out stays.
#[derive(Deserialize)]
struct Change {
    password: Option<String>,
    logout_devices: Option<bool>,
    displayname: Option<String>,
    avatar_url: Option<String>,
    threepids: Option<Vec<Contact>>,
    external_ids: Option<Vec<Value>>,
    admin: Option<bool>,
    deactivated: Option<bool>,
    locked: Option<bool>,
    suspended: Option<bool>,
    #[serde(default, deserialize_with = "given")]
    user_type: Option<Option<String>>,
}

#[derive(Deserialize)]
struct Contact {
    medium: String,
    address: String,
}

impl Change {
    /// The e-mail addresses that the account is to have.
    fn addresses(&self) -> Result<Option<Vec<String>>, ApiError> {
        let Some(contacts) = &self.threepids else {
            return Ok(None);
        };
        if contacts.iter().any(|contact| contact.medium != "email") {
            return Err(ApiError::invalid_param(
                "Accounts of this server have e-mail addresses only, no telephone numbers.",
            ));
        }
        let addresses = contacts.iter().map(|contact| contact.address.clone());
        Ok(Some(addresses.collect()))
    }

    /// What can be said of the request before anything is done.
    fn check(&self) -> Result<(), ApiError> {
        if self
            .external_ids
            .as_ref()
            .is_some_and(|ids| !ids.is_empty())
        {
            return Err(ApiError::invalid_param(
                "This server knows no external identity providers.",
            ));
        }
        if self.deactivated == Some(true) && self.admin == Some(true) {
            return Err(ApiError::invalid_param(
                "A deactivated account can't be an administrator's.",
            ));
        }
        Ok(())
    }
}

/// Makes an account, or changes one.
async fn set(
    Operator(by): Operator,
    State(accounts): State<Arc<Accounts>>,
    State(rooms): State<Arc<Rooms>>,
    State(federation): State<Option<Arc<Federation>>>,
    Named(user): Named<OwnedUserId>,
    Sent(change): Sent<Change>,
) -> Result<Response, ApiError> {
    if user.server_name() != accounts.server_name() {
        return Err(ApiError::invalid_param("This is a user of another server."));
    }
    change.check()?;
    let addresses = change.addresses()?;
    let (account, status) = match accounts.find_user(&user).await? {
        Some(account) => {
            change_password(&accounts, account, &change).await?;
            (account, StatusCode::OK)
        }
        None => {
            let new = NewAccount {
                localpart: Some(user.localpart().to_owned()),
                password: change.password.clone(),
                user_type: change.user_type.clone().flatten(),
                ..NewAccount::of_kind(AccountKind::User)
            };
            let made = accounts.register(new).await?;
            (made.account, StatusCode::CREATED)
        }
    };
    // Tools send back all that they were told: only what changes is asked of the rules.
    let now = accounts.account(account).await?;
    let now = now.ok_or_else(|| ApiError::not_found("There is no such account."))?;
    if let Some(admin) = change.admin.filter(|admin| *admin != now.admin) {
        set_admin_of(&accounts, &by, account, admin).await?;
    }
    if let Some(label) = change.user_type.filter(|label| *label != now.user_type) {
        accounts.set_user_type(account, label).await?;
    }
    if let Some(addresses) = addresses {
        accounts.set_addresses(account, &addresses).await?;
    }
    let restrictions = [
        (Restriction::Locked, change.locked, now.locked),
        (Restriction::Suspended, change.suspended, now.suspended),
    ];
    for (restriction, wanted, is) in restrictions {
        if let Some(wanted) = wanted.filter(|wanted| *wanted != is) {
            accounts.restrict(&by, &user, restriction, wanted).await?;
        }
    }
    if now.deactivated.is_none() {
        let shown = [
            ("displayname", change.displayname),
            ("avatar_url", change.avatar_url),
        ];
        set_profile(&accounts, &rooms, account, &user, shown).await?;
    }
    if change.deactivated == Some(true) {
        let federation = federation.as_deref();
        end_account(&accounts, &rooms, federation, account, &user, false).await?;
    }
    let answer = whole(&accounts, &user).await?.to_string();
    Ok(json_response(status, answer).into_response())
}

/// What others see of the account, here and in its rooms.
async fn set_profile(
    accounts: &Accounts,
    rooms: &Rooms,
    account: AccountNum,
    user: &UserId,
    fields: [(&str, Option<String>); 2],
) -> Result<(), ApiError> {
    let mut changed = false;
    for (field, value) in fields {
        let Some(value) = value else { continue };
        changed |= accounts
            .set_profile_field(account, field, value.into())
            .await?;
    }
    if changed {
        let profile = member_profile(accounts, user).await?;
        rooms.propagate_profile(user, &profile).await?;
    }
    Ok(())
}

/// A new password, of an account that may be opened again with it.
async fn change_password(
    accounts: &Accounts,
    account: AccountNum,
    change: &Change,
) -> Result<(), ApiError> {
    if change.deactivated == Some(false) {
        accounts
            .reactivate(account, change.password.as_deref())
            .await?;
    }
    if let Some(password) = &change.password {
        let log_out = change.logout_devices.unwrap_or(true);
        accounts
            .set_password(account, password, log_out, None)
            .await?;
    }
    Ok(())
}

/// Makes somebody an operator, or no longer one: but nobody leaves the office empty by mistake.
pub async fn set_admin_of(
    accounts: &Accounts,
    by: &Session,
    account: AccountNum,
    admin: bool,
) -> Result<(), ApiError> {
    if account == by.account && !admin {
        return Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            ErrorCode::Unknown,
            "You may not demote yourself.",
        ));
    }
    Ok(accounts.set_admin(account, admin).await?)
}
