//! Reads command texts into a typed [`Command`], and helps people to type them.
//!
//! [`understand`] serves chat, [`submission`] serves callers that have the parts already, and
//! [`thread_reply`] serves plain messages in a batch's thread. Nothing here checks permissions or
//! changes anything. Actions come from `commands/*.toml` ([`spec`]), hosts from a [`HostSource`];
//! every error names the column and says what would be right.
//!
//! [`HostSource`]: crate::domain::host::HostSource

mod check;
mod complete;
mod error;
mod help;
mod hosts;
mod lex;
mod notify;
mod parse;
mod paste;
mod plan;
mod reply;
pub mod spec;
mod verbs;
mod when;

pub use check::{ActionRequest, COMMON_KEYS, CommonKey, submission};
pub use complete::{Completion, complete};
pub use error::{CommandError, CommandProblem};
pub use help::{ActionHelp, ArgHelp, HelpPage, VerbHelp, help};
pub use hosts::node_set;
pub use notify::Notify;
pub use parse::understand;
pub use paste::{NotAList, listed, pasted};
pub use reply::{ThreadReply, rejection, thread_reply};
pub use spec::{ActionSpec, ArgKind, ArgSpec, Catalog, SpecError};
pub use verbs::{VERBS, Verb};

use std::time::Duration;

use crate::domain::host::HostName;
use crate::domain::ids::BatchId;
use crate::domain::time_zone::Zone;
use crate::domain::workflow::Plan;

/// Request of a person. Host lists are sorted, without repeats, never empty, and hold only hosts of
/// the inventory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Help; `topic` is a verb or an action that exists.
    Help {
        topic: Option<String>,
    },
    Submit(Submit),
    Status(BatchId),
    HostStatus(Vec<HostName>),
    List {
        mine: bool,
    },
    Cancel(BatchId),
    Pause(BatchId),
    Resume(BatchId),
    /// Submits the failed hosts of a batch again.
    Retry(BatchId),
    /// Takes hosts out of a batch that has not started.
    Drop {
        batch: BatchId,
        hosts: Vec<HostName>,
    },
    Approve(BatchId),
    Reject {
        batch: BatchId,
        reason: Option<String>,
    },
    /// Releases quarantined hosts.
    Release(Vec<HostName>),
    /// Shows the hosts of a node set.
    Hosts {
        expression: String,
        hosts: Vec<HostName>,
    },
    Whoami,
    /// Shows what a submission would do.
    DryRun(Submit),
    Notify(Notify),
}

impl Command {
    /// True if the command can only stop or prevent work. Such a command is accepted however old
    /// its message is.
    pub fn only_holds_back(&self) -> bool {
        match self {
            Command::Cancel(_)
            | Command::Pause(_)
            | Command::Drop { .. }
            | Command::Reject { .. } => true,
            Command::Help { .. }
            | Command::Submit(_)
            | Command::Status(_)
            | Command::HostStatus(_)
            | Command::List { .. }
            | Command::Resume(_)
            | Command::Retry(_)
            | Command::Approve(_)
            | Command::Release(_)
            | Command::Hosts { .. }
            | Command::Whoami
            | Command::DryRun(_)
            | Command::Notify(_) => false,
        }
    }
}

/// Submission: an action, its hosts and its plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Submit {
    pub plan: Plan,
    pub hosts: Vec<HostName>,
    /// Reason of the person: one line of at most [`MAX_REASON`] characters.
    pub reason: Option<String>,
}

/// Largest length of a reason, in characters.
pub const MAX_REASON: usize = 500;

/// Limits and defaults by which a command is read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommandLimits {
    /// Largest number of hosts of one command.
    pub max_hosts: usize,
    /// Largest length of a command, in bytes.
    pub max_text: usize,
    /// Set to refuse an action without `reason=`.
    pub reason_required: bool,
    /// Time between the last approval and the start of a destructive action, in which it can still
    /// be stopped. The action's own file may set another.
    pub countdown: Duration,
    /// Time zone used for times without one.
    pub zone: Zone,
}

impl Default for CommandLimits {
    fn default() -> Self {
        let countdown = Duration::from_secs(30);
        CommandLimits {
            max_hosts: 10_000,
            max_text: 8_000,
            reason_required: false,
            countdown,
            zone: Zone::default(),
        }
    }
}

#[cfg(test)]
mod testing;
