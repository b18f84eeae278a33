//! BMCs and accounts that requests are for.

use std::fmt;

use secrecy::SecretString;
use serde::Deserialize;

/// BMC that a request is for.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// IP address or name, with a port if it is not 623: `10.0.0.7`, `bmc-7.example:6230`,
    /// `[fe80::7]:623`.
    pub address: &'a str,
    pub credentials: &'a Credentials,
    /// Group of BMCs whose sessions are limited together
    /// ([`Options::max_in_flight_per_datacenter`]), such as those of a datacenter behind one slow
    /// link. A client remembers every name that it was given.
    ///
    /// [`Options::max_in_flight_per_datacenter`]: crate::Options::max_in_flight_per_datacenter
    pub group: &'a str,
}

/// An account of a BMC. A user name has at most 16 bytes, a password at most 20 (IPMI 2.0 sections
/// 13.20 and 22.30); longer ones are [`Error::Misconfigured`] when they are used.
///
/// [`Error::Misconfigured`]: crate::Error::Misconfigured
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    pub user: String,
    pub password: SecretString,
    #[serde(default)]
    pub privilege: Privilege,
}

/// Privilege that a session is raised to, for commands other than reading the power state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Privilege {
    Operator,
    #[default]
    Administrator,
}

impl Privilege {
    /// Number of the level, IPMI 2.0 table 13-10.
    pub(crate) fn level(self) -> u8 {
        match self {
            Privilege::Operator => 0x03,
            Privilege::Administrator => 0x04,
        }
    }
}

impl fmt::Display for Privilege {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Privilege::Operator => "operator",
            Privilege::Administrator => "administrator",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_from_configuration_and_hide_the_password() {
        let text = "user = 'admin'\npassword = 'hunter2'\nprivilege = 'operator'";
        let credentials: Credentials = toml::from_str(text).unwrap();
        assert_eq!(credentials.privilege, Privilege::Operator);
        assert!(!format!("{credentials:?}").contains("hunter2"));
        let usual: Credentials = toml::from_str("user = 'admin'\npassword = 'x'").unwrap();
        assert_eq!(usual.privilege, Privilege::Administrator);
        assert!(toml::from_str::<Credentials>("user = 'a'\npassword = 'x'\nport = 1").is_err());
    }
}
