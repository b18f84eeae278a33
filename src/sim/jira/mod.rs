//! A stateful Jira Data Center in our own process: the part of REST version 2 that a ticket client
//! needs, faults on demand, and pages for people.
//!
//! Invariants: it checks what it gets at least as strictly as Jira does, so that a client which
//! passes here is not refused there; the pages only read.

mod pages;
mod wiki;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Json, Path, Query, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What the stand-in knows before the first ticket.
#[derive(Clone, Debug)]
pub struct Site {
    /// The one bearer token that it takes.
    pub token: String,
    pub projects: Vec<String>,
    pub issue_types: Vec<String>,
    /// Accounts that exist; `None` takes every name.
    pub people: Option<Vec<String>>,
}

impl Site {
    /// Three projects, four issue types, everybody.
    pub fn with_token(token: impl Into<String>) -> Site {
        let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect();
        Site {
            token: token.into(),
            projects: words(&["OPS", "HW", "NET"]),
            issue_types: words(&["Task", "Bug", "Incident", "Problem"]),
            people: None,
        }
    }
}

/// One ticket as the stand-in keeps it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Ticket {
    pub key: String,
    pub project: String,
    pub issue_type: String,
    pub summary: String,
    /// Wiki text as it came.
    pub description: String,
    pub labels: Vec<String>,
    pub status: String,
    pub created: OffsetDateTime,
    /// Wiki text, oldest first.
    pub comments: Vec<String>,
    pub watchers: BTreeSet<String>,
}

/// Something that goes wrong with one REST request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This answer instead of any work.
    Answer { status: u16, headers: Vec<(String, String)>, body: Vec<u8> },
    /// The work is done and the connection is dropped before the answer.
    DropReply,
    /// The work is done and the answer never comes.
    HangReply,
}

/// Handle of a running stand-in. Dropping it stops the server.
#[derive(Debug)]
pub struct SimJira {
    address: SocketAddr,
    shared: Arc<Mutex<World>>,
    stopping: CancellationToken,
    server: JoinHandle<()>,
}

type Shared = Arc<Mutex<World>>;

#[derive(Debug)]
struct World {
    site: Site,
    tickets: Vec<Ticket>,
    down: bool,
    lose_creates: u32,
    faults: VecDeque<Fault>,
    requests: BTreeMap<&'static str, u64>,
}

impl SimJira {
    /// Serves [`Site::with_token`] on the listener.
    pub fn start(listener: TcpListener, token: impl Into<String>) -> std::io::Result<SimJira> {
        Self::start_site(listener, Site::with_token(token))
    }

    /// Serves the site on the listener. Must be called inside a tokio runtime.
    pub fn start_site(listener: TcpListener, site: Site) -> std::io::Result<SimJira> {
        let address = listener.local_addr()?;
        let shared = Arc::new(Mutex::new(World {
            site,
            tickets: Vec::new(),
            down: false,
            lose_creates: 0,
            faults: VecDeque::new(),
            requests: BTreeMap::new(),
        }));
        let stopping = CancellationToken::new();
        let app = router(shared.clone());
        let stopped = stopping.clone().cancelled_owned();
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(stopped).await {
                tracing::error!(%error, "the simulated Jira ended");
            }
        });
        Ok(SimJira { address, shared, stopping, server })
    }

    /// Base address, such as `http://127.0.0.1:8090/`.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// All tickets, oldest first.
    pub fn issues(&self) -> Vec<Ticket> {
        lock(&self.shared).tickets.clone()
    }

    /// While down, every request gets a 503 with an empty body.
    pub fn set_down(&self, down: bool) {
        lock(&self.shared).down = down;
    }

    /// The next `n` creates happen, and their connection is dropped before the answer.
    pub fn lose_next_reply(&self, n: u32) {
        lock(&self.shared).lose_creates += n;
    }

    /// Queues a fault for the next REST request that has none yet.
    pub fn fault_next(&self, fault: Fault) {
        lock(&self.shared).faults.push_back(fault);
    }

    /// How many requests came, by kind: `create`, `get`, `search`, `comment`, `watch`, `myself`,
    /// `page`, `other`. Refused ones count too.
    pub fn requests(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.shared).requests.clone()
    }

    /// Stops listening and ends open connections; waits a second for those in use.
    pub async fn stop(mut self) {
        self.stopping.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(1), &mut self.server).await;
        if ended.is_err() {
            self.server.abort();
        }
    }
}

impl Drop for SimJira {
    fn drop(&mut self) {
        self.stopping.cancel();
        self.server.abort();
    }
}

fn lock(shared: &Mutex<World>) -> MutexGuard<'_, World> {
    // Every change of the world is one assignment, so a panicked holder leaves it whole.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/rest/api/2/issue", post(create))
        .route("/rest/api/2/issue/{key}", get(read_issue))
        .route("/rest/api/2/issue/{key}/comment", post(add_comment))
        .route("/rest/api/2/issue/{key}/watchers", get(read_watchers).post(add_watcher))
        .route("/rest/api/2/search", get(search_get).post(search_post))
        .route("/rest/api/2/myself", get(myself))
        .route("/", get(pages::list))
        .route("/browse/{key}", get(pages::ticket))
        .layer(middleware::from_fn_with_state(shared.clone(), gate))
        .with_state(shared)
}

/// Counts, refuses and misbehaves before and after every handler.
async fn gate(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let rest = path.starts_with("/rest/");
    let kind = kind(request.method(), path);
    let fault = {
        let mut world = lock(&shared);
        *world.requests.entry(kind).or_default() += 1;
        if world.down {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        let fault = if !rest {
            None
        } else if kind == "create" && world.lose_creates > 0 {
            world.lose_creates -= 1;
            Some(Fault::DropReply)
        } else {
            world.faults.pop_front()
        };
        if let Some(Fault::Answer { status, headers, body }) = fault {
            return scripted(status, &headers, body);
        }
        let bearer = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        if rest && bearer.and_then(|b| b.strip_prefix("Bearer ")) != Some(&world.site.token) {
            return refusal(StatusCode::UNAUTHORIZED, &["You are not authenticated."], &[]);
        }
        fault
    };
    let response = next.run(request).await;
    match fault {
        Some(Fault::DropReply) => {
            let broken = std::io::Error::other("reply lost on purpose");
            let stream = futures_util::stream::iter([Err::<Bytes, _>(broken)]);
            Response::new(Body::from_stream(stream))
        }
        Some(Fault::HangReply) => std::future::pending().await,
        _ => response,
    }
}

fn scripted(status: u16, headers: &[(String, String)], body: Vec<u8>) -> Response {
    let mut builder = Response::builder().status(status);
    for (name, value) in headers {
        builder = builder.header(name, value);
    }
    builder
        .body(Body::from(body))
        .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

fn kind(method: &Method, path: &str) -> &'static str {
    let Some(rest) = path.strip_prefix("/rest/api/2/") else {
        return if path.starts_with("/rest/") { "other" } else { "page" };
    };
    match rest.split('/').collect::<Vec<_>>()[..] {
        ["issue"] if method == Method::POST => "create",
        ["issue", _] => "get",
        ["issue", _, "comment"] => "comment",
        ["issue", _, "watchers"] => "watch",
        ["search"] => "search",
        ["myself"] => "myself",
        _ => "other",
    }
}

/// An error in Jira's shape.
fn refusal(status: StatusCode, messages: &[&str], errors: &[(String, String)]) -> Response {
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

async fn create(
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

async fn read_issue(State(shared): State<Shared>, Path(key): Path<String>) -> Response {
    match lock(&shared).tickets.iter().find(|t| t.key == key) {
        Some(ticket) => Json(as_issue(ticket)).into_response(),
        None => no_such_issue(),
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
struct Search {
    jql: String,
    #[serde(default)]
    start_at: usize,
    #[serde(default = "page_size")]
    max_results: usize,
}

fn page_size() -> usize {
    50
}

async fn search_get(
    State(shared): State<Shared>,
    query: Result<Query<Search>, QueryRejection>,
) -> Response {
    match query {
        Ok(Query(search)) => answer_search(&lock(&shared), &search),
        Err(rejection) => refusal(StatusCode::BAD_REQUEST, &[&rejection.body_text()], &[]),
    }
}

async fn search_post(
    State(shared): State<Shared>,
    body: Result<Json<Search>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(search)) => answer_search(&lock(&shared), &search),
        Err(rejection) => unreadable(&rejection),
    }
}

fn answer_search(world: &World, search: &Search) -> Response {
    let Some((project, label)) = parse_jql(&search.jql) else {
        return refusal(StatusCode::BAD_REQUEST, &["Error in the JQL Query."], &[]);
    };
    if !world.site.projects.contains(&project) {
        let text = format!("The value '{project}' does not exist for the field 'project'.");
        return refusal(StatusCode::BAD_REQUEST, &[&text], &[]);
    }
    // Newest first, as Jira sorts without an ORDER BY.
    let matching = |t: &&Ticket| t.project == project && t.labels.contains(&label);
    let all: Vec<&Ticket> = world.tickets.iter().rev().filter(matching).collect();
    let size = search.max_results.min(1000);
    let issues: Vec<Value> =
        all.iter().skip(search.start_at).take(size).map(|t| as_issue(t)).collect();
    Json(json!({
        "startAt": search.start_at, "maxResults": size, "total": all.len(), "issues": issues,
    }))
    .into_response()
}

/// `project = X AND labels = "y"`, values quoted or not; nothing else.
fn parse_jql(jql: &str) -> Option<(String, String)> {
    let (project, label) = jql.split_once(" AND ")?;
    let value = |clause: &str, field: &str| {
        let value = clause.trim().strip_prefix(field)?.trim_start().strip_prefix('=')?.trim();
        let quoted = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
        let value = quoted.unwrap_or(value);
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        (!value.is_empty() && value.chars().all(plain)).then(|| value.to_owned())
    };
    Some((value(project, "project")?, value(label, "labels")?))
}

async fn add_comment(
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

async fn read_watchers(State(shared): State<Shared>, Path(key): Path<String>) -> Response {
    match lock(&shared).tickets.iter().find(|t| t.key == key) {
        Some(ticket) => {
            let watchers: Vec<Value> =
                ticket.watchers.iter().map(|name| json!({ "name": name })).collect();
            Json(json!({ "watchCount": watchers.len(), "watchers": watchers })).into_response()
        }
        None => no_such_issue(),
    }
}

async fn add_watcher(
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

async fn myself() -> Response {
    Json(json!({ "name": "metalbot", "displayName": "Metalbot", "active": true })).into_response()
}
