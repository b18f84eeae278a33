//! `[slack]`: the app that people talk to, and how its deliveries come in.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Deserialize;

use crate::outgoing::is_here;
use secrecy::{ExposeSecret, SecretString};

/// `[slack]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlackConfig {
    #[serde(default = "yes")]
    pub enabled: bool,
    #[serde(default)]
    pub mode: SlackMode,
    pub(super) app_token: Option<SecretString>,
    pub(super) app_token_file: Option<PathBuf>,
    pub(super) app_token_env: Option<String>,
    pub(super) bot_token: Option<SecretString>,
    pub(super) bot_token_file: Option<PathBuf>,
    pub(super) bot_token_env: Option<String>,
    /// Installation of the one bot token, `T123` or `E12`; without it Slack is asked, and nothing is taken
    /// until it has answered.
    pub(super) team: Option<String>,
    /// Instead of the one bot token, where the app is installed more than once.
    #[serde(default)]
    pub(super) workspaces: Vec<Workspace>,
    pub(super) signing_secret: Option<SecretString>,
    pub(super) signing_secret_file: Option<PathBuf>,
    pub(super) signing_secret_env: Option<String>,
    /// Base URL of the Web API.
    #[serde(default = "slack_api_url")]
    pub api_url: String,
}

/// `[[slack.workspaces]]`: one installation.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workspace {
    /// `T123`, or `E12` of an organisation that the app was installed for as a whole.
    pub team: String,
    pub(super) bot_token: Option<SecretString>,
    pub(super) bot_token_file: Option<PathBuf>,
    pub(super) bot_token_env: Option<String>,
}

/// Transport of Slack's deliveries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlackMode {
    /// Over connections that we open.
    #[default]
    Socket,
    /// Over HTTP requests to our public address.
    Http,
}

impl SlackConfig {
    /// `xoxb-...`, by installation where there are several; at least one.
    pub fn bot_tokens(&self) -> Vec<(Option<&str>, &SecretString)> {
        const READ: &str = "reading refuses a section without one";
        if self.workspaces.is_empty() {
            return vec![(self.team.as_deref(), self.bot_token.as_ref().expect(READ))];
        }
        let each = self.workspaces.iter();
        each.map(|one| (Some(one.team.as_str()), one.bot_token.as_ref().expect(READ))).collect()
    }

    /// Finds tokens that are of another kind than a bot's.
    pub(super) fn warnings(&self) -> Vec<String> {
        let tokens = self.bot_tokens().into_iter();
        let others = tokens.filter(|(_, token)| !token.expose_secret().starts_with("xoxb-"));
        others
            .map(|(team, _)| {
                let of = team.map(|team| format!(" of {team}")).unwrap_or_default();
                format!(
                    "slack.bot_token{of}: a bot's token begins with xoxb-, and this one does not"
                )
            })
            .collect()
    }

    /// Finds the faults of the list of installations.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let single =
            [self.bot_token.is_some(), self.bot_token_file.is_some(), self.bot_token_env.is_some()];
        if !self.workspaces.is_empty() && single.contains(&true) {
            problems.push(
                "slack.bot_token: give one bot token, or one in each of slack.workspaces".into(),
            );
        }
        if leaves_in_clear(&self.api_url) {
            problems.push(
                "slack.api_url: write https://, or the tokens travel in the clear (http:// is for \
                 a stand-in on this machine)"
                    .into(),
            );
        }
        let wrong = |key: &str| {
            format!("{key}: write the id of a workspace (T...) or of an organisation (E...)")
        };
        match &self.team {
            Some(_) if !self.workspaces.is_empty() => {
                problems.push("slack.team: it belongs to slack.bot_token".into());
            }
            Some(team) if !is_installation(team) => problems.push(wrong("slack.team")),
            _ => {}
        }
        let mut teams = BTreeSet::new();
        for team in self.workspaces.iter().map(|one| one.team.as_str()) {
            if !is_installation(team) {
                problems.push(wrong("slack.workspaces.team"));
            } else if !teams.insert(team) {
                problems.push(format!("slack.workspaces.team: {team} is there twice"));
            }
        }
        problems
    }

    /// `xapp-...`; always there in socket mode.
    pub fn app_token(&self) -> Option<&SecretString> {
        self.app_token.as_ref()
    }

    /// Always there in HTTP mode.
    pub fn signing_secret(&self) -> Option<&SecretString> {
        self.signing_secret.as_ref()
    }
}

/// Whether what is sent to this address leaves the machine without encryption.
pub(super) fn leaves_in_clear(url: &str) -> bool {
    let url: Result<reqwest::Url, _> = url.parse();
    url.is_ok_and(|url| url.scheme() == "http" && !is_here(url.host_str().unwrap_or_default()))
}

/// Whether it has the form of an id of a workspace or an organisation.
fn is_installation(team: &str) -> bool {
    let id = team.strip_prefix(['T', 'E']).unwrap_or_default();
    !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
}

fn yes() -> bool {
    true
}

fn slack_api_url() -> String {
    "https://slack.com/api".into()
}
