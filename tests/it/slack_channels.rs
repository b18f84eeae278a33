//! Channels that the bot is not in: nothing is asked for where nobody would see it, and what was
//! asked for before is not forgotten.

use metalbot_sim::slack::{METAL, RANDOM};
use serde_json::json;

use crate::harness::slack::{answered, told};
use crate::harness::{Count, PATIENCE, World, until};

#[tokio::test]
async fn nothing_is_asked_for_where_the_bot_is_not() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    // In one that it can see, in one that does not exist for it, and between two people.
    slack.slash("alice", RANDOM, "reboot web01").await.unwrap();
    let refused = answered(slack, "alice", RANDOM, "/invite @metalbot").await;
    assert!(refused.text.contains("nothing was done"), "{}", refused.text);
    slack.make_private(RANDOM);
    slack.slash("bob", RANDOM, "identify web01").await.unwrap();
    answered(slack, "bob", RANDOM, "/invite @metalbot").await;
    let mut act = slack.prepare_slash("carol", METAL, "reboot web01").unwrap();
    act.payload["channel_id"] = json!("D0DAVE");
    slack.deliver(act).await.unwrap();
    answered(slack, "carol", METAL, "nobody else sees what is said there").await;
    slack.archive(METAL);
    slack.slash("dave", METAL, "reboot db01").await.unwrap();
    answered(slack, "dave", METAL, "archived").await;
    assert_eq!(
        (world.db.count(Count::Batches).await, world.db.count(Count::JobsPending).await),
        (0, 0)
    );
    // Without an address for the answer it comes directly.
    let mut act = slack.prepare_slash("bob", RANDOM, "identify web01").unwrap();
    act.payload["response_url"] = json!("http://127.0.0.1:9/gone");
    slack.deliver(act).await.unwrap();
    told(slack, "bob", "/invite @metalbot").await;
    // What needs no card is answered from everywhere, and nobody is asked about the place.
    let asked = slack.calls("conversations.info");
    slack.slash("alice", RANDOM, "whoami").await.unwrap();
    answered(slack, "alice", RANDOM, "Alice").await;
    assert_eq!(slack.calls("conversations.info"), asked);

    // Once it is let in, the same command is taken at once.
    slack.invite("alice", RANDOM).await.unwrap();
    slack.slash("alice", RANDOM, "reboot web01").await.unwrap();
    let card = slack.wait_for("alice", RANDOM, PATIENCE, "a card", |m| m.text.contains("*#1 "));
    assert_eq!(card.await.unwrap().buttons(), ["Approve", "Reject", "Cancel"]);
    assert_eq!(world.db.count(Count::Batches).await, 1);
    world.finish().await;
}

#[tokio::test]
async fn a_form_says_at_once_that_its_channel_is_closed() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    slack.slash("alice", RANDOM, "").await.unwrap();
    let option = json!({ "value": "identify" });
    let filled = json!({
        "action": { "choose_action": { "type": "static_select", "selected_option": option } },
        "hosts": { "v": { "type": "plain_text_input", "value": "web01" } },
    });
    let answer = slack.submit_view("alice", filled.clone()).await.unwrap().unwrap();
    let said = answer["errors"]["hosts"].as_str().unwrap_or_default();
    assert!(said.contains("/invite @metalbot"), "{answer}");
    slack.invite("alice", RANDOM).await.unwrap();
    let answer = slack.submit_view("alice", filled).await.unwrap().unwrap();
    assert_eq!(answer["response_action"], "push");
    world.finish().await;
}

#[tokio::test]
async fn a_card_that_cannot_be_shown_is_told_of_and_comes_with_the_invitation() {
    let world = World::builder().rack().slack("socket").start().await;
    let slack = world.slack();
    // It was there a moment ago, as far as anybody knew.
    slack.slash("alice", METAL, "retry 9").await.unwrap();
    world.quiet().await;
    slack.remove_bot(METAL);
    slack.slash("alice", METAL, "reboot web01").await.unwrap();
    let waits = told(slack, "alice", "has no card yet").await;
    let page = "/batches/1|#1 at the console>";
    for part in ["#1 reboot of `web01`", "/invite @metalbot", "/metal cancel 1", page] {
        assert!(waits.text.contains(part), "{part}: {}", waits.text);
    }
    // It can be seen and cancelled meanwhile, from elsewhere.
    slack.open_home("alice").await.unwrap();
    let shown =
        async || slack.home("alice").is_some_and(|home| home.to_string().contains("#1 reboot"));
    until("a home that shows the batch", shown).await;
    slack.slash("alice", RANDOM, "status 1").await.unwrap();
    answered(slack, "alice", RANDOM, "awaiting approval").await;

    slack.invite("alice", METAL).await.unwrap();
    let card = slack.card(1, PATIENCE, |_| true).await.unwrap();
    slack.click("bob", METAL, &card.ts, "Approve").await.unwrap();
    slack.card(1, PATIENCE, |card| card.text.contains("succeeded")).await.unwrap();
    let told = slack.messages("alice", "alice").into_iter();
    let waits = told.filter(|m| m.text.contains("has no card yet")).count();
    assert_eq!(waits, 1, "it is told once");
    world.finish().await;
}

#[tokio::test]
async fn a_batch_that_ends_unseen_needs_no_card_any_more() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    slack.slash("alice", METAL, "retry 9").await.unwrap();
    world.quiet().await;
    slack.remove_bot(METAL);
    slack.slash("alice", METAL, "reboot web01").await.unwrap();
    told(slack, "alice", "has no card yet").await;
    slack.slash("alice", RANDOM, "cancel 1").await.unwrap();
    world.db.until(Count::BatchesNotEnded, 0).await;
    world.db.cards_are_due().await;
    world.db.until(Count::CardsNotRefused, 0).await;
    assert_eq!(world.db.count(Count::JobsPending).await, 0);
    // What would have been told in its thread is given up as well, and is not an error here.
    world.db.until(Count::Unsent, 0).await;
    world.db.expect_refused_notices().await;
    world.db.expect_unposted_cards().await;
    world.finish().await;
}

#[tokio::test]
async fn slack_that_does_not_say_who_hears_us_holds_nothing_up() {
    use metalbot_sim::slack::SlackFault;
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    slack.fault("conversations.info", [SlackFault::Error("missing_scope")]);
    slack.slash("alice", METAL, "reboot web01").await.unwrap();
    slack.card(1, PATIENCE, |_| true).await.unwrap();
    world.finish().await;
}
