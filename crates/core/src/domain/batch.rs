//! States of a batch, and the one table of transitions between them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// State of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchState {
    Checking,
    AwaitingApproval,
    Scheduled,
    Running,
    Paused,
    Succeeded,
    PartlyFailed,
    Failed,
    Refused,
    Rejected,
    Expired,
    Cancelled,
}

/// Event that changes a batch's state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BatchEvent {
    /// Admission or a check refused the batch.
    Refuse,
    /// All checks passed; a quorum is still needed.
    AskApproval,
    /// All checks passed and policy needs no approval, or the quorum is reached.
    Approve,
    /// The approval does not stand any more, and no work has begun.
    AskAgain,
    Reject,
    Expire,
    Start,
    Pause,
    Resume,
    Cancel,
    /// The last job ended.
    Finish(BatchResult),
}

/// Result of a finished batch, computed from its jobs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BatchResult {
    AllSucceeded,
    SomeFailed,
    NoneSucceeded,
}

/// Event that is not allowed in the state. The state is unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a batch that is {state} cannot be changed by {event:?}")]
pub struct IllegalBatchEvent {
    pub state: BatchState,
    pub event: BatchEvent,
}

/// Computes the state after `event`. Every change of a batch's state uses this function.
pub fn next(state: BatchState, event: BatchEvent) -> Result<BatchState, IllegalBatchEvent> {
    use BatchEvent as E;
    use BatchState as S;
    Ok(match (state, event) {
        (S::Checking, E::Refuse) => S::Refused,
        (S::Checking, E::AskApproval) => S::AwaitingApproval,
        (S::Checking | S::AwaitingApproval, E::Approve) => S::Scheduled,
        (S::Scheduled | S::Running, E::AskAgain) => S::AwaitingApproval,
        (S::AwaitingApproval | S::Scheduled, E::Reject) => S::Rejected,
        // The approval, or the start, came too late.
        (S::AwaitingApproval | S::Scheduled, E::Expire) => S::Expired,
        (S::Scheduled, E::Start) => S::Running,
        (S::Running, E::Pause) => S::Paused,
        (S::Paused, E::Resume) => S::Running,
        (S::Running | S::Paused, E::Finish(BatchResult::AllSucceeded)) => S::Succeeded,
        (S::Running | S::Paused, E::Finish(BatchResult::SomeFailed)) => S::PartlyFailed,
        (S::Running | S::Paused, E::Finish(BatchResult::NoneSucceeded)) => S::Failed,
        (state, E::Cancel) if !state.is_final() => S::Cancelled,
        _ => return Err(IllegalBatchEvent { state, event }),
    })
}

impl BatchState {
    pub const ALL: [BatchState; 12] = [
        BatchState::Checking,
        BatchState::AwaitingApproval,
        BatchState::Scheduled,
        BatchState::Running,
        BatchState::Paused,
        BatchState::Succeeded,
        BatchState::PartlyFailed,
        BatchState::Failed,
        BatchState::Refused,
        BatchState::Rejected,
        BatchState::Expired,
        BatchState::Cancelled,
    ];

    /// True for a final state: no event is allowed after it.
    pub fn is_final(self) -> bool {
        use BatchState as S;
        match self {
            S::Checking | S::AwaitingApproval | S::Scheduled | S::Running | S::Paused => false,
            S::Succeeded
            | S::PartlyFailed
            | S::Failed
            | S::Refused
            | S::Rejected
            | S::Expired
            | S::Cancelled => true,
        }
    }

    /// Name in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        use BatchState as S;
        match self {
            S::Checking => "checking",
            S::AwaitingApproval => "awaiting_approval",
            S::Scheduled => "scheduled",
            S::Running => "running",
            S::Paused => "paused",
            S::Succeeded => "succeeded",
            S::PartlyFailed => "partly_failed",
            S::Failed => "failed",
            S::Refused => "refused",
            S::Rejected => "rejected",
            S::Expired => "expired",
            S::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for BatchState {
    /// Formats the state for people: `awaiting approval`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.as_str().replace('_', " "))
    }
}

/// Name of a state that this version does not know.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("unknown state {0:?}")]
pub struct UnknownState(pub String);

impl FromStr for BatchState {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        BatchState::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| UnknownState(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [BatchEvent; 13] = [
        BatchEvent::Refuse,
        BatchEvent::AskApproval,
        BatchEvent::Approve,
        BatchEvent::AskAgain,
        BatchEvent::Reject,
        BatchEvent::Expire,
        BatchEvent::Start,
        BatchEvent::Pause,
        BatchEvent::Resume,
        BatchEvent::Cancel,
        BatchEvent::Finish(BatchResult::AllSucceeded),
        BatchEvent::Finish(BatchResult::SomeFailed),
        BatchEvent::Finish(BatchResult::NoneSucceeded),
    ];

    #[test]
    fn the_whole_table() {
        let mut table = String::new();
        for state in BatchState::ALL {
            for event in EVENTS {
                if let Ok(after) = next(state, event) {
                    table += &format!("{} --{event:?}-> {}\n", state.as_str(), after.as_str());
                }
            }
        }
        insta::assert_snapshot!(table, @r"
        checking --Refuse-> refused
        checking --AskApproval-> awaiting_approval
        checking --Approve-> scheduled
        checking --Cancel-> cancelled
        awaiting_approval --Approve-> scheduled
        awaiting_approval --Reject-> rejected
        awaiting_approval --Expire-> expired
        awaiting_approval --Cancel-> cancelled
        scheduled --AskAgain-> awaiting_approval
        scheduled --Reject-> rejected
        scheduled --Expire-> expired
        scheduled --Start-> running
        scheduled --Cancel-> cancelled
        running --AskAgain-> awaiting_approval
        running --Pause-> paused
        running --Cancel-> cancelled
        running --Finish(AllSucceeded)-> succeeded
        running --Finish(SomeFailed)-> partly_failed
        running --Finish(NoneSucceeded)-> failed
        paused --Resume-> running
        paused --Cancel-> cancelled
        paused --Finish(AllSucceeded)-> succeeded
        paused --Finish(SomeFailed)-> partly_failed
        paused --Finish(NoneSucceeded)-> failed
        ");
    }

    #[test]
    fn nothing_follows_a_final_state() {
        for state in BatchState::ALL.into_iter().filter(|state| state.is_final()) {
            for event in EVENTS {
                assert_eq!(next(state, event), Err(IllegalBatchEvent { state, event }));
            }
        }
    }

    #[test]
    fn names_survive_the_database() {
        for state in BatchState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
    }
}
