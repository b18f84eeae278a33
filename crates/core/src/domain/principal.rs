//! Who acts. A [`Principal`] is a person of the directory, however they reached us.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// A directory user with the groups they are in at this moment. Never stored: groups change, and a
/// right is judged by today's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Principal {
    /// Login in the directory; the name that batches, decisions and the audit keep.
    pub login: String,
    /// Name for people to read.
    pub name: String,
    /// Groups of the directory.
    pub groups: BTreeSet<String>,
}

impl Principal {
    /// Whether the person is in any of these groups.
    pub fn in_any<'a>(&self, groups: impl IntoIterator<Item = &'a String>) -> bool {
        groups.into_iter().any(|group| self.groups.contains(group))
    }
}

/// Who did something and through which door, as the audit keeps it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Actor {
    /// Login of a person, or the name of a part of Metalbot, such as `executor`.
    pub who: String,
    /// Door or process: `console #metal`, `cli`, `worker host:pid`.
    pub via: String,
}

impl Actor {
    /// Metalbot itself, in the named part.
    pub fn system(part: &str) -> Self {
        Actor { who: "metalbot".into(), via: part.into() }
    }
}
