//! The use cases. Each is one function over the caller's transaction: it takes the request's person
//! and origin ([`RequestContext`]), authorises, checks, changes, queues the events that people
//! should hear of, and answers with data or a typed [`Error`]. The interface ([`intake`] for chat)
//! owns the transaction, so that a request and all its effects commit together or not at all, and
//! renders the answer.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use metalbot_core::command::{Catalog, CommandLimits};
use metalbot_core::domain::approval::ApprovalRule;
use metalbot_core::domain::notify::ApproverMention;

use crate::identity::DirectoryHandle;
use crate::identity::authz::Policy;
use crate::inventory::Inventory;
use crate::runtime::hot_reload::HotReload;

pub mod admin_power;
pub mod agent_report;
pub mod app_home;
pub mod approval_check;
pub mod approver_reminders;
pub mod channel_access;
pub mod completion;
pub mod console_message;
pub mod context;
pub mod control;
pub mod decide;
pub mod error;
pub mod execute;
pub mod form;
pub mod identify;
pub mod ingest;
pub mod intake;
mod interpret;
pub mod outgoing_post;
pub mod platform;
pub mod preference;
pub mod preview;
pub mod query;
pub mod sessions;
pub mod stop_intake;
pub mod submit;

pub use context::RequestContext;
pub use error::Error;
pub use platform::{ChatPlatform, PlatformError};

/// Configuration and catalogs of the use cases; everything that they read besides the database.
pub struct App {
    pub catalog: Catalog,
    pub inventory: Arc<HotReload<Inventory>>,
    pub directory: DirectoryHandle,
    pub policy: Policy,
    pub approvals: Vec<ApprovalRule>,
    pub limits: CommandLimits,
    pub reactions: Reactions,
    /// Mentions and channels of owner groups, for messages that ask them to approve.
    pub approver_mentions: Vec<ApproverMention>,
    /// Time before the expiry of an approval at which those who must act are reminded.
    pub remind_before: Duration,
    /// The platforms that vouch for their users' addresses, by name.
    pub platforms: HashMap<&'static str, Arc<dyn ChatPlatform>>,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// Emoji names that count as decisions when put on a card.
#[derive(Clone, Debug)]
pub struct Reactions {
    pub approve: Vec<String>,
    pub reject: Vec<String>,
}
