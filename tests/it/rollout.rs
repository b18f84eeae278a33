//! The pace of a batch, as people see and steer it.

use metalbot::sim::rack::Fault;

use crate::harness::{World, told};

#[tokio::test]
async fn a_pause_is_told_with_buttons_that_are_good_for_that_pause() {
    let builder = World::builder().rack();
    let builder = builder.fault("web01", Fault::WrongPassword).fault("web02", Fault::WrongPassword);
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
    Nothing was done: only alice and members of web-owners may change this batch: ask one of them
    ");
    insta::assert_snapshot!(press(&t.alice).await, @r"
    -- in the thread
    @alice resumed #1.
    ");
    // web02 fails as well. Who presses the button of the first pause has not seen that.
    t.card_when(1, |card| card.text.contains("2 failed") && card.text.contains("paused")).await;
    insta::assert_snapshot!(press(&t.alice).await, @r"
    -- in the thread, only to them
    Nothing was done: #1 went on after that and was paused again: look at its card, then decide
    ");
    // A button is good in its own batch's thread alone.
    t.says(&t.carol, "/metal reboot db01").await;
    let elsewhere = t.card(2).await.id;
    insta::assert_snapshot!(t.result_of(&t.alice, t.alice.press(&elsewhere, "cancel 1")).await, @r"
    -- in the channel, only to them
    Nothing was done: that button is not valid here any more
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
