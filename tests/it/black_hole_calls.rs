//! The database breaks down at each statement that a worker makes: one answer is swallowed, or from then
//! on all of them, or the connections are closed. Wherever that is, the batch goes on afterwards and
//! every host is cycled once; and when people stop the batch meanwhile, nothing is begun on a host after
//! they were told so.
//!
//! The worker is a process of its own, behind the proxy; people talk to another one, which is not.

use std::time::{Duration, Instant};

use metalbot_sim::bmcs::{Behaviour, Deed};
use metalbot_sim::person::ConsoleUser;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use reqwest::StatusCode;

use crate::harness::process::signal;
use crate::harness::tcp_proxy::{Breakdown, Call};
use crate::harness::wait::seeded;
use crate::harness::{Builder, Count, METAL, PATIENCE, Process, Site, TcpProxy, until};

const HOSTS: usize = 4;
const STATEMENT_TIMEOUT: &str = "[database]\nstatement_timeout = \"2s\"\n";

const WAYS: [Breakdown; 3] = [Breakdown::SwallowsOne, Breakdown::SwallowsAll, Breakdown::Resets];

/// When a worker comes by a statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum When {
    /// Once in a while, or when there is a new batch.
    Anytime,
    /// When something has been done to a host.
    AtWork,
    /// When its process is told to end.
    AtItsEnd,
}

/// The lease of jobs that were picked, which only a round has that finds some.
const LEASE: &str = "as picked (id, taken_over), batch";
const RETIRE: &str = "with mine as (";

const fn call(parts: &'static [&'static str]) -> Call {
    Call { after: None, parts }
}

/// Everything that a worker asks of the database, and the commits of what it writes.
const CALLS: [(When, Call); 17] = [
    (When::Anytime, call(&["insert into worker (name, datacenters) values ($1, $2)"])),
    (When::Anytime, call(&["with lost as ("])),
    (When::Anytime, call(&["turn as ("])),
    (When::Anytime, call(&[LEASE])),
    (When::Anytime, call(&[LEASE, "COMMIT"])),
    // The plan. Others read batches as well, but not in the moment in which jobs were leased.
    (
        When::Anytime,
        Call { after: Some(LEASE), parts: &["approval_checked_wave, approval_lost_at"] },
    ),
    (When::Anytime, call(&["with alive as ("])),
    (When::Anytime, call(&["delete from worker where beat_at"])),
    (When::Anytime, call(&["not exists (select from worker where worker.name = job.worker)"])),
    (When::Anytime, call(&["set begun_at = now() from begins"])),
    (When::AtWork, call(&["with asked as ("])),
    (When::AtWork, call(&["with asked as (", "COMMIT"])),
    (When::AtWork, call(&["with reported as ("])),
    (When::AtWork, call(&["with reported as (", "COMMIT"])),
    (When::AtItsEnd, call(&["delete from worker where name"])),
    (When::AtItsEnd, call(&[RETIRE])),
    (When::AtItsEnd, call(&[RETIRE, "COMMIT"])),
];

/// Whether people stop the batch when the database has broken down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stop {
    Never,
    Then,
}

type Case = (When, Call, Breakdown, Stop);

struct Broken {
    site: Site,
    proxy: TcpProxy,
    worker: Option<Process>,
    alice: ConsoleUser,
    _web: Process,
}

impl Broken {
    async fn start(cases: usize) -> Broken {
        let site = Builder::processes()
            .bmcs(cases * HOSTS)
            .approval("quorum = 0\n")
            .append(STATEMENT_TIMEOUT)
            .site()
            .await;
        // A reboot takes a moment, so that there is one.
        let lag = Duration::from_millis(150);
        site.bmcs().behave_all(Behaviour { lag, ..Behaviour::default() });
        let proxy = TcpProxy::start(&site.db.url).await;
        let web = site.serve_roles("web,relay").await;
        let alice = web.sign_in("alice").await;
        let worker = Some(site.worker_through(&proxy).await);
        Broken { site, proxy, worker, alice, _web: web }
    }

    async fn run(&mut self, number: usize, (when, call, how, stop): Case) {
        let what = format!("{how:?} at {call:?}, {when:?}, stopped: {stop:?}");
        eprintln!("{what}");
        let first = number * HOSTS;
        let hosts = first..first + HOSTS;
        let site = &self.site;
        let done = || site.bmcs().acts().iter().filter(|act| hosts.contains(&act.bmc)).count();

        if when == When::Anytime {
            self.proxy.break_down_at(call, how);
        }
        let batch = site.db.newest_batch().await + 1;
        let command = format!("/metal reboot sim[{first:05}-{:05}]", hosts.end - 1);
        self.says(&command).await;
        if when != When::Anytime {
            until(&format!("work, {what}"), async || done() > 0).await;
            self.proxy.break_down_at(call, how);
        }
        let mut leaving = None;
        if when == When::AtItsEnd {
            let worker = self.worker.take().expect("it runs");
            signal("TERM", worker.id());
            leaving = Some(worker);
        }
        until(&format!("a breakdown, {what}"), async || self.proxy.has_broken_down()).await;

        let stopped = match stop {
            Stop::Then => Some(self.stop(batch, &what).await),
            Stop::Never => {
                if how == Breakdown::SwallowsAll {
                    // Longer than its leases, or not.
                    let silent = rand::random_range(0..5_000);
                    tokio::time::sleep(Duration::from_millis(silent)).await;
                }
                None
            }
        };
        if how == Breakdown::SwallowsAll {
            self.proxy.pass();
        }
        if let Some(leaving) = leaving {
            let (status, _) = leaving.terminate().await;
            assert!(status.success(), "{what}: {status}");
            self.worker = Some(site.worker_through(&self.proxy).await);
        }
        let ended = async || site.db.ended_state(batch).await.unwrap().is_some();
        until(&format!("the end of the batch, {what}"), ended).await;
        site.db.until(Count::HostsHeld, 0).await;

        let state = site.db.batch_state(batch).await;
        let wanted: &[&str] = match stop {
            Stop::Never => &["succeeded"],
            // It may have been over when the word came.
            Stop::Then => &["cancelled", "succeeded"],
        };
        assert!(wanted.contains(&&state[..]), "{state}, {what}");
        for bmc in hosts.clone() {
            let deeds = site.bmcs().deeds(bmc);
            let untouched = state == "cancelled" && deeds.is_empty();
            let history = site.db.attempts(site.bmcs().host(bmc).name.as_str()).await;
            assert!(
                untouched || deeds == [Deed::Off, Deed::On],
                "host {bmc} was not cycled once: {deeds:?}, {what}: {history:#?}"
            );
        }
        assert_eq!(site.db.count(Count::AttemptsWithoutOutcome).await, 0, "{what}");
        if let Some(stopped) = stopped {
            let late: Vec<_> = (site.bmcs().acts().into_iter())
                .filter(|act| act.deed != Deed::On && act.at > stopped)
                .collect();
            assert!(late.is_empty(), "begun after the stop was confirmed: {late:?}, {what}");
        }
    }

    async fn says(&self, text: &str) {
        let status = self.alice.say(METAL, text).await.unwrap();
        assert_eq!(status, StatusCode::ACCEPTED, "{text}");
    }

    /// Cancels the batch; returns when people were told that it is.
    async fn stop(&self, batch: i64, what: &str) -> Instant {
        let asked = Instant::now();
        self.says(&format!("/metal cancel {batch}")).await;
        let card = self.alice.card(METAL, batch, PATIENCE, |_| true).await.unwrap();
        let confirms = format!("cancelled #{batch}");
        until(&format!("a confirmation, {what}"), async || {
            let thread = self.alice.messages(METAL, Some(&card.id)).await.unwrap();
            thread.iter().any(|message| message.text.contains(&confirms))
                || self.site.db.batch_state(batch).await == "succeeded"
        })
        .await;
        eprintln!("  the stop was confirmed after {:?}", asked.elapsed());
        Instant::now()
    }

    async fn finish(mut self) {
        self.site.settled().await;
        let worker = self.worker.take().expect("it runs");
        let (status, _) = worker.terminate().await;
        assert!(status.success(), "{status}");
        self.site.finish().await;
    }
}

async fn go_through(cases: &[Case]) {
    let mut broken = Broken::start(cases.len()).await;
    for (number, case) in cases.iter().enumerate() {
        broken.run(number, *case).await;
    }
    broken.finish().await;
}

/// Every statement, in one way.
fn all(how: Breakdown) -> Vec<Case> {
    let stops = [Stop::Never, Stop::Then];
    let cases =
        CALLS.into_iter().flat_map(|(when, call)| stops.map(|stop| (when, call, how, stop)));
    cases.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_goes_on_after_a_breakdown_at_some_statement() {
    let mut random: StdRng = seeded();
    let some: Vec<Case> = WAYS.map(|how| *all(how).choose(&mut random).unwrap()).to_vec();
    go_through(&some).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: `make test-long`"]
async fn a_worker_goes_on_after_an_answer_to_each_statement_that_never_came() {
    go_through(&all(Breakdown::SwallowsOne)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: `make test-long`"]
async fn a_worker_goes_on_after_a_silence_from_each_statement_on() {
    go_through(&all(Breakdown::SwallowsAll)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: `make test-long`"]
async fn a_worker_goes_on_after_a_reset_at_each_statement() {
    go_through(&all(Breakdown::Resets)).await;
}
