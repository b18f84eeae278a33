//! Placement: which BMCs a process reaches. Networks of BMCs are usually reached only from their own
//! datacenter.

/// The datacenters whose BMCs a process reaches.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ReachableDatacenters(Option<Vec<String>>);

impl ReachableDatacenters {
    /// All of them, whatever the inventory calls them.
    pub const ALL: ReachableDatacenters = ReachableDatacenters(None);

    /// These, and no others.
    pub fn only(datacenters: impl IntoIterator<Item = String>) -> ReachableDatacenters {
        let mut names: Vec<String> = datacenters.into_iter().collect();
        names.sort();
        names.dedup();
        ReachableDatacenters(Some(names))
    }

    pub fn contains(&self, datacenter: &str) -> bool {
        self.names().is_none_or(|names| names.iter().any(|name| name == datacenter))
    }

    /// Their names, sorted; `None` for all.
    pub fn names(&self) -> Option<&[String]> {
        self.0.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_is_not_reached() {
        let two = ReachableDatacenters::only(["fra1", "ams1", "fra1"].map(str::to_owned));
        assert_eq!(two.names().unwrap(), ["ams1", "fra1"]);
        assert!(two.contains("fra1") && !two.contains("fra2") && !two.contains("FRA1"));
        assert!(!ReachableDatacenters::only([]).contains("fra1"));
        assert!(ReachableDatacenters::ALL.contains("fra1"));
    }
}
