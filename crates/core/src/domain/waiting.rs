//! Reasons why hosts of a batch wait. Templates word them.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::batch::BatchState;
use super::rollout::{Rollout, Start};

/// Reason, with the number of its hosts if it does not apply to all hosts that have not begun.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Waiting {
    /// Preflight checks are under way.
    Checks,
    Approval,
    /// Requested start time.
    Time {
        #[serde(with = "time::serde::rfc3339")]
        until: OffsetDateTime,
    },
    /// Countdown after the last approval, in which people can still stop the batch.
    Countdown {
        #[serde(with = "time::serde::rfc3339")]
        until: OffsetDateTime,
    },
    WavePause {
        #[serde(with = "time::serde::rfc3339")]
        until: OffsetDateTime,
    },
    /// An earlier wave has not ended.
    Wave {
        hosts: u32,
    },
    /// A cap, in words.
    Cap {
        cap: String,
        hosts: u32,
    },
    Concurrency {
        most: u32,
        hosts: u32,
    },
    /// No worker is free.
    Worker {
        hosts: u32,
    },
    /// No live worker reaches their datacenters.
    Unreached {
        datacenters: Vec<String>,
        hosts: u32,
    },
    /// A person or the failure budget paused the batch.
    Paused {
        hosts: u32,
    },
}

/// Facts about a batch, from which the reasons follow.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub state: BatchState,
    /// Set for a paused batch that a new approval resumes.
    pub lacks_approval: bool,
    pub rollout: &'a Rollout,
    /// Time that the batch waits for, if it is in the future.
    pub until: Option<OffsetDateTime>,
    /// Cap that stops hosts from starting, in words.
    pub blocked_by: Option<&'a str>,
    /// Pending jobs of the waves so far; `pending_later` are those of later waves.
    pub pending: u32,
    pub pending_later: u32,
    pub queued: u32,
    pub unreached: UnreachedFacts<'a>,
}

/// Hosts whose turn it is, in datacenters that no live worker reaches.
#[derive(Clone, Copy, Debug, Default)]
pub struct UnreachedFacts<'a> {
    pub datacenters: &'a [String],
    /// Those of [`Facts::queued`].
    pub queued: u32,
    /// Those that are to be checked, looked at or finished.
    pub others: u32,
}

/// All reasons that apply, the nearest first.
pub fn waiting(facts: Facts<'_>) -> Vec<Waiting> {
    let UnreachedFacts { datacenters, queued, others } = facts.unreached;
    let unreached = (queued + others > 0)
        .then(|| Waiting::Unreached { datacenters: datacenters.to_vec(), hosts: queued + others });
    // A batch that was cancelled has hosts to bring to a safe end.
    let rest = by_state(Facts { queued: facts.queued.saturating_sub(queued), ..facts });
    unreached.into_iter().chain(rest).collect()
}

fn by_state(facts: Facts<'_>) -> Vec<Waiting> {
    let Facts { pending, pending_later, queued, .. } = facts;
    match facts.state {
        BatchState::Checking => vec![Waiting::Checks],
        BatchState::AwaitingApproval => vec![Waiting::Approval],
        BatchState::Scheduled => facts
            .until
            .map(|until| match facts.rollout.start.map(Start::time) {
                Some(named) if named == until => Waiting::Time { until },
                _ => Waiting::Countdown { until },
            })
            .into_iter()
            .collect(),
        BatchState::Paused if facts.lacks_approval => vec![Waiting::Approval],
        BatchState::Paused if pending + pending_later + queued > 0 => {
            vec![Waiting::Paused { hosts: pending + pending_later + queued }]
        }
        BatchState::Running => {
            let here = match (facts.until, facts.blocked_by, facts.rollout.max_concurrent) {
                _ if pending == 0 => None,
                (Some(until), ..) => Some(Waiting::WavePause { until }),
                (None, Some(cap), _) => Some(Waiting::Cap { cap: cap.to_owned(), hosts: pending }),
                (None, None, Some(most)) => Some(Waiting::Concurrency { most, hosts: pending }),
                // Nothing stops them: they are queued next.
                (None, None, None) => None,
            };
            let worker = (queued > 0).then_some(Waiting::Worker { hosts: queued });
            let wave = (pending_later > 0).then_some(Waiting::Wave { hosts: pending_later });
            [here, worker, wave].into_iter().flatten().collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn each_case_has_its_reason() {
        let (plain, until) = (Rollout::default(), datetime!(2026-11-24 02:00 UTC));
        let timed = Rollout { start: Some(Start::At(until)), ..Rollout::default() };
        let four = Rollout { max_concurrent: Some(4), ..Rollout::default() };
        let facts = Facts {
            state: BatchState::Running,
            lacks_approval: false,
            rollout: &plain,
            until: None,
            blocked_by: None,
            pending: 3,
            pending_later: 5,
            queued: 0,
            unreached: UnreachedFacts::default(),
        };
        let later = Waiting::Wave { hosts: 5 };
        let state = |state| Facts { state, ..facts };
        let scheduled = Facts { until: Some(until), ..state(BatchState::Scheduled) };
        let osl1 = ["osl1".to_owned()];
        let unreached = |hosts| Waiting::Unreached { datacenters: osl1.to_vec(), hosts };
        let cap = Waiting::Cap { cap: "rack r1".into(), hosts: 3 };
        for (facts, expected) in [
            (state(BatchState::Checking), vec![Waiting::Checks]),
            (state(BatchState::AwaitingApproval), vec![Waiting::Approval]),
            (state(BatchState::Scheduled), vec![]),
            (scheduled, vec![Waiting::Countdown { until }]),
            (Facts { rollout: &timed, ..scheduled }, vec![Waiting::Time { until }]),
            (state(BatchState::Paused), vec![Waiting::Paused { hosts: 8 }]),
            (Facts { lacks_approval: true, ..state(BatchState::Paused) }, vec![Waiting::Approval]),
            (facts, vec![later.clone()]),
            (
                Facts { until: Some(until), ..facts },
                vec![Waiting::WavePause { until }, later.clone()],
            ),
            (
                Facts { blocked_by: Some("rack r1"), rollout: &four, ..facts },
                vec![cap, later.clone()],
            ),
            (
                Facts { rollout: &four, ..facts },
                vec![Waiting::Concurrency { most: 4, hosts: 3 }, later.clone()],
            ),
            (Facts { pending: 0, queued: 2, ..facts }, vec![Waiting::Worker { hosts: 2 }, later]),
            (Facts { pending: 0, pending_later: 0, ..facts }, vec![]),
            (
                Facts {
                    pending: 0,
                    pending_later: 0,
                    queued: 3,
                    unreached: UnreachedFacts { datacenters: &osl1, queued: 2, others: 1 },
                    ..facts
                },
                vec![unreached(3), Waiting::Worker { hosts: 1 }],
            ),
            (
                Facts {
                    unreached: UnreachedFacts { datacenters: &osl1, queued: 0, others: 1 },
                    ..state(BatchState::Cancelled)
                },
                vec![unreached(1)],
            ),
            (state(BatchState::Cancelled), vec![]),
        ] {
            assert_eq!(waiting(facts), expected, "{facts:?}");
        }
    }
}
