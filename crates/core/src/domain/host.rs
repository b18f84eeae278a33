//! Hosts: their names, their places, and the notation of host lists for people.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Name of a host in normal form: lower case, no trailing dot, only letters, digits, `-`, `_` and
/// `.`, at most 253 characters (RFC 1123, with `_` for the fleets that use it).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

/// Text that is not a valid host name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is not a host name: use letters, digits, '-', '_' and '.', at most 253 characters")]
pub struct NotAHostName(pub String);

impl HostName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = NotAHostName;

    fn from_str(text: &str) -> Result<Self, NotAHostName> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let labels_ok = name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        });
        if labels_ok && name.len() <= 253 {
            Ok(HostName(name))
        } else {
            Err(NotAHostName(text.chars().take(80).collect()))
        }
    }
}

impl TryFrom<String> for HostName {
    type Error = NotAHostName;

    fn try_from(text: String) -> Result<Self, NotAHostName> {
        text.parse()
    }
}

impl From<HostName> for String {
    fn from(name: HostName) -> String {
        name.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A physical server as the inventory knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Host {
    pub name: HostName,
    /// Directory group that is responsible for the host.
    pub owner: String,
    pub datacenter: String,
    pub rack: String,
    pub sku: String,
    pub bmc: BmcEndpoint,
}

/// Address and credentials of a host's management controller.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BmcEndpoint {
    /// `address` or `address:port`; the IPMI port is 623 by default.
    pub address: String,
    /// Name of a `[credentials.NAME]` section of the configuration; never the secret itself.
    pub credentials: String,
}

/// Identity that a management controller reports; empty if it never answered.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct BmcIdentity {
    /// Vendor, such as `Dell`.
    pub vendor: String,
    /// Firmware version with vendor and model: the same number means nothing for another model.
    pub firmware: String,
}

/// Set for each part of an identity that most of the fleet has: such a part says nothing about a
/// host.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct UsualBmc {
    pub vendor: bool,
    pub firmware: bool,
}

/// Current fleet in the inventory. Every call may see a newer inventory than the one before.
pub trait Hosts: Send + Sync {
    /// Host of this name; `None` if the inventory has none.
    fn host(&self, name: &HostName) -> Option<Host>;

    /// Names of all hosts, sorted.
    fn names(&self) -> Vec<HostName>;

    /// Looks whether there is a newer inventory, so that the next call sees it. Blocks.
    fn refresh(&self) {}
}

/// Source of hosts while a command is read.
pub trait HostSource: Send + Sync {
    fn contains(&self, host: &HostName) -> bool;

    /// Hosts of a group such as `web`, `dc:fra1` or `rack:r12`; `None` when there is no such group.
    /// Never falls back to all hosts.
    fn group(&self, name: &str) -> Option<Vec<HostName>>;

    /// All hosts, sorted.
    fn names(&self) -> Box<dyn Iterator<Item = &HostName> + '_>;

    /// All names that [`HostSource::group`] knows, sorted.
    fn group_names(&self) -> Vec<String>;
}

/// Formats hosts for people: `db03,web[01-12,15]`. Sorted, each host once, padding kept; reading
/// the result as a node set gives the same hosts.
///
/// One run of digits of each name is folded: the one in which most other names differ, and the last
/// of these when several are equal.
pub fn fold<'a>(hosts: impl IntoIterator<Item = &'a HostName>) -> String {
    let names: BTreeSet<&str> = hosts.into_iter().map(HostName::as_str).collect();
    let mut peers: HashMap<(&str, &str), usize> = HashMap::new();
    for name in &names {
        for run in digit_runs(name) {
            *peers.entry((&name[..run.start], &name[run.end..])).or_default() += 1;
        }
    }
    // Text before and after the digits, with the digits; a name without digits has "".
    let mut stems: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for name in &names {
        let best = digit_runs(name)
            .into_iter()
            .max_by_key(|run| peers[&(&name[..run.start], &name[run.end..])])
            .unwrap_or(name.len()..name.len());
        let stem = (&name[..best.start], &name[best.end..]);
        stems.entry(stem).or_default().push(&name[best]);
    }
    let mut items = Vec::new();
    for ((before, after), digits) in stems {
        fold_digits(&digits, |middle| items.push(format!("{before}{middle}{after}")));
    }
    items.join(",")
}

/// Runs of digits that fit a `u64`.
fn digit_runs(name: &str) -> Vec<Range<usize>> {
    let bytes = name.as_bytes();
    let mut runs = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let length = bytes[at..].iter().take_while(|b| b.is_ascii_digit()).count();
        if (1..=18).contains(&length) {
            runs.push(at..at + length);
        }
        at += length.max(1);
    }
    runs
}

/// Calls `emit` with the shortest texts for these numbers: `7`, `[8-12]`, `[01-12,15]`.
fn fold_digits(digits: &[&str], mut emit: impl FnMut(&str)) {
    let is_padded = |text: &str| text.len() > 1 && text.starts_with('0');
    let padded: BTreeSet<usize> =
        digits.iter().filter(|text| is_padded(text)).map(|text| text.len()).collect();
    // 10 is folded with 01 to 09 if they exist, and with 8 and 9 otherwise.
    let mut widths: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    for text in digits {
        match text.parse() {
            Ok(number) => {
                let width = if padded.contains(&text.len()) { text.len() } else { 0 };
                widths.entry(width).or_default().push(number);
            }
            Err(_) => emit(text),
        }
    }
    for (width, mut numbers) in widths {
        numbers.sort_unstable();
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for number in numbers {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == number => *last = number,
                _ => ranges.push((number, number)),
            }
        }
        let texts: Vec<String> = ranges
            .iter()
            .map(|&(first, last)| match last - first {
                0 => format!("{first:0width$}"),
                _ => format!("{first:0width$}-{last:0width$}"),
            })
            .collect();
        match ranges.as_slice() {
            [(first, last)] if first == last => emit(&texts[0]),
            _ => emit(&format!("[{}]", texts.join(","))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(names: &[&str]) -> String {
        let hosts: Vec<HostName> = names.iter().map(|name| name.parse().unwrap()).collect();
        fold(&hosts)
    }

    #[test]
    fn names_have_one_form() {
        assert_eq!("Web01.Example.COM.".parse::<HostName>().unwrap().as_str(), "web01.example.com");
        for wrong in ["", ".", "a..b", "-a", "a-", "a b", "a,b", "web[1]", "ä", &"a".repeat(64)] {
            assert_eq!(wrong.parse::<HostName>(), Err(NotAHostName(wrong.into())), "{wrong:?}");
        }
    }

    #[test]
    fn folding_keeps_padding_and_order() {
        let cases: &[(&[&str], &str)] = &[
            (&[], ""),
            (&["db"], "db"),
            (&["web15", "db03", "web01", "web02", "web03"], "db03,web[01-03,15]"),
            (&["web8", "web9", "web10", "web11"], "web[8-11]"),
            (&["web08", "web09", "web10"], "web[08-10]"),
            (&["web9", "web09", "web10"], "web9,web[09-10]"),
            (&["web999", "web1000", "web001"], "web1000,web[001,999]"),
            (&["web01.fra1", "web02.fra1", "web01.ams1"], "web[01-02].fra1,web01.ams1"),
            (&["r1-n1", "r1-n2", "r2-n1", "r2-n2"], "r1-n[1-2],r2-n[1-2]"),
            (&["web", "web0", "web00", "web1"], "web,web[0-1],web00"),
            (&["a1", "a1"], "a1"),
            (&["n1234567890123456789", "n2"], "n2,n1234567890123456789"),
        ];
        for (names, text) in cases {
            assert_eq!(folded(names), *text, "{names:?}");
        }
    }

    #[test]
    fn ten_thousand_hosts_fold() {
        let hosts: Vec<HostName> =
            (0..10_000).map(|n| format!("r{}-n{n:05}.fra1", n / 40).parse().unwrap()).collect();
        let text = fold(&hosts);
        assert!(text.starts_with("r0-n[00000-00039].fra1,r1-n[00040-00079].fra1,"), "{text:.80}");
    }
}
