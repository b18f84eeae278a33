//! Events of batches, their jobs and their tickets. Notices, live views and the event bus are made
//! from them.
//!
//! Invariant: an event says what happened, never its wording or its readers; it is written in the
//! transaction that made it true.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::approval::ApprovalLoss;
use super::batch::BatchState;
use super::host::HostName;
use super::ids::BatchId;
use super::triage::TicketUpdate;
use super::view::{ApprovalView, Failure};

/// Event of a batch.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Event {
    pub batch: BatchId,
    #[serde(flatten)]
    pub body: EventBody,
}

impl Event {
    pub fn new(batch: BatchId, body: EventBody) -> Event {
        Event { batch, body }
    }
}

/// Content of an event. The serialised `kind` is its stable name, and the name of its chat
/// template.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventBody {
    /// Approvers are asked: when the batch begins to wait, and once before it expires.
    ApprovalWanted {
        action: String,
        hosts: Vec<HostName>,
        submitter: String,
        reason: Option<String>,
        /// Channel of the batch's card; `None` for a batch that is announced in no channel.
        channel: Option<String>,
        /// Parts of the approval that are still missing.
        lacking: Vec<ApprovalView>,
        /// Groups to mention.
        groups: Vec<String>,
        #[serde(with = "time::serde::rfc3339::option")]
        expires_at: Option<OffsetDateTime>,
        reminder: bool,
    },
    Approved {
        by: String,
        via: String,
        owners: Vec<String>,
        complete: bool,
        /// Set when the approval is complete and the batch does not start at once.
        waits: bool,
        /// Set when a batch goes on that was paused since its approval did not stand any more.
        #[serde(default)]
        resumes: bool,
    },
    /// An approval was taken back before the batch began.
    ApprovalWithdrawn {
        by: String,
        /// Set when it had been complete, so that the batch waits for approval again.
        #[serde(default)]
        waits: bool,
    },
    /// A complete approval does not stand any more, and the batch waits for approval again. Nothing was
    /// done to its hosts.
    ApprovalLost {
        submitter: String,
        #[serde(flatten)]
        loss: ApprovalLoss,
    },
    Rejected {
        by: String,
        reason: Option<String>,
    },
    Expired {
        submitter: String,
        /// Owner groups that had not approved.
        waited_for: Vec<String>,
    },
    /// The approval is complete, and the batch starts later.
    Scheduled {
        action: String,
        hosts: Vec<HostName>,
        #[serde(with = "time::serde::rfc3339")]
        starts_at: OffsetDateTime,
        /// Set when the batch waits for its countdown, in which it can still be stopped, and not
        /// for a requested time.
        countdown: bool,
    },
    /// The start time passed while no process was running to start the batch.
    StartMissed {
        submitter: String,
        #[serde(with = "time::serde::rfc3339")]
        starts_at: OffsetDateTime,
    },
    /// Hosts were taken out of a waiting batch; earlier approvals are void.
    HostsDropped {
        by: String,
        dropped: Vec<HostName>,
        /// Logins of the people whose approvals are void.
        voided: Vec<String>,
    },
    /// Hosts failed the preflight checks and are left out of the work.
    ChecksFailed {
        submitter: String,
        failures: Vec<Failure>,
        /// Number of hosts that passed.
        passed: u32,
    },
    Paused {
        /// Number of the pause, from 1: the button of this pause resumes no other one.
        pause_number: i32,
        #[serde(flatten)]
        cause: PauseCause,
    },
    Resumed {
        by: String,
    },
    Cancelled {
        by: String,
        /// Number of hosts with work under way, which is brought to a safe end.
        finishing: u32,
    },
    /// Quarantined hosts, or hosts that counted as down, may be used again.
    Released {
        by: String,
        hosts: Vec<HostName>,
    },
    /// Hosts failed since the last such event, and the batch goes on.
    JobsFailed {
        submitter: String,
        failures: Vec<Failure>,
        /// Failed hosts so far, and the number of all hosts.
        failed: u32,
        total: u32,
    },
    /// A wave ended and the next one begins.
    WaveEnded {
        submitter: String,
        /// Number of the wave that ended, from 1, and the number of waves.
        wave: u32,
        waves: u32,
        succeeded: u32,
        failed: u32,
        total: u32,
        /// Start of the next wave; `None`: at once.
        #[serde(with = "time::serde::rfc3339::option")]
        begins_at: Option<OffsetDateTime>,
        /// Set when the next wave waits until somebody resumes the batch.
        manual: bool,
    },
    /// The batch reached a final state after its work.
    Ended {
        submitter: String,
        state: BatchState,
        succeeded: u32,
        seconds: u64,
        failures: Vec<Failure>,
    },
    TicketFiled {
        key: String,
        url: String,
        error: String,
        hosts: Vec<HostName>,
        tagged: Vec<String>,
    },
    /// Hosts failed with the signature of an earlier ticket.
    TicketUpdated {
        key: String,
        url: String,
        error: String,
        hosts: Vec<HostName>,
        update: TicketUpdate,
    },
    /// Jira reports the ticket as resolved, and the BMCs of its hosts were asked.
    TicketResolved {
        submitter: String,
        key: String,
        url: String,
        /// Hosts whose BMC answers.
        answering: Vec<HostName>,
        /// Hosts whose BMC does not answer, and the error of the first of them.
        silent: Vec<HostName>,
        problem: Option<String>,
        /// Set when the batch can be retried; hosts that failed its checks cannot.
        retry: bool,
    },
    /// Jira reports that nobody will fix the ticket's cause.
    TicketDeclined {
        submitter: String,
        key: String,
        url: String,
        resolution: String,
        hosts: Vec<HostName>,
    },
    /// A ticket needs an operator.
    TicketBlocked {
        /// Key and address, if the ticket was filed in spite of the problem.
        key: Option<String>,
        url: Option<String>,
        problem: String,
    },
}

/// Cause of a pause.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum PauseCause {
    Person {
        by: String,
    },
    /// More hosts failed than the batch's budget allows.
    FailureBudget {
        failed: u32,
        /// Hosts that failed in their last batch, which count as well.
        failed_previously: u32,
        allowed: u32,
    },
    /// A wave ended, and the next one waits until somebody resumes the batch.
    WaveEnded {
        /// Number of the wave, from 1.
        wave: i32,
    },
    /// The approval does not stand any more: a new one resumes the batch.
    ApprovalLost(ApprovalLoss),
}
