//! Each step is cut off before and after its act, while people stop the batch, take its approval back, or
//! the process is told to end: by the BMCs' own log every act is done at most once.

// The lint knows tests by their attribute, and not the functions that they share.
#![allow(clippy::unwrap_used)]

use metalbot::failpoint::Point;
use rand::seq::IndexedRandom;

use crate::harness::process::signal;
use crate::harness::{Count, METAL, PATIENCE, Process, Site, until};

/// An action whose one act cannot be repeated.
const CYCLE: &str = "summary = \"Cycle hosts in one command\"\nrisk = \"disruptive\"\n\n[[steps]]\n\
    title = \"cycle the power\"\nrun = \"power\"\nto = \"cycle\"\ndeadline = \"1m\"\n\n[[steps]]\n\
    title = \"wait until it is on\"\nrun = \"wait_power\"\nis = \"on\"\ndeadline = \"1m\"\n";
const ACTIONS: [&str; 3] = ["reboot", "power-off mode=hard", "cycle"];
const POINTS: [Point; 6] = [
    Point::LeaseTaken,
    Point::JobBeforeIntent,
    Point::JournalIntentWritten,
    Point::JobAfterIntent,
    Point::JobAfterAct,
    Point::JobAfterOutcome,
];
const HOSTS: [&str; 3] = ["web01", "web02", "web03"];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Meanwhile {
    Cancelled,
    ApprovalTakenBack,
    Draining,
}

/// The process is cut off when it comes to this point for the `nth` time.
async fn cut_off(action: &str, point: Point, nth: usize, meanwhile: Meanwhile) {
    let case = format!("{action} {}*{nth} {meanwhile:?}", point.as_str());
    println!("{case}");
    let site = Site::sound().await;
    site.add_action("cycle", CYCLE);
    let stands = if meanwhile == Meanwhile::Draining { "stand:" } else { "" };
    let failpoint = format!("{stands}{}*{nth}", point.as_str());
    let mut process = site.serve_until(Some(&failpoint)).await;
    let (alice, bob) = (process.sign_in("alice").await, process.sign_in("bob").await);
    let command = format!("/metal {action} web[01-03] reason=\"a test\"");
    alice.say(METAL, &command).await.unwrap();
    let card = bob.card(METAL, 1, PATIENCE, |card| !card.buttons().is_empty()).await.unwrap();
    // The answer may die with the process.
    let _ = bob.react(&card.id, "+1", true).await;
    if meanwhile == Meanwhile::Draining {
        until(&case, async || process.log().contains("stands still at")).await;
        signal("TERM", process.id());
        process.thaw();
        process.ends().await;
    } else {
        until(&case, async || process.ended().is_some()).await;
        drop(process);
    }
    let next = site.serve().await;
    match meanwhile {
        Meanwhile::Cancelled => cancel(&next).await,
        Meanwhile::ApprovalTakenBack => {
            let bob = next.sign_in("bob").await;
            bob.react(&card.id, "+1", false).await.unwrap();
            site.quiet().await;
            if ["awaiting_approval", "paused"].contains(&&site.db.batch_state(1).await[..]) {
                let acts = HOSTS.iter().map(|host| site.acts(host).len()).sum::<usize>();
                assert_eq!(acts, 0, "{case}: what has begun cannot be taken back");
                cancel(&next).await;
            }
        }
        Meanwhile::Draining => {}
    }
    site.db.until(Count::HostsHeld, 0).await;
    site.db.until(Count::AttemptsWithoutOutcome, 0).await;
    let outcomes = site.db.outcomes(1).await;
    for host in HOSTS {
        let acts = site.acts(host);
        for act in &acts {
            let times = acts.iter().filter(|other| *other == act).count();
            assert_eq!(times, 1, "{case}: {host} {acts:?}\n{}", site.history(host).await);
        }
        let quarantined =
            outcomes.iter().any(|(name, state, _)| name == host && state == "quarantined");
        let left_off =
            acts.contains(&"power 0".to_owned()) && !acts.contains(&"power 1".to_owned());
        assert!(
            action.starts_with("power-off") || !left_off || quarantined,
            "{case}: {host} {acts:?}"
        );
    }
    if meanwhile == Meanwhile::Draining && action != "cycle" {
        assert!(outcomes.iter().all(|(_, state, _)| state == "succeeded"), "{case}: {outcomes:?}");
    }
    site.settled().await;
    let (status, _) = next.terminate().await;
    assert!(status.success(), "{case}: {status}");
    site.finish().await;
}

async fn cancel(process: &Process) {
    let alice = process.sign_in("alice").await;
    alice.say(METAL, "/metal cancel 1").await.unwrap();
}

/// How often a process comes to this point at least, with three hosts.
fn times(point: Point) -> usize {
    match point {
        // Once for all of them.
        Point::LeaseTaken | Point::JournalIntentWritten => 1,
        _ => rand::random_range(1..=3),
    }
}

/// One case, by chance.
async fn one(meanwhile: Meanwhile) {
    let mut rng = rand::rng();
    let (action, point) = (ACTIONS.choose(&mut rng).unwrap(), *POINTS.choose(&mut rng).unwrap());
    drop(rng);
    cut_off(action, point, times(point), meanwhile).await;
}

async fn each(meanwhile: Meanwhile) {
    for action in ACTIONS {
        for point in POINTS {
            cut_off(action, point, times(point), meanwhile).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_off_and_cancelled() {
    one(Meanwhile::Cancelled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_off_and_its_approval_taken_back() {
    one(Meanwhile::ApprovalTakenBack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_off_while_the_process_drains() {
    one(Meanwhile::Draining).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: `make test-long`"]
async fn each_cut_off_and_cancelled() {
    each(Meanwhile::Cancelled).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: `make test-long`"]
async fn each_cut_off_and_its_approval_taken_back() {
    each(Meanwhile::ApprovalTakenBack).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: `make test-long`"]
async fn each_cut_off_while_the_process_drains() {
    each(Meanwhile::Draining).await;
}
