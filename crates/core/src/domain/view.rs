//! What people see of batches and hosts, as data: cards, `/metal status`, lists, the API.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::approval::Requirement;
use super::batch::BatchState;
use super::error_kind::ErrorKind;
use super::host::HostName;
use super::ids::BatchId;
use super::job::JobState;
use super::rollout::{Start, WavePause};
use super::ticket_view::{TicketView, WontFixView};
use super::waiting::Waiting;

/// Hosts of a batch that failed in the same way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    pub kind: ErrorKind,
    /// The last error of the first of the hosts.
    pub error: String,
    pub hosts: Vec<HostName>,
    pub quarantined: bool,
}

/// What a card and `/metal status` show.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct BatchView {
    pub id: BatchId,
    pub action: String,
    pub risk: String,
    /// Arguments that differ from their defaults, by name, as a person would type them.
    pub params: Vec<(String, String)>,
    pub state: BatchState,
    pub state_reason: Option<String>,
    pub submitter: String,
    pub reason: Option<String>,
    pub hosts: Vec<HostName>,
    /// Titles of the steps in order.
    pub steps: Vec<String>,
    pub approvals: Vec<ApprovalView>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub started_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub finished_at: Option<OffsetDateTime>,
    pub counts: StateCounts,
    /// 1-based number of the current wave and how many there are.
    pub wave: u32,
    pub waves: u32,
    /// Why hosts that have not begun wait.
    #[serde(default)]
    pub waiting: Vec<Waiting>,
    #[serde(default)]
    pub wave_pause: Option<WavePause>,
    #[serde(default)]
    pub start: Option<Start>,
    /// Seconds in which it can be stopped after the last approval.
    #[serde(default)]
    pub countdown_secs: u64,
    /// Hosts that failed in their last batch and count against `max_fail` until their turn has come.
    #[serde(default)]
    pub failed_previously: Vec<HostName>,
    /// How often it was paused so far.
    #[serde(default)]
    pub pause_count: i32,
    pub max_concurrent: Option<u32>,
    pub max_fail: Option<String>,
    pub running: Vec<HostName>,
    pub failures: Vec<Failure>,
    /// Hosts that did not pass the checks, and are not worked on.
    pub left_out: Vec<Failure>,
    pub tickets: Vec<TicketView>,
    /// Hosts still to be worked on that nobody will fix.
    #[serde(default)]
    pub wont_fix: Vec<WontFixView>,
    pub retry_of: Option<BatchId>,
    /// The plan digest in hexadecimal digits; buttons carry it.
    pub digest: String,
}

/// One owner group's part of an approval.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ApprovalView {
    pub owner: String,
    pub hosts: u32,
    pub quorum: u32,
    /// Groups whose members may approve.
    pub from: Vec<String>,
    pub approved_by: Vec<String>,
}

impl ApprovalView {
    /// A part that nobody has approved yet.
    pub fn lacking(part: &Requirement) -> ApprovalView {
        ApprovalView {
            owner: part.owner.clone(),
            hosts: part.hosts,
            quorum: part.quorum,
            from: part.from.iter().cloned().collect(),
            approved_by: Vec::new(),
        }
    }
}

/// Jobs of a batch by state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StateCounts {
    pub pending: u32,
    pub queued: u32,
    pub running: u32,
    pub succeeded: u32,
    pub failed: u32,
    pub quarantined: u32,
    pub cancelled: u32,
    pub skipped: u32,
}

impl StateCounts {
    /// Jobs that are or were to be worked on.
    pub fn total(&self) -> u32 {
        self.pending
            + self.queued
            + self.running
            + self.succeeded
            + self.failed
            + self.quarantined
            + self.cancelled
    }
}

/// One line of `/metal list`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct BatchLine {
    pub id: BatchId,
    pub action: String,
    pub state: BatchState,
    pub submitter: String,
    pub host_count: u32,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// One host of `/metal status host ...`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct HostView {
    pub host: HostName,
    pub owner: String,
    pub datacenter: String,
    pub rack: String,
    pub sku: String,
    #[serde(default)]
    pub wont_fix: Option<WontFixView>,
    /// Batches that worked on it, newest first.
    pub history: Vec<HostHistoryEntry>,
}

/// A batch seen from one of its hosts.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct HostHistoryEntry {
    pub batch: BatchId,
    pub action: String,
    pub submitter: String,
    pub batch_state: BatchState,
    pub job_state: JobState,
    pub error: Option<String>,
    /// Last entries of the BMC's own log when the job failed, oldest first.
    #[serde(default)]
    pub bmc_events: Vec<String>,
}
