//! `[slack]`: the app that people talk to, and how its deliveries come in.

use std::path::PathBuf;

use serde::Deserialize;

use crate::domain::secret::Secret;

/// `[slack]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slack {
    #[serde(default = "yes")]
    pub enabled: bool,
    #[serde(default)]
    pub mode: SlackMode,
    pub(super) app_token: Option<Secret>,
    pub(super) app_token_file: Option<PathBuf>,
    pub(super) app_token_env: Option<String>,
    pub(super) bot_token: Option<Secret>,
    pub(super) bot_token_file: Option<PathBuf>,
    pub(super) bot_token_env: Option<String>,
    pub(super) signing_secret: Option<Secret>,
    pub(super) signing_secret_file: Option<PathBuf>,
    pub(super) signing_secret_env: Option<String>,
    /// Base URL of the Web API.
    #[serde(default = "slack_api_url")]
    pub api_url: String,
}

/// How Slack's deliveries come in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlackMode {
    /// Over connections that we open.
    #[default]
    Socket,
    /// Over HTTP requests to our public address.
    Http,
}

impl Slack {
    /// `xoxb-...`
    pub fn bot_token(&self) -> &Secret {
        self.bot_token.as_ref().expect("reading refuses a section without one")
    }

    /// `xapp-...`; always there in socket mode.
    pub fn app_token(&self) -> Option<&Secret> {
        self.app_token.as_ref()
    }

    /// Always there in HTTP mode.
    pub fn signing_secret(&self) -> Option<&Secret> {
        self.signing_secret.as_ref()
    }
}

fn yes() -> bool {
    true
}

fn slack_api_url() -> String {
    "https://slack.com/api".into()
}
