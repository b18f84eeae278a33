//! What reaches us from a chat platform, once nothing about the platform is left but names.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// A channel of a chat platform, or a thread in it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ChatLocation {
    pub platform: String,
    pub channel: String,
    /// Id of the message at the head of the thread.
    pub thread: Option<String>,
}

impl ChatLocation {
    /// A channel, outside any thread.
    pub fn channel(platform: impl Into<String>, channel: impl Into<String>) -> ChatLocation {
        ChatLocation { platform: platform.into(), channel: channel.into(), thread: None }
    }
}

/// A user as the platform names them; `identity` knows which person that is.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct PlatformUser {
    pub platform: String,
    pub id: String,
}

/// One delivery of a chat platform.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Inbound {
    /// The platform's own id of the delivery: a repeat carries the same.
    pub delivery: String,
    pub user: PlatformUser,
    pub location: ChatLocation,
    pub body: InboundBody,
}

/// What a person did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum InboundBody {
    /// The text behind the slash command: `reboot web[01-12]`.
    Command { text: String },
    /// A plain message in a thread.
    ThreadReply {
        text: String,
        /// When, by the platform's clock, if it says so.
        #[serde(default, with = "time::serde::rfc3339::option")]
        at: Option<OffsetDateTime>,
    },
    /// An emoji put on a message or taken from it; `name` without colons.
    Reaction {
        message: String,
        name: String,
        added: bool,
        /// When, by the platform's clock, if it says so: it may deliver an older one later.
        #[serde(default, with = "time::serde::rfc3339::option")]
        at: Option<OffsetDateTime>,
    },
    /// A button of a card; `value` is what we gave the button, `answer` what the person wrote when
    /// they were asked for something.
    Button {
        message: String,
        value: String,
        #[serde(default)]
        answer: Option<String>,
    },
}

impl InboundBody {
    /// When it was done, where the platform says so.
    pub fn at(&self) -> Option<OffsetDateTime> {
        match self {
            InboundBody::ThreadReply { at, .. } | InboundBody::Reaction { at, .. } => *at,
            InboundBody::Command { .. } | InboundBody::Button { .. } => None,
        }
    }
}
