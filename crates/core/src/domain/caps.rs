//! Caps on how many hosts may be down at the same time in one datacenter, rack or owner group,
//! whatever batches they belong to.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;

use super::host::HostName;

/// Section `[caps]` of the configuration; a number that is left out means no cap.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Caps {
    pub datacenter: Option<u32>,
    pub rack: Option<u32>,
    pub owner: Option<u32>,
}

/// Datacenter, rack and owner group of a host, by which the caps count it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FailureDomain {
    pub host: HostName,
    pub datacenter: String,
    /// Rack within its datacenter. Racks of different datacenters may have the same name.
    pub rack: String,
    pub owner: String,
}

/// Hosts that may start now, and the cap that stops the others.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Fit<T> {
    pub start: Vec<T>,
    /// First cap that stopped a host from starting, in words.
    pub blocked_by: Option<String>,
}

impl Caps {
    /// True if at least one cap is set.
    pub fn any(&self) -> bool {
        self.datacenter.is_some() || self.rack.is_some() || self.owner.is_some()
    }

    /// Picks hosts in the given order, at most `limit`, so that no cap is exceeded together with
    /// the hosts that are `down`. A host that is itself down does not count again: the batch is
    /// there to repair it.
    pub fn fit<T>(
        &self,
        down: &[FailureDomain],
        waiting: impl IntoIterator<Item = (T, FailureDomain)>,
        limit: u32,
    ) -> Fit<T> {
        let mut counts: BTreeMap<(&'static str, String), u32> = BTreeMap::new();
        let mut counted: HashSet<&HostName> = HashSet::new();
        for spot in down.iter().filter(|spot| counted.insert(&spot.host)) {
            for (key, _) in self.keys(spot) {
                *counts.entry(key).or_default() += 1;
            }
        }
        let mut fit = Fit { start: Vec::new(), blocked_by: None };
        for (host, spot) in waiting {
            if fit.start.len() >= limit as usize {
                break;
            }
            if counted.contains(&spot.host) {
                fit.start.push(host);
                continue;
            }
            let keys = self.keys(&spot);
            let full = keys.iter().find(|(key, cap)| counts.get(key).copied().unwrap_or(0) >= *cap);
            match full {
                Some(((kind, name), cap)) => {
                    fit.blocked_by.get_or_insert_with(|| {
                        let hosts = if *cap == 1 { "host" } else { "hosts" };
                        format!("{kind} {name} may have only {cap} {hosts} down at a time")
                    });
                }
                None => {
                    for (key, _) in keys {
                        *counts.entry(key).or_default() += 1;
                    }
                    fit.start.push(host);
                }
            }
        }
        fit
    }

    fn keys(&self, spot: &FailureDomain) -> Vec<((&'static str, String), u32)> {
        let rack = format!("{}/{}", spot.datacenter, spot.rack);
        [
            ("datacenter", spot.datacenter.clone(), self.datacenter),
            ("rack", rack, self.rack),
            ("owner group", spot.owner.clone(), self.owner),
        ]
        .into_iter()
        .filter_map(|(kind, name, cap)| Some(((kind, name), cap?)))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spot(host: &str, rack: &str, owner: &str) -> FailureDomain {
        let (rack, owner) = (rack.into(), owner.into());
        FailureDomain { host: host.parse().unwrap(), datacenter: "fra1".into(), rack, owner }
    }

    #[test]
    fn a_full_rack_keeps_its_hosts_and_lets_others_go() {
        let caps = Caps { rack: Some(2), ..Caps::default() };
        let down = [spot("other", "r1", "web")];
        let at = |n: i32| spot(&format!("web{n}"), if n < 4 { "r1" } else { "r2" }, "web");
        let waiting = [1, 2, 3, 4].map(|n| (n, at(n)));
        let fit = caps.fit(&down, waiting, 10);
        assert_eq!(fit.start, [1, 4]);
        let why = "rack fra1/r1 may have only 2 hosts down at a time";
        assert_eq!(fit.blocked_by.as_deref(), Some(why));
    }

    #[test]
    fn a_host_that_is_down_takes_no_more_room() {
        let caps = Caps { rack: Some(1), ..Caps::default() };
        let down = [spot("web1", "r1", "web"), spot("web1", "r1", "web")];
        let waiting = [2, 1].map(|n| (n, spot(&format!("web{n}"), "r1", "web")));
        assert_eq!(caps.fit(&down, waiting, 10).start, [1]);
    }

    #[test]
    fn without_caps_only_the_room_counts() {
        let fit = Caps::default().fit(
            &[],
            [1, 2, 3].map(|n| (n, spot(&format!("web{n}"), "r1", "web"))),
            2,
        );
        assert_eq!(fit, Fit { start: vec![1, 2], blocked_by: None });
    }

    proptest! {
        #[test]
        fn no_cap_is_ever_exceeded(
            racks in prop::collection::vec((0u8..4, 0u8..3), 0..60),
            down in prop::collection::vec((0u8..4, 0u8..3), 0..10),
            rack in 0u32..6, owner in 0u32..6,
        ) {
            let caps = Caps { rack: Some(rack), owner: Some(owner), datacenter: None };
            let at = |(n, (r, o)): (usize, &(u8, u8))| {
                spot(&format!("web{n}"), &r.to_string(), &o.to_string())
            };
            let down: Vec<FailureDomain> = (1000..).zip(&down).map(at).collect();
            let waiting: Vec<(usize, FailureDomain)> = racks.iter().enumerate().map(at).enumerate().collect();
            let fit = caps.fit(&down, waiting.clone(), 100);
            let mut after = down.clone();
            after.extend(fit.start.iter().map(|host| waiting[*host].1.clone()));
            let grew = |spots: &[FailureDomain], of: fn(&FailureDomain) -> &str, name: &str| {
                u32::try_from(spots.iter().filter(|s| of(s) == name).count()).unwrap()
            };
            for host in &fit.start {
                let s = &waiting[*host].1;
                prop_assert!(grew(&after, |s| &s.rack, &s.rack) <= rack);
                prop_assert!(grew(&after, |s| &s.owner, &s.owner) <= owner);
            }
        }
    }
}
