//! The pages.

use axum::{
    extract::{Path, Query, State},
    response::{Html, IntoResponse, Response},
};
use maud::{Markup, html};
use resuni_consortium::{Member, MemberStatus, Reachability};
use resuni_feed::PostToken;
use url::Url;

use crate::{
    WebState,
    error::NoPage,
    layout::{FeedLink, page},
    posts::{self, path_segment},
    text,
};

/// Posts on a page.
const PER_PAGE: usize = 30;

/// `?before=`
#[derive(Debug, Default, serde::Deserialize)]
pub(crate) struct Before {
    before: Option<String>,
}

impl Before {
    fn token(&self) -> Result<Option<PostToken>, NoPage> {
        let bad = |_| NoPage::BadRequest("This address is no place in a timeline.");
        self.before
            .as_deref()
            .map(str::parse)
            .transpose()
            .map_err(bad)
    }
}

fn answer(state: &WebState, page: Result<Markup, NoPage>) -> Response {
    match page {
        Ok(page) => Html(page.into_string()).into_response(),
        Err(none) => none.show(state),
    }
}

/// `/`
pub(crate) async fn home(State(state): State<WebState>) -> Response {
    let server = state.feed.server_name();
    let roster = state.consortium.roster();
    let body = html! {
        h1 { (server) }
        @match roster.own() {
            Some(own) => p {
                "A Matrix homeserver operated by " (operator(own))
                @if let Some(country) = &own.country { ", country " (country) }
                @if let Some(language) = &own.language { ", main language " (language) }
                "."
            },
            None => p { "A Matrix homeserver." },
        }
        ul {
            li { a href="/timeline" { "Public timeline" } ": what people here, and those they follow, say to everybody." }
            li { a href="/consortium" { "Consortium" } ": " (members(roster.members().len())) "." }
        }
        h2 { "Take part" }
        p {
            "Any " a href="https://matrix.org/ecosystem/clients/" rel="noopener" { "Matrix client" }
            " will do. Enter this address as the homeserver: " code { (state.site.base_url) }
        }
        p {
            @if state.site.registration { "You can make an account with your client." }
            @else { "Accounts are made by the operator." }
        }
    };
    answer(&state, Ok(page(&state, "Welcome", None, body)))
}

fn members(count: usize) -> String {
    match count {
        0 => "this server has listed no members".to_owned(),
        1 => "one member server".to_owned(),
        count => format!("{count} member servers"),
    }
}

fn operator(member: &Member) -> Markup {
    // From the operator's own configuration; still, only a web address becomes a link.
    let web =
        |url: &&String| Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
    html! {
        @match member.url.as_ref().filter(web) {
            Some(url) => a href=(url) rel="noopener" { (member.name) },
            None => (member.name),
        }
    }
}

/// `/timeline`
pub(crate) async fn timeline(State(state): State<WebState>, Query(at): Query<Before>) -> Response {
    let made = async {
        let posts = state.feed.timeline(at.token()?, PER_PAGE).await?;
        let body = html! {
            h1 { "Public timeline" }
            (posts::list(&posts, state.feed.server_name(), "/timeline"))
        };
        Ok(page(
            &state,
            "Public timeline",
            Some(&timeline_feed(&state)),
            body,
        ))
    };
    let made = made.await;
    answer(&state, made)
}

pub(crate) fn timeline_feed(state: &WebState) -> FeedLink {
    FeedLink {
        title: format!("Public timeline of {}", state.feed.server_name()),
        href: "/timeline.atom".to_owned(),
    }
}

pub(crate) const NOBODY: NoPage =
    NoPage::NotFound("Nobody of this name has a public profile here.");

/// `/@alice`
pub(crate) async fn profile(
    State(state): State<WebState>,
    Path(name): Path<String>,
    Query(at): Query<Before>,
) -> Response {
    let made = async {
        let before = at.token()?;
        let profile = state.feed.profile(&name).await?.ok_or(NOBODY)?;
        let posts = state.feed.posts_of(&profile, before, PER_PAGE).await?;
        let shown = posts::author_name(&profile.user_id, profile.display_name.as_deref());
        let path = format!("/@{}", path_segment(&name));
        let link = FeedLink {
            title: format!("Posts by {shown}"),
            href: format!("{path}/feed.atom"),
        };
        let body = html! {
            div.person {
                (posts::initial(&shown))
                div {
                    h1 { bdi { (shown) } }
                    p.faint { bdi { (profile.user_id) } " · " (followers(profile.followers)) }
                }
            }
            @if let Some(bio) = &profile.bio {
                p.text dir="auto" { (text::linked(&text::clipped(bio))) }
            }
            h2 { "Posts" }
            (posts::list(&posts, state.feed.server_name(), &path))
        };
        Ok(page(&state, &shown, Some(&link), body))
    };
    let made = made.await;
    answer(&state, made)
}

fn followers(count: u64) -> String {
    match count {
        1 => "1 follower".to_owned(),
        count => format!("{count} followers"),
    }
}

/// `/consortium`
pub(crate) async fn consortium(State(state): State<WebState>) -> Response {
    let status = state.consortium.status().await;
    let body = html! {
        h1 { "Consortium" }
        p { "The servers that stand behind this network, each with an operator of its own." }
        @if status.members.is_empty() {
            p { "This server has listed no members." }
        } @else {
            table {
                thead { tr {
                    th scope="col" { "Member" } th scope="col" { "Server" }
                    th scope="col" { "Country" } th scope="col" { "Language" } th scope="col" { "State" }
                } }
                tbody { @for member in &status.members { (row(member)) } }
            }
        }
    };
    answer(&state, Ok(page(&state, "Consortium", None, body)))
}

fn row(status: &MemberStatus) -> Markup {
    let member = &status.member;
    html! {
        tr {
            th scope="row" { (operator(member)) }
            td { code { (member.server_name) } }
            td { (member.country.as_deref().unwrap_or("–")) }
            td { (member.language.as_deref().unwrap_or("–")) }
            td {
                // Why a member does not answer is for operators: it may name addresses.
                @match &status.reachability {
                    Reachability::Ourselves => "this server",
                    Reachability::NotAsked => "not asked",
                    Reachability::Reachable { software, .. } => {
                        span.good { "reachable" }
                        @if let Some(software) = software { br; span.faint { (text::name(software)) } }
                    },
                    Reachability::Unreachable { .. } => span.bad { "no answer" },
                }
            }
        }
    }
}
