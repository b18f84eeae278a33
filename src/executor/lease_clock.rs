//! Clock of a lease, which a task can ask at any moment.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// Time until which a lease certainly stands, by this process's monotonic clock: a process that was
/// frozen finds it in the past. Every act asks it at the last moment, because what speaks with a
/// BMC goes on when the task that waits for it has been ended.
#[derive(Debug)]
pub struct LeaseClock(Mutex<Instant>);

impl LeaseClock {
    pub fn new(until: Instant) -> Self {
        LeaseClock(Mutex::new(until))
    }

    /// Moves the end of the lease.
    pub fn extend(&self, until: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// Ends a lease that is lost: nothing may be done under it any more.
    pub fn revoke(&self) {
        self.extend(Instant::now());
    }

    /// Returns whether the lease certainly stands now.
    pub fn holds(&self) -> bool {
        Instant::now() < *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
