//! The hosts of the fleet, read from a CSV file.
//!
//! The file has the header `name,owner,datacenter,rack,sku,bmc,credentials` and optionally
//! `groups`, in any order; `groups` holds words separated by spaces. An [`Inventory`] never
//! changes: a new file is a new value. No two hosts share a name or a BMC.
//!
//! Groups are the words of `groups` and, made from the other columns, `owner:`, `dc:`, `rack:` and
//! `sku:`. They are looked up in any case. There is no group of all hosts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::io::Read;
use std::path::Path;

use crate::runtime::hot_reload::HotReload;
use metalbot_core::domain::error_kind::ErrorClass;
use metalbot_core::domain::host::{BmcEndpoint, Host, HostName, HostSource, Hosts};
use metalbot_ipmi::{Address, NotAnAddress};

const REQUIRED: [&str; 7] = ["name", "owner", "datacenter", "rack", "sku", "bmc", "credentials"];
const GROUPS: &str = "groups";

/// The hosts and their groups.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Inventory {
    hosts: BTreeMap<HostName, Host>,
    /// Keyed in lower case.
    groups: BTreeMap<String, BTreeSet<HostName>>,
}

/// Error of an inventory file, with its place in the file. The inventory that was read before holds.
#[derive(Debug)]
pub struct InventoryError {
    pub file: String,
    /// Counted from 1; the header is line 1.
    pub line: Option<u64>,
    /// Name of the column in the header.
    pub column: Option<String>,
    pub problem: InventoryProblem,
}

/// Problem of an inventory file.
#[derive(Debug, thiserror::Error)]
pub enum InventoryProblem {
    #[error("cannot read it: {0}")]
    Read(#[from] std::io::Error),
    #[error("not CSV: {0}")]
    Csv(csv::Error),
    #[error("the column is missing; the header must name {}", REQUIRED.join(", "))]
    MissingColumn,
    #[error("the column is unknown; columns are {} and {GROUPS}", REQUIRED.join(", "))]
    UnknownColumn,
    #[error("the column appears twice")]
    DuplicateColumn,
    #[error("the row has {found} values and the header {expected}")]
    Length { found: usize, expected: usize },
    #[error("the value is empty")]
    Empty,
    #[error(transparent)]
    BadName(#[from] metalbot_core::domain::host::NotAHostName),
    #[error("{0} is already on line {1}")]
    DuplicateHost(HostName, u64),
    #[error(transparent)]
    BadBmc(#[from] NotAnAddress),
    #[error("the BMC {0:?} already belongs to {1}")]
    DuplicateBmc(String, HostName),
    #[error("{0:?} must not hold quotes, control characters or any of , ! & ^ @ [ ] =")]
    BadWord(String),
    #[error("the group {0:?} must not hold ':', which is for owner:, dc:, rack: and sku:")]
    ReservedGroup(String),
}

impl InventoryProblem {
    /// Class: reading a file may succeed the next time; what is wrong in it has to be corrected.
    pub fn class(&self) -> ErrorClass {
        match self {
            InventoryProblem::Read(_) => ErrorClass::Transient,
            InventoryProblem::Csv(_)
            | InventoryProblem::MissingColumn
            | InventoryProblem::UnknownColumn
            | InventoryProblem::DuplicateColumn
            | InventoryProblem::Length { .. }
            | InventoryProblem::Empty
            | InventoryProblem::BadName(_)
            | InventoryProblem::DuplicateHost(..)
            | InventoryProblem::BadBmc(_)
            | InventoryProblem::DuplicateBmc(..)
            | InventoryProblem::BadWord(_)
            | InventoryProblem::ReservedGroup(_) => ErrorClass::Rejected,
        }
    }
}

impl fmt::Display for InventoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        if let Some(column) = &self.column {
            write!(f, ", column {column:?}")?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl std::error::Error for InventoryError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.problem {
            InventoryProblem::Read(cause) => Some(cause),
            InventoryProblem::Csv(cause) => Some(cause),
            _ => None,
        }
    }
}

impl Inventory {
    /// Reads a CSV file of hosts. The first thing wrong is the error.
    pub fn load(path: &Path) -> Result<Self, InventoryError> {
        let file = path.display().to_string();
        match std::fs::File::open(path) {
            Ok(reader) => Inventory::read(&file, reader),
            Err(cause) => {
                Err(InventoryError { file, line: None, column: None, problem: cause.into() })
            }
        }
    }

    /// Reads CSV text; `file` is its name in errors.
    pub fn read(file: &str, mut reader: impl Read) -> Result<Self, InventoryError> {
        let fail = |line, column: Option<&str>, problem| InventoryError {
            file: file.to_owned(),
            line,
            column: column.map(str::to_owned),
            problem,
        };
        let mut text = Vec::new();
        reader.read_to_end(&mut text).map_err(|cause| fail(None, None, cause.into()))?;
        let mut csv = csv::ReaderBuilder::new()
            .trim(csv::Trim::All)
            .flexible(true)
            .from_reader(text.as_slice());
        let header = csv
            .headers()
            .map_err(|cause| fail(Some(1), None, InventoryProblem::Csv(cause)))?
            .clone();
        let columns =
            columns(&header).map_err(|(column, problem)| fail(Some(1), Some(&column), problem))?;

        let mut inventory = Inventory::default();
        let mut starts: HashMap<HostName, u64> = HashMap::new();
        let mut bmcs: HashMap<String, HostName> = HashMap::new();
        for record in csv.records() {
            let record = record.map_err(|cause| {
                let line = cause.position().map(|at| line_at(&text, at.byte()));
                fail(line, None, InventoryProblem::Csv(cause))
            })?;
            let start = record.position().map_or(0, csv::Position::byte);
            let fail =
                |column: Option<&str>, problem| fail(Some(line_at(&text, start)), column, problem);
            if record.len() != header.len() {
                let problem =
                    InventoryProblem::Length { found: record.len(), expected: header.len() };
                return Err(fail(None, problem));
            }
            let row = Row { record: &record, columns: &columns };
            let host = row.host().map_err(|(column, problem)| fail(Some(column), problem))?;
            let groups = row.groups(&host).map_err(|problem| fail(Some(GROUPS), problem))?;

            if let Some(first) = starts.insert(host.name.clone(), start) {
                let problem = InventoryProblem::DuplicateHost(host.name, line_at(&text, first));
                return Err(fail(Some("name"), problem));
            }
            if let Some(other) = bmcs.insert(host.bmc.address.clone(), host.name.clone()) {
                let problem = InventoryProblem::DuplicateBmc(row.get("bmc").to_owned(), other);
                return Err(fail(Some("bmc"), problem));
            }
            for group in groups {
                inventory.groups.entry(group).or_default().insert(host.name.clone());
            }
            inventory.hosts.insert(host.name.clone(), host);
        }
        Ok(inventory)
    }

    /// The host of this name.
    pub fn get(&self, name: &HostName) -> Option<&Host> {
        self.hosts.get(name)
    }

    /// All hosts, sorted by name.
    pub fn hosts(&self) -> impl ExactSizeIterator<Item = &Host> {
        self.hosts.values()
    }

    /// The hosts of a group, for example `web`, `dc:fra1`, `rack:r12`, `owner:web-owners`.
    pub fn group(&self, name: &str) -> Option<BTreeSet<HostName>> {
        self.groups.get(&name.to_lowercase()).cloned()
    }

    /// Names of all groups, sorted.
    pub fn group_names(&self) -> impl Iterator<Item = &str> {
        self.groups.keys().map(String::as_str)
    }
}

impl HostSource for Inventory {
    fn contains(&self, host: &HostName) -> bool {
        self.hosts.contains_key(host)
    }

    fn group(&self, name: &str) -> Option<Vec<HostName>> {
        Some(self.groups.get(&name.to_lowercase())?.iter().cloned().collect())
    }

    fn names(&self) -> Box<dyn Iterator<Item = &HostName> + '_> {
        Box::new(self.hosts.keys())
    }

    fn group_names(&self) -> Vec<String> {
        self.groups.keys().cloned().collect()
    }
}

impl Hosts for HotReload<Inventory> {
    fn host(&self, name: &HostName) -> Option<Host> {
        self.current().get(name).cloned()
    }

    fn names(&self) -> Vec<HostName> {
        self.current().hosts.keys().cloned().collect()
    }

    fn refresh(&self) {
        HotReload::refresh(self);
    }
}

/// The line of the record that starts at this byte or, behind empty lines, after it.
fn line_at(text: &[u8], byte: u64) -> u64 {
    let byte = usize::try_from(byte).unwrap_or(text.len()).min(text.len());
    let empty = text[byte..].iter().take_while(|b| b.is_ascii_whitespace()).count();
    1 + text[..byte + empty].iter().filter(|b| **b == b'\n').count() as u64
}

/// Index of each column in the header.
fn columns(
    header: &csv::StringRecord,
) -> Result<HashMap<&'static str, usize>, (String, InventoryProblem)> {
    let mut columns = HashMap::new();
    for (at, name) in header.iter().enumerate() {
        let known = REQUIRED.into_iter().chain([GROUPS]).find(|known| *known == name);
        match known {
            None => return Err((name.to_owned(), InventoryProblem::UnknownColumn)),
            Some(known) => {
                if columns.insert(known, at).is_some() {
                    return Err((name.to_owned(), InventoryProblem::DuplicateColumn));
                }
            }
        }
    }
    match REQUIRED.into_iter().find(|column| !columns.contains_key(column)) {
        Some(missing) => Err((missing.to_owned(), InventoryProblem::MissingColumn)),
        None => Ok(columns),
    }
}

struct Row<'a> {
    record: &'a csv::StringRecord,
    columns: &'a HashMap<&'static str, usize>,
}

impl Row<'_> {
    fn get(&self, column: &'static str) -> &str {
        self.columns.get(column).and_then(|&at| self.record.get(at)).unwrap_or("")
    }

    fn host(&self) -> Result<Host, (&'static str, InventoryProblem)> {
        let text = |column: &'static str| match self.get(column) {
            "" => Err((column, InventoryProblem::Empty)),
            text => Ok(text.to_owned()),
        };
        let word = |column: &'static str| {
            let text = text(column)?;
            if is_word(&text) { Ok(text) } else { Err((column, InventoryProblem::BadWord(text))) }
        };
        // In its one form, by which two rows that mean the same BMC are found.
        let bmc: Address =
            text("bmc")?.parse().map_err(|cause: NotAnAddress| ("bmc", cause.into()))?;
        Ok(Host {
            name: text("name")?.parse().map_err(
                |cause: metalbot_core::domain::host::NotAHostName| ("name", cause.into()),
            )?,
            owner: word("owner")?,
            datacenter: word("datacenter")?,
            rack: word("rack")?,
            sku: word("sku")?,
            bmc: BmcEndpoint { address: bmc.to_string(), credentials: word("credentials")? },
        })
    }

    /// All groups of this host, in lower case.
    fn groups(&self, host: &Host) -> Result<Vec<String>, InventoryProblem> {
        let mut groups = vec![
            format!("owner:{}", host.owner).to_lowercase(),
            format!("dc:{}", host.datacenter).to_lowercase(),
            format!("rack:{}", host.rack).to_lowercase(),
            format!("sku:{}", host.sku).to_lowercase(),
        ];
        for group in self.get(GROUPS).split_whitespace() {
            if group.contains(':') {
                return Err(InventoryProblem::ReservedGroup(group.to_owned()));
            }
            if !is_word(group) {
                return Err(InventoryProblem::BadWord(group.to_owned()));
            }
            groups.push(group.to_lowercase());
        }
        Ok(groups)
    }
}

/// Can be written in a node set, in quotes if need be.
fn is_word(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() || ",!&^@[]=\"'“”\\".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "name,owner,datacenter,rack,sku,bmc,credentials,groups\n";

    fn read(rows: &str) -> Result<Inventory, String> {
        Inventory::read("hosts.csv", format!("{HEADER}{rows}").as_bytes())
            .map_err(|error| error.to_string())
    }

    fn names(hosts: impl IntoIterator<Item = HostName>) -> Vec<String> {
        hosts.into_iter().map(String::from).collect()
    }

    #[test]
    fn hosts_and_groups_are_found() {
        let inventory = read(
            "web02,Web-Owners,fra1,r12,R640 v2,10.0.0.2:6230,rack1,web canary\n\
             WEB01.,web-owners,fra1,r12,r640,10.0.0.1,rack1,web\n\
             db01,db-owners,ams1,r2,r740,bmc-db01.example.com,rack1,\n",
        )
        .unwrap();
        let web01 = inventory.get(&"web01".parse().unwrap()).unwrap();
        assert_eq!((web01.rack.as_str(), web01.bmc.address.as_str()), ("r12", "10.0.0.1"));
        assert_eq!(inventory.hosts().len(), 3);
        for (group, expected) in [
            ("web", vec!["web01", "web02"]),
            ("CANARY", vec!["web02"]),
            ("dc:ams1", vec!["db01"]),
            ("rack:r12", vec!["web01", "web02"]),
            ("owner:web-owners", vec!["web01", "web02"]),
            ("sku:R640 v2", vec!["web02"]),
        ] {
            assert_eq!(names(inventory.group(group).unwrap()), expected, "{group}");
        }
        for none in ["", "all", "*", "dc:", "r12", "web01"] {
            assert_eq!(inventory.group(none), None, "{none:?}");
        }
        assert!(inventory.group_names().any(|name| name == "owner:db-owners"));
    }

    #[test]
    fn every_mistake_names_its_place() {
        let cases = [
            ("a,o,d,r,s,10.0.0.1,c\n", "hosts.csv, line 2: the row has 7 values and the header 8"),
            (
                "a,o,d,r,s,10.0.0.1,c,\nA.,o,d,r,s,10.0.0.2,c,\n",
                "hosts.csv, line 3, column \"name\": a is already on line 2",
            ),
            (
                "a,o,d,r,s,10.0.0.1,c,\n\n\r\nb,o,d,r,s,10.0.0.1:623,c,\n",
                "hosts.csv, line 5, column \"bmc\": the BMC \"10.0.0.1:623\" already belongs to a",
            ),
            (
                "a b,o,d,r,s,10.0.0.1,c,\n",
                "hosts.csv, line 2, column \"name\": \"a b\" is not a host name: use letters, \
                 digits, '-', '_' and '.', at most 253 characters",
            ),
            ("a,o,d,,s,10.0.0.1,c,\n", "hosts.csv, line 2, column \"rack\": the value is empty"),
            (
                "a,o,d,r,s,10.0.0.256,c,\n",
                "hosts.csv, line 2, column \"bmc\": \"10.0.0.256\" is not an address; use for \
                 example 10.0.0.1, 10.0.0.1:623, 2001:db8::1, [2001:db8::1]:623 or a host name",
            ),
            (
                "a,o!,d,r,s,10.0.0.1,c,\n",
                "hosts.csv, line 2, column \"owner\": \"o!\" must not hold quotes, control \
                 characters or any of , ! & ^ @ [ ] =",
            ),
            (
                "a,o,d,r,s,10.0.0.1,c,dc:fra1\n",
                "hosts.csv, line 2, column \"groups\": the group \"dc:fra1\" must not hold ':', \
                 which is for owner:, dc:, rack: and sku:",
            ),
        ];
        for (rows, message) in cases {
            assert_eq!(read(rows).unwrap_err(), message, "{rows:?}");
        }
    }

    #[test]
    fn the_header_is_strict() {
        let read = |text: &str| Inventory::read("h", text.as_bytes()).unwrap_err().to_string();
        assert_eq!(
            read("name,owner\n"),
            "h, line 1, column \"datacenter\": the column is missing; the header must name name, \
             owner, datacenter, rack, sku, bmc, credentials"
        );
        assert!(read("name,colour\n").contains("column \"colour\": the column is unknown"));
        assert!(read("name,name\n").contains("column \"name\": the column appears twice"));
        assert!(read("").contains("column \"name\": the column is missing"));
        let missing = Inventory::load(Path::new("/no/such/file.csv")).unwrap_err();
        assert!(missing.to_string().starts_with("/no/such/file.csv: cannot read it: "));
        assert_eq!(missing.problem.class(), ErrorClass::Transient);
        assert!(read("name,\u{0}").contains("unknown"));
        let not_utf8 = Inventory::read("h", &b"name\n\xff\n"[..]).unwrap_err();
        assert!(not_utf8.to_string().starts_with("h, line "), "{not_utf8}");
    }

    #[test]
    fn one_bmc_has_one_form() {
        let inventory =
            read("a,o,d,r,s,[2001:DB8::10]:623,c,\nb,o,d,r,s,BMC-b.example.,c,\n").unwrap();
        let bmc = |name: &str| inventory.get(&name.parse().unwrap()).unwrap().bmc.address.clone();
        assert_eq!((bmc("a"), bmc("b")), ("2001:db8::10".into(), "bmc-b.example".into()));
        for (one, other) in [
            ("10.0.0.1", "::ffff:10.0.0.1"),
            ("2001:db8::10", "[2001:db8:0::10]:623"),
            ("bmc-b", "BMC-B.:623"),
        ] {
            let error = read(&format!("a,o,d,r,s,{one},c,\nb,o,d,r,s,{other},c,\n")).unwrap_err();
            assert!(error.ends_with(&format!("the BMC {other:?} already belongs to a")), "{error}");
        }
    }
}
