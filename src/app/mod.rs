//! The use cases. Each is one function over the caller's transaction: it authorises, checks,
//! changes, and queues what people should hear. Front doors ([`intake`] for chat) own the
//! transaction, so that a delivery and all its effects commit together or not at all.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use time::OffsetDateTime;

use crate::identity::DirectoryHandle;
use crate::identity::authz::{Forbidden, Policy};
use crate::inventory::Inventory;
use crate::runtime::hot_reload::HotReload;
use metalbot_core::command::{Catalog, CommandError, CommandLimits};
use metalbot_core::domain::approval::ApprovalRule;
use metalbot_core::domain::batch::IllegalBatchEvent;
use metalbot_core::domain::inbound::{Place, PlatformUser};
use metalbot_core::domain::notify::Call;
use metalbot_core::domain::principal::{Actor, Principal};
use metalbot_store::batch::ApplyError;

pub mod admin_power;
pub mod app_home;
pub mod approver_reminders;
pub mod channel_access;
pub mod console_message;
pub mod control;
pub mod decide;
pub mod form;
pub mod identify;
pub mod ingest;
pub mod intake;
pub mod outgoing_post;
pub mod preference;
pub mod preview;
pub mod query;
pub mod sessions;
pub mod submit;

/// Asks a platform for the address of a user of its own that it has verified. `None`: it vouches for
/// none. The text says why it could not be asked.
pub type FindEmail =
    Arc<dyn Fn(PlatformUser) -> BoxFuture<'static, Result<Option<String>, String>> + Send + Sync>;

/// What the use cases know besides the database.
pub struct App {
    pub catalog: Catalog,
    pub inventory: Arc<HotReload<Inventory>>,
    pub directory: DirectoryHandle,
    pub policy: Policy,
    pub approvals: Vec<ApprovalRule>,
    pub limits: CommandLimits,
    pub reactions: Reactions,
    /// How groups are called when they must act.
    pub calls: Vec<Call>,
    /// How long before the expiry of an approval those who must act are reminded.
    pub remind_before: Duration,
    /// The platforms that vouch for their users' addresses, by name.
    pub addresses: HashMap<&'static str, FindEmail>,
    /// The platforms that show a message only where they were let in, by name.
    pub places: HashMap<&'static str, channel_access::FindClosed>,
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

/// One request of one person.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    pub who: &'a Principal,
    pub place: &'a Place,
    /// Names the request; what it queues is keyed by it.
    pub key: &'a str,
    /// When they asked, if that may be some time ago.
    pub at: Option<OffsetDateTime>,
}

impl Ask<'_> {
    /// For the audit.
    pub fn actor(&self) -> Actor {
        Actor { who: self.who.login.clone(), via: self.via() }
    }

    /// The door that it came through, for people.
    pub fn via(&self) -> String {
        format!("{} #{}", self.place.platform, self.place.channel)
    }
}

/// Why a request was not carried out. The text of all but [`Error::Internal`] is for the person.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Invalid(#[from] CommandError),
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Conflict(String),
    /// Whoever works on the request asks the platform about its place, and tries again.
    #[error("it is not known yet whether anybody sees what is said there; nothing was changed")]
    AskWhere,
    #[error("Metalbot cannot do this right now; nothing was changed")]
    Internal(#[source] sqlx::Error),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Error::Internal(error)
    }
}

impl From<Forbidden> for Error {
    fn from(forbidden: Forbidden) -> Self {
        Error::Forbidden(forbidden.to_string())
    }
}

impl From<IllegalBatchEvent> for Error {
    fn from(illegal: IllegalBatchEvent) -> Self {
        Error::Conflict(format!("the state of the batch does not allow it: {}", illegal.state))
    }
}

impl From<ApplyError> for Error {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Illegal(illegal) => illegal.into(),
            ApplyError::Database(error) => error.into(),
        }
    }
}
