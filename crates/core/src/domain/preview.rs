//! What a command would do, shown before it is given.

use serde::{Deserialize, Serialize};

use super::host::HostName;
use super::overlap::Held;
use super::view::ApprovalView;

/// What a command would do if it were given now.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Preview {
    /// The command that does it.
    pub command: String,
    pub action: String,
    pub risk: String,
    /// Arguments that differ from their defaults, as a person would type them.
    pub params: Vec<(String, String)>,
    pub reason: Option<String>,
    pub hosts: Vec<HostName>,
    /// Hosts of each owner group.
    pub owners: Vec<(String, u32)>,
    pub datacenters: Vec<(String, u32)>,
    pub steps: Vec<String>,
    /// Hosts of each wave.
    pub waves: Vec<u32>,
    pub max_concurrent: Option<u32>,
    pub max_fail: Option<String>,
    /// Who holds hosts right now.
    pub held: Vec<Held>,
    pub free: Vec<HostName>,
    /// Why the person may not do it.
    pub forbidden: Option<String>,
    /// Empty when nobody needs to approve.
    pub approvals: Vec<ApprovalView>,
    /// How long approvals would be waited for.
    pub expires_secs: u64,
}
