//! States of a job (one host of a batch) and the one table of what may follow what.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::batch::UnknownState;

/// Where a job stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Its host is claimed; its wave has not come yet.
    Pending,
    /// Any worker may lease it.
    Queued,
    Running,
    Succeeded,
    Failed,
    /// The outcome is unknown or the host is unsafe: an operator must look.
    Quarantined,
    Cancelled,
    /// Taken out of the batch before anything was done.
    Skipped,
}

/// What happened to a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JobEvent {
    Queue,
    /// Its batch does not run any more: its turn will come again, or never.
    Unqueue,
    Lease,
    /// The same for a job that was leased, and whose host was not touched.
    Recall,
    Succeed,
    Fail,
    Quarantine,
    Cancel,
    Skip,
    /// An operator looked at a quarantined host and lets it go.
    Release,
}

/// An event that the state does not allow. Nothing changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a job that is {state} cannot be changed by {event:?}")]
pub struct IllegalJobEvent {
    pub state: JobState,
    pub event: JobEvent,
}

/// The state after `event`. Every change of a job's state goes through here.
///
/// `Lease` on a running job is the takeover after its worker's lease ran out.
pub fn next(state: JobState, event: JobEvent) -> Result<JobState, IllegalJobEvent> {
    use JobEvent as E;
    use JobState as S;
    Ok(match (state, event) {
        (S::Pending, E::Queue) => S::Queued,
        (S::Queued, E::Unqueue) | (S::Running, E::Recall) => S::Pending,
        (S::Queued | S::Running, E::Lease) => S::Running,
        (S::Running, E::Succeed) => S::Succeeded,
        (S::Running, E::Fail) => S::Failed,
        (S::Running, E::Quarantine) => S::Quarantined,
        (S::Pending | S::Queued, E::Cancel) => S::Cancelled,
        (S::Pending, E::Skip) => S::Skipped,
        (S::Quarantined, E::Release) => S::Failed,
        _ => return Err(IllegalJobEvent { state, event }),
    })
}

impl JobState {
    pub const ALL: [JobState; 8] = [
        JobState::Pending,
        JobState::Queued,
        JobState::Running,
        JobState::Succeeded,
        JobState::Failed,
        JobState::Quarantined,
        JobState::Cancelled,
        JobState::Skipped,
    ];

    /// Work on the host is over, as far as this batch is concerned.
    pub fn is_ended(self) -> bool {
        !matches!(self, JobState::Pending | JobState::Queued | JobState::Running)
    }

    /// Whether the host is still claimed: a quarantined one is, until somebody releases it.
    /// The partial unique index on `job.host` says the same in SQL.
    pub fn holds_claim(self) -> bool {
        matches!(
            self,
            JobState::Pending | JobState::Queued | JobState::Running | JobState::Quarantined
        )
    }

    /// The name in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Pending => "pending",
            JobState::Queued => "queued",
            JobState::Running => "running",
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

    const EVENTS: [JobEvent; 10] = [
        JobEvent::Queue,
        JobEvent::Unqueue,
        JobEvent::Lease,
        JobEvent::Recall,
        JobEvent::Succeed,
        JobEvent::Fail,
        JobEvent::Quarantine,
        JobEvent::Cancel,
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
        running --Recall-> pending
        running --Succeed-> succeeded
        running --Fail-> failed
        running --Quarantine-> quarantined
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
