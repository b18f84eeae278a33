//! Turns lists of hosts, pasted or from a file, into node sets.
//!
//! A pasted list has hosts or node sets one per line, or separated by commas, semicolons or blanks;
//! bullets and lines that begin with `#` are ignored. A CSV file has one column, or names its
//! column of hosts in the first line.
//!
//! Invariant: nothing is guessed. A file of several columns that names none of them is refused,
//! because the name of a rack must not be read as a host.

/// Accepted titles of the column of hosts in a CSV file.
const COLUMNS: [&str; 7] = ["host", "hosts", "hostname", "name", "server", "node", "fqdn"];

/// Reasons why a file is not a list of hosts. The text is for the person.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotAList {
    #[error("the file is not text in UTF-8")]
    NotText,
    #[error("the file cannot be read as CSV")]
    NotCsv,
    #[error(
        "the file has several columns: name the column of the hosts \"host\" in its first line"
    )]
    WhichColumn,
}

/// Turns a pasted list into a node set, unchecked: `node_set` finds its errors.
pub fn pasted(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let items = lines.flat_map(|line| {
        let line =
            ["- ", "* ", "• "].iter().find_map(|bullet| line.strip_prefix(bullet)).unwrap_or(line);
        line.split(';')
    });
    let items = items.map(|item| item.trim().trim_matches(',').trim());
    items.filter(|item| !item.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Turns the content of a file into a node set. The ending of `name` tells a CSV file from a plain
/// list.
pub fn listed(name: &str, content: &[u8]) -> Result<String, NotAList> {
    let text = std::str::from_utf8(content).map_err(|_| NotAList::NotText)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if !name.to_lowercase().ends_with(".csv") {
        return Ok(pasted(text));
    }
    let first = text.lines().next().unwrap_or_default();
    let count = |separator: char| first.matches(separator).count();
    let separator = match (count(','), count(';'), count('\t')) {
        (commas, semicolons, tabs) if semicolons > commas && semicolons >= tabs => b';',
        (commas, _, tabs) if tabs > commas => b'\t',
        _ => b',',
    };
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(separator)
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let rows: Vec<csv::StringRecord> =
        reader.records().collect::<Result<_, _>>().map_err(|_| NotAList::NotCsv)?;
    let named = rows.first().and_then(|row| {
        row.iter().position(|field| COLUMNS.contains(&field.to_lowercase().as_str()))
    });
    let column = match named {
        Some(column) => column,
        None if rows.iter().all(|row| row.len() == 1) => 0,
        None => return Err(NotAList::WhichColumn),
    };
    let fields = rows.iter().skip(usize::from(named.is_some())).filter_map(|row| row.get(column));
    Ok(fields.filter(|field| !field.is_empty()).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::super::node_set;
    use super::super::testing::rack;
    use super::*;
    use crate::domain::host::fold;

    #[test]
    fn pasted_lists_are_node_sets() {
        for (text, hosts) in [
            ("web01\nweb02\r\nweb03\n", "web[01-03]"),
            ("web01, web02,\nweb03,", "web[01-03]"),
            ("web01 web02;web03", "web[01-03]"),
            ("# rack 1\n- web01\n• web02\n* web03\n\n", "web[01-03]"),
            ("web[01-03]\n!web02", "web[01,03]"),
            ("@db\ndb01", "db[01-08]"),
        ] {
            let set = node_set(&pasted(text), &rack(), 100).unwrap();
            assert_eq!(fold(&set), hosts, "{text:?}");
        }
        assert_eq!(pasted(" \n,\n# a\n"), "");
    }

    #[test]
    fn a_file_names_its_column() {
        for (name, text, expected) in [
            ("hosts.txt", "web01\nweb02", Ok("web01 web02")),
            ("hosts.csv", "web01\nweb02\n", Ok("web01 web02")),
            ("hosts.CSV", "\u{feff}rack,Hostname\nr1, web01\nr2,\"web02\"\n", Ok("web01 web02")),
            ("hosts.csv", "name;rack\nweb01;r1\n;r2\n", Ok("web01")),
            ("hosts.csv", "rack\thost\nr1\tweb01\n", Ok("web01")),
            ("hosts.csv", "host\n", Ok("")),
            ("hosts.csv", "web01,r1\nweb02,r1\n", Err(NotAList::WhichColumn)),
            ("hosts.csv", "web01,web02\n", Err(NotAList::WhichColumn)),
        ] {
            let found = listed(name, text.as_bytes());
            assert_eq!(found, expected.map(str::to_owned), "{text:?}");
        }
        assert_eq!(listed("a.txt", &[0xff, 0xfe]), Err(NotAList::NotText));
    }
}
