//! The configuration: one TOML file, and the environment on top of it.
//!
//! Invariants: an unknown key or a wrong type is an error that names file and key; a secret is
//! never printed, not even by an error about it; relative paths are relative to the file.
//! `packaging/metalbot.toml` explains every key.
//!
//! A variable `METALBOT_SECTION__KEY` sets `key` of `[section]`, and `METALBOT_STATE_DIR` the state
//! folder; other variables without a double underscore are not configuration. `DATABASE_URL` wins
//! over `[database]`.

mod audit;
mod check;
mod http;
mod jira;
mod outgoing;
mod read;
mod slack;
mod tickets;
mod time_zone;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::identity::authz::AllowRule;
use crate::runtime::database::Configured;
use crate::telemetry::LogFormat;
use metalbot_core::domain::approval::ApprovalRule;
use metalbot_core::domain::caps::Caps;
use metalbot_core::domain::human_duration;
use metalbot_core::domain::notify::ApproverMention;
use metalbot_core::domain::placement::ReachableDatacenters;
use metalbot_core::domain::time_zone::Zone;
use metalbot_core::domain::triage::TicketPolicy;
use secrecy::SecretString;

pub use audit::AuditConfig;
pub use http::HttpConfig;
pub use jira::{JiraConfig, JiraSite};
pub use outgoing::OutgoingConfig;
pub use slack::{SlackConfig, SlackMode};

/// A configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}: {cause}", .file.display())]
    Read { file: PathBuf, cause: std::io::Error },
    /// One line per wrong key, each with its source.
    #[error("{}", .0.join("\n"))]
    Keys(Vec<String>),
    /// Keys that are right by themselves but do not work together.
    #[error("{}: {}", .file.display(), .problems.join("\n"))]
    Problems { file: PathBuf, problems: Vec<String> },
}

/// Everything that can be configured.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// File this was read from; for messages.
    #[serde(skip)]
    pub file: PathBuf,
    /// Folder of the private cluster.
    #[serde(default = "state_dir")]
    pub state_dir: PathBuf,
    #[serde(default)]
    pub database: DatabaseConfig,
    #[serde(default)]
    pub audit: AuditConfig,
    #[serde(default)]
    pub http: HttpConfig,
    #[serde(default)]
    pub console: ConsoleConfig,
    pub directory: DirectoryConfig,
    pub inventory: InventoryConfig,
    /// BMC credentials by the name that the inventory uses.
    #[serde(default)]
    pub credentials: BTreeMap<String, CredentialConfig>,
    #[serde(default)]
    pub ipmi: metalbot_ipmi::Options,
    #[serde(default)]
    pub executor: ExecutorConfig,
    /// Limits of hosts that may be down at a time, over all batches.
    #[serde(default)]
    pub caps: Caps,
    #[serde(default)]
    pub rollout: RolloutConfig,
    #[serde(default)]
    pub limits: LimitsConfig,
    /// Rules of who may submit which action on whose hosts; without a rule nobody may.
    #[serde(default)]
    pub allow: Vec<AllowRule>,
    #[serde(default)]
    pub admin: AdminConfig,
    /// Rules of who must approve; the first match of each owner group holds.
    #[serde(default)]
    pub approval: Vec<ApprovalRule>,
    #[serde(default)]
    pub chat: ChatConfig,
    #[serde(default)]
    pub outgoing: OutgoingConfig,
    /// Without it Slack is not spoken to.
    pub slack: Option<SlackConfig>,
    /// Without it no tickets are filed.
    pub jira: Option<JiraConfig>,
    #[serde(default)]
    pub tickets: TicketPolicy,
    #[serde(default)]
    pub commands: FolderConfig,
    #[serde(default)]
    pub templates: FolderConfig,
    #[serde(default)]
    pub log: LogConfig,
}

fn state_dir() -> PathBuf {
    "state".into()
}

/// `[database]`: without a URL a private cluster is started in the state folder.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatabaseConfig {
    url: Option<SecretString>,
    url_file: Option<PathBuf>,
    url_env: Option<String>,
    /// What the address was read from.
    #[serde(skip)]
    setting: &'static str,
    /// Connections of this process's pool.
    pub max_connections: u32,
    /// Time after which the server gives a statement up; after twice that a process gives up a
    /// server that does not answer.
    #[serde(with = "human_duration")]
    pub statement_timeout: Duration,
    /// Age at which finished deliveries and notices are deleted. Batches and the audit stay.
    #[serde(with = "human_duration")]
    pub retention: Duration,
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        DatabaseConfig {
            url: None,
            url_file: None,
            url_env: None,
            setting: "database.url",
            max_connections: 20,
            statement_timeout: Duration::from_secs(30),
            retention: Duration::from_secs(90 * 86_400),
        }
    }
}

impl DatabaseConfig {
    /// The address as it was given, with the name of what gives it.
    pub fn configured(&self) -> Option<Configured<'_>> {
        self.url.as_ref().map(|url| Configured { setting: self.setting, url })
    }

    /// Time after which an answer that has not come never will: the server would have given the
    /// statement up long before.
    pub fn patience(&self) -> Duration {
        2 * self.statement_timeout
    }
}

/// `[console]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConsoleConfig {
    pub enabled: bool,
    pub channels: Vec<ChannelConfig>,
    /// Hours until a person has to log in again.
    pub session_hours: u32,
    /// See [`Config::secure_cookies`].
    pub secure_cookies: Option<bool>,
}

impl Default for ConsoleConfig {
    fn default() -> Self {
        let metal = ChannelConfig { name: "metal".into(), topic: "Work on servers".into() };
        ConsoleConfig {
            enabled: true,
            channels: vec![metal],
            session_hours: 12,
            secure_cookies: None,
        }
    }
}

/// A channel of the console.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelConfig {
    pub name: String,
    #[serde(default)]
    pub topic: String,
}

/// `[directory]`: people and groups.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectoryConfig {
    pub file: PathBuf,
}

/// `[inventory]`: hosts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InventoryConfig {
    pub file: PathBuf,
}

/// `[credentials.NAME]`: opens the BMCs that name it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialConfig {
    pub user: String,
    password: Option<SecretString>,
    password_file: Option<PathBuf>,
    password_env: Option<String>,
    #[serde(default)]
    pub privilege: metalbot_ipmi::Privilege,
}

impl CredentialConfig {
    pub fn password(&self) -> &SecretString {
        self.password.as_ref().expect("reading refuses a section without one")
    }
}

/// `[executor]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExecutorConfig {
    /// Datacenters whose BMCs this process reaches; `None`: all.
    pub datacenters: Option<Vec<String>>,
    /// Calls of BMCs of this process that may be under way at a time; jobs that wait need none.
    pub max_in_flight: u32,
    /// Time that a silent worker keeps its jobs.
    #[serde(with = "human_duration")]
    pub lease_duration: Duration,
    /// Time that a stopping worker has to finish its steps.
    #[serde(with = "human_duration")]
    pub drain_timeout: Duration,
    /// Each BMC is asked once in this time who it is; 0s: never.
    #[serde(with = "human_duration")]
    pub bmc_inventory_interval: Duration,
}

impl Default for ExecutorConfig {
    fn default() -> Self {
        ExecutorConfig {
            datacenters: None,
            max_in_flight: 1024,
            lease_duration: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(30),
            bmc_inventory_interval: Duration::from_secs(86_400),
        }
    }
}

impl ExecutorConfig {
    /// The datacenters whose BMCs this process reaches.
    pub fn reachable(&self) -> ReachableDatacenters {
        match &self.datacenters {
            Some(names) => ReachableDatacenters::only(names.iter().cloned()),
            None => ReachableDatacenters::ALL,
        }
    }
}

/// `[rollout]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RolloutConfig {
    /// Time after its last approval in which a destructive batch can still be stopped.
    #[serde(with = "human_duration")]
    pub countdown: Duration,
    /// In which times are meant that name none, and are shown.
    #[serde(deserialize_with = "time_zone::deserialize")]
    pub time_zone: Zone,
}

impl Default for RolloutConfig {
    fn default() -> Self {
        RolloutConfig { countdown: Duration::from_secs(30), time_zone: Zone::default() }
    }
}

/// `[limits]` of one submission.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Hosts.
    pub max_hosts: u32,
    /// Bytes of a command.
    pub max_text: usize,
    /// Refuses a submission without `reason=`.
    pub reason_required: bool,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        LimitsConfig { max_hosts: 10_000, max_text: 16 * 1024, reason_required: false }
    }
}

/// `[admin]`: groups that may steer every batch and release every host.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    pub groups: BTreeSet<String>,
}

/// `[chat]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChatConfig {
    /// Emoji names without colons.
    pub approve_reactions: Vec<String>,
    pub reject_reactions: Vec<String>,
    /// Time before the expiry of an approval at which those who must act are reminded.
    #[serde(with = "human_duration")]
    pub remind_before: Duration,
    /// Form in which owner groups are mentioned when they must approve.
    pub approver_mention: Vec<ApproverMention>,
}

impl Default for ChatConfig {
    fn default() -> Self {
        ChatConfig {
            approve_reactions: vec!["white_check_mark".into(), "+1".into()],
            reject_reactions: vec!["x".into()],
            remind_before: Duration::from_secs(15 * 60),
            approver_mention: Vec::new(),
        }
    }
}

/// `[commands]` or `[templates]`: a folder whose files add to the compiled-in ones or override them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FolderConfig {
    pub folder: Option<PathBuf>,
}

/// `[log]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    pub format: LogFormat,
    /// As [`crate::telemetry::init`] takes it.
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig { format: LogFormat::Text, filter: "info".into() }
    }
}
