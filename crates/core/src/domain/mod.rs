//! The words and rules of Metalbot, pure: no IO, no clock (callers pass `now`), no async.
//!
//! Start with [`batch`] and [`job`]: their two transition functions are the only definition of
//! allowed transitions. Every other module covers one topic.

pub mod approval;
pub mod batch;
pub mod caps;
pub mod channel_access;
pub mod common_cause;
pub mod course;
pub mod error_kind;
pub mod event;
pub mod host;
pub mod human_duration;
pub mod ids;
pub mod inbound;
pub mod job;
pub mod notice;
pub mod notice_digest;
pub mod notify;
pub mod origin;
pub mod overlap;
pub mod people;
pub mod placement;
pub mod preview;
pub mod principal;
pub mod reply;
pub mod report;
pub mod rollout;
pub mod ticket_view;
pub mod time_zone;
pub mod triage;
pub mod view;
pub mod waiting;
pub mod workflow;
