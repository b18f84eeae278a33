//! Rollout of a batch: its start, the number of hosts at a time, and the number of failures before
//! it pauses.
//!
//! **Start.** `not-before` is the earliest time: a batch that is approved later starts at once.
//! `at` is an exact time: the approval must come before it, and a batch that could not be started
//! within [`GRACE`] of it, because no process was running, is given up, so that it does not start
//! unexpectedly in working hours. A destructive batch also waits for its countdown after the last
//! approval, so that people can still stop it.
//!
//! **Budget.** `max-fail` limits the number of bad hosts in the batch, not only those that fail
//! during it: a pool that has already lost one host can lose one less. Therefore a host that failed
//! in the batch before this one counts from the start, until its own work ends: then it succeeds
//! and no longer counts, or fails and counts as failed; never twice. A host that a retry is there
//! to repair does not count, that is one whose last failure was in the batch being retried:
//! otherwise every retry would pause before it began. Resuming accepts the hosts that are bad by
//! then, and the count starts again from 0.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// Longest delay after `at` in which a batch may still start; later it is given up.
pub const GRACE: Duration = Duration::from_secs(10 * 60);

/// Number of hosts: absolute, or a share of the batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Size {
    Hosts(u32),
    /// Share in per cent, 0 to 100.
    Percent(u8),
}

/// Text that is neither a count nor a share.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("give a number of hosts such as 5, or a share such as 10%")]
pub struct NotASize;

impl Size {
    /// Number of hosts out of `total`, rounded up, so that 10% of 3 hosts is one host and never
    /// none.
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

/// Requested start time of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// Start at this time, or at the approval if that is later.
    NotBefore(#[serde(with = "time::serde::rfc3339")] OffsetDateTime),
    /// Start at this time only.
    At(#[serde(with = "time::serde::rfc3339")] OffsetDateTime),
}

impl Start {
    pub fn time(self) -> OffsetDateTime {
        match self {
            Start::NotBefore(time) | Start::At(time) => time,
        }
    }
}

/// Pause between two waves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WavePause {
    Seconds(u64),
    /// Wait until somebody resumes the batch.
    Manual,
}

/// Rollout settings of a batch.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// Sizes of the waves in order; the last one repeats until all hosts are in a wave. Empty: all
    /// hosts in one wave.
    pub waves: Vec<Size>,
    /// Largest number of hosts at work at the same time.
    pub max_concurrent: Option<u32>,
    /// Failure budget: the batch pauses when more hosts than this are bad.
    pub max_fail: Option<Size>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave_pause: Option<WavePause>,
    /// Countdown in seconds after the last approval, in which the batch can be stopped before any
    /// work.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub countdown_secs: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Counts of a batch's jobs, for the decisions of the rollout.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct JobCounts {
    /// All jobs with work, past or future, and those that failed the checks.
    pub total: u32,
    /// Pending jobs of the current wave.
    pub pending_in_wave: u32,
    /// Pending jobs of later waves.
    pub pending_later: u32,
    /// Queued jobs of all waves, which a worker may lease at any time.
    pub queued: u32,
    pub running: u32,
    /// Failed and quarantined jobs since the batch started or was last resumed.
    pub failed: u32,
    /// Jobs that have not ended and whose hosts failed in the batch before, and those that failed
    /// the checks.
    pub failed_previously: u32,
}

/// Next act of a running batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Queue this many pending jobs of the current wave.
    Queue(u32),
    /// Wait until a job ends.
    Wait,
    /// End the wave and begin the next one.
    NextWave,
    /// Pause: more hosts are bad than the budget allows.
    Pause { failed: u32, failed_previously: u32, allowed: u32 },
    /// Finish: no job is left.
    Finish,
}

impl Rollout {
    /// Number of hosts of each wave, for a batch of `total` hosts. Sums to `total`.
    pub fn wave_sizes(&self, total: u32) -> Vec<u32> {
        let mut sizes = Vec::new();
        let mut left = total;
        let mut waves = self.waves.iter();
        let mut last = Size::Percent(100);
        while left > 0 {
            last = waves.next().copied().unwrap_or(last);
            // At least 1, because a wave without hosts would never end.
            let size = last.of(total).clamp(1, left);
            sizes.push(size);
            left -= size;
        }
        sizes
    }

    /// Number of the wave of each of `total` hosts, in order; the first wave is 0.
    pub fn waves_of(&self, total: usize) -> impl Iterator<Item = u32> {
        let sizes = self.wave_sizes(u32::try_from(total).unwrap_or(u32::MAX));
        sizes.into_iter().zip(0..).flat_map(|(size, wave)| std::iter::repeat_n(wave, size as usize))
    }

    /// Earliest start of a batch that is approved `now`; `None`: at once.
    pub fn starts_at(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        let countdown =
            (self.countdown_secs > 0).then(|| now + Duration::from_secs(self.countdown_secs));
        self.start.map(Start::time).max(countdown)
    }

    /// True if a batch with the start time `due` must not start any more.
    pub fn is_missed(&self, due: OffsetDateTime, now: OffsetDateTime) -> bool {
        matches!(self.start, Some(Start::At(_))) && now > due + GRACE
    }

    /// Latest time for an approval.
    pub fn approve_by(&self) -> Option<OffsetDateTime> {
        match self.start {
            Some(Start::At(time)) => Some(time),
            Some(Start::NotBefore(_)) | None => None,
        }
    }

    /// Decides the next act of a running batch.
    pub fn next(&self, counts: JobCounts) -> Next {
        let active = counts.queued + counts.running;
        let untouched = counts.pending_in_wave + counts.pending_later + counts.queued;
        if untouched + counts.running == 0 {
            return Next::Finish;
        }
        if let Some(budget) = self.max_fail {
            let allowed = budget.of(counts.total);
            let JobCounts { failed, failed_previously, .. } = counts;
            if failed.saturating_add(failed_previously) > allowed && untouched > 0 {
                return Next::Pause { failed, failed_previously, allowed };
            }
        }
        if counts.pending_in_wave == 0 {
            // A wave must end completely, slow hosts included, before the next one begins.
            return if active == 0 { Next::NextWave } else { Next::Wait };
        }
        let free = match self.max_concurrent {
            Some(most) => most.max(1).saturating_sub(active),
            None => counts.pending_in_wave,
        };
        match free.min(counts.pending_in_wave) {
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
        assert_eq!(rollout(&["1", "2"]).waves_of(4).collect::<Vec<u32>>(), [0, 1, 1, 2]);
    }

    #[test]
    fn a_wave_waits_for_its_stragglers() {
        let counts = JobCounts { total: 10, pending_later: 5, running: 1, ..JobCounts::default() };
        assert_eq!(rollout(&["5"]).next(counts), Next::Wait);
        assert_eq!(rollout(&["5"]).next(JobCounts { running: 0, ..counts }), Next::NextWave);
    }

    #[test]
    fn the_budget_pauses_only_when_exceeded_and_work_is_left() {
        let pace = Rollout { max_fail: Some(Size::Hosts(1)), ..Rollout::default() };
        let counts = JobCounts { total: 10, pending_in_wave: 5, failed: 1, ..JobCounts::default() };
        assert_eq!(pace.next(counts), Next::Queue(5));
        let counts = JobCounts { failed: 2, ..counts };
        assert_eq!(pace.next(counts), Next::Pause { failed: 2, failed_previously: 0, allowed: 1 });
        let queued = JobCounts { pending_in_wave: 0, queued: 3, ..counts };
        assert_eq!(pace.next(queued), Next::Pause { failed: 2, failed_previously: 0, allowed: 1 });
        let none_left = JobCounts { queued: 0, running: 1, ..queued };
        assert_eq!(pace.next(none_left), Next::Wait);
        assert_eq!(pace.next(JobCounts { running: 0, ..none_left }), Next::Finish);
    }

    #[test]
    fn hosts_that_were_bad_before_count_until_their_turn_has_come() {
        let pace = Rollout { max_fail: Some(Size::Hosts(2)), ..Rollout::default() };
        let counts = JobCounts {
            total: 10,
            pending_in_wave: 10,
            failed_previously: 3,
            ..JobCounts::default()
        };
        assert_eq!(pace.next(counts), Next::Pause { failed: 0, failed_previously: 3, allowed: 2 });
        // One of them succeeded, so the budget allows more; another one failed, and counts once.
        assert_eq!(pace.next(JobCounts { failed_previously: 2, ..counts }), Next::Queue(10));
        assert_eq!(
            pace.next(JobCounts { failed_previously: 1, failed: 1, ..counts }),
            Next::Queue(10)
        );
        let more = JobCounts { failed_previously: 1, failed: 2, ..counts };
        assert_eq!(pace.next(more), Next::Pause { failed: 2, failed_previously: 1, allowed: 2 });
        assert_eq!(Rollout::default().next(counts), Next::Queue(10), "no budget, no pause");
    }

    #[test]
    fn a_start_waits_for_its_time_and_for_the_countdown() {
        let now = time::macros::datetime!(2026-11-24 01:00 UTC);
        let (hour, minute) = (Duration::from_secs(3600), Duration::from_secs(60));
        let pace = |start, countdown_secs| Rollout { start, countdown_secs, ..Rollout::default() };
        let at = |time| Some(Start::At(time));
        let not_before = |time| Some(Start::NotBefore(time));
        assert_eq!(pace(None, 0).starts_at(now), None);
        assert_eq!(pace(None, 60).starts_at(now), Some(now + minute));
        assert_eq!(pace(at(now + hour), 60).starts_at(now), Some(now + hour));
        assert_eq!(pace(not_before(now - hour), 60).starts_at(now), Some(now + minute));
        assert_eq!(pace(at(now + hour), 0).approve_by(), Some(now + hour));
        assert_eq!(pace(not_before(now + hour), 0).approve_by(), None);
        for (start, due, missed) in [
            (at(now), now - GRACE, false),
            (at(now), now - GRACE - minute, true),
            (not_before(now - hour), now - hour, false),
            (None, now - hour, false),
        ] {
            assert_eq!(pace(start, 0).is_missed(due, now), missed, "{start:?} {due}");
        }
    }

    #[test]
    fn plans_of_before_are_read_and_written_as_they_were() {
        let old = r#"{"waves":["1","10%"],"max_concurrent":null,"max_fail":"5%"}"#;
        let pace: Rollout = serde_json::from_str(old).unwrap();
        assert_eq!(serde_json::to_string(&pace).unwrap(), old, "digests must not change");
        let start = Some(Start::At(time::macros::datetime!(2026-11-24 02:00 UTC)));
        let pace = Rollout { start, wave_pause: Some(WavePause::Seconds(600)), ..pace };
        let text = serde_json::to_string(&pace).unwrap();
        assert!(text.contains(r#""start":{"at":"2026-11-24T02:00:00Z"}"#), "{text}");
        assert_eq!(serde_json::from_str::<Rollout>(&text).unwrap(), pace);
    }

    #[test]
    fn concurrency_leaves_no_more_than_its_room() {
        let pace = Rollout { max_concurrent: Some(4), ..Rollout::default() };
        let counts = JobCounts {
            total: 10,
            pending_in_wave: 7,
            queued: 1,
            running: 2,
            ..JobCounts::default()
        };
        assert_eq!(pace.next(counts), Next::Queue(1));
        assert_eq!(pace.next(JobCounts { running: 3, ..counts }), Next::Wait);
    }

    proptest! {
        #[test]
        fn the_budget_alone_decides_about_a_pause(
            total in 1u32..200, pending in 0u32..100, later in 0u32..100, queued in 0u32..20,
            running in 0u32..20, failed in 0u32..50, failed_previously in 0u32..50,
            share in 0u8..=100,
        ) {
            let max_fail = Some(Size::Percent(share));
            let pace = Rollout { max_fail, ..Rollout::default() };
            let counts = JobCounts {
                total, pending_in_wave: pending, pending_later: later, queued, running, failed,
                failed_previously,
            };
            let too_many = failed + failed_previously > Size::Percent(share).of(total);
            let pauses = matches!(pace.next(counts), Next::Pause { .. });
            prop_assert_eq!(pauses, too_many && pending + later + queued > 0);
        }

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
