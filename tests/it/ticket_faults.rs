//! Jira dies at every request of a run; in the end every ticket exists once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;

use crate::harness::{Count, TicketWorld};

/// Tickets of a run of `make test`; `make test-long` has thirty.
const TICKETS: usize = 10;
const MANY_TICKETS: usize = 30;
/// In one run every request of this many fails; the runs together fail at each request once.
const STRIDE: u64 = 6;

/// When the connection of a request dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Dies {
    Before,
    After,
}

struct Wire {
    jira: String,
    client: reqwest::Client,
    number: AtomicU64,
    phase: u64,
    dies: Dies,
}

/// A proxy before Jira whose connections die.
async fn start_wire(jira: String, phase: u64, dies: Dies) -> (String, Arc<Wire>) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let wire = Arc::new(Wire { jira, client, number: AtomicU64::new(0), phase, dies });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let app = Router::new().fallback(pass).with_state(Arc::clone(&wire));
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, wire)
}

/// The client sees a connection that ends in the middle of an answer.
fn dead() -> Response {
    let broken = futures_util::stream::iter([Err::<Bytes, _>(std::io::Error::other("dead"))]);
    Response::new(Body::from_stream(broken))
}

async fn pass(State(wire): State<Arc<Wire>>, request: Request) -> Response {
    let doomed = wire.number.fetch_add(1, Ordering::Relaxed) % STRIDE == wire.phase;
    if doomed && wire.dies == Dies::Before {
        return dead();
    }
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let url = format!("{}{path}", wire.jira.trim_end_matches('/'));
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let mut headers = parts.headers;
    headers.remove("host");
    let answer = wire.client.request(parts.method, url).headers(headers).body(body).send().await;
    let Ok(answer) = answer else { return StatusCode::BAD_GATEWAY.into_response() };
    let (status, headers) = (answer.status(), answer.headers().clone());
    let body = answer.bytes().await.unwrap();
    if doomed {
        return dead();
    }
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    if let Some(kind) = headers.get("content-type") {
        response.headers_mut().insert("content-type", kind.clone());
    }
    response
}

/// An error of its own for each number; digits would not count as a difference.
fn error_of(number: usize) -> String {
    let letter = |digit: usize| char::from(b'a' + u8::try_from(digit).unwrap());
    format!("part {}{} does not work", letter(number / 26), letter(number % 26))
}

async fn run(phase: u64, dies: Dies, tickets: usize) {
    let mut t = TicketWorld::start().await;
    let (url, wire) = start_wire(t.jira.url(), phase, dies).await;
    for number in 0..tickets {
        let host = format!("web{number:02}");
        let spot = [(&host[..], "fra1", "r11", "c6")];
        t.failed(&spot, "bmc_refused", &error_of(number)).await;
    }
    t.run_relay_at(&url);
    t.written().await;
    let issues = t.jira.issues();
    let mut labels: Vec<&String> = issues
        .iter()
        .flat_map(|issue| issue.labels.iter().filter(|label| label.starts_with("metalbot-")))
        .collect();
    labels.sort();
    labels.dedup();
    let requests = wire.number.load(Ordering::Relaxed);
    assert!(requests >= 2 * tickets as u64, "{requests}");
    assert_eq!(
        (issues.len(), labels.len()),
        (tickets, tickets),
        "{dies:?} at {phase}: {issues:#?}"
    );
    let filed = t.told().await.iter().filter(|notice| notice["kind"] == "ticket_filed").count();
    assert_eq!(filed, tickets, "each is told once");
    t.finish().await;
}

/// One run for each phase, at the same time.
async fn at_each_request(dies: Dies, tickets: usize) {
    futures_util::future::join_all((0..STRIDE).map(|phase| run(phase, dies, tickets))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jira_dies_before_each_request() {
    at_each_request(Dies::Before, TICKETS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jira_dies_after_each_request() {
    at_each_request(Dies::After, TICKETS).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: `make test-long`"]
async fn jira_dies_before_each_request_of_thirty_tickets() {
    at_each_request(Dies::Before, MANY_TICKETS).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: `make test-long`"]
async fn jira_dies_after_each_request_of_thirty_tickets() {
    at_each_request(Dies::After, MANY_TICKETS).await;
}

/// While Jira is away nothing is asked of it but the oldest ticket; then all come, in their order.
#[tokio::test(flavor = "multi_thread")]
async fn tickets_are_filed_in_order_when_jira_is_back() {
    let mut t = TicketWorld::start().await;
    t.jira.set_down(true);
    t.run_relay();
    for number in 0..TICKETS {
        let host = format!("web{number:02}");
        let spot = [(&host[..], "fra1", "r11", "c6")];
        t.failed(&spot, "bmc_refused", &error_of(number)).await;
    }
    t.db.until(Count::Tickets, TICKETS as i64).await;
    t.db.until(Count::TicketsTriedAgain, 1).await;
    let waiting = metalbot_store::ticket::counts(&t.db.pool).await.unwrap().waiting;
    assert_eq!(waiting, TICKETS as i64);
    let asked: u64 = t.jira.requests().values().sum();
    assert!(asked < TICKETS as u64, "{asked} requests to a Jira that is away");
    t.jira.set_down(false);
    t.written().await;
    let order: Vec<String> = t.jira.issues().into_iter().map(|issue| issue.summary).collect();
    assert_eq!(order.len(), TICKETS);
    for (number, summary) in order.iter().enumerate() {
        assert!(summary.contains(&format!("web{number:02}")), "{number}: {summary}");
    }
    t.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_cannot_be_written_holds_up_no_other() {
    let mut t = TicketWorld::start().await;
    let rule = "name = \"hardware\"\nrack = \"r66\"\nsite = \"nowhere\"\nproject = \"HW\"";
    t.routes.rules.push(toml::from_str(rule).unwrap());
    t.run_relay();
    t.failed(&[("web66", "fra1", "r66", "c6")], "bmc_unreachable", "it is silent").await;
    let trouble = t.heard("ticket_blocked").await;
    assert_eq!(trouble["problem"], "no Jira site \"nowhere\" is configured");
    t.failed(&[("web01", "fra1", "r11", "c6")], "bmc_unreachable", "it is silent").await;
    t.db.until(Count::TicketsFiled, 1).await;
    assert!(t.jira.issues()[0].summary.contains("web01"), "{:?}", t.jira.issues());
    t.finish().await;
}
