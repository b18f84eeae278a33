//! What a person is answered: data that each front door renders in its own way, chat by a template,
//! the API as JSON, the command line as a table.

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
    /// The platform's user is nobody in the directory.
    UnknownUser {
        platform: String,
        user: String,
        /// Groups of those who can be asked.
        admins: Vec<String>,
    },
    Help {
        /// `None`: there is no help on that.
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
    /// The hosts that a node set means.
    NodeSet {
        expression: String,
        hosts: Vec<HostName>,
    },
    Whoami {
        login: String,
        name: String,
        groups: Vec<String>,
    },
    /// What the person and the channel prefer to be told.
    Preferences {
        mine: Preferences,
        /// Of the channel where it was asked, if it was asked in one.
        here: Option<ChannelSetting>,
        changed: bool,
    },
    /// What a command would do.
    Preview {
        preview: Box<Preview>,
    },
    Admitted(Admitted),
    Refused(Refusal),
    /// What was asked for is done; its event says it to everybody concerned.
    Done,
}

/// Why nothing was done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ErrorReply {
    /// Stable name, such as `invalid` or `conflict.plan_changed`.
    pub code: String,
    pub message: String,
    /// What was typed, when an error points into it.
    pub input: Option<String>,
    /// 1-based, in characters of `input`.
    pub column: Option<usize>,
    /// What would be right.
    pub hint: Option<String>,
}

/// A submission that became a batch.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Admitted {
    pub batch: BatchId,
    pub action: String,
    pub state: BatchState,
    pub hosts: Vec<HostName>,
    /// The plan digest in hexadecimal digits.
    pub digest: String,
    /// What must be approved; empty while the hosts are checked, and when nobody needs to.
    pub approvals: Vec<ApprovalView>,
}

/// A submission that was stored as refused, since others hold some of its hosts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Refusal {
    pub batch: BatchId,
    pub action: String,
    pub hosts: Vec<HostName>,
    pub held: Vec<Held>,
    pub free: Vec<HostName>,
    /// Command that asks for the free hosts alone, where chat knows the action.
    pub free_command: Option<String>,
}
