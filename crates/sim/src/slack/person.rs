//! A person in the simulated Slack, who acts and sees as in its app.

use anyhow::{Context, ensure};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::state::{BOT, ShownMessage};
use super::{METAL, SimSlack, page};
use crate::actor::{ChatUser, SeenMessage, plain};

/// Person of the workspace.
pub struct SlackPerson<'a> {
    slack: &'a SimSlack,
    login: String,
}

impl SimSlack {
    /// Person of the workspace, in the channel for work on servers.
    pub fn person(&self, login: &str) -> SlackPerson<'_> {
        SlackPerson { slack: self, login: login.into() }
    }
}

impl SlackPerson<'_> {
    fn seen(&self, message: &ShownMessage) -> SeenMessage {
        let state = self.slack.world.lock();
        let html = page::content(&state, message);
        let author = state.users.get(&message.user).map_or("metalbot", |user| &user.login);
        // Cards may have no buttons.
        let heads = message.user == BOT && message.thread.is_none() && message.only_to.is_none();
        let label = |label: &String| json!({ "label": label });
        let buttons: Vec<Value> = message.buttons().iter().map(label).collect();
        SeenMessage {
            id: message.ts.clone(),
            thread: message.thread.clone(),
            author: author.into(),
            text: plain(&html),
            html,
            only_you: message.only_to.is_some() || message.channel != METAL,
            card: (heads || !buttons.is_empty()).then(|| json!({ "buttons": buttons })),
        }
    }
}

#[async_trait]
impl ChatUser for SlackPerson<'_> {
    fn login(&self) -> &str {
        &self.login
    }

    async fn command(&self, text: &str) -> anyhow::Result<()> {
        let text = text.strip_prefix("/metal").context("the app knows /metal only")?;
        self.slack.slash(&self.login, METAL, text.trim_start()).await.map(drop)
    }

    async fn reply(&self, head: &SeenMessage, text: &str) -> anyhow::Result<()> {
        self.slack.say(&self.login, METAL, Some(&head.id), text).await.map(drop)
    }

    async fn react(&self, to: &SeenMessage, emoji: &str) -> anyhow::Result<()> {
        self.slack.react(&self.login, METAL, &to.id, emoji).await
    }

    async fn press(&self, on: &SeenMessage, label: &str) -> anyhow::Result<()> {
        self.slack.click(&self.login, METAL, &on.id, label).await.map(drop)
    }

    async fn answer(&self, on: &SeenMessage, label: &str, answer: &str) -> anyhow::Result<()> {
        ChatUser::press(self, on, label).await?;
        let view = self.slack.view(&self.login).context("no form opened")?;
        let fields = view["blocks"].as_array().into_iter().flatten();
        let mut inputs = fields.filter(|block| block["type"] == "input");
        let field = inputs.next().context("the form asks nothing")?;
        ensure!(inputs.next().is_none(), "the form asks more than one thing: {view}");
        let typed = json!({ "type": "plain_text_input", "value": answer });
        let (block, action) = (text(&field["block_id"])?, text(&field["element"]["action_id"])?);
        let values = json!({ block: { action: typed } });
        self.slack.submit_view(&self.login, values).await.map(drop)
    }

    async fn messages(&self, head: Option<&SeenMessage>) -> anyhow::Result<Vec<SeenMessage>> {
        let all = self.slack.world.lock().visible(&self.login);
        let here = all.iter().filter(|message| match head {
            Some(head) => message.ts == head.id || message.thread.as_ref() == Some(&head.id),
            None => message.thread.is_none(),
        });
        Ok(here.map(|message| self.seen(message)).collect())
    }
}

fn text(value: &Value) -> anyhow::Result<&str> {
    value.as_str().context("a field has no name")
}
