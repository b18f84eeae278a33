//! Hosts: their names, where they stand, and how a list of them is written for people.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A host's name in its one normal form: lower case, no trailing dot, only letters, digits,
/// `-`, `_` and `.`, at most 253 characters (RFC 1123, with `_` for the fleets that use it).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

/// Text that cannot be a host's name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is not a host name: use letters, digits, '-', '_' and '.', at most 253 characters")]
pub struct NotAHostName(pub String);

impl HostName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = NotAHostName;

    fn from_str(text: &str) -> Result<Self, NotAHostName> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let labels_ok = name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        });
        if labels_ok && name.len() <= 253 {
            Ok(HostName(name))
        } else {
            Err(NotAHostName(text.chars().take(80).collect()))
        }
    }
}

impl TryFrom<String> for HostName {
    type Error = NotAHostName;

    fn try_from(text: String) -> Result<Self, NotAHostName> {
        text.parse()
    }
}

impl From<HostName> for String {
    fn from(name: HostName) -> String {
        name.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A physical server as the inventory knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Host {
    pub name: HostName,
    /// Group of the directory that is responsible for it.
    pub owner: String,
    pub datacenter: String,
    pub rack: String,
    pub sku: String,
    pub bmc: BmcEndpoint,
}

/// Where a host's management controller answers, and which credentials open it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BmcEndpoint {
    /// `address` or `address:port`; the IPMI port is 623 unless told otherwise.
    pub address: String,
    /// Name of a `[credentials.NAME]` section of the configuration; never the secret itself.
    pub credentials: String,
}
