//! Groups failures of one signature into tickets: one ticket for hosts that share something.
//!
//! Invariant: hosts that share nothing with any other host form one group together, so that a
//! failure all over the site becomes one ticket and not one per host.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::triage::HostFailure;

/// Property that hosts can share, narrowest first. When two are shared by equally many hosts, the
/// narrower one says more about the cause.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    Rack,
    /// Firmware of the BMC, with its vendor and model.
    Firmware,
    Sku,
    BmcVendor,
    Datacenter,
}

impl Dimension {
    pub const ALL: [Dimension; 5] = [
        Dimension::Rack,
        Dimension::Firmware,
        Dimension::Sku,
        Dimension::BmcVendor,
        Dimension::Datacenter,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Dimension::Rack => "rack",
            Dimension::Firmware => "BMC firmware",
            Dimension::Sku => "sku",
            Dimension::BmcVendor => "BMC vendor",
            Dimension::Datacenter => "datacenter",
        }
    }

    /// Value of the host; `None` if the inventory has none.
    pub fn of(self, host: &HostFailure) -> Option<String> {
        let value = match self {
            // Racks of different datacenters may have the same name.
            Dimension::Rack if host.rack.is_empty() => String::new(),
            Dimension::Rack => format!("{}/{}", host.datacenter, host.rack),
            Dimension::Firmware => host.bmc.firmware.clone(),
            Dimension::Sku => host.sku.clone(),
            Dimension::BmcVendor => host.bmc.vendor.clone(),
            Dimension::Datacenter => host.datacenter.clone(),
        };
        (!value.is_empty()).then_some(value)
    }

    /// Value of the host, if most of the fleet does not have the same one.
    fn distinctive(self, host: &HostFailure) -> Option<String> {
        let usual = match self {
            Dimension::Firmware => host.usual.firmware,
            Dimension::BmcVendor => host.usual.vendor,
            Dimension::Rack | Dimension::Sku | Dimension::Datacenter => false,
        };
        self.of(host).filter(|_| !usual)
    }
}

/// Property and value that the hosts of a ticket share.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Shared {
    pub dimension: Dimension,
    pub value: String,
}

impl Shared {
    pub fn by(&self, host: &HostFailure) -> bool {
        self.dimension.of(host).as_deref() == Some(&self.value)
    }
}

/// Failures that belong into one ticket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommonCause {
    pub shared: Option<Shared>,
    pub failures: Vec<HostFailure>,
}

/// Splits failures of one signature: repeatedly takes out those that share the most common value.
/// The rest, in which no two hosts share anything, stays together.
pub fn cluster(failures: Vec<HostFailure>) -> Vec<CommonCause> {
    let mut clusters = Vec::new();
    let mut rest = failures;
    while !rest.is_empty() {
        let shared = most_shared(&rest);
        let (taken, left) = match &shared {
            Some((shared, _)) => rest.into_iter().partition(|host| shared.by(host)),
            None => (rest, Vec::new()),
        };
        let shared = shared.filter(|(_, count)| *count > 1 || taken.len() + left.len() == 1);
        match shared {
            Some((shared, _)) => {
                clusters.push(CommonCause { shared: Some(shared), failures: taken });
                rest = left;
            }
            None => {
                let failures = taken.into_iter().chain(left).collect();
                clusters.push(CommonCause { shared: None, failures });
                rest = Vec::new();
            }
        }
    }
    clusters
}

/// Narrowest property that all of these hosts share.
pub fn common<'a>(hosts: impl IntoIterator<Item = &'a HostFailure> + Clone) -> Option<Shared> {
    Dimension::ALL.into_iter().find_map(|dimension| {
        let mut hosts = hosts.clone().into_iter();
        let value = dimension.distinctive(hosts.next()?)?;
        let shared = Shared { dimension, value };
        hosts.all(|host| shared.by(host)).then_some(shared)
    })
}

/// Value that most hosts share, with the number of hosts.
fn most_shared(hosts: &[HostFailure]) -> Option<(Shared, usize)> {
    let mut counts: BTreeMap<Shared, usize> = BTreeMap::new();
    for host in hosts {
        for dimension in Dimension::ALL {
            if let Some(value) = dimension.distinctive(host) {
                *counts.entry(Shared { dimension, value }).or_default() += 1;
            }
        }
    }
    // `max_by_key` returns the last of equal items: in reverse order, that is the narrowest.
    counts.into_iter().rev().max_by_key(|(_, count)| *count)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::error_kind::ErrorKind;
    use crate::domain::host::fold;
    use crate::domain::triage::Source;

    fn host(name: &str, datacenter: &str, rack: &str, sku: &str) -> HostFailure {
        HostFailure {
            host: name.parse().unwrap(),
            owner: "o".into(),
            datacenter: datacenter.into(),
            rack: rack.into(),
            sku: sku.into(),
            bmc: Default::default(),
            usual: Default::default(),
            action: "reboot".into(),
            source: Source::Check { name: "c".into() },
            kind: ErrorKind::PowerState,
            error: "e".into(),
        }
    }

    fn described(clusters: &[CommonCause]) -> Vec<String> {
        clusters
            .iter()
            .map(|cluster| {
                let shared = cluster.shared.as_ref();
                let shared = shared.map_or("nothing".into(), |shared| {
                    format!("{} {}", shared.dimension.as_str(), shared.value)
                });
                format!("{shared}: {}", fold(cluster.failures.iter().map(|one| &one.host)))
            })
            .collect()
    }

    #[test]
    fn a_rack_is_one_ticket_and_a_stranger_another() {
        let hosts = vec![
            host("a1", "fra1", "r1", "c6"),
            host("a2", "fra1", "r1", "c7"),
            host("a3", "fra1", "r1", "c6"),
            host("b1", "ams1", "r1", "m6"),
        ];
        assert_eq!(described(&cluster(hosts)), ["rack fra1/r1: a[1-3]", "rack ams1/r1: b1"]);
    }

    #[test]
    fn a_model_all_over_the_site_is_one_ticket() {
        let hosts = vec![
            host("a1", "fra1", "r1", "c6"),
            host("a2", "fra1", "r2", "c6"),
            host("a3", "ams1", "r3", "c6"),
        ];
        assert_eq!(described(&cluster(hosts)), ["sku c6: a[1-3]"]);
    }

    #[test]
    fn hosts_that_share_nothing_are_one_ticket_together() {
        let hosts = vec![
            host("a1", "fra1", "r1", "c6"),
            host("a2", "ams1", "r2", "c7"),
            host("a3", "nyc1", "r3", "c8"),
        ];
        assert_eq!(described(&cluster(hosts)), ["nothing: a[1-3]"]);
        let unknown = vec![host("a1", "", "", ""), host("a2", "", "", "")];
        assert_eq!(described(&cluster(unknown)), ["nothing: a[1-2]"]);
        assert_eq!(described(&cluster(vec![host("a1", "", "", "")])), ["nothing: a1"]);
        assert_eq!(described(&cluster(vec![host("a1", "fra1", "r1", "c")])), ["rack fra1/r1: a1"]);
    }

    #[test]
    fn what_all_share_is_said_at_its_narrowest() {
        let hosts = [host("a1", "fra1", "r1", "c6"), host("a2", "fra1", "r2", "c6")];
        let shared = common(&hosts).unwrap();
        assert_eq!((shared.dimension, &shared.value[..]), (Dimension::Sku, "c6"));
        assert_eq!(common(&[]), None);
        assert_eq!(common(&[host("a", "x", "r", "s"), host("b", "y", "r", "t")]), None);
    }

    proptest! {
        /// Every host is in one cluster, and what a cluster shares is shared by all of it.
        #[test]
        fn nobody_is_lost(hosts in prop::collection::vec((0u8..3, 0u8..4, 0u8..3), 0..30)) {
            let failures: Vec<HostFailure> = hosts
                .iter()
                .enumerate()
                .map(|(n, (d, r, s))| {
                    host(&format!("h{n}"), &format!("d{d}"), &format!("r{r}"), &format!("s{s}"))
                })
                .collect();
            let clusters = cluster(failures.clone());
            let mut all: Vec<_> = clusters.iter().flat_map(|c| &c.failures).map(|f| &f.host).collect();
            all.sort();
            let mut wanted: Vec<_> = failures.iter().map(|f| &f.host).collect();
            wanted.sort();
            prop_assert_eq!(all, wanted);
            for cluster in &clusters {
                if let Some(shared) = &cluster.shared {
                    prop_assert!(cluster.failures.iter().all(|host| shared.by(host)));
                }
            }
            prop_assert!(clusters.iter().filter(|c| c.shared.is_none()).count() <= 1);
        }
    }
}
