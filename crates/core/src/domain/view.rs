//! Views of batches and hosts, as data: for cards, `/metal status`, lists and the API.

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
    /// Last error of the first host.
    pub error: String,
    pub hosts: Vec<HostName>,
    pub quarantined: bool,
}

/// View of a batch on its card and in `/metal status`.
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
    /// Titles of the steps, in order.
    pub steps: Vec<String>,
    pub approvals: Vec<ApprovalView>,
    /// Set for a paused batch that a new approval resumes.
    #[serde(default)]
    pub lacks_approval: bool,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub started_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub finished_at: Option<OffsetDateTime>,
    pub counts: StateCounts,
    /// Number of the current wave, from 1, and the number of waves.
    pub wave: u32,
    pub waves: u32,
    /// Reasons why hosts that have not begun wait.
    #[serde(default)]
    pub waiting: Vec<Waiting>,
    #[serde(default)]
    pub wave_pause: Option<WavePause>,
    #[serde(default)]
    pub start: Option<Start>,
    /// Countdown in seconds after the last approval, in which the batch can be stopped.
    #[serde(default)]
    pub countdown_secs: u64,
    /// Hosts that failed in their last batch and count against `max_fail` until their own work
    /// ends.
    #[serde(default)]
    pub failed_previously: Vec<HostName>,
    /// Number of pauses so far.
    #[serde(default)]
    pub pause_count: i32,
    pub max_concurrent: Option<u32>,
    pub max_fail: Option<String>,
    pub running: Vec<HostName>,
    /// What machines at work say of how far they are, by what they do.
    #[serde(default)]
    pub progress: Vec<ProgressView>,
    pub failures: Vec<Failure>,
    /// Hosts that failed the checks, and are left out of the work.
    pub left_out: Vec<Failure>,
    pub tickets: Vec<TicketView>,
    /// Hosts with work to come whose tickets were closed as ones that nobody will fix.
    #[serde(default)]
    pub wont_fix: Vec<WontFixView>,
    pub retry_of: Option<BatchId>,
    /// Plan digest in hexadecimal digits; buttons carry it.
    pub digest: String,
}

/// Hosts at work that do the same, by their machines' own words.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProgressView {
    /// What they do; `None`: they do not say.
    pub phase: Option<String>,
    /// Per cent of the one that is least far, and of the one that is farthest; `None`: none says.
    pub percent: Option<(u8, u8)>,
    pub hosts: Vec<HostName>,
}

/// Approval of one owner group's part of a batch.
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
    /// View of a part that nobody has approved yet.
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

/// Number of a batch's jobs in each state.
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
    /// Number of jobs with work, past or future.
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

/// Line of `/metal list`.
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

/// View of a host in `/metal status host ...`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct HostView {
    pub host: HostName,
    pub owner: String,
    pub datacenter: String,
    pub rack: String,
    pub sku: String,
    #[serde(default)]
    pub wont_fix: Option<WontFixView>,
    /// Batches with this host, newest first.
    pub history: Vec<HostHistoryEntry>,
}

/// Result of one batch for a host.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct HostHistoryEntry {
    pub batch: BatchId,
    pub action: String,
    pub submitter: String,
    pub batch_state: BatchState,
    pub job_state: JobState,
    pub error: Option<String>,
    /// Last entries of the BMC's event log when the job failed, oldest first.
    #[serde(default)]
    pub bmc_events: Vec<String>,
}
