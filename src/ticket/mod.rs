//! Triage tickets: from failed hosts to the right team's Jira queue and back.
//!
//! [`assign`] decides which ticket a failure belongs to and writes that to the database; [`relay`]
//! writes tickets to Jira; [`poll`] reads their states; [`verify`] checks the hosts of those that are
//! done, and [`resolve`] finds the hosts that have succeeded since. [`explain`] says what the rules
//! would do.

mod comment;
pub mod explain;
mod facts;
mod filing;

pub mod assign;
pub mod people;
pub mod poll;
pub mod relay;
pub mod render;
pub mod resolve;
mod signature;
pub mod verify;
