//! A database that stops to answer without closing a connection, as behind a firewall that has
//! forgotten them, or on a machine that stands still. Nobody may wait for it for ever.

use std::time::{Duration, Instant};

use metalbot_sim::person::ConsoleUser;
use reqwest::StatusCode;

use crate::crash::{ends, nothing_lost_nothing_twice, reboot_web};
use crate::harness::{Builder, METAL, Process, Site, TcpProxy, until};

/// The process gives an answer up after twice this time.
const STATEMENT_TIMEOUT: &str = "[database]\nstatement_timeout = \"2s\"\n";
/// Far above every limit of the site, and far below what one would call for ever.
const BOUNDED: Duration = Duration::from_secs(40);

async fn site() -> (Site, TcpProxy) {
    let site = Builder::processes().sound().append(STATEMENT_TIMEOUT).site().await;
    let proxy = TcpProxy::start(&site.db.url).await;
    (site, proxy)
}

async fn status(process: &Process, path: &str) -> Option<StatusCode> {
    let client = reqwest::Client::builder().no_proxy().timeout(BOUNDED).build().unwrap();
    let answer = client.get(format!("{}{path}", process.base)).send().await;
    answer.ok().map(|answer| answer.status())
}

async fn until_ready(process: &Process, wanted: StatusCode) {
    let said = async || status(process, "/readyz").await == Some(wanted);
    until(&format!("readiness {wanted}"), said).await;
}

/// What a person is told who asks while the database is silent, and that they are told soon.
async fn is_told_to_ask_again(person: &ConsoleUser) {
    let asked = Instant::now();
    let said = tokio::time::timeout(BOUNDED, person.say(METAL, "/metal list")).await;
    let said = said.unwrap_or_else(|_| panic!("no answer in {:?}", asked.elapsed()));
    assert_eq!(said.unwrap(), StatusCode::SERVICE_UNAVAILABLE);
}

/// Statements with which rounds of background tasks begin, outside a transaction: the server has no
/// reason to end anything when one of their answers is lost.
const ROUNDS: [&[&str]; 4] = [
    &["select id from batch where state = 'checking'"],
    &["needs_reconcile or blocked_by is not null"],
    &["from outbox o"],
    &["insert into task_lease"],
];

/// One swallowed answer must cost a task one round, and not its life on all replicas.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_goes_on_after_an_answer_that_never_came() {
    let (site, proxy) = site().await;
    let process = site.serve_through(&proxy).await;
    for statement in ROUNDS {
        proxy.swallow_answer_to(statement);
        until(&format!("a swallowed answer to {statement:?}"), async || proxy.has_broken_down())
            .await;
    }
    let card = reboot_web(&site, &process).await;
    ends(&site, "succeeded").await;
    nothing_lost_nothing_twice(&site, &process, &card).await;
    site.finish().await;
}

/// The session is looked up outside a transaction, so that only the client can give up.
#[tokio::test(flavor = "multi_thread")]
async fn a_console_request_ends_after_an_answer_that_never_came() {
    let (site, proxy) = site().await;
    let process = site.serve_through(&proxy).await;
    let dave = process.sign_in("dave").await;
    proxy.swallow_answer_to(&["password_digest from session"]);
    is_told_to_ask_again(&dave).await;
    assert!(proxy.has_broken_down());
    assert_eq!(dave.say(METAL, "/metal list").await.unwrap(), StatusCode::ACCEPTED);
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_recovers_when_the_connections_of_before_are_reset() {
    let (site, proxy) = site().await;
    let process = site.serve_through(&proxy).await;
    let dave = process.sign_in("dave").await;
    let card = reboot_web(&site, &process).await;
    site.acts_reach(20).await;
    proxy.black_hole();
    until_ready(&process, StatusCode::SERVICE_UNAVAILABLE).await;
    is_told_to_ask_again(&dave).await;
    assert_eq!(status(&process, "/healthz").await, Some(StatusCode::OK));
    proxy.reset();
    proxy.pass();
    until_ready(&process, StatusCode::OK).await;
    ends(&site, "succeeded").await;
    nothing_lost_nothing_twice(&site, &process, &card).await;
    site.finish().await;
}

/// No connection is ever closed here: what was asked before is answered late, to nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_recovers_when_the_connections_of_before_go_on() {
    let (site, proxy) = site().await;
    let process = site.serve_through(&proxy).await;
    let dave = process.sign_in("dave").await;
    let card = reboot_web(&site, &process).await;
    site.acts_reach(20).await;
    proxy.black_hole();
    until_ready(&process, StatusCode::SERVICE_UNAVAILABLE).await;
    is_told_to_ask_again(&dave).await;
    // The pool's connections are used up by what waits, and each must come back by itself.
    for _ in 0..3 {
        is_told_to_ask_again(&dave).await;
    }
    proxy.pass();
    until_ready(&process, StatusCode::OK).await;
    ends(&site, "succeeded").await;
    nothing_lost_nothing_twice(&site, &process, &card).await;
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_a_process_whose_database_is_silent() {
    let (site, proxy) = site().await;
    let process = site.serve_through(&proxy).await;
    let card = reboot_web(&site, &process).await;
    site.acts_reach(20).await;
    proxy.black_hole();
    until_ready(&process, StatusCode::SERVICE_UNAVAILABLE).await;
    let (status, took) = process.terminate().await;
    assert!(status.success(), "{status}");
    assert!(took < BOUNDED, "{took:?}");
    let process = site.serve().await;
    ends(&site, "succeeded").await;
    nothing_lost_nothing_twice(&site, &process, &card).await;
    site.finish().await;
}
