//! Replies to a person, as data. Each caller renders them in its own form: chat by a template, the
//! API as JSON, the command line as a table.

use serde::{Deserialize, Serialize};

use super::batch::BatchState;
use super::host::HostName;
use super::ids::BatchId;
use super::notify::{ChannelSetting, Preferences};
use super::overlap::Held;
use super::preview::Preview;
use super::view::{ApprovalView, BatchLine, BatchView, HostView};
use crate::command::HelpPage;

/// The answer to a request. The serialised `kind` names its chat template.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Reply {
    Error(ErrorReply),
    /// The platform's user belongs to no person of the directory.
    UnknownUser {
        platform: String,
        user: String,
        /// Groups whose members can help.
        admins: Vec<String>,
    },
    Help {
        /// Help page; `None` when there is none on that topic.
        page: Option<HelpPage>,
    },
    Batch {
        batch: Box<BatchView>,
    },
    Hosts {
        hosts: Vec<HostView>,
    },
    Batches {
        mine: bool,
        batches: Vec<BatchLine>,
    },
    /// Hosts of a node set.
    NodeSet {
        expression: String,
        hosts: Vec<HostName>,
    },
    Whoami {
        login: String,
        name: String,
        groups: Vec<String>,
    },
    /// Preferences of the person, and the setting of the channel.
    Preferences {
        mine: Preferences,
        /// Setting of the channel in which the request was made; `None` outside channels.
        here: Option<ChannelSetting>,
        changed: bool,
    },
    /// Effect of a command if it were given now.
    Preview {
        preview: Box<Preview>,
    },
    Admitted(Admitted),
    Refused(Refusal),
    /// The request is done to a batch, by a command that may have been given far from its card.
    Acted {
        batch: Box<BatchView>,
        /// What was done, such as `is approved by you`.
        did: String,
    },
    /// The request is done; its event informs everybody concerned.
    Done,
}

/// Error: nothing was done, with the reason.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ErrorReply {
    /// Stable name of the error, such as `invalid` or `conflict.plan_changed`.
    pub code: String,
    pub message: String,
    /// Text of the request, when `column` points into it.
    pub input: Option<String>,
    /// Position of the error, in characters of `input` from 1.
    pub column: Option<usize>,
    /// Advice: what to do instead.
    pub hint: Option<String>,
}

/// A submission that became a batch.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Admitted {
    pub batch: BatchId,
    pub action: String,
    pub state: BatchState,
    pub hosts: Vec<HostName>,
    /// Plan digest in hexadecimal digits.
    pub digest: String,
    /// Approvals that are needed; empty during the checks, and when none are needed.
    pub approvals: Vec<ApprovalView>,
}

/// Submission that was stored as refused, because other batches have claimed some of its hosts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refusal {
    pub batch: BatchId,
    pub action: String,
    pub hosts: Vec<HostName>,
    pub held: Vec<Held>,
    pub free: Vec<HostName>,
    /// Command for the free hosts alone, if chat knows the action.
    pub free_command: Option<String>,
}
