//! An approval is looked at again when it is used, and counts until work begins.

use crate::harness::{Count, World, told, until};

/// Bob decides for the owners of web; nobody else does.
fn bob_leaves(t: &World) {
    t.change_people(|people| people.replace("[\"web-owners\"]", "[]"));
}

fn bob_comes_back(t: &World) {
    t.change_people(|people| people.replace("groups = []", "groups = [\"web-owners\"]"));
}

#[tokio::test]
async fn an_approval_counts_until_work_begins() {
    let t = World::with_rack().await;
    t.says(&t.alice, "/metal reboot web01 not-before=8h").await;
    t.reacts(&t.bob, 1, "+1", true).await;
    t.heard(1, "starts at").await;
    insta::assert_snapshot!(t.reacts(&t.bob, 1, "+1", false).await, @r"
    -- in the thread
    @bob took the decision on #1 back. It waits for approval again; nothing has been done to its hosts.
    ");
    insta::assert_snapshot!(told(&t.card(1).await), @r"
    -- in the channel
    #1 reboot · 1 host · awaiting approval
    web01
    bob took the approval back
    Asked by @alice · disruptive
    On each host:
    cut the power
    wait until it is off
    turn it on
    wait until it is on
    To start at [time] UTC, or when it is approved if that is later.
    Waits for approval until [time] UTC:
    web-owners (1 host): 0 of 1 approval
    Approve with the button, with a reaction, or with approve in the thread.
    [Approve] [Reject] [Cancel]
    ");
    // Its time comes, and nothing happens.
    t.db.start_comes(1).await;
    t.reacts(&t.bob, 1, "+1", true).await;
    // The start is announced once more, for the new approval.
    t.db.until_announced(1, "scheduled:1").await;
    insta::assert_snapshot!(t.replies(&t.bob, 1, "reject because of the release").await, @r"
    -- in the thread
    @bob rejected #1: of the release. Its hosts are free again; nothing was done to them.
    ");
    assert!(t.acts("web01").is_empty());
    t.finish().await;
}

#[tokio::test]
async fn what_has_begun_is_not_undone_by_an_approval_that_is_taken_back() {
    let t = World::with_rack().await;
    t.says(&t.alice, "/metal reboot web[01-02] wave=1 wave-pause=manual").await;
    t.reacts(&t.bob, 1, "+1", true).await;
    t.heard(1, "is paused").await;
    insta::assert_snapshot!(t.reacts(&t.bob, 1, "+1", false).await, @r"
    -- in the channel, only to them
    Nothing was done: #1 has begun, and no word on its approval changes that: say `stop` to end it.
    ");
    t.presses_in_thread(&t.alice, 1, "is paused", "Resume").await;
    t.ended(1).await;
    assert_eq!(t.acts("web02"), ["power 0", "power 1"]);
    t.finish().await;
}

#[tokio::test]
async fn a_paused_batch_whose_approval_was_taken_back_is_not_resumed() {
    let t = World::with_rack().await;
    // Its BMC is silent: a worker has the job for long, and nothing has begun.
    t.says(&t.alice, "/metal reboot web07").await;
    t.reacts(&t.bob, 1, "+1", true).await;
    t.db.until(Count::LiveLeases, 1).await;
    t.says(&t.alice, "/metal pause 1").await;
    t.reacts(&t.bob, 1, "+1", false).await;
    let said = t.says(&t.alice, "/metal resume 1").await;
    assert!(said.contains("the approval of #1 does not stand any more"), "{said}");
    assert_eq!(t.db.batch_state(1).await, "paused");
    let card = t.card_when(1, |card| card.button("Approve").is_some()).await;
    assert!(card.text.contains("0 of 1 approval"), "{}", card.text);
    t.says(&t.alice, "/metal cancel 1").await;
    t.finish().await;
}

#[tokio::test]
async fn an_approver_who_has_left_is_noticed_before_anything_is_done() {
    let t = World::with_rack().await;
    t.says(&t.alice, "/metal reboot web01 not-before=8h").await;
    t.replies(&t.bob, 1, "approve").await;
    t.heard(1, "starts at").await;
    bob_leaves(&t);
    t.db.start_comes(1).await;
    insta::assert_snapshot!(t.heard(1, "for approval again").await, @"@alice #1 waits for approval again: @bob approved and may not decide any more. Nothing has been done to its hosts.");
    let card = t.card_when(1, |card| card.text.contains("awaiting approval")).await;
    assert!(card.text.contains("0 of 1 approval"), "{}", card.text);
    assert!(t.acts("web01").is_empty());
    bob_comes_back(&t);
    t.replies(&t.bob, 1, "approve").await;
    t.db.start_comes(1).await;
    t.ended(1).await;
    assert_eq!(t.acts("web01"), ["power 0", "power 1"]);
    t.finish().await;
}

#[tokio::test]
async fn what_somebody_asked_for_who_has_left_is_not_started() {
    let t = World::with_rack().await;
    t.says(&t.carol, "/metal reboot web01 not-before=8h").await;
    t.replies(&t.bob, 1, "approve").await;
    t.heard(1, "starts at").await;
    t.says(&t.carol, "/metal reboot web02").await;
    t.card_when(2, |card| card.text.contains("awaiting approval")).await;
    t.change_people(|people| {
        people.replace("login = \"carol\"", "disabled = true\nlogin = \"carol\"")
    });
    t.db.start_comes(1).await;
    let waits = t.heard(1, "for approval again").await;
    assert!(waits.contains("asked for it and is not in the directory any more"), "{waits}");
    for batch in [1, 2] {
        let refused = t.replies(&t.bob, batch, "approve").await;
        assert!(
            refused.contains("is not in the directory any more, so that it is not"),
            "{refused}"
        );
    }
    // Who comes back is approved anew.
    t.change_people(|people| people.replace("disabled = true\n", ""));
    for batch in [1, 2] {
        t.replies(&t.bob, batch, "approve").await;
    }
    t.ended(2).await;
    t.db.start_comes(1).await;
    t.ended(1).await;
    assert_eq!(t.acts("web01"), ["power 0", "power 1"]);
    t.finish().await;
}

#[tokio::test]
async fn a_host_that_has_another_owner_needs_that_owners_approval() {
    let t = World::with_rack().await;
    t.says(&t.alice, "/metal reboot web[01-02] not-before=8h").await;
    t.replies(&t.bob, 1, "approve").await;
    t.heard(1, "starts at").await;
    t.change_hosts(|hosts| hosts.replace("web01,web-owners", "web01,db-owners"));
    until("the new inventory", async || {
        t.says(&t.dave, "/metal hosts @owner:db-owners").await.contains("web01")
    })
    .await;
    t.db.start_comes(1).await;
    insta::assert_snapshot!(t.heard(1, "for approval again").await, @"@alice #1 waits for approval again: web01 has another owner now. Nothing has been done to its hosts.");
    let card = t.card_when(1, |card| card.text.contains("awaiting approval")).await;
    let owners = card.text.lines().filter(|line| line.contains("-owners"));
    insta::assert_snapshot!(owners.collect::<Vec<_>>().join("\n"), @r"
    db-owners (1 host): 0 of 1 approval
    web-owners (1 host): 1 of 1 approval, by @bob
    ");
    assert!(t.acts("web02").is_empty());
    insta::assert_snapshot!(t.replies(&t.dave, 1, "approve").await, @r"
    -- in the thread
    @dave approved for db-owners. The approval is complete.
    ");
    t.db.start_comes(1).await;
    t.ended(1).await;
    assert_eq!(t.acts("web01"), ["power 0", "power 1"]);
    t.finish().await;
}

#[tokio::test]
async fn no_wave_begins_under_an_approval_that_does_not_stand() {
    let t = World::with_rack().await;
    t.says(&t.alice, "/metal reboot web[01-02] wave=1 wave-pause=1h").await;
    t.replies(&t.bob, 1, "approve").await;
    t.card_when(1, |card| card.text.contains("Waiting: wave 2 begins at")).await;
    bob_leaves(&t);
    t.db.start_comes(1).await;
    let notice = t.notice(1, "is paused").await;
    insta::assert_snapshot!(told(&notice), @r"
    -- in the thread
    #1 is paused, since its approval does not stand any more: @bob approved and may not decide any more. Hosts at work are finished, no other is started. /metal approve 1 goes on, /metal cancel 1 ends it.
    [Cancel]
    ");
    insta::assert_snapshot!(t.says(&t.alice, "/metal resume 1").await, @r"
    -- in the channel, only to them
    Nothing was done: the approval of #1 does not stand any more: it goes on when it is approved again.
    ");
    insta::assert_snapshot!(told(&t.card(1).await), @r"
    -- in the channel
    #1 reboot · 2 hosts · paused
    web[01-02]
    1 of 2 done · wave 2 of 2
    bob approved and may not decide any more
    Asked by @alice · disruptive
    Waits for approval:
    web-owners (2 hosts): 0 of 1 approval
    Approve with the button, with a reaction, or with approve in the thread.
    [Approve] [Cancel]
    ");
    assert!(t.acts("web02").is_empty());
    bob_comes_back(&t);
    insta::assert_snapshot!(t.presses(&t.bob, 1, "Approve").await, @r"
    -- in the thread
    @bob approved for web-owners. The approval is complete: #1 goes on.
    ");
    t.ended(1).await;
    assert_eq!(t.acts("web02"), ["power 0", "power 1"]);
    t.finish().await;
}
