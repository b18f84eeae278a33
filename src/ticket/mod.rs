//! From failed hosts to the right team's Jira queue and back.
//!
//! [`place`] decides which ticket a failure belongs to, in our own books; [`relay`] writes tickets
//! to Jira; [`sync`] reads what became of them; [`recheck`] looks at the hosts of those that are
//! done, and [`mending`] finds the hosts that have succeeded since. [`explain`] says what the rules
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
