//! What happened to batches, their jobs and their tickets. Notices, live views and the event bus are
//! made of these.
//!
//! Invariant: an event says what happened and never how it is worded or who hears of it; it is
//! written in the transaction that made it true.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::batch::BatchState;
use super::host::HostName;
use super::ids::BatchId;
use super::triage::TicketUpdate;
use super::view::{ApprovalView, Failure};

/// Something that happened to a batch.
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

/// What happened. The serialised `kind` is its stable name, and names its chat template.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EventBody {
    /// Those who must approve are asked: when the batch begins to wait, and once before it expires.
    ApprovalWanted {
        action: String,
        hosts: Vec<HostName>,
        submitter: String,
        reason: Option<String>,
        /// Channel of the batch's card; none for a batch that is announced nowhere.
        channel: Option<String>,
        /// Parts of the approval that are still lacking.
        lacking: Vec<ApprovalView>,
        /// Groups that are mentioned by name.
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
        /// The approval is complete and the batch does not start at once.
        waits: bool,
    },
    /// An approval was taken back before the batch began.
    ApprovalWithdrawn {
        by: String,
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
    /// Everybody has approved, and the batch starts later.
    Scheduled {
        action: String,
        hosts: Vec<HostName>,
        #[serde(with = "time::serde::rfc3339")]
        starts_at: OffsetDateTime,
        /// It waits so that somebody can still stop it, and not for a time that was asked for.
        countdown: bool,
    },
    /// The time at which the batch was to start went by while no process was there to start it.
    StartMissed {
        submitter: String,
        #[serde(with = "time::serde::rfc3339")]
        starts_at: OffsetDateTime,
    },
    /// Hosts were taken out of a waiting batch; approvals given before are void.
    HostsDropped {
        by: String,
        dropped: Vec<HostName>,
        /// Logins of those whose approvals are void.
        voided: Vec<String>,
    },
    /// Hosts did not pass the preflight checks and are not worked on.
    ChecksFailed {
        submitter: String,
        failures: Vec<Failure>,
        /// How many hosts passed.
        passed: u32,
    },
    Paused {
        /// Number of the pause, from 1: its button resumes from this one alone.
        pause_number: i32,
        #[serde(flatten)]
        cause: PauseCause,
    },
    Resumed {
        by: String,
    },
    Cancelled {
        by: String,
        /// Hosts at work, which are brought to a safe end.
        finishing: u32,
    },
    /// Quarantined hosts, or hosts that counted as down, may be used again.
    Released {
        by: String,
        hosts: Vec<HostName>,
    },
    /// Hosts of a batch that goes on have failed since the last such event.
    JobsFailed {
        submitter: String,
        failures: Vec<Failure>,
        /// Of all so far, and of how many hosts.
        failed: u32,
        total: u32,
    },
    /// A wave is done and the next one begins.
    WaveEnded {
        submitter: String,
        /// Number of the wave that is done, from 1, and how many there are.
        wave: u32,
        waves: u32,
        succeeded: u32,
        failed: u32,
        total: u32,
        /// When the next wave begins, if not at once.
        #[serde(with = "time::serde::rfc3339::option")]
        begins_at: Option<OffsetDateTime>,
        /// The next wave begins when somebody resumes.
        manual: bool,
    },
    /// The batch has reached a final state after its work.
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
    /// Hosts failed that an earlier ticket is for.
    TicketUpdated {
        key: String,
        url: String,
        error: String,
        hosts: Vec<HostName>,
        update: TicketUpdate,
    },
    /// Jira says that the ticket's cause is resolved, and the hosts were asked.
    TicketResolved {
        submitter: String,
        key: String,
        url: String,
        /// Hosts whose BMC answers.
        answering: Vec<HostName>,
        /// Hosts whose BMC does not, and what the first of them says.
        silent: Vec<HostName>,
        problem: Option<String>,
        /// Whether the batch can be retried; hosts that failed its checks cannot.
        retry: bool,
    },
    /// Jira says that nobody will resolve the ticket's cause.
    TicketDeclined {
        submitter: String,
        key: String,
        url: String,
        resolution: String,
        hosts: Vec<HostName>,
    },
    /// A ticket needs an operator.
    TicketBlocked {
        /// Key and address, where the ticket was filed all the same.
        key: Option<String>,
        url: Option<String>,
        problem: String,
    },
}

/// Why a batch was paused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum PauseCause {
    Person {
        by: String,
    },
    /// More hosts failed than the batch's budget allows.
    FailureBudget {
        failed: u32,
        /// Hosts that had failed in their last batch, and count as well.
        failed_previously: u32,
        allowed: u32,
    },
    /// A wave is done, and the next one was to wait for somebody.
    WaveEnded {
        /// Number of the wave, from 1.
        wave: i32,
    },
}
