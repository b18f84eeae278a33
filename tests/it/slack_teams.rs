//! Several workspaces and organisations with one Metalbot: what has the same id in two of them is not
//! the same.

use metalbot_sim::slack::{METAL, ShownMessage, SimSlack};
use serde_json::json;

use crate::harness::slack::{is_asked, sees};
use crate::harness::{Count, PATIENCE, World};

fn cards(slack: &SimSlack) -> Vec<ShownMessage> {
    let all = slack.messages("alice", METAL).into_iter();
    all.filter(|m| m.thread.is_none() && m.only_to.is_none() && m.user == "U0BOT").collect()
}

#[tokio::test]
async fn the_same_ids_in_two_workspaces_are_not_the_same() {
    let world = World::builder().rack().slack("socket").elsewhere("T0OTHER").start().await;
    let (here, there) = (world.slack(), world.elsewhere());
    // There, Carol's id is somebody's whom nobody has verified.
    there.change_user("carol", |user| user.confirmed = false);
    here.slash("alice", METAL, "reboot web01").await.unwrap();
    let card = here.card(1, PATIENCE, |_| true).await.unwrap();
    there.slash("alice", METAL, "reboot web02").await.unwrap();
    let other = there.card(2, PATIENCE, |_| true).await.unwrap();
    assert_eq!((cards(here).len(), cards(there).len()), (1, 1), "each has its own");

    // The same user id, channel id and message id, from the wrong workspace.
    let mut act = there.prepare_click("bob", METAL, &other.ts, "Approve").unwrap();
    act.payload["container"]["message_ts"] = card.ts.as_str().into();
    act.payload["message"]["ts"] = card.ts.as_str().into();
    act.payload["actions"][0]["value"] = card.button("Approve").unwrap()["value"].clone();
    there.deliver(act).await.unwrap();
    sees(there, "bob", "not valid here").await;
    there.click("carol", METAL, &other.ts, "Approve").await.unwrap();
    sees(there, "carol", "T0OTHER/U0CAROL").await;
    assert_eq!(world.db.count(Count::Decisions).await, 0);
    assert!(
        here.messages("carol", METAL).iter().all(|m| m.only_to.is_none()),
        "nothing here of it"
    );

    // Two messages that have one id, which is a time.
    for (slack, head, batch) in [(here, &card, "#1 "), (there, &other, "#2 ")] {
        let (_, mut said) = slack.prepare_say("dave", METAL, Some(&head.ts), "status").unwrap();
        said.payload["event"]["ts"] = "1700000000.000100".into();
        slack.deliver(said).await.unwrap();
        let answer = slack.wait_for("dave", METAL, PATIENCE, "an answer", |m| {
            m.only_to.is_some() && m.text.contains(batch)
        });
        answer.await.unwrap();
    }

    here.click("bob", METAL, &card.ts, "Approve").await.unwrap();
    here.card(1, PATIENCE, |card| card.text.contains("succeeded")).await.unwrap();
    there.click("alice", METAL, &other.ts, "Cancel").await.unwrap();
    there.card(2, PATIENCE, |card| card.text.contains("cancelled")).await.unwrap();
    // The end is told to Alice where she asked, by her account there.
    let ended = here.wait_for("alice", "alice", PATIENCE, "the end", |m| m.text.contains("#1 "));
    ended.await.unwrap();
    assert!(there.messages("alice", "alice").iter().all(|m| !m.text.contains("#1 ")));
    world.finish().await;
}

#[tokio::test]
async fn an_organisation_is_served_by_its_own_token() {
    let world = World::builder().rack().slack("socket").elsewhere("E0ORG").start().await;
    let org = world.elsewhere();
    org.slash("alice", METAL, "reboot web01").await.unwrap();
    let card = org.card(1, PATIENCE, |_| true).await.unwrap();
    org.say("bob", METAL, Some(&card.ts), "approve").await.unwrap();
    sees(org, "carol", "*@bob* approved").await;
    org.card(1, PATIENCE, |card| card.text.contains("succeeded")).await.unwrap();
    assert_eq!(world.db.channel(1).await, "E0ORG/C0METAL");
    org.slash("alice", METAL, "reboot web02").await.unwrap();
    let card = org.card(2, PATIENCE, |_| true).await.unwrap();
    // A press names no workspace at all.
    org.click("bob", METAL, &card.ts, "Approve").await.unwrap();
    org.card(2, PATIENCE, |card| card.text.contains("succeeded")).await.unwrap();
    org.open_home("alice").await.unwrap();
    assert!(cards(world.slack()).is_empty());
    world.finish().await;
}

#[tokio::test]
async fn where_there_is_no_token_nothing_is_done_and_the_person_is_told() {
    for elsewhere in [None, Some("T0OTHER")] {
        let mut builder = World::builder().slack("socket");
        if let Some(team) = elsewhere {
            builder = builder.elsewhere(team);
        }
        let world = builder.start().await;
        let slack = world.slack();
        // The only token is known once Slack has said whose it is.
        if elsewhere.is_none() {
            is_asked(slack, "auth.test", 0).await;
        }
        slack.slash("alice", METAL, "whoami").await.unwrap();
        sees(slack, "alice", "Alice").await;
        let before = world.db.count(Count::Deliveries).await;
        let mut act = slack.prepare_slash("alice", METAL, "reboot web01").unwrap();
        act.payload["team_id"] = json!("T0STRANGE");
        let told = slack.deliver(act).await.unwrap().expect("an answer");
        let text = told["text"].as_str().unwrap();
        assert_eq!(told["response_type"], "ephemeral");
        assert!(text.contains("no token for T0STRANGE") && text.contains("Nothing was done"));
        // What has no place for an answer is only acknowledged; a form would open with no token.
        let mut form = slack.prepare_slash("alice", METAL, "").unwrap();
        form.payload["team_id"] = json!("T0STRANGE");
        assert!(slack.deliver(form).await.unwrap().is_some());
        let (_, mut said) = slack.prepare_say("bob", METAL, None, "hello").unwrap();
        said.payload["authorizations"][0]["team_id"] = json!("T0STRANGE");
        said.payload["event"]["thread_ts"] = json!("1.1");
        assert_eq!(slack.deliver(said).await.unwrap(), None);
        world.quiet().await;
        assert_eq!(world.db.count(Count::Deliveries).await, before);
        assert_eq!(world.db.count(Count::Batches).await, 0);
        world.finish().await;
    }
}
