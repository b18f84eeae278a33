//! Interface of chat platforms. A platform decodes its deliveries to
//! [`metalbot_core::domain::inbound::Inbound`] and shows a [`Message`]; the rest of Metalbot knows
//! nothing else about it.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use metalbot_core::domain::inbound::ChatLocation;

pub mod console;
pub mod slack;

/// Prefix of a link's address that mentions a person by login, or a group:
/// `[**@bob**](mention:bob)`. A platform that can notify them does.
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

/// Colour of a card, by the state of its batch.
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
    /// Value that comes back in `InboundBody::Button`.
    pub value: String,
    pub style: ButtonStyle,
    /// Question that the person is asked before the press is sent; they may leave the answer empty.
    pub ask: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ButtonStyle {
    Plain,
    Primary,
    Danger,
}

/// Error of a message that could not be delivered.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// Nothing was sent; it may be tried again after `wait`. Causes: a rate limit, a refused token.
    #[error("the chat platform wants {why} to wait for {wait:?}")]
    Later { wait: Duration, why: String },
    /// Try again later; nothing is lost.
    #[error("the chat platform is unavailable: {0}")]
    Transient(String),
    /// The platform takes no message in this channel until people have done what the text says.
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

    /// Finds the user with this verified address in the installation that the location belongs to.
    /// A platform that verifies no addresses finds nobody.
    async fn user_by_email(&self, _: &ChatLocation, _: &str) -> Result<Option<String>, ChatError> {
        Ok(None)
    }

    /// Posts a message to one user alone. By default it is shown to them only, in the channel of
    /// `near`; a platform that has direct messages sends one.
    async fn direct(
        &self,
        near: &ChatLocation,
        user: &str,
        key: &str,
        message: &Message,
    ) -> Result<String, ChatError> {
        self.post(near, Some(user), key, message).await
    }

    /// Returns the address that shows a message, if the platform has such addresses.
    async fn link(&self, _: &ChatLocation, _: &str) -> Result<Option<String>, ChatError> {
        Ok(None)
    }

    /// Replaces the content of a message.
    async fn update(&self, at: &ChatLocation, id: &str, message: &Message)
    -> Result<(), ChatError>;
}
