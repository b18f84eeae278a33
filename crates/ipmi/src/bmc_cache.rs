//! Cache of what earlier sessions showed about each BMC. It only saves packets: a forgotten BMC
//! costs one or two more.
//!
//! The cache does not record which BMCs answer with message tag 0: our random session number
//! identifies their replies. Invariants: the cache is bounded; the record of a BMC with a dialogue
//! under way is never removed, because its lock is the right to talk to that BMC.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use crate::rakp::CipherSuite;

/// Largest number of records.
const MAX_RECORDS: usize = 65_536;
/// Message tags of one exchange: of Open Session, RAKP 1 and RAKP 3.
const TAGS: u8 = 3;
/// Largest first tag of an exchange.
const LAST_TAG: u8 = u8::MAX - TAGS;
/// Largest number of steps by which a slow BMC gets more time.
const MAX_SLOWNESS: u32 = 2;

type SharedRecord = Arc<tokio::sync::Mutex<BmcRecord>>;

/// Records of all BMCs.
#[derive(Debug)]
pub struct BmcCache {
    max_records: usize,
    records: Mutex<HashMap<SocketAddr, SharedRecord>>,
}

impl Default for BmcCache {
    fn default() -> Self {
        BmcCache { max_records: MAX_RECORDS, records: Mutex::default() }
    }
}

/// Record of one BMC.
#[derive(Debug, Default)]
pub struct BmcRecord {
    /// Cipher suite of the last session.
    pub suite: Option<CipherSuite>,
    /// End of the last session.
    pub ended: Option<Instant>,
    /// Message tag of the last exchange; 0 before the first.
    tag: u8,
    /// Number of steps; one more after each slow session, one less after each other one.
    slowness: u32,
}

impl BmcRecord {
    /// Records the end of a session; `slow` is true if the BMC was slow or busy in it.
    pub fn end_session(&mut self, slow: bool) {
        self.slowness = match slow {
            true => MAX_SLOWNESS.min(self.slowness + 1),
            false => self.slowness.saturating_sub(1),
        };
        self.ended = Some(Instant::now());
    }

    /// First of the three message tags of the next exchange, which no exchange before it had for a
    /// long while: a refusal may carry nothing but the tag, and may come late.
    pub fn next_tag(&mut self) -> u8 {
        self.tag = match self.tag {
            // Tags are never 0, because some BMCs always answer with 0.
            0 => rand::random_range(1..=LAST_TAG),
            tag if tag > LAST_TAG - TAGS => 1,
            tag => tag + TAGS,
        };
        self.tag
    }

    /// Longest wait for a reply: up to twice the usual one.
    pub fn timeout(&self, usual: Duration) -> Duration {
        usual * (MAX_SLOWNESS + self.slowness) / MAX_SLOWNESS
    }

    /// Shortest time between two commands: up to four times the usual one.
    pub fn interval(&self, usual: Duration) -> Duration {
        usual * 2u32.pow(self.slowness)
    }
}

impl BmcCache {
    /// Waits for the right to talk to a BMC, which one caller has at a time.
    pub async fn lock(&self, peer: SocketAddr) -> OwnedMutexGuard<BmcRecord> {
        self.record(peer).lock_owned().await
    }

    fn record(&self, peer: SocketAddr) -> SharedRecord {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = records.get(&peer) {
            return Arc::clone(record);
        }
        if records.len() >= self.max_records {
            remove_older_half(&mut records);
        }
        Arc::clone(records.entry(peer).or_default())
    }
}

/// Removes the half that was not used for the longest time. A caller that talks to a BMC, or waits
/// for it, holds a second reference, which keeps the record.
fn remove_older_half(records: &mut HashMap<SocketAddr, SharedRecord>) {
    let mut idle: Vec<(Option<Instant>, SocketAddr)> = records
        .iter_mut()
        .filter_map(|(peer, record)| Some((Arc::get_mut(record)?.get_mut().ended, *peer)))
        .collect();
    idle.sort_unstable();
    for (_, peer) in &idle[..idle.len().div_ceil(2)] {
        records.remove(peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], n + 1))
    }

    #[tokio::test]
    async fn the_cache_is_bounded_and_keeps_what_is_new_or_in_use() {
        let cache = BmcCache { max_records: 100, records: Mutex::default() };
        let in_use = cache.lock(peer(0)).await;
        for n in 1..=1000 {
            let mut record = cache.lock(peer(n)).await;
            record.suite = Some(CipherSuite::Three);
            record.end_session(false);
            drop(record);
            assert!(cache.records.lock().unwrap().len() <= 100);
        }
        assert_eq!(cache.lock(peer(1000)).await.suite, Some(CipherSuite::Three), "the newest");
        assert_eq!(cache.lock(peer(1)).await.suite, None, "long forgotten");
        let again = cache.record(peer(0));
        assert!(again.try_lock().is_err(), "it is still being spoken with");
        drop(in_use);
        assert!(again.try_lock().is_ok());
    }

    #[test]
    fn a_slow_bmc_gets_more_time_until_it_is_fast_again() {
        let usual = Duration::from_secs(1);
        let mut record = BmcRecord::default();
        let seen = |record: &BmcRecord| {
            (record.timeout(usual).as_millis(), record.interval(usual).as_secs())
        };
        assert_eq!(seen(&record), (1000, 1));
        let all: Vec<_> = [true, true, true, false, false, false]
            .map(|slow| {
                record.end_session(slow);
                seen(&record)
            })
            .into();
        assert_eq!(all, [(1500, 2), (2000, 4), (2000, 4), (1500, 2), (1000, 1), (1000, 1)]);
    }
}
