//! Slack away, slow, or full: nothing is lost, nothing is told twice, and order is kept.

use std::time::Duration;

use metalbot::chat::{Chat as _, Message};
use metalbot_sim::slack::{METAL, ShownMessage, SlackFault};

use crate::harness::slack::{chat, is_asked, metal};
use crate::harness::{Count, PATIENCE, World, until};

fn cards(messages: &[ShownMessage]) -> usize {
    messages.iter().filter(|m| m.text.contains("*#1 reboot*")).count()
}

#[tokio::test]
async fn slack_is_away_for_an_hour_and_nothing_is_lost_or_replayed() {
    let world = World::builder().rack().slack("socket").start().await;
    let slack = world.slack();
    slack.slash("alice", METAL, "reboot web[01-06] wave=1").await.unwrap();
    let card = slack.card(1, PATIENCE, |_| true).await.unwrap();
    // Slack says who bob is while it can.
    slack.slash("bob", METAL, "whoami").await.unwrap();
    world.quiet().await;
    slack.click("bob", METAL, &card.ts, "Approve").await.unwrap();
    slack.set_down(true);
    let edits_before = slack.times("chat.update", METAL).len();
    // The batch goes on without Slack, to its end.
    world.db.until(Count::BatchesNotEnded, 0).await;
    // An hour of tries, one after the other: each is refused, and the waits grow.
    for _ in 0..12 {
        world.db.tries_are_due().await;
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    let waiting = world.db.count(Count::Unsent).await;
    assert!(waiting > 0, "something waits");
    slack.set_down(false);
    slack.connected(1).await.unwrap();
    until("the word of the end", async || {
        world.db.tries_are_due().await;
        slack.messages("carol", METAL).iter().any(|m| m.text.contains("has ended"))
    })
    .await;
    slack.card(1, PATIENCE, |card| card.text.contains("succeeded")).await.unwrap();
    // Old progress was dropped: what came after the outage is the last state, once or twice.
    let edits = slack.times("chat.update", METAL).len() - edits_before;
    assert!(edits <= 3, "{edits} edits after the outage");
    // Each notice of the thread once, in the order in which it happened.
    let told: Vec<String> = slack
        .messages("carol", METAL)
        .into_iter()
        .filter(|m| m.thread.is_some() && m.only_to.is_none())
        .map(|m| m.metadata["event_payload"]["key"].as_str().unwrap().to_owned())
        .collect();
    world.quiet().await;
    let order = world.db.told_in_the_thread(1).await;
    assert_eq!(told, order);
    assert_eq!(cards(&slack.messages("carol", METAL)), 1);
    world.finish().await;
}

#[tokio::test]
async fn who_somebody_is_holds_up_nobody_else() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    slack.fault("users.info", std::iter::repeat_n(SlackFault::Slow(Duration::from_secs(5)), 8));
    slack.slash("bob", METAL, "whoami").await.unwrap();
    is_asked(slack, "users.info", 0).await;
    world.alice.say("metal", "/metal whoami").await.unwrap();
    let answer = world.alice.wait_for("metal", None, PATIENCE, "an answer", |m| m.only_you);
    assert!(answer.await.unwrap().text.contains("alice"));
    let open = world.db.count(Count::DeliveriesNotDone).await;
    assert_eq!((open, slack.calls("users.info")), (1, 1), "bob is asked about, once");
    world.finish().await;
}

#[tokio::test]
async fn a_post_whose_answer_is_lost_is_found_and_not_repeated() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    slack.fault("chat.postMessage", [SlackFault::LoseAnswer]);
    slack.slash("alice", METAL, "reboot web01").await.unwrap();
    let card = slack.card(1, PATIENCE, |_| true).await.unwrap();
    world.quiet().await;
    // In its thread as well, where the first tries did not even arrive.
    let faults = [SlackFault::Status(502), SlackFault::Break, SlackFault::LoseAnswer];
    slack.fault("chat.postMessage", faults);
    slack.say("bob", METAL, Some(&card.ts), "reject: no").await.unwrap();
    world.quiet().await;
    let seen = slack.messages("alice", METAL);
    assert_eq!(cards(&seen), 1);
    let rejections = seen.iter().filter(|m| m.thread.is_some() && m.text.contains("rejected"));
    assert_eq!(rejections.count(), 1);
    assert!(slack.calls("conversations.history") > 0 && slack.calls("conversations.replies") > 0);
    world.finish().await;
}

#[tokio::test]
async fn slack_is_given_the_time_that_it_asks_for() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    slack.fault("chat.postMessage", [SlackFault::RateLimited(3)]);
    let asked = std::time::Instant::now();
    slack.slash("alice", METAL, "reboot web01").await.unwrap();
    slack.card(1, PATIENCE, |_| true).await.unwrap();
    assert!(asked.elapsed() >= Duration::from_secs(3), "{:?}", asked.elapsed());
    assert_eq!(slack.calls("chat.postMessage"), 2, "and is not asked in between");
    // A refusal of the token loses nothing.
    slack.fault("chat.postMessage", [SlackFault::Error("token_revoked")]);
    slack.slash("alice", METAL, "reboot web02").await.unwrap();
    is_asked(slack, "chat.postMessage", 2).await;
    assert_eq!(world.db.count(Count::CardsRefused).await, 0);
    world.db.expect_unposted_cards().await;
    world.finish().await;
}

#[tokio::test]
async fn many_batches_share_the_edits_of_their_channel() {
    let world = World::builder().rack().slack("socket").start().await;
    let slack = world.slack();
    for host in 1..=5 {
        slack.slash("alice", METAL, &format!("reboot web{host:02}")).await.unwrap();
        let card = slack.card(host, PATIENCE, |_| true).await.unwrap();
        slack.click("bob", METAL, &card.ts, "Approve").await.unwrap();
    }
    for batch in 1..=5 {
        slack.card(batch, PATIENCE, |card| card.text.contains("succeeded")).await.unwrap();
    }
    let edits = slack.times("chat.update", METAL);
    let (first, last) = (edits[0], *edits.last().expect("there were several"));
    // One a second. Slack counts when they arrive, which on a busy machine is not quite when they leave.
    let others = Duration::from_secs(edits.len() as u64 - 1);
    let took = last - first + Duration::from_secs(1);
    assert!(took >= others, "{} edits in {:?}", edits.len(), last - first);
    world.finish().await;
}

#[tokio::test]
async fn a_text_that_is_too_long_comes_whole_as_a_file() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    let chat = chat(&world);
    // Names that do not fold.
    let hosts: Vec<String> = (0..3_000).map(|n| format!("h{n}x{n}")).collect();
    let message = Message { markdown: format!("Hosts: `{}`", hosts.join(",")), card: None };
    let location = metal();
    // The message arrives and the file does not, at first.
    slack.fault("files.completeUploadExternal", [SlackFault::Status(500)]);
    assert!(chat.post(&location, None, "k", &message).await.is_err());
    let first = chat.post(&location, None, "k", &message).await.unwrap();
    let seen = slack.messages("alice", METAL);
    assert_eq!((seen.len(), &seen[0].ts), (1, &first));
    assert!(seen[0].text.contains("the whole text is in the file"), "{}", seen[0].text);
    let files = slack.files(METAL);
    assert_eq!(files.len(), 1, "{files:?}");
    assert!(files[0].1.ends_with("h2999x2999"));
    // Slack does not want files: the message is there all the same, once.
    slack.fault("files.completeUploadExternal", [SlackFault::Error("invalid_arguments")]);
    let without = chat.post(&location, None, "k2", &message).await.unwrap();
    assert_eq!(chat.post(&location, None, "k2", &message).await.unwrap(), without);
    assert_eq!(slack.messages("alice", METAL).len(), 2);
    assert_eq!(slack.files(METAL).len(), 2, "the second try was taken");
    // For one person alone there is no file.
    chat.post(&location, Some("T0METAL/U0BOB"), "w", &message).await.unwrap();
    assert!(slack.messages("bob", METAL)[2].text.contains("ask for less"));
    assert_eq!(slack.files(METAL).len(), 2);
    world.finish().await;
}
