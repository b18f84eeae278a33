//! Triage tickets: what is written, and the client that files it with Jira.
//!
//! Invariant: text that people typed reaches a ticket only through [`wiki::escape`].

pub mod jira;
pub mod render;
pub mod wiki;
