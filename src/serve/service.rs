//! A running process of Metalbot: starts the parts of its roles, and stops them in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use metrics_exporter_prometheus::PrometheusHandle;
use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::health::Health;
use super::roles::{Role, Roles};
use super::site::SiteParts;
use super::tasks::{Task, tasks};
use super::workers;
use crate::config::Config;
use crate::executor::worker;
use crate::runtime::notifier::{Notifier, run_listener};
use crate::runtime::task::{LAST_ROUND, TaskRunner, run_task};
use crate::web::ConsoleState;
use metalbot_store::{self as store, DatabaseAddress, PoolRole, answered_within, task_lease};

/// Interval of checks for a changed inventory file.
const RELOAD_PERIOD: Duration = Duration::from_secs(1);
/// Time that the database has for each of the last things when the process stops.
const LAST_WORD: Duration = Duration::from_secs(5);

/// Additions of a caller to the configuration.
#[derive(Default)]
pub struct StartOptions {
    /// Renders `/metrics`; without it there is no such page.
    pub metrics: Option<PrometheusHandle>,
    pub extension: Option<Extension>,
}

/// More pages around the console.
#[derive(Clone, Copy)]
pub struct Extension {
    /// Path to which a visitor without a session is sent, in place of `/login`.
    pub sign_in: &'static str,
    /// Makes the router that is served of the finished one.
    pub wrap: fn(ConsoleState, Router) -> Router,
}

/// A running process.
pub struct Service {
    /// Address of console, deliveries and metrics, if the process has the role `web`.
    pub address: Option<SocketAddr>,
    /// Address of health and metrics alone, if there is one.
    pub health_address: Option<SocketAddr>,
    pub pool: PgPool,
    /// Unique among all processes, now and after a restart.
    owner: String,
    /// Time that its parts have to end when it stops.
    stops_within: Duration,
    pub(super) stop: CancellationToken,
    pub(super) notifier: Arc<Notifier>,
    pub(super) parts: JoinSet<()>,
}

impl Service {
    /// Starts the roles of this process. The database must be there; its schema is brought up to
    /// date first.
    pub async fn start(
        config: &Config,
        database: &DatabaseAddress,
        roles: Roles,
        options: StartOptions,
    ) -> anyhow::Result<Service> {
        let statement_timeout = config.database.statement_timeout;
        let role = PoolRole::Service { statement_timeout };
        let unfit = store::server::look(database).await?;
        anyhow::ensure!(unfit.is_empty(), "{database}: {}", all(&unfit));
        let pool = store::connect_lazy(database, config.database.max_connections, role);
        let site = SiteParts::new(config, pool.clone())?;
        for warning in site.loaded.warnings(config) {
            tracing::warn!(warning, "the configuration is probably not as it is meant");
        }
        migrate(database).await?;
        let mut service = Service {
            address: None,
            health_address: None,
            pool,
            owner: process_name(),
            stops_within: config.executor.drain_timeout + LAST_ROUND,
            stop: CancellationToken::new(),
            notifier: Arc::new(Notifier::default()),
            parts: JoinSet::new(),
        };
        service.start_part(run_listener(service.pool.clone(), Arc::clone(&service.notifier)));
        service.start_part(Arc::clone(&site.loaded.inventory).run_reload(RELOAD_PERIOD));
        service.start_part(site.loaded.directory.clone().run_reload(RELOAD_PERIOD));
        let table = tasks(&site)?;
        let health = Health::new(service.pool.clone(), &table);
        for task in table.into_iter().filter(|task| roles.has(task.role)) {
            service.start_task(task, config.database.patience());
        }
        if roles.has(Role::Worker) {
            site.bmc.prepare().await.context("cannot open the sockets to speak with BMCs")?;
            let executor = workers::executor(&site, &service.owner);
            let (notifier, stop) = (Arc::clone(&service.notifier), service.stop.clone());
            service.parts.spawn(worker::run_worker(executor, notifier, stop));
        }
        let metrics = options.metrics.clone();
        let health = match roles.has(Role::Web) {
            true => service.start_web(&site, health, options).await?,
            false => Arc::new(health),
        };
        service.start_health(&config.http, &health, metrics).await?;
        Ok(service)
    }

    /// Runs something that never ends by itself, until the process stops.
    pub(super) fn start_part(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.parts.spawn(async move {
            tokio::select! {
                () = work => {}
                () = stop.cancelled() => {}
            }
        });
    }

    fn start_task(&mut self, task: Task, patience: Duration) {
        let Task { lease, period, topic, run_once, .. } = task;
        let runner = TaskRunner {
            pool: self.pool.clone(),
            owner: self.owner.clone(),
            stop: self.stop.clone(),
            patience,
        };
        let notifier = Arc::clone(&self.notifier);
        self.parts.spawn(async move {
            let topic = topic.map(|topic| notifier.topic(topic));
            run_task(runner, &lease, period, topic, run_once).await;
        });
    }

    /// Stops in order: no new work, running steps finish or are handed over, leases are given up.
    /// Ends in time even if the database is silent; others go on when the leases end.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let ended = async {
            while let Some(ended) = self.parts.join_next().await {
                log_panic(ended);
            }
        };
        if tokio::time::timeout(self.stops_within, ended).await.is_err() {
            let parts = self.parts.len();
            tracing::warn!(parts, "parts of the service do not end by themselves: they are ended");
            self.parts.shutdown().await;
        }
        let released = task_lease::release_tasks(&self.pool, &self.owner);
        if let Err(error) = answered_within(LAST_WORD, released).await {
            tracing::warn!(%error, "task leases were not given up; they expire");
        }
        if tokio::time::timeout(LAST_WORD, self.pool.close()).await.is_err() {
            tracing::warn!("the database lets connections hang: they are left as they are");
        }
    }

    /// Returns when a part of the service has ended although nobody asked it to.
    pub async fn broken(&mut self) {
        match self.parts.join_next().await {
            Some(ended) => log_panic(ended),
            None => std::future::pending().await,
        }
    }
}

/// Brings the schema up to date, over a connection whose statements may take their time, and looks
/// whether its tables may be used.
async fn migrate(database: &DatabaseAddress) -> anyhow::Result<()> {
    let pool = store::connect_lazy(database, 1, PoolRole::Maintenance);
    let done = async {
        store::schema::migrate(&pool).await?;
        store::schema::check_rights(&mut *pool.acquire().await?).await
    }
    .await;
    pool.close().await;
    Ok(done?)
}

fn all(unfit: &[store::server::Unfit]) -> String {
    unfit.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a part of the service panicked");
    }
}

fn process_name() -> String {
    format!("{}:{}:{:08x}", machine_name(), std::process::id(), rand::random::<u32>())
}

/// The name of this machine, or ours where it has none.
pub fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "metalbot".into() } else { name.to_owned() }
}
