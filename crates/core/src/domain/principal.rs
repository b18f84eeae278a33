//! Principals: the people and parts of Metalbot that act. A [`Principal`] is a person of the
//! directory, independent of the platform they use.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Directory user with their current groups. Never stored: groups change, and rights depend on the
/// current ones.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Principal {
    /// Login in the directory; the name that batches, decisions and the audit keep.
    pub login: String,
    /// Display name.
    pub name: String,
    /// Groups of the directory.
    pub groups: BTreeSet<String>,
}

impl Principal {
    /// True if the person is in at least one of these groups.
    pub fn in_any<'a>(&self, groups: impl IntoIterator<Item = &'a String>) -> bool {
        groups.into_iter().any(|group| self.groups.contains(group))
    }
}

/// Actor of an audit entry, with the origin of the act.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Actor {
    /// Login of a person, or the name of a part of Metalbot, such as `executor`.
    pub who: String,
    /// Origin or process: `console #metal`, `cli`, `worker host:pid`.
    pub via: String,
}

impl Actor {
    /// Part of Metalbot itself, by name.
    pub fn system(part: &str) -> Self {
        Actor { who: "metalbot".into(), via: part.into() }
    }
}
