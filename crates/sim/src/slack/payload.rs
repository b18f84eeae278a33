//! Payloads for acts of people, in Slack's documented shapes.

use std::time::Instant;

use anyhow::Context;
use serde_json::{Value, json};

use super::METAL;
use super::deliver::UserAction;
use super::state::{BOT, State, conversation, message};

const APP: &str = "A0METAL";

impl State {
    pub fn trigger(&mut self, user: &str) -> String {
        let trigger = format!("{}.{}.stand-in", self.next(), self.next());
        self.triggers.insert(trigger.clone(), (user.into(), Instant::now()));
        trigger
    }

    /// Creates an address that accepts five answers, even if the bot is not in the channel.
    fn response(&mut self, channel: &str, user: &str) -> String {
        let id = self.next().to_string();
        self.responses.insert(id.clone(), (channel.into(), user.into(), 5));
        format!("http://{}/respond/{}/{id}", self.address, self.team)
    }

    /// Payload of a slash command.
    /// <https://docs.slack.dev/interactivity/implementing-slash-commands>
    pub fn slash(&mut self, who: &str, channel: &str, text: &str) -> anyhow::Result<UserAction> {
        let user = self.in_channel(who, channel)?;
        let trigger = self.trigger(&user);
        let response = self.response(channel, &user);
        let payload = json!({
            "token": "legacy", "team_id": self.team, "team_domain": "metal",
            "channel_id": channel, "channel_name": if channel == METAL { "metal" } else { "random" },
            "user_id": user, "user_name": who, "command": "/metal", "text": escaped(text),
            "api_app_id": APP, "is_enterprise_install": "false",
            "response_url": response, "trigger_id": trigger,
        });
        Ok(self.installed("slash_commands", payload))
    }

    /// Payload of a press of a button.
    /// <https://docs.slack.dev/reference/interaction-payloads/block_actions-payload>
    pub fn click(
        &mut self,
        who: &str,
        channel: &str,
        ts: &str,
        label: &str,
    ) -> anyhow::Result<UserAction> {
        let user = self.in_channel(who, channel)?;
        let trigger = self.trigger(&user);
        let stamp = self.next_ts();
        let shown = self.message(channel, ts)?;
        let mut action = shown.button(label).with_context(|| format!("no button {label}"))?;
        action["block_id"] = "b1".into();
        action["action_ts"] = stamp.into();
        let payload = json!({
            "type": "block_actions",
            "user": { "id": user, "username": who, "name": who, "team_id": self.team },
            "api_app_id": APP, "token": "legacy",
            "container": {
                "type": "message", "message_ts": ts, "channel_id": channel,
                "is_ephemeral": shown.only_to.is_some(),
            },
            "trigger_id": trigger, "team": { "id": self.team, "domain": "metal" },
            "enterprise": null, "is_enterprise_install": false,
            "channel": { "id": channel, "name": "metal" },
            "message": {
                "bot_id": "B0BOT", "type": "message", "user": shown.user, "ts": ts,
                "text": shown.fallback, "blocks": shown.blocks, "metadata": shown.metadata,
            },
            "state": { "values": {} }, "response_url": "https://hooks.slack.test/actions/1",
            "actions": [action],
        });
        Ok(self.installed("interactive", payload))
    }

    /// Payload of an added or removed emoji.
    /// <https://docs.slack.dev/reference/events/reaction_added>
    pub fn react(
        &mut self,
        who: &str,
        channel: &str,
        ts: &str,
        name: &str,
        added: bool,
    ) -> anyhow::Result<UserAction> {
        let user = self.in_channel(who, channel)?;
        let stamp = self.next_ts();
        let found = self.messages.iter_mut().find(|m| m.channel == channel && m.ts == ts);
        let message = found.context("there is no such message")?;
        let reaction = (name.to_owned(), user.clone());
        if added {
            message.reactions.insert(reaction);
        } else {
            message.reactions.remove(&reaction);
        }
        let author = message.user.clone();
        Ok(self.event(json!({
            "type": if added { "reaction_added" } else { "reaction_removed" },
            "user": user, "reaction": name, "item_user": author,
            "item": { "type": "message", "channel": channel, "ts": ts }, "event_ts": stamp,
        })))
    }

    /// Payload of a message. <https://docs.slack.dev/reference/events/message>
    pub fn say(
        &mut self,
        who: &str,
        channel: &str,
        thread: Option<&str>,
        text: &str,
    ) -> anyhow::Result<(String, UserAction)> {
        let user = self.in_channel(who, channel)?;
        let text = escaped(text);
        let content = json!({ "text": text, "thread_ts": thread });
        let ts = self.post(message(channel, &user, &content));
        let mut event = json!({
            "type": "message", "user": user, "ts": ts, "text": text, "team": self.team,
            "client_msg_id": format!("00000000-{ts}"), "channel": channel, "event_ts": ts,
            "channel_type": "channel",
            "blocks": [{ "type": "rich_text", "block_id": "x", "elements": [] }],
        });
        if let Some(head) = thread {
            event["thread_ts"] = head.into();
            event["parent_user_id"] = self.message(channel, head)?.user.as_str().into();
        }
        Ok((ts, self.event(event)))
    }

    /// Payload of a submitted form.
    /// <https://docs.slack.dev/reference/interaction-payloads/view-interactions-payload>
    pub fn submit_view(&mut self, who: &str, values: Value) -> anyhow::Result<UserAction> {
        let user = self.user(who)?.id.clone();
        let trigger = self.trigger(&user);
        let view = self.view(who).with_context(|| format!("{who} has no view open"))?;
        let mut view = view.clone();
        view["state"] = json!({ "values": values });
        let payload = json!({
            "type": "view_submission", "team": { "id": self.team, "domain": "metal" },
            "user": { "id": user, "username": who, "name": who, "team_id": self.team },
            "api_app_id": APP, "token": "legacy", "trigger_id": trigger, "view": view,
            "response_urls": [], "is_enterprise_install": false, "enterprise": null,
        });
        Ok(self.installed("interactive", payload))
    }

    /// Payload of an opened home. <https://docs.slack.dev/reference/events/app_home_opened>
    pub fn open_home(&mut self, who: &str) -> anyhow::Result<UserAction> {
        let user = self.user(who)?.id.clone();
        let stamp = self.next_ts();
        Ok(self.event(json!({
            "type": "app_home_opened", "user": user, "channel": conversation(&user),
            "tab": "home", "event_ts": stamp,
        })))
    }

    /// Payload for a new member of a channel.
    /// <https://docs.slack.dev/reference/events/member_joined_channel>
    pub fn invite(&mut self, who: &str, channel: &str) -> anyhow::Result<UserAction> {
        let user = self.in_channel(who, channel)?;
        self.channels.entry(channel.into()).or_default().insert(BOT.into());
        let stamp = self.next_ts();
        Ok(self.event(json!({
            "type": "member_joined_channel", "user": BOT, "channel": channel,
            "channel_type": "C", "team": self.team, "inviter": user, "event_ts": stamp,
        })))
    }

    /// Adapts a payload to the place of the app's installation: for a whole organisation, payloads
    /// name the organisation and no workspace, or one of its workspaces as well.
    pub fn installed(&self, kind: &'static str, mut payload: Value) -> UserAction {
        if self.team.starts_with('E') {
            let (org, one) = (self.team.as_str(), "T0MEMBER");
            match kind {
                "slash_commands" => {
                    payload["team_id"] = one.into();
                    payload["enterprise_id"] = org.into();
                    payload["is_enterprise_install"] = "true".into();
                }
                "interactive" => {
                    payload["team"] = Value::Null;
                    payload["enterprise"] = json!({ "id": org, "name": "Org" });
                    payload["is_enterprise_install"] = true.into();
                }
                _ => {
                    payload["team_id"] = one.into();
                    payload["authorizations"][0] = json!({
                        "enterprise_id": org, "team_id": one, "user_id": BOT, "is_bot": true,
                        "is_enterprise_install": true,
                    });
                }
            }
        }
        UserAction { kind, payload }
    }

    /// Wraps an event.
    fn event(&mut self, event: Value) -> UserAction {
        let payload = json!({
            "token": "legacy", "team_id": self.team, "context_team_id": self.team,
            "context_enterprise_id": null, "api_app_id": APP, "event": event,
            "type": "event_callback", "event_id": format!("Ev{:08}", self.next()),
            "event_time": 1_700_000_000, "is_ext_shared_channel": false,
            "authorizations": [{
                "enterprise_id": null, "team_id": self.team, "user_id": BOT, "is_bot": true,
                "is_enterprise_install": false,
            }],
            "event_context": "4-stand-in",
        });
        self.installed("events_api", payload)
    }
}

/// Escapes text, as Slack does with everything that people type.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
