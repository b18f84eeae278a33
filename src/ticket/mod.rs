//! Triage tickets: one for each kind of failure of a batch, which names the hosts and tags the
//! people.

pub mod jira;
pub mod relay;
pub mod render;
