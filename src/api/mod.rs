//! The REST API, one file for each resource.
//!
//! ```text
//! POST /v1/agent/reports    a machine tells of the attempt that it has claimed
//! ```
//!
//! Refusals are problems (RFC 9457).

mod agent_reports;
mod problem;

pub use agent_reports::router;
