//! What people do to a ticket in Jira comes back to those who wait for it.

use metalbot_sim::rack::BmcFault;

use crate::harness::World;
use crate::harness::{Count, FailedHost, TicketWorld};

const SILENT: &str = "the BMC at 10.0.0.7 does not answer";
const WEB: [FailedHost<'static>; 2] =
    [("web01", "fra1", "r11", "c6"), ("web02", "fra1", "r11", "c6")];

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_is_done_has_its_hosts_looked_at() {
    let mut t = TicketWorld::start().await;
    t.run_relay();
    t.run_sync(|host| host.as_str() == "web01");
    let batch = t.failed(&WEB, "bmc_unreachable", SILENT).await;
    t.written().await;
    assert!(t.jira.transition("OPS-1", "Start Progress"));
    t.jira.change_ticket("OPS-1", |ticket| ticket.assignee = Some("erin".into()));
    t.db.until(Count::TicketsSeenInProgress, 1).await;
    assert!(t.jira.transition("OPS-1", "Resolve"));
    let done = t.heard("ticket_resolved").await;
    assert_eq!(done["batch"], batch.0);
    assert_eq!(done["answering"], serde_json::json!(["web01"]));
    assert_eq!(done["silent"], serde_json::json!(["web02"]));
    assert_eq!(done["problem"], "web02 does not answer");
    assert_eq!(done["retry"], true);
    t.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_whose_hosts_succeed_gets_one_comment_and_is_closed_by_policy() {
    let mut t = TicketWorld::start().await;
    t.policy.close_by = vec!["No such transition".into(), "resolve".into()];
    t.run_relay();
    t.run_sync(|_| true);
    t.failed(&WEB, "bmc_unreachable", SILENT).await;
    t.written().await;
    t.succeeded(&WEB[..1]).await;
    t.db.until(Count::HostsOfTicketsMended, 1).await;
    t.written().await;
    let half = t.jira.issues().remove(0);
    assert_eq!(half.comments, [""; 0], "one host is still broken");
    assert!(half.description.contains("Have succeeded since: web01"), "{}", half.description);
    t.succeeded(&WEB[1..]).await;
    t.db.until(Count::TicketsDone, 1).await;
    t.written().await;
    let ticket = t.jira.issues().remove(0);
    assert_eq!((&ticket.status[..], ticket.comments.len()), ("Done", 1), "{ticket:?}");
    assert!(ticket.comments[0].contains("succeeded"), "{:?}", ticket.comments);
    let kinds: Vec<_> = t.told().await.iter().map(|told| told["kind"].clone()).collect();
    assert_eq!(kinds, ["ticket_filed"], "nobody waits for what they know");
    t.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_ticket_is_followed_by_a_new_one() {
    let mut t = TicketWorld::start().await;
    t.run_relay();
    t.run_sync(|_| true);
    t.failed(&WEB, "bmc_unreachable", SILENT).await;
    t.written().await;
    t.db.until(Count::TicketsSeenOpen, 1).await;
    assert!(t.jira.delete("OPS-1"));
    t.db.until(Count::TicketsGone, 1).await;
    t.failed(&WEB, "bmc_unreachable", SILENT).await;
    t.written().await;
    let keys: Vec<String> = t.jira.issues().into_iter().map(|one| one.key).collect();
    assert_eq!(keys, ["OPS-2"]);
    t.finish().await;
}

#[tokio::test]
async fn hosts_that_nobody_will_mend_are_marked_until_they_succeed() {
    let t = World::with_rack().await;
    t.says(&t.alice, "/metal reboot web09").await;
    t.replies(&t.bob, 1, "approve").await;
    t.ended(1).await;
    t.tickets(1).await;
    t.heard(1, "was filed for").await;
    t.card_when(1, |card| card.text.contains("OPS-1 (Open)")).await;
    assert!(t.jira.transition("OPS-1", "Reject"));
    let told = t.heard(1, "nobody will fix").await;
    insta::assert_snapshot!(told, @"@alice OPS-1 was closed as Won't Fix: nobody will fix web09. The mark shows on later batches until the host succeeds again.");
    t.card_when(1, |card| card.text.contains("OPS-1 (Done")).await;
    let status = t.says(&t.alice, "/metal status host web09").await;
    assert!(status.contains("will not be fixed, says OPS-1 (Won't Fix)"), "{status}");
    let card = t.says(&t.carol, "/metal reboot web[08-09]").await;
    assert!(card.contains("Careful: web09 will not be fixed, says OPS-1 (Won't Fix)"), "{card}");
    t.finish().await;
}

#[tokio::test]
async fn the_thread_offers_to_retry_what_was_mended() {
    let t = World::with_rack().await;
    t.says(&t.alice, "/metal reboot web07").await;
    t.replies(&t.bob, 1, "approve").await;
    t.ended(1).await;
    t.tickets(1).await;
    t.heard(1, "was filed for").await;
    t.card_when(1, |card| card.text.contains("OPS-1 (Open)")).await;
    assert!(t.jira.transition("OPS-1", "Resolve"));
    let told = t.heard(1, "is done").await;
    assert!(told.contains("web07 is not well yet: the BMC at"), "{told}");
    t.finish().await;
}

#[tokio::test]
async fn whoever_waits_retries_with_the_button_of_the_notice() {
    let t = World::builder().rack().fault("web03", BmcFault::IgnoresSoftOff).start().await;
    t.says(&t.alice, "/metal power-off web03 wait=10s").await;
    t.replies(&t.bob, 1, "approve").await;
    t.ended(1).await;
    t.heard(1, "was filed for").await;
    t.card_when(1, |card| card.text.contains("OPS-1 (Open)")).await;
    assert!(t.jira.transition("OPS-1", "Resolve"));
    insta::assert_snapshot!(t.heard(1, "is done").await, @"@alice OPS-1 is done. The BMC of web03 answers: press Retry failed, or type /metal retry 1.");
    insta::assert_snapshot!(t.presses_in_thread(&t.alice, 1, "is done", "Retry failed").await, @r"
    -- in the channel
    #2 power-off · 1 host · awaiting approval
    web03
    Reason: retry of #1
    Asked by @alice · disruptive · wait=10s · retry of #1
    On each host:
    ask it to shut down
    wait until it has shut down
    Waits for approval until [time] UTC:
    web-owners (1 host): 0 of 1 approval
    Approve with the button, with a reaction, or with approve in the thread.
    [Approve] [Reject] [Cancel]
    ");
    t.finish().await;
}

#[tokio::test]
async fn a_card_says_that_a_ticket_waits_for_jira() {
    let t = World::with_rack().await;
    t.jira.set_down(true);
    t.says(&t.alice, "/metal reboot web09").await;
    t.replies(&t.bob, 1, "approve").await;
    t.ended(1).await;
    t.card_when(1, |card| card.text.contains("Tickets: one that waits for Jira")).await;
    t.jira.set_down(false);
    t.card_when(1, |card| card.text.contains("Tickets: OPS-1")).await;
    t.finish().await;
}
