//! Things that people should hear of: what happened, never its wording. The wording of a notice is
//! `templates/chat/<kind>.md`, rendered with the notice's fields.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::approval::Requirement;
use super::batch::BatchState;
use super::host::HostName;
use super::ids::BatchId;
use super::inbound::Place;
use super::notice_digest::DigestLine;
use super::notify::{ChannelSetting, Preferences};
use super::overlap::Held;
pub use super::preview::Preview;
use super::rollout::{Start, WavePause};
pub use super::ticket_view::{TicketView, WontFixView};
use super::triage::TicketUpdate;
use super::waiting::Waiting;

/// Who is to see a notice.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "to", rename_all = "snake_case")]
pub enum Audience {
    /// Everybody at the place.
    Place { place: Place },
    /// One platform user at the place.
    Only { place: Place, user: String },
    /// The thread under the batch's card.
    Thread { batch: BatchId },
    /// One person alone, by direct message. `near` names the platform, and the channel for a
    /// platform without direct messages.
    Person { login: String, near: Place },
}

impl Audience {
    /// Names the way on which notices follow one another. An answer to one person has none: it
    /// waits for nothing.
    pub fn ordering_key(&self) -> Option<String> {
        match self {
            Audience::Only { .. } => None,
            Audience::Thread { batch } => Some(format!("thread:{}", batch.0)),
            Audience::Place { place } => {
                let thread = place.thread.as_deref().unwrap_or_default();
                Some(format!("place:{}/{}/{thread}", place.platform, place.channel))
            }
            Audience::Person { login, near } => Some(format!("person:{}/{login}", near.platform)),
        }
    }
}

/// A notice. The serialised `kind` names its template.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Notice {
    /// The text could not be understood or is not allowed; nothing was done.
    Error {
        message: String,
        /// What was typed, when an error points into it.
        input: Option<String>,
        /// 1-based, in characters of `input`.
        column: Option<usize>,
        hint: Option<String>,
    },
    /// The platform user is nobody in the directory.
    Unbound {
        platform: String,
        user: String,
        /// Groups of those who can be asked.
        #[serde(default)]
        admins: Vec<String>,
    },
    Help {
        page: serde_json::Value,
    },
    Status {
        batch: Box<BatchView>,
    },
    HostStatus {
        hosts: Vec<HostView>,
    },
    List {
        mine: bool,
        batches: Vec<BatchLine>,
    },
    Hosts {
        expression: String,
        hosts: Vec<HostName>,
    },
    Whoami {
        login: String,
        name: String,
        groups: Vec<String>,
    },
    /// What the person and the channel prefer to be told.
    Notify {
        mine: Preferences,
        here: ChannelSetting,
        changed: bool,
    },
    /// What a command would do.
    DryRun {
        preview: Box<Preview>,
    },
    /// A submission that was stored as refused.
    Refused {
        batch: BatchId,
        action: String,
        hosts: Vec<HostName>,
        held: Vec<Held>,
        free: Vec<HostName>,
        /// Command that asks for the free hosts alone.
        free_command: Option<String>,
    },
    /// A request of the person that changed nothing, with the reason.
    NotDone {
        message: String,
    },
    /// The batch's card cannot be shown now.
    CardWaits {
        batch: BatchId,
        action: String,
        hosts: Vec<HostName>,
        /// What has to be done first.
        why: String,
    },
    /// Those who must act are called: when the approval is asked for, and once before it expires.
    ApprovalWanted {
        batch: BatchId,
        action: String,
        hosts: Vec<HostName>,
        submitter: String,
        reason: Option<String>,
        /// Where the batch's card is.
        channel: String,
        /// What is still lacking.
        lacking: Vec<ApprovalView>,
        /// Groups that are called by name.
        groups: Vec<String>,
        #[serde(with = "time::serde::rfc3339::option")]
        expires_at: Option<OffsetDateTime>,
        reminder: bool,
    },
    Approved {
        batch: BatchId,
        by: String,
        via: String,
        owners: Vec<String>,
        complete: bool,
        /// It is complete and does not start at once.
        #[serde(default)]
        waits: bool,
    },
    Withdrawn {
        batch: BatchId,
        by: String,
    },
    Rejected {
        batch: BatchId,
        by: String,
        reason: Option<String>,
    },
    Expired {
        batch: BatchId,
        submitter: String,
        waited_for: Vec<String>,
    },
    /// Everybody has approved, and it starts later.
    Scheduled {
        batch: BatchId,
        action: String,
        hosts: Vec<HostName>,
        #[serde(with = "time::serde::rfc3339")]
        starts_at: OffsetDateTime,
        /// It waits so that somebody can still stop it, and not for a time that was asked for.
        countdown: bool,
    },
    /// It was to start at a time that went by while nothing was there to start it.
    Missed {
        batch: BatchId,
        submitter: String,
        #[serde(with = "time::serde::rfc3339")]
        starts_at: OffsetDateTime,
    },
    /// Hosts were taken out of a waiting batch; approvals given before are void.
    Changed {
        batch: BatchId,
        by: String,
        dropped: Vec<HostName>,
        voided: Vec<String>,
    },
    /// Hosts did not pass the checks.
    LeftOut {
        batch: BatchId,
        submitter: String,
        failures: Vec<Failure>,
        /// Hosts that passed.
        left: u32,
    },
    Paused {
        batch: BatchId,
        /// Which pause of the batch it is: its button goes on from this one alone.
        #[serde(default)]
        pause_number: i32,
        by: Option<String>,
        /// The wave that is done, where the next one waits for somebody.
        #[serde(default)]
        wave: Option<i32>,
        failed: u32,
        /// Hosts that had failed before and count as well.
        #[serde(default)]
        failed_previously: u32,
        allowed: u32,
    },
    Resumed {
        batch: BatchId,
        by: String,
    },
    Cancelled {
        batch: BatchId,
        by: String,
        finishing: u32,
    },
    Released {
        batch: BatchId,
        by: String,
        hosts: Vec<HostName>,
    },
    /// Hosts of a batch that goes on have failed since the last such notice.
    Failing {
        batch: BatchId,
        submitter: String,
        named: bool,
        failures: Vec<Failure>,
        /// Of all so far, and of how many hosts.
        failed: u32,
        total: u32,
    },
    /// A wave is done and the next one begins.
    WaveEnded {
        batch: BatchId,
        submitter: String,
        named: bool,
        /// 1-based number of the wave that is done.
        wave: u32,
        waves: u32,
        succeeded: u32,
        failed: u32,
        total: u32,
        /// When the next one begins, if not at once.
        #[serde(default, with = "time::serde::rfc3339::option")]
        begins_at: Option<OffsetDateTime>,
        /// The next one begins when somebody resumes.
        #[serde(default)]
        manual: bool,
    },
    Completed {
        batch: BatchId,
        submitter: String,
        #[serde(default = "yes")]
        named: bool,
        state: BatchState,
        succeeded: u32,
        seconds: u64,
        failures: Vec<Failure>,
    },
    TicketFiled {
        batch: BatchId,
        key: String,
        url: String,
        error: String,
        hosts: Vec<HostName>,
        tagged: Vec<String>,
    },
    /// Many notices of one ordering key in one.
    Digest {
        count: u32,
        lines: Vec<DigestLine>,
    },
    /// Hosts failed that a ticket of before is for.
    TicketAgain {
        batch: BatchId,
        key: String,
        url: String,
        error: String,
        hosts: Vec<HostName>,
        act: TicketUpdate,
    },
    /// Jira says that it is mended, and the hosts were asked.
    TicketDone {
        batch: BatchId,
        submitter: String,
        key: String,
        url: String,
        /// Hosts whose BMC answers.
        answering: Vec<HostName>,
        /// Hosts whose BMC does not, and what the first of them says.
        silent: Vec<HostName>,
        problem: Option<String>,
        /// Whether the batch can be retried; hosts that were left out of it cannot.
        retry: bool,
    },
    /// Jira says that nobody will mend it.
    TicketDeclined {
        batch: BatchId,
        submitter: String,
        key: String,
        url: String,
        resolution: String,
        hosts: Vec<HostName>,
    },
    /// A ticket needs an operator.
    TicketTrouble {
        batch: BatchId,
        /// Key and address, where the ticket was filed all the same.
        key: Option<String>,
        url: Option<String>,
        problem: String,
    },
}

impl Notice {
    /// The batch that it tells of, if it is about one.
    pub fn batch(&self) -> Option<BatchId> {
        // All kinds that have one call it the same.
        let fields = serde_json::to_value(self).ok()?;
        fields["batch"].as_i64().map(BatchId)
    }
}

fn yes() -> bool {
    true
}

/// Hosts of a batch that failed in the same way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// Stable name of the kind, see `BmcError::kind`.
    pub kind: String,
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
    pub history: Vec<HostEvent>,
}

/// A batch seen from one of its hosts.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct HostEvent {
    pub batch: BatchId,
    pub action: String,
    pub submitter: String,
    pub batch_state: BatchState,
    pub job_state: super::job::JobState,
    pub error: Option<String>,
    /// Last entries of the BMC's own log when the job failed, oldest first.
    #[serde(default)]
    pub bmc_events: Vec<String>,
}
