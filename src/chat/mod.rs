//! What Metalbot asks of a chat platform. Platforms hand in [`metalbot_core::domain::inbound::Inbound`] and
//! take [`Message`]; nothing else about them passes this line.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use metalbot_core::domain::inbound::ChatLocation;

pub mod console;
pub mod slack;

/// Begins the address of a link that calls a person by login, or a group: `[**@bob**](mention:bob)`.
/// A platform that can notify them does.
pub const MENTION: &str = "mention:";

/// A message to people. The text is CommonMark; what people typed has been escaped in it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Message {
    pub markdown: String,
    pub card: Option<Card>,
}

/// The live part of a batch's message, or what a notice in its thread offers to do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Card {
    pub tone: Tone,
    pub progress: Option<Progress>,
    pub buttons: Vec<Button>,
}

/// How a card looks at first sight.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tone {
    Waiting,
    Working,
    Good,
    Warning,
    Bad,
    Neutral,
}

/// Counts of hosts for the progress bar.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Progress {
    pub total: u32,
    pub succeeded: u32,
    /// Failed and quarantined.
    pub failed: u32,
    pub running: u32,
    /// Cancelled before their work began.
    pub cancelled: u32,
}

/// A button of a card.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Button {
    pub label: String,
    /// Comes back in `InboundBody::Button`.
    pub value: String,
    pub style: ButtonStyle,
    /// What the person is asked before the press is sent; they may leave it empty.
    pub ask: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ButtonStyle {
    Plain,
    Primary,
    Danger,
}

/// Why a message could not be delivered.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The platform asks for patience, or its limits do; nothing was sent.
    #[error("the chat platform wants {why} to wait for {wait:?}")]
    Later { wait: Duration, why: String },
    /// Try again later; nothing is lost.
    #[error("the chat platform is unavailable: {0}")]
    Transient(String),
    /// It takes no message there until somebody has done something, which the text says for people.
    #[error("the chat platform shows nothing there: {0}")]
    Closed(String),
    /// The platform will never take this message.
    #[error("the chat platform refuses the message: {0}")]
    Rejected(String),
}

/// A platform that can show messages. Message ids are the platform's own.
#[async_trait]
pub trait Chat: Send + Sync + 'static {
    /// Posts a message and returns its id. `key` names the message: where the platform can, a
    /// second post under the same key is the first one. `only_to` makes it visible to one user.
    async fn post(
        &self,
        to: &ChatLocation,
        only_to: Option<&str>,
        key: &str,
        message: &Message,
    ) -> Result<String, ChatError>;

    /// The user whom the platform knows by this address, of its own people around the place. A
    /// platform that vouches for no addresses knows nobody.
    async fn user_by_email(&self, _: &ChatLocation, _: &str) -> Result<Option<String>, ChatError> {
        Ok(None)
    }

    /// Posts a message to one user alone. Here as one that only they see in the channel of `near`;
    /// a platform that has direct messages sends one.
    async fn direct(
        &self,
        near: &ChatLocation,
        user: &str,
        key: &str,
        message: &Message,
    ) -> Result<String, ChatError> {
        self.post(near, Some(user), key, message).await
    }

    /// An address that shows a message, on a platform that has such.
    async fn link(&self, _: &ChatLocation, _: &str) -> Result<Option<String>, ChatError> {
        Ok(None)
    }

    /// Replaces the content of a message.
    async fn update(&self, at: &ChatLocation, id: &str, message: &Message)
    -> Result<(), ChatError>;
}
