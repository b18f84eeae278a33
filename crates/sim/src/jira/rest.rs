//! The REST resources `issue`, `comment`, `watchers`, `transitions`, `user` and `myself`.
//!
//! Invariant: a refused request changes nothing, and its answer has Jira's shape of errors.

use std::collections::BTreeMap;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Json, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::fields::{Errors, body_text, changed, new_ticket};
use super::world::{SimDialect, Transition};
use super::{Shared, lock, shape};

type Given = Result<Json<Value>, JsonRejection>;

/// Error response in Jira's shape.
pub(super) fn refusal(
    status: StatusCode,
    messages: &[&str],
    errors: &[(String, String)],
) -> Response {
    let errors: Map<String, Value> =
        errors.iter().map(|(field, text)| (field.clone(), Value::from(text.as_str()))).collect();
    (status, Json(json!({ "errorMessages": messages, "errors": errors }))).into_response()
}

pub(super) fn no_such_issue() -> Response {
    refusal(StatusCode::NOT_FOUND, &["Issue Does Not Exist"], &[])
}

pub(super) fn unreadable(rejection: &JsonRejection) -> Response {
    refusal(StatusCode::BAD_REQUEST, &[&rejection.body_text()], &[])
}

fn wrong(errors: &Errors) -> Response {
    refusal(StatusCode::BAD_REQUEST, &[], errors)
}

pub(super) async fn create(State(shared): State<Shared>, body: Given) -> Response {
    let Json(body) = match body {
        Ok(body) => body,
        Err(rejection) => return unreadable(&rejection),
    };
    let mut world = lock(&shared);
    let mut ticket = match new_ticket(&world.site, &body) {
        Ok(ticket) => ticket,
        Err(errors) => return wrong(&errors),
    };
    ticket.key = world.next_key(&ticket.project);
    let id = shape::id(&ticket.key);
    let answer = json!({ "id": id, "key": ticket.key, "self": format!("/rest/api/2/issue/{id}") });
    world.tickets.push(ticket);
    (StatusCode::CREATED, Json(answer)).into_response()
}

pub(super) async fn update(
    State(shared): State<Shared>,
    Path(key): Path<String>,
    body: Given,
) -> Response {
    let Json(body) = match body {
        Ok(body) => body,
        Err(rejection) => return unreadable(&rejection),
    };
    let mut world = lock(&shared);
    let changed = world.find(&key).map(|ticket| changed(&world.site, ticket, &body));
    match (changed, world.find_mut(&key)) {
        (Some(Ok(new)), Some(ticket)) => {
            *ticket = new;
            StatusCode::NO_CONTENT.into_response()
        }
        (Some(Err(errors)), _) => wrong(&errors),
        _ => no_such_issue(),
    }
}

pub(super) async fn read_issue(
    State(shared): State<Shared>,
    Path(key): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let world = lock(&shared);
    let fields = query.get("fields").map_or("*all", String::as_str);
    let wanted: Vec<&str> = fields.split(',').collect();
    match world.find(&key) {
        Some(ticket) => Json(shape::issue(&world.site, ticket, &wanted)).into_response(),
        None => no_such_issue(),
    }
}

pub(super) async fn add_comment(
    State(shared): State<Shared>,
    Path(key): Path<String>,
    body: Given,
) -> Response {
    let Json(body) = match body {
        Ok(body) => body,
        Err(rejection) => return unreadable(&rejection),
    };
    let mut world = lock(&shared);
    let text = match body_text(&world.site, &body["body"]) {
        Ok(text) if text.trim().is_empty() => {
            return wrong(&vec![("comment".into(), "Comment body can not be empty!".into())]);
        }
        Ok(text) => text,
        Err(error) => return wrong(&vec![("comment".into(), error.to_string())]),
    };
    match world.find_mut(&key) {
        Some(ticket) => {
            ticket.comments.push(text);
            let id = ticket.comments.len().to_string();
            (StatusCode::CREATED, Json(json!({ "id": id, "body": body["body"] }))).into_response()
        }
        None => no_such_issue(),
    }
}

pub(super) async fn read_comments(
    State(shared): State<Shared>,
    Path(key): Path<String>,
) -> Response {
    let world = lock(&shared);
    match world.find(&key) {
        Some(ticket) => Json(shape::comments(&world.site, ticket)).into_response(),
        None => no_such_issue(),
    }
}

pub(super) async fn read_watchers(
    State(shared): State<Shared>,
    Path(key): Path<String>,
) -> Response {
    let world = lock(&shared);
    match world.find(&key) {
        Some(ticket) => {
            let watchers: Vec<Value> =
                ticket.watchers.iter().map(|name| shape::user(&world.site, name)).collect();
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
    if !world.site.knows(&name) {
        let text = format!("The user \"{name}\" does not exist.");
        return refusal(StatusCode::NOT_FOUND, &[&text], &[]);
    }
    match world.find_mut(&key) {
        Some(ticket) => {
            ticket.watchers.insert(name);
            StatusCode::NO_CONTENT.into_response()
        }
        None => no_such_issue(),
    }
}

pub(super) async fn read_transitions(
    State(shared): State<Shared>,
    Path(key): Path<String>,
) -> Response {
    let world = lock(&shared);
    let Some(ticket) = world.find(&key) else { return no_such_issue() };
    let all = world.site.transitions.iter().enumerate();
    let offered = all.filter(|(_, transition)| transition.from == ticket.status);
    let shown = |(at, transition): (usize, &Transition)| {
        let to = shape::status(&world.site, &transition.to);
        json!({ "id": transition_id(at), "name": transition.name, "to": to })
    };
    Json(json!({ "transitions": offered.map(shown).collect::<Vec<_>>() })).into_response()
}

pub(super) async fn transition(
    State(shared): State<Shared>,
    Path(key): Path<String>,
    body: Given,
) -> Response {
    let Json(body) = match body {
        Ok(body) => body,
        Err(rejection) => return unreadable(&rejection),
    };
    let mut world = lock(&shared);
    if world.find(&key).is_none() {
        return no_such_issue();
    }
    let given = body["transition"]["id"].as_str();
    let at = (0..world.site.transitions.len()).find(|at| Some(&*transition_id(*at)) == given);
    match at.is_some_and(|at| world.take_through(&key, at)) {
        true => StatusCode::NO_CONTENT.into_response(),
        false => refusal(
            StatusCode::BAD_REQUEST,
            &[
                "It seems that you have tried to perform a workflow operation that is not valid for \
               the current state of this issue.",
            ],
            &[],
        ),
    }
}

fn transition_id(at: usize) -> String {
    (11 + 10 * at).to_string()
}

pub(super) async fn user(
    State(shared): State<Shared>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let world = lock(&shared);
    let key = match world.site.dialect {
        SimDialect::DataCenter => "username",
        SimDialect::Cloud => "accountId",
    };
    match query.get(key) {
        Some(account) if world.site.knows(account) => {
            Json(shape::user(&world.site, account)).into_response()
        }
        Some(account) => {
            let text = format!("The user with the name '{account}' does not exist");
            refusal(StatusCode::NOT_FOUND, &[&text], &[])
        }
        None => {
            let text = format!("Provide the '{key}' query parameter");
            refusal(StatusCode::BAD_REQUEST, &[&text], &[])
        }
    }
}

pub(super) async fn myself(State(shared): State<Shared>) -> Response {
    Json(shape::user(&lock(&shared).site, "metalbot")).into_response()
}
