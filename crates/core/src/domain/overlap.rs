//! Overlap of a submission with other batches: the hosts that are in use, and the batches that use
//! them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::batch::BatchState;
use super::host::HostName;
use super::ids::BatchId;
use super::job::JobState;

/// Exclusive claim of a live job on its host, read by the store under the admission locks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    pub host: HostName,
    pub job_state: JobState,
    pub batch: BatchId,
    pub batch_state: BatchState,
    pub submitter: String,
}

/// Hosts that one other batch has claimed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Held {
    pub hosts: Vec<HostName>,
    pub batch: BatchId,
    pub submitter: String,
    /// State of that batch.
    pub state: BatchState,
    /// Set when the hosts wait for an operator to release them.
    pub quarantined: bool,
}

/// Requested hosts that other batches have claimed, by batch, and those that are free.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Overlap {
    pub held: Vec<Held>,
    pub free: Vec<HostName>,
}

/// Divides the requested hosts into claimed and free ones.
pub fn overlap(requested: &[HostName], claims: &[Claim]) -> Overlap {
    let mut held: BTreeMap<(BatchId, bool), Held> = BTreeMap::new();
    for claim in claims {
        let quarantined = claim.job_state == JobState::Quarantined;
        held.entry((claim.batch, quarantined))
            .or_insert_with(|| Held {
                hosts: Vec::new(),
                batch: claim.batch,
                submitter: claim.submitter.clone(),
                state: claim.batch_state,
                quarantined,
            })
            .hosts
            .push(claim.host.clone());
    }
    let taken: BTreeSet<&HostName> = claims.iter().map(|claim| &claim.host).collect();
    let free = requested.iter().filter(|host| !taken.contains(host)).cloned().collect();
    Overlap { held: held.into_values().collect(), free }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_hosts_are_grouped_by_batch_and_the_rest_is_free() {
        let claim = |host: &str, batch, job_state| Claim {
            host: host.parse().unwrap(),
            job_state,
            batch: BatchId(batch),
            batch_state: BatchState::Running,
            submitter: "alice".into(),
        };
        let requested: Vec<HostName> =
            ["a", "b", "c", "d"].iter().map(|h| h.parse().unwrap()).collect();
        let found = overlap(
            &requested,
            &[
                claim("a", 1, JobState::Pending),
                claim("b", 1, JobState::Quarantined),
                claim("c", 2, JobState::Running),
            ],
        );
        assert_eq!(found.free, ["d".parse().unwrap()]);
        assert_eq!(found.held.len(), 3);
        assert!(found.held[1].quarantined);
    }
}
