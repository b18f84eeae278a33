//! Health of a process and of the site's background tasks, for operators: `/healthz`, `/readyz` and
//! `/metrics`.
//!
//! ```text
//! GET /healthz   200 while the process answers
//! GET /readyz    200 { "status": "ready" | "degraded", "tasks": [...], "unreached": [...] }
//!                503 { "status": "unavailable", "reason": "..." }
//! GET /metrics   Prometheus
//! ```
//!
//! A task is late when no process has had a round of it for three periods, and at least a minute.
//! The service is degraded then, and not down: other replicas would not do better. `unreached` says
//! how many hosts wait in which datacenter that no live worker reaches; this process may be well.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::PgPool;

use super::tasks::Task;
use crate::chat::slack::socket::Connections;
use crate::telemetry;
use metalbot_store::{inbox, outbox, placement, server, task_lease, ticket};

/// Time that the database has to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// No task is late before.
const LEAST_LATE: Duration = Duration::from_secs(60);

/// State that the health routes look at.
pub struct Health {
    pool: PgPool,
    /// Name and period of each task.
    tasks: Vec<(String, Duration)>,
    /// Deliveries of Slack come in by them, if it has any.
    slack: Option<Connections>,
    started: Instant,
    /// Datacenters whose metric has been set: it is 0 again once a worker reaches them.
    unreached: Mutex<BTreeMap<String, i64>>,
}

/// Health of one background task.
#[derive(Clone, PartialEq, Debug, Serialize)]
struct TaskHealth {
    name: String,
    /// Seconds since its last round in any process; null: it never had one.
    last_round_secs: Option<f64>,
    late: bool,
}

impl Health {
    pub(super) fn new(pool: PgPool, tasks: &[Task]) -> Health {
        let tasks = tasks.iter().map(|task| (task.name.clone(), task.period)).collect();
        let unreached = Mutex::default();
        Health { pool, tasks, slack: None, started: Instant::now(), unreached }
    }

    pub(super) fn with_slack(self, slack: Option<Connections>) -> Health {
        Health { slack, ..self }
    }

    /// Hosts that wait, by the datacenter that no live worker reaches.
    async fn unreached(&self) -> sqlx::Result<BTreeMap<String, i64>> {
        let mut hosts = BTreeMap::new();
        for found in placement::unreached(&mut *self.pool.acquire().await?).await? {
            *hosts.entry(found.datacenter).or_default() += found.hosts;
        }
        Ok(hosts)
    }

    async fn tasks(&self) -> sqlx::Result<Vec<TaskHealth>> {
        let ages = task_lease::round_ages(&self.pool).await?;
        let up = self.started.elapsed().as_secs_f64();
        let tasks = self.tasks.iter().map(|(name, period)| {
            let last_round_secs = ages.get(name).copied();
            let late = is_late(*period, last_round_secs, up);
            TaskHealth { name: name.clone(), last_round_secs, late }
        });
        Ok(tasks.collect())
    }
}

/// True when a task should have had a round meanwhile; `up` is this process's age in seconds.
fn is_late(period: Duration, age: Option<f64>, up: f64) -> bool {
    let limit = (period * 3).max(LEAST_LATE).as_secs_f64();
    // A site that was stopped for long gets its time, too.
    age.map_or(up, |age| age.min(up)) > limit
}

/// `/healthz` and `/readyz`.
pub(super) fn router(health: &Arc<Health>) -> Router {
    let health = Arc::clone(health);
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(move || ready(Arc::clone(&health))))
}

/// Ready: the database answers, can be written, and knows all our tables; deliveries of Slack can come in.
async fn ready(health: Arc<Health>) -> (StatusCode, Json<Value>) {
    let unavailable = |reason: &str| {
        let answer = json!({ "status": "unavailable", "reason": reason });
        (StatusCode::SERVICE_UNAVAILABLE, Json(answer))
    };
    if health.slack.as_ref().is_some_and(|connections| !connections.any()) {
        return unavailable("Slack is not connected");
    }
    let asked = async {
        // A failover may have left the primary's name to a standby.
        let unfit = server::only_reads(&mut *health.pool.acquire().await?).await?;
        inbox::backlog(&health.pool).await?;
        let known = tokio::try_join!(health.tasks(), health.unreached())?;
        Ok::<_, sqlx::Error>((unfit, known))
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok((Some(unfit), _))) => unavailable(&format!("the database: {unfit}")),
        Ok(Ok((None, (tasks, unreached)))) => {
            let late = tasks.iter().any(|task| task.late);
            let status = if late { "degraded" } else { "ready" };
            let unreached: Vec<Value> = unreached
                .into_iter()
                .map(|(datacenter, hosts)| json!({ "datacenter": datacenter, "hosts": hosts }))
                .collect();
            let answer = json!({ "status": status, "tasks": tasks, "unreached": unreached });
            (StatusCode::OK, Json(answer))
        }
        _ => unavailable("the database does not answer"),
    }
}

/// The metrics as Prometheus reads them. Numbers that stand in the database are left as they were
/// while it does not answer.
pub(super) async fn render(handle: PrometheusHandle, health: Arc<Health>) -> String {
    let asked = async {
        tokio::try_join!(
            inbox::backlog(&health.pool),
            outbox::backlog(&health.pool),
            ticket::counts(&health.pool),
            health.tasks(),
            health.unreached()
        )
    };
    if let Ok(Ok((inbox, outbox, tickets, tasks, unreached))) =
        tokio::time::timeout(PATIENCE, asked).await
    {
        set_unreached(&health, unreached);
        metrics::gauge!(telemetry::INBOX_WAITING).set(as_gauge(inbox));
        metrics::gauge!(telemetry::OUTBOX_WAITING).set(as_gauge(outbox));
        for (state, count) in
            [("waiting", tickets.waiting), ("refused", tickets.refused), ("open", tickets.open)]
        {
            metrics::gauge!(telemetry::TICKETS, "state" => state).set(as_gauge(count));
        }
        metrics::gauge!(telemetry::TICKETS_UNKNOWN_ACCOUNTS)
            .set(as_gauge(tickets.unknown_accounts));
        for TaskHealth { name, last_round_secs, .. } in tasks {
            // One that never had a round is as old as nothing can be.
            let age = last_round_secs.unwrap_or(f64::INFINITY);
            metrics::gauge!(telemetry::TASK_AGE, "task" => name.clone()).set(age);
            metrics::counter!(telemetry::TASK_FAILURES, "task" => name).increment(0);
        }
    }
    handle.run_upkeep();
    handle.render()
}

fn set_unreached(health: &Health, found: BTreeMap<String, i64>) {
    let mut known = health.unreached.lock().unwrap_or_else(PoisonError::into_inner);
    known.values_mut().for_each(|hosts| *hosts = 0);
    known.extend(found);
    for (datacenter, hosts) in &*known {
        metrics::gauge!(telemetry::UNREACHED_HOSTS, "datacenter" => datacenter.clone())
            .set(as_gauge(*hosts));
    }
}

fn as_gauge(count: i64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_late_after_three_periods_and_a_minute() {
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        for (period, age, up, late) in [
            (second, Some(59.0), 1e6, false),
            (second, Some(61.0), 1e6, true),
            (second, Some(61.0), 10.0, false),
            (second, None, 59.0, false),
            (second, None, 61.0, true),
            (hour, Some(10_000.0), 1e6, false),
            (hour, Some(11_000.0), 1e6, true),
        ] {
            assert_eq!(is_late(period, age, up), late, "{period:?} {age:?} {up}");
        }
    }
}
