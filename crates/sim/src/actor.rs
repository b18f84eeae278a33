//! Users of the simulated site, independent of their platform: the console or the simulated Slack.
//! The demo's script is written with these.

use std::time::{Duration, Instant};

use anyhow::bail;
use async_trait::async_trait;
use serde_json::Value;

/// Message as a user sees it.
#[derive(Clone, Debug)]
pub struct SeenMessage {
    pub id: String,
    pub thread: Option<String>,
    /// Login of the author, or `metalbot`.
    pub author: String,
    /// Text without markup.
    pub text: String,
    pub html: String,
    /// True if nobody else sees the message.
    pub only_you: bool,
    /// Card with live data, as the console's pages get it.
    pub card: Option<Value>,
}

impl SeenMessage {
    /// Labels of the card's buttons.
    pub fn buttons(&self) -> Vec<String> {
        let buttons = self.card.as_ref().and_then(|card| card["buttons"].as_array());
        let label = |button: &Value| button["label"].as_str().unwrap_or_default().to_owned();
        buttons.map(|all| all.iter().map(label).collect()).unwrap_or_default()
    }

    /// Value of the button with this label.
    pub fn button(&self, label: &str) -> Option<String> {
        let buttons = self.card.as_ref()?["buttons"].as_array()?;
        let button = buttons.iter().find(|button| button["label"] == label)?;
        button["value"].as_str().map(str::to_owned)
    }
}

/// Acts of a user in the channel for work on servers.
#[async_trait]
pub trait ChatUser {
    fn login(&self) -> &str;

    /// Types a command, slash included.
    async fn command(&self, text: &str) -> anyhow::Result<()>;

    /// Posts in the thread under a message.
    async fn reply(&self, head: &SeenMessage, text: &str) -> anyhow::Result<()>;

    /// Adds an emoji to a message.
    async fn react(&self, to: &SeenMessage, emoji: &str) -> anyhow::Result<()>;

    /// Presses the button with this label.
    async fn press(&self, on: &SeenMessage, label: &str) -> anyhow::Result<()>;

    /// Presses a button that opens a form, and fills it in.
    async fn answer(&self, on: &SeenMessage, label: &str, answer: &str) -> anyhow::Result<()>;

    /// Messages of the channel and direct messages, or those of the thread under a message; oldest
    /// first.
    async fn messages(&self, head: Option<&SeenMessage>) -> anyhow::Result<Vec<SeenMessage>>;
}

/// Polls until a message matches; returns the newest match.
pub async fn wait_for<M: Clone>(
    who: &str,
    what: &str,
    at_most: Duration,
    look: impl AsyncFn() -> Vec<M>,
    text: impl Fn(&M) -> String,
    wanted: impl Fn(&M) -> bool,
) -> anyhow::Result<M> {
    let started = Instant::now();
    loop {
        let messages = look().await;
        if let Some(found) = messages.iter().rev().find(|message| wanted(message)) {
            return Ok(found.clone());
        }
        if started.elapsed() > at_most {
            let there: Vec<String> =
                messages.iter().map(|message| format!("  {}", text(message))).collect();
            bail!("{who} never saw {what}; what there is:\n{}", there.join("\n"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Text of HTML that this crate made.
pub fn plain(html: &str) -> String {
    let mut out = String::new();
    let mut rest = html;
    while let Some(open) = rest.find('<') {
        out += &rest[..open];
        let Some(close) = rest[open..].find('>') else { break };
        let tag = &rest[open..=open + close];
        if tag.starts_with("</p") || tag.starts_with("</li") || tag.starts_with("<br") {
            out.push('\n');
        }
        rest = &rest[open + close + 1..];
    }
    out += rest;
    let entities = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")];
    let text = entities.iter().fold(out, |text, (from, to)| text.replace(from, to));
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("\n")
}
