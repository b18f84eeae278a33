//! The background tasks of a site, in one table. Each runs in one process at a time, among those
//! that have its role; see [`crate::runtime::task`]. Metrics, readiness and the README's table are
//! made of the same rows.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::audit::AuditSealer;
use super::roles::Role;
use super::site::SiteParts;
use super::tickets::TicketTasks;
use super::{notices, slack, tickets, workers};
use crate::app::{approver_reminders, decide};
use crate::chat::slack::home::AppHomes;
use crate::executor::bmc_inventory::{self, Survey};
use crate::executor::checker::{self, Checker};
use crate::executor::placement;
use crate::executor::rollout::{self, Conductor};
use crate::notify::relay::{self as notice_relay, NoticeRelay};
use crate::runtime::task::TaskLease;
use crate::ticket::assign::{self, TicketAssigner};
use crate::ticket::poll::{self, TicketPoller};
use crate::ticket::relay::{self as ticket_relay, TicketRelay};
use crate::ticket::resolve::{self, TicketResolver};
use crate::ticket::verify::{self, HostVerifier};
use metalbot_store::notifier::Topic;
use metalbot_store::{dedup_key, retention, task_lease};

/// Period of tasks that cost one small query when there is nothing to do.
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
/// Time in which repeats of a delivery are recognised; longer than any platform repeats one.
const DEDUP: Duration = HOUR;

/// Tasks that ask BMCs: each process has its rounds for the datacenters that it reaches.
const ASK_BMCS: [&str; 3] = ["preflight", "bmc_inventory", "ticket_verify"];

/// One round; returns whether another one should follow at once.
type Round = Box<dyn FnMut(TaskLease) -> BoxFuture<'static, anyhow::Result<bool>> + Send>;

/// A row of the table.
pub struct Task {
    /// Unique; with the platform or site behind a colon where there is one task for each.
    pub name: String,
    /// Longest time between two rounds.
    pub period: Duration,
    /// Notification that wakes it sooner.
    pub topic: Option<Topic>,
    /// Processes without it do not run the task.
    pub role: Role,
    /// It runs in one process at a time of those with this lease: its name, unless it asks BMCs that
    /// not all processes reach.
    pub lease: String,
    pub run_once: Round,
}

/// All tasks of a site, whatever the roles of this process.
pub fn tasks(site: &SiteParts) -> anyhow::Result<Vec<Task>> {
    use Role::{Relay, Worker};
    use Topic::{Outbox, Work};
    let (pool, app) = (&site.pool, (site.pool.clone(), site.app.clone()));
    let keep = site.config.database.retention;
    let (checker, conductor) = (workers::checker(site), workers::conductor(site));
    let sealer = AuditSealer::new(&site.config, pool.clone())?;
    #[rustfmt::skip]
    let mut table = vec![
        task("preflight", checker::PERIOD, Some(Work), Worker, leased(&checker, Checker::run_once)),
        task("rollout", rollout::PERIOD, Some(Work), Worker,
            round(&conductor, Conductor::run_once)),
        task("failure_notices", SECOND, None, Worker,
            round(pool, |pool| async move { rollout::tell_failures(&pool).await })),
        task("approver_reminders", SECOND, None, Relay, round(&app, |(pool, app)| async move {
            Ok(approver_reminders::remind_approvers(&pool, &app).await? > 0)
        })),
        task("approval_expiry", SECOND, None, Relay,
            round(pool, |pool| async move { Ok(decide::expire_overdue(&pool).await? > 0) })),
        task("placement", SECOND, None, Relay, round(pool, |pool| async move {
            placement::say_unreached(&pool).await?;
            Ok(false)
        })),
        task("audit_seal", SECOND, None, Relay, round(&sealer, AuditSealer::run_once)),
        task("dedup_retention", DEDUP, None, Relay,
            round(pool, |pool| async move { Ok(dedup_key::forget(&pool, DEDUP).await? > 0) })),
        task("retention", HOUR, None, Relay,
            round(pool, move |pool| async move { Ok(retention::forget(&pool, keep).await? > 0) })),
    ];
    if let Some(survey) = workers::survey(site) {
        let run = round(&survey, Survey::run_once);
        table.push(task("bmc_inventory", bmc_inventory::PERIOD, None, Worker, run));
    }
    if let Some(homes) = slack::homes(site) {
        table.push(task("app_homes", SECOND, None, Relay, round(&homes, AppHomes::run_once)));
    }
    for relay in notices::relays(site) {
        let name = format!("notices:{}", relay.platform);
        let run = round(&relay, NoticeRelay::run_once);
        table.push(task(name, notice_relay::PERIOD, Some(Outbox), Relay, run));
    }
    if let Some(tickets) = tickets::ticket_tasks(site)? {
        table.extend(ticket_rows(tickets));
    }
    let reachable = site.config.executor.reachable();
    for task in table.iter_mut().filter(|task| ASK_BMCS.contains(&&*task.name)) {
        task.lease = task_lease::lease_name(&task.name, &reachable);
    }
    Ok(table)
}

/// The tasks around Jira: some for all sites, and two for each.
fn ticket_rows(parts: TicketTasks) -> Vec<Task> {
    use Role::{Relay, Worker};
    use Topic::Outbox;
    let TicketTasks { assigner, verifier, resolver, sites } = parts;
    let assign = round(&assigner, TicketAssigner::run_once);
    let mut rows = vec![
        task("ticket_assign", assign::PERIOD, Some(Outbox), Relay, assign),
        task(
            "ticket_verify",
            verify::PERIOD,
            None,
            Worker,
            leased(&verifier, HostVerifier::run_once),
        ),
        task(
            "ticket_resolve",
            resolve::PERIOD,
            None,
            Relay,
            round(&resolver, TicketResolver::run_once),
        ),
    ];
    for (relay, poller) in sites {
        let (send, read) = (
            format!("ticket_relay:{}", relay.site.name()),
            format!("ticket_poll:{}", relay.site.name()),
        );
        let run = leased(&relay, TicketRelay::run_once);
        rows.push(task(send, ticket_relay::PERIOD, Some(Outbox), Relay, run));
        rows.push(task(read, poll::PERIOD, None, Relay, leased(&poller, TicketPoller::run_once)));
    }
    rows
}

fn task(
    name: impl Into<String>,
    period: Duration,
    topic: Option<Topic>,
    role: Role,
    run_once: Round,
) -> Task {
    let name = name.into();
    Task { lease: name.clone(), name, period, topic, role, run_once }
}

/// Rounds that need no lease: what they do may be done by two processes at a time.
fn round<S, F>(parts: &S, run: impl Fn(S) -> F + Send + 'static) -> Round
where
    S: Clone + Send + 'static,
    F: Future<Output = anyhow::Result<bool>> + Send + 'static,
{
    let parts = parts.clone();
    Box::new(move |_| run(parts.clone()).boxed())
}

/// Rounds that look at their lease before what only one process may do.
fn leased<S, F>(parts: &S, run: impl Fn(S, TaskLease) -> F + Send + 'static) -> Round
where
    S: Clone + Send + 'static,
    F: Future<Output = anyhow::Result<bool>> + Send + 'static,
{
    let parts = parts.clone();
    Box::new(move |lease| run(parts.clone(), lease).boxed())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;
    use crate::config::Config;

    const README: &str = include_str!("../../README.md");
    /// With everything that brings tasks of its own.
    const TOML: &str = r#"
        directory.file = "people.toml"
        inventory.file = "hosts.csv"
        [slack]
        bot_token = "xoxb-1"
        app_token = "xapp-1"
        [jira]
        url = "http://127.0.0.1:9"
        project = "OPS"
        token = "t"
        [jira.site.hardware]
        url = "http://127.0.0.1:9"
        token = "t"
    "#;

    fn all() -> Vec<Task> {
        crate::use_ring();
        let folder = tempfile::tempdir().unwrap();
        let hosts = "name,owner,datacenter,rack,sku,bmc,credentials\n";
        fs::write(folder.path().join("hosts.csv"), hosts).unwrap();
        fs::write(folder.path().join("people.toml"), "").unwrap();
        let config = Config::parse(TOML, &folder.path().join("metalbot.toml")).unwrap();
        let role = metalbot_store::PoolRole::Maintenance;
        let pool = {
            let address = metalbot_store::DatabaseAddress::read("postgres://127.0.0.1:9/none");
            metalbot_store::connect_lazy(&address.unwrap(), 1, role)
        };
        tasks(&SiteParts::new(&config, pool).unwrap()).unwrap()
    }

    /// A row as the README writes it, up to what the task does.
    fn documented(task: &Task) -> String {
        let name = match task.name.split_once(':') {
            Some(("notices", _)) => "notices:PLATFORM".to_owned(),
            Some((name, _)) => format!("{name}:SITE"),
            None => task.name.clone(),
        };
        let period = humantime::format_duration(task.period);
        let topic = task.topic.map_or("", Topic::as_str);
        format!("| `{name}` | {period} | {topic} | {} | ", task.role.as_str())
    }

    #[tokio::test]
    async fn every_task_is_in_the_readme_and_nothing_else_is() {
        let table = README.split_once("| Task | ").expect("the README lists the tasks").1;
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        let rows: Vec<&str> = rows.collect();
        let tasks: BTreeSet<String> = all().iter().map(documented).collect();
        for task in &tasks {
            assert!(rows.iter().any(|row| row.starts_with(task)), "the README lacks {task}");
        }
        assert_eq!(rows.len(), tasks.len(), "{rows:#?}");
    }

    #[tokio::test]
    async fn names_are_unique_and_there_is_one_for_each_platform_and_site() {
        let names: Vec<String> = all().into_iter().map(|task| task.name).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
        for name in ASK_BMCS {
            assert!(names.iter().any(|one| one == name), "{name} in {names:?}");
        }
        for name in
            ["notices:slack", "notices:console", "ticket_relay:default", "ticket_poll:hardware"]
        {
            assert!(names.iter().any(|one| one == name), "{name} in {names:?}");
        }
    }
}
