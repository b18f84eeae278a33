//! Triage tickets as people see them on cards and in `/metal status`.

use serde::{Deserialize, Serialize};

use super::error_kind::ErrorKind;
use super::host::HostName;

/// A triage ticket as people see it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TicketView {
    /// Empty while it waits to be filed.
    pub key: String,
    pub url: String,
    pub kind: ErrorKind,
    /// Jira's own word, such as `In Progress`.
    #[serde(default)]
    pub status: Option<String>,
    #[serde(default)]
    pub assignee: Option<String>,
    /// Why it is not filed yet.
    #[serde(default)]
    pub waits: Option<String>,
    /// It waits for an operator, not only for Jira.
    #[serde(default)]
    pub refused: bool,
}

/// A host whose ticket was closed as one that nobody will fix.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WontFixView {
    pub host: HostName,
    /// Of the ticket.
    pub key: String,
    pub url: String,
    /// In Jira's words.
    pub resolution: String,
}
