//! Who somebody is, and what they may do.
//!
//! [`directory`] knows people and their groups, [`password`] proves that somebody is one of them,
//! and [`authz`] is the only permission check of Metalbot.

pub mod authz;
pub mod directory;
pub mod password;

pub use directory::{Directory, DirectoryHandle};
