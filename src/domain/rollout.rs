//! How many hosts go at a time, and how many may fail before the batch pauses.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number of hosts: absolute, or a share of the batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Size {
    Hosts(u32),
    /// 0 to 100.
    Percent(u8),
}

/// Text that is neither a count nor a share.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("give a number of hosts such as 5, or a share such as 10%")]
pub struct NotASize;

impl Size {
    /// Hosts out of `total`, rounded up, so that 10% of 3 hosts is one host and never none.
    pub fn of(self, total: u32) -> u32 {
        match self {
            Size::Hosts(hosts) => hosts.min(total),
            Size::Percent(share) => {
                let hosts = (u64::from(total) * u64::from(share)).div_ceil(100);
                u32::try_from(hosts).unwrap_or(total)
            }
        }
    }
}

impl FromStr for Size {
    type Err = NotASize;

    fn from_str(text: &str) -> Result<Self, NotASize> {
        let digits = text.strip_suffix('%').unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(NotASize);
        }
        if digits.len() == text.len() {
            digits.parse().map(Size::Hosts).map_err(|_| NotASize)
        } else {
            let share: u8 = digits.parse().map_err(|_| NotASize)?;
            if share > 100 { Err(NotASize) } else { Ok(Size::Percent(share)) }
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Size::Hosts(hosts) => write!(f, "{hosts}"),
            Size::Percent(share) => write!(f, "{share}%"),
        }
    }
}

impl TryFrom<String> for Size {
    type Error = NotASize;

    fn try_from(text: String) -> Result<Self, NotASize> {
        text.parse()
    }
}

impl From<Size> for String {
    fn from(size: Size) -> String {
        size.to_string()
    }
}

/// The pace of a batch.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Rollout {
    /// Sizes of the waves in order; the last one repeats until every host had its turn. Empty: all
    /// hosts in one wave.
    pub waves: Vec<Size>,
    /// Most hosts at work at the same time.
    pub max_concurrent: Option<u32>,
    /// Pause when more than this many hosts failed.
    pub max_fail: Option<Size>,
}

/// Counts of a batch's jobs, as the rollout sees them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Jobs of the batch that are or were to be worked on (all but skipped ones).
    pub total: u32,
    /// Held jobs of the current wave.
    pub held_in_wave: u32,
    /// Held jobs of later waves.
    pub held_later: u32,
    /// Jobs that a worker may lease at any time, of any wave.
    pub queued: u32,
    pub running: u32,
    /// Failed and quarantined jobs since the batch started or was last resumed.
    pub failed: u32,
}

/// What the rollout asks for next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Let this many held jobs of the current wave start.
    Queue(u32),
    /// Nothing to do until a job ends.
    Wait,
    /// The wave is done: open the next one.
    NextWave,
    /// More failures than the budget allows.
    Pause { failed: u32, allowed: u32 },
    /// No job is left.
    Finish,
}

impl Rollout {
    /// How many hosts each wave has, for a batch of `total` hosts. Sums to `total`.
    pub fn wave_sizes(&self, total: u32) -> Vec<u32> {
        let mut sizes = Vec::new();
        let mut left = total;
        let mut waves = self.waves.iter();
        let mut last = Size::Percent(100);
        while left > 0 {
            last = waves.next().copied().unwrap_or(last);
            // A wave of nobody would never end.
            let size = last.of(total).clamp(1, left);
            sizes.push(size);
            left -= size;
        }
        sizes
    }

    /// Decides what a running batch does next.
    pub fn next(&self, counts: Counts) -> Next {
        let active = counts.queued + counts.running;
        let untouched = counts.held_in_wave + counts.held_later + counts.queued;
        if untouched + counts.running == 0 {
            return Next::Finish;
        }
        if let Some(budget) = self.max_fail {
            let allowed = budget.of(counts.total);
            if counts.failed > allowed && untouched > 0 {
                return Next::Pause { failed: counts.failed, allowed };
            }
        }
        if counts.held_in_wave == 0 {
            // The next wave waits for the stragglers of this one: that is what a wave is for.
            return if active == 0 { Next::NextWave } else { Next::Wait };
        }
        let room = match self.max_concurrent {
            Some(most) => most.max(1).saturating_sub(active),
            None => counts.held_in_wave,
        };
        match room.min(counts.held_in_wave) {
            0 => Next::Wait,
            hosts => Next::Queue(hosts),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rollout(waves: &[&str]) -> Rollout {
        Rollout { waves: waves.iter().map(|w| w.parse().unwrap()).collect(), ..Rollout::default() }
    }

    #[test]
    fn sizes_are_read_strictly() {
        assert_eq!("5".parse(), Ok(Size::Hosts(5)));
        assert_eq!("10%".parse(), Ok(Size::Percent(10)));
        for wrong in ["", "%", "101%", "-1", "+1", "1.5", "5 %", "5%%", "99999999999"] {
            assert_eq!(wrong.parse::<Size>(), Err(NotASize), "{wrong:?}");
        }
    }

    #[test]
    fn waves_grow_and_the_last_repeats() {
        assert_eq!(rollout(&[]).wave_sizes(12), [12]);
        assert_eq!(rollout(&["5"]).wave_sizes(12), [5, 5, 2]);
        assert_eq!(rollout(&["1", "10%", "50%"]).wave_sizes(40), [1, 4, 20, 15]);
        assert_eq!(rollout(&["0"]).wave_sizes(2), [1, 1]);
        assert_eq!(rollout(&["1"]).wave_sizes(0), Vec::<u32>::new());
    }

    #[test]
    fn a_wave_waits_for_its_stragglers() {
        let counts = Counts { total: 10, held_later: 5, running: 1, ..Counts::default() };
        assert_eq!(rollout(&["5"]).next(counts), Next::Wait);
        assert_eq!(rollout(&["5"]).next(Counts { running: 0, ..counts }), Next::NextWave);
    }

    #[test]
    fn the_budget_pauses_only_when_exceeded_and_work_is_left() {
        let pace = Rollout { max_fail: Some(Size::Hosts(1)), ..Rollout::default() };
        let counts = Counts { total: 10, held_in_wave: 5, failed: 1, ..Counts::default() };
        assert_eq!(pace.next(counts), Next::Queue(5));
        let counts = Counts { failed: 2, ..counts };
        assert_eq!(pace.next(counts), Next::Pause { failed: 2, allowed: 1 });
        let queued = Counts { held_in_wave: 0, queued: 3, ..counts };
        assert_eq!(pace.next(queued), Next::Pause { failed: 2, allowed: 1 });
        let none_left = Counts { queued: 0, running: 1, ..queued };
        assert_eq!(pace.next(none_left), Next::Wait);
        assert_eq!(pace.next(Counts { running: 0, ..none_left }), Next::Finish);
    }

    #[test]
    fn concurrency_leaves_no_more_than_its_room() {
        let pace = Rollout { max_concurrent: Some(4), ..Rollout::default() };
        let counts =
            Counts { total: 10, held_in_wave: 7, queued: 1, running: 2, ..Counts::default() };
        assert_eq!(pace.next(counts), Next::Queue(1));
        assert_eq!(pace.next(Counts { running: 3, ..counts }), Next::Wait);
    }

    proptest! {
        #[test]
        fn every_host_has_exactly_one_wave(
            total in 0u32..5000,
            waves in prop::collection::vec(prop_oneof![
                (0u32..200).prop_map(Size::Hosts),
                (0u8..=100).prop_map(Size::Percent),
            ], 0..5),
        ) {
            let sizes = Rollout { waves, ..Rollout::default() }.wave_sizes(total);
            prop_assert_eq!(sizes.iter().sum::<u32>(), total);
            prop_assert!(sizes.iter().all(|size| *size > 0));
        }
    }
}
