//! Limits of the number of open sessions, over all BMCs and in each group.
//!
//! Invariant: a caller that waits for its group holds nothing that others wait for, so that a group
//! at its limit does not block the others. Waits are served in order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Limits, with the number of sessions in use.
#[derive(Debug)]
pub struct SessionLimiter {
    all: Arc<Semaphore>,
    per_group: usize,
    groups: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// Right to have one session open; dropping it gives it back.
#[derive(Debug)]
pub struct SessionPermit {
    _group: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl SessionLimiter {
    /// Sets the limits for all sessions together and for those of each group; zero counts as one.
    pub fn new(all: usize, per_group: usize) -> SessionLimiter {
        SessionLimiter { all: semaphore(all), per_group, groups: Mutex::default() }
    }

    /// Waits until one more session may be opened with a BMC of the group.
    pub async fn acquire(&self, group: &str) -> SessionPermit {
        let never_closed = "the semaphores are never closed";
        let group = self.group(group).acquire_owned().await.expect(never_closed);
        let all = Arc::clone(&self.all).acquire_owned().await.expect(never_closed);
        SessionPermit { _group: group, _all: all }
    }

    /// Limit of a group. Never removed: there are only as many groups as the caller has names.
    fn group(&self, name: &str) -> Arc<Semaphore> {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = groups.get(name) {
            return Arc::clone(group);
        }
        let new = semaphore(self.per_group);
        groups.insert(name.to_owned(), Arc::clone(&new));
        new
    }
}

fn semaphore(size: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(size.clamp(1, Semaphore::MAX_PERMITS)))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_full_group_keeps_nobody_else_out() {
        let limiter = SessionLimiter::new(3, 2);
        let acquire = |group: &str| limiter.acquire(group).now_or_never();
        let (first, second) = (acquire("fra1"), acquire("fra1"));
        assert!(first.is_some() && second.is_some());
        assert!(acquire("fra1").is_none(), "two are enough");
        let elsewhere = acquire("ams1");
        assert!(elsewhere.is_some());
        assert!(acquire("ams1").is_none(), "three in all");
        drop(first);
        assert!(acquire("ams1").is_some());
        drop(elsewhere);
        assert!(acquire("fra1").is_some());
    }
}
