//! What only one person is told: where a command was typed, or in a conversation with them.

use metalbot::chat::{Chat as _, ChatError, Message};
use metalbot_sim::slack::{METAL, SlackFault, TEAM};

use crate::harness::slack::{answered, chat, metal};
use crate::harness::{Count, PATIENCE, World};

/// Slack takes a person's id to post, and neither to read nor for a file.
#[tokio::test]
async fn a_direct_message_in_doubt_is_found_and_its_file_arrives() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    let hosts: Vec<String> = (0..3_000).map(|n| format!("h{n}x{n}")).collect();
    let message = Message { markdown: format!("Hosts: `{}`", hosts.join(",")), card: None };
    let bob = format!("{TEAM}/U0BOB");
    slack.fault("chat.postMessage", [SlackFault::LoseAnswer]);
    assert!(chat(&world).direct(&metal(), &bob, "k", &message).await.is_err());
    // Another process tries again.
    let chat = chat(&world);
    chat.direct(&metal(), &bob, "k", &message).await.unwrap();
    assert_eq!(slack.messages("bob", "bob").len(), 1);
    assert_eq!(slack.files("DU0BOB").len(), 1);
    let opened = slack.calls("conversations.open");
    let short = Message { markdown: "Done".into(), card: None };
    chat.direct(&metal(), &bob, "k2", &short).await.unwrap();
    assert_eq!(
        (slack.messages("bob", "bob").len(), slack.calls("conversations.open")),
        (2, opened)
    );
    // Without the scope for it the message waits.
    slack.fault("conversations.open", [SlackFault::Error("missing_scope")]);
    let carol = format!("{TEAM}/U0CAROL");
    let waits = chat.direct(&metal(), &carol, "k3", &short).await;
    assert!(matches!(waits, Err(ChatError::Later { .. })), "{waits:?}");
    world.finish().await;
}

/// The address takes five answers and has no limit of the app's; what it is, is a secret.
#[tokio::test]
async fn commands_are_answered_at_their_address_which_is_then_forgotten() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    slack.slash("alice", METAL, "whoami").await.unwrap();
    answered(slack, "alice", METAL, "Alice").await;
    slack.slash("alice", METAL, "reboot web01").await.unwrap();
    let card = slack.card(1, PATIENCE, |_| true).await.unwrap();
    world.db.until(Count::DeliveriesWithAddress, 0).await;
    assert_eq!(slack.calls("chat.postEphemeral"), 0);
    // A button's answer belongs into the thread or under the card.
    slack.click("alice", METAL, &card.ts, "Approve").await.unwrap();
    answered(slack, "alice", METAL, "somebody else").await;
    assert_eq!(slack.calls("chat.postEphemeral"), 1);
    // An address that is good no more: the answer comes the other way.
    let mut act = slack.prepare_slash("bob", METAL, "status 1").unwrap();
    let url = act.payload["response_url"].as_str().unwrap().to_owned();
    act.payload["response_url"] = format!("{url}9").into();
    slack.deliver(act).await.unwrap();
    answered(slack, "bob", METAL, "#1 reboot").await;
    assert_eq!(slack.calls("chat.postEphemeral"), 2);
    world.db.until(Count::DeliveriesWithAddress, 0).await;
    world.finish().await;
}

/// Nobody is taken for somebody because of what was known of them once.
#[tokio::test]
async fn while_slack_does_not_say_who_somebody_is_nothing_is_done_and_nothing_forgotten() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    slack.fault("users.info", std::iter::repeat_n(SlackFault::Error("internal_error"), 2));
    slack.slash("alice", METAL, "reboot web01").await.unwrap();
    slack.slash("carol", METAL, "reboot web02").await.unwrap();
    world.db.until_at_least(Count::DeliveriesTried, 2).await;
    // It takes long: far more tries than any other fault is given, and for carol too long.
    world.db.deliveries_waited(5, "CAROL").await;
    let card = slack.card(1, PATIENCE, |card| card.text.contains("web01")).await.unwrap();
    answered(slack, "carol", METAL, "could not be done then").await;
    assert_eq!(world.db.count(Count::Batches).await, 1);
    // What keeps something from being done is never too late.
    slack.fault("users.info", [SlackFault::Error("internal_error")]);
    slack.say("bob", METAL, Some(&card.ts), "reject: no").await.unwrap();
    world.db.until_at_least(Count::DeliveriesTried, 1).await;
    world.db.deliveries_waited(5, "BOB").await;
    slack.card(1, PATIENCE, |card| card.text.contains("rejected")).await.unwrap();
    world.finish().await;
}

/// Who is not known must not believe that they have approved.
#[tokio::test]
async fn a_stranger_who_decides_in_a_thread_is_told_how_to_be_known() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    slack.change_user("stranger", |user| user.confirmed = false);
    slack.slash("alice", METAL, "reboot web01").await.unwrap();
    let card = slack.card(1, PATIENCE, |_| true).await.unwrap();
    slack.say("stranger", METAL, Some(&card.ts), "what is that?").await.unwrap();
    slack.react("stranger", METAL, &card.ts, "+1").await.unwrap();
    answered(slack, "stranger", METAL, "I do not know who").await;
    let told = slack.messages("stranger", METAL).into_iter().filter(|m| m.only_to.is_some());
    assert_eq!(told.count(), 1, "talk is answered by nobody");
    world.finish().await;
}
