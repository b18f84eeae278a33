//! Times at which an unanswered message is sent again.

use std::time::Duration;

/// Policy for sending a message again while its reply is missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RetransmitPolicy {
    /// Sends it repeatedly, with growing waits.
    Backoff,
    /// Never sends it again: the whole timeout is one wait.
    Once,
}

impl RetransmitPolicy {
    /// Waits after each sending. Their sum is the timeout.
    pub fn waits(self, timeout: Duration) -> impl Iterator<Item = Duration> {
        let next = match self {
            RetransmitPolicy::Backoff => timeout / 10,
            RetransmitPolicy::Once => timeout,
        };
        Waits { next, left: timeout }
    }
}

struct Waits {
    next: Duration,
    left: Duration,
}

impl Iterator for Waits {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.left.is_zero() {
            return None;
        }
        let wait = jittered(self.next);
        // A much shorter last wait would only cause one more packet.
        let wait = if self.left < wait * 3 / 2 { self.left } else { wait };
        self.left -= wait;
        self.next *= 2;
        Some(wait)
    }
}

/// Changes a wait by up to a tenth, so that a fleet's repetitions do not happen at the same time.
pub fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::random_range(0.9..1.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_add_up_to_the_timeout() {
        let timeout = Duration::from_secs(5);
        let waits: Vec<Duration> = RetransmitPolicy::Backoff.waits(timeout).collect();
        assert_eq!(waits.iter().sum::<Duration>(), timeout);
        assert_eq!(waits.len(), 4, "{waits:?}");
        assert!(waits[0] < waits[1] && waits[1] < waits[2], "{waits:?}");
        assert_eq!(RetransmitPolicy::Backoff.waits(Duration::ZERO).count(), 0);
        assert_eq!(RetransmitPolicy::Once.waits(timeout).collect::<Vec<_>>(), [timeout]);
    }
}
