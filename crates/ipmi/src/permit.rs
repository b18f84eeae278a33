//! The right to act, asked for when everything else is done and looked at again at the last moment.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nix::time::{ClockId, clock_gettime};

/// Right to act on a machine, which may be somebody else's by now. It is asked for in an open session,
/// right before the packet that acts: opening a session may take longer than a right lasts.
///
/// When there is none, nothing is sent and the call ends in [`Error::NoPermit`].
///
/// [`Error::NoPermit`]: crate::Error::NoPermit
#[async_trait]
pub trait Permit: Debug + Send + Sync {
    /// Asks whether the act may be done; `None` when it must not. Asked once for each command that
    /// acts, and again where a busy BMC did not take it.
    async fn ask(&self) -> Option<Act>;
}

/// Permit of a caller that nobody can take the machine from.
pub fn unrestricted() -> Arc<dyn Permit> {
    Arc::new(Unrestricted)
}

#[derive(Debug)]
struct Unrestricted;

#[async_trait]
impl Permit for Unrestricted {
    async fn ask(&self) -> Option<Act> {
        Some(Act::ALWAYS)
    }
}

/// One act that may be sent now, and for a short while.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Act {
    /// `None`: it does not expire.
    until: Option<BootTime>,
}

impl Act {
    pub(crate) const ALWAYS: Act = Act { until: None };

    /// Creates an act that may be sent until `lifetime` after `asked`, the time just before the right
    /// was looked up.
    pub fn expiring(asked: BootTime, lifetime: Duration) -> Act {
        Act { until: Some(BootTime(asked.0 + lifetime)) }
    }

    /// Returns whether it may still be sent. The caller sends it next, with no await between.
    pub fn is_valid(&self) -> bool {
        self.until.is_none_or(|until| BootTime::now() < until)
    }
}

/// Time since the machine was started, with the time that it was suspended: of a process or a machine
/// that stood still, no act may leave that was allowed before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BootTime(Duration);

impl BootTime {
    pub fn now() -> BootTime {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME)
            .expect("Linux has had this clock since 2.6.39, and asking for it cannot fail");
        BootTime(now.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_act_expires() {
        let asked = BootTime::now();
        assert!(Act::expiring(asked, Duration::from_secs(60)).is_valid());
        assert!(!Act::expiring(asked, Duration::ZERO).is_valid());
    }
}
