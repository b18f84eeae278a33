//! The outside world that the demo and the tests share, simulated in our own process.

pub mod jira;
