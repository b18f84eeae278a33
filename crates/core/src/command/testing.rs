//! Hosts for the tests of this module.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::host::{HostName, HostSource};

/// Inventory with `web[01-40]` and `db[01-08]` in two racks.
pub(super) fn rack() -> TestRack {
    let mut rack = TestRack::default();
    for n in 1..=40 {
        let place = if n <= 20 { "rack:r1" } else { "rack:r2" };
        rack.add(&format!("web{n:02}"), &["web", place, "dc:fra1", "owner:web-owners"]);
    }
    for n in 1..=8 {
        rack.add(&format!("db{n:02}"), &["db", "rack:r2", "dc:fra1", "sku:big one"]);
    }
    rack
}

#[derive(Default)]
pub(super) struct TestRack {
    hosts: BTreeSet<HostName>,
    groups: BTreeMap<String, Vec<HostName>>,
}

impl TestRack {
    fn add(&mut self, name: &str, groups: &[&str]) {
        let host: HostName = name.parse().unwrap();
        for group in groups {
            self.groups.entry((*group).to_owned()).or_default().push(host.clone());
        }
        self.hosts.insert(host);
    }
}

impl HostSource for TestRack {
    fn contains(&self, host: &HostName) -> bool {
        self.hosts.contains(host)
    }

    fn group(&self, name: &str) -> Option<Vec<HostName>> {
        self.groups.get(&name.to_lowercase()).cloned()
    }

    fn names(&self) -> Box<dyn Iterator<Item = &HostName> + '_> {
        Box::new(self.hosts.iter())
    }

    fn group_names(&self) -> Vec<String> {
        self.groups.keys().cloned().collect()
    }
}

/// Inventory that has every host and no group.
pub(super) struct Everything;

impl HostSource for Everything {
    fn contains(&self, _: &HostName) -> bool {
        true
    }

    fn group(&self, _: &str) -> Option<Vec<HostName>> {
        None
    }

    fn names(&self) -> Box<dyn Iterator<Item = &HostName> + '_> {
        Box::new(std::iter::empty())
    }

    fn group_names(&self) -> Vec<String> {
        Vec::new()
    }
}
