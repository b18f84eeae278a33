//! The pace of a batch, as people see and steer it.

use metalbot::bmc::Power;
use metalbot_sim::rack::BmcFault;
use tempfile::TempDir;

use crate::harness::{Builder, World, told, until};

#[tokio::test]
async fn a_pause_is_told_with_buttons_that_are_good_for_that_pause() {
    let builder = World::builder().rack();
    let builder =
        builder.fault("web01", BmcFault::WrongPassword).fault("web02", BmcFault::WrongPassword);
    let t = builder.start().await;
    t.says(&t.alice, "/metal reboot web[01-04] wave=1 max-fail=0").await;
    t.replies(&t.bob, 1, "approve").await;
    let first = t.notice(1, "1 host failed, at most 0 may").await;
    insta::assert_snapshot!(told(&first), @r"
    -- in the thread
    #1 is paused: 1 host failed, at most 0 may. Hosts at work are finished, no other is started. /metal resume 1 goes on, /metal cancel 1 ends it.
    [Resume] [Cancel]
    ");
    let resume = first.button("Resume").unwrap();
    let press = async |who| t.result_of(who, who.press(&first.id, &resume)).await;
    insta::assert_snapshot!(press(&t.dave).await, @r"
    -- in the thread, only to them
    Nothing was done: only alice and members of web-owners may change this batch: ask one of them.
    ");
    insta::assert_snapshot!(press(&t.alice).await, @r"
    -- in the thread
    @alice resumed #1.
    ");
    // web02 fails as well. Who presses the button of the first pause has not seen that.
    t.card_when(1, |card| card.text.contains("2 failed") && card.text.contains("paused")).await;
    insta::assert_snapshot!(press(&t.alice).await, @r"
    -- in the thread, only to them
    Nothing was done: #1 went on after that and was paused again: look at its card, then decide.
    ");
    // A button is good in its own batch's thread alone.
    t.says(&t.carol, "/metal reboot db01").await;
    let elsewhere = t.card(2).await.id;
    insta::assert_snapshot!(t.result_of(&t.alice, t.alice.press(&elsewhere, "cancel 1")).await, @r"
    -- in the channel, only to them
    Nothing was done: that button is not valid here any more.
    ");
    insta::assert_snapshot!(t.presses_in_thread(&t.alice, 1, "is paused", "Cancel").await, @r"
    -- in the thread
    @alice cancelled #1. No other host is touched.
    ");
    t.ended(1).await;
    t.says(&t.carol, "/metal cancel 2").await;
    t.tickets(1).await;
    t.finish().await;
}

/// Two calls of BMCs may be under way, and six hosts take their time to shut down.
#[tokio::test]
async fn hosts_that_only_wait_leave_room_for_others() {
    let slow = ["web01", "web02", "web03", "web04", "web05", "web06"];
    let builder = World::builder().rack();
    let builder = builder.replace("[executor]\n", "[executor]\nmax_in_flight = 2\n");
    let builder =
        slow.iter().fold(builder, |builder, host| builder.fault(host, BmcFault::IgnoresSoftOff));
    let t = builder.start().await;
    t.says(&t.alice, "/metal power-off web[01-06] mode=soft wait=30s").await;
    t.replies(&t.bob, 1, "approve").await;
    until("hosts that were asked to shut down", async || {
        slow.iter().all(|host| !t.acts(host).is_empty())
    })
    .await;
    t.says(&t.alice, "/metal identify web[10-15]").await;
    t.ended(2).await;
    assert_eq!(t.db.batch_state(2).await, "succeeded");
    assert_eq!(t.db.batch_state(1).await, "running", "the others wait all the while");
    t.says(&t.alice, "/metal cancel 1").await;
    t.finish().await;
}

/// A site with an action that destroys, as far as hosts without disks can tell: this is about what
/// comes before it.
fn dangerous(countdown: &str) -> (TempDir, Builder) {
    let folder = tempfile::tempdir().unwrap();
    let usual = include_str!("../../commands/power-off.toml");
    let (disruptive, destructive) = ("risk = \"disruptive\"\n", "risk = \"destructive\"\n");
    assert!(usual.contains(disruptive));
    let action = usual.replacen(disruptive, destructive, 1);
    std::fs::write(folder.path().join("retire.toml"), action).unwrap();
    let section = format!("[commands]\nfolder = {:?}\n", folder.path());
    let rollout = format!("[rollout]\ncountdown = {countdown:?}\n");
    (folder, World::builder().rack().append(&section).append(&rollout))
}

#[tokio::test]
async fn what_destroys_can_be_stopped_after_the_last_approval() {
    let (_folder, builder) = dangerous("10m");
    let t = builder.start().await;
    insta::assert_snapshot!(t.says(&t.alice, "/metal retire web[01-02] mode=hard").await, @r"
    -- in the channel
    #1 retire · 2 hosts · awaiting approval
    web[01-02]
    Asked by @alice · destructive · mode=hard
    On each host:
    cut the power
    wait until it is off
    Can be stopped for 10m 0s after the last approval, before anything is done.
    Waits for approval until [time] UTC:
    web-owners (2 hosts): 0 of 1 approval
    Approve with the button, with a reaction, or with approve in the thread.
    [Approve] [Reject] [Cancel]
    ");
    insta::assert_snapshot!(t.replies(&t.bob, 1, "approve").await, @r"
    -- in the thread
    @bob approved for web-owners. The approval is complete.
    ");
    let notice = t.notice(1, "Nothing has been done yet").await;
    insta::assert_snapshot!(told(&notice), @r"
    -- in the thread
    #1 does retire to web[01-02] at [time] UTC. Nothing has been done yet: press the button or say stop here, and nothing will be.
    [Stop]
    ");
    let card = t.card_when(1, |card| card.text.contains("unless somebody stops it")).await;
    insta::assert_snapshot!(told(&card), @r"
    -- in the channel
    #1 retire · 2 hosts · scheduled
    web[01-02]
    Starts at [time] UTC unless somebody stops it.
    Asked by @alice · approved by @bob · destructive · mode=hard
    On each host:
    cut the power
    wait until it is off
    [Stop]
    ");
    // Dave owns other hosts; Carol could have asked for it herself, so she may stop it.
    insta::assert_snapshot!(t.replies(&t.dave, 1, "stop").await, @r"
    -- in the thread, only to them
    Nothing was done: only alice and members of sre, web-owners may stop this batch: ask one of them.
    ");
    let stop = t.presses_in_thread(&t.carol, 1, "Nothing has been done yet", "Stop").await;
    insta::assert_snapshot!(stop, @r"
    -- in the thread
    @carol cancelled #1. No other host is touched.
    ");
    insta::assert_snapshot!(t.replies(&t.alice, 1, "stop").await, @r"
    -- in the thread, only to them
    Nothing was done: the state of the batch does not allow it: cancelled.
    ");
    // Another one, stopped by a word.
    t.says(&t.alice, "/metal retire web03 mode=hard").await;
    t.replies(&t.bob, 2, "approve").await;
    t.notice(2, "Nothing has been done yet").await;
    let stopped = t.replies(&t.bob, 2, "stop").await;
    assert!(stopped.contains("@bob cancelled #2"), "{stopped}");
    assert!(t.rack().acts().unwrap().is_empty(), "nothing was done");
    t.finish().await;
}

#[tokio::test]
async fn a_countdown_that_nobody_stops_ends_in_the_act() {
    let (_folder, builder) = dangerous("2s");
    let t = builder.start().await;
    t.says(&t.alice, "/metal retire web01 mode=hard").await;
    t.replies(&t.bob, 1, "approve").await;
    t.notice(1, "Nothing has been done yet").await;
    t.ended(1).await;
    assert_eq!(t.acts("web01"), ["power 0"]);
    // By the database's clock, no job began before the countdown was over.
    let early = t.db.attempts_before_the_start().await;
    assert_eq!(early, 0);
    t.finish().await;
}

#[tokio::test]
async fn a_batch_starts_at_its_time_and_never_later() {
    let t = World::with_rack().await;
    let asked = t.says(&t.alice, "/metal reboot web[01-02] at=8h").await;
    let start = asked.lines().find(|line| line.starts_with("To start")).unwrap_or(&asked);
    insta::assert_snapshot!(start, @"To start at [time] UTC, or never if it is not approved by then.");
    t.replies(&t.bob, 1, "approve").await;
    let told = t.heard(1, "starts at").await;
    assert!(told.starts_with("#1 starts at ") && told.ends_with(" UTC."), "{told}");
    let status = t.says(&t.dave, "/metal status 1").await;
    assert!(status.contains("· scheduled") && status.contains("Starts at "), "{status}");
    // Its hosts are held until then.
    let refused = t.says(&t.carol, "/metal reboot web02").await;
    assert!(refused.contains("web02 held by #1 of @alice (scheduled)"), "{refused}");

    // The time comes.
    t.db.start_comes(1).await;
    t.ended(1).await;
    assert_eq!(t.acts("web02"), ["power 0", "power 1"]);

    // The time went by: what was asked for the night is not done in the morning.
    t.says(&t.alice, "/metal reboot web03 at=8h").await;
    t.replies(&t.bob, 3, "approve").await;
    t.heard(3, "starts at").await;
    t.db.start_goes_by(3).await;
    insta::assert_snapshot!(t.heard(3, "was to start").await, @"@alice #3 was to start at [time] UTC and could not: nothing was there to start it then. Its hosts are free again; nothing was done to them.");
    t.card_when(3, |card| card.text.contains("· expired")).await;

    // But what is not to start before a time may start later.
    t.says(&t.alice, "/metal reboot web03 not-before=8h").await;
    t.replies(&t.bob, 4, "approve").await;
    t.heard(4, "starts at").await;
    t.db.start_goes_by(4).await;
    t.ended(4).await;
    assert_eq!(t.acts("web03"), ["power 0", "power 1"]);

    // Nobody can approve what should have started.
    t.says(&t.alice, "/metal reboot web04 at=1m").await;
    let limit = t.db.expires_at_its_start(5).await;
    assert!(limit, "it expires at its time, and not an hour from now");
    t.says(&t.alice, "/metal cancel 5").await;
    t.finish().await;
}

#[tokio::test]
async fn waves_wait_for_their_time_or_for_a_person() {
    let t = World::with_rack().await;
    t.says(&t.alice, "/metal reboot web[01-02] wave=1 wave-pause=1h").await;
    t.replies(&t.bob, 1, "approve").await;
    let card = t.card_when(1, |card| card.text.contains("Waiting: wave 2 begins at")).await;
    assert!(card.text.contains("1 of 2 done · wave 2 of 2"), "{}", card.text);
    assert!(t.acts("web02").is_empty());
    t.db.start_comes(1).await;
    t.ended(1).await;
    assert_eq!(t.acts("web02"), ["power 0", "power 1"]);

    t.says(&t.alice, "/metal reboot web[03-04] wave=1 wave-pause=manual").await;
    t.replies(&t.bob, 2, "approve").await;
    let notice = t.notice(2, "is paused").await;
    insta::assert_snapshot!(told(&notice), @r"
    -- in the thread
    #2 is paused: wave 1 is done, and the next one waits for somebody to resume. Hosts at work are finished, no other is started. /metal resume 2 goes on, /metal cancel 2 ends it.
    [Resume] [Cancel]
    ");
    let status = t.says(&t.dave, "/metal status 2").await;
    assert!(status.contains("1 host waits until somebody resumes"), "{status}");
    t.presses_in_thread(&t.alice, 2, "is paused", "Resume").await;
    t.ended(2).await;
    assert_eq!(t.acts("web04"), ["power 0", "power 1"]);
    t.finish().await;
}

#[tokio::test]
async fn hosts_that_were_bad_before_count_against_the_budget_but_not_in_their_retry() {
    // web07 is silent.
    let t = World::with_rack().await;
    t.says(&t.alice, "/metal identify web[06-07]").await;
    t.ended(1).await;
    t.says(&t.alice, "/metal identify web[06-07] max-fail=0").await;
    insta::assert_snapshot!(t.heard(2, "is paused").await, @"#2 is paused: 0 hosts failed and 1 host was bad before, at most 0 may. Hosts at work are finished, no other is started. /metal resume 2 goes on, /metal cancel 2 ends it.");
    let card = t.card_when(2, |card| card.text.contains("· paused")).await;
    let before =
        "web07 failed in the last batch before this one and counts as failed until it is done";
    assert!(card.text.contains(before), "{}", card.text);
    assert!(t.acts("web06").len() == 1, "nothing was begun");
    t.presses_in_thread(&t.alice, 2, "is paused", "Resume").await;
    t.ended(2).await;

    // The retry is there to mend it.
    t.says(&t.alice, "/metal retry 2").await;
    t.ended(3).await;
    let heard = t.seen_by(&t.alice).await;
    let paused = heard.iter().filter(|message| message.text.contains("#3 is paused")).count();
    assert_eq!(paused, 0, "{heard:#?}");
    t.finish().await;
}

async fn jobs_become(t: &World, batch: i64, wanted: &[&str]) {
    let mut jobs = Vec::new();
    until(&format!("{wanted:?}"), async || {
        jobs = t.db.jobs(batch).await;
        jobs == wanted
    })
    .await;
}

#[tokio::test]
async fn hosts_that_nobody_has_touched_are_left_alone_when_their_batch_stops() {
    let silent = |host| (host, BmcFault::Silent);
    let mut builder = World::builder().rack();
    for (host, fault) in [silent("web01"), silent("web02")] {
        builder = builder.fault(host, fault);
    }
    let t = builder.start().await;
    t.says(&t.alice, "/metal reboot web[01-02]").await;
    t.replies(&t.bob, 1, "approve").await;
    // Leased, and tried again and again.
    jobs_become(&t, 1, &["web01 running", "web02 running"]).await;
    t.says(&t.alice, "/metal pause 1").await;
    jobs_become(&t, 1, &["web01 pending", "web02 pending"]).await;
    t.says(&t.alice, "/metal resume 1").await;
    jobs_become(&t, 1, &["web01 running", "web02 running"]).await;
    t.says(&t.alice, "/metal cancel 1").await;
    jobs_become(&t, 1, &["web01 cancelled", "web02 cancelled"]).await;
    let audit = t.db.audit(1).await;
    assert!(audit.contains("job.recalled"), "{audit}");
    // They are free.
    let other = t.says(&t.carol, "/metal identify web[01-02]").await;
    assert!(other.contains("#2 identify"), "{other}");
    t.ended(2).await;
    t.tickets(1).await;
    t.finish().await;
}

#[tokio::test]
async fn a_job_that_ends_its_workers_again_and_again_is_for_a_person() {
    let t = World::with_rack().await;
    t.says(&t.alice, "/metal reboot web[01-02]").await;
    t.db.taken_over("web01", 6).await;
    t.replies(&t.bob, 1, "approve").await;
    t.ended(1).await;
    assert_eq!(t.db.jobs(1).await, ["web01 quarantined", "web02 succeeded"]);
    t.tickets(1).await;
    t.says(&t.bob, "/metal release web01").await;
    t.finish().await;
}

#[tokio::test]
async fn a_canary_that_is_dropped_has_a_successor() {
    let t = World::start().await;
    t.says(&t.alice, "/metal reboot web[01-04] wave=1,2").await;
    t.says(&t.alice, "/metal drop 1 web01").await;
    let waves = t.db.waves(1).await;
    assert_eq!(waves, ["web02 0", "web03 1", "web04 1"]);
    t.says(&t.alice, "/metal cancel 1").await;
    t.finish().await;
}

#[tokio::test]
async fn a_rack_goes_dark_only_as_far_as_its_cap_until_hosts_are_on_again_or_released() {
    let t = World::builder().rack().append("[caps]\nrack = 2\n").start().await;
    let is_off = |host: &str| t.power(host) == Power::Off;
    let off =
        || ["web01", "web02", "web03", "web04"].into_iter().filter(|host| is_off(host)).count();
    t.says(&t.alice, "/metal power-off web[01-04] mode=hard").await;
    t.replies(&t.bob, 1, "approve").await;
    let waits = |done: usize| {
        let done = format!("{done} of 4 done");
        move |text: &str| text.contains("at a time") && text.contains(&done)
    };
    let card = t.card_when(1, |card| waits(2)(&card.text)).await;
    insta::assert_snapshot!(card.text, @"
    #1 power-off · 4 hosts · running
    web[01-04]
    2 of 4 done
    Waiting: rack fra1/r11 may have only 2 hosts down at a time
    Asked by @alice · approved by @bob · disruptive · mode=hard
    ");
    assert_eq!((off(), is_off("web01"), is_off("web02")), (2, true, true));

    // Turning a host on is never refused for a cap, and makes room for the next.
    t.says(&t.alice, "/metal power-on web01").await;
    t.replies(&t.bob, 2, "approve").await;
    t.ended(2).await;
    t.card_when(1, |card| waits(3)(&card.text)).await;
    assert_eq!((off(), is_off("web01"), is_off("web03")), (2, false, true));

    // So does somebody who says that it may be.
    insta::assert_snapshot!(t.says(&t.bob, "/metal release web02").await, @r"
    -- in the thread
    @bob released web02.
    ");
    t.ended(1).await;
    assert_eq!(off(), 3);
    insta::assert_snapshot!(t.says(&t.bob, "/metal release web02").await, @r"
    -- in the channel, only to them
    Nothing was done: web02 is not quarantined, and not counted as down.
    ");
    t.finish().await;
}
