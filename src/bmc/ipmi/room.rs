//! How many sessions may be open at a time, over all BMCs and in each datacenter.
//!
//! Invariant: whoever waits for its datacenter holds nothing that others wait for, so that a
//! datacenter at its limit does not keep the others from working. Waits are served in order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

#[derive(Debug)]
pub struct Room {
    all: Arc<Semaphore>,
    each: usize,
    datacenters: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// The right to have one session open.
#[derive(Debug)]
pub struct Place {
    _datacenter: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

impl Room {
    /// Room for so many sessions in all and in each datacenter; at least one.
    pub fn new(all: usize, each: usize) -> Room {
        Room { all: semaphore(all), each, datacenters: Mutex::default() }
    }

    /// Waits for a place.
    pub async fn enter(&self, datacenter: &str) -> Place {
        let there = {
            let mut all = self.datacenters.lock().unwrap_or_else(PoisonError::into_inner);
            match all.get(datacenter) {
                Some(there) => Arc::clone(there),
                // As many as the inventory names.
                None => {
                    all.entry(datacenter.to_owned()).or_insert_with(|| semaphore(self.each)).clone()
                }
            }
        };
        let never_closed = "the semaphores are never closed";
        let datacenter = there.acquire_owned().await.expect(never_closed);
        let all = Arc::clone(&self.all).acquire_owned().await.expect(never_closed);
        Place { _datacenter: datacenter, _all: all }
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
    fn a_full_datacenter_keeps_nobody_else_out() {
        let room = Room::new(3, 2);
        let enter = |datacenter: &str| room.enter(datacenter).now_or_never();
        let (first, second) = (enter("fra1"), enter("fra1"));
        assert!(first.is_some() && second.is_some());
        assert!(enter("fra1").is_none(), "two are enough");
        let elsewhere = enter("ams1");
        assert!(elsewhere.is_some());
        assert!(enter("ams1").is_none(), "three in all");
        drop(first);
        assert!(enter("ams1").is_some());
        drop(elsewhere);
        assert!(enter("fra1").is_some());
    }
}
