//! Where tickets go, what Jira does not take of them, and what `metalbot operator tickets` says.

use metalbot::ticket::explain::{Explained, ExplainedTicket, explain};
use metalbot_core::domain::triage::TicketUpdate;
use metalbot_sim::jira::SimJiraSite;
use metalbot_store::ticket;

use crate::harness::{Count, TicketWorld};

const HARDWARE: &str = r#"
name = "hardware"
kind = "bmc_*"
datacenter = "fra*"
project = "HW"
issue_type = "Bug"
components = ["Servers"]
labels = ["fra"]
priority = "High"
fields = { customfield_10010 = "x" }
"#;

async fn explained(t: &TicketWorld, batch: metalbot_core::domain::ids::BatchId) -> Vec<Explained> {
    let mut conn = t.db.pool.acquire().await.unwrap();
    explain(&mut conn, &t.routes, &t.policy, batch).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_takes_its_hosts_and_the_default_route_takes_the_rest() {
    let mut t = TicketWorld::with(SimJiraSite::with_token("a-token"), &[HARDWARE]).await;
    let hosts = [
        ("web01", "fra1", "r11", "c6"),
        ("web02", "fra1", "r11", "c6"),
        ("db01", "ams1", "r2", "m6"),
    ];
    let batch = t.failed(&hosts, "bmc_busy", "the BMC of HOST is busy").await;
    // Before anything was filed, and without asking Jira.
    t.jira.set_down(true);
    let would = explained(&t, batch).await;
    assert_eq!(would.len(), 2, "{would:#?}");
    assert_eq!((&would[0].rule[..], &would[1].rule[..]), ("default route", "hardware"));
    assert_eq!(would[1].because, ["kind = bmc_busy", "datacenter = fra1"]);
    assert_eq!(would[1].hosts.len(), 2);
    assert_eq!(
        would[1].ticket,
        ExplainedTicket::Would { act: TicketUpdate::New, key: None, url: None }
    );
    t.jira.set_down(false);
    t.run_relay();
    t.written().await;
    let issues = t.jira.issues();
    let hw = issues.iter().find(|issue| issue.key == "HW-1").expect("one of the rule's");
    assert_eq!((&hw.issue_type[..], hw.priority.as_deref()), ("Bug", Some("High")));
    assert_eq!(hw.components, ["Servers"]);
    assert!(hw.labels.contains(&"fra".to_owned()) && hw.labels.contains(&"metalbot".to_owned()));
    assert_eq!(hw.fields["customfield_10010"], "x");
    let ops = issues.iter().find(|issue| issue.key == "OPS-1").expect("one of the rest");
    assert!(ops.summary.contains("db01"), "{}", ops.summary);
    let is = explained(&t, batch).await;
    let key = |one: &Explained| match &one.ticket {
        ExplainedTicket::Placed { state, key, .. } => {
            format!("{state} {}", key.as_deref().unwrap_or("-"))
        }
        would => format!("{would:?}"),
    };
    assert_eq!(is.iter().map(key).collect::<Vec<_>>(), ["open OPS-1", "open HW-1"]);
    t.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_jira_refuses_is_left_out_and_said() {
    let mut site = SimJiraSite::with_token("a-token");
    site.priorities = vec!["P1".into()];
    let mut t = TicketWorld::with(site, &[HARDWARE]).await;
    t.run_relay();
    t.failed(&[("web01", "fra1", "r11", "c6")], "bmc_busy", "busy").await;
    t.written().await;
    let issue = t.jira.issues().remove(0);
    assert_eq!((&issue.key[..], issue.priority.as_deref()), ("HW-1", None));
    assert_eq!(issue.components, ["Servers"], "what Jira takes stays");
    assert!(issue.description.contains("What Jira did not take"), "{}", issue.description);
    assert!(issue.description.to_lowercase().contains("priority"), "{}", issue.description);
    let trouble = t.heard("ticket_blocked").await;
    assert_eq!(trouble["key"], "HW-1");
    assert!(trouble["problem"].as_str().unwrap().contains("priority"), "{trouble}");
    let listed = ticket::list(&mut t.db.pool.acquire().await.unwrap(), false, 10).await.unwrap();
    assert!(listed[0].rejected_fields.as_ref().unwrap().contains("priority"), "{listed:?}");
    t.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_that_wants_more_than_we_know_is_not_the_end() {
    let mut site = SimJiraSite::with_token("a-token");
    site.required = vec![("HW".into(), "customfield_10099".into())];
    let mut t = TicketWorld::with(site, &[HARDWARE]).await;
    t.run_relay();
    t.failed(&[("web01", "fra1", "r11", "c6")], "bmc_busy", "busy").await;
    t.written().await;
    let issues = t.jira.issues();
    assert_eq!((issues.len(), &issues[0].key[..]), (1, "OPS-1"));
    assert!(issues[0].description.contains("customfield"), "{}", issues[0].description);
    t.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_ticket_is_listed_with_its_reason_told_once_and_filed_when_it_can_be() {
    let mut site = SimJiraSite::with_token("a-token");
    site.projects = vec!["ELSE".into()];
    let mut t = TicketWorld::with(site, &[]).await;
    t.run_relay();
    t.failed(&[("web01", "fra1", "r11", "c6")], "bmc_busy", "busy").await;
    t.db.until(Count::TicketsRefused, 1).await;
    let listed = ticket::list(&mut t.db.pool.acquire().await.unwrap(), false, 10).await.unwrap();
    assert_eq!(listed[0].state, "refused");
    assert!(listed[0].reason.as_ref().unwrap().contains("project"), "{listed:?}");
    assert_eq!(t.heard("ticket_blocked").await["key"], serde_json::Value::Null);
    // Others are not held up, and the next failure tries again.
    t.jira.change_site(|site| site.projects.push("OPS".into()));
    t.failed(&[("web01", "fra1", "r11", "c6")], "bmc_busy", "busy").await;
    t.db.until(Count::TicketsFiled, 1).await;
    t.written().await;
    assert_eq!(t.jira.issues().len(), 1);
    let told = t.told().await;
    assert_eq!(told.iter().filter(|notice| notice["kind"] == "ticket_blocked").count(), 1);
    t.finish().await;
}
