//! The simulated world that the demo and the tests share.
//!
//! Invariant: nothing that serves real machines can reach this module.

pub mod actor;
pub mod bmcs;
pub mod fleet;
pub mod jira;
pub mod person;
pub mod rack;
pub mod slack;
