//! Scope of a relay. Each platform and site has a relay of its own, so that one that hangs or is away
//! delays nothing that goes elsewhere.

/// Destinations that a relay serves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RelayScope {
    /// This platform or site.
    Of(String),
    /// All but these: also destinations that the configuration no longer has, so that what was
    /// written for them is found.
    AllBut(Vec<String>),
}

impl RelayScope {
    /// Parts for a query: in scope is where `(place = any(names)) = belongs`.
    pub(super) fn parts(&self) -> (Vec<String>, bool) {
        match self {
            RelayScope::Of(name) => (vec![name.clone()], true),
            RelayScope::AllBut(names) => (names.clone(), false),
        }
    }
}
