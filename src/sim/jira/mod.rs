//! A stateful Jira Data Center in our own process: the part of REST version 2 that a ticket client
//! needs, faults on demand, and pages for people.
//!
//! Invariants: it checks what it gets at least as strictly as Jira does, so that a client which
//! passes here is not refused there; the pages only read.

mod pages;
mod rest;
mod wiki;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use time::OffsetDateTime;
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
        .route("/rest/api/2/issue", post(rest::create))
        .route("/rest/api/2/issue/{key}", get(rest::read_issue).put(rest::change))
        .route("/rest/api/2/issue/{key}/comment", post(rest::add_comment))
        .route("/rest/api/2/issue/{key}/watchers", get(rest::read_watchers).post(rest::add_watcher))
        .route("/rest/api/2/search", get(rest::search_get).post(rest::search_post))
        .route("/rest/api/2/myself", get(rest::myself))
        .route("/rest/api/2/user", get(rest::read_user))
        .route("/", get(pages::list))
        .route("/browse/{key}", get(pages::ticket))
        .layer(middleware::from_fn_with_state(shared.clone(), gate))
        .with_state(shared)
}

/// Counts, refuses and misbehaves before and after every handler.
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
        let fault = if !is_rest {
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
        if is_rest && bearer.and_then(|b| b.strip_prefix("Bearer ")) != Some(&world.site.token) {
            return rest::refusal(StatusCode::UNAUTHORIZED, &["You are not authenticated."], &[]);
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
