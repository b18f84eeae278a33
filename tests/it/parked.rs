//! Thousands of jobs wait for their hosts, and the processes that look after them die or are told to end
//! again and again: every job ends once, by the BMCs' own log nothing is done twice, and what waits costs
//! a row and no memory.

use std::time::Duration;

use metalbot::bmc::Power;
use metalbot_sim::bmcs::{Behaviour, Deed, Soft};

use crate::harness::{Builder, Count, METAL, Process, Site, until};

/// How often each of the two replicas is started anew.
const RESTARTS: usize = 3;
/// Rows beside which memory is measured.
const ROWS: i64 = 100_000;

/// Two replicas, and what people talk to.
async fn site(hosts: usize) -> Site {
    Builder::processes()
        .bmcs(hosts)
        .approval("quorum = 0\n")
        // The replicas and thousands of BMCs share a small machine: who is late is not dead.
        .replace("lease_duration = \"2s\"", "lease_duration = \"5s\"")
        .site()
        .await
}

/// Memory of a process that has had a moment for what it does when it starts.
async fn resident_kib(process: &Process) -> u64 {
    tokio::time::sleep(Duration::from_secs(1)).await;
    process.resident_kib()
}

async fn jobs_survive_restarts(hosts: usize) -> Site {
    let site = site(hosts).await;
    site.bmcs().behave_all(Behaviour { soft: Soft::Ignored, ..Behaviour::default() });
    let web = site.serve_roles("web,relay").await;
    let mut replicas = vec![site.serve_roles("worker").await, site.serve_roles("worker").await];
    let idle = resident_kib(&replicas[0]).await;
    let alice = web.sign_in("alice").await;
    alice.say(METAL, "/metal power-off @sim wait=1h").await.unwrap();
    until_in_steps(hosts, "hosts that were asked", async || site.bmcs().acts().len()).await;
    let parked = (hosts * 9 / 10) as i64;
    site.db.until_at_least(Count::JobsWaiting, parked).await;
    let asked = resident_kib(&replicas[0]).await;

    for round in 0..RESTARTS {
        for number in 0..replicas.len() {
            let replica = replicas.remove(number);
            match (round + number) % 2 {
                0 => replica.kill9(),
                _ => {
                    let (status, _) = replica.terminate().await;
                    assert!(status.success(), "{status}");
                }
            }
            replicas.insert(number, site.serve_roles("worker").await);
            tokio::time::sleep(Duration::from_millis(rand::random_range(0..2_000))).await;
        }
    }
    let fresh = resident_kib(&replicas[0]).await;
    println!(
        "memory of a worker: {idle} KiB without jobs, {asked} KiB after it has begun and parked \
         {hosts} with another, {fresh} KiB when it was started beside them"
    );

    (0..hosts).for_each(|bmc| site.bmcs().set_power(bmc, Power::Off));
    let succeeded = async || site.db.count(Count::JobsSucceeded).await as usize;
    until_in_steps(hosts, "jobs that have succeeded", succeeded).await;
    until("the end", async || site.db.ended_state(1).await.unwrap().is_some()).await;
    assert_eq!(site.db.batch_state(1).await, "succeeded");
    assert_eq!(site.db.count(Count::JobsEndedInAudit).await, hosts as i64, "each ends once");
    for bmc in 0..hosts {
        assert_eq!(site.bmcs().deeds(bmc), [Deed::Soft], "host {bmc}");
    }
    site.settled().await;
    for process in replicas.into_iter().chain([web]) {
        let (status, _) = process.terminate().await;
        assert!(status.success(), "{status}");
    }
    site
}

/// Waits for so many, for as long as more come.
async fn until_in_steps(wanted: usize, what: &str, mut count: impl AsyncFnMut() -> usize) {
    for step in 1..=10 {
        let part = wanted * step / 10;
        until(&format!("{part} {what}"), async || count().await >= part).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_wait_through_restarts_of_both_replicas() {
    jobs_survive_restarts(60).await.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: `make test-long`"]
async fn thousands_of_jobs_wait_through_restarts_of_both_replicas() {
    let site = jobs_survive_restarts(5_000).await;
    let without = site.serve_roles("worker").await;
    let before = resident_kib(&without).await;
    without.terminate().await;
    let batch = site.db.park_like(1, ROWS).await;
    let beside = site.serve_roles("worker").await;
    let after = resident_kib(&beside).await;
    beside.terminate().await;
    println!(
        "memory of a worker: {before} KiB without jobs, {after} KiB beside {ROWS} parked ones"
    );
    assert_eq!(site.db.count(Count::JobsWaiting).await, ROWS, "their time has not come");
    site.db.forget_batch(batch).await;
    site.finish().await;
}
