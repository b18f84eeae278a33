//! Triage tickets as people see them on cards and in `/metal status`.

use serde::{Deserialize, Serialize};

use super::error_kind::ErrorKind;
use super::host::HostName;

/// A triage ticket as people see it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TicketView {
    /// Jira's key; empty until the ticket is filed.
    pub key: String,
    pub url: String,
    pub kind: ErrorKind,
    /// Status in Jira's words, such as `In Progress`.
    #[serde(default)]
    pub status: Option<String>,
    #[serde(default)]
    pub assignee: Option<String>,
    /// Reason why the ticket is not filed yet.
    #[serde(default)]
    pub waits: Option<String>,
    /// Set when the ticket waits for an operator, not only for Jira.
    #[serde(default)]
    pub refused: bool,
}

/// Host whose ticket was closed as one that nobody will fix.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WontFixView {
    pub host: HostName,
    /// Key of the ticket.
    pub key: String,
    pub url: String,
    /// Resolution in Jira's words.
    pub resolution: String,
}
