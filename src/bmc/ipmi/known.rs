//! What is known of each BMC from its last sessions. It is a help only: whatever is forgotten costs
//! a packet or two to learn again.
//!
//! There is nothing to know of the BMCs that answer with message tag 0: their replies are told by our
//! random session number. Invariants: the memory is bounded; what belongs to a BMC that is being
//! spoken with is never forgotten, because its lock is the right to speak with it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use super::rakp::Suite;

/// BMCs that are remembered.
const MOST: usize = 65_536;
/// Most steps by which a slow BMC is given more time.
const MOST_SLOW: u32 = 2;

type One = Arc<tokio::sync::Mutex<Known>>;

/// All that is known.
#[derive(Debug)]
pub struct Memory {
    most: usize,
    of: Mutex<HashMap<SocketAddr, One>>,
}

impl Default for Memory {
    fn default() -> Self {
        Memory { most: MOST, of: Mutex::default() }
    }
}

/// What is known of one BMC.
#[derive(Debug, Default)]
pub struct Known {
    /// The cipher suite of the last session.
    pub suite: Option<Suite>,
    /// When the last session ended.
    pub ended: Option<Instant>,
    /// Grows with each session in which the BMC was slow, and shrinks with each other one.
    slow: u32,
}

impl Known {
    /// Whether the BMC was slow or busy in the session that has ended.
    pub fn learn(&mut self, slow: bool) {
        self.slow = if slow { MOST_SLOW.min(self.slow + 1) } else { self.slow.saturating_sub(1) };
        self.ended = Some(Instant::now());
    }

    /// Longest wait for a reply: up to twice the usual one.
    pub fn timeout(&self, usual: Duration) -> Duration {
        usual * (MOST_SLOW + self.slow) / MOST_SLOW
    }

    /// Shortest time between two commands: up to four times the usual one.
    pub fn interval(&self, usual: Duration) -> Duration {
        usual * 2u32.pow(self.slow)
    }
}

impl Memory {
    /// Waits for the right to speak with a BMC.
    pub async fn turn(&self, peer: SocketAddr) -> OwnedMutexGuard<Known> {
        self.of(peer).lock_owned().await
    }

    fn of(&self, peer: SocketAddr) -> One {
        let mut all = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(&peer) {
            return Arc::clone(known);
        }
        if all.len() >= self.most {
            forget_half(&mut all);
        }
        Arc::clone(all.entry(peer).or_default())
    }
}

/// Forgets the half that was spoken with longest ago. Whoever speaks with a BMC, or waits to, holds a
/// second reference.
fn forget_half(all: &mut HashMap<SocketAddr, One>) {
    let mut idle: Vec<(Option<Instant>, SocketAddr)> = all
        .iter_mut()
        .filter_map(|(peer, known)| Some((Arc::get_mut(known)?.get_mut().ended, *peer)))
        .collect();
    idle.sort_unstable();
    for (_, peer) in &idle[..idle.len().div_ceil(2)] {
        all.remove(peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], n + 1))
    }

    #[tokio::test]
    async fn the_memory_is_bounded_and_keeps_what_is_new_or_in_use() {
        let memory = Memory { most: 100, of: Mutex::default() };
        let in_use = memory.turn(peer(0)).await;
        for n in 1..=1000 {
            let mut known = memory.turn(peer(n)).await;
            known.suite = Some(Suite::Three);
            known.learn(false);
            drop(known);
            assert!(memory.of.lock().unwrap().len() <= 100);
        }
        assert_eq!(memory.turn(peer(1000)).await.suite, Some(Suite::Three), "the newest");
        assert_eq!(memory.turn(peer(1)).await.suite, None, "long forgotten");
        let again = memory.of(peer(0));
        assert!(again.try_lock().is_err(), "it is still being spoken with");
        drop(in_use);
        assert!(again.try_lock().is_ok());
    }

    #[test]
    fn a_slow_bmc_gets_more_time_until_it_is_fast_again() {
        let usual = Duration::from_secs(1);
        let mut known = Known::default();
        let seen =
            |known: &Known| (known.timeout(usual).as_millis(), known.interval(usual).as_secs());
        assert_eq!(seen(&known), (1000, 1));
        let all: Vec<_> = [true, true, true, false, false, false]
            .map(|slow| {
                known.learn(slow);
                seen(&known)
            })
            .into();
        assert_eq!(all, [(1500, 2), (2000, 4), (2000, 4), (1500, 2), (1000, 1), (1000, 1)]);
    }
}
