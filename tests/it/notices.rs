//! Who is told what, and how: preferences, direct messages, calls and reminders, digests.

use metalbot_core::domain::event::{Event, EventBody};
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::inbound::ChatLocation;
use metalbot_core::domain::notice::{Audience, Notice};
use metalbot_core::domain::view::Failure;
use metalbot_sim::rack::BmcFault;
use metalbot_store::{outbox, view};

use crate::harness::{METAL, PATIENCE, World, told};

#[tokio::test]
async fn a_dry_run_tells_everything_and_does_nothing() {
    let t = World::start().await;
    let before = t.db.decided().await;
    let asked = "/metal dry-run reboot web[01-06],db01 wave=1,50% max-fail=2 reason='a \"b\"'";
    insta::assert_snapshot!(t.says(&t.alice, asked).await, @r#"
    -- in the channel, only to them
    Nothing was done. reboot of 7 hosts would touch db01,web[01-06]
    db-owners 1, web-owners 6 · ams1 1, fra1 6 · disruptive
    Reason: a "b"
    On each host, in 3 waves (1, 4, 2), pausing when more than 2 fail:
    cut the power
    wait until it is off
    turn it on
    wait until it is on
    Must be approved within 1h 0m:
    db-owners (1 host): 1 approval
    web-owners (6 hosts): 1 approval
    To do it:
    /metal reboot db01,web[01-06] wave=1,50% max-fail=2 reason="a \"b\""
    "#);
    insta::assert_snapshot!(t.says(&t.bob, "/metal dry-run reboot web01 mode=soft").await, @r"
    -- in the channel, only to them
    Nothing was done. reboot of 1 host would touch web01
    web-owners 1 · fra1 1 · disruptive · mode=soft
    On each host:
    ask it to shut down
    wait until it has shut down
    turn it on
    wait until it is on
    You may not: you may not reboot hosts of web-owners; members of sre may: ask one of them
    Must be approved within 1h 0m:
    web-owners (1 host): 1 approval
    ");
    insta::assert_snapshot!(t.says(&t.bob, "/metal dry-run identify web01").await, @r"
    -- in the channel, only to them
    Nothing was done. identify of 1 host would touch web01
    web-owners 1 · fra1 1 · harmless
    On each host:
    light the identify lamp
    You may not: you may not identify hosts of web-owners; members of sre may: ask one of them
    Nobody needs to approve it.
    ");
    assert_eq!(t.db.decided().await, before);
    t.says(&t.carol, "/metal reboot web[01-02]").await;
    insta::assert_snapshot!(t.says(&t.alice, "/metal dry-run power-on web[02-03]").await, @r"
    -- in the channel, only to them
    Nothing was done. power-on of 2 hosts would touch web[02-03]
    web-owners 2 · fra1 2 · disruptive
    On each host:
    turn it on
    wait until it is on
    It would be refused, since hosts are in use right now:
    web02 held by #1 of @carol (awaiting approval)
    web03 is free.
    Must be approved within 1h 0m:
    web-owners (2 hosts): 1 approval
    ");
    insta::assert_snapshot!(t.says(&t.alice, "/metal dry-run rebot web01").await, @r#"
    -- in the channel, only to them
    Nothing was done: there is no action "rebot"; did you mean reboot?
    dry-run rebot web01
    ^
    "#);
    t.finish().await;
}

#[tokio::test]
async fn people_and_channels_choose_what_they_are_told() {
    let t = World::start().await;
    insta::assert_snapshot!(t.says(&t.alice, "/metal notify").await, @r"
    -- in the channel, only to them
    You are told:
    complete=dm: when a batch of yours ends
    failures=thread: when hosts of it fail
    waves=off: when its next wave begins
    approvals=thread: when a batch waits for your approval
    digest=on: many direct messages at once become one
    dm is a direct message besides your name in the thread, thread your name in the thread, off neither.
    The threads of this channel tell of decisions, failures, waves and the end of every batch. Change it with /metal notify waves=dm or /metal notify here verbosity=failures.
    ");
    insta::assert_snapshot!(t.says(&t.alice, "/metal notify complete=off waves=dm digest=off").await, @r"
    -- in the channel, only to them
    Done. You are told:
    complete=off: when a batch of yours ends
    failures=thread: when hosts of it fail
    waves=dm: when its next wave begins
    approvals=thread: when a batch waits for your approval
    digest=off: many direct messages at once become one
    dm is a direct message besides your name in the thread, thread your name in the thread, off neither.
    The threads of this channel tell of decisions, failures, waves and the end of every batch. Change it with /metal notify waves=dm or /metal notify here verbosity=failures.
    ");
    insta::assert_snapshot!(t.says(&t.alice, "/metal notify waves=mail").await, @r#"
    -- in the channel, only to them
    Nothing was done: waves cannot be "mail"; write dm, thread or off.
    notify waves=mail
    ^
    "#);
    insta::assert_snapshot!(t.says(&t.bob, "/metal notify here verbosity=summary").await, @r"
    -- in the channel, only to them
    Nothing was done: only members of sre may choose what a channel is told: ask one of them.
    ");
    insta::assert_snapshot!(
        t.says(&t.alice, "/metal notify here actions=reboot,power-off verbosity=failures").await,
        @r"
    -- in the channel, only to them
    Done. You are told:
    complete=off: when a batch of yours ends
    failures=thread: when hosts of it fail
    waves=dm: when its next wave begins
    approvals=thread: when a batch waits for your approval
    digest=off: many direct messages at once become one
    dm is a direct message besides your name in the thread, thread your name in the thread, off neither.
    The threads of this channel tell of decisions, failures and the end of power-off, reboot; of other actions only decisions and the end. Change it with /metal notify waves=dm or /metal notify here verbosity=failures.
    "
    );
    assert!(t.says(&t.bob, "/metal notify").await.contains("complete=dm"));
    t.finish().await;
}

#[tokio::test]
async fn the_end_of_a_batch_reaches_its_submitter_as_they_prefer() {
    let t = World::with_rack().await;
    t.says(&t.carol, "/metal notify complete=off").await;
    t.says(&t.alice, "/metal identify web01").await;
    t.says(&t.carol, "/metal identify web02").await;
    insta::assert_snapshot!(t.ended(1).await, @"@alice #1 has ended: succeeded, 1 host done in [duration].");
    insta::assert_snapshot!(t.ended(2).await, @"#2 has ended: succeeded, 1 host done in [duration].");
    let direct = t.alice.wait_for(METAL, None, PATIENCE, "a direct message", |m| {
        m.only_you && m.text.contains("#1 has ended")
    });
    assert_eq!(direct.await.unwrap().author, "metalbot");
    t.quiet().await;
    for who in [&t.carol, &t.bob] {
        let seen = t.seen_by(who).await;
        assert!(!seen.iter().any(|m| m.only_you && m.text.contains("has ended")), "{seen:?}");
    }
    t.finish().await;
}

#[tokio::test]
async fn failures_and_waves_are_told_in_the_thread_grouped() {
    let t = World::builder()
        .rack()
        .fault("web01", BmcFault::IgnoresSoftOff)
        .fault("web02", BmcFault::WrongPassword)
        .fault("web03", BmcFault::WrongPassword)
        .start()
        .await;
    t.says(&t.alice, "/metal notify failures=dm").await;
    t.says(&t.alice, "/metal power-off web[01-03] wait=10s").await;
    t.says(&t.carol, "/metal identify db[01-03] wave=1").await;
    t.replies(&t.bob, 1, "approve").await;
    insta::assert_snapshot!(t.heard(1, "failed so far").await, @r"
    @alice #1: 2 of 3 hosts failed so far. New:
    web[02-03] the BMC at 127.x.1.2:[port] refused the user name or password
    ");
    insta::assert_snapshot!(t.heard(2, "wave 1 of 3").await, @"#2: wave 1 of 3 is done, 1 of 3 hosts succeeded so far. Wave 2 begins.");
    insta::assert_snapshot!(t.heard(2, "wave 2 of 3").await, @"#2: wave 2 of 3 is done, 2 of 3 hosts succeeded so far. Wave 3 begins.");
    t.ended(1).await;
    t.ended(2).await;
    t.quiet().await;
    let seen = t.seen_by(&t.alice).await;
    let failing: Vec<_> = seen.iter().filter(|m| m.text.contains("failed so far")).collect();
    assert_eq!(failing.len(), 2, "once in the thread and once to her: {failing:?}");
    assert_eq!(failing.iter().filter(|m| m.only_you && m.thread.is_none()).count(), 1);
    t.finish().await;
}

#[tokio::test]
async fn a_quiet_channel_hears_of_the_end_only() {
    let t = World::with_rack().await;
    t.says(&t.alice, "/metal notify here actions=reboot").await;
    t.says(&t.alice, "/metal identify db[01-03] wave=1").await;
    t.ended(1).await;
    t.quiet().await;
    let seen = t.seen_by(&t.alice).await;
    assert!(!seen.iter().any(|m| m.text.contains("wave 1")), "{seen:?}");
    t.finish().await;
}

#[tokio::test]
async fn those_who_must_approve_are_called_once_and_reminded_once() {
    let calls = "[[chat.approver_mention]]\ngroup = \"web-owners\"\nplatform = \"console\"\n\
                 mention = \"web-owners\"\nchannel = \"random\"\n";
    let rule =
        "quorum = 2\nfrom = [\"owner\", \"group:db-owners\", \"group:sre\"]\nexpires = \"12s\"\n";
    let t = World::builder().approval(rule).append(calls).start().await;
    t.says(&t.dave, "/metal notify approvals=dm").await;
    t.says(&t.alice, "/metal reboot web[01-02] reason=now").await;
    insta::assert_snapshot!(t.heard(1, "waits for your approval").await, @r"
    @web-owners #1 reboot of web[01-02], asked by @alice in #metal, waits for your approval until [time] UTC. Reason: now
    web-owners (2 hosts): 0 of 2 approvals · may approve: db-owners, sre, web-owners
    /metal status 1 shows it, /metal approve 1 approves it.
    ");
    let random = t.alice.wait_for("random", None, PATIENCE, "the call", |m| {
        m.text.contains("waits for your approval")
    });
    assert!(random.await.unwrap().text.starts_with("@web-owners #1 reboot"));
    let direct = t.dave.wait_for(METAL, None, PATIENCE, "the direct message", |m| {
        m.only_you && m.text.contains("waits for your approval")
    });
    direct.await.unwrap();
    t.replies(&t.bob, 1, "approve").await;
    insta::assert_snapshot!(t.heard(1, "still waits for your approval").await, @r"
    @db-owners @sre @web-owners #1 reboot of web[01-02], asked by @alice in #metal, still waits for your approval and expires at [time] UTC. Reason: now
    web-owners (2 hosts): 1 of 2 approvals, by @bob · may approve: db-owners, sre, web-owners
    /metal status 1 shows it, /metal approve 1 approves it.
    ");
    t.says(&t.alice, "/metal cancel 1").await;
    for (key, expected) in [("asked", 3), ("reminder", 3)] {
        let count = t.db.notices(1, key).await;
        assert_eq!(count, expected, "{key}: thread, channel and dave");
    }
    t.finish().await;
}

#[tokio::test]
async fn a_rejection_asks_for_its_reason() {
    let t = World::start().await;
    t.says(&t.alice, "/metal reboot web01").await;
    let card = t.card(1).await;
    let button = &card.card.as_ref().unwrap()["buttons"][1];
    assert_eq!(
        (&button["label"], &button["ask"]),
        (&"Reject".into(), &"Why is it rejected?".into())
    );
    let value = card.button("Reject").unwrap();
    let why = "  the release\n is tonight ";
    insta::assert_snapshot!(t.result_of(&t.bob, t.bob.answer(&card.id, &value, why)).await, @r"
    -- in the thread
    @bob rejected #1: the release is tonight. Its hosts are free again; nothing was done to them.
    ");
    assert!(t.card(1).await.text.contains("the release is tonight"));
    t.finish().await;
}

#[tokio::test]
async fn an_approval_stands_as_long_as_one_of_its_reactions() {
    let t = World::builder()
        .approval("quorum = 2\nfrom = [\"owner\", \"group:db-owners\", \"group:sre\"]\n")
        .start()
        .await;
    t.says(&t.alice, "/metal reboot web01").await;
    let approved = t.reacts(&t.bob, 1, "+1", true).await;
    assert!(approved.contains("@bob approved"), "{approved}");
    assert_eq!(t.reacts(&t.bob, 1, "white_check_mark", true).await, "(nothing)");
    assert_eq!(t.reacts(&t.bob, 1, "+1", false).await, "(nothing)");
    assert!(t.card(1).await.text.contains("1 of 2 approvals, by @bob"));
    let back = t.reacts(&t.bob, 1, "white_check_mark", false).await;
    assert!(back.contains("@bob took the decision on #1 back"), "{back}");
    assert!(t.card(1).await.text.contains("0 of 2 approvals"));
    // Taking away what never approved takes nothing back.
    t.replies(&t.bob, 1, "approve").await;
    t.reacts(&t.dave, 1, "eyes", true).await;
    assert_eq!(t.reacts(&t.dave, 1, "eyes", false).await, "(nothing)");
    assert!(t.card(1).await.text.contains("1 of 2 approvals, by @bob"));
    t.finish().await;
}

#[tokio::test]
async fn a_storm_reaches_a_person_as_a_digest() {
    let t = World::start().await;
    let near = ChatLocation { platform: "console".into(), channel: METAL.into(), thread: None };
    let alice = Audience::Person { login: "alice".into(), near };
    let mut tx = t.db.pool.begin().await.unwrap();
    for number in 1..=500 {
        let batch = BatchId(number);
        let failed = EventBody::JobsFailed {
            submitter: "alice".into(),
            failures: vec![Failure {
                kind: "bmc_unreachable".parse().unwrap(),
                error: format!("the BMC of number {number} does not answer"),
                hosts: vec![format!("storm{number:03}").parse().unwrap()],
                quarantined: false,
            }],
            failed: 1,
            total: 1,
        };
        let failed = Notice::Event { event: Event::new(batch, failed), mention: true };
        outbox::notice(&mut tx, &format!("storm:{number}"), &alice, &failed).await.unwrap();
    }
    tx.commit().await.unwrap();
    t.quiet().await;
    let seen = t.seen_by(&t.alice).await;
    assert_eq!(seen.len(), 1, "{seen:?}");
    insta::assert_snapshot!(told(&seen[0]), @r"
    -- in the channel, only to them
    500 messages in one, since they came at once:
    failed, bmc unreachable: storm[001-500] in #1 to #500
    ");
    assert!(t.seen_by(&t.bob).await.is_empty());
    assert!(view::list(&mut t.db.pool.acquire().await.unwrap(), None, 1).await.unwrap().is_empty());
    t.finish().await;
}
