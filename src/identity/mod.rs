//! People: their identity and their permissions.
//!
//! [`directory`] holds people and their groups, [`password`] checks passwords, and [`authz`] is the
//! only permission check of Metalbot.

pub mod authz;
pub mod directory;
pub mod password;

pub use directory::{Directory, DirectoryHandle};
