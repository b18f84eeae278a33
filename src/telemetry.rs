//! Logs and metrics: their set-up, and the names of the metrics.
//!
//! Invariant: names of metrics are defined here only and end with their unit, so that dashboards
//! can rely on this list.

use std::io::IsTerminal;

use metrics::{describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use serde::Deserialize;
use tracing_subscriber::filter::{EnvFilter, ParseError};

/// Changed files that could not be used, so that the version read before was kept.
pub const RELOADS_FAILED: &str = "metalbot_reloads_failed_total";
/// Batches by the state that they ended in; labels `action`, `state`.
pub const BATCHES_ENDED: &str = "metalbot_batches_ended_total";
/// Jobs by the state that they ended in; labels `action`, `state`.
pub const JOBS_ENDED: &str = "metalbot_jobs_ended_total";
/// Jobs that failed or were quarantined; label `kind`: the name of the kind of error.
pub const JOBS_FAILED: &str = "metalbot_jobs_failed_total";
/// Jobs that this process works on now.
pub const JOBS_RUNNING: &str = "metalbot_jobs_running";
/// Requests to BMCs by what may be done after them; labels `request`, `outcome`: `done`,
/// `transient` (nothing happened), `rejected`, `unknown` (it may have happened).
pub const BMC_REQUESTS: &str = "metalbot_bmc_requests_total";
/// Seconds of one request to a BMC, from the first packet of its session to the last; label
/// `request`.
pub const BMC_SECONDS: &str = "metalbot_bmc_request_seconds";
/// Seconds of one delivery in the inbox loop, from taking it to the commit of its effects.
pub const COMMAND_SECONDS: &str = "metalbot_command_seconds";
/// Seconds of one admission, locks included.
pub const ADMISSION_SECONDS: &str = "metalbot_admission_seconds";
/// Deliveries that wait for an answer.
pub const INBOX_WAITING: &str = "metalbot_inbox_waiting";
/// Deliveries that could not be read; label `platform`.
pub const INBOX_UNREADABLE: &str = "metalbot_inbox_unreadable_total";
/// Notices and tickets that wait to be sent.
pub const OUTBOX_WAITING: &str = "metalbot_outbox_waiting";
/// Seconds since a background task last had a round, in any process; label `task`.
pub const TASK_AGE: &str = "metalbot_task_last_round_age_seconds";
/// Rounds of background tasks that failed in this process; label `task`.
pub const TASK_FAILURES: &str = "metalbot_task_failures_total";
/// Hosts that wait since no live worker reaches their datacenter; label `datacenter`.
pub const UNREACHED_HOSTS: &str = "metalbot_unreached_hosts";
/// Triage tickets that have not ended; label `state`: `waiting` for Jira, `refused` by it, `open`.
pub const TICKETS: &str = "metalbot_tickets";
/// People concerned by open tickets whom Jira does not know.
pub const TICKETS_UNKNOWN_ACCOUNTS: &str = "metalbot_tickets_unknown_accounts";

/// Format of log lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Error of the set-up of logs or metrics.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("log.filter: {0}")]
    Filter(#[from] ParseError),
    #[error("logging is already set up: {0}")]
    Logging(String),
    #[error("metrics are already set up: {0}")]
    Metrics(#[from] BuildError),
}

/// Sends the logs of the whole process to standard error. Filter: `info`,
/// `metalbot=debug,sqlx=warn`.
pub fn init(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    let filter = check_filter(filter)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    }
    .map_err(|error| TelemetryError::Logging(error.to_string()))
}

/// Reads a filter without using it.
pub fn check_filter(filter: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(filter)
}

/// Collects the metrics of the whole process. The handle renders them for `/metrics`; its
/// `run_upkeep` must be called every few seconds.
pub fn install() -> Result<PrometheusHandle, TelemetryError> {
    // From the time of a database write to that of a slow BMC.
    let seconds = [0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
    let handle = PrometheusBuilder::new().set_buckets(&seconds)?.install_recorder()?;
    describe_counter!(BATCHES_ENDED, "Batches by the state that they ended in");
    describe_counter!(JOBS_ENDED, "Jobs by the state that they ended in");
    describe_counter!(JOBS_FAILED, "Jobs that failed or were quarantined, by kind of error");
    describe_gauge!(JOBS_RUNNING, "Jobs that this process works on");
    describe_counter!(BMC_REQUESTS, "Requests to BMCs by what may be done after them");
    describe_histogram!(BMC_SECONDS, "Time of one request to a BMC, session included");
    describe_histogram!(COMMAND_SECONDS, "Time from delivery to answer");
    describe_histogram!(ADMISSION_SECONDS, "Time of one admission");
    describe_gauge!(INBOX_WAITING, "Deliveries that wait for an answer");
    describe_counter!(INBOX_UNREADABLE, "Deliveries that could not be read; they are kept");
    describe_gauge!(OUTBOX_WAITING, "Notices and tickets that wait to be sent");
    describe_gauge!(TASK_AGE, "Time since a background task last had a round, in any process");
    describe_counter!(TASK_FAILURES, "Rounds of background tasks that failed in this process");
    describe_gauge!(
        UNREACHED_HOSTS,
        "Hosts that wait since no live worker reaches their datacenter"
    );
    describe_gauge!(TICKETS, "Triage tickets that have not ended, by state");
    describe_gauge!(
        TICKETS_UNKNOWN_ACCOUNTS,
        "People concerned by open tickets whom Jira does not know"
    );
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_rendered_with_their_help_and_buckets() {
        let handle = install().unwrap();
        metrics::counter!(JOBS_ENDED, "action" => "reboot", "state" => "failed").increment(2);
        metrics::histogram!(ADMISSION_SECONDS).record(0.3);
        let text = handle.render();
        for line in [
            "# TYPE metalbot_jobs_ended_total counter",
            "metalbot_jobs_ended_total{action=\"reboot\",state=\"failed\"} 2",
            "metalbot_admission_seconds_bucket{le=\"0.5\"} 1",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        assert!(matches!(install(), Err(TelemetryError::Metrics(_))), "only once");
    }

    #[test]
    fn filters_are_checked() {
        assert!(check_filter("info,sqlx=warn").is_ok());
        assert!(check_filter("metalbot=louder").is_err());
    }
}
