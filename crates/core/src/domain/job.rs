//! States of a job (one host of a batch), and the one table of transitions between them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::batch::UnknownState;

/// State of a job.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// The host is claimed; the job's wave has not begun.
    Pending,
    /// Any worker may lease it.
    Queued,
    Running,
    /// Nobody works on it until a time has come or something is reported; its host stays claimed.
    Waiting,
    Succeeded,
    Failed,
    /// The outcome is unknown or the host is unsafe: an operator must look at it.
    Quarantined,
    Cancelled,
    /// Taken out of the batch before any work.
    Skipped,
}

/// Event that changes a job's state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JobEvent {
    Queue,
    /// The batch stopped running: the job is queued again later, or never.
    Unqueue,
    Lease,
    /// The step waits for something outside: any worker may lease the job again later.
    Park,
    /// The batch stopped running after the job was leased and before its host was touched.
    Recall,
    Succeed,
    Fail,
    Quarantine,
    Cancel,
    /// The batch was cancelled after the host was touched, and the host has been brought to a safe end.
    Stop,
    Skip,
    /// An operator releases a quarantined host.
    Release,
}

/// Event that is not allowed in the state. The state is unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a job that is {state} cannot be changed by {event:?}")]
pub struct IllegalJobEvent {
    pub state: JobState,
    pub event: JobEvent,
}

/// Computes the state after `event`. Every change of a job's state uses this function.
///
/// `Lease` on a running job means that another worker takes it over after the lease expired.
pub fn next(state: JobState, event: JobEvent) -> Result<JobState, IllegalJobEvent> {
    use JobEvent as E;
    use JobState as S;
    Ok(match (state, event) {
        (S::Pending, E::Queue) => S::Queued,
        (S::Queued, E::Unqueue) | (S::Running, E::Recall) => S::Pending,
        (S::Queued | S::Running | S::Waiting, E::Lease) => S::Running,
        (S::Running, E::Park) => S::Waiting,
        (S::Running, E::Succeed) => S::Succeeded,
        (S::Running, E::Fail) => S::Failed,
        (S::Running, E::Quarantine) => S::Quarantined,
        (S::Pending | S::Queued, E::Cancel) | (S::Running, E::Stop) => S::Cancelled,
        (S::Pending, E::Skip) => S::Skipped,
        (S::Quarantined, E::Release) => S::Failed,
        _ => return Err(IllegalJobEvent { state, event }),
    })
}

impl JobState {
    pub const ALL: [JobState; 9] = [
        JobState::Pending,
        JobState::Queued,
        JobState::Running,
        JobState::Waiting,
        JobState::Succeeded,
        JobState::Failed,
        JobState::Quarantined,
        JobState::Cancelled,
        JobState::Skipped,
    ];

    /// True when this batch does no more work on the host.
    pub fn is_ended(self) -> bool {
        !matches!(
            self,
            JobState::Pending | JobState::Queued | JobState::Running | JobState::Waiting
        )
    }

    /// True if the host is still claimed: a quarantined one is, until an operator releases it. The
    /// partial unique index on `job.host` has the same condition in SQL.
    pub fn holds_claim(self) -> bool {
        !self.is_ended() || self == JobState::Quarantined
    }

    /// Name in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Pending => "pending",
            JobState::Queued => "queued",
            JobState::Running => "running",
            JobState::Waiting => "waiting",
            JobState::Succeeded => "succeeded",
            JobState::Failed => "failed",
            JobState::Quarantined => "quarantined",
            JobState::Cancelled => "cancelled",
            JobState::Skipped => "skipped",
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for JobState {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        JobState::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| UnknownState(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [JobEvent; 12] = [
        JobEvent::Queue,
        JobEvent::Unqueue,
        JobEvent::Lease,
        JobEvent::Park,
        JobEvent::Recall,
        JobEvent::Succeed,
        JobEvent::Fail,
        JobEvent::Quarantine,
        JobEvent::Cancel,
        JobEvent::Stop,
        JobEvent::Skip,
        JobEvent::Release,
    ];

    #[test]
    fn the_whole_table() {
        let mut table = String::new();
        for state in JobState::ALL {
            for event in EVENTS {
                if let Ok(after) = next(state, event) {
                    table += &format!("{state} --{event:?}-> {after}\n");
                }
            }
        }
        insta::assert_snapshot!(table, @r"
        pending --Queue-> queued
        pending --Cancel-> cancelled
        pending --Skip-> skipped
        queued --Unqueue-> pending
        queued --Lease-> running
        queued --Cancel-> cancelled
        running --Lease-> running
        running --Park-> waiting
        running --Recall-> pending
        running --Succeed-> succeeded
        running --Fail-> failed
        running --Quarantine-> quarantined
        running --Stop-> cancelled
        waiting --Lease-> running
        quarantined --Release-> failed
        ");
    }

    #[test]
    fn a_job_that_has_not_ended_holds_its_host() {
        for state in JobState::ALL.into_iter().filter(|state| !state.is_ended()) {
            assert!(state.holds_claim(), "{state}");
        }
    }

    #[test]
    fn names_survive_the_database() {
        for state in JobState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
    }
}
