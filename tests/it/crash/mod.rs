//! `kill -9`, SIGSTOP and SIGTERM in the middle of batches: nothing is lost, and by the rack's own
//! log nothing is done twice.

// The lint knows tests by their attribute, and not the functions that they share.
#![allow(clippy::unwrap_used)]

mod points;
mod step_points;
#[cfg(feature = "failpoints")]
mod stopped;

use std::collections::BTreeSet;
use std::time::Duration;

use metalbot_sim::actor::SeenMessage;

use crate::harness::wait::until_some;
use crate::harness::{Count, METAL, PATIENCE, Process, Site, until};

/// An approved reboot of all forty web hosts, that has begun.
pub async fn reboot_web(site: &Site, process: &Process) -> SeenMessage {
    let card = approve_reboot_of_web(process).await;
    site.acts_reach(1).await;
    card
}

/// The same, which may not have begun.
pub async fn approve_reboot_of_web(process: &Process) -> SeenMessage {
    let alice = process.sign_in("alice").await;
    let bob = process.sign_in("bob").await;
    let command = "/metal reboot @web reason=\"kernel CVE-2026-1\"";
    alice.say(METAL, command).await.unwrap();
    let card = bob.card(METAL, 1, PATIENCE, |card| !card.buttons().is_empty()).await.unwrap();
    // A process that is made to stand still may answer when it goes on.
    let _ = tokio::time::timeout(Duration::from_secs(1), bob.react(&card.id, "+1", true)).await;
    card
}

/// Waits until batch 1 is final, and checks that this is its state.
pub async fn ends(site: &Site, expected: &str) {
    // The database may be away.
    let look = async || site.db.ended_state(1).await.ok().flatten();
    let state = until_some("the end of the batch", look).await;
    let mut failed = site.db.outcomes(1).await;
    failed.retain(|(_, state, _)| state != "succeeded");
    assert_eq!(state, expected, "{failed:#?}");
}

/// Everything that must hold of batch 1 when it has ended, whatever died meanwhile.
pub async fn nothing_lost_nothing_twice(site: &Site, process: &Process, card: &SeenMessage) {
    let jobs = site.db.outcomes(1).await;
    assert_eq!(jobs.len(), 40);
    for (host, state, error) in &jobs {
        let server = site.servers.iter().find(|server| server.name.as_str() == host).unwrap();
        match server.fault {
            None => {
                assert_eq!(state, "succeeded", "{host}: {error:?}");
                let (cycles, history) = (site.cycles(host), site.history(host).await);
                assert_eq!(cycles, (1, 1), "{host} was cycled otherwise than once:\n{history}");
            }
            Some(_) => {
                assert!(["failed", "quarantined"].contains(&&state[..]), "{host} is {state}");
                assert_eq!(site.cycles(host), (0, 0), "{host} cannot be reached");
            }
        }
    }
    assert_eq!(site.db.count(Count::AttemptsWithoutOutcome).await, 0);

    // People hear of it once: when the last notice is out, there is no other of its kind.
    let person = process.sign_in("carol").await;
    let kinds: BTreeSet<&str> = jobs.iter().filter_map(|job| job.2.as_deref()).collect();
    let all_told = |messages: &[SeenMessage]| {
        messages.iter().any(|m| m.text.contains("has ended"))
            && kinds.len() == messages.iter().filter(|m| m.text.contains("was filed for")).count()
    };
    let messages = until_some("all that people are told", async || {
        let messages = person.messages(METAL, Some(&card.id)).await.unwrap();
        all_told(&messages).then_some(messages)
    })
    .await;
    let texts: Vec<&str> = messages.iter().map(|message| &message.text[..]).collect();
    let told = |part: &str| texts.iter().filter(|text| text.contains(part)).count();
    assert_eq!(told("has ended"), 1, "{texts:#?}");
    assert_eq!(told("approved for"), 1, "{texts:#?}");
    assert_eq!(told("was filed for"), kinds.len(), "{kinds:?} {texts:#?}");
    let tickets = site.jira.issues();
    assert_eq!(tickets.len(), kinds.len(), "{kinds:?} {tickets:#?} {texts:#?}");

    site.db.check_audit().await;
}

/// Kills the process after each of these numbers of acts, and starts another one.
async fn killed_after(site: Site, acts: &[usize]) {
    let mut process = site.serve().await;
    let card = reboot_web(&site, &process).await;
    for acts in acts {
        site.acts_reach(*acts).await;
        process.kill9();
        process = site.serve().await;
    }
    ends(&site, if site.is_broken() { "partly_failed" } else { "succeeded" }).await;
    nothing_lost_nothing_twice(&site, &process, &card).await;
    site.settled().await;
    let (status, _) = process.terminate().await;
    assert!(status.success(), "{status}");
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_in_the_middle_of_a_batch() {
    // 40 hosts are 80 acts.
    killed_after(Site::sound().await, &[rand::random_range(1..80)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_twice_in_a_batch_with_broken_hosts() {
    let first = rand::random_range(1..40);
    killed_after(Site::start().await, &[first, rand::random_range(first + 1..76)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_processes_dies_and_the_other_takes_over() {
    let site = Site::start().await;
    let first = site.serve().await;
    let second = site.serve().await;
    let card = reboot_web(&site, &first).await;
    site.acts_reach(rand::random_range(5..60)).await;
    first.kill9();
    ends(&site, "partly_failed").await;
    nothing_lost_nothing_twice(&site, &second, &card).await;
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_stood_still_past_its_leases_acts_on_nothing_and_writes_nothing() {
    let site = Site::sound().await;
    let frozen = site.serve().await;
    let card = reboot_web(&site, &frozen).await;
    site.acts_reach(rand::random_range(5..60)).await;
    frozen.freeze();
    let other = site.serve().await;
    ends(&site, "succeeded").await;
    nothing_lost_nothing_twice(&site, &other, &card).await;
    let before = site.db.written_by_workers().await;
    frozen.thaw();
    let knows = async || frozen.log().contains("the lease of a");
    until("a process that has noticed", knows).await;
    // What it still had to do, it has done when it has ended in order.
    let (status, _) = frozen.terminate().await;
    assert!(status.success(), "{status}");
    assert_eq!(site.db.written_by_workers().await, before);
    nothing_lost_nothing_twice(&site, &other, &card).await;
    site.finish().await;
}

/// The same while the other process is still at work on what it took over.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_comes_back_during_the_takeover_does_nothing_twice() {
    let site = Site::sound().await;
    let frozen = site.serve().await;
    let other = site.serve().await;
    let card = reboot_web(&site, &frozen).await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..300))).await;
        frozen.freeze();
        tokio::time::sleep(Duration::from_millis(rand::random_range(2_000..3_000))).await;
        frozen.thaw();
    }
    ends(&site, "succeeded").await;
    nothing_lost_nothing_twice(&site, &other, &card).await;
    site.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_in_the_middle_of_a_batch_ends_in_time_and_the_next_process_goes_on() {
    let site = Site::start().await;
    let mut process = site.serve().await;
    let card = reboot_web(&site, &process).await;
    for acts in [rand::random_range(5..30), rand::random_range(35..70)] {
        site.acts_reach(acts).await;
        let (status, took) = process.terminate().await;
        assert!(status.success(), "{status}");
        // The drain of the configuration, and a little for the rest.
        assert!(took < Duration::from_secs(8), "{took:?}");
        process = site.serve().await;
    }
    ends(&site, "partly_failed").await;
    nothing_lost_nothing_twice(&site, &process, &card).await;
    site.finish().await;
}
