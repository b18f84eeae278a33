//! The console as a chat platform: the bot's messages become rows of its channels.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use sqlx::PgPool;

use crate::app::console_message::{self, ConsoleError, Post};
use crate::chat::{Chat, ChatError, Message};
use metalbot_core::domain::inbound::ChatLocation;

/// Posts into the console's channels.
#[derive(Clone, Debug)]
pub struct ConsoleChat {
    pool: PgPool,
    channels: Arc<[String]>,
}

impl ConsoleChat {
    /// Makes the platform; `channels` are the only ones that exist.
    pub fn new(pool: PgPool, channels: impl IntoIterator<Item = String>) -> Self {
        ConsoleChat { pool, channels: channels.into_iter().collect() }
    }
}

#[async_trait]
impl Chat for ConsoleChat {
    async fn post(
        &self,
        to: &ChatLocation,
        only_to: Option<&str>,
        key: &str,
        message: &Message,
    ) -> Result<String, ChatError> {
        if !self.channels.contains(&to.channel) {
            return Err(ChatError::Rejected(format!("there is no channel {:?}", to.channel)));
        }
        let card = card_json(message);
        let post = Post {
            author: console_message::BOT,
            channel: &to.channel,
            thread: to.thread.as_deref(),
            only_to,
            key,
            markdown: &storable(&message.markdown),
            card: card.as_ref(),
        };
        console_message::post(&self.pool, post).await.map_err(chat_error)
    }

    async fn update(&self, _: &ChatLocation, id: &str, message: &Message) -> Result<(), ChatError> {
        let card = card_json(message);
        let markdown = storable(&message.markdown);
        console_message::update(&self.pool, id, &markdown, card.as_ref()).await.map_err(chat_error)
    }
}

fn card_json(message: &Message) -> Option<Value> {
    message
        .card
        .as_ref()
        .map(|card| serde_json::to_value(card).expect("a card holds only strings and numbers"))
}

/// Replaces NUL characters, which PostgreSQL's text cannot hold; a message must not fail for one.
fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn chat_error(error: ConsoleError) -> ChatError {
    match error {
        // The row itself is wrong, for example its thread does not exist; another try cannot help.
        ConsoleError::Database(sqlx::Error::Database(cause))
            if cause.is_foreign_key_violation() || cause.is_check_violation() =>
        {
            ChatError::Rejected(cause.to_string())
        }
        ConsoleError::Database(cause) => ChatError::Transient(cause.to_string()),
        other => ChatError::Rejected(other.to_string()),
    }
}
