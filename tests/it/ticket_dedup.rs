//! One ticket for one cause, however often and wherever it is seen.

use std::time::Duration;

use metalbot_core::domain::triage::{Afterwards, TicketPolicy};
use metalbot_sim::jira::SimJiraSite;

use crate::harness::{Count, FailedHost, TicketWorld};

const SILENT: &str = "the BMC at 10.0.0.7 does not answer";

fn in_rack<'a>(name: &'a str) -> FailedHost<'a> {
    (name, "fra1", "r11", "c6")
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_replicas_and_a_hundred_failures_at_once_make_one_ticket() {
    let mut t = TicketWorld::start().await;
    for _ in 0..10 {
        t.run_relay();
    }
    let names: Vec<String> = (1..=100).map(|number| format!("web{number:03}")).collect();
    let all = names.iter().enumerate().map(|(number, name)| {
        let t = &t;
        async move {
            let error = format!("the BMC at 10.0.0.{number} does not answer");
            t.failed(&[in_rack(name)], "bmc_unreachable", &error).await;
        }
    });
    futures_util::future::join_all(all).await;
    t.written().await;
    let issues = t.jira.issues();
    assert_eq!(issues.len(), 1, "{issues:#?}");
    assert!(issues[0].summary.contains("100 hosts"), "{}", issues[0].summary);
    assert!(issues[0].summary.contains("web[001-100]"), "{}", issues[0].summary);
    let label = issues[0].labels.iter().find(|label| label.starts_with("metalbot-"));
    assert!(label.is_some(), "{:?}", issues[0].labels);
    // Each batch hears of it once.
    let told = t.told().await;
    let about: std::collections::BTreeSet<i64> =
        told.iter().map(|notice| notice["batch"].as_i64().unwrap()).collect();
    assert_eq!((told.len(), about.len()), (100, 100));
    t.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_join_a_ticket_by_what_they_share() {
    let mut t = TicketWorld::start().await;
    t.run_relay();
    t.failed(&[in_rack("web01"), in_rack("web02")], "bmc_unreachable", SILENT).await;
    t.written().await;
    // Another rack, the same model and datacenter, a moment later.
    t.failed(&[("web20", "fra1", "r12", "c6")], "bmc_unreachable", SILENT).await;
    t.written().await;
    // Nothing in common.
    t.failed(&[("db01", "ams1", "r21", "m6")], "bmc_unreachable", SILENT).await;
    // Another cause in the same rack.
    t.failed(&[in_rack("web03")], "bmc_credentials", "the BMC refused the password").await;
    t.written().await;
    let mut seen: Vec<String> = t.jira.issues().into_iter().map(|one| one.summary).collect();
    seen.sort();
    insta::assert_snapshot!(seen.join("\n"), @r"
    reboot failed on 1 host (bmc_credentials): web03 [batch #4]
    reboot failed on 1 host (bmc_unreachable): db01 [batch #3]
    reboot failed on 3 hosts (bmc_unreachable): web[01-02,20] [batch #2, #1]
    ");
    let first = t.jira.issues().remove(0);
    assert!(first.description.contains("In common: sku c6"), "{}", first.description);
    assert!(first.description.contains("PSU"), "{}", first.description);
    assert_eq!(first.comments.len(), 1, "{:?}", first.comments);
    assert!(first.comments[0].contains("web20"), "{:?}", first.comments);
    let again = t.heard("ticket_updated").await;
    assert_eq!((again["batch"].as_i64(), again["update"].as_str()), (Some(2), Some("join")));
    t.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_far_apart_in_time_share_a_ticket_only_for_what_it_is_for() {
    let mut t = TicketWorld::start().await;
    t.policy = TicketPolicy { group_window: Duration::ZERO, ..t.policy };
    t.run_relay();
    t.failed(&[in_rack("web01"), in_rack("web02")], "bmc_unreachable", SILENT).await;
    t.written().await;
    t.failed(&[in_rack("web03")], "bmc_unreachable", SILENT).await;
    t.failed(&[("web20", "fra1", "r12", "c6")], "bmc_unreachable", SILENT).await;
    t.written().await;
    let seen: Vec<String> = t.jira.issues().into_iter().map(|one| one.summary).collect();
    insta::assert_snapshot!(seen.join("\n"), @r"
    reboot failed on 3 hosts (bmc_unreachable): web[01-03] [batch #2, #1]
    reboot failed on 1 host (bmc_unreachable): web20 [batch #3]
    ");
    t.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comment_that_says_nothing_new_is_not_made() {
    let mut t = TicketWorld::start().await;
    t.run_relay();
    for _ in 0..4 {
        t.failed(&[in_rack("web01")], "bmc_unreachable", SILENT).await;
        t.written().await;
    }
    t.failed(&[in_rack("web02")], "bmc_unreachable", SILENT).await;
    t.written().await;
    let issues = t.jira.issues();
    assert_eq!(issues.len(), 1);
    let comments = &issues[0].comments;
    assert_eq!(comments.len(), 2, "{comments:#?}");
    assert!(comments[0].contains("web01") && comments[1].contains("web02"), "{comments:#?}");
    // What is not said is in the text.
    assert!(issues[0].summary.ends_with("[batch #5, #4, #3, #2, #1]"), "{}", issues[0].summary);
    t.finish().await;
}

/// Fails, ends the ticket by the transition, and fails again.
async fn again_after(by: &str, change: impl FnOnce(&mut TicketPolicy)) -> (TicketWorld, String) {
    let mut t = TicketWorld::start().await;
    change(&mut t.policy);
    t.run_relay();
    t.run_sync(|_| true);
    t.failed(&[in_rack("web01")], "bmc_unreachable", SILENT).await;
    t.written().await;
    let key = t.jira.issues()[0].key.clone();
    assert!(t.jira.transition(&key, by));
    t.db.until(Count::TicketsClosed, 1).await;
    t.failed(&[in_rack("web01")], "bmc_unreachable", SILENT).await;
    t.written().await;
    let act = t.heard("ticket_updated").await["update"].as_str().unwrap_or_default().to_owned();
    (t, act)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_ticket_is_opened_again_within_its_window() {
    let (t, act) = again_after("Resolve", |_| {}).await;
    assert_eq!(act, "reopen");
    let issues = t.jira.issues();
    assert_eq!((issues.len(), &issues[0].status[..]), (1, "Open"));
    assert_eq!(issues[0].comments.len(), 1, "{:?}", issues[0].comments);
    t.db.until(Count::TicketsOpen, 1).await;
    t.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_window_a_comment_is_enough_where_the_policy_says_so() {
    let (t, act) = again_after("Resolve", |policy| {
        policy.reopen_within = Duration::ZERO;
        policy.after_reopen = Afterwards::Comment;
    })
    .await;
    assert_eq!(act, "comment");
    let issues = t.jira.issues();
    assert_eq!((issues.len(), &issues[0].status[..]), (1, "Done"));
    assert_eq!(issues[0].comments.len(), 1);
    t.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_nobody_will_mend_is_left_alone() {
    let (t, act) = again_after("Reject", |_| {}).await;
    assert_eq!(act, "nothing");
    let issues = t.jira.issues();
    assert_eq!((issues.len(), &issues[0].status[..]), (1, "Done"));
    assert_eq!(issues[0].comments, [""; 0]);
    t.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_window_there_is_a_new_ticket() {
    let mut t = TicketWorld::start().await;
    t.policy = TicketPolicy { reopen_within: Duration::ZERO, ..t.policy };
    t.run_relay();
    t.run_sync(|_| true);
    t.failed(&[in_rack("web01")], "bmc_unreachable", SILENT).await;
    t.written().await;
    assert!(t.jira.transition("OPS-1", "Resolve"));
    t.db.until(Count::TicketsClosed, 1).await;
    t.failed(&[in_rack("web01")], "bmc_unreachable", SILENT).await;
    t.written().await;
    assert_eq!(t.jira.issues().len(), 2);
    t.finish().await;
}

/// Cloud's search does not see a new ticket for a while: exactly then the answer is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_and_a_late_search_still_make_one_ticket() {
    let mut t = TicketWorld::cloud().await;
    t.policy = TicketPolicy { create_confirm_timeout: Duration::from_secs(20), ..t.policy };
    t.jira.set_search_lag(Duration::from_secs(4));
    t.jira.lose_next_reply(1);
    t.run_relay();
    t.failed(&[in_rack("web01")], "bmc_unreachable", SILENT).await;
    t.db.until(Count::TicketsInDoubt, 1).await;
    t.written().await;
    assert_eq!(t.jira.issues().len(), 1);
    assert!(t.jira.requests()["search"] > 1, "{:?}", t.jira.requests());
    let text = &t.jira.issues()[0].description;
    assert!(text.contains("mention"), "{text}");
    t.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_without_an_account_are_named_and_counted() {
    let mut site = SimJiraSite::with_token("a-token");
    site.people = Some(vec!["metalbot".into(), "bob".into()]);
    let mut t = TicketWorld::with(site, &[]).await;
    t.run_relay();
    t.batch("stranger", &[in_rack("web01")], "failed", Some(("power_state", "it stays on"))).await;
    t.batch("alice", &[in_rack("web02")], "failed", Some(("power_state", "it stays on"))).await;
    t.batch("bob", &[in_rack("web03")], "failed", Some(("power_state", "it stays on"))).await;
    t.written().await;
    let ticket = t.jira.issues().remove(0);
    for (named, there) in
        [("STRANGER", true), ("ALICE", true), ("[~bob]", true), ("[~alice]", false)]
    {
        assert_eq!(ticket.description.contains(named), there, "{named}: {}", ticket.description);
    }
    assert_eq!(ticket.watchers.iter().collect::<Vec<_>>(), ["bob"]);
    let counts = metalbot_store::ticket::counts(&t.db.pool).await.unwrap();
    assert_eq!((counts.open, counts.waiting, counts.unknown_accounts), (1, 0, 2));
    t.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_will_not_be_mended_speaks_of_its_own_hosts_only() {
    let mut t = TicketWorld::start().await;
    t.run_relay();
    t.run_sync(|_| true);
    t.failed(&[in_rack("web01"), in_rack("web02")], "bmc_unreachable", SILENT).await;
    t.written().await;
    assert!(t.jira.transition("OPS-1", "Reject"));
    t.db.until(Count::HostsWontFix, 2).await;
    // One that will not be fixed, and its neighbour in the rack.
    t.failed(&[in_rack("web01"), in_rack("web03")], "bmc_unreachable", SILENT).await;
    t.written().await;
    let seen: Vec<String> = t.jira.issues().into_iter().map(|one| one.summary).collect();
    insta::assert_snapshot!(seen.join("\n"), @r"
    reboot failed on 2 hosts (bmc_unreachable): web[01-02] [batch #1]
    reboot failed on 1 host (bmc_unreachable): web03 [batch #2]
    ");
    t.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_joins_what_will_not_be_mended_is_marked() {
    let mut t = TicketWorld::start().await;
    t.run_relay();
    t.run_sync(|_| true);
    t.failed(&[in_rack("web01")], "bmc_unreachable", SILENT).await;
    t.written().await;
    assert!(t.jira.transition("OPS-1", "Reject"));
    t.db.until(Count::HostsWontFix, 1).await;
    t.succeeded(&[in_rack("web01")]).await;
    t.db.until(Count::HostsWontFix, 0).await;
    t.failed(&[in_rack("web01")], "bmc_unreachable", SILENT).await;
    t.db.until(Count::HostsWontFix, 1).await;
    assert_eq!(t.jira.issues().len(), 1);
    t.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_after_the_ticket_was_closed_opens_it_although_nobody_had_looked() {
    let mut t = TicketWorld::start().await;
    t.run_relay();
    t.failed(&[in_rack("web01")], "bmc_unreachable", SILENT).await;
    t.written().await;
    assert!(t.jira.transition("OPS-1", "Resolve"));
    t.failed(&[in_rack("web02")], "bmc_unreachable", SILENT).await;
    t.written().await;
    assert_eq!(t.heard("ticket_updated").await["update"], "join", "we think it is open");
    t.run_sync(|_| true);
    t.db.until(Count::TicketsSeen, 1).await;
    t.written().await;
    assert_eq!(t.jira.issues()[0].status, "Open");
    let kinds: Vec<_> = t.told().await.iter().map(|told| told["kind"].clone()).collect();
    assert!(!kinds.contains(&"ticket_resolved".into()), "{kinds:?}");
    t.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_concerned_is_tagged_and_watches() {
    let mut t = TicketWorld::start().await;
    for number in 1..=25 {
        let failure = Some(("bmc_unreachable", SILENT));
        t.batch(&format!("user{number:02}"), &[in_rack("web01")], "failed", failure).await;
    }
    t.run_relay();
    t.written().await;
    let ticket = t.jira.issues().remove(0);
    let body = &ticket.description;
    assert!(body.contains("and 5 more before, which also concern"), "{body}");
    for number in 1..=25 {
        assert!(body.contains(&format!("[~user{number:02}]")), "{number}: {body}");
    }
    assert_eq!(ticket.watchers.len(), 25, "{:?}", ticket.watchers);
    t.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_join_by_what_their_bmcs_are_where_that_is_not_usual() {
    let mut t = TicketWorld::start().await;
    let spots = [("web01", "fra1", "r11", "c6"), ("db01", "ams1", "r21", "m6")];
    let usual = [("web02", "fra1", "r12", "c7"), ("db02", "ams2", "r31", "m7")];
    let all = ["web01", "db01", "web02", "db02", "db03"];
    for (number, host) in all.iter().enumerate() {
        let firmware = if number < 2 { "Dell 0x0100 2.10" } else { "Dell 0x0100 2.86" };
        t.db.bmc_has_firmware(host, firmware).await;
    }
    t.run_relay();
    for spot in spots {
        t.failed(&[spot], "bmc_unreachable", SILENT).await;
        t.written().await;
    }
    for spot in usual {
        t.failed(&[spot], "bmc_unreachable", SILENT).await;
        t.written().await;
    }
    let seen: Vec<String> = t.jira.issues().into_iter().map(|one| one.summary).collect();
    insta::assert_snapshot!(seen.join("\n"), @r"
    reboot failed on 2 hosts (bmc_unreachable): db01,web01 [batch #2, #1]
    reboot failed on 1 host (bmc_unreachable): web02 [batch #3]
    reboot failed on 1 host (bmc_unreachable): db02 [batch #4]
    ");
    let text = t.jira.issues().remove(0).description;
    assert!(text.contains("In common: BMC firmware Dell 0x0100 2.10"), "{text}");
    // The ticket stays about it when more of the fleet gets it.
    for host in all {
        t.db.bmc_has_firmware(host, "Dell 0x0100 2.10").await;
    }
    t.failed(&[("db03", "muc1", "r41", "m8")], "bmc_unreachable", SILENT).await;
    t.written().await;
    assert_eq!(t.jira.issues().len(), 3);
    assert!(t.jira.issues()[0].summary.contains("db[01,03]"), "{:?}", t.jira.issues()[0].summary);
    t.finish().await;
}
