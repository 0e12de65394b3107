//! Pages for clients that lack a form of their own (Client-Server API, "Fallback" of User-Interactive Authentication,
//! "Login Fallback"), and the page that a mail leads to.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Path, Query, State},
    response::Response,
    routing::get,
};
use http::{Request, StatusCode, Uri};
use resuni_accounts::{AccountError, Accounts, uia::Stage};
use resuni_delivery::Push;
use resuni_delivery::escaped;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    AppState,
    error::ApiError,
    extract::read_body,
    limits::{Class, Limits, Who},
    page::{SCRIPT_PATH, page, script},
    peer::ClientAddr,
    routes::Routes,
};

/// The table of these pages.
pub fn routes() -> Routes {
    let stage = get(ask).post(answer);
    let confirm = get(may_confirm).post(confirm);
    let unsubscribe = get(may_unsubscribe).post(unsubscribe);
    Routes::new().raw(
        Router::<AppState>::new()
            .route("/_matrix/client/v3/auth/{kind}/fallback/web", stage.clone())
            .route("/_matrix/client/r0/auth/{kind}/fallback/web", stage)
            .route("/_matrix/static/client/login/", get(login))
            .route(SCRIPT_PATH, get(script))
            .route("/_resuni/email/confirm", confirm)
            .route("/_resuni/email/unsubscribe", unsubscribe),
    )
}

/// The largest form, in bytes.
const FORM_BYTES: usize = 16 * 1024;

/// What somebody sends with a form.
async fn posted<T: DeserializeOwned>(
    limits: &Limits,
    request: Request<Body>,
) -> Result<T, ApiError> {
    let (parts, body) = request.into_parts();
    let who = Who::Address(ClientAddr::of(&parts).0);
    limits.take(Class::Login, true, who)?;
    let raw = read_body(&parts, body, FORM_BYTES).await?;
    let wrong = || ApiError::invalid_param("This is not what the form sends.");
    // A form is written as a query is.
    let text = std::str::from_utf8(&raw).map_err(|_| wrong())?;
    let uri: Uri = format!("/?{text}").parse().map_err(|_| wrong())?;
    let Query(form) = Query::try_from_uri(&uri).map_err(|_| wrong())?;
    Ok(form)
}

#[derive(Deserialize)]
struct Asked {
    session: Option<String>,
}

/// The form of a stage; none where a page can't do it.
fn form(stage: Stage) -> Option<&'static str> {
    Some(match stage {
        Stage::Dummy => r#"<p>Please go on.</p>"#,
        Stage::Password => {
            r#"<p><label>Password <input name="password" type="password" autocomplete="current-password" required></label></p>"#
        }
        Stage::RegistrationToken => {
            r#"<p><label>Registration token <input name="token" autocomplete="off" required></label></p>"#
        }
        // The client asks for the mail and knows the session; who reads it confirms on another page.
        Stage::EmailIdentity => return None,
    })
}

fn stage_page(status: StatusCode, form: &str, wrong: Option<&str>) -> Response {
    let wrong = wrong.map_or_else(String::new, |wrong| {
        format!(r#"<p role="alert">{}</p>"#, escaped(wrong))
    });
    let body = format!(
        r#"{wrong}<form method="post">{form}<p><button type="submit">Continue</button></p></form>"#
    );
    page(status, "Confirm that it is you", None, &body)
}

fn unknown() -> Response {
    let body = "<p>This step is not known here, or its time is over. Go back to your client and begin again.</p>";
    page(StatusCode::NOT_FOUND, "Nothing to confirm", None, body)
}

async fn ask(
    State(accounts): State<Arc<Accounts>>,
    Path(kind): Path<String>,
    Query(asked): Query<Asked>,
) -> Response {
    let session = asked.session.unwrap_or_default();
    match Stage::named(&kind).map(|stage| (stage, form(stage))) {
        Some((stage, Some(form))) if accounts.uia_awaits(&session, stage) => {
            stage_page(StatusCode::OK, form, None)
        }
        _ => unknown(),
    }
}

async fn answer(
    State(accounts): State<Arc<Accounts>>,
    State(limits): State<Arc<Limits>>,
    Path(kind): Path<String>,
    Query(asked): Query<Asked>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let typed: Map<String, Value> = posted(&limits, request).await?;
    let session = asked.session.unwrap_or_default();
    let Some((stage, Some(form))) = Stage::named(&kind).map(|stage| (stage, form(stage))) else {
        return Ok(unknown());
    };
    if !accounts.uia_awaits(&session, stage) {
        return Ok(unknown());
    }
    Ok(
        match accounts.uia_fallback(&session, stage, &typed).await? {
            Some(wrong) => stage_page(StatusCode::UNAUTHORIZED, form, Some(wrong)),
            None => {
                let body = "<p>You may close this window and go back to your client.</p>";
                page(StatusCode::OK, "Thank you", Some("done"), body)
            }
        },
    )
}

async fn login() -> Response {
    let body = concat!(
        r#"<form><p><label>User name <input name="user" autocomplete="username" required></label></p>"#,
        r#"<p><label>Password <input name="password" type="password" autocomplete="current-password" required></label></p>"#,
        r#"<p id="error" role="alert"></p><p><button type="submit">Log in</button></p></form>"#,
        r#"<noscript><p>This page needs JavaScript.</p></noscript>"#
    );
    page(StatusCode::OK, "Log in", Some("login"), body)
}

#[derive(Deserialize)]
struct Link {
    sid: String,
    client_secret: String,
    token: String,
}

/// Programs that look after mailboxes open links: only the button confirms.
async fn may_confirm(Query(link): Query<Link>) -> Response {
    let hidden = |name: &str, value: &str| {
        format!(
            r#"<input type="hidden" name="{name}" value="{}">"#,
            escaped(value)
        )
    };
    let body = format!(
        r#"<p>Is this your e-mail address, and was it you who asked for this?</p><form method="post">{}{}{}<p><button type="submit">Yes</button></p></form>"#,
        hidden("sid", &link.sid),
        hidden("client_secret", &link.client_secret),
        hidden("token", &link.token),
    );
    page(StatusCode::OK, "Confirm your e-mail address", None, &body)
}

/// The way on is shown and not taken: who asked for the mail chose it, and need not be who reads it.
async fn confirm(
    State(accounts): State<Arc<Accounts>>,
    State(limits): State<Arc<Limits>>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let link: Link = posted(&limits, request).await?;
    let confirmed = accounts
        .confirm_validation(&link.sid, &link.client_secret, &link.token)
        .await;
    Ok(match confirmed {
        Ok(next) => {
            let next = next.map_or_else(String::new, |next| {
                let next = escaped(&next);
                format!(r#"<p>Go on to <a href="{next}">{next}</a>.</p>"#)
            });
            let body = format!("<p>You may go back to your client now.</p>{next}");
            page(StatusCode::OK, "Thank you", None, &body)
        }
        Err(AccountError::ThreepidAuthFailed) => unknown(),
        Err(error) => return Err(error.into()),
    })
}

#[derive(Deserialize)]
struct Unsubscribing {
    token: String,
}

/// As above, the button does it.
async fn may_unsubscribe() -> Response {
    // The form goes to the address of this page, which has the token.
    let body = r#"<p>Do you want no more mails about what you have not read?</p><form method="post"><p><button type="submit">No more mails</button></p></form>"#;
    page(StatusCode::OK, "Unsubscribe", None, body)
}

/// For the button, and for mail programs that do it with one click (RFC 8058): the token is in the address.
async fn unsubscribe(
    State(push): State<Arc<Push>>,
    State(limits): State<Arc<Limits>>,
    Query(link): Query<Unsubscribing>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let (parts, _) = request.into_parts();
    limits.take(Class::Login, true, Who::Address(ClientAddr::of(&parts).0))?;
    if !push.unsubscribe(&link.token).await? {
        return Ok(unknown());
    }
    let body = "<p>You get no more mails. In your client you can ask for them again.</p>";
    Ok(page(StatusCode::OK, "Unsubscribed", None, body))
}
