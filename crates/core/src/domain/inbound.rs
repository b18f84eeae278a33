//! Messages and acts from chat platforms, in one form for all platforms.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// A channel of a chat platform, or a thread in it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ChatLocation {
    pub platform: String,
    pub channel: String,
    /// Id of the first message of the thread.
    pub thread: Option<String>,
}

impl ChatLocation {
    /// Location in a channel, outside any thread.
    pub fn channel(platform: impl Into<String>, channel: impl Into<String>) -> ChatLocation {
        ChatLocation { platform: platform.into(), channel: channel.into(), thread: None }
    }
}

/// User as the platform names them; `identity` maps it to a person of the directory.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct PlatformUser {
    pub platform: String,
    pub id: String,
}

/// One delivery of a chat platform.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Inbound {
    /// Id that the platform gave the delivery: a repeated delivery has the same id.
    pub delivery: String,
    pub user: PlatformUser,
    pub location: ChatLocation,
    pub body: InboundBody,
}

/// Act of a person in chat.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum InboundBody {
    /// Text after the slash command: `reboot web[01-12]`.
    Command { text: String },
    /// Plain message in a thread.
    ThreadReply {
        text: String,
        /// Time by the platform's clock, if the platform gives one.
        #[serde(default, with = "time::serde::rfc3339::option")]
        at: Option<OffsetDateTime>,
    },
    /// Emoji added to a message or removed from it; `name` without colons.
    Reaction {
        message: String,
        name: String,
        added: bool,
        /// Time by the platform's clock, if it gives one: an older act may be delivered later.
        #[serde(default, with = "time::serde::rfc3339::option")]
        at: Option<OffsetDateTime>,
    },
    /// Button of a card; `value` is the value that Metalbot gave the button, `answer` the text that
    /// the person entered if the button asks for one.
    Button {
        message: String,
        value: String,
        #[serde(default)]
        answer: Option<String>,
    },
}

impl InboundBody {
    /// Time of the act, if the platform gives one.
    pub fn at(&self) -> Option<OffsetDateTime> {
        match self {
            InboundBody::ThreadReply { at, .. } | InboundBody::Reaction { at, .. } => *at,
            InboundBody::Command { .. } | InboundBody::Button { .. } => None,
        }
    }
}
