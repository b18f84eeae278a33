//! Waits for what is to be seen.

use std::time::Duration;

use anyhow::ensure;

use super::state::{BOT, ShownMessage};
use super::{METAL, SimSlack};
use crate::actor;

impl SimSlack {
    /// Waits until a message matches; returns the newest match.
    pub async fn wait_for(
        &self,
        who: &str,
        channel: &str,
        at_most: Duration,
        what: &str,
        wanted: impl Fn(&ShownMessage) -> bool,
    ) -> anyhow::Result<ShownMessage> {
        let look = async || self.messages(who, channel);
        actor::wait_for(who, what, at_most, look, |message| message.text.clone(), wanted).await
    }

    /// Waits until the card of a batch matches; returns the card.
    pub async fn card(
        &self,
        batch: i64,
        at_most: Duration,
        wanted: impl Fn(&ShownMessage) -> bool,
    ) -> anyhow::Result<ShownMessage> {
        let title = format!("*#{batch} ");
        self.wait_for("alice", METAL, at_most, &format!("the card of #{batch}"), |message| {
            message.thread.is_none()
                && message.only_to.is_none()
                && message.user == BOT
                && message.text.lines().next().is_some_and(|line| line.contains(&title))
                && wanted(message)
        })
        .await
    }

    /// Waits until so many connections are open and greeted.
    pub async fn connected(&self, number: usize) -> anyhow::Result<()> {
        let started = std::time::Instant::now();
        while self.connections() != number {
            let waited = started.elapsed();
            ensure!(waited < Duration::from_secs(60), "{} connections", self.connections());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}
