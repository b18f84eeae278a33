//! A batch is stopped after the process that worked on it has died.

// The lint knows tests by their attribute, and not the functions that they share.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use metalbot::failpoint::Point;

use crate::process::{CHANNEL, LONG, Setup, World};

#[tokio::test]
async fn a_host_that_was_about_to_be_touched_is_left_alone() {
    let world = World::start(Setup::default()).await;
    let mut process = world.serve_until(Some(Point::JobAfterIntent.as_str())).await;
    let alice = process.sign_in("alice").await;
    let bob = process.sign_in("bob").await;
    alice.say(CHANNEL, "/metal reboot web[01-03]").await.unwrap();
    let card = bob.card(CHANNEL, 1, LONG, |card| !card.buttons().is_empty()).await.unwrap();
    // The answer may die with the process.
    let _ = bob.react(&card.id, "+1", true).await;
    let started = Instant::now();
    while process.ended().is_none() {
        assert!(started.elapsed() < LONG, "it never came to that point");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(process);

    let process = world.serve().await;
    let alice = process.sign_in("alice").await;
    alice.say(CHANNEL, "/metal cancel 1").await.unwrap();
    let ended = "select state from batch where id = 1
         and not exists (select from job where state in ('pending', 'queued', 'running'))";
    while world.all(ended).await != ["cancelled"] {
        assert!(started.elapsed() < LONG, "{:?}", world.all("select state from job").await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for host in ["web01", "web02", "web03"] {
        let history = world.history(host).await;
        assert_eq!(world.cycles(host), (0, 0), "{host} was touched:\n{history}");
    }
    assert_eq!(world.all("select distinct state from job").await, ["cancelled"]);
    let (status, _) = process.terminate().await;
    assert!(status.success(), "{status}");
}
