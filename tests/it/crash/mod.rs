//! `kill -9`, SIGSTOP and SIGTERM in the middle of batches: nothing is lost, and by the rack's own
//! log nothing is done twice.

// The lint knows tests by their attribute, and not the functions that they share.
#![allow(clippy::unwrap_used)]

mod points;
#[cfg(feature = "failpoints")]
mod stopped;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use metalbot_sim::actor::SeenMessage;
use metalbot_store as store;

use crate::process::{CHANNEL, LONG, Process, Setup, World};

/// An approved reboot of all forty web hosts.
pub async fn reboot_web(world: &World, process: &Process) -> SeenMessage {
    let alice = process.sign_in("alice").await;
    let bob = process.sign_in("bob").await;
    let command = "/metal reboot @web reason=\"kernel CVE-2026-1\"";
    alice.say(CHANNEL, command).await.unwrap();
    let card = bob.card(CHANNEL, 1, LONG, |card| !card.buttons().is_empty()).await.unwrap();
    bob.react(&card.id, "+1", true).await.unwrap();
    world.acts_reach(1).await;
    card
}

/// Waits until batch 1 is final; returns its state.
pub async fn ended(world: &World) -> String {
    let started = Instant::now();
    loop {
        let read: sqlx::Result<String> =
            sqlx::query_scalar("select state from batch where id = 1 and finished_at is not null")
                .fetch_one(&world.pool)
                .await;
        match read {
            Ok(state) => return state,
            Err(error) if started.elapsed() > LONG => panic!("the batch never ended: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Everything that must hold of batch 1 when it has ended, whatever died meanwhile.
pub async fn nothing_lost_nothing_twice(world: &World, process: &Process, card: &SeenMessage) {
    let jobs: Vec<(String, String, Option<String>)> =
        sqlx::query_as("select host, state, error_kind from job where batch_id = 1 order by host")
            .fetch_all(&world.pool)
            .await
            .unwrap();
    assert_eq!(jobs.len(), 40);
    for (host, state, error) in &jobs {
        let server = world.servers.iter().find(|server| server.name.as_str() == host).unwrap();
        match server.fault {
            None => {
                assert_eq!(state, "succeeded", "{host}: {error:?}");
                let (cycles, history) = (world.cycles(host), world.history(host).await);
                assert_eq!(cycles, (1, 1), "{host} was cycled otherwise than once:\n{history}");
            }
            Some(_) => {
                assert!(["failed", "quarantined"].contains(&&state[..]), "{host} is {state}");
                assert_eq!(world.cycles(host), (0, 0), "{host} cannot be reached");
            }
        }
    }
    let open: i64 = sqlx::query_scalar("select count(*) from attempt where outcome is null")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert_eq!(open, 0, "attempts without an outcome");

    // People hear of it once: when the last notice is out, there is no other of its kind.
    let person = process.sign_in("carol").await;
    let kinds: BTreeSet<&str> = jobs.iter().filter_map(|job| job.2.as_deref()).collect();
    let all_told = |messages: &[SeenMessage]| {
        messages.iter().any(|m| m.text.contains("has ended"))
            && kinds.len() == messages.iter().filter(|m| m.text.contains("was filed for")).count()
    };
    let started = Instant::now();
    let messages = loop {
        let messages = person.messages(CHANNEL, Some(&card.id)).await.unwrap();
        if all_told(&messages) || started.elapsed() > LONG {
            break messages;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let texts: Vec<&str> = messages.iter().map(|message| &message.text[..]).collect();
    let told = |part: &str| texts.iter().filter(|text| text.contains(part)).count();
    assert_eq!(told("has ended"), 1, "{texts:#?}");
    assert_eq!(told("approved for"), 1, "{texts:#?}");
    assert_eq!(told("was filed for"), kinds.len(), "{kinds:?} {texts:#?}");
    let tickets = world.jira.issues();
    assert_eq!(tickets.len(), kinds.len(), "{kinds:?} {tickets:#?} {texts:#?}");

    let report = store::audit::verify(&mut world.pool.acquire().await.unwrap()).await.unwrap();
    assert_eq!(report.broken, None);
}

/// Kills the process after each of these numbers of acts, and starts another one.
async fn killed_after(setup: Setup, acts: &[usize]) {
    let world = World::start(setup).await;
    let mut process = world.serve().await;
    let card = reboot_web(&world, &process).await;
    for acts in acts {
        world.acts_reach(*acts).await;
        process.kill9();
        process = world.serve().await;
    }
    let state = ended(&world).await;
    assert_eq!(state, if setup.broken { "partly_failed" } else { "succeeded" });
    nothing_lost_nothing_twice(&world, &process, &card).await;
    let (status, _) = process.terminate().await;
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_in_the_middle_of_a_batch() {
    // 40 hosts are 80 acts.
    killed_after(Setup { broken: false, ..Setup::default() }, &[rand::random_range(1..80)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_twice_in_a_batch_with_broken_hosts() {
    let first = rand::random_range(1..40);
    killed_after(Setup::default(), &[first, rand::random_range(first + 1..76)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_processes_dies_and_the_other_takes_over() {
    let world = World::start(Setup::default()).await;
    let first = world.serve().await;
    let second = world.serve().await;
    let card = reboot_web(&world, &first).await;
    world.acts_reach(rand::random_range(5..60)).await;
    first.kill9();
    assert_eq!(ended(&world).await, "partly_failed");
    nothing_lost_nothing_twice(&world, &second, &card).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_stood_still_past_its_leases_acts_on_nothing_and_writes_nothing() {
    let world = World::start(Setup { broken: false, ..Setup::default() }).await;
    let frozen = world.serve().await;
    let card = reboot_web(&world, &frozen).await;
    world.acts_reach(rand::random_range(5..60)).await;
    frozen.freeze();
    let other = world.serve().await;
    assert_eq!(ended(&world).await, "succeeded");
    nothing_lost_nothing_twice(&world, &other, &card).await;
    let before = everything_written(&world).await;
    frozen.thaw();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(everything_written(&world).await, before);
    nothing_lost_nothing_twice(&world, &other, &card).await;
    let (status, _) = frozen.terminate().await;
    assert!(status.success(), "{status}");
}

/// The same while the other process is still at work on what it took over.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_comes_back_during_the_takeover_does_nothing_twice() {
    let world = World::start(Setup { broken: false, ..Setup::default() }).await;
    let frozen = world.serve().await;
    let other = world.serve().await;
    let card = reboot_web(&world, &frozen).await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..300))).await;
        frozen.freeze();
        tokio::time::sleep(Duration::from_millis(rand::random_range(2_000..3_000))).await;
        frozen.thaw();
    }
    assert_eq!(ended(&world).await, "succeeded");
    nothing_lost_nothing_twice(&world, &other, &card).await;
}

/// What a worker writes, as one text.
async fn everything_written(world: &World) -> String {
    sqlx::query_scalar(
        "select concat(
             (select json_agg(j order by id) from job j), (select json_agg(a order by id) from attempt a),
             (select json_agg(b order by id) from batch b), (select count(*) from audit),
             (select json_agg(t order by id) from ticket t), (select count(*) from console_message))",
    )
    .fetch_one(&world.pool)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_in_the_middle_of_a_batch_ends_in_time_and_the_next_process_goes_on() {
    let world = World::start(Setup::default()).await;
    let mut process = world.serve().await;
    let card = reboot_web(&world, &process).await;
    for acts in [rand::random_range(5..30), rand::random_range(35..70)] {
        world.acts_reach(acts).await;
        let (status, took) = process.terminate().await;
        assert!(status.success(), "{status}");
        // The drain of the configuration, and a little for the rest.
        assert!(took < Duration::from_secs(8), "{took:?}");
        process = world.serve().await;
    }
    assert_eq!(ended(&world).await, "partly_failed");
    nothing_lost_nothing_twice(&world, &process, &card).await;
}
