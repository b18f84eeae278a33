//! A batch is stopped when the process that works on it has died, or is about to end.

// The lint knows tests by their attribute, and not the functions that they share.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use metalbot::failpoint::Point;

use metalbot_sim::actor::SeenMessage;

use super::{approve_reboot_of_web, ends, nothing_lost_nothing_twice};
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

/// It has the right to act, and the packet is not sent yet, when it stands still for longer than the right
/// lasts. Everything is at work in that moment, and some other step of some other host may be as far.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_stands_still_between_its_right_and_its_packet_sends_nothing_later() {
    let site = Site::sound().await;
    let point = format!("stand:{}*{}", Point::JobAfterIntent.as_str(), rand::random_range(1..60));
    let frozen = site.serve_until(Some(&point)).await;
    // It may stand still before it has sent anything.
    let card = approve_reboot_of_web(&frozen).await;
    until("a process that stands still", async || frozen.log().contains("stands still at")).await;
    let other = site.serve().await;
    ends(&site, "succeeded").await;
    nothing_lost_nothing_twice(&site, &other, &card).await;
    let before = site.db.written_by_workers().await;
    frozen.thaw();
    let (status, _) = frozen.terminate().await;
    assert!(status.success(), "{status}");
    assert_eq!(site.db.written_by_workers().await, before);
    nothing_lost_nothing_twice(&site, &other, &card).await;
    site.finish().await;
}

/// The same, and meanwhile people are told that the batch is stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_was_given_before_the_stop_is_not_used_after_it_is_confirmed() {
    let site = Site::sound().await;
    let point = format!("stand:{}", Point::JobAfterIntent.as_str());
    let frozen = site.serve_until(Some(&point)).await;
    let alice = frozen.sign_in("alice").await;
    let bob = frozen.sign_in("bob").await;
    alice.say(METAL, "/metal reboot web01").await.unwrap();
    let card = bob.card(METAL, 1, PATIENCE, |card| !card.buttons().is_empty()).await.unwrap();
    // The answer may come when the process goes on.
    let _ = tokio::time::timeout(Duration::from_secs(1), bob.react(&card.id, "+1", true)).await;
    until("a process that stands still", async || frozen.log().contains("stands still at")).await;
    let other = site.serve().await;
    let alice = other.sign_in("alice").await;
    alice.say(METAL, "/metal cancel 1").await.unwrap();
    let confirmed = |m: &SeenMessage| m.text.contains("cancelled #1");
    alice.wait_for(METAL, Some(&card.id), PATIENCE, "the confirmation", confirmed).await.unwrap();
    frozen.thaw();
    site.db.until(Count::HostsHeld, 0).await;
    assert_eq!(site.cycles("web01"), (0, 0), "{}", site.history("web01").await);
    let (status, _) = frozen.terminate().await;
    assert!(status.success(), "{status}");
    assert_eq!(site.cycles("web01"), (0, 0), "{}", site.history("web01").await);
    site.settled().await;
    drop(other);
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
