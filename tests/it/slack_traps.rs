//! What Slack and its clients are known to do to those who trust them.

use std::time::Duration;

use metalbot_sim::slack::{METAL, RANDOM, ShownMessage, SlackFault};
use reqwest::StatusCode;

use crate::harness::slack::{is_asked, sees};
use crate::harness::{Count, PATIENCE, World, until};

/// A client that awaits what it does before it reads on delays everybody.
#[tokio::test]
async fn a_slow_form_holds_up_nobody_else() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    slack.slash("alice", METAL, "whoami").await.unwrap();
    world.quiet().await;
    slack.fault("views.open", [SlackFault::Slow(Duration::from_secs(2))]);
    let mut form = Box::pin(slack.slash("alice", METAL, ""));
    let other = async {
        is_asked(slack, "views.open", 0).await;
        slack.slash("bob", METAL, "reboot web01").await.unwrap();
    };
    tokio::select! {
        biased;
        () = other => {}
        _ = &mut form => panic!("the form was answered before the command behind it"),
    }
    form.await.unwrap();
    world.finish().await;
}

/// The client waits for ever for an answer.
#[tokio::test]
async fn a_call_without_an_answer_is_given_up_and_looked_for() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    slack.fault("chat.postMessage", [SlackFault::Slow(Duration::from_secs(3600))]);
    slack.slash("alice", METAL, "reboot web01").await.unwrap();
    slack.card(1, PATIENCE, |_| true).await.unwrap();
    world.db.until(Count::CardsNotPosted, 0).await;
    let cards = slack.messages("alice", METAL).into_iter().filter(|m| m.text.contains("*#1 "));
    assert_eq!(cards.count(), 1);
    assert!(slack.calls("conversations.history") > 0);
    world.finish().await;
}

/// A connection that is open need not be one that works.
#[tokio::test]
async fn a_connection_counts_when_it_is_greeted() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    world.ready(StatusCode::OK).await;
    slack.set_silent(true);
    slack.drop_connections();
    slack.connected(1).await.unwrap();
    world.ready(StatusCode::SERVICE_UNAVAILABLE).await;
    slack.set_silent(false);
    slack.drop_connections();
    world.ready(StatusCode::OK).await;
    world.finish().await;
}

/// An app has ten connections at most.
#[tokio::test]
async fn a_process_too_many_waits_for_its_turn() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    slack.limit_connections(1);
    let replica = world.replica().await;
    until("a second connection that is sent away", async || slack.sent_away() > 0).await;
    slack.slash("alice", METAL, "reboot web01").await.unwrap();
    slack.card(1, PATIENCE, |_| true).await.unwrap();
    slack.limit_connections(2);
    slack.connected(2).await.unwrap();
    replica.stop().await;
    world.finish().await;
}

#[tokio::test]
async fn who_switches_socket_mode_off_and_on_again_is_served_again() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    let before = slack.calls("apps.connections.open");
    slack.ask_to_disconnect("link_disabled");
    is_asked(slack, "apps.connections.open", before).await;
    slack.connected(1).await.unwrap();
    world.ready(StatusCode::OK).await;
    slack.slash("alice", METAL, "reboot web01").await.unwrap();
    slack.card(1, PATIENCE, |_| true).await.unwrap();
    world.finish().await;
}

/// The client paces a workspace as a whole; Slack limits posts by channel.
#[tokio::test]
async fn patience_for_one_channel_is_none_for_another() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    slack.invite("alice", RANDOM).await.unwrap();
    slack.fault("chat.postMessage", [SlackFault::RateLimited(20)]);
    slack.slash("alice", METAL, "reboot web01").await.unwrap();
    is_asked(slack, "chat.postMessage", 0).await;
    slack.slash("alice", RANDOM, "reboot web02").await.unwrap();
    let other = slack.wait_for("alice", RANDOM, PATIENCE, "#2", |m| m.text.contains("*#2 "));
    other.await.unwrap();
    assert!(slack.messages("alice", METAL).is_empty(), "its turn has not come");
    slack.card(1, PATIENCE, |_| true).await.unwrap();
    world.finish().await;
}

/// What Slack could not deliver comes again, after a minute and after five, and so after what
/// happened meanwhile.
#[tokio::test]
async fn a_reaction_that_arrives_after_its_removal_approves_nothing() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    slack.slash("alice", METAL, "reboot web[01-02]").await.unwrap();
    let card = slack.card(1, PATIENCE, |_| true).await.unwrap();
    let late = slack.prepare_react("bob", METAL, &card.ts, "+1", true).unwrap();
    slack.unreact("bob", METAL, &card.ts, "+1").await.unwrap();
    slack.deliver(late).await.unwrap();
    // The same with what ends a batch.
    let late = slack.prepare_react("bob", METAL, &card.ts, "x", true).unwrap();
    slack.unreact("bob", METAL, &card.ts, "x").await.unwrap();
    slack.deliver(late).await.unwrap();
    world.quiet().await;
    assert_eq!(world.db.count(Count::BatchesDecided).await, 0);
    let said = slack.messages("bob", METAL).into_iter().filter(|m| m.thread.is_some());
    assert_eq!(said.count(), 0);

    // One that was put there before the plan changed was put there for the other plan.
    let late = slack.prepare_react("bob", METAL, &card.ts, "white_check_mark", true).unwrap();
    let late_word = slack.prepare_say("bob", METAL, Some(&card.ts), "lgtm").unwrap();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    slack.slash("alice", METAL, "drop 1 web02").await.unwrap();
    slack.card(1, PATIENCE, |card| !card.text.contains("web[01-02]")).await.unwrap();
    slack.deliver(late).await.unwrap();
    sees(slack, "bob", "has changed since").await;
    let (_, late) = late_word;
    slack.deliver(late).await.unwrap();
    let told =
        |m: &ShownMessage| m.only_to.is_some() && m.thread.is_some() && m.text.contains("changed");
    slack.wait_for("bob", METAL, PATIENCE, "the same of the word", told).await.unwrap();
    // What is said in the second of the change is taken for said before it.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    slack.unreact("bob", METAL, &card.ts, "white_check_mark").await.unwrap();
    slack.react("bob", METAL, &card.ts, "white_check_mark").await.unwrap();
    sees(slack, "alice", "*@bob* approved").await;
    world.finish().await;
}

/// What opens a form is good for three seconds. Who waited for longer is told to try again.
#[tokio::test]
async fn a_form_that_comes_too_late_is_told_of() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    slack.fault("views.open", [SlackFault::Error("expired_trigger_id")]);
    let told = slack.slash("alice", METAL, "").await.unwrap().unwrap();
    assert!(told["text"].as_str().unwrap().contains("Please try again"), "{told}");
    assert!(slack.slash("alice", METAL, "").await.unwrap().is_none());
    assert!(slack.view("alice").is_some());
    world.finish().await;
}
