//! What may happen between Slack and us: repeats, lost connections, other processes, payloads that
//! nobody expected.

use metalbot_sim::slack::{METAL, UserAction};
use reqwest::StatusCode;
use serde_json::json;

use crate::harness::{Count, PATIENCE, World};

#[tokio::test]
async fn repeats_and_double_clicks_are_one_under_two_replicas() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    let replica = world.replica().await;
    slack.connected(2).await.unwrap();
    // Every envelope comes three times, to both processes, under other ids.
    slack.repeat(2, true);
    slack.slash("alice", METAL, "reboot web01").await.unwrap();
    let card = slack.card(1, PATIENCE, |_| true).await.unwrap();
    slack.react("bob", METAL, &card.ts, "eyes").await.unwrap();
    slack.say("bob", METAL, Some(&card.ts), "no thanks").await.unwrap();
    slack.repeat(0, false);
    // Two presses that are two deliveries, on two connections at the same time.
    let press = || slack.click("alice", METAL, &card.ts, "Cancel");
    let (one, other) = tokio::join!(press(), press());
    one.unwrap();
    other.unwrap();
    slack.card(1, PATIENCE, |card| card.text.contains("cancelled")).await.unwrap();
    world.quiet().await;
    assert_eq!(world.db.count(Count::Deliveries).await, 4);
    let cards = slack.messages("alice", METAL).into_iter().filter(|m| m.text.contains("#1 reboot"));
    assert_eq!(cards.count(), 1);
    let whispers = slack.messages("alice", METAL).into_iter().filter(|m| m.only_to.is_some());
    assert_eq!(whispers.count(), 0, "nobody is told that it is cancelled already");
    replica.stop().await;
    world.finish().await;
}

#[tokio::test]
async fn one_replica_goes_and_the_other_goes_on() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    let replica = world.replica().await;
    slack.connected(2).await.unwrap();
    slack.slash("alice", METAL, "reboot web01").await.unwrap();
    replica.stop().await;
    slack.connected(1).await.unwrap();
    slack.slash("alice", METAL, "reboot web02").await.unwrap();
    for batch in [1, 2] {
        slack.card(batch, PATIENCE, |_| true).await.unwrap();
    }
    world.finish().await;
}

#[tokio::test]
async fn connections_that_break_come_back_and_readiness_follows() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    world.ready(StatusCode::OK).await;
    slack.set_down(true);
    world.ready(StatusCode::SERVICE_UNAVAILABLE).await;
    let refused = slack.slash("alice", METAL, "reboot web01").await;
    assert!(refused.unwrap_err().to_string().contains("dispatch_failed"));
    slack.set_down(false);
    slack.connected(1).await.unwrap();
    world.ready(StatusCode::OK).await;
    slack.slash("alice", METAL, "reboot web01").await.unwrap();
    slack.card(1, PATIENCE, |_| true).await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn a_connection_that_slack_wants_replaced_is_replaced_before_it_goes() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    for reason in ["warning", "refresh_requested"] {
        let before = slack.connections();
        slack.ask_to_disconnect(reason);
        slack.connected(before + 1).await.unwrap();
    }
    // The old ones still bring something.
    for host in 1..=6 {
        slack.slash("alice", METAL, &format!("reboot web{host:02}")).await.unwrap();
    }
    world.quiet().await;
    assert_eq!(world.db.count(Count::Deliveries).await, 6);
    world.ready(StatusCode::OK).await;
    world.finish().await;
}

#[tokio::test]
async fn a_token_that_is_not_valid_is_not_ready() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    slack.fault("apps.connections.open", [metalbot_sim::slack::SlackFault::Error("invalid_auth")]);
    slack.drop_connections();
    world.ready(StatusCode::SERVICE_UNAVAILABLE).await;
    world.finish().await;
}

#[tokio::test]
async fn what_cannot_be_read_is_kept_and_holds_nothing_up() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    let strange = [
        UserAction {
            kind: "interactive",
            payload: json!({ "type": "odd\0thing", "user": { "id": "U0BOB" } }),
        },
        UserAction {
            kind: "slash_commands",
            payload: json!({ "text": "reboot web01", "team_id": "T0METAL" }),
        },
    ];
    for act in strange {
        slack.deliver(act).await.expect("it is acknowledged");
    }
    slack.send_raw("{\"type\": not JSON at all \\u0000");
    slack.send_raw("[]");
    // An organisation's installation, and metadata that is more than text.
    slack.slash("alice", METAL, "reboot web01").await.unwrap();
    let card = slack.card(1, PATIENCE, |_| true).await.unwrap();
    let mut act = slack.prepare_click("bob", METAL, &card.ts, "Approve").unwrap();
    act.payload["team"] = json!(null);
    act.payload["enterprise"] = json!({ "id": "E0ORG", "name": "Org" });
    act.payload["is_enterprise_install"] = json!(true);
    act.payload["message"]["metadata"]["event_payload"] = json!({ "n": 1, "l": [null, {}] });
    slack.deliver(act).await.expect("it is acknowledged");
    world.quiet().await;
    let kept = world.db.unreadable().await;
    assert_eq!(kept.len(), 4, "{kept:?}");
    assert_eq!(kept[0]["payload"]["type"], "odd\u{fffd}thing");
    assert_eq!(kept[1]["payload"]["text"], "reboot web01");
    assert_eq!(kept[2]["unreadable"], "{\"type\": not JSON at all \\u0000");
    let decided = world.db.count(Count::Decisions).await;
    assert_eq!(decided, 0, "the bob of another installation is not our bob");
    world.db.expect_unreadable().await;
    world.finish().await;
}
