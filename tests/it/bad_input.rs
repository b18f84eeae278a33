//! What people do wrong, by mistake or on purpose: each gets a clear answer, and nothing that was
//! decided is changed by it.

use std::time::{Duration, Instant};

use metalbot_sim::person::ConsoleUser;
use metalbot_sim::rack::BmcFault;
use reqwest::StatusCode;
use serde_json::json;

use crate::harness::{METAL, World};

/// Types something that must change nothing; returns the answer.
async fn says_in_vain(t: &World, who: &ConsoleUser, text: &str) -> String {
    let before = t.db.decided().await;
    let told = t.says(who, text).await;
    assert_eq!(t.db.decided().await, before, "{text:?} changed something");
    told
}

#[tokio::test]
async fn commands_that_mean_nothing() {
    let t = World::start().await;
    let alice = &t.alice;
    insta::assert_snapshot!(says_in_vain(&t, alice, "/metal rebot web01").await, @r#"
    -- in the channel, only to them
    Nothing was done: there is no command or action "rebot"; did you mean reboot?
    rebot web01
    ^
    "#);
    insta::assert_snapshot!(says_in_vain(&t, alice, "/metal frobnicate web01").await, @r#"
    -- in the channel, only to them
    Nothing was done: there is no command or action "frobnicate"; try: help.
    frobnicate web01
    ^
    "#);
    insta::assert_snapshot!(says_in_vain(&t, alice, "/metal").await, @r"
    -- in the channel, only to them
    Do something to hosts: /metal ACTION HOSTS [name=value ...]
    identify Light the identify lamp of hosts · harmless
    power-off Shut hosts down, or cut their power · disruptive
    power-on Turn hosts on · disruptive
    reboot Turn hosts off and on again · disruptive
    /metal help reboot shows what else reboot takes. Every action takes:
    reason= why it must be done, for those who approve
    wave= how many hosts go at a time; the last size repeats
    wave-pause= how long to wait between waves; manual waits until somebody resumes
    max-concurrent= most hosts at work at the same time
    max-fail= pause when more hosts than this have failed, in this batch or in their last one
    at= start then or never: it expires if it is not approved by then; without a zone it is the site's
    not-before= start then, or when it is approved if that is later
    Ask and decide: /metal with
    help [TOPIC] Show what can be asked
    dry-run ACTION HOSTS [name=value ...] Show what a command would do, and who must approve it
    status BATCH, or status host HOSTS Show a batch, or what is going on with hosts
    list [mine] List the latest batches
    approve BATCH Approve a batch
    reject BATCH [because REASON] Reject a batch
    cancel BATCH Cancel a batch; hosts that were touched are brought to a safe end
    stop BATCH The same as cancel, for those in a hurry
    pause BATCH Start no more hosts of a batch
    resume BATCH Go on with a paused batch
    retry BATCH Ask again for the hosts that failed
    drop BATCH HOSTS Take hosts out of a batch that still waits
    release HOSTS Let hosts go that are quarantined, or counted as down
    hosts HOSTS Show what a set of hosts means
    notify [TOPIC=dm|thread|off ...], or notify here [verbosity=...] Show or choose what you are told, and what this channel is told
    whoami Show who you are to Metalbot
    Name hosts:
    web01,db01 these two hosts
    web[01-12,15] web01 to web12, and web15
    @web the group web of the inventory
    @dc:fra1 a datacenter; also rack:, owner: and sku:
    @web!web03 the group web without web03
    @web&@rack:r12 hosts that are in both
    @web^@canary hosts that are in one but not in both
    ");
    insta::assert_snapshot!(says_in_vain(&t, alice, "/metal status many").await, @r"
    -- in the channel, only to them
    Nothing was done: the inventory has no host many.
    status many
    ^
    ");
    insta::assert_snapshot!(says_in_vain(&t, alice, "/metal status 9223372036854775808").await, @r#"
    -- in the channel, only to them
    Nothing was done: "9223372036854775808" is not a batch number; write for example 42 or #42.
    status 9223372036854775808
    ^
    "#);
    insta::assert_snapshot!(says_in_vain(&t, alice, "/metal reboot web01 reason=\"open").await, @r#"
    -- in the channel, only to them
    Nothing was done: the quote is never closed; close it, or write \ before a quote that is meant.
    reboot web01 reason="open
    ^
    "#);
    // What does not begin like a command is talk between people.
    assert_eq!(says_in_vain(&t, alice, "metal reboot web01").await, "(nothing)");
    insta::assert_snapshot!(says_in_vain(&t, alice, "/reboot web01").await, @r#"
    -- in the channel, only to them
    Nothing was done: there is no command or action "/reboot"; did you mean reboot?
    /reboot web01
    ^
    "#);
    insta::assert_snapshot!(says_in_vain(&t, alice, "/Metal reboot").await, @r"
    -- in the channel, only to them
    Nothing was done: no hosts are named; write for example web[01-12] or @group.
    ");
    t.finish().await;
}

#[tokio::test]
async fn host_sets_that_name_no_hosts() {
    let t = World::start().await;
    let alice = &t.alice;
    insta::assert_snapshot!(says_in_vain(&t, alice, "/metal reboot web01,web99").await, @r"
    -- in the channel, only to them
    Nothing was done: the inventory has no host web99; did you mean web09, web19 or web29?
    reboot web01,web99
    ^
    ");
    insta::assert_snapshot!(says_in_vain(&t, alice, "/metal reboot web[38-45],nope").await, @r"
    -- in the channel, only to them
    Nothing was done: the inventory lacks 5 of these hosts: web[41-45].
    reboot web[38-45],nope
    ^
    ");
    insta::assert_snapshot!(says_in_vain(&t, alice, "/metal reboot web[01-12").await, @r"
    -- in the channel, only to them
    Nothing was done: the bracket is never closed; write for example web[01-12,15].
    reboot web[01-12
    ^
    ");
    insta::assert_snapshot!(says_in_vain(&t, alice, "/metal reboot web01-12]").await, @r"
    -- in the channel, only to them
    Nothing was done: the bracket was never opened; write for example web[01-12,15].
    reboot web01-12]
    ^
    ");
    insta::assert_snapshot!(says_in_vain(&t, alice, "/metal reboot web[]").await, @r"
    -- in the channel, only to them
    Nothing was done: a number is expected here; write for example web[01-12,15].
    reboot web[]
    ^
    ");
    insta::assert_snapshot!(says_in_vain(&t, alice, "/metal reboot web[05-01]").await, @r"
    -- in the channel, only to them
    Nothing was done: the range 05-01 runs backwards; write the smaller number first.
    reboot web[05-01]
    ^
    ");
    insta::assert_snapshot!(says_in_vain(&t, alice, "/metal reboot @wbe").await, @r"
    -- in the channel, only to them
    Nothing was done: there is no group @wbe; did you mean @web?
    reboot @wbe
    ^
    ");
    insta::assert_snapshot!(says_in_vain(&t, alice, "/metal reboot web01!web01").await, @r"
    -- in the channel, only to them
    Nothing was done: no host is left of this set.
    reboot web01!web01
    ^
    ");
    insta::assert_snapshot!(says_in_vain(&t, alice, "/metal reboot @web&@db").await, @r"
    -- in the channel, only to them
    Nothing was done: no host is left of this set.
    reboot @web&@db
    ^
    ");
    insta::assert_snapshot!(says_in_vain(&t, alice, "/metal reboot").await, @r"
    -- in the channel, only to them
    Nothing was done: no hosts are named; write for example web[01-12] or @group.
    ");
    insta::assert_snapshot!(says_in_vain(&t, alice, "/metal reboot ../../etc/passwd").await, @r#"
    -- in the channel, only to them
    Nothing was done: "../../etc/passwd" is not a host name; use letters, digits, '-', '_' and '.', and [01-12] for ranges.
    reboot ../../etc/passwd
    ^
    "#);
    t.finish().await;
}

#[tokio::test]
async fn brackets_that_name_ten_thousand_million_hosts() {
    let t = World::start().await;
    for bomb in [
        "web[0000000001-9999999999]",
        "web[1-9999999999]",
        "web[1-100000][1-100000]",
        "web[1-99][1-99][1-99][1-99][1-99]",
        "web01,web[1-9999999999]!web[1-9999999998]",
    ] {
        let started = Instant::now();
        let told = says_in_vain(&t, &t.alice, &format!("/metal reboot {bomb}")).await;
        assert!(told.contains("Nothing was done"), "{bomb}: {told}");
        assert!(started.elapsed() < Duration::from_secs(5), "{bomb}: {:?}", started.elapsed());
    }
    let told = says_in_vain(&t, &t.alice, "/metal reboot web[0000000001-9999999999]").await;
    insta::assert_snapshot!(told, @r"
    -- in the channel, only to them
    Nothing was done: this names 9999999999 hosts and a command may name 10000; split it into several commands.
    reboot web[0000000001-9999999999]
    ^
    ");
    t.finish().await;
}

#[tokio::test]
async fn parameters_that_do_not_fit() {
    let t = World::start().await;
    let alice = &t.alice;
    insta::assert_snapshot!(says_in_vain(&t, alice, "/metal reboot web01 wait=soon").await, @r#"
    -- in the channel, only to them
    Nothing was done: wait cannot be "soon"; write a duration such as 5m, from 10s to 1h.
    reboot web01 wait=soon
    ^
    "#);
    insta::assert_snapshot!(says_in_vain(&t, alice, "/metal reboot web01 wait=1s").await, @r#"
    -- in the channel, only to them
    Nothing was done: wait cannot be "1s"; write a duration such as 5m, from 10s to 1h.
    reboot web01 wait=1s
    ^
    "#);
    insta::assert_snapshot!(says_in_vain(&t, alice, "/metal reboot web01 force=maybe").await, @r#"
    -- in the channel, only to them
    Nothing was done: force cannot be "maybe"; write true or false.
    reboot web01 force=maybe
    ^
    "#);
    insta::assert_snapshot!(says_in_vain(&t, alice, "/metal reboot web01 mode=gentle").await, @r#"
    -- in the channel, only to them
    Nothing was done: mode cannot be "gentle"; write hard or soft.
    reboot web01 mode=gentle
    ^
    "#);
    insta::assert_snapshot!(says_in_vain(&t, alice, "/metal identify web01 for=300s").await, @r#"
    -- in the channel, only to them
    Nothing was done: for cannot be "300s"; write a duration such as 1m, from 0s to 4m15s.
    identify web01 for=300s
    ^
    "#);
    insta::assert_snapshot!(says_in_vain(&t, alice, "/metal reboot web01 wiat=5m").await, @r#"
    -- in the channel, only to them
    Nothing was done: reboot has no parameter "wiat"; did you mean wait?
    reboot web01 wiat=5m
    ^
    "#);
    insta::assert_snapshot!(says_in_vain(&t, alice, "/metal power-on web01 mode=hard").await, @r#"
    -- in the channel, only to them
    Nothing was done: power-on has no parameter "mode"; its parameters are reason, wave, wave-pause, max-concurrent, max-fail, at, not-before.
    power-on web01 mode=hard
    ^
    "#);
    insta::assert_snapshot!(says_in_vain(&t, alice, "/metal reboot web01 wait=1m wait=2m").await, @r"
    -- in the channel, only to them
    Nothing was done: wait is given twice.
    reboot web01 wait=1m wait=2m
    ^
    ");
    insta::assert_snapshot!(says_in_vain(&t, alice, "/metal reboot web01 wave=101%").await, @r#"
    -- in the channel, only to them
    Nothing was done: wave cannot be "101%"; write sizes such as 5, 10% or 1,10%,50%.
    reboot web01 wave=101%
    ^
    "#);
    insta::assert_snapshot!(says_in_vain(&t, alice, "/metal reboot web01 max-concurrent=-1").await, @r#"
    -- in the channel, only to them
    Nothing was done: max-concurrent cannot be "-1"; write a whole number from 1, such as 20.
    reboot web01 max-concurrent=-1
    ^
    "#);
    insta::assert_snapshot!(says_in_vain(&t, alice, "/metal reboot web01 reason=").await, @r#"
    -- in the channel, only to them
    Nothing was done: reason has no value; write reason= with text such as "kernel CVE-2026-1".
    reboot web01 reason=
    ^
    "#);
    t.finish().await;
}

#[tokio::test]
async fn limits_of_the_configuration() {
    let limits = "[limits]\nmax_hosts = 5\nmax_text = 200\nreason_required = true\n";
    let t = World::builder().append(limits).start().await;
    let alice = &t.alice;
    insta::assert_snapshot!(says_in_vain(&t, alice, "/metal reboot @web reason=x").await, @r"
    -- in the channel, only to them
    Nothing was done: this names 40 hosts and a command may name 5; split it into several commands.
    reboot @web reason=x
    ^
    ");
    insta::assert_snapshot!(says_in_vain(&t, alice, "/metal reboot web[01-05]").await, @r#"
    -- in the channel, only to them
    Nothing was done: a reason is missing; write reason="why it must be done".
    "#);
    let long = format!("/metal reboot web01 reason={}", "x".repeat(200));
    insta::assert_snapshot!(says_in_vain(&t, alice, &long).await, @r"
    -- in the channel, only to them
    Nothing was done: the command has 220 bytes and may have 200; name the hosts by a group or by ranges.
    ");
    t.finish().await;
}

#[tokio::test]
async fn characters_that_hide_what_is_asked() {
    let t = World::start().await;
    let alice = &t.alice;
    for (what, text) in [
        ("a bell", "/metal reboot web01 reason=\"a\u{7}b\""),
        ("an escape", "/metal reboot \u{1b}[2Jweb01"),
        ("right to left", "/metal reboot web01 reason=\"\u{202e}gnp.exe\""),
        ("an isolate", "/metal reboot \u{2066}web01\u{2069}"),
        ("a mark", "/metal reboot web\u{200f}01"),
    ] {
        let told = says_in_vain(&t, alice, text).await;
        assert!(told.contains("is not allowed"), "{what}: {told}");
        assert!(told.contains("type the command instead of pasting it"), "{what}: {told}");
    }
    let zero_width = says_in_vain(&t, alice, "/metal reboot web\u{200b}01").await;
    assert!(zero_width.contains("Nothing was done"), "{zero_width}");
    let cyrillic = says_in_vain(&t, alice, "/metal reboot w\u{0435}b01").await;
    assert!(cyrillic.contains("Nothing was done"), "{cyrillic}");
    let (status, text) = send(&t.alice, "/metal reboot web01\0").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(text.contains("cannot be stored"), "{text}");
    t.finish().await;
}

#[tokio::test]
async fn a_command_of_a_hundred_kilobytes() {
    let t = World::start().await;
    let before = t.db.decided().await;
    for bytes in [17 * 1024, 100 * 1000] {
        let command = format!("/metal reboot web01 reason=\"{}\"", "x".repeat(bytes));
        let (status, text) = send(&t.alice, &command).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{text}");
        assert!(text.contains("at most") || text.contains("limit"), "{text}");
    }
    assert_eq!(t.db.decided().await, before);
    let long =
        says_in_vain(&t, &t.alice, &format!("/metal reboot {}", "web01,".repeat(2500))).await;
    assert!(long.contains("Nothing was done"), "{long}");
    let reason = format!("/metal reboot web01 reason=\"{}\"", "x".repeat(10_000));
    insta::assert_snapshot!(says_in_vain(&t, &t.alice, &reason).await, @r"
    -- in the channel, only to them
    Nothing was done: the reason has 10000 characters and may have 500.
    At character 14 of what you typed.
    ");
    t.finish().await;
}

#[tokio::test]
async fn markup_in_a_reason_stays_text() {
    let t = World::builder().rack().fault("web01", BmcFault::WrongPassword).start().await;
    let reason = "<b>x</b> <img src=q onerror=alert(1)> **bold** [link](http://evil.example) \
                  `code` <!channel> @bob {color:red}r{color} [~carol] !pic.png! h1. {{m}} |c|";
    t.says(&t.alice, &format!("/metal reboot web01 reason='{reason}'")).await;
    let card = t.card(1).await;
    assert!(card.text.contains(reason), "{}", card.text);
    let html = &card.html[card.html.find("Reason").unwrap()..];
    let html = &html[..html.find("</p>").unwrap()];
    assert!(!html.contains('<'), "{html}");

    // The offered command and the thread's words are such places, too.
    let refused = t.says(&t.carol, &format!("/metal reboot web[01-02] reason='{reason}'")).await;
    assert!(refused.contains(reason), "{refused}");
    t.replies(&t.bob, 1, &format!("reject because {reason}")).await;
    for message in t.seen_by(&t.carol).await.iter().filter(|m| m.author == "metalbot") {
        for tag in ["<b>", "<img", "<a href=\"http://evil", "<strong>bold", "<code>code"] {
            assert!(!message.html.contains(tag), "{tag}: {}", message.html);
        }
    }

    // No mention, colour, picture or heading in the ticket.
    t.says(&t.alice, &format!("/metal reboot web01 reason='{reason}'")).await;
    t.replies(&t.bob, 3, "approve").await;
    t.ended(3).await;
    let ticket = t.tickets(1).await.remove(0);
    let asked = ticket.description.lines().find(|line| line.contains("reason:")).unwrap();
    for markup in ["[~carol", "{color", "!pic", "[link", "{{m", "|c|", "**bold"] {
        assert!(!asked.contains(markup), "{markup}: {asked}");
    }
    assert!(!ticket.watchers.contains("carol"), "{:?}", ticket.watchers);
    t.finish().await;
}

#[tokio::test]
async fn reactions_that_are_not_on_a_card() {
    let t = World::start().await;
    t.says(&t.alice, "/metal reboot web01").await;
    t.replies(&t.alice, 1, "is anybody there?").await;
    t.says(&t.carol, "/metal reboot web01").await;
    t.says(&t.bob, "/metal list").await;
    let before = t.db.decided().await;
    let card = t.card(1).await.id;
    for message in t.seen_by(&t.bob).await.iter().filter(|message| message.id != card) {
        let told = t.result_of(&t.bob, t.bob.react(&message.id, "+1", true)).await;
        // The refused batch has a card as well, with nothing to decide.
        let refused = message.card.is_some() && told.contains("there is nothing to decide");
        assert!(told == "(nothing)" || refused, "{}: {told}", message.text);
        t.result_of(&t.bob, t.bob.react(&message.id, "+1", false)).await;
    }
    // What only carol sees is not there for bob.
    let carols = t.seen_by(&t.carol).await;
    let private = carols.iter().find(|message| message.only_you).unwrap();
    for id in [&private.id[..], "999999", "0", "-1", "x", "99999999999999999999"] {
        assert_eq!(t.bob.react(id, "+1", true).await.unwrap(), StatusCode::NOT_FOUND, "{id}");
    }
    assert_eq!(t.db.decided().await, before);
    t.finish().await;
}

#[tokio::test]
async fn buttons_that_are_out_of_date_or_made_up() {
    let t = World::start().await;
    t.says(&t.alice, "/metal reboot web[01-02]").await;
    t.says(&t.alice, "/metal reboot web03").await;
    let (old, other) = (t.card(1).await, t.card(2).await);
    let approve = old.button("Approve").unwrap();
    t.says(&t.alice, "/metal drop 1 web02").await;
    let before = t.db.decided().await;
    insta::assert_snapshot!(t.result_of(&t.bob, t.bob.press(&old.id, &approve)).await, @r"
    -- in the channel, only to them
    Nothing was done: #1 has changed since you saw it: look at it again, then decide.
    ");
    insta::assert_snapshot!(t.result_of(&t.bob, t.bob.press(&other.id, &approve)).await, @r"
    -- in the channel, only to them
    Nothing was done: that button is not valid here any more.
    ");
    for made_up in [
        "approve 1",
        "approve 1 0000",
        "approve",
        "approve -1 x",
        "drop 1",
        "APPROVE 1",
        " ",
        "cancel 2",
        "retry 99999999999999999999",
        "approve 1 \u{202e}",
    ] {
        let told = t.result_of(&t.bob, t.bob.press(&old.id, made_up)).await;
        assert!(told.contains("Nothing was done"), "{made_up}: {told}");
    }
    for refused in ["", "\0", &"x".repeat(3000)] {
        let status = t.bob.press(&old.id, refused).await.unwrap();
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{refused:?}");
    }
    assert_eq!(t.db.decided().await, before);
    // The card shows the new plan's button by now.
    let approved = t.presses(&t.bob, 1, "Approve").await;
    assert!(approved.contains("The approval is complete"), "{approved}");
    t.finish().await;
}

#[tokio::test]
async fn double_clicks_and_repeated_deliveries_count_once() {
    let rule = "owner = \"web-owners\"\nquorum = 2\nfrom = [\"owner\", \"group:db-owners\"]\n";
    let t = World::builder().approval(rule).start().await;
    let command = json!({
        "delivery": "d1", "channel": METAL, "text": "/metal reboot web01",
    });
    for _ in 0..3 {
        assert_eq!(
            t.alice.post("/console/send", command.clone()).await.unwrap(),
            StatusCode::ACCEPTED
        );
        t.quiet().await;
    }
    let said = t.seen_by(&t.alice).await;
    assert_eq!(said.iter().filter(|message| message.author == "alice").count(), 1);
    assert!(t.says(&t.alice, "/metal status 2").await.contains("there is no batch #2"));
    // Another person's delivery of the same name is another delivery.
    let theirs = json!({ "delivery": "d1", "channel": METAL, "text": "/metal reboot web02" });
    let theirs = t.result_of(&t.carol, t.carol.post("/console/send", theirs)).await;
    assert!(theirs.contains("#2 reboot"), "{theirs}");

    let card = t.card(1).await;
    let click = json!({
        "delivery": "d2", "message": card.id, "value": card.button("Approve").unwrap(),
    });
    let first = t.result_of(&t.bob, t.bob.post("/console/press", click.clone())).await;
    assert!(first.contains("@bob approved for web-owners. #1 still waits"), "{first}");
    let before = t.db.decided().await;
    let again = t.result_of(&t.bob, t.bob.post("/console/press", click)).await;
    assert_eq!(again, "(nothing)");
    insta::assert_snapshot!(t.presses(&t.bob, 1, "Approve").await, @r"
    -- in the channel, only to them
    Nothing was done: you have already decided on #1.
    ");
    insta::assert_snapshot!(t.reacts(&t.bob, 1, "+1", true).await, @r"
    -- in the channel, only to them
    Nothing was done: you have already decided on #1.
    ");
    assert_eq!(t.db.decided().await, before);
    t.finish().await;
}

#[tokio::test]
async fn an_approver_who_left_the_group_does_not_count_any_more() {
    let rule = "owner = \"web-owners\"\nquorum = 2\nfrom = [\"owner\", \"group:db-owners\"]\n";
    let t = World::builder().approval(rule).start().await;
    t.says(&t.alice, "/metal reboot web01").await;
    t.replies(&t.bob, 1, "approve").await;
    t.change_people(|people| people.replace("[\"web-owners\"]", "[]"));
    let second = t.replies(&t.dave, 1, "approve").await;
    insta::assert_snapshot!(second, @r"
    -- in the thread
    @dave approved for web-owners. #1 still waits for others.
    ");
    assert_eq!(t.db.batch_state(1).await, "awaiting_approval");
    let card = t.card(1).await.text;
    assert!(card.contains("1 of 2 approvals, by @dave"), "{card}");
    // And bob can decide on nothing any more.
    t.says(&t.alice, "/metal reboot web02").await;
    insta::assert_snapshot!(t.replies(&t.bob, 2, "approve").await, @r"
    -- in the thread, only to them
    Nothing was done: only members of db-owners, web-owners may decide on this batch.
    ");
    insta::assert_snapshot!(t.db.audit(1).await, @r"
    alice batch.submitted
    alice batch.state
    bob batch.approved
    dave batch.approved
    metalbot batch.approval_withdrawn
    ");
    // Back in the group, bob has to say it again.
    t.change_people(|people| people.replace("groups = []", "groups = [\"web-owners\"]"));
    let again = t.replies(&t.bob, 1, "approve").await;
    assert!(again.contains("The approval is complete"), "{again}");
    // Who left altogether is nobody.
    t.change_people(|people| people.replace("\"bob\"", "\"robert\""));
    let gone = t.bob.say(METAL, "/metal list").await.unwrap();
    assert_eq!(gone, StatusCode::UNAUTHORIZED);
    t.finish().await;
}

async fn send(who: &ConsoleUser, text: &str) -> (StatusCode, String) {
    who.attempt("/console/send", json!({ "channel": METAL, "text": text })).await.unwrap()
}
