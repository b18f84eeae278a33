//! What people see in the simulated Slack, and our side of it alone.

use std::sync::Arc;

use metalbot::chat::slack::chat::SlackChat;
use metalbot::chat::slack::web_api::{Bots, SlackSettings, WebApi};
use metalbot_core::domain::inbound::ChatLocation;
use metalbot_sim::slack::{BOT_TOKEN, METAL, ShownMessage, SimSlack, TEAM};
use secrecy::SecretString;

use super::wait::{PATIENCE, until};
use super::world::World;

/// What this person sees next that has this text.
pub async fn sees(slack: &SimSlack, who: &str, text: &str) -> ShownMessage {
    slack.wait_for(who, METAL, PATIENCE, text, |m| m.text.contains(text)).await.unwrap()
}

/// What this person alone is answered in a channel.
pub async fn answered(slack: &SimSlack, who: &str, channel: &str, text: &str) -> ShownMessage {
    let fits = |m: &ShownMessage| m.only_to.is_some() && m.text.contains(text);
    slack.wait_for(who, channel, PATIENCE, text, fits).await.unwrap()
}

/// What Metalbot tells this person directly.
pub async fn told(slack: &SimSlack, who: &str, text: &str) -> ShownMessage {
    slack.wait_for(who, who, PATIENCE, text, |m| m.text.contains(text)).await.unwrap()
}

/// Waits until Slack was asked this more often than before.
pub async fn is_asked(slack: &SimSlack, method: &str, before: usize) {
    let asked = async || slack.calls(method) > before;
    until(&format!("a call of {method}"), asked).await;
}

/// Metalbot's adapter alone, as another process has it.
pub fn chat(world: &World) -> SlackChat {
    let settings = SlackSettings {
        api_url: world.slack().api_url(),
        bots: Bots::One(SecretString::from(BOT_TOKEN)),
        app_token: None,
    };
    let api = Arc::new(
        WebApi::new(&settings, metalbot::outgoing::Outgoing::new(&Default::default()).unwrap())
            .unwrap(),
    );
    SlackChat::new(world.db.pool.clone(), api, world.app())
}

/// The channel for work on servers, as Metalbot names it.
pub fn metal() -> ChatLocation {
    ChatLocation { platform: "slack".into(), channel: format!("{TEAM}/{METAL}"), thread: None }
}
