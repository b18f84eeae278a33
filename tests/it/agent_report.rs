//! Machines that work on themselves and report: their jobs wait without a task, and go on when it is
//! said that they may.

use std::sync::LazyLock;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;

use metalbot::app::agent_report;
use metalbot_core::domain::host::HostName;
use metalbot_sim::person::ConsoleUser;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::crash::ends;
use crate::harness::process::signal;
use crate::harness::wait::until_some;
use crate::harness::{Builder, Count, METAL, PATIENCE, Process, Site};

/// An action that lets its machines install themselves.
fn install(deadline: &str) -> String {
    format!(
        "summary = \"Let machines install themselves\"\nrisk = \"harmless\"\n\n[[steps]]\n\
         title = \"install the machine\"\nrun = \"wait_report\"\nreport = \"installed\"\n\
         deadline = \"{deadline}\"\n"
    )
}

/// A site with that action, whose machines nobody asks for their power.
async fn site(action: &str) -> Site {
    let site = Builder::processes().sound().site().await;
    site.add_action("install", action);
    site
}

async fn submits(person: &ConsoleUser, hosts: &str) {
    person.say(METAL, &format!("/metal install {hosts} reason=new")).await.unwrap();
}

/// What a machine that boots is given to report with.
async fn claim(site: &Site, host: &str) -> String {
    let host: HostName = host.parse().unwrap();
    let claimed = async || agent_report::claim(&site.db.pool, &host).await.unwrap();
    until_some("an attempt to claim", claimed).await.expose().to_owned()
}

/// Sends a report as a machine does.
async fn reports(process: &Process, token: &str, report: &Value) -> (StatusCode, Value) {
    static CLIENT: LazyLock<reqwest::Client> = LazyLock::new(|| {
        reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap()
    });
    let url = format!("{}/v1/agent/reports", process.base);
    let answer = CLIENT.post(url).bearer_auth(token).json(report).send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

async fn is_taken(process: &Process, token: &str, report: &Value, result: &str) {
    let answer = reports(process, token, report).await;
    assert_eq!(answer, (StatusCode::OK, json!({ "result": result })), "{report}");
}

fn installed() -> Value {
    json!({ "key": "installed", "kind": "installed" })
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_claim_report_and_their_batch_ends() {
    let site = site(&install("10m")).await;
    let (first, second) = (site.serve().await, site.serve().await);
    let alice = first.sign_in("alice").await;
    submits(&alice, "web[01-03]").await;
    let tokens = [claim(&site, "web01").await, claim(&site, "web02").await];
    // It is claimed once, and by nobody else.
    let web01: HostName = "web01".parse().unwrap();
    assert!(agent_report::claim(&site.db.pool, &web01).await.unwrap().is_none());
    for (token, percent) in tokens.iter().zip([40, 70]) {
        let body = json!({ "percent": percent, "phase": "writing the image" });
        let progress = json!({ "key": "1", "kind": "progress", "body": body });
        is_taken(&first, token, &progress, "stored").await;
        is_taken(&second, token, &progress, "repeated").await;
    }
    let shown = |text: &str| text.contains("writing the image 40 to 70 %: web[01-02]");
    alice.wait_for(METAL, None, PATIENCE, "how far they are", |m| shown(&m.text)).await.unwrap();
    for (process, token) in [&first, &second].into_iter().zip(&tokens) {
        is_taken(process, token, &installed(), "stored").await;
    }
    // What the other two say is nothing of the third.
    site.db.until(Count::JobsSucceeded, 2).await;
    assert_eq!(site.db.batch_state(1).await, "running");
    // One that has not heard the answer says it again; what it says besides comes too late.
    is_taken(&second, &tokens[0], &installed(), "repeated").await;
    let more = json!({ "key": "rebooting", "kind": "progress", "body": { "phase": "rebooting" } });
    let (status, answer) = reports(&first, &tokens[0], &more).await;
    assert_eq!(status, StatusCode::GONE);
    assert!(answer["detail"].as_str().unwrap().contains("stop working on it"), "{answer}");
    is_taken(&first, &claim(&site, "web03").await, &installed(), "stored").await;
    ends(&site, "succeeded").await;
    let audit = site.db.audit(1).await;
    assert_eq!(audit.matches("web01 report.late").count(), 1, "{audit}");
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_report_is_refused_and_changes_nothing() {
    let site = site(&install("10m")).await;
    let process = site.serve().await;
    submits(&process.sign_in("alice").await, "web01").await;
    let token = claim(&site, "web01").await;
    is_taken(&process, &token, &json!({ "key": "a", "kind": "log", "body": "x" }), "stored").await;
    let forged = format!("mbr_{}", "0".repeat(64));
    let long = json!({ "key": "long", "kind": "log", "body": "x".repeat(70_000) });
    let longer = json!({ "key": "long", "kind": "log", "body": "x".repeat(65_600) });
    for (token, report, status, said) in [
        ("", installed(), StatusCode::UNAUTHORIZED, "Authorization: Bearer"),
        ("mbr_1", installed(), StatusCode::UNAUTHORIZED, "Authorization: Bearer"),
        (&forged, installed(), StatusCode::UNAUTHORIZED, "Authorization: Bearer"),
        (&token, json!({ "key": "a", "kind": "log", "body": "y" }), StatusCode::CONFLICT, "\"a\""),
        (&token, json!({ "key": "a" }), StatusCode::UNPROCESSABLE_ENTITY, "missing field `kind`"),
        (&token, json!([1]), StatusCode::UNPROCESSABLE_ENTITY, "cannot be read"),
        (
            &token,
            json!({ "key": "b", "kind": "progress" }),
            StatusCode::UNPROCESSABLE_ENTITY,
            "percent",
        ),
        (&token, long, StatusCode::PAYLOAD_TOO_LARGE, "cannot be read"),
        (&token, longer, StatusCode::PAYLOAD_TOO_LARGE, "may have 65536"),
    ] {
        let (answered, body) = reports(&process, token, &report).await;
        let detail = body["detail"].as_str().unwrap();
        assert_eq!(answered, status, "{detail}");
        assert!(detail.contains(said), "{detail}");
    }
    assert_eq!(site.db.count(Count::Reports).await, 1);
    assert!(!process.log().contains(&token[8..]), "a token is in the log");
    is_taken(&process, &token, &installed(), "stored").await;
    ends(&site, "succeeded").await;
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_fails_or_says_nothing_is_a_failure_with_its_reason() {
    let site = site(&install("{{ wait }}").replace(
        "[[steps]]",
        "[args.wait]\nkind = \"duration\"\ndefault = \"10m\"\nhelp = \"for how long\"\n\n[[steps]]",
    ))
    .await;
    let process = site.serve().await;
    let alice = process.sign_in("alice").await;
    submits(&alice, "web01").await;
    let token = claim(&site, "web01").await;
    let failed =
        json!({ "key": "end", "kind": "failed", "body": { "error": "no disk\nis large enough" } });
    is_taken(&process, &token, &failed, "stored").await;
    ends(&site, "failed").await;
    let [(_, state, error)] = &site.db.outcomes(1).await[..] else { panic!("one job") };
    assert_eq!((&state[..], error.as_deref()), ("failed", Some("reported_failure")));
    let told = alice.wait_for(METAL, None, PATIENCE, "why", |m| m.text.contains("no disk"));
    let told = told.await.unwrap().text;
    assert!(
        told.contains("the machine reported that it failed: no disk is large enough"),
        "{told}"
    );
    alice.say(METAL, "/metal install web02 wait=2s reason=new").await.unwrap();
    let second = async || site.db.ended_state(2).await.unwrap();
    assert_eq!(until_some("the end of the second batch", second).await, "failed");
    let [(_, state, error)] = &site.db.outcomes(2).await[..] else { panic!("one job") };
    assert_eq!((&state[..], error.as_deref()), ("failed", Some("report_missing")));
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_batch_does_not_wait_for_its_machines() {
    let site = site(&install("1h")).await;
    let process = site.serve().await;
    let alice = process.sign_in("alice").await;
    submits(&alice, "web[01-02]").await;
    let token = claim(&site, "web01").await;
    site.db.until(Count::JobsWaiting, 2).await;
    alice.say(METAL, "/metal cancel 1").await.unwrap();
    ends(&site, "cancelled").await;
    site.db.until(Count::HostsHeld, 0).await;
    let (status, _) = reports(&process, &token, &installed()).await;
    assert_eq!(status, StatusCode::GONE);
    let web02: HostName = "web02".parse().unwrap();
    assert!(agent_report::claim(&site.db.pool, &web02).await.unwrap().is_none());
    site.finish().await;
}

/// Requests of machines under way at a time, and how often a process is started again.
const AT_ONCE: usize = 16;
const ROUNDS: usize = 6;

/// Parks so many jobs on two processes, which are started again three times each while their machines
/// report, some twice and some too late.
async fn many_wait(machines: usize) {
    let site = site(&install("1h")).await;
    let hosts = move |known: String| {
        let new = (1..=machines).map(|n| {
            let (a, b) = (n / 250, n % 250 + 1);
            format!("node{n:04},web-owners,fra1,r1,s1,127.99.{a}.{b}:623,rack,nodes\n")
        });
        known + &new.collect::<String>()
    };
    site.change_hosts(hosts);
    site.change("metalbot.toml", |known| known + "\n[limits]\nmax_hosts = 100000\n");
    let mut processes = vec![site.serve().await, site.serve().await];
    let idle = processes[0].resident_kib();
    let alice = processes[0].sign_in("alice").await;
    submits(&alice, &format!("node[0001-{machines:04}]")).await;
    site.db.until(Count::JobsWaiting, i64::try_from(machines).unwrap()).await;
    let parked = processes[0].resident_kib();
    println!(
        "{machines} parked jobs: {idle} KiB before, {parked} KiB after, {:.2} KiB each",
        parked.saturating_sub(idle) as f64 / machines as f64
    );
    let nodes: Vec<String> = (1..=machines).map(|n| format!("node{n:04}")).collect();
    let claims = stream::iter(&nodes).map(|host| claim(&site, host)).buffered(AT_ONCE);
    let tokens: Vec<String> = claims.collect().await;
    for (round, tokens) in tokens.chunks(machines.div_ceil(ROUNDS)).enumerate() {
        let at = round % processes.len();
        // The other one is being started again meanwhile.
        let process = &processes[(at + 1) % processes.len()];
        let reporting = stream::iter(tokens.iter().enumerate()).for_each_concurrent(
            AT_ONCE,
            async |(nth, token)| {
                is_taken(process, token, &installed(), "stored").await;
                if nth % 3 == 0 {
                    is_taken(process, token, &installed(), "repeated").await;
                }
            },
        );
        let old = processes[at].id();
        let ends = async {
            tokio::time::sleep(Duration::from_millis(rand::random_range(0..500))).await;
            signal(if round % 2 == 0 { "KILL" } else { "TERM" }, old);
        };
        tokio::join!(reporting, ends);
        processes.remove(at).ends().await;
        processes.insert(at, site.serve().await);
    }
    ends(&site, "succeeded").await;
    let late = json!({ "key": "late", "kind": "log" });
    for token in tokens.iter().step_by(50) {
        assert_eq!(reports(&processes[0], token, &late).await.0, StatusCode::GONE);
        is_taken(&processes[1], token, &installed(), "repeated").await;
    }
    let machines = i64::try_from(machines).unwrap();
    assert_eq!(site.db.count(Count::JobsSucceeded).await, machines);
    assert_eq!(site.db.count(Count::JobsEndedInAudit).await, machines, "each ends once");
    assert_eq!(site.db.count(Count::Reports).await, machines);
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_wait_outlive_their_processes() {
    many_wait(90).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: `make test-long`"]
async fn thousands_of_jobs_that_wait_outlive_their_processes() {
    many_wait(5_000).await;
}

/// A report wakes its job at another process than the one that takes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_report_is_heard_by_whoever_works() {
    let site = site(&install("1h")).await;
    let web = site.serve_roles("web").await;
    let _worker = site.serve_roles("worker,relay").await;
    submits(&web.sign_in("alice").await, "web01").await;
    let token = claim(&site, "web01").await;
    is_taken(&web, &token, &installed(), "stored").await;
    ends(&site, "succeeded").await;
    site.finish().await;
}
