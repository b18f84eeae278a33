//! Typed identifiers, so that a job's number can never be passed where a batch's is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Number of a batch, shown as `#42`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BatchId(pub i64);

/// Number of a job: one host of one batch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub i64);

/// Number of a triage ticket in Metalbot's own database; Jira's key comes later.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TicketId(pub i64);

/// Fencing number of a lease. Every new lease of a job gets a higher one; a write with an older one
/// changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub i64);

/// One lease of a job: what it may write carries all three. The fence is random, and tells apart two
/// leases that got the same epoch from a database that had lost its last commits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LeaseId {
    pub job: JobId,
    pub epoch: Epoch,
    pub fence: i64,
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl fmt::Display for TicketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Text that is not a batch number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a batch is named by its number, for example 42 or #42")]
pub struct NotABatchId;

impl FromStr for BatchId {
    type Err = NotABatchId;

    /// Accepts `42` and `#42`.
    fn from_str(text: &str) -> Result<Self, NotABatchId> {
        let digits = text.strip_prefix('#').unwrap_or(text);
        match digits.parse::<i64>() {
            Ok(number) if number > 0 && digits.bytes().all(|b| b.is_ascii_digit()) => {
                Ok(BatchId(number))
            }
            _ => Err(NotABatchId),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_ids_are_read_with_and_without_the_hash() {
        assert_eq!("42".parse(), Ok(BatchId(42)));
        assert_eq!("#42".parse(), Ok(BatchId(42)));
        for wrong in ["", "#", "0", "-1", "+1", "4 2", "##1", "99999999999999999999"] {
            assert_eq!(wrong.parse::<BatchId>(), Err(NotABatchId), "{wrong:?}");
        }
    }
}
