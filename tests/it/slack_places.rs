//! Channels that the bot is not in: nothing is asked for where nobody would see it, and what was
//! asked for before is not forgotten.

use metalbot_sim::slack::{METAL, RANDOM, ShownMessage, SimSlack};
use serde_json::json;

use super::harness::{PATIENCE, World};

/// What Metalbot tells this person directly that has this text.
async fn told(slack: &SimSlack, who: &str, text: &str) -> ShownMessage {
    slack.wait_for(who, who, PATIENCE, text, |m| m.text.contains(text)).await.unwrap()
}

/// What this person alone is answered in a channel, the bot's or not.
async fn answered(slack: &SimSlack, who: &str, channel: &str, text: &str) -> ShownMessage {
    let fits = |m: &ShownMessage| m.only_to.is_some() && m.text.contains(text);
    slack.wait_for(who, channel, PATIENCE, text, fits).await.unwrap()
}

async fn count(world: &World, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(&world.pool).await.unwrap()
}

const BATCHES: &str = "select count(*) from batch";
const PENDING: &str = "select count(*) from job where state = 'pending'";

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
    assert_eq!((count(&world, BATCHES).await, count(&world, PENDING).await), (0, 0));
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
    assert_eq!(count(&world, BATCHES).await, 1);
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
    let started = std::time::Instant::now();
    while !slack.home("alice").is_some_and(|home| home.to_string().contains("#1 reboot")) {
        assert!(started.elapsed() < PATIENCE, "{:?}", slack.home("alice"));
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
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
    let open = "select count(*) from batch where finished_at is null";
    world.until_none("a batch that is not cancelled", open).await;
    sqlx::query("update card set due_at = now()").execute(&world.pool).await.unwrap();
    let waiting = "select count(*) from card where refused_at is null";
    world.until_none("a card that waits", waiting).await;
    assert_eq!(count(&world, PENDING).await, 0);
    // What would have been told in its thread is given up as well, and is not an error here.
    let rest = "select count(*) from outbox where sent_at is null and refused_at is null";
    world.until_none("notices that wait", rest).await;
    sqlx::query("update outbox set refused_at = null, sent_at = now() where sent_at is null")
        .execute(&world.pool)
        .await
        .unwrap();
    sqlx::query("update card set message_id = '1.1' where message_id is null")
        .execute(&world.pool)
        .await
        .unwrap();
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
