//! What a wait leaves that is cut off, how long a step may take that several workers have had, and what
//! follows when the database refuses an intent.

use metalbot_sim::bmcs::{Behaviour, Deed, Soft};

use crate::harness::{Builder, Count, METAL, PATIENCE, World, until};

/// Reads first, for hours if it must, and acts then.
const WHEN_DARK: &str = r#"
summary = "Turn hosts on once they are off"
risk = "disruptive"

[[steps]]
run = "wait_power"
is = "off"
title = "wait until it is off"
deadline = "1h"
retry = 0

[[steps]]
run = "power"
to = "on"
title = "turn it on"
deadline = "1m"
retry = 0
"#;

/// One host waits for what does not come, and the BMC of the other never answers what it is asked.
#[tokio::test]
async fn a_wait_that_is_cut_off_has_touched_nothing_and_gives_its_job_back() {
    let patient = "timeout = \"10m\"";
    let builder = World::builder().bmcs(2).action("when-dark", WHEN_DARK);
    let t = builder.replace("timeout = \"1500ms\"", patient).start().await;
    t.bmcs().behave(1, Behaviour { drop: 1.0, ..Behaviour::default() });
    let become_all = async |states: [&str; 2]| {
        let wanted = [format!("sim00000 {}", states[0]), format!("sim00001 {}", states[1])];
        until(&format!("{wanted:?}"), async || t.db.jobs(1).await == wanted).await;
    };
    t.says(&t.alice, "/metal when-dark sim[00000-00001]").await;
    t.replies(&t.bob, 1, "approve").await;
    become_all(["waiting", "running"]).await;
    t.says(&t.alice, "/metal pause 1").await;
    become_all(["pending", "pending"]).await;
    t.says(&t.alice, "/metal resume 1").await;
    become_all(["running", "running"]).await;
    t.says(&t.alice, "/metal pause 1").await;
    become_all(["pending", "pending"]).await;
    t.says(&t.alice, "/metal resume 1").await;
    // What was done before the pauses, were it anything, would have to be brought to an end here.
    become_all(["waiting", "running"]).await;
    t.says(&t.alice, "/metal cancel 1").await;
    become_all(["cancelled", "cancelled"]).await;
    assert_eq!(t.db.count(Count::AttemptsThatActed).await, 0);
    assert!(t.bmcs().acts().is_empty());
    // Their hosts are free.
    let other = t.says(&t.carol, "/metal when-dark sim[00000-00001]").await;
    assert!(other.contains("#2 when-dark"), "{other}");
    t.says(&t.carol, "/metal cancel 2").await;
    t.finish().await;
}

/// The deadline is the step's, however many workers have the job after each other.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_is_taken_over_has_no_more_time_than_it_had() {
    let site = Builder::processes().bmcs(2).site().await;
    site.bmcs().behave_all(Behaviour { soft: Soft::Ignored, ..Behaviour::default() });
    let process = site.serve().await;
    let (alice, bob) = (process.sign_in("alice").await, process.sign_in("bob").await);
    for (batch, host) in [(1, "sim00000"), (2, "sim00001")] {
        alice.say(METAL, &format!("/metal power-off {host} wait=1h")).await.unwrap();
        let card = bob.card(METAL, batch, PATIENCE, |card| !card.buttons().is_empty()).await;
        bob.react(&card.unwrap().id, "+1", true).await.unwrap();
        let waits = async || site.db.step(host).await == 1;
        until(&format!("{host} was asked to shut down"), waits).await;
        if batch == 1 {
            site.db.until(Count::JobsWaiting, 1).await;
        }
    }
    // One job is parked, and the other has just begun to wait.
    process.kill9();
    let taking_over = site.serve().await;
    site.db.until(Count::JobsWaiting, 2).await;
    taking_over.kill9();
    for host in ["sim00000", "sim00001"] {
        site.db.step_began(host, "2 hours").await;
    }
    let last = site.serve().await;
    site.db.until(Count::HostsHeld, 0).await;
    for batch in [1, 2] {
        let outcomes = site.db.outcomes(batch).await;
        let (_, state, kind) = &outcomes[0];
        assert_eq!((state.as_str(), kind.as_deref()), ("failed", Some("power_state")));
    }
    assert_eq!(site.bmcs().deeds(0), [Deed::Soft]);
    assert_eq!(site.bmcs().deeds(1), [Deed::Soft]);
    site.settled().await;
    let (status, _) = last.terminate().await;
    assert!(status.success(), "{status}");
    site.finish().await;
}

/// What the database refuses for what it is will not be taken a second time.
#[tokio::test]
async fn an_intent_that_is_refused_ends_its_job() {
    let t = World::builder().bmcs(1).start().await;
    t.db.refuse_intents(i64::MAX, "23514").await;
    t.says(&t.alice, "/metal reboot sim00000").await;
    t.replies(&t.bob, 1, "approve").await;
    let ended = t.ended(1).await;
    assert!(ended.contains("the journal refused the intent, and nothing was sent"), "{ended}");
    assert_eq!(t.db.intents_asked().await.0, 1);
    assert_eq!(t.bmcs().deeds(0), []);
    t.tickets(1).await;
    t.finish().await;
}

/// What it cannot take just now is asked for again, and not as fast as it can refuse.
#[tokio::test]
async fn an_intent_that_may_be_taken_later_is_asked_for_after_a_while() {
    let t = World::builder().bmcs(1).start().await;
    t.db.refuse_intents(4, "53100").await;
    t.says(&t.alice, "/metal reboot sim00000").await;
    t.replies(&t.bob, 1, "approve").await;
    assert!(t.ended(1).await.contains("succeeded, 1 host done"));
    assert_eq!(t.bmcs().deeds(0), [Deed::Off, Deed::On]);
    // Four that were refused, and one for each act. No load makes it less than the four waits.
    let (asked, took_ms) = t.db.intents_asked().await;
    assert_eq!(asked, 6);
    assert!(took_ms >= 4 * 200, "{took_ms} ms");
    t.finish().await;
}
