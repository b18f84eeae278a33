//! Preview of a command: its effect if it were given now.

use serde::{Deserialize, Serialize};

use super::host::HostName;
use super::overlap::Held;
use super::view::ApprovalView;

/// Effect of a command if it were given now.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Preview {
    /// Command that the preview is for.
    pub command: String,
    pub action: String,
    pub risk: String,
    /// Arguments that differ from their defaults, as a person would type them.
    pub params: Vec<(String, String)>,
    pub reason: Option<String>,
    pub hosts: Vec<HostName>,
    /// Number of hosts of each owner group.
    pub owners: Vec<(String, u32)>,
    pub datacenters: Vec<(String, u32)>,
    pub steps: Vec<String>,
    /// Number of hosts of each wave.
    pub waves: Vec<u32>,
    pub max_concurrent: Option<u32>,
    pub max_fail: Option<String>,
    /// Hosts that other batches have claimed now.
    pub held: Vec<Held>,
    pub free: Vec<HostName>,
    /// Reason why the person may not give the command.
    pub forbidden: Option<String>,
    /// Approvals that would be needed; empty for none.
    pub approvals: Vec<ApprovalView>,
    /// Time to wait for approvals, in seconds.
    pub expires_secs: u64,
}
