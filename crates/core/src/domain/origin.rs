//! By which way a request came. A batch keeps it; where a batch is announced is another question.

use serde::{Deserialize, Serialize};

use super::inbound::ChatLocation;

/// The way by which somebody asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "origin", rename_all = "snake_case")]
pub enum Origin {
    /// A message, button or reaction on a chat platform.
    Chat { location: ChatLocation },
    /// A token of the REST API, by its name.
    Api { token: String },
    /// The command line on the named machine.
    CommandLine { machine: String },
    /// A schedule, by its name.
    Schedule { name: String },
    /// Metalbot itself, which takes back what was allocated and not used.
    Reclaim,
}

impl Origin {
    /// The stable name in the database.
    pub fn as_str(&self) -> &'static str {
        match self {
            Origin::Chat { .. } => "chat",
            Origin::Api { .. } => "api",
            Origin::CommandLine { .. } => "command_line",
            Origin::Schedule { .. } => "schedule",
            Origin::Reclaim => "reclaim",
        }
    }

    /// The way in words, for the audit and for people: `slack #C123`, `command line on ops1`.
    pub fn via(&self) -> String {
        match self {
            Origin::Chat { location } => format!("{} #{}", location.platform, location.channel),
            Origin::Api { token } => format!("api token {token}"),
            Origin::CommandLine { machine } => format!("command line on {machine}"),
            Origin::Schedule { name } => format!("schedule {name}"),
            Origin::Reclaim => "reclaim".into(),
        }
    }

    /// Where it was said, if it was said in chat.
    pub fn location(&self) -> Option<&ChatLocation> {
        match self {
            Origin::Chat { location } => Some(location),
            _ => None,
        }
    }
}
