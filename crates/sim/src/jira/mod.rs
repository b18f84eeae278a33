//! A simulated Jira with state, in our own process: the part of Data Center's REST version 2 or of
//! Cloud's version 3 that a ticket client needs, faults on demand, and pages for people.
//!
//! Invariants: it checks requests at least as strictly as Jira does, so that a client that works
//! here is not refused there; the pages only read.

mod adf;
mod fields;
mod pages;
mod rest;
mod search;
mod shape;
mod wiki;
mod world;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use adf::{DocumentError, check as check_document};
use world::JiraWorld;
pub use world::{SimDialect, SimJiraSite, Status, Ticket, Transition};

/// Fault of one REST request.
#[derive(Clone, Debug)]
pub enum JiraFault {
    /// This answer is sent; no work is done.
    Answer { status: u16, headers: Vec<(String, String)>, body: Vec<u8> },
    /// No work is done; the connection is dropped.
    DropRequest,
    /// The work is done; the connection is dropped before the answer.
    DropReply,
    /// The work is done; the answer never comes.
    HangReply,
    /// The work is done; the answer is cut off in the middle.
    CutReply,
    /// The work is done; a proxy answers with this status and a page.
    ReplaceReply(u16),
}

impl JiraFault {
    /// 429 with `Retry-After` in seconds.
    pub fn too_many(seconds: u64) -> JiraFault {
        let headers = vec![("retry-after".into(), seconds.to_string())];
        JiraFault::Answer { status: 429, headers, body: Vec::new() }
    }

    /// 503 with an empty body.
    pub fn unavailable() -> JiraFault {
        JiraFault::Answer { status: 503, headers: Vec::new(), body: Vec::new() }
    }

    /// A proxy's or login page's HTML with this status.
    pub fn page(status: u16) -> JiraFault {
        let headers = vec![("content-type".into(), "text/html;charset=UTF-8".into())];
        JiraFault::Answer { status, headers, body: PAGE.into() }
    }
}

const PAGE: &str = "<!doctype html><title>Sign in</title><form action=\"/login\"></form>";

/// Handle of a running simulated Jira. Dropping it stops the server.
#[derive(Debug)]
pub struct SimJira {
    address: SocketAddr,
    shared: Arc<Mutex<JiraWorld>>,
    stopping: CancellationToken,
    server: JoinHandle<()>,
}

type Shared = Arc<Mutex<JiraWorld>>;

impl SimJira {
    /// Serves [`SimJiraSite::with_token`] on the listener.
    pub fn start(listener: TcpListener, token: impl Into<String>) -> std::io::Result<SimJira> {
        Self::start_site(listener, SimJiraSite::with_token(token))
    }

    /// Serves the site on the listener. Must be called inside a tokio runtime.
    pub fn start_site(listener: TcpListener, site: SimJiraSite) -> std::io::Result<SimJira> {
        let address = listener.local_addr()?;
        let shared = Arc::new(Mutex::new(JiraWorld::new(site)));
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

    /// Changes the settings, as an administrator does: for example removes a priority or makes a
    /// field required.
    pub fn change_site(&self, change: impl FnOnce(&mut SimJiraSite)) {
        change(&mut lock(&self.shared).site);
    }

    /// Changes a ticket, as people do: for example assigns it or deletes the reporter's account.
    /// `false` when there is no such ticket.
    pub fn change_ticket(&self, key: &str, change: impl FnOnce(&mut Ticket)) -> bool {
        lock(&self.shared).find_mut(key).map(change).is_some()
    }

    /// Moves a ticket through a transition by name; `false` when its status does not offer it.
    pub fn transition(&self, key: &str, name: &str) -> bool {
        let mut world = lock(&self.shared);
        let is_named = |at: &usize| world.site.transitions[*at].name == name;
        let named: Vec<usize> = (0..world.site.transitions.len()).filter(is_named).collect();
        named.into_iter().any(|at| world.take_through(key, at))
    }

    /// Deletes a ticket; `false` when there is none with that key.
    pub fn delete(&self, key: &str) -> bool {
        let mut world = lock(&self.shared);
        let before = world.tickets.len();
        world.tickets.retain(|ticket| ticket.key != key);
        world.tickets.len() < before
    }

    /// Moves a ticket to another project and returns its new key.
    pub fn move_to(&self, key: &str, project: &str) -> Option<String> {
        let mut world = lock(&self.shared);
        world.find(key)?;
        let new = world.next_key(project);
        let ticket = world.find_mut(key)?;
        ticket.former_keys.push(std::mem::replace(&mut ticket.key, new.clone()));
        ticket.project = project.into();
        Some(new)
    }

    /// Sets the time in which the search does not find a new ticket.
    pub fn set_search_lag(&self, lag: Duration) {
        lock(&self.shared).site.search_lag = lag;
    }

    /// Takes the site down, or up with `false`. While it is down, every request gets a 503 with an
    /// empty body.
    pub fn set_down(&self, down: bool) {
        lock(&self.shared).down = down;
    }

    /// Drops the connection of the next `n` creates before the answer; the work is done.
    pub fn lose_next_reply(&self, n: u32) {
        lock(&self.shared).lose_creates += n;
    }

    /// Queues a fault for the next REST request that has none yet.
    pub fn fault_next(&self, fault: JiraFault) {
        lock(&self.shared).faults.push_back((None, fault));
    }

    /// Queues a fault for the next request of a kind of [`SimJira::requests`].
    pub fn fault_on(&self, kind: &str, fault: JiraFault) {
        lock(&self.shared).faults.push_back((Some(kind.into()), fault));
    }

    /// Number of requests by kind: `create`, `get`, `update`, `search`, `fetch`, `comment`,
    /// `watch`, `transitions`, `transition`, `user`, `myself`, `page`, `other`. Refused ones count
    /// too.
    pub fn requests(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.shared).requests.clone()
    }

    /// Stops listening and closes connections; waits up to a second for those in use.
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

fn lock(shared: &Mutex<JiraWorld>) -> MutexGuard<'_, JiraWorld> {
    // Every change of the world is one assignment, so it is complete even if a holder panicked.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn router(shared: Shared) -> Router {
    let dialect = lock(&shared).site.dialect;
    let rest = Router::new()
        .route("/issue", post(rest::create))
        .route("/issue/{key}", get(rest::read_issue).put(rest::update))
        .route("/issue/{key}/comment", get(rest::read_comments).post(rest::add_comment))
        .route("/issue/{key}/watchers", get(rest::read_watchers).post(rest::add_watcher))
        .route("/issue/{key}/transitions", get(rest::read_transitions).post(rest::transition))
        .route("/user", get(rest::user))
        .route("/myself", get(rest::myself));
    let (version, rest) = match dialect {
        SimDialect::DataCenter => {
            let search = get(search::by_address).post(search::by_body);
            ("/rest/api/2", rest.route("/search", search))
        }
        SimDialect::Cloud => {
            let rest = rest.route("/search/jql", post(search::by_token));
            ("/rest/api/3", rest.route("/issue/bulkfetch", post(search::fetch)))
        }
    };
    Router::new()
        .nest(version, rest)
        .route("/", get(pages::list))
        .route("/browse/{key}", get(pages::ticket))
        .layer(middleware::from_fn_with_state(shared.clone(), gate))
        .with_state(shared)
}

/// Counts requests, checks tokens and applies faults, before and after every handler.
async fn gate(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_rest = path.starts_with("/rest/");
    let kind = kind(request.method(), path);
    let fault = {
        let mut world = lock(&shared);
        *world.requests.entry(kind).or_default() += 1;
        if world.down {
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        let fault = if is_rest { world.fault_for(kind) } else { None };
        match fault {
            Some(JiraFault::Answer { status, headers, body }) => {
                return scripted(status, &headers, body);
            }
            Some(JiraFault::DropRequest) => return broken(&[]),
            _ => {}
        }
        if is_rest && !is_known(&world.site, request.headers()) {
            return stranger(world.site.dialect, kind);
        }
        fault
    };
    let response = next.run(request).await;
    match fault {
        Some(JiraFault::DropReply) => broken(&[]),
        Some(JiraFault::HangReply) => std::future::pending().await,
        Some(JiraFault::CutReply) => broken(b"{\"key\": \"OP"),
        Some(JiraFault::ReplaceReply(status)) => {
            let headers = [("content-type".to_owned(), "text/html".to_owned())];
            scripted(status, &headers, PAGE.into())
        }
        _ => response,
    }
}

fn is_known(site: &SimJiraSite, headers: &HeaderMap) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let expected = match &site.user {
        Some(user) => format!("Basic {}", STANDARD.encode(format!("{user}:{}", site.token))),
        None => format!("Bearer {}", site.token),
    };
    given == Some(&expected)
}

/// Answer to a request without a valid token. Cloud returns public data, which is none here, with
/// status 200.
fn stranger(dialect: SimDialect, kind: &str) -> Response {
    let response = match (dialect, kind) {
        (SimDialect::Cloud, "search" | "fetch") => {
            axum::Json(serde_json::json!({ "issues": [], "isLast": true })).into_response()
        }
        (SimDialect::Cloud, "get") => rest::no_such_issue(),
        _ => rest::refusal(StatusCode::UNAUTHORIZED, &["You are not authenticated."], &[]),
    };
    ([("x-seraph-loginreason", "AUTHENTICATED_FAILED")], response).into_response()
}

/// Answer that is cut off in the middle, or before its beginning.
fn broken(beginning: &'static [u8]) -> Response {
    let lost = Err(std::io::Error::other("reply lost on purpose"));
    let beginning = (!beginning.is_empty()).then(|| Ok(Bytes::from_static(beginning)));
    let parts: Vec<std::io::Result<Bytes>> = beginning.into_iter().chain([lost]).collect();
    Response::new(Body::from_stream(futures_util::stream::iter(parts)))
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
    let rest = path.strip_prefix("/rest/api/2/").or_else(|| path.strip_prefix("/rest/api/3/"));
    let Some(rest) = rest else {
        return if path.starts_with("/rest/") { "other" } else { "page" };
    };
    match rest.split('/').collect::<Vec<_>>()[..] {
        ["issue"] if method == Method::POST => "create",
        ["issue", "bulkfetch"] => "fetch",
        ["issue", _] if method == Method::PUT => "update",
        ["issue", _] => "get",
        ["issue", _, "comment"] => "comment",
        ["issue", _, "watchers"] => "watch",
        ["issue", _, "transitions"] if method == Method::POST => "transition",
        ["issue", _, "transitions"] => "transitions",
        ["search"] | ["search", "jql"] => "search",
        ["user"] => "user",
        ["myself"] => "myself",
        _ => "other",
    }
}
