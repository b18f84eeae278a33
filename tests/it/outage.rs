//! What the outside world does to a batch: Postgres gone, Jira gone, replies lost.

// The lint knows tests by their attribute, and not the functions that they share.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::{Duration, Instant};

use metalbot::runtime::private_postgres::{PostgresSettings, PrivatePostgres};
use metalbot_sim::person::ConsoleUser;
use reqwest::StatusCode;

use crate::crash::{ends, nothing_lost_nothing_twice, reboot_web};
use crate::harness::process::signal;
use crate::harness::{METAL, Process, Site, until};

/// A database server of the test's own, which can go away and come back.
struct OwnServer {
    cluster: Option<PrivatePostgres>,
    folder: tempfile::TempDir,
    durable: bool,
}

impl OwnServer {
    /// `durable` is for a server that is killed: others keep the end of their log in memory.
    async fn start(durable: bool) -> OwnServer {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        // The server runs as another user when the test is root's.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).unwrap();
        let mut server = OwnServer { cluster: None, folder, durable };
        server.start_again().await;
        server
    }

    fn url(&self) -> String {
        self.cluster.as_ref().expect("it runs").url().to_owned()
    }

    /// `kill -9` of the server; what it had promised must still be there when it is back.
    async fn kill9(&mut self) {
        let file = self.folder.path().join("postgres/data/postmaster.pid");
        let text = std::fs::read_to_string(file).unwrap();
        let pid = text.lines().next().unwrap().parse().unwrap();
        signal("KILL", pid);
        // A dead process works in no folder. Until then the cluster would try to stop it in order.
        let dead = async || std::fs::read_link(format!("/proc/{pid}/cwd")).is_err();
        until("the death of the server", dead).await;
        drop(self.cluster.take());
    }

    async fn stop(&mut self) {
        self.cluster.take().expect("it runs").stop().await.unwrap();
    }

    async fn start_again(&mut self) {
        let settings = PostgresSettings { fsync: self.durable, max_connections: 100 };
        let started = PrivatePostgres::start_with(self.folder.path(), &settings).await;
        self.cluster = Some(started.unwrap());
    }
}

async fn status(process: &Process, path: &str) -> StatusCode {
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(9));
    let answer = client.build().unwrap().get(format!("{}{path}", process.base)).send().await;
    answer.unwrap().status()
}

/// Everything at the web door says clearly that it is not its time.
async fn is_away(process: &Process, person: &ConsoleUser) {
    assert_eq!(status(process, "/healthz").await, StatusCode::OK, "the process itself lives");
    assert_eq!(status(process, "/readyz").await, StatusCode::SERVICE_UNAVAILABLE);
    let said = person.say(METAL, "/metal list").await.unwrap();
    assert_eq!(said, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(status(process, "/console/state").await, StatusCode::UNAUTHORIZED);
}

async fn is_back(process: &Process, person: &ConsoleUser) {
    let ready = async || status(process, "/readyz").await == StatusCode::OK;
    until("a process that is ready again", ready).await;
    let said = person.say(METAL, "/metal list").await.unwrap();
    assert_eq!(said, StatusCode::ACCEPTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_stopped_for_ten_seconds_in_the_middle_of_a_batch() {
    let mut server = OwnServer::start(false).await;
    let site = Site::on(&server.url(), false).await;
    let process = site.serve().await;
    let dave = process.sign_in("dave").await;
    let card = reboot_web(&site, &process).await;
    site.acts_reach(20).await;
    server.stop().await;
    let gone = Instant::now();
    is_away(&process, &dave).await;
    tokio::time::sleep(Duration::from_secs(10).saturating_sub(gone.elapsed())).await;
    server.start_again().await;
    is_back(&process, &dave).await;
    ends(&site, "partly_failed").await;
    nothing_lost_nothing_twice(&site, &process, &card).await;
    finish(site, process, server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_killed_in_the_middle_of_a_batch_and_recovers() {
    let mut server = OwnServer::start(true).await;
    let site = Site::on(&server.url(), true).await;
    let process = site.serve().await;
    let card = reboot_web(&site, &process).await;
    for acts in [rand::random_range(5..30), rand::random_range(35..70)] {
        site.acts_reach(acts).await;
        server.kill9().await;
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..3_000))).await;
        server.start_again().await;
    }
    ends(&site, "succeeded").await;
    nothing_lost_nothing_twice(&site, &process, &card).await;
    finish(site, process, server).await;
}

/// The process must end in order although its database is away.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_while_postgres_is_away() {
    let mut server = OwnServer::start(false).await;
    let site = Site::on(&server.url(), true).await;
    let process = site.serve().await;
    let card = reboot_web(&site, &process).await;
    site.acts_reach(rand::random_range(5..60)).await;
    server.stop().await;
    let (status, took) = process.terminate().await;
    assert!(status.success(), "{status}");
    assert!(took < Duration::from_secs(25), "{took:?}");
    server.start_again().await;
    let process = site.serve().await;
    ends(&site, "succeeded").await;
    nothing_lost_nothing_twice(&site, &process, &card).await;
    finish(site, process, server).await;
}

/// The server must find its folder until it has ended.
async fn finish(site: Site, process: Process, mut server: OwnServer) {
    site.settled().await;
    drop(process);
    site.finish().await;
    server.stop().await;
    assert!(Path::new(server.folder.path()).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn jira_is_down_for_the_whole_batch_and_tickets_are_filed_once_when_it_is_back() {
    let site = Site::start().await;
    site.jira.set_down(true);
    let process = site.serve().await;
    let card = reboot_web(&site, &process).await;
    ends(&site, "partly_failed").await;
    let alice = process.sign_in("alice").await;
    let done = |text: &str| text.contains("has ended");
    let soon = Duration::from_secs(5);
    let told = alice.wait_for(METAL, Some(&card.id), soon, "it", |m| done(&m.text)).await;
    told.expect("nobody waits for Jira to hear of the end");
    let tried = async || site.jira.requests().values().sum::<u64>() >= 3;
    until("three requests to the Jira that is down", tried).await;
    assert_eq!(site.jira.issues(), []);
    // Back, but the answers to the first creates never arrive.
    site.jira.lose_next_reply(2);
    site.jira.set_down(false);
    nothing_lost_nothing_twice(&site, &process, &card).await;
    assert_eq!(site.jira.issues().len(), 2);
    site.finish().await;
}

/// A slow Jira must not make a second process believe that the first one has died.
#[tokio::test(flavor = "multi_thread")]
async fn a_jira_that_answers_late_gets_each_ticket_once() {
    let site = Site::start().await;
    let first = site.serve().await;
    let second = site.serve().await;
    // Each hangs until the client's patience of ten seconds ends: longer than a turn.
    for _ in 0..2 {
        site.jira.fault_next(metalbot_sim::jira::JiraFault::HangReply);
    }
    let card = reboot_web(&site, &first).await;
    ends(&site, "partly_failed").await;
    nothing_lost_nothing_twice(&site, &second, &card).await;
    site.finish().await;
}
