//! The ticket tasks on a database of their own, with a simulated Jira and no machines: tests write
//! failed batches into the tables and see what Jira gets.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use metalbot::inventory::Inventory;
use metalbot::runtime::hot_reload::HotReload;
use metalbot::runtime::task::{TaskLease, TaskRunner, run_task};
use metalbot::ticket::assign::TicketAssigner;
use metalbot::ticket::poll::TicketPoller;
use metalbot::ticket::relay::TicketRelay;
use metalbot::ticket::render::TicketTemplates;
use metalbot::ticket::resolve::TicketResolver;
use metalbot::ticket::verify::{CheckHost, HostVerifier};
use metalbot_core::domain::error_kind::{ErrorKind, HostError};
use metalbot_core::domain::host::HostName;
use metalbot_core::domain::ids::BatchId;
use metalbot_core::domain::people::People;
use metalbot_core::domain::placement::ReachableDatacenters;
use metalbot_core::domain::principal::Principal;
use metalbot_core::domain::rollout::Rollout;
use metalbot_core::domain::triage::{RouteRule, Routes, TicketPolicy, TicketTarget};
use metalbot_core::domain::workflow::{
    PLAN_VERSION, Plan, PlannedStep, PowerIs, PowerTo, Risk, StepAction,
};
use metalbot_jira::{Auth, Dialect, Site, SiteSettings};
use metalbot_sim::jira::{SimDialect, SimJira, SimJiraSite};
use metalbot_store::outbox;
use metalbot_store::relay_scope::RelayScope;
use secrecy::SecretString;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::database::{Count, Database};
use super::wait::{PATIENCE, until_some};

const TOKEN: &str = "a-token";
const USER: &str = "metalbot@example.org";

/// A host as a batch names it: name, datacenter, rack, model.
pub type FailedHost<'a> = (&'a str, &'a str, &'a str, &'a str);

pub struct TicketWorld {
    pub db: Database,
    pub jira: SimJira,
    pub routes: Routes,
    pub policy: TicketPolicy,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl TicketWorld {
    pub async fn start() -> TicketWorld {
        TicketWorld::with(SimJiraSite::with_token(TOKEN), &[]).await
    }

    pub async fn cloud() -> TicketWorld {
        TicketWorld::with(SimJiraSite::cloud(USER, TOKEN), &[]).await
    }

    /// With rules, each as TOML.
    pub async fn with(site: SimJiraSite, rules: &[&str]) -> TicketWorld {
        metalbot::use_ring();
        let db = Database::new().await;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let jira = SimJira::start_site(listener, site).unwrap();
        let default = TicketTarget {
            site: "default".into(),
            project: "OPS".into(),
            issue_type: "Task".into(),
            components: Vec::new(),
            labels: vec!["metalbot".into()],
            priority: None,
            assignee: None,
            fields: Default::default(),
        };
        let rules = rules.iter().map(|rule| toml_rule(rule)).collect();
        let policy = TicketPolicy {
            poll_interval: Duration::from_millis(200),
            create_confirm_timeout: Duration::from_millis(500),
            ..TicketPolicy::default()
        };
        let routes = Routes { rules, default };
        let (stop, tasks) = (CancellationToken::new(), JoinSet::new());
        TicketWorld { db, jira, routes, policy, stop, tasks }
    }

    /// A relay that reaches Jira at this address.
    pub fn relay_at(&self, url: &str) -> TicketRelay {
        TicketRelay {
            pool: self.db.pool.clone(),
            site: self.site(url),
            scope: RelayScope::AllBut(Vec::new()),
            default: self.routes.default.clone(),
            policy: self.policy.clone(),
            templates: Arc::new(TicketTemplates::load(None).unwrap()),
            people: Arc::new(Everybody),
            hosts: Arc::new(HotReload::fixed(Inventory::default())),
            public_url: "https://metalbot.example".into(),
            accounts: Default::default(),
        }
    }

    fn site(&self, url: &str) -> Site {
        let mut cloud = false;
        self.jira.change_site(|site| cloud = site.dialect == SimDialect::Cloud);
        let (dialect, auth) = match cloud {
            true => {
                let password = SecretString::from(TOKEN);
                (Dialect::Cloud, Auth::Basic { user: USER.into(), password })
            }
            false => (Dialect::DataCenter, Auth::Bearer(SecretString::from(TOKEN))),
        };
        let timeout = Duration::from_secs(5);
        let name = "default".into();
        let settings = SiteSettings { name, url: url.into(), dialect, auth, timeout, proxy: None };
        Site::new(settings, reqwest::Client::builder().no_proxy()).unwrap()
    }

    /// A replica that writes.
    pub fn run_relay(&mut self) {
        let url = self.jira.url();
        self.run_relay_at(&url);
    }

    pub fn run_relay_at(&mut self, url: &str) {
        let placing = TicketAssigner {
            pool: self.db.pool.clone(),
            routes: self.routes.clone(),
            policy: self.policy.clone(),
        };
        let (placing, relay) = (Arc::new(placing), Arc::new(self.relay_at(url)));
        self.run("placing", move |_| Arc::clone(&placing).run_once());
        self.run("tickets", move |lease| Arc::clone(&relay).run_once(lease));
    }

    /// A replica that reads; `well` says of each host whether its BMC answers.
    pub fn run_sync(&mut self, well: fn(&HostName) -> bool) {
        let check_host: CheckHost = Arc::new(move |host| {
            let said = if well(&host) { Ok(PowerIs::On) } else { Err(silent(&host)) };
            Box::pin(async move { said })
        });
        let (pool, policy) = (self.db.pool.clone(), self.policy.clone());
        let rechecks = Arc::new(HostVerifier {
            pool: pool.clone(),
            check_host,
            reachable: ReachableDatacenters::ALL,
        });
        let mending = Arc::new(TicketResolver { pool: pool.clone(), policy: policy.clone() });
        let (site, scope) = (self.site(&self.jira.url()), RelayScope::AllBut(Vec::new()));
        let sync = Arc::new(TicketPoller { pool, site, scope, policy });
        self.run("ticket_sync", move |lease| Arc::clone(&sync).run_once(lease));
        self.run("rechecks", move |lease| Arc::clone(&rechecks).run_once(lease));
        self.run("mending", move |_| Arc::clone(&mending).run_once());
    }

    fn run<F>(&mut self, name: &'static str, round: impl FnMut(TaskLease) -> F + Send + 'static)
    where
        F: Future<Output = anyhow::Result<bool>> + Send + 'static,
    {
        let owner = format!("replica {}", self.tasks.len());
        let (pool, stop) = (self.db.pool.clone(), self.stop.clone());
        let runner = TaskRunner { pool, owner, stop, patience: PATIENCE };
        self.tasks.spawn(async move {
            run_task(runner, name, Duration::from_millis(100), None, round).await;
        });
    }

    /// A batch of alice's that has ended, all of its hosts in the same way.
    pub async fn failed(&self, hosts: &[FailedHost<'_>], kind: &str, error: &str) -> BatchId {
        self.batch("alice", hosts, "failed", Some((kind, error))).await
    }

    /// A batch whose hosts succeeded.
    pub async fn succeeded(&self, hosts: &[FailedHost<'_>]) -> BatchId {
        self.batch("alice", hosts, "succeeded", None).await
    }

    /// A batch as the executor leaves it, with its failures queued in the same transaction.
    pub async fn batch(
        &self,
        submitter: &str,
        hosts: &[FailedHost<'_>],
        state: &str,
        failure: Option<(&str, &str)>,
    ) -> BatchId {
        let mut tx = self.db.pool.begin().await.unwrap();
        let id = Database::insert_ended_batch(&mut tx, submitter, state, &plan()).await;
        for host in hosts {
            Database::insert_ended_job(&mut tx, id, *host, state, failure).await;
        }
        if let Some((kind, _)) = failure {
            let key = format!("batch:{id}:failed:{kind}");
            outbox::ticket(&mut tx, &key, BatchId(id), kind.parse().unwrap()).await.unwrap();
        }
        tx.commit().await.unwrap();
        BatchId(id)
    }

    /// Waits until nothing is left to be written to Jira.
    pub async fn written(&self) {
        self.db.until(Count::TicketsNotWritten, 0).await;
    }

    /// Events of which notices were queued, in order.
    pub async fn told(&self) -> Vec<Value> {
        self.db.notice_bodies().await.into_iter().map(|mut body| body["event"].take()).collect()
    }

    /// Waits for a notice of this kind; returns the newest.
    pub async fn heard(&self, kind: &str) -> Value {
        let newest = async || self.told().await.into_iter().rfind(|notice| notice["kind"] == kind);
        until_some(kind, newest).await
    }

    /// Nothing panicked.
    pub async fn finish(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        self.db.pool.close().await;
        self.jira.stop().await;
    }
}

/// People whose names are their logins in capitals; Jira knows all of them but the stranger.
struct Everybody;

impl People for Everybody {
    fn by_login(&self, login: &str) -> Option<Principal> {
        let (login, name) = (login.to_owned(), login.to_uppercase());
        Some(Principal { login, name, groups: Default::default() })
    }

    fn account(&self, _: &str, _: &str) -> Option<String> {
        None
    }

    fn email(&self, _: &str) -> Option<String> {
        None
    }

    fn jira_account(&self, login: &str, _: &str) -> Option<String> {
        (login != "stranger").then(|| login.to_owned())
    }
}

fn silent(host: &HostName) -> HostError {
    HostError::new(ErrorKind::BmcUnreachable, format!("{host} does not answer"))
}

fn toml_rule(text: &str) -> RouteRule {
    toml::from_str(text).unwrap()
}

fn plan() -> Plan {
    Plan {
        version: PLAN_VERSION,
        action: "reboot".into(),
        risk: Risk::Disruptive,
        params: Default::default(),
        at_default: Default::default(),
        checks: Default::default(),
        steps: vec![PlannedStep {
            title: "cut the power".into(),
            action: StepAction::Power { to: PowerTo::Off },
            deadline_secs: 60,
            retry: 0,
            finishing: false,
        }],
        rollout: Rollout::default(),
    }
}
