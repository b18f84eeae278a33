//! The REST resources: `issue`, `comment`, `watchers`, `search` and `myself` of version 2.
//!
//! Invariant: a refused request changes nothing, and its answer has Jira's shape of errors.

use std::collections::BTreeSet;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Json, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::macros::format_description;

use super::{Shared, Site, Ticket, World, lock};

/// An error in Jira's shape.
pub(super) fn refusal(
    status: StatusCode,
    messages: &[&str],
    errors: &[(String, String)],
) -> Response {
    let errors: Map<String, Value> =
        errors.iter().map(|(field, text)| (field.clone(), Value::from(text.as_str()))).collect();
    (status, Json(json!({ "errorMessages": messages, "errors": errors }))).into_response()
}

fn no_such_issue() -> Response {
    refusal(StatusCode::NOT_FOUND, &["Issue Does Not Exist"], &[])
}

fn unreadable(rejection: &JsonRejection) -> Response {
    refusal(StatusCode::BAD_REQUEST, &[&rejection.body_text()], &[])
}

pub(super) async fn create(
    State(shared): State<Shared>,
    body: Result<Json<Value>, JsonRejection>,
) -> Response {
    let Json(body) = match body {
        Ok(body) => body,
        Err(rejection) => return unreadable(&rejection),
    };
    let mut world = lock(&shared);
    let mut ticket = match check_new(&world.site, &body) {
        Ok(ticket) => ticket,
        Err(errors) => return refusal(StatusCode::BAD_REQUEST, &[], &errors),
    };
    let number = 1 + world.tickets.iter().filter(|t| t.project == ticket.project).count();
    ticket.key = format!("{}-{number}", ticket.project);
    let id = 10_000 + world.tickets.len();
    let answer = json!({
        "id": id.to_string(), "key": ticket.key, "self": format!("/rest/api/2/issue/{id}"),
    });
    world.tickets.push(ticket);
    (StatusCode::CREATED, Json(answer)).into_response()
}

/// The ticket that a create asks for, still without its key, or Jira's errors by field.
#[expect(clippy::disallowed_methods, reason = "the simulated Jira has a clock of its own")]
fn check_new(site: &Site, body: &Value) -> Result<Ticket, Vec<(String, String)>> {
    let empty = Map::new();
    let fields = body["fields"].as_object().unwrap_or(&empty);
    let mut errors: Vec<(String, String)> = Vec::new();
    let mut wrong = |field: &str, text: &str| errors.push((field.into(), text.into()));
    for field in fields.keys() {
        let known = ["project", "issuetype", "summary", "description", "labels"];
        if !known.contains(&field.as_str()) {
            wrong(
                field,
                &format!(
                    "Field '{field}' cannot be set. It is not on the appropriate screen, or unknown."
                ),
            );
        }
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let get = |field: &str| fields.get(field).unwrap_or(&Value::Null);
    let project = text(&get("project")["key"]);
    if !site.projects.contains(&project) {
        wrong("project", "project is required");
    }
    let issue_type = text(&get("issuetype")["name"]);
    if !site.issue_types.contains(&issue_type) {
        wrong("issuetype", "The issue type selected is invalid.");
    }
    let summary = text(get("summary"));
    if summary.trim().is_empty() {
        wrong("summary", "You must specify a summary of the issue.");
    } else if summary.contains(['\n', '\r']) {
        wrong("summary", "The summary is invalid because it contains newline characters.");
    } else if summary.encode_utf16().count() > 255 {
        wrong("summary", "Summary must be less than 255 characters.");
    }
    let description = text(get("description"));
    if !matches!(get("description"), Value::String(_) | Value::Null) {
        wrong("description", "Operation value must be a string");
    } else if description.encode_utf16().count() > 32_767 {
        wrong(
            "description",
            "The entered text is too long. It exceeds the allowed limit of 32,767 characters.",
        );
    }
    let labels: Option<Vec<String>> = match get("labels") {
        Value::Null => Some(Vec::new()),
        value => serde_json::from_value(value.clone()).ok(),
    };
    match &labels {
        None => wrong("labels", "data was not an array of strings"),
        Some(labels) => {
            for label in labels.iter().filter(|l| l.contains(char::is_whitespace) || l.is_empty()) {
                wrong("labels", &format!("The label '{label}' contains spaces which is invalid."));
            }
            if labels.iter().any(|l| l.chars().count() > 255) {
                wrong("labels", "The label exceeds the maximum length of 255 characters.");
            }
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(Ticket {
        key: String::new(),
        project,
        issue_type,
        summary,
        description,
        labels: labels.unwrap_or_default(),
        status: "Open".into(),
        created: OffsetDateTime::now_utc(),
        comments: Vec::new(),
        watchers: BTreeSet::new(),
    })
}

pub(super) async fn read_issue(State(shared): State<Shared>, Path(key): Path<String>) -> Response {
    match lock(&shared).tickets.iter().find(|t| t.key == key) {
        Some(ticket) => Json(as_issue(ticket)).into_response(),
        None => no_such_issue(),
    }
}

/// Takes summary and description anew.
pub(super) async fn change(
    State(shared): State<Shared>,
    Path(key): Path<String>,
    body: Result<Json<Value>, JsonRejection>,
) -> Response {
    let Json(body) = match body {
        Ok(body) => body,
        Err(rejection) => return unreadable(&rejection),
    };
    match lock(&shared).tickets.iter_mut().find(|t| t.key == key) {
        Some(ticket) => {
            if let Some(text) = body["fields"]["summary"].as_str() {
                ticket.summary = text.to_owned();
            }
            if let Some(text) = body["fields"]["description"].as_str() {
                ticket.description = text.to_owned();
            }
            StatusCode::NO_CONTENT.into_response()
        }
        None => no_such_issue(),
    }
}

#[derive(Deserialize)]
pub(super) struct WhichUser {
    username: String,
}

pub(super) async fn read_user(
    State(shared): State<Shared>,
    Query(WhichUser { username }): Query<WhichUser>,
) -> Response {
    match lock(&shared).site.people.as_ref().is_none_or(|people| people.contains(&username)) {
        true => Json(json!({ "name": username, "active": true })).into_response(),
        false => refusal(StatusCode::NOT_FOUND, &["The user named does not exist"], &[]),
    }
}

fn as_issue(ticket: &Ticket) -> Value {
    let moment = format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]+0000"
    );
    let created = ticket.created.format(&moment).unwrap_or_default();
    let comments: Vec<Value> = ticket.comments.iter().map(|c| json!({ "body": c })).collect();
    json!({ "key": ticket.key, "fields": {
        "project": { "key": ticket.project },
        "issuetype": { "name": ticket.issue_type },
        "summary": ticket.summary,
        "description": ticket.description,
        "labels": ticket.labels,
        "status": { "name": ticket.status },
        "resolution": null,
        "created": created,
        "comment": { "comments": comments, "total": comments.len() },
        "watches": { "watchCount": ticket.watchers.len() },
    }})
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Search {
    jql: String,
    #[serde(default)]
    start_at: usize,
    #[serde(default = "page_size")]
    max_results: usize,
}

fn page_size() -> usize {
    50
}

pub(super) async fn search_get(
    State(shared): State<Shared>,
    query: Result<Query<Search>, QueryRejection>,
) -> Response {
    match query {
        Ok(Query(search)) => answer_search(&lock(&shared), &search),
        Err(rejection) => refusal(StatusCode::BAD_REQUEST, &[&rejection.body_text()], &[]),
    }
}

pub(super) async fn search_post(
    State(shared): State<Shared>,
    body: Result<Json<Search>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(search)) => answer_search(&lock(&shared), &search),
        Err(rejection) => unreadable(&rejection),
    }
}

fn answer_search(world: &World, search: &Search) -> Response {
    let Some(label) = parse_jql(&search.jql) else {
        return refusal(StatusCode::BAD_REQUEST, &["Error in the JQL Query."], &[]);
    };
    let matching = |t: &&Ticket| t.labels.contains(&label);
    let all: Vec<&Ticket> = world.tickets.iter().filter(matching).collect();
    let size = search.max_results.min(1000);
    let issues: Vec<Value> =
        all.iter().skip(search.start_at).take(size).map(|t| as_issue(t)).collect();
    Json(json!({
        "startAt": search.start_at, "maxResults": size, "total": all.len(), "issues": issues,
    }))
    .into_response()
}

/// `labels = "y" ORDER BY created ASC`, the value quoted or not; nothing else.
fn parse_jql(jql: &str) -> Option<String> {
    let clause = jql.trim().strip_suffix("ORDER BY created ASC")?.trim_end();
    let value = clause.strip_prefix("labels")?.trim_start().strip_prefix('=')?.trim();
    let quoted = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
    let value = quoted.unwrap_or(value);
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (!value.is_empty() && value.chars().all(plain)).then(|| value.to_owned())
}

pub(super) async fn add_comment(
    State(shared): State<Shared>,
    Path(key): Path<String>,
    body: Result<Json<Value>, JsonRejection>,
) -> Response {
    let Json(body) = match body {
        Ok(body) => body,
        Err(rejection) => return unreadable(&rejection),
    };
    let text = body["body"].as_str().unwrap_or_default();
    if text.trim().is_empty() {
        let error = ("comment".into(), "Comment body can not be empty!".into());
        return refusal(StatusCode::BAD_REQUEST, &[], &[error]);
    }
    if text.encode_utf16().count() > 32_767 {
        let error = ("comment".into(), "The entered text is too long.".into());
        return refusal(StatusCode::BAD_REQUEST, &[], &[error]);
    }
    match lock(&shared).tickets.iter_mut().find(|t| t.key == key) {
        Some(ticket) => {
            ticket.comments.push(text.into());
            (StatusCode::CREATED, Json(json!({ "body": text }))).into_response()
        }
        None => no_such_issue(),
    }
}

pub(super) async fn read_watchers(
    State(shared): State<Shared>,
    Path(key): Path<String>,
) -> Response {
    match lock(&shared).tickets.iter().find(|t| t.key == key) {
        Some(ticket) => {
            let watchers: Vec<Value> =
                ticket.watchers.iter().map(|name| json!({ "name": name })).collect();
            Json(json!({ "watchCount": watchers.len(), "watchers": watchers })).into_response()
        }
        None => no_such_issue(),
    }
}

pub(super) async fn add_watcher(
    State(shared): State<Shared>,
    Path(key): Path<String>,
    body: Result<Json<String>, JsonRejection>,
) -> Response {
    let Json(name) = match body {
        Ok(body) => body,
        Err(rejection) => return unreadable(&rejection),
    };
    let mut world = lock(&shared);
    if name.is_empty() || world.site.people.as_ref().is_some_and(|p| !p.contains(&name)) {
        let text = format!("The user \"{name}\" does not exist.");
        return refusal(StatusCode::NOT_FOUND, &[&text], &[]);
    }
    match world.tickets.iter_mut().find(|t| t.key == key) {
        Some(ticket) => {
            ticket.watchers.insert(name);
            StatusCode::NO_CONTENT.into_response()
        }
        None => no_such_issue(),
    }
}

pub(super) async fn myself() -> Response {
    Json(json!({ "name": "metalbot", "displayName": "Metalbot", "active": true })).into_response()
}
