//! A batch is stopped when the process that works on it has died, or is about to end.

// The lint knows tests by their attribute, and not the functions that they share.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use metalbot::failpoint::Point;

use crate::harness::{Builder, Count, METAL, PATIENCE, Site, until};

#[tokio::test]
async fn a_host_that_was_about_to_be_touched_is_left_alone() {
    let site = Site::start().await;
    let mut process = site.serve_until(Some(Point::JobAfterIntent.as_str())).await;
    let alice = process.sign_in("alice").await;
    let bob = process.sign_in("bob").await;
    alice.say(METAL, "/metal reboot web[01-03]").await.unwrap();
    let card = bob.card(METAL, 1, PATIENCE, |card| !card.buttons().is_empty()).await.unwrap();
    // The answer may die with the process.
    let _ = bob.react(&card.id, "+1", true).await;
    until("the death of the process", async || process.ended().is_some()).await;
    drop(process);

    let process = site.serve().await;
    let alice = process.sign_in("alice").await;
    alice.say(METAL, "/metal cancel 1").await.unwrap();
    site.db.until(Count::HostsHeld, 0).await;
    assert_eq!(site.db.ended_state(1).await.unwrap().as_deref(), Some("cancelled"));
    for host in ["web01", "web02", "web03"] {
        let history = site.history(host).await;
        assert_eq!(site.cycles(host), (0, 0), "{host} was touched:\n{history}");
    }
    assert_eq!(site.db.job_states(1).await, ["cancelled"]);
    site.settled().await;
    let (status, _) = process.terminate().await;
    assert!(status.success(), "{status}");
    site.finish().await;
}

/// Nothing was sent to its host: the next process has the job at once, and hears that it is stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_stops_waits_for_no_silent_bmc_and_hands_its_job_over() {
    let site = Builder::processes()
        .replace("timeout = \"1500ms\"", "timeout = \"40s\"")
        .replace("drain_timeout = \"5s\"", "drain_timeout = \"2m\"")
        .site()
        .await;
    let process = site.serve().await;
    let alice = process.sign_in("alice").await;
    let bob = process.sign_in("bob").await;
    alice.say(METAL, "/metal reboot web07").await.unwrap();
    let card = bob.card(METAL, 1, PATIENCE, |card| !card.buttons().is_empty()).await.unwrap();
    bob.react(&card.id, "+1", true).await.unwrap();
    site.db.until(Count::LiveLeases, 1).await;

    let (status, took) = process.terminate().await;
    assert!(status.success(), "{status}");
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert_eq!(site.db.attempts("web07").await, [""; 0], "nothing was tried");
    assert_eq!(site.db.job_states(1).await, ["waiting"]);

    let other = site.serve().await;
    let alice = other.sign_in("alice").await;
    site.db.until(Count::LiveLeases, 1).await;
    alice.say(METAL, "/metal cancel 1").await.unwrap();
    site.db.until(Count::HostsHeld, 0).await;
    assert_eq!(site.db.ended_state(1).await.unwrap().as_deref(), Some("cancelled"));
    assert_eq!(site.db.job_states(1).await, ["cancelled"]);
    site.settled().await;
    drop(other);
    site.finish().await;
}
