//! `metalbot operator slack`: the manifest of the app, and whether the tokens can do what it needs.
//!
//! Invariant: the manifest is derived from the actions and from [`SCOPES`], and the check holds the
//! tokens against the same list.

use secrecy::ExposeSecret;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use clap::ValueEnum;
use serde_json::{Value, json};

use super::output::print;
use crate::chat::slack::forms::SHORTCUT;
use crate::config::{Config, SlackMode};
use crate::outgoing::causes;
use metalbot_core::command::Catalog;

/// Scopes of the app, each with its purpose.
const SCOPES: [(&str, &str); 13] = [
    ("commands", "the command /metal and its shortcut"),
    ("chat:write", "cards, answers and all other messages"),
    ("reactions:read", "approvals by a reaction"),
    ("channels:history", "replies in the threads of public channels"),
    ("groups:history", "replies in the threads of private channels"),
    ("im:write", "direct messages, and files in them"),
    ("im:history", "whether a direct message arrived whose outcome is not known"),
    ("channels:read", "whether it is in a public channel, and when it is invited"),
    ("groups:read", "the same of private channels"),
    ("users:read", "who somebody is"),
    ("users:read.email", "whom of the directory an address belongs to"),
    ("files:read", "lists of hosts handed over as a file in a form"),
    ("files:write", "long lists of hosts, sent as a file"),
];
/// Events that the app subscribes to.
const EVENTS: [&str; 6] = [
    "app_home_opened",
    "member_joined_channel",
    "message.channels",
    "message.groups",
    "reaction_added",
    "reaction_removed",
];
/// Longest usage hint of a command.
const MOST_HINT: usize = 1_000;
const PATIENCE: Duration = Duration::from_secs(15);
const APPS: &str = "https://api.slack.com/apps";

/// Transport by which Slack reaches Metalbot.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Mode {
    Socket,
    Http,
}

/// Prints the manifest.
pub(super) fn manifest(
    mode: Mode,
    url: Option<&str>,
    commands: Option<&Path>,
) -> anyhow::Result<ExitCode> {
    let catalog = Catalog::load(commands)?;
    let url = match mode {
        Mode::Socket => None,
        Mode::Http => Some(url.context("--url is missing")?),
    };
    print(&serde_json::to_string_pretty(&written(&catalog, url))?)?;
    Ok(ExitCode::SUCCESS)
}

/// The manifest; with an address for requests over HTTP, without one for Socket Mode.
/// <https://docs.slack.dev/reference/app-manifest>
fn written(catalog: &Catalog, url: Option<&str>) -> Value {
    let actions: Vec<&str> = catalog.actions().map(|action| action.name.as_str()).collect();
    let hint = format!("{} HOSTS, help, status, list, or nothing for a form", actions.join("|"));
    let scopes: Vec<&str> = SCOPES.iter().map(|(scope, _)| *scope).collect();
    let mut manifest = json!({
        "display_information": {
            "name": "Metalbot",
            "description": "Metal as a Service: work on servers, approved by their owners",
        },
        "features": {
            "app_home": {
                "home_tab_enabled": true,
                "messages_tab_enabled": true,
                "messages_tab_read_only_enabled": true,
            },
            "bot_user": { "display_name": "metalbot", "always_online": true },
            "shortcuts": [{
                "name": "New batch", "type": "global", "callback_id": SHORTCUT,
                "description": "Ask for work on servers in a form",
            }],
            "slash_commands": [{
                "command": "/metal",
                "description": "Ask for work on servers",
                "usage_hint": hint.chars().take(MOST_HINT).collect::<String>(),
                "should_escape": false,
            }],
        },
        "oauth_config": { "scopes": { "bot": scopes } },
        "settings": {
            "event_subscriptions": { "bot_events": EVENTS },
            "interactivity": { "is_enabled": true },
            "org_deploy_enabled": false,
            "socket_mode_enabled": url.is_none(),
            "token_rotation_enabled": false,
        },
    });
    if let Some(url) = url {
        let url = format!("{}{}", url.trim_end_matches('/'), crate::chat::slack::http::PATH);
        manifest["features"]["slash_commands"][0]["url"] = url.as_str().into();
        manifest["settings"]["event_subscriptions"]["request_url"] = url.as_str().into();
        manifest["settings"]["interactivity"]["request_url"] = url.into();
    }
    manifest
}

/// Asks Slack about the tokens of a configuration.
pub(super) async fn check(file: &Path) -> anyhow::Result<ExitCode> {
    let config = Config::load(file)?;
    let slack = config.slack.as_ref().context("the configuration has no section [slack]")?;
    // The very same way out as that of the service.
    let outgoing = config.outgoing()?;
    // Each question over a connection of its own: a proxy may close one in the very moment it is used again.
    let client = outgoing.client().timeout(PATIENCE).pool_max_idle_per_host(0).build()?;
    let proxy = outgoing.proxy_to(&slack.api_url);
    let proxy = proxy.map(|name| format!(" through the proxy {name}")).unwrap_or_default();
    let api = slack.api_url.trim_end_matches('/');
    let ask = async |method: &str, token: &str| -> anyhow::Result<(Option<String>, Value)> {
        let sent = client.post(format!("{api}/{method}")).bearer_auth(token).send().await;
        // The address may hold nothing secret, but the cause is what helps.
        let answer = sent.map_err(|error| {
            anyhow!("Slack does not answer{proxy}: {}", causes(&error.without_url()))
        })?;
        ensure!(answer.status().is_success(), "Slack{proxy} answers {}", answer.status());
        let scopes = answer.headers().get("x-oauth-scopes");
        let scopes = scopes.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = answer.json().await.map_err(|error| error.without_url());
        Ok((scopes, body.context("Slack's answer cannot be read")?))
    };
    let mut wrong = Vec::new();

    for (team, token) in slack.bot_tokens() {
        let name = team.map_or("bot token".into(), |team| format!("bot token of {team}"));
        let (scopes, said) = ask("auth.test", token.expose_secret()).await?;
        if said["ok"] != true {
            wrong.push(format!(
                "{name}: Slack says {}. Copy the \"Bot User OAuth Token\" (xoxb-...) from {APPS}, \
                 your app, \"OAuth & Permissions\"",
                shown(&said["error"])
            ));
            continue;
        }
        print(&format!("{name}: fine, {} in {}", shown(&said["user"]), shown(&said["team"])))?;
        let org = said["is_enterprise_install"] == true;
        let own = &said[if org { "enterprise_id" } else { "team_id" }];
        if team.is_some_and(|team| own != team) {
            wrong.push(format!("{name}: it is the token of {}", shown(own)));
        }
        wrong.extend(missing(scopes.as_deref().unwrap_or_default()));
    }
    match (slack.mode, slack.app_token()) {
        (SlackMode::Socket, Some(token)) => {
            let (_, said) = ask("apps.connections.open", token.expose_secret()).await?;
            if said["ok"] == true {
                // Without the last step: Slack would begin to send deliveries here.
                let address = said["url"].as_str().unwrap_or_default();
                match outgoing.reach(address).await {
                    Ok(()) => print("app token: fine, Socket Mode can be opened")?,
                    Err(error) => wrong.push(format!("Socket Mode: cannot reach {error}")),
                }
            } else {
                wrong.push(format!(
                    "app token: Slack says {}. Make one with the scope connections:write at {APPS}, \
                     your app, \"Basic Information\", \"App-Level Tokens\", and turn Socket Mode on",
                    shown(&said["error"])
                ));
            }
        }
        (SlackMode::Socket, None) => wrong.push("app token: missing".into()),
        (SlackMode::Http, _) => {
            print("mode http: the signing secret is checked by Slack's first request")?;
        }
    }
    for problem in &wrong {
        print(problem)?;
    }
    ensure!(wrong.is_empty(), "{} to be mended", count(wrong.len()));
    print("all is there")?;
    Ok(ExitCode::SUCCESS)
}

/// Names the [`SCOPES`] that a token lacks, and says how to get them.
fn missing(scopes: &str) -> Vec<String> {
    let have: Vec<&str> = scopes.split(',').map(str::trim).collect();
    let lacking = SCOPES.iter().filter(|(scope, _)| !have.contains(scope));
    lacking
        .map(|(scope, what_for)| {
            format!(
                "scope {scope} is missing ({what_for}). Add it at {APPS}, your app, \"OAuth & \
                 Permissions\", and install the app again"
            )
        })
        .collect()
}

/// Slack's words, as far as they are a word.
fn shown(value: &Value) -> String {
    let text = value.as_str().unwrap_or("nothing");
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

fn count(number: usize) -> String {
    match number {
        1 => "1 thing".into(),
        _ => format!("{number} things"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_follows_the_actions() {
        let catalog = Catalog::load(None).unwrap();
        let socket = written(&catalog, None);
        let hint = socket["features"]["slash_commands"][0]["usage_hint"].as_str().unwrap();
        assert!(hint.starts_with("identify|power-off|power-on|reboot HOSTS"), "{hint}");
        assert_eq!(socket["settings"]["socket_mode_enabled"], true);
        assert!(socket["settings"]["interactivity"].get("request_url").is_none());
        let http = written(&catalog, Some("https://metal.example.org/"));
        assert_eq!(http["settings"]["socket_mode_enabled"], false);
        let url = http["features"]["slash_commands"][0]["url"].as_str().unwrap();
        assert!(url.starts_with("https://metal.example.org/slack"), "{url}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let all: Vec<&str> = SCOPES.iter().map(|(scope, _)| *scope).collect();
        assert!(missing(&all.join(",")).is_empty());
        let few = missing(
            "commands, chat:write,reactions:read,channels:history,groups:history,\
                           users:read,files:write,files:read,channels:read,groups:read,im:write,im:history",
        );
        assert_eq!(few.len(), 1);
        assert!(few[0].starts_with("scope users:read.email is missing"), "{few:?}");
        assert_eq!(missing("").len(), SCOPES.len());
    }
}
