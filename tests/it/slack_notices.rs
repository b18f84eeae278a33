//! Who is notified in Slack: direct messages, mentions of groups and people.

use metalbot_sim::slack::METAL;

use crate::harness::slack::sees;
use crate::harness::{PATIENCE, World};

#[tokio::test]
async fn the_end_comes_by_direct_message_and_owners_are_called_by_their_group() {
    let calls = "[[chat.approver_mention]]\ngroup = \"web-owners\"\nplatform = \"slack\"\nmention = \"S0WEB\"\n";
    let world = World::builder().rack().slack("socket").append(calls).start().await;
    let slack = world.slack();
    slack.slash("alice", METAL, "reboot web01 reason=\"<!channel> @bob\"").await.unwrap();
    let card = slack.card(1, PATIENCE, |_| true).await.unwrap();
    assert!(card.pings.is_empty(), "{:?}", card.pings);
    let called = sees(slack, "carol", "waits for your approval").await;
    assert_eq!(called.pings, ["subteam^S0WEB"]);
    assert_eq!(called.thread.as_ref(), Some(&card.ts));
    slack.click("bob", METAL, &card.ts, "Approve").await.unwrap();
    let ended = sees(slack, "carol", "has ended").await;
    assert_eq!(ended.pings, ["U0ALICE"]);
    let direct = slack.wait_for("alice", "alice", PATIENCE, "a direct message", |message| {
        message.text.contains("#1 has ended")
    });
    let direct = direct.await.unwrap();
    assert_eq!(direct.channel, "DU0ALICE");
    let card = format!("archives/{METAL}/p{}|The card of #1>", card.ts.replace('.', ""));
    assert!(direct.text.contains(&card), "{}", direct.text);
    assert!(slack.messages("bob", "bob").is_empty());
    let leads = world.alice.leads_to("/batches/1").await.unwrap();
    assert!(card.starts_with(leads.split_once("slack.test/").unwrap().1), "{leads}");
    world.finish().await;
}

#[tokio::test]
async fn preferences_are_the_same_wherever_they_were_chosen() {
    let world = World::builder().rack().slack("socket").start().await;
    let slack = world.slack();
    world.says(&world.alice, "/metal notify complete=off").await;
    slack.slash("alice", METAL, "identify web01").await.unwrap();
    let ended = sees(slack, "carol", "has ended").await;
    assert!(ended.pings.is_empty(), "{:?}", ended.pings);
    world.quiet().await;
    assert!(slack.messages("alice", "alice").is_empty());
    world.finish().await;
}
