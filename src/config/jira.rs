//! `[jira]`: where triage tickets go.
//!
//! The section itself is the site that is called `default`; `[jira.site.NAME]` adds more.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::slack::leaves_in_clear;
use metalbot_core::domain::human_duration;
use metalbot_jira::{Auth, Dialect, SiteSettings};
use secrecy::SecretString;

/// By which routes call the site of `[jira]` itself.
pub(super) const DEFAULT_SITE: &str = "default";

/// `[jira]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JiraConfig {
    /// Base URL.
    pub url: String,
    #[serde(default)]
    pub dialect: Dialect,
    /// See [`JiraSite::user`].
    pub user: Option<String>,
    pub(super) token: Option<SecretString>,
    pub(super) token_file: Option<PathBuf>,
    pub(super) token_env: Option<String>,
    /// Key of the project.
    pub project: String,
    #[serde(default = "issue_type")]
    pub issue_type: String,
    #[serde(default = "labels")]
    pub labels: Vec<String>,
    /// Of one request.
    #[serde(default = "timeout", with = "human_duration")]
    pub timeout: Duration,
    /// More sites, by name.
    #[serde(default)]
    pub site: BTreeMap<String, JiraSite>,
}

/// `[jira.site.NAME]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JiraSite {
    /// Base URL.
    pub url: String,
    #[serde(default)]
    pub dialect: Dialect,
    /// User name or, on Cloud, email. With it the token is a password or an API token; without it
    /// a personal access token, which only Data Center has.
    pub user: Option<String>,
    pub(super) token: Option<SecretString>,
    pub(super) token_file: Option<PathBuf>,
    pub(super) token_env: Option<String>,
    /// Of one request.
    #[serde(default = "timeout", with = "human_duration")]
    pub timeout: Duration,
}

impl JiraConfig {
    /// Every site by its name, that of the section itself first.
    pub fn sites(&self) -> Vec<SiteSettings> {
        let own = settings(
            DEFAULT_SITE,
            &self.url,
            self.dialect,
            self.user.as_ref(),
            self.token.as_ref(),
            self.timeout,
        );
        let more = self.site.iter().map(|(name, site)| {
            let (user, token) = (site.user.as_ref(), site.token.as_ref());
            settings(name, &site.url, site.dialect, user, token, site.timeout)
        });
        std::iter::once(own).chain(more).collect()
    }

    pub(super) fn longest_timeout(&self) -> Duration {
        self.site.values().map(|site| site.timeout).fold(self.timeout, Duration::max)
    }

    /// Keys that have the right type but do not work.
    /// Finds tokens that everybody on the way can read.
    pub(super) fn warnings(&self) -> Vec<String> {
        let own = ("jira.url".to_owned(), &self.url);
        let more =
            self.site.iter().map(|(name, site)| (format!("jira.site.{name}.url"), &site.url));
        std::iter::once(own)
            .chain(more)
            .filter(|(_, url)| leaves_in_clear(url))
            .map(|(key, _)| format!("{key}: the token is sent without encryption; write https://"))
            .collect()
    }

    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.site.contains_key(DEFAULT_SITE) {
            problems.push(format!(
                "jira.site.{DEFAULT_SITE}: this is the name of [jira] itself; choose another one"
            ));
        }
        let own = ("jira".to_owned(), &self.url, self.dialect, &self.user, self.timeout);
        let more = self.site.iter().map(|(name, site)| {
            (format!("jira.site.{name}"), &site.url, site.dialect, &site.user, site.timeout)
        });
        for (key, url, dialect, user, timeout) in std::iter::once(own).chain(more) {
            if !url.starts_with("http://") && !url.starts_with("https://") {
                problems.push(format!("{key}.url: must begin with http:// or https://"));
            }
            if timeout < Duration::from_secs(1) {
                problems.push(format!("{key}.timeout: must be at least 1s"));
            }
            if dialect == Dialect::Cloud && user.is_none() {
                problems.push(format!("{key}.user: missing; Cloud takes a token with its email"));
            }
        }
        problems
    }
}

fn settings(
    name: &str,
    url: &str,
    dialect: Dialect,
    user: Option<&String>,
    token: Option<&SecretString>,
    timeout: Duration,
) -> SiteSettings {
    let token = token.expect("reading refuses a section without one").clone();
    let auth = match user {
        Some(user) => Auth::Basic { user: user.clone(), password: token },
        None => Auth::Bearer(token),
    };
    SiteSettings { name: name.into(), url: url.into(), dialect, auth, timeout, proxy: None }
}

fn issue_type() -> String {
    "Task".into()
}

fn labels() -> Vec<String> {
    vec!["metalbot".into()]
}

fn timeout() -> Duration {
    Duration::from_secs(10)
}
