//! From the text that a person typed to a typed [`Command`], and what helps people to type it.
//!
//! [`understand`] is the way in for chat, [`submission`] for front doors that have the parts
//! already, [`thread_reply`] for plain messages in a batch's thread. Nothing here looks at who is
//! asking or changes anything. Actions come from `commands/*.toml` ([`spec`]), hosts from a
//! [`HostSource`]; every error names the column and says what would be right.
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

/// What a person asks for. Host lists are sorted, without repeats, never empty, and hold only hosts
/// of the inventory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// `topic` is a verb or an action that exists.
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
    /// Asks for the failed hosts of a batch again.
    Retry(BatchId),
    /// Takes hosts out of a batch that still waits.
    Drop {
        batch: BatchId,
        hosts: Vec<HostName>,
    },
    Approve(BatchId),
    Reject {
        batch: BatchId,
        reason: Option<String>,
    },
    /// Lets quarantined hosts go.
    Release(Vec<HostName>),
    /// Shows what a node set means.
    Hosts {
        expression: String,
        hosts: Vec<HostName>,
    },
    Whoami,
    /// Asks what a submission would do.
    DryRun(Submit),
    Notify(Notify),
}

impl Command {
    /// Whether it can only keep something from being done. That is never too late.
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

/// A request to do something to hosts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Submit {
    pub plan: Plan,
    pub hosts: Vec<HostName>,
    /// One line of at most [`MAX_REASON`] characters.
    pub reason: Option<String>,
}

/// Longest reason, in characters.
pub const MAX_REASON: usize = 500;

/// How much one command may ask for, and how its times are meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommandLimits {
    /// Most hosts of one command.
    pub max_hosts: usize,
    /// Longest command, in bytes.
    pub max_text: usize,
    /// Refuse an action without `reason=`.
    pub reason_required: bool,
    /// How long a destructive action can be stopped after the last approval, unless its own file
    /// says it.
    pub countdown: Duration,
    /// Of times that name none.
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
