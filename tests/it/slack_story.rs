//! The whole way through Slack: typed there, stored, carried out, and told there.

use metalbot_demo::story;
use metalbot_sim::slack::{METAL, RANDOM};

use crate::harness::slack::sees;
use crate::harness::{PATIENCE, World};

#[tokio::test]
async fn a_batch_from_the_slash_command_to_its_end() {
    let world = World::builder().rack().slack("socket").start().await;
    let slack = world.slack();
    let typed = "reboot web[01-03] reason=\"kernel & <friends>\"";
    slack.slash("alice", METAL, typed).await.unwrap();
    let card = slack.card(1, PATIENCE, |_| true).await.unwrap();
    assert_eq!(card.buttons(), ["Approve", "Reject", "Cancel"]);
    for part in ["web[01-03]", "kernel &amp; &lt;friends&gt;", "*@alice*", "web-owners", "until *"]
    {
        assert!(card.text.contains(part), "{part}: {}", card.text);
    }
    // Nobody approves their own batch, and only owners do.
    slack.click("alice", METAL, &card.ts, "Approve").await.unwrap();
    assert!(sees(slack, "alice", "somebody else").await.only_to.is_some());
    slack.click("dave", METAL, &card.ts, "Approve").await.unwrap();
    sees(slack, "dave", "only members of web-owners").await;

    slack.click("bob", METAL, &card.ts, "Approve").await.unwrap();
    let approved = sees(slack, "carol", "*@bob* approved").await;
    assert_eq!((approved.thread.as_ref(), approved.only_to), (Some(&card.ts), None));
    let done = sees(slack, "carol", "has ended").await;
    assert_eq!(done.thread.as_ref(), Some(&card.ts));
    let card = slack.card(1, PATIENCE, |card| card.text.contains("succeeded")).await.unwrap();
    assert!(card.text.contains("3 of 3 done"), "{}", card.text);
    assert!(card.edits > 0 && card.buttons().is_empty());
    for host in ["web01", "web02", "web03"] {
        let cuts = world.acts(host).iter().filter(|act| *act == "power 0").count();
        assert_eq!(cuts, 1, "{host}");
    }
    world.finish().await;
}

#[tokio::test]
async fn the_demo_tells_its_story_in_slack() {
    let world = World::builder().rack().slack("socket").start().await;
    let seat = async |login: &str| Ok(world.slack().person(login));
    story::tell(seat, world.rack(), &world.jira, &world.db.pool).await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn people_decide_by_reactions_and_words_in_the_thread() {
    let world = World::builder()
        .slack("socket")
        .approval("quorum = 1\nfrom = [\"owner\", \"group:sre\"]\n")
        .start()
        .await;
    let slack = world.slack();
    slack.slash("alice", METAL, "reboot web01,db01").await.unwrap();
    let card = slack.card(1, PATIENCE, |_| true).await.unwrap();
    slack.react("bob", METAL, &card.ts, "+1::skin-tone-3").await.unwrap();
    sees(slack, "alice", "*@bob* approved").await;
    slack.unreact("bob", METAL, &card.ts, "+1::skin-tone-3").await.unwrap();
    sees(slack, "alice", "@bob* took").await;
    slack.say("dave", METAL, Some(&card.ts), "looks <fine> & well").await.unwrap();
    slack.say("dave", METAL, None, "approve").await.unwrap();
    slack.say("dave", METAL, Some(&card.ts), "reject: too many & risky").await.unwrap();
    let told = sees(slack, "alice", "too many &amp; risky").await;
    assert_eq!(told.thread.as_ref(), Some(&card.ts));
    let card = slack.card(1, PATIENCE, |card| card.text.contains("rejected")).await.unwrap();
    assert!(card.buttons().is_empty());
    world.finish().await;
}

#[tokio::test]
async fn errors_are_for_the_person_alone_and_refusals_name_who_holds_the_hosts() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    slack.slash("alice", METAL, "rebot web01").await.unwrap();
    let error = sees(slack, "alice", "reboot").await;
    assert_eq!(error.only_to.as_deref(), Some("U0ALICE"));
    assert!(slack.messages("bob", METAL).is_empty());
    slack.slash("alice", METAL, "reboot web[01-04]").await.unwrap();
    slack.card(1, PATIENCE, |_| true).await.unwrap();
    slack.slash("carol", METAL, "reboot web[03-06]").await.unwrap();
    let refusal = sees(slack, "carol", "refused").await;
    for part in ["web[03-04]", "#1", "alice", "web[05-06]"] {
        assert!(refusal.text.contains(part), "{part}: {}", refusal.text);
    }
    // It answers also where the bot is not.
    slack.slash("alice", RANDOM, "whoami").await.unwrap();
    let seen = slack.wait_for("alice", RANDOM, PATIENCE, "who", |m| m.text.contains("alice"));
    seen.await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn nothing_that_somebody_types_pings_anybody() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    let reason = "<!channel> <!here> <@U0BOB> @everyone *x* `<!everyone>` [a](http://e.org)";
    slack.slash("alice", METAL, &format!("reboot web01 reason=\"{reason}\"")).await.unwrap();
    let card = slack.card(1, PATIENCE, |_| true).await.unwrap();
    assert!(card.text.contains("&lt;!channel&gt;"), "{}", card.text);
    slack.say("bob", METAL, Some(&card.ts), "reject: <!channel> <@U0ALICE>").await.unwrap();
    sees(slack, "alice", "rejected").await;
    slack.slash("carol", METAL, "reboot <!channel>").await.unwrap();
    sees(slack, "carol", "channel").await;
    for who in ["alice", "bob", "carol"] {
        for message in slack.messages(who, METAL).iter().filter(|m| m.user == "U0BOT") {
            assert!(message.pings.is_empty(), "{message:?}");
        }
    }
    world.finish().await;
}

#[tokio::test]
async fn people_are_found_by_verified_address_or_by_mapping_and_nobody_else_is() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    slack.change_user("mallory", |user| user.email = "alice@example.org".into());
    for (doubt, change) in [
        ("not confirmed", (|user| user.confirmed = false) as fn(&mut metalbot_sim::slack::User)),
        ("of another workspace", |user| (user.confirmed, user.team) = (true, "T0EVIL".into())),
    ] {
        slack.change_user("mallory", change);
        let before = slack.messages("mallory", METAL).len();
        slack.slash("mallory", METAL, "whoami").await.unwrap();
        world.quiet().await;
        let seen = slack.messages("mallory", METAL);
        assert_eq!(seen.len(), before + 1, "{doubt}");
        let told = seen.last().unwrap();
        assert!(told.only_to.is_some() && !told.text.contains("Alice"), "{doubt}: {told:?}");
        world.db.forget_accounts().await;
    }
    world.change_people(|people| {
        people
            .replace("email = \"bob@example.org\"", "accounts = { slack = \"T0METAL/U0MALLORY\" }")
    });
    slack.slash("mallory", METAL, "whoami").await.unwrap();
    sees(slack, "mallory", "Bob").await;
    world.finish().await;
}
