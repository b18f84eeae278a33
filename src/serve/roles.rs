//! The roles of one process. A small site runs all of it in one.

use std::str::FromStr;

/// One part of the whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Web,
    Worker,
    Relay,
}

impl Role {
    /// As `--roles` names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Web => "web",
            Role::Worker => "worker",
            Role::Relay => "relay",
        }
    }
}

/// Roles of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Roles {
    /// Console, deliveries from chat, health and metrics.
    pub web: bool,
    /// Conducts batches and works on hosts.
    pub worker: bool,
    /// Sends notices and tickets, lets batches expire, seals the audit.
    pub relay: bool,
}

impl Roles {
    pub const ALL: Roles = Roles { web: true, worker: true, relay: true };

    pub fn has(self, role: Role) -> bool {
        match role {
            Role::Web => self.web,
            Role::Worker => self.worker,
            Role::Relay => self.relay,
        }
    }
}

/// Text that names no roles.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is not a role: give some of web, worker and relay, separated by commas")]
pub struct NotARole(String);

impl FromStr for Roles {
    type Err = NotARole;

    fn from_str(text: &str) -> Result<Self, NotARole> {
        let mut roles = Roles { web: false, worker: false, relay: false };
        for name in text.split(',') {
            match name.trim() {
                "web" => roles.web = true,
                "worker" => roles.worker = true,
                "relay" => roles.relay = true,
                other => return Err(NotARole(other.to_owned())),
            }
        }
        Ok(roles)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_read_strictly() {
        assert_eq!("web,worker, relay".parse(), Ok(Roles::ALL));
        let web = Roles { web: true, worker: false, relay: false };
        assert_eq!("web".parse(), Ok(web));
        assert_eq!("wbe".parse::<Roles>(), Err(NotARole("wbe".into())));
        assert_eq!("".parse::<Roles>(), Err(NotARole("".into())));
    }
}
