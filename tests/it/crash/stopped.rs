//! A batch is stopped when the process that works on it has died, or is about to end.

// The lint knows tests by their attribute, and not the functions that they share.
#![allow(clippy::unwrap_used)]

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

/// Its BMC is silent for longer than the batch runs: the process has to hear of the stop meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_drains_hears_that_a_batch_is_stopped() {
    let site = Builder::processes()
        .replace("timeout = \"1500ms\"", "timeout = \"20s\"")
        .replace("drain_timeout = \"5s\"", "drain_timeout = \"30s\"")
        .site()
        .await;
    let process = site.serve().await;
    let alice = process.sign_in("alice").await;
    let bob = process.sign_in("bob").await;
    alice.say(METAL, "/metal reboot web07").await.unwrap();
    let card = bob.card(METAL, 1, PATIENCE, |card| !card.buttons().is_empty()).await.unwrap();
    bob.react(&card.id, "+1", true).await.unwrap();
    site.db.until(Count::AttemptsWithoutOutcome, 1).await;

    let other = site.serve().await;
    let alice = other.sign_in("alice").await;
    let door = process.base.trim_start_matches("http://").to_owned();
    let cancel = async {
        let closed = async || tokio::net::TcpStream::connect(&door).await.is_err();
        until("a process that drains", closed).await;
        alice.say(METAL, "/metal cancel 1").await.unwrap();
        site.db.until(Count::HostsHeld, 0).await;
    };
    let ((status, _), ()) = tokio::join!(process.terminate(), cancel);
    assert!(status.success(), "{status}");
    let attempts = site.db.attempts("web07").await;
    assert!(
        attempts.len() == 1 && attempts[0].ends_with("stopped before anything was done"),
        "the silence ended it, and not the person: {attempts:#?}"
    );
    assert_eq!(site.db.ended_state(1).await.unwrap().as_deref(), Some("cancelled"));
    site.settled().await;
    drop(other);
    site.finish().await;
}
