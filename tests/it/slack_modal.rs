//! Forms in Slack: a batch from a form instead of a line of text, and reasons that are asked for.

use metalbot_sim::slack::{METAL, SimSlack};
use serde_json::{Value, json};

use crate::harness::slack::sees;
use crate::harness::{PATIENCE, World};

/// What a form holds: block ids and labels.
fn fields(view: &Value) -> Vec<String> {
    let blocks = view["blocks"].as_array().unwrap().iter();
    blocks.map(|block| block["block_id"].as_str().unwrap_or_default().to_owned()).collect()
}

fn text(value: &str) -> Value {
    json!({ "v": { "type": "plain_text_input", "value": value } })
}

fn chosen(value: &str) -> Value {
    let option = json!({ "value": value });
    json!({ "v": { "type": "static_select", "selected_option": option } })
}

/// The fields of a form about an action, with some more.
fn filled(action: &str, hosts: &str, more: Value) -> Value {
    let option = json!({ "value": action });
    let mut values = json!({
        "action": { "choose_action": { "type": "static_select", "selected_option": option } },
        "hosts": text(hosts),
        "reason": text(""), "wave": text(""), "max-concurrent": text(""), "max-fail": text(""),
    });
    for (key, value) in more.as_object().unwrap() {
        values[key] = value.clone();
    }
    values
}

/// The text of a view.
fn shown(slack: &SimSlack, who: &str) -> String {
    let view = slack.view(who).expect("a view is open");
    let blocks = view["blocks"].as_array().unwrap().iter();
    let texts = blocks.filter_map(|block| block["text"]["text"].as_str());
    texts.collect::<Vec<_>>().join("\n").replace('\u{200b}', "")
}

#[tokio::test]
async fn a_form_becomes_the_command_that_it_shows() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    for typed in ["", "new"] {
        assert_eq!(slack.slash("alice", METAL, typed).await.unwrap(), None);
        let view = slack.view("alice").unwrap();
        assert_eq!(view["callback_id"], "new");
    }
    slack.choose("alice", "action", "reboot").await.unwrap();
    let view = slack.view("alice").unwrap();
    assert_eq!(
        fields(&view),
        [
            "action",
            "hosts",
            "file",
            "arg:reboot:force",
            "arg:reboot:mode",
            "arg:reboot:wait",
            "reason",
            "wave",
            "wave-pause",
            "max-concurrent",
            "max-fail",
            "at",
            "not-before"
        ]
    );
    let hosts = "- web01\n- web02,\nweb[03-04];web05\n";
    let reason = "say \"hi\" \\ it's <!channel>";
    let more = json!({
        "arg:reboot:mode": chosen("soft"), "arg:reboot:force": chosen("false"),
        "arg:reboot:wait": text("10m"), "reason": text(reason), "wave": text("1, 50%"),
    });
    slack.submit_view("alice", filled("reboot", hosts, more)).await.unwrap();
    let preview = shown(slack, "alice");
    for part in
        ["Nothing was done", "web[01-05]", "web-owners 5", "fra1 5", "in 3 waves", "1 approval"]
    {
        assert!(preview.contains(part), "{part}: {preview}");
    }
    assert!(slack.messages("bob", METAL).is_empty(), "nothing was asked for yet");
    slack.submit_view("alice", json!({})).await.unwrap();
    assert_eq!(slack.view("alice"), None, "all forms are closed");
    let card = slack.card(1, PATIENCE, |_| true).await.unwrap();
    for part in ["web[01-05]", "mode=soft", "wait=10m", "say \"hi\" \\ it's &lt;!channel&gt;"] {
        assert!(card.text.contains(part), "{part}: {}", card.text);
    }
    assert!(card.pings.is_empty(), "{:?}", card.pings);
    let plan = world.db.plan(1).await;
    assert_eq!(plan["rollout"]["waves"], json!(["1", "50%"]));
    world.finish().await;
}

#[tokio::test]
async fn errors_stand_at_their_fields() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    slack.slash("alice", METAL, "").await.unwrap();
    slack.choose("alice", "action", "reboot").await.unwrap();
    for (hosts, more, block, why) in [
        ("", json!({}), "hosts", "no hosts are named"),
        ("web01\nwbe02", json!({}), "hosts", "did you mean web02?"),
        ("web[01-", json!({}), "hosts", "never closed"),
        ("web01", json!({ "arg:reboot:wait": text("5") }), "arg:reboot:wait", "a duration"),
        ("web01", json!({ "wave": text("0") }), "wave", "sizes such as"),
        ("web01", json!({ "max-fail": text("many") }), "max-fail", "a number of hosts"),
    ] {
        let answer = slack.submit_view("alice", filled("reboot", hosts, more)).await.unwrap();
        let answer = answer.unwrap();
        assert_eq!(answer["response_action"], "errors", "{answer}");
        let said = answer["errors"][block].as_str().unwrap_or_default();
        assert!(said.contains(why), "{block}: {answer}");
    }
    // What cannot be done is shown, and cannot be sent.
    slack.submit_view("alice", filled("reboot", "web01", json!({}))).await.unwrap();
    slack.submit_view("alice", json!({})).await.unwrap();
    slack.card(1, PATIENCE, |_| true).await.unwrap();
    slack.slash("carol", METAL, "new").await.unwrap();
    slack.submit_view("carol", filled("reboot", "web[01-02]", json!({}))).await.unwrap();
    assert!(shown(slack, "carol").contains("held by *#1* of *@alice*"));
    assert!(slack.view("carol").unwrap().get("submit").is_none());
    slack.slash("bob", METAL, "new").await.unwrap();
    slack.submit_view("bob", filled("reboot", "web03", json!({}))).await.unwrap();
    assert!(shown(slack, "bob").contains("you may not reboot hosts of web-owners"));
    assert!(slack.view("bob").unwrap().get("submit").is_none());
    world.finish().await;
}

#[tokio::test]
async fn hosts_come_from_a_file_and_the_shortcut_asks_for_the_channel() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    slack.shortcut("alice", "new_batch").await.unwrap();
    let view = slack.view("alice").unwrap();
    assert_eq!(fields(&view).last().map(String::as_str), Some("channel"));
    let with = |name: &str, content: &str| {
        let file = slack.choose_file(name, content);
        json!({
            "file": { "v": { "type": "file_input", "files": [file] } },
            "channel": { "v": { "type": "conversations_select", "selected_conversation": METAL } },
        })
    };
    let columns = filled("identify", "", with("hosts.csv", "web01,r1\nweb02,r1\n"));
    let answer = slack.submit_view("alice", columns).await.unwrap().unwrap();
    assert!(answer["errors"]["file"].as_str().unwrap().contains("several columns"), "{answer}");
    let unknown = filled("identify", "", with("hosts.txt", "web99\n"));
    let answer = slack.submit_view("alice", unknown).await.unwrap().unwrap();
    assert!(answer["errors"]["file"].as_str().unwrap().contains("no host web99"), "{answer}");
    let good = with("hosts.csv", "rack,host\nr1,web01\nr1,web02\n");
    slack.submit_view("alice", filled("identify", "web03", good)).await.unwrap();
    assert!(shown(slack, "alice").contains("web[01-03]"));
    // The same form twice is one batch.
    let view = slack.view("alice").unwrap();
    slack.submit_view("alice", json!({})).await.unwrap();
    let card = slack.card(1, PATIENCE, |_| true).await.unwrap();
    assert!(card.text.contains("web[01-03]"), "{}", card.text);
    assert!(view["private_metadata"].as_str().unwrap().contains("draft"));
    world.finish().await;
}

#[tokio::test]
async fn a_rejection_asks_for_its_reason_and_strangers_are_told_whom_to_ask() {
    let world = World::builder().slack("socket").start().await;
    let slack = world.slack();
    slack.slash("alice", METAL, "reboot web01").await.unwrap();
    let card = slack.card(1, PATIENCE, |_| true).await.unwrap();
    slack.click("bob", METAL, &card.ts, "Reject").await.unwrap();
    let view = slack.view("bob").unwrap();
    assert_eq!(view["blocks"][0]["label"]["text"], "Why is it rejected?");
    assert!(card.buttons().contains(&"Reject".to_owned()));
    let why = json!({ "answer": text("the release is <tonight>") });
    slack.submit_view("bob", why).await.unwrap();
    assert_eq!(slack.view("bob"), None);
    let told = sees(slack, "alice", "rejected #1").await;
    assert!(told.text.contains("the release is &lt;tonight&gt;"), "{}", told.text);
    assert_eq!(told.thread.as_ref(), Some(&card.ts));

    slack.change_user("mallory", |user| user.confirmed = false);
    slack.slash("mallory", METAL, "new").await.unwrap();
    let told = shown(slack, "mallory");
    assert!(told.contains("T0METAL/U0MALLORY") && told.contains("your entry"), "{told}");
    world.finish().await;
}
