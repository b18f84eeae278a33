//! What a person can do, told by acting: each point of the main job at least once.

use metalbot::bmc::Power;
use metalbot::identity::password;
use metalbot_demo::story;
use metalbot_sim::person::ConsoleUser;
use metalbot_sim::rack::BmcFault;
use secrecy::SecretString;

use crate::harness::{World, told};

#[tokio::test]
async fn the_demo_tells_its_story_at_the_console() {
    let t = World::with_rack().await;
    let seat = async |login: &str| ConsoleUser::become_one(&t.base, login).await;
    story::tell(seat, t.rack(), &t.jira, &t.db.pool).await.unwrap();
    t.finish().await;
}

#[tokio::test]
async fn help_lists_everything_and_explains_an_action() {
    let t = World::start().await;
    insta::assert_snapshot!(t.says(&t.alice, "/metal help").await, @r"
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
    insta::assert_snapshot!(t.says(&t.alice, "/metal help reboot").await, @r#"
    -- in the channel, only to them
    reboot · Turn hosts off and on again · disruptive
    /metal reboot web03
    /metal reboot web[01-12] reason="kernel CVE-2026-1"
    /metal reboot @web!web03 wave=1,10%,50% max-fail=2
    On each host:
    cut the power
    wait until it is off
    turn it on
    wait until it is on
    It takes:
    force= cut the power if the host has not shut down in time: true or false (default false)
    mode= soft asks the operating system to shut down, hard cuts the power: hard or soft (default hard)
    wait= how long a soft shutdown may take: a duration such as 5m, from 10s to 1h (default 5m)
    And like every action:
    reason= why it must be done, for those who approve
    wave= how many hosts go at a time; the last size repeats
    wave-pause= how long to wait between waves; manual waits until somebody resumes
    max-concurrent= most hosts at work at the same time
    max-fail= pause when more hosts than this have failed, in this batch or in their last one
    at= start then or never: it expires if it is not approved by then; without a zone it is the site's
    not-before= start then, or when it is approved if that is later
    "#);
    insta::assert_snapshot!(t.says(&t.alice, "/metal help nonsense").await, @r#"
    -- in the channel, only to them
    Nothing was done: there is no help on "nonsense"; try: help.
    help nonsense
    ^
    "#);
    t.finish().await;
}

#[tokio::test]
async fn the_composer_completes_commands() {
    let t = World::start().await;
    let complete = async |text: &str| -> Vec<String> {
        let path =
            format!("/console/complete?cursor={}&text={}", text.len(), text.replace(' ', "%20"));
        let found = t.alice.get(&path).await.unwrap();
        let items = found["items"].as_array().unwrap().iter();
        items.map(|item| item["insert"].as_str().unwrap().trim().to_owned()).collect()
    };
    assert_eq!(complete("/me").await, ["/metal"]);
    assert_eq!(complete("/metal reb").await, ["reboot"]);
    assert_eq!(complete("/metal reboot @dc:a").await, ["@dc:ams1"]);
    t.finish().await;
}

#[tokio::test]
async fn a_batch_is_asked_for_looked_at_and_cancelled() {
    let t = World::start().await;
    let command = "/metal reboot web[01-12] reason=\"kernel CVE-2026-1\"";
    insta::assert_snapshot!(t.says(&t.alice, command).await, @r"
    -- in the channel
    #1 reboot · 12 hosts · awaiting approval
    web[01-12]
    Reason: kernel CVE-2026-1
    Asked by @alice · disruptive
    On each host:
    cut the power
    wait until it is off
    turn it on
    wait until it is on
    Waits for approval until [time] UTC:
    web-owners (12 hosts): 0 of 1 approval
    Approve with the button, with a reaction, or with approve in the thread.
    [Approve] [Reject] [Cancel]
    ");
    insta::assert_snapshot!(t.says(&t.bob, "/metal status 1").await, @r"
    -- in the channel, only to them
    #1 reboot · 12 hosts · awaiting approval
    web[01-12]
    Reason: kernel CVE-2026-1
    Asked by @alice · disruptive
    On each host:
    cut the power
    wait until it is off
    turn it on
    wait until it is on
    Waits for approval until [time] UTC:
    web-owners (12 hosts): 0 of 1 approval
    Approve with the button, with a reaction, or with approve in the thread.
    ");
    insta::assert_snapshot!(t.says(&t.bob, "/metal status host web03").await, @r"
    -- in the channel, only to them
    web03 · web-owners · fra1 · r11 · c6-large
    #1 reboot by @alice: pending (batch awaiting approval)
    ");
    insta::assert_snapshot!(t.says(&t.bob, "/metal status host web13").await, @r"
    -- in the channel, only to them
    web13 · web-owners · fra1 · r11 · c6-large
    no batch has touched it
    ");
    t.says(&t.carol, "/metal power-off db01 mode=hard").await;
    insta::assert_snapshot!(t.says(&t.carol, "/metal list").await, @r"
    -- in the channel, only to them
    #2 power-off · 1 host · @carol · awaiting approval · [time] UTC
    #1 reboot · 12 hosts · @alice · awaiting approval · [time] UTC
    ");
    insta::assert_snapshot!(t.says(&t.carol, "/metal list mine").await, @r"
    -- in the channel, only to them
    #2 power-off · 1 host · @carol · awaiting approval · [time] UTC
    ");
    insta::assert_snapshot!(t.says(&t.dave, "/metal list mine").await, @r"
    -- in the channel, only to them
    You have not submitted a batch yet. /metal help shows how.
    ");
    insta::assert_snapshot!(t.says(&t.dave, "/metal whoami").await, @r"
    -- in the channel, only to them
    You are Dave Okafor (@dave), in db-owners.
    ");
    insta::assert_snapshot!(t.says(&t.dave, "/metal hosts @rack:r11!web[01-14]").await, @r"
    -- in the channel, only to them
    @rack:r11!web[01-14] is 2 hosts: web[15-16]
    ");

    insta::assert_snapshot!(t.says(&t.dave, "/metal cancel 1").await, @r"
    -- in the channel, only to them
    Nothing was done: only alice and members of sre, web-owners may stop this batch: ask one of them.
    ");
    insta::assert_snapshot!(t.says(&t.alice, "/metal cancel 1").await, @r"
    -- in the thread
    @alice cancelled #1. No other host is touched.
    -- in the channel, only to them
    Done: #1 (reboot, 12 hosts) was cancelled.
    ");
    let card = t.card(1).await;
    assert!(card.text.contains("cancelled by alice"), "{}", card.text);
    assert_eq!(card.buttons(), [""; 0]);
    insta::assert_snapshot!(t.says(&t.alice, "/metal cancel 1").await, @"
    -- in the channel, only to them
    Nothing was done: the state of the batch does not allow it: cancelled.
    ");
    insta::assert_snapshot!(t.says(&t.alice, "/metal status 99").await, @r"
    -- in the channel, only to them
    Nothing was done: there is no batch #99; `/metal list` shows the latest.
    ");
    insta::assert_snapshot!(t.db.audit(1).await, @r"
    alice batch.submitted
    alice batch.state
    alice batch.state
    alice job.state
    ");
    t.finish().await;
}

#[tokio::test]
async fn hosts_in_use_are_refused_with_who_holds_them_and_what_is_free() {
    let t = World::start().await;
    t.says(&t.alice, "/metal reboot web[01-12] reason=\"kernel CVE-2026-1\"").await;
    let command = "/metal reboot web[10-14] wait=1m wave=1,50% reason='say \"hi\"'";
    insta::assert_snapshot!(t.says(&t.carol, command).await, @r#"
    -- in the channel, only to them
    #2 reboot was refused: some of its 5 hosts are in use. Nothing was done.
    web[10-12] held by #1 of @alice (awaiting approval)
    web[13-14] are free. For them alone:
    /metal reboot web[13-14] wait=1m wave=1,50% reason="say \"hi\""
    "#);
    // The refusal is a batch of its own that can be asked for, and holds nothing.
    insta::assert_snapshot!(t.says(&t.dave, "/metal status 2").await, @r#"
    -- in the channel, only to them
    #2 reboot · 5 hosts · refused
    web[10-14]
    web[10-12] held by #1 of alice
    Reason: say "hi"
    Asked by @carol · disruptive · wait=1m
    "#);
    insta::assert_snapshot!(t.says(&t.carol, "/metal status host web13").await, @r"
    -- in the channel, only to them
    web13 · web-owners · fra1 · r11 · c6-large
    #2 reboot by @carol: refused
    ");
    insta::assert_snapshot!(t.says(&t.carol, "/metal list mine").await, @r"
    -- in the channel, only to them
    #2 reboot · 5 hosts · @carol · refused · [time] UTC
    ");
    insta::assert_snapshot!(t.db.audit(2).await, @r"
    carol batch.submitted
    carol batch.state
    ");

    // The offered command works as it stands.
    let offered = "/metal reboot web[13-14] wait=1m wave=1,50% reason=\"say \\\"hi\\\"\"";
    insta::assert_snapshot!(t.says(&t.carol, offered).await, @r#"
    -- in the channel
    #3 reboot · 2 hosts · awaiting approval
    web[13-14]
    Reason: say "hi"
    Asked by @carol · disruptive · wait=1m
    On each host, in 2 waves:
    cut the power
    wait until it is off
    turn it on
    wait until it is on
    Waits for approval until [time] UTC:
    web-owners (2 hosts): 0 of 1 approval
    Approve with the button, with a reaction, or with approve in the thread.
    [Approve] [Reject] [Cancel]
    "#);
    insta::assert_snapshot!(t.says(&t.alice, "/metal power-on web13,web14").await, @"
    -- in the channel, only to them
    #4 power-on was refused: some of its 2 hosts are in use. Nothing was done.
    web[13-14] held by #3 of @carol (awaiting approval)
    None of the hosts is free.
    ");
    // What a cancelled batch held is free.
    t.says(&t.alice, "/metal cancel 1").await;
    let again = t.says(&t.carol, "/metal reboot web[10-12]").await;
    assert!(again.contains("awaiting approval"), "{again}");
    t.finish().await;
}

#[tokio::test]
async fn who_may_not_approve_is_told_why_and_nobody_else_is() {
    let t = World::start().await;
    t.says(&t.alice, "/metal reboot web[01-02]").await;
    let before = t.db.decided().await;
    insta::assert_snapshot!(t.presses(&t.alice, 1, "Approve").await, @r"
    -- in the channel, only to them
    Nothing was done: you submitted this batch, so somebody else has to decide on it.
    ");
    insta::assert_snapshot!(t.replies(&t.alice, 1, "lgtm").await, @r"
    -- in the thread, only to them
    Nothing was done: you submitted this batch, so somebody else has to decide on it.
    ");
    insta::assert_snapshot!(t.presses(&t.dave, 1, "Approve").await, @r"
    -- in the channel, only to them
    Nothing was done: only members of web-owners may decide on this batch.
    ");
    insta::assert_snapshot!(t.reacts(&t.dave, 1, "+1", true).await, @r"
    -- in the channel, only to them
    Nothing was done: only members of web-owners may decide on this batch.
    ");
    insta::assert_snapshot!(t.says(&t.dave, "/metal approve 1").await, @r"
    -- in the channel, only to them
    Nothing was done: only members of web-owners may decide on this batch.
    ");
    insta::assert_snapshot!(t.replies(&t.dave, 1, "reject because I can").await, @r"
    -- in the thread, only to them
    Nothing was done: only members of web-owners may decide on this batch.
    ");
    assert_eq!(t.db.decided().await, before);
    for who in [&t.bob, &t.carol] {
        let seen = t.seen_by(who).await;
        assert!(seen.iter().all(|message| !message.text.contains("Nothing was done")), "{seen:?}");
    }
    // Who may not submit is told, too.
    insta::assert_snapshot!(t.says(&t.bob, "/metal reboot web03").await, @r"
    -- in the channel, only to them
    Nothing was done: you may not reboot hosts of web-owners; members of sre may: ask one of them.
    ");
    t.finish().await;
}

#[tokio::test]
async fn a_batch_is_approved_by_button_reaction_word_or_command() {
    let t = World::with_rack().await;
    for host in ["web01", "web02", "web03", "web04", "web05"] {
        t.says(&t.alice, &format!("/metal power-off {host} mode=hard")).await;
    }
    insta::assert_snapshot!(t.presses(&t.bob, 1, "Approve").await, @r"
    -- in the thread
    @bob approved for web-owners. The approval is complete: #1 starts.
    ");
    insta::assert_snapshot!(t.reacts(&t.bob, 2, "white_check_mark", true).await, @r"
    -- in the thread
    @bob approved for web-owners. The approval is complete: #2 starts.
    ");
    insta::assert_snapshot!(t.reacts(&t.bob, 3, "eyes", true).await, @"(nothing)");
    insta::assert_snapshot!(t.reacts(&t.bob, 3, "+1", true).await, @r"
    -- in the thread
    @bob approved for web-owners. The approval is complete: #3 starts.
    ");
    insta::assert_snapshot!(t.replies(&t.bob, 4, "approve this later?").await, @r"
    -- in the thread, only to them
    Nothing was done: that is not read as a decision: write approve, reject because ..., cancel, retry or status and nothing else, or press the button.
    ");
    insta::assert_snapshot!(t.replies(&t.bob, 4, "LGTM").await, @r"
    -- in the thread
    @bob approved for web-owners. The approval is complete: #4 starts.
    ");
    insta::assert_snapshot!(t.says(&t.bob, "/metal approve 5").await, @r"
    -- in the thread
    @bob approved for web-owners. The approval is complete: #5 starts.
    -- in the channel, only to them
    Done: #5 (power-off, 1 host) has your approval; it is scheduled now.
    ");
    for batch in 1..=5 {
        assert!(t.ended(batch).await.contains("succeeded, 1 host done"));
        assert_eq!(t.power(&format!("web{batch:02}")), Power::Off);
    }
    insta::assert_snapshot!(t.card(1).await.text, @r"
    #1 power-off · 1 host · succeeded
    web01
    1 of 1 done
    Asked by @alice · approved by @bob · disruptive · mode=hard
    ");
    insta::assert_snapshot!(t.db.audit(1).await, @r"
    alice batch.submitted
    alice batch.state
    bob batch.approved
    bob batch.state
    metalbot batch.state
    metalbot job.ended
    metalbot batch.state
    ");
    t.finish().await;
}

#[tokio::test]
async fn taking_a_reaction_away_takes_back_only_what_it_said() {
    let t = World::with_rack().await;
    t.says(&t.alice, "/metal power-off web01,db01 mode=hard").await;
    t.presses(&t.bob, 1, "Approve").await;
    insta::assert_snapshot!(t.reacts(&t.bob, 1, "+1", true).await, @r"
    -- in the channel, only to them
    Nothing was done: you have already decided on #1.
    ");
    insta::assert_snapshot!(t.reacts(&t.bob, 1, "+1", false).await, @"(nothing)");
    insta::assert_snapshot!(t.reacts(&t.dave, 1, "+1", true).await, @r"
    -- in the thread
    @dave approved for db-owners. The approval is complete: #1 starts.
    ");
    t.ended(1).await;
    t.finish().await;
}

#[tokio::test]
async fn a_batch_is_rejected_by_button_reaction_or_word() {
    let t = World::start().await;
    for host in ["web01", "web02", "web03"] {
        t.says(&t.alice, &format!("/metal reboot {host}")).await;
    }
    insta::assert_snapshot!(t.replies(&t.bob, 1, "reject because the release is tonight").await, @r"
    -- in the thread
    @bob rejected #1: the release is tonight. Its hosts are free again; nothing was done to them.
    ");
    insta::assert_snapshot!(t.presses(&t.bob, 2, "Reject").await, @r"
    -- in the thread
    @bob rejected #2. Its hosts are free again; nothing was done to them.
    ");
    insta::assert_snapshot!(t.reacts(&t.bob, 3, "x", true).await, @r"
    -- in the thread
    @bob rejected #3. Its hosts are free again; nothing was done to them.
    ");
    insta::assert_snapshot!(t.card(1).await.text, @r"
    #1 reboot · 1 host · rejected
    web01
    the release is tonight
    Asked by @alice · disruptive
    ");
    insta::assert_snapshot!(t.replies(&t.bob, 1, "approve").await, @r"
    -- in the thread, only to them
    Nothing was done: #1 is rejected (the release is tonight): there is nothing to decide.
    ");
    // The hosts are free again.
    let again = t.says(&t.alice, "/metal reboot web[01-03]").await;
    assert!(again.contains("awaiting approval"), "{again}");
    t.finish().await;
}

#[tokio::test]
async fn a_quorum_of_two_counts_people_and_an_approval_can_be_taken_back() {
    let rule = "quorum = 2\nfrom = [\"owner\", \"group:db-owners\", \"group:sre\"]\n";
    let t = World::builder().approval(rule).start().await;
    t.says(&t.alice, "/metal reboot web[01-02]").await;
    insta::assert_snapshot!(t.reacts(&t.bob, 1, "+1", true).await, @r"
    -- in the thread
    @bob approved for web-owners. #1 still waits for others.
    ");
    insta::assert_snapshot!(t.replies(&t.bob, 1, "approve").await, @r"
    -- in the thread, only to them
    Nothing was done: you have already decided on #1.
    ");
    insta::assert_snapshot!(t.card(1).await.text, @r"
    #1 reboot · 2 hosts · awaiting approval
    web[01-02]
    Asked by @alice · disruptive
    On each host:
    cut the power
    wait until it is off
    turn it on
    wait until it is on
    Waits for approval until [time] UTC:
    web-owners (2 hosts): 1 of 2 approvals, by @bob · may approve: db-owners, sre, web-owners
    Approve with the button, with a reaction, or with approve in the thread.
    ");
    insta::assert_snapshot!(t.reacts(&t.bob, 1, "+1", false).await, @r"
    -- in the thread
    @bob took the decision on #1 back.
    ");
    insta::assert_snapshot!(t.presses(&t.dave, 1, "Approve").await, @r"
    -- in the thread
    @dave approved for web-owners. #1 still waits for others.
    ");
    assert!(t.card(1).await.text.contains("1 of 2 approvals, by @dave"));
    insta::assert_snapshot!(t.replies(&t.alice, 1, "approve").await, @r"
    -- in the thread, only to them
    Nothing was done: you submitted this batch, so somebody else has to decide on it.
    ");

    insta::assert_snapshot!(t.says(&t.alice, "/metal drop 1 web02").await, @r"
    -- in the thread
    @alice took web02 out of #1. It is another plan now: approvals of @dave are void, please look again.
    -- in the channel, only to them
    Done: #1 (reboot, 1 host) goes on without web02; it is awaiting approval now.
    ");
    insta::assert_snapshot!(t.card(1).await.text, @r"
    #1 reboot · 1 host · awaiting approval
    web01
    Asked by @alice · disruptive
    On each host:
    cut the power
    wait until it is off
    turn it on
    wait until it is on
    Waits for approval until [time] UTC:
    web-owners (1 host): 0 of 2 approvals · may approve: db-owners, sre, web-owners
    Approve with the button, with a reaction, or with approve in the thread.
    ");
    t.replies(&t.dave, 1, "approve").await;
    insta::assert_snapshot!(t.says(&t.alice, "/metal drop 1 web01").await, @r"
    -- in the channel, only to them
    Nothing was done: that would leave no host: use `/metal cancel 1`.
    ");
    insta::assert_snapshot!(t.says(&t.alice, "/metal drop 1 web09").await, @r"
    -- in the channel, only to them
    Nothing was done: web09 is not in #1.
    ");
    insta::assert_snapshot!(t.replies(&t.alice, 1, "cancel").await, @r"
    -- in the thread
    @alice cancelled #1. No other host is touched.
    ");
    insta::assert_snapshot!(t.db.audit(1).await, @r"
    alice batch.submitted
    alice batch.state
    bob batch.approved
    bob batch.approval_withdrawn
    dave batch.approved
    alice job.state
    dave batch.approved
    alice batch.state
    alice job.state
    ");
    t.finish().await;
}

#[tokio::test]
async fn owners_of_two_groups_approve_each_their_part() {
    let t = World::with_rack().await;
    insta::assert_snapshot!(t.says(&t.alice, "/metal reboot web[01-02],db01").await, @r"
    -- in the channel
    #1 reboot · 3 hosts · awaiting approval
    db01,web[01-02]
    Asked by @alice · disruptive
    On each host:
    cut the power
    wait until it is off
    turn it on
    wait until it is on
    Waits for approval until [time] UTC:
    db-owners (1 host): 0 of 1 approval
    web-owners (2 hosts): 0 of 1 approval
    Approve with the button, with a reaction, or with approve in the thread.
    [Approve] [Reject] [Cancel]
    ");
    insta::assert_snapshot!(t.presses(&t.bob, 1, "Approve").await, @r"
    -- in the thread
    @bob approved for web-owners. #1 still waits for others.
    ");
    assert!(t.rack().acts().unwrap().is_empty());
    insta::assert_snapshot!(t.presses(&t.dave, 1, "Approve").await, @r"
    -- in the thread
    @dave approved for db-owners. The approval is complete: #1 starts.
    ");
    insta::assert_snapshot!(t.ended(1).await, @"@alice #1 has ended: succeeded, 3 hosts done in [duration].");
    for host in ["web01", "web02", "db01"] {
        assert_eq!(t.acts(host), ["power 0", "power 1"], "{host}");
        assert_eq!(t.power(host), Power::On);
    }
    t.finish().await;
}

#[tokio::test]
async fn a_batch_that_nobody_approves_expires() {
    let rule = "quorum = 1\nfrom = [\"owner\"]\nexpires = \"1s\"\n";
    let t = World::builder().approval(rule).start().await;
    t.says(&t.alice, "/metal reboot web[01-02],db01").await;
    insta::assert_snapshot!(t.heard(1, "expired").await, @"#1 of @alice expired: db-owners, web-owners did not approve in time. Its hosts are free again; nothing was done to them.");
    insta::assert_snapshot!(t.card(1).await.text, @r"
    #1 reboot · 3 hosts · expired
    db01,web[01-02]
    nobody approved in time
    Asked by @alice · disruptive
    ");
    insta::assert_snapshot!(t.replies(&t.bob, 1, "approve").await, @r"
    -- in the thread, only to them
    Nothing was done: #1 is expired (nobody approved in time): there is nothing to decide.
    ");
    insta::assert_snapshot!(t.db.audit(1).await, @r"
    alice batch.submitted
    alice batch.state
    metalbot batch.state
    metalbot job.state
    ");
    t.finish().await;
}

#[tokio::test]
async fn harmless_work_needs_no_approval() {
    let t = World::with_rack().await;
    let asked = t.says(&t.alice, "/metal identify web01,db02 for=30s").await;
    assert!(asked.contains("#1 identify · 2 hosts"), "{asked}");
    t.ended(1).await;
    for host in ["web01", "db02"] {
        assert_eq!(t.acts(host), ["identify 30 0"], "{host}");
    }
    insta::assert_snapshot!(t.card(1).await.text, @r"
    #1 identify · 2 hosts · succeeded
    db02,web01
    2 of 2 done
    Asked by @alice · harmless · for=30s
    ");
    t.finish().await;
}

#[tokio::test]
async fn power_goes_off_softly_and_hard_after_the_wait_if_that_is_wanted() {
    let t = World::builder()
        .rack()
        .fault("web03", BmcFault::IgnoresSoftOff)
        .fault("web04", BmcFault::IgnoresSoftOff)
        .start()
        .await;
    let forced = t.says(&t.alice, "/metal power-off web[02-03] wait=10s force=true").await;
    insta::assert_snapshot!(forced, @r"
    -- in the channel
    #1 power-off · 2 hosts · awaiting approval
    web[02-03]
    Asked by @alice · disruptive · force=true · wait=10s
    On each host:
    ask it to shut down
    wait until it has shut down
    cut the power if it is still on
    wait until it is off
    Waits for approval until [time] UTC:
    web-owners (2 hosts): 0 of 1 approval
    Approve with the button, with a reaction, or with approve in the thread.
    [Approve] [Reject] [Cancel]
    ");
    t.says(&t.alice, "/metal power-off web04 wait=10s").await;
    t.says(&t.alice, "/metal power-off web05 mode=hard").await;
    for batch in 1..=3 {
        t.replies(&t.bob, batch, "approve").await;
    }
    assert!(t.ended(1).await.contains("succeeded, 2 hosts done"));
    insta::assert_snapshot!(t.ended(2).await, @r"
    @alice #2 has ended: failed, 0 hosts done in [duration].
    web04 the host is still on at the deadline
    ");
    assert!(t.ended(3).await.contains("succeeded, 1 host done"));
    assert_eq!(t.acts("web02"), ["shutdown 1"]);
    assert_eq!(t.acts("web03"), ["shutdown 1", "power 0"]);
    assert_eq!(t.acts("web04"), ["shutdown 1"]);
    assert_eq!(t.acts("web05"), ["power 0"]);
    for (host, power) in [("web02", Power::Off), ("web03", Power::Off), ("web04", Power::On)] {
        assert_eq!(t.power(host), power, "{host}");
    }
    // A host that is off already is left alone, and goes on again.
    t.says(&t.alice, "/metal power-on web[02,06]").await;
    t.replies(&t.bob, 4, "approve").await;
    t.ended(4).await;
    assert_eq!(t.acts("web02"), ["shutdown 1", "power 1"]);
    assert_eq!(t.acts("web06"), [""; 0]);
    t.finish().await;
}

#[tokio::test]
async fn a_full_rack_keeps_the_hosts_of_another_batch_waiting_and_the_card_says_so() {
    let t = World::builder()
        .rack()
        .fault("web01", BmcFault::IgnoresSoftOff)
        .append("[caps]\nrack = 1\n")
        .start()
        .await;
    t.says(&t.alice, "/metal power-off web01 wait=10s").await;
    t.says(&t.carol, "/metal reboot web02,db01").await;
    for (batch, owner) in [(1, &t.bob), (2, &t.bob), (2, &t.dave)] {
        // Nobody waits for the first batch to end.
        let card = t.card(batch).await;
        owner.reply("metal", &card.id, "approve").await.unwrap();
    }
    let why = "Waiting: rack fra1/r11 may have only 1 host down at a time";
    t.card_when(2, |card| card.text.contains(why)).await;
    assert_eq!(t.power("web02"), Power::On);
    t.ended(1).await;
    t.ended(2).await;
    assert_eq!(t.acts("web02"), ["power 0", "power 1"]);
    assert!(!t.card(2).await.text.contains("Waiting"));
    t.finish().await;
}

#[tokio::test]
async fn hosts_go_in_waves_and_never_more_at_a_time_than_allowed() {
    let t = World::with_rack().await;
    let asked = t.says(&t.alice, "/metal reboot web[01-06] wave=1,50% max-concurrent=2").await;
    insta::assert_snapshot!(asked, @r"
    -- in the channel
    #1 reboot · 6 hosts · awaiting approval
    web[01-06]
    Asked by @alice · disruptive
    On each host, in 3 waves, at most 2 at a time:
    cut the power
    wait until it is off
    turn it on
    wait until it is on
    Waits for approval until [time] UTC:
    web-owners (6 hosts): 0 of 1 approval
    Approve with the button, with a reaction, or with approve in the thread.
    [Approve] [Reject] [Cancel]
    ");
    t.replies(&t.bob, 1, "approve").await;
    t.ended(1).await;
    let (mut off, mut order): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    for act in t.rack().acts().unwrap() {
        let host = act.host.to_string();
        match act.is_power_off() {
            true => {
                off.push(host.clone());
                order.push(host);
            }
            false => off.retain(|one| *one != host),
        }
        assert!(off.len() <= 2, "{off:?} are off at the same time");
    }
    assert_eq!(order.len(), 6, "{order:?}");
    assert_eq!(order[0], "web01");
    // The second wave is three hosts, in any order, before the rest.
    order[1..4].sort();
    assert_eq!(order[1..4], ["web02", "web03", "web04"]);
    insta::assert_snapshot!(t.card(1).await.text, @"
    #1 reboot · 6 hosts · succeeded
    web[01-06]
    6 of 6 done
    Asked by @alice · approved by @bob · disruptive
    ");
    t.finish().await;
}

#[tokio::test]
async fn too_many_failures_pause_a_batch_until_somebody_resumes_it() {
    let t = World::builder().rack().fault("web01", BmcFault::WrongPassword).start().await;
    t.says(&t.alice, "/metal reboot web[01-04] wave=1 max-fail=0").await;
    t.replies(&t.bob, 1, "approve").await;
    insta::assert_snapshot!(t.heard(1, "is paused").await, @"#1 is paused: 1 host failed, at most 0 may. Hosts at work are finished, no other is started. /metal resume 1 goes on, /metal cancel 1 ends it.");
    let card = t.card_when(1, |card| card.text.contains("· paused")).await;
    insta::assert_snapshot!(told(&card), @"
    -- in the channel
    #1 reboot · 4 hosts · paused
    web[01-04]
    0 of 4 done · 1 failed · wave 1 of 4
    1 failed, at most 0 may
    web01 the BMC at 127.x.1.1:[port] refused the user name or password
    Asked by @alice · approved by @bob · disruptive
    [Resume] [Cancel]
    ");
    insta::assert_snapshot!(t.says(&t.dave, "/metal resume 1").await, @r"
    -- in the channel, only to them
    Nothing was done: only alice and members of web-owners may change this batch: ask one of them.
    ");
    assert!(t.rack().acts().unwrap().is_empty());
    insta::assert_snapshot!(t.presses(&t.alice, 1, "Resume").await, @r"
    -- in the thread
    @alice resumed #1.
    ");
    insta::assert_snapshot!(t.ended(1).await, @r"
    @alice #1 has ended: partly failed, 3 hosts done in [duration].
    web01 the BMC at 127.x.1.1:[port] refused the user name or password
    ");
    for host in ["web02", "web03", "web04"] {
        assert_eq!(t.acts(host), ["power 0", "power 1"], "{host}");
    }
    t.tickets(1).await;
    t.finish().await;
}

#[tokio::test]
async fn a_person_may_pause_and_end_what_runs() {
    // web07 is silent, so that there is time.
    let t = World::with_rack().await;
    t.says(&t.alice, "/metal reboot web[07-09] wave=1").await;
    t.replies(&t.bob, 1, "approve").await;
    insta::assert_snapshot!(t.says(&t.dave, "/metal pause 1").await, @r"
    -- in the channel, only to them
    Nothing was done: only alice and members of sre, web-owners may stop this batch: ask one of them.
    ");
    insta::assert_snapshot!(t.says(&t.bob, "/metal pause 1").await, @r"
    -- in the thread
    #1 is paused by @bob. Hosts at work are finished, no other is started. /metal resume 1 goes on, /metal cancel 1 ends it.
    [Resume] [Cancel]
    -- in the channel, only to them
    Done: #1 (reboot, 3 hosts) was paused.
    ");
    insta::assert_snapshot!(t.says(&t.bob, "/metal pause 1").await, @"
    -- in the channel, only to them
    Nothing was done: the state of the batch does not allow it: paused.
    ");
    assert_eq!(t.card(1).await.buttons(), ["Resume", "Cancel"]);
    let cancelled = t.presses(&t.alice, 1, "Cancel").await;
    assert!(cancelled.contains("@alice cancelled #1"), "{cancelled}");
    // What was not started is free at once.
    let again = t.says(&t.carol, "/metal reboot web08").await;
    assert!(again.contains("awaiting approval"), "{again}");
    t.finish().await;
}

#[tokio::test]
async fn each_kind_of_failure_gets_one_ticket_that_tags_who_asked() {
    let t = World::builder().rack().fault("web10", BmcFault::WrongPassword).start().await;
    t.says(&t.alice, "/metal reboot web[06-10] reason=\"kernel CVE-2026-1\"").await;
    t.reacts(&t.bob, 1, "+1", true).await;
    insta::assert_snapshot!(t.ended(1).await, @r"
    @alice #1 has ended: partly failed, 2 hosts done in [duration].
    web[09-10] the BMC at 127.x.1.9:[port] refused the user name or password
    web07 the BMC at 127.x.1.7:[port] does not answer
    ");
    for host in ["web06", "web08"] {
        assert_eq!(t.acts(host), ["power 0", "power 1"], "{host}");
    }
    for host in ["web07", "web09", "web10"] {
        assert_eq!(t.acts(host), [""; 0], "{host}");
    }
    let tickets = t.tickets(2).await;
    let mut summaries: Vec<&str> = tickets.iter().map(|ticket| &ticket.summary[..]).collect();
    summaries.sort();
    insta::assert_snapshot!(summaries.join("\n"), @r"
    reboot failed on 1 host (bmc_unreachable): web07 [batch #1]
    reboot failed on 2 hosts (bmc_credentials): web[09-10] [batch #1]
    ");
    for ticket in &tickets {
        assert!(ticket.description.contains("[~alice]"), "{}", ticket.description);
        let filed = t.heard(1, &ticket.key).await;
        assert!(filed.contains("Tagged: Alice Ivanova"), "{filed}");
    }
    for ticket in t.tickets(2).await {
        assert!(ticket.watchers.contains("alice"), "{:?}", ticket.watchers);
    }
    let credentials = tickets.iter().find(|ticket| ticket.summary.contains("credentials"));
    insta::assert_snapshot!(credentials.unwrap().description, @r"
    h3. What was asked
    * *reboot* in batch [&#35;1|http://127.x.0.1:[port]/batches/1] &#40;thread in console &#35;metal&#41;, asked by [~alice], approved by [~bob], reason: kernel CVE&#45;2026-1

    h3. What failed
    * Failure: {{bmc_credentials}} in {{cut the power}}
    * Last error: the BMC at 127.x.1.9:[port] refused the user name or password
    * 2 hosts: web&#91;09-10&#93;
    * In common: rack fra1/r11

    h3. Hosts
    || Host || Datacenter || Rack || SKU || BMC || Attempts || Last error ||
    | web09 | fra1 | r11 | c6-large | 127.x.1.9:[port] | 1, [time] UTC | the BMC at 127.x.1.9:[port] refused the user name or password |
    | web10 | fra1 | r11 | c6-large | 127.x.1.10:[port] | 1, [time] UTC | the BMC at 127.x.1.10:[port] refused the user name or password |

    h3. What to check
    * Does the BMC still have the service account, enabled for IPMI over LAN?
    * Was the BMC reset to factory settings or replaced? Then set the password again from the vault.

    ----

    Filed by Metalbot. When the hosts are repaired, {{/metal retry 1}} runs them again.
    ");
    let both = |text: &str| text.contains("OPS-1 (Open)") && text.contains("OPS-2 (Open)");
    let card = t.card_when(1, |card| both(&card.text)).await;
    assert!(credentials.unwrap().description.contains("/batches/1]"));
    assert_eq!(t.alice.leads_to("/batches/1").await.unwrap(), format!("/#/metal/{}", card.id));
    insta::assert_snapshot!(told(&card), @r"
    -- in the channel
    #1 reboot · 5 hosts · partly failed
    web[06-10]
    2 of 5 done · 3 failed
    web[09-10] the BMC at 127.x.1.9:[port] refused the user name or password
    web07 the BMC at 127.x.1.7:[port] does not answer
    Tickets: OPS-1 (Open), OPS-2 (Open)
    Reason: kernel CVE-2026-1
    Asked by @alice · approved by @bob · disruptive
    [Retry failed]
    ");

    insta::assert_snapshot!(t.says(&t.alice, "/metal status host web07").await, @r"
    -- in the channel, only to them
    web07 · web-owners · fra1 · r11 · c6-large
    #1 reboot by @alice: failed, the BMC at 127.x.1.7:[port] does not answer
    ");
    insta::assert_snapshot!(t.presses(&t.alice, 1, "Retry failed").await, @r"
    -- in the channel
    #2 reboot · 3 hosts · awaiting approval
    web[07,09-10]
    Reason: kernel CVE-2026-1
    Asked by @alice · disruptive · retry of #1
    On each host:
    cut the power
    wait until it is off
    turn it on
    wait until it is on
    Waits for approval until [time] UTC:
    web-owners (3 hosts): 0 of 1 approval
    Approve with the button, with a reaction, or with approve in the thread.
    [Approve] [Reject] [Cancel]
    ");
    insta::assert_snapshot!(t.says(&t.carol, "/metal retry 2").await, @r"
    -- in the channel, only to them
    Nothing was done: #2 is awaiting approval: retry it when it has ended.
    ");
    t.says(&t.alice, "/metal cancel 2").await;
    insta::assert_snapshot!(t.says(&t.alice, "/metal retry 2").await, @r"
    -- in the channel, only to them
    Nothing was done: no host of #2 failed: submit it anew instead.
    ");
    insta::assert_snapshot!(t.db.audit(1).await, @r"
    alice batch.submitted
    alice batch.state
    bob batch.approved
    bob batch.state
    metalbot batch.state
    metalbot job.ended
    metalbot job.ended
    metalbot job.ended
    metalbot job.ended
    metalbot job.ended
    metalbot batch.state
    metalbot ticket.filed
    metalbot ticket.filed
    ");
    t.finish().await;
}

#[tokio::test]
async fn a_host_of_unknown_fate_is_kept_until_its_owner_releases_it() {
    let t = World::builder().rack().replace("1500ms", "300ms").start().await;
    t.freeze_at("web05 set power 0");
    t.says(&t.alice, "/metal reboot web05").await;
    t.replies(&t.bob, 1, "approve").await;
    insta::assert_snapshot!(t.ended(1).await, @r"
    @alice #1 has ended: failed, 0 hosts done in [duration].
    web05 quarantined, an owner must look and /metal release: the BMC at 127.x.1.5:[port] went silent after the command was sent: it may have acted, and now the BMC at 127.x.1.5:[port] does not answer
    ");
    insta::assert_snapshot!(t.says(&t.carol, "/metal reboot web05").await, @"
    -- in the channel, only to them
    #2 reboot was refused: its host is in use. Nothing was done.
    web05 quarantined by #1 of @alice (failed): an owner can /metal release them
    None of the hosts is free.
    ");
    insta::assert_snapshot!(t.says(&t.alice, "/metal retry 1").await, @r"
    -- in the channel, only to them
    Nothing was done: no host of #1 failed: submit it anew instead.
    ");
    insta::assert_snapshot!(t.says(&t.alice, "/metal release web05").await, @r"
    -- in the channel, only to them
    Nothing was done: only members of web-owners may release these hosts: ask one of them.
    ");
    insta::assert_snapshot!(t.says(&t.bob, "/metal release web[05-06]").await, @r"
    -- in the channel, only to them
    Nothing was done: web06 is not quarantined, and not counted as down.
    ");
    insta::assert_snapshot!(t.says(&t.bob, "/metal release web05").await, @r"
    -- in the thread
    @bob released web05.
    ");
    let again = t.says(&t.carol, "/metal reboot web05").await;
    assert!(again.contains("awaiting approval"), "{again}");
    t.tickets(1).await;
    t.finish().await;
}

#[tokio::test]
async fn outside_the_demo_people_sign_in() {
    let t = World::start().await;
    let hash = password::hash(&SecretString::from("a long pass phrase")).unwrap();
    t.change_people(|people| {
        people.replace("jira = \"alice\"", &format!("jira = \"alice\"\npassword = \"{hash}\""))
    });
    let alice = ConsoleUser::sign_in(&t.base, "alice", "a long pass phrase").await.unwrap();
    insta::assert_snapshot!(t.says(&alice, "/metal list").await, @r"
    -- in the channel, only to them
    There is no batch yet. /metal help shows how to submit one.
    ");
    for (login, password) in [("alice", "wrong"), ("alice", ""), ("bob", ""), ("nobody", "x")] {
        let refused = ConsoleUser::sign_in(&t.base, login, password).await;
        assert!(refused.is_err(), "{login} came in with {password:?}");
    }
    t.finish().await;
}
