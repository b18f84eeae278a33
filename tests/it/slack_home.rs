//! The app's home: what a person sees of their batches and of what waits for them.

use metalbot_sim::slack::{METAL, SimSlack};
use serde_json::{Value, json};

use crate::harness::slack::sees;
use crate::harness::wait::until_some;
use crate::harness::{Count, PATIENCE, World};

fn text(home: &Value) -> String {
    let blocks = home["blocks"].as_array().into_iter().flatten();
    let texts = blocks.filter_map(|block| block["text"]["text"].as_str());
    texts.collect::<Vec<_>>().join("\n")
}

/// A person's home, once it says this.
async fn home(slack: &SimSlack, who: &str, wanted: impl Fn(&str) -> bool) -> String {
    let shows = async || {
        let shown = slack.home(who).map(|home| text(&home)).unwrap_or_default();
        wanted(&shown).then_some(shown)
    };
    until_some(&format!("a home of {who} as wanted"), shows).await
}

#[tokio::test]
async fn home_shows_what_waits_and_what_is_mine_and_follows_changes() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    slack.open_home("bob").await.unwrap();
    home(slack, "bob", |shown| shown.contains("Nothing waits for you")).await;
    slack.open_home("alice").await.unwrap();
    slack.slash("alice", METAL, "reboot web[01-02] reason=\"a <b> @here\"").await.unwrap();
    let waits = home(slack, "bob", |shown| shown.contains("#1 reboot")).await;
    assert!(waits.contains("2 hosts") && waits.contains("web-owners: 0 of 1 approved"), "{waits}");
    assert!(waits.contains("a &lt;b&gt;") && waits.contains("expires <!date^"), "{waits}");
    let mine = home(slack, "alice", |shown| shown.contains("#1 reboot")).await;
    assert!(mine.contains("Nothing waits for you"), "her own batch is not hers to approve: {mine}");

    // A rejection from home asks for its reason, an approval is counted at once.
    slack.click_home("bob", "Reject").await.unwrap();
    assert_eq!(slack.view("bob").unwrap()["callback_id"], "ask");
    slack.slash("alice", METAL, "reboot web03").await.unwrap();
    home(slack, "bob", |shown| shown.contains("#2 reboot")).await;
    let answer = json!({ "answer": { "v": { "value": "not today" } } });
    slack.submit_view("bob", answer).await.unwrap();
    sees(slack, "alice", "rejected #1: not today").await;
    home(slack, "bob", |shown| !shown.contains("#1 reboot") && shown.contains("#2")).await;
    slack.click_home("bob", "Approve").await.unwrap();
    sees(slack, "alice", "*@bob* approved for web-owners").await;
    home(slack, "bob", |shown| shown.contains("Nothing waits for you")).await;
    world.finish().await;
}

#[tokio::test]
async fn a_home_that_shows_the_same_is_not_sent_again() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    slack.open_home("dave").await.unwrap();
    home(slack, "dave", |shown| shown.contains("Nothing waits for you")).await;
    let before = slack.calls("views.publish");
    slack.slash("alice", METAL, "reboot web01").await.unwrap();
    slack.card(1, PATIENCE, |_| true).await.unwrap();
    world.db.until(Count::HomesStale, 0).await;
    assert_eq!(slack.calls("views.publish"), before, "none of it is Dave's");
    world.finish().await;
}

#[tokio::test]
async fn a_home_is_of_whoever_its_user_is_now() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    slack.change_user("stranger", |user| user.confirmed = false);
    slack.open_home("stranger").await.unwrap();
    home(slack, "stranger", |shown| shown.contains("I do not know who")).await;
    slack.slash("alice", METAL, "reboot web01").await.unwrap();
    slack.open_home("alice").await.unwrap();
    home(slack, "alice", |shown| shown.contains("#1 reboot")).await;
    // The account is given to somebody else.
    slack.change_user("alice", |user| user.email = "dave@example.org".into());
    world.db.accounts_grow_old().await;
    slack.slash("carol", METAL, "reboot web02").await.unwrap();
    home(slack, "alice", |shown| !shown.contains("#1 reboot")).await;
    world.finish().await;
}

#[tokio::test]
async fn one_batch_that_cannot_be_shown_is_left_out_and_long_ones_are_cut() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    for host in 1..=9 {
        let reason = "&<>".repeat(60);
        let typed = format!("reboot web{host:02} reason=\"{reason}\"");
        slack.slash("alice", METAL, &typed).await.unwrap();
        slack.card(host, PATIENCE, |_| true).await.unwrap();
    }
    let owners: Vec<Value> = (0..200)
        .map(|n| json!({ "owner": format!("group-{n}"), "hosts": 1, "quorum": 1, "from": ["web-owners"] }))
        .collect();
    world.db.change_requirements(1, &json!({ "of": "a newer version" })).await;
    world.db.change_requirements(2, &json!(owners)).await;
    slack.open_home("bob").await.unwrap();
    let shown = home(slack, "bob", |shown| shown.contains("#9 reboot")).await;
    assert!(!shown.contains("#1 reboot") && shown.contains("#2 reboot"), "{shown}");
    assert!(shown.contains("group-5: 0 of 1") && !shown.contains("group-199"), "{shown}");
    world.db.forget_homes().await;
    world.db.change_requirements(1, &json!([])).await;
    world.finish().await;
}
