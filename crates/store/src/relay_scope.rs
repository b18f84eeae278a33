//! Whose work a relay does: what goes to one platform or site is a relay's own, so that one that
//! hangs or is away holds up nothing that goes elsewhere.

/// What goes where a relay is at work.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RelayScope {
    /// To this platform or site.
    Of(String),
    /// Anywhere but to these: also what was written for a place that the configuration no longer
    /// has, so that somebody finds it.
    AllBut(Vec<String>),
}

impl RelayScope {
    /// For a query: the share is where `(place = any(names)) = belongs`.
    pub(super) fn parts(&self) -> (Vec<String>, bool) {
        match self {
            RelayScope::Of(name) => (vec![name.clone()], true),
            RelayScope::AllBut(names) => (names.clone(), false),
        }
    }
}
