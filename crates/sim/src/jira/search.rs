//! Search for tickets: `search` of Data Center, `search/jql` and `issue/bulkfetch` of Cloud.
//!
//! Invariant: an unknown query is an error, never every ticket.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Json, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::rest::{refusal, unreadable};
use super::world::{JiraWorld, Ticket};
use super::{Shared, lock, shape};

/// Largest number of tickets that Cloud fetches at a time.
const MOST_FETCHED: usize = 100;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Search {
    jql: String,
    #[serde(default)]
    start_at: usize,
    #[serde(default = "page_size")]
    max_results: usize,
    #[serde(default = "all")]
    fields: Fields,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TokenSearch {
    jql: String,
    next_page_token: Option<String>,
    #[serde(default = "page_size")]
    max_results: usize,
    #[serde(default)]
    fields: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Fetch {
    issue_ids_or_keys: Vec<String>,
    #[serde(default)]
    fields: Vec<String>,
}

/// Wanted fields: a list in a body, words separated by commas in an address.
#[derive(Deserialize)]
#[serde(untagged)]
enum Fields {
    Words(String),
    List(Vec<String>),
}

fn page_size() -> usize {
    50
}

fn all() -> Fields {
    Fields::Words("*all".into())
}

pub(super) async fn by_address(
    State(shared): State<Shared>,
    query: Result<Query<Search>, QueryRejection>,
) -> Response {
    match query {
        Ok(Query(search)) => answer(&lock(&shared), &search),
        Err(rejection) => refusal(StatusCode::BAD_REQUEST, &[&rejection.body_text()], &[]),
    }
}

pub(super) async fn by_body(
    State(shared): State<Shared>,
    body: Result<Json<Search>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(search)) => answer(&lock(&shared), &search),
        Err(rejection) => unreadable(&rejection),
    }
}

fn answer(world: &JiraWorld, search: &Search) -> Response {
    let found = match find(world, &search.jql) {
        Ok(found) => found,
        Err(why) => return refusal(StatusCode::BAD_REQUEST, &[&why], &[]),
    };
    let fields: Vec<&str> = match &search.fields {
        Fields::Words(words) => words.split(',').collect(),
        Fields::List(list) => list.iter().map(String::as_str).collect(),
    };
    let size = search.max_results.min(1000);
    let page = found.iter().skip(search.start_at).take(size);
    let issues: Vec<Value> =
        page.map(|ticket| shape::issue(&world.site, ticket, &fields)).collect();
    Json(json!({
        "startAt": search.start_at, "maxResults": size, "total": found.len(), "issues": issues,
    }))
    .into_response()
}

/// Cloud's search: pages are linked by tokens, and a page may be shorter than requested. Here no
/// page has more than two issues.
pub(super) async fn by_token(
    State(shared): State<Shared>,
    body: Result<Json<TokenSearch>, JsonRejection>,
) -> Response {
    let Json(search) = match body {
        Ok(body) => body,
        Err(rejection) => return unreadable(&rejection),
    };
    let world = lock(&shared);
    let found = match find(&world, &search.jql) {
        Ok(found) => found,
        Err(why) => return refusal(StatusCode::BAD_REQUEST, &[&why], &[]),
    };
    let token = search.next_page_token.as_deref();
    let start = match token.map(|token| token.strip_prefix("page+/=").map(str::parse::<usize>)) {
        None => 0,
        Some(Some(Ok(start))) => start,
        Some(_) => return refusal(StatusCode::BAD_REQUEST, &["The page token is invalid."], &[]),
    };
    let end = found.len().min(start + search.max_results.min(2));
    let fields: Vec<&str> = search.fields.iter().map(String::as_str).collect();
    let issues: Vec<Value> = found[start.min(end)..end]
        .iter()
        .map(|ticket| shape::issue(&world.site, ticket, &fields))
        .collect();
    let mut page = json!({ "issues": issues, "isLast": end == found.len() });
    if end < found.len() {
        page["nextPageToken"] = format!("page+/={end}").into();
    }
    Json(page).into_response()
}

/// Fetches tickets by key. Shows new tickets at once, unlike the search.
pub(super) async fn fetch(
    State(shared): State<Shared>,
    body: Result<Json<Fetch>, JsonRejection>,
) -> Response {
    let Json(fetch) = match body {
        Ok(body) => body,
        Err(rejection) => return unreadable(&rejection),
    };
    if fetch.issue_ids_or_keys.len() > MOST_FETCHED {
        return refusal(StatusCode::BAD_REQUEST, &["At most 100 issues can be fetched."], &[]);
    }
    let world = lock(&shared);
    let fields: Vec<&str> = fetch.fields.iter().map(String::as_str).collect();
    let found = fetch.issue_ids_or_keys.iter().filter_map(|key| world.find(key));
    let issues: Vec<Value> =
        found.map(|ticket| shape::issue(&world.site, ticket, &fields)).collect();
    Json(json!({ "issues": issues, "issueErrors": [] })).into_response()
}

/// Runs a query, or returns Jira's error for it. Supported are `labels = x` and `id in (A-1,B-2)`,
/// each also followed by `ORDER BY created ASC`.
fn find<'a>(world: &'a JiraWorld, jql: &str) -> Result<Vec<&'a Ticket>, String> {
    let (clause, oldest_first) = match jql.trim().strip_suffix("ORDER BY created ASC") {
        Some(clause) => (clause.trim(), true),
        None => (jql.trim(), false),
    };
    let mut found: Vec<&Ticket> = if let Some(value) = clause.strip_prefix("labels = ") {
        let label = value.trim().trim_matches('"');
        if label.is_empty() || !label.chars().all(is_plain) {
            return Err("Error in the JQL Query: expecting a value.".into());
        }
        let seen = world.tickets.iter().filter(|ticket| is_indexed(world, ticket));
        seen.filter(|ticket| ticket.labels.iter().any(|have| have == label)).collect()
    } else if let Some(keys) = clause.strip_prefix("id in (").and_then(|k| k.strip_suffix(')')) {
        let mut found = Vec::new();
        for key in keys.split(',').map(str::trim) {
            let ticket = world.find(key).ok_or_else(|| {
                format!("An issue with key '{key}' does not exist for field 'id'.")
            })?;
            found.push(ticket);
        }
        found
    } else {
        return Err(format!("Error in the JQL Query: '{clause}' is not understood."));
    };
    // Newest first, which is Jira's default order.
    if !oldest_first {
        found.reverse();
    }
    Ok(found)
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_.".contains(c)
}

#[expect(clippy::disallowed_methods, reason = "the simulated Jira has a clock of its own")]
fn is_indexed(world: &JiraWorld, ticket: &Ticket) -> bool {
    OffsetDateTime::now_utc() - ticket.created >= world.site.search_lag
}
