//! Origin of a request: chat, API token, command line, schedule. A batch keeps it. The place where
//! a batch is announced is independent of it.

use serde::{Deserialize, Serialize};

use super::inbound::ChatLocation;

/// Origin of a request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "origin", rename_all = "snake_case")]
pub enum Origin {
    /// Message, button or reaction on a chat platform.
    Chat { location: ChatLocation },
    /// Token of the REST API, by its name.
    Api { token: String },
    /// Command line on the named machine.
    CommandLine { machine: String },
    /// Schedule, by its name.
    Schedule { name: String },
    /// Metalbot itself: it reclaims hosts that were allocated and not used.
    Reclaim,
}

impl Origin {
    /// Stable name in the database.
    pub fn as_str(&self) -> &'static str {
        match self {
            Origin::Chat { .. } => "chat",
            Origin::Api { .. } => "api",
            Origin::CommandLine { .. } => "command_line",
            Origin::Schedule { .. } => "schedule",
            Origin::Reclaim => "reclaim",
        }
    }

    /// Origin in words, for the audit and for people: `slack #C123`, `command line on ops1`.
    pub fn via(&self) -> String {
        match self {
            Origin::Chat { location } => format!("{} #{}", location.platform, location.channel),
            Origin::Api { token } => format!("api token {token}"),
            Origin::CommandLine { machine } => format!("command line on {machine}"),
            Origin::Schedule { name } => format!("schedule {name}"),
            Origin::Reclaim => "reclaim".into(),
        }
    }

    /// Place of the request in chat; `None` for other origins.
    pub fn location(&self) -> Option<&ChatLocation> {
        match self {
            Origin::Chat { location } => Some(location),
            _ => None,
        }
    }
}
