//! Node sets: short notation for many hosts.
//!
//! ```text
//! set   = term { operator term }          from left to right, no precedence
//! operator = "," (and) | "!" (without) | "&" (only if also in) | "^" (in one, not in both)
//! term  = host | "@" group
//! host  = text with brackets: web[01-12,15], dc[1-2]n[1-99], [0-6/2] in steps
//! group = web, dc:fra1, rack:r[01-04], owner:web-owners, sku:r640
//! ```
//!
//! Padding is kept: `[01-12]` is not `[1-12]`. Invariants: every host that is written down must be
//! in the inventory, also behind `!`, where a slip would leave a host in; an empty set is an error
//! and never means all; hosts are counted before any bracket is written out, so that no text costs
//! more than [`WORK`] limits.
//!
//! The grammar is ClusterShell's, without its parentheses and `@*`. Brackets are read here and not
//! by the crate `nodeset` 0.6.0, which expands them while it parses: before its `len()` can be
//! called, `a[1-300000000]` takes 1.2 GB; `[1-3/0]` and five long dimensions make it panic, and it
//! cannot hold numbers of ten digits, which names with serial numbers have. The tests compare with
//! it.

use std::collections::BTreeSet;

use super::error::{CommandError, CommandProblem, near};
use super::lex::{Mark, text};
use crate::domain::host::{HostName, HostSource, fold};

/// Names that the brackets of one set may write out, as a multiple of the limit of hosts. Larger
/// than 1 because `!` and `&` make the set smaller again.
const WORK: u128 = 10;
/// Largest number of groups in one set. Each can hold the whole fleet.
const MAX_GROUPS: usize = 64;
/// Largest number of digits in a bracket, so that the number fits a `u64`.
const MAX_DIGITS: usize = 18;
/// Largest number of unknown hosts that an error names.
const NAMED: usize = 20;

/// Resolves a node set to its hosts, sorted. Columns of errors count from 1 in `expression`.
pub fn node_set(
    expression: &str,
    inventory: &dyn HostSource,
    max_hosts: usize,
) -> Result<Vec<HostName>, CommandError> {
    let marks = super::lex::marks(expression, usize::MAX)?;
    let words = super::lex::words(&marks)?;
    let words: Vec<&[Mark]> = words.iter().map(|word| word.marks.as_slice()).collect();
    resolve(&join(&words), inventory, max_hosts)
}

/// Joins words to one expression: adds `,` between two words that have no operator between them.
pub(super) fn join(words: &[&[Mark]]) -> Vec<Mark> {
    let mut joined: Vec<Mark> = Vec::new();
    for word in words {
        if let (Some(last), Some(first)) = (joined.last(), word.first())
            && !is_operator(last.0)
            && !is_operator(first.0)
        {
            joined.push((',', first.1));
        }
        joined.extend_from_slice(word);
    }
    joined
}

pub(super) fn is_operator(c: char) -> bool {
    matches!(c, ',' | '!' | '&' | '^')
}

/// Resolves a node set to its hosts, sorted.
pub(super) fn resolve(
    set: &[Mark],
    inventory: &dyn HostSource,
    most: usize,
) -> Result<Vec<HostName>, CommandError> {
    let Some(&(_, start)) = set.first() else {
        return Err(CommandProblem::MissingHosts.nowhere());
    };
    let mut scope = Scope { inventory, most, work: WORK.saturating_mul(most as u128), groups: 0 };
    let mut hosts: BTreeSet<HostName> = BTreeSet::new();
    let mut operator = (',', start);
    let mut rest = set;
    loop {
        let (term, after) = read_term(rest)?;
        let Some(&(_, column)) = rest[..rest.len() - after.len()].first() else {
            let ((c, column), after) = match rest.first() {
                Some(&next) if rest.len() == set.len() => (next, false),
                _ => (operator, true),
            };
            return Err(CommandProblem::MissingTerm { operator: c, after }.at(column));
        };
        let found = scope.hosts(&term, column)?;
        match operator.0 {
            '!' => found.iter().for_each(|host| {
                hosts.remove(host);
            }),
            '&' => {
                let found: BTreeSet<HostName> = found.into_iter().collect();
                hosts.retain(|host| found.contains(host));
            }
            '^' => {
                let found: BTreeSet<HostName> = found.into_iter().collect();
                hosts = &hosts ^ &found;
            }
            _ => hosts.extend(found),
        }
        match after.split_first() {
            Some((&next, further)) => {
                operator = next;
                rest = further;
            }
            None => break,
        }
    }
    match hosts.len() {
        0 => Err(CommandProblem::EmptySet.at(start)),
        count if count > most => {
            Err(CommandProblem::TooManyHosts { count: count as u128, most }.at(start))
        }
        _ => Ok(hosts.into_iter().collect()),
    }
}

/// Host or group of a node set, not yet expanded.
struct Term {
    group: bool,
    pieces: Vec<Piece>,
}

enum Piece {
    Text(String),
    Numbers(Vec<Numbers>),
}

/// Range of numbers, such as `01-12/2`, padded to `width` digits; a `width` of 0 means no padding.
struct Numbers {
    first: u64,
    last: u64,
    step: u64,
    width: usize,
}

impl Term {
    /// Number of names that the term expands to.
    fn count(&self) -> u128 {
        self.pieces
            .iter()
            .map(|piece| match piece {
                Piece::Text(_) => 1,
                Piece::Numbers(list) => list
                    .iter()
                    .map(|range| u128::from((range.last - range.first) / range.step) + 1)
                    .sum(),
            })
            .fold(1, u128::saturating_mul)
    }

    /// Expands the term to all its names. The caller must have checked [`Term::count`].
    fn names(&self) -> Vec<String> {
        self.pieces.iter().fold(vec![String::new()], |names, piece| match piece {
            Piece::Text(text) => names.into_iter().map(|name| name + text).collect(),
            Piece::Numbers(list) => {
                let numbers: Vec<String> = list
                    .iter()
                    .flat_map(|range| {
                        let steps = 0..=(range.last - range.first) / range.step;
                        steps.map(|n| {
                            format!("{:0width$}", range.first + n * range.step, width = range.width)
                        })
                    })
                    .collect();
                names
                    .iter()
                    .flat_map(|name| numbers.iter().map(move |number| format!("{name}{number}")))
                    .collect()
            }
        })
    }
}

/// Reads a term, up to the next operator outside brackets; returns the rest.
fn read_term(marks: &[Mark]) -> Result<(Term, &[Mark]), CommandError> {
    let mut term = Term { group: false, pieces: Vec::new() };
    let mut plain = String::new();
    let mut rest = marks;
    while let Some((&(c, column), after)) = rest.split_first() {
        match c {
            _ if is_operator(c) => break,
            '@' if rest.len() == marks.len() => term.group = true,
            '[' => {
                let (numbers, end) = read_bracket(after, column)?;
                term.pieces.push(Piece::Text(std::mem::take(&mut plain)));
                term.pieces.push(Piece::Numbers(numbers));
                rest = end;
                continue;
            }
            ']' => return Err(CommandProblem::UnopenedBracket.at(column)),
            '(' | ')' => return Err(CommandProblem::Parenthesis.at(column)),
            _ => plain.push(c),
        }
        rest = after;
    }
    term.pieces.push(Piece::Text(plain));
    Ok((term, rest))
}

/// Reads the inside of a bracket, such as `01-12,15]`; returns the rest. `open` is the column of
/// the bracket.
fn read_bracket(marks: &[Mark], open: usize) -> Result<(Vec<Numbers>, &[Mark]), CommandError> {
    let mut numbers = Vec::new();
    let mut rest = marks;
    loop {
        let start = rest;
        let (first, after) = read_number(rest, open)?;
        let mut range = Numbers {
            first: value(first),
            last: value(first),
            step: 1,
            width: if is_padded(first) { first.len() } else { 0 },
        };
        rest = after;
        if let Some((('-', _), after)) = rest.split_first() {
            let (last, after) = read_number(after, open)?;
            let column = start[0].1;
            let typed = || text(&start[..start.len() - after.len()]);
            range.last = value(last);
            if range.last < range.first {
                return Err(CommandProblem::ReversedRange(typed()).at(column));
            }
            if (is_padded(first) || is_padded(last)) && first.len() != last.len() {
                return Err(CommandProblem::UnevenPadding(typed()).at(column));
            }
            rest = after;
            if let Some((('/', _), after)) = rest.split_first() {
                let (step, after) = read_number(after, open)?;
                range.step = value(step);
                if range.step == 0 {
                    return Err(CommandProblem::ZeroStep.at(step[0].1));
                }
                rest = after;
            }
        }
        numbers.push(range);
        match rest.split_first() {
            Some(((',', _), after)) => rest = after,
            Some(((']', _), after)) => return Ok((numbers, after)),
            Some((&(_, column), _)) => return Err(CommandProblem::BadRange.at(column)),
            None => return Err(CommandProblem::UnclosedBracket.at(open)),
        }
    }
}

/// Reads digits; returns the rest.
fn read_number(marks: &[Mark], open: usize) -> Result<(&[Mark], &[Mark]), CommandError> {
    let length = marks.iter().take_while(|(c, _)| c.is_ascii_digit()).count();
    match marks.first() {
        None => Err(CommandProblem::UnclosedBracket.at(open)),
        Some(&(_, column)) if length == 0 => Err(CommandProblem::NumberExpected.at(column)),
        Some(&(_, column)) if length > MAX_DIGITS => {
            Err(CommandProblem::LongNumber(MAX_DIGITS).at(column))
        }
        Some(_) => Ok(marks.split_at(length)),
    }
}

fn value(digits: &[Mark]) -> u64 {
    digits.iter().fold(0, |value, (c, _)| value * 10 + u64::from(c.to_digit(10).unwrap_or(0)))
}

fn is_padded(digits: &[Mark]) -> bool {
    digits.len() > 1 && digits[0].0 == '0'
}

/// Remaining limits of one node set while it is resolved.
struct Scope<'a> {
    inventory: &'a dyn HostSource,
    most: usize,
    work: u128,
    groups: usize,
}

impl Scope<'_> {
    /// Expands a term that starts at `column` to its hosts.
    fn hosts(&mut self, term: &Term, column: usize) -> Result<Vec<HostName>, CommandError> {
        let count = term.count();
        if count > self.most as u128 {
            return Err(CommandProblem::TooManyHosts { count, most: self.most }.at(column));
        }
        self.work = self.work.checked_sub(count).ok_or_else(|| {
            CommandProblem::TooManyNames { most: WORK.saturating_mul(self.most as u128) }.at(column)
        })?;
        let names = term.names();
        if term.group {
            return self.groups(&names, column);
        }
        let mut hosts = Vec::with_capacity(names.len());
        let mut unknown: Vec<HostName> = Vec::new();
        for name in names {
            let host: HostName =
                name.parse().map_err(|_| CommandProblem::BadHostName(name).at(column))?;
            if self.inventory.contains(&host) { hosts.push(host) } else { unknown.push(host) }
        }
        if unknown.is_empty() { Ok(hosts) } else { Err(self.unknown(unknown, column)) }
    }

    fn groups(&mut self, names: &[String], column: usize) -> Result<Vec<HostName>, CommandError> {
        self.groups += names.len();
        if self.groups > MAX_GROUPS {
            return Err(CommandProblem::TooManyGroups(MAX_GROUPS).at(column));
        }
        let mut hosts = Vec::new();
        for name in names {
            match self.inventory.group(name) {
                Some(found) => hosts.extend(found),
                None => {
                    let known = self.inventory.group_names();
                    let near = near(name, known.iter().map(String::as_str));
                    return Err(
                        CommandProblem::UnknownGroup { name: name.clone(), near }.at(column)
                    );
                }
            }
        }
        Ok(hosts)
    }

    fn unknown(&self, unknown: Vec<HostName>, column: usize) -> CommandError {
        let count = unknown.len();
        let near = match unknown.as_slice() {
            [one] => near(one.as_str(), self.inventory.names().map(HostName::as_str)),
            _ => Vec::new(),
        };
        let hosts = fold(unknown.iter().take(NAMED));
        CommandProblem::UnknownHosts { hosts, count, near, key: None }.at(column)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use nodeset::{IdRangeList, NodeSet, Parser};
    use proptest::prelude::*;

    use super::super::testing::{Everything, rack};
    use super::*;

    fn names(hosts: &[HostName]) -> Vec<&str> {
        hosts.iter().map(HostName::as_str).collect()
    }

    #[test]
    fn sets_mean_what_operators_expect() {
        for (set, expected) in [
            ("web01", "web01"),
            ("WEB01.", "web01"),
            ("web[01-03]", "web[01-03]"),
            ("web[01-03,03,40]", "web[01-03,40]"),
            ("web[01-07/3]", "web[01,04,07]"),
            ("web0[1-2]", "web[01-02]"),
            ("web01,db01", "db01,web01"),
            ("web01 db01", "db01,web01"),
            ("web[01, 02] ! web01 , db01", "db01,web02"),
            ("web[01 02]", "web[01-02]"),
            ("@db", "db[01-08]"),
            ("@DB!db[01-07]", "db08"),
            ("@web&@rack:r2&web[01-30]", "web[21-30]"),
            ("web[01-03]^web[03-05]", "web[01-02,04-05]"),
            ("web01!web01,web02", "web02"),
            ("@rack:r[1-2]&@db", "db[01-08]"),
            ("@\"sku:big one\"&db01", "db01"),
        ] {
            let hosts = node_set(set, &rack(), 100).unwrap_or_else(|e| panic!("{set}: {e}"));
            assert_eq!(fold(&hosts), expected, "{set}");
        }
    }

    #[test]
    fn errors_name_the_column_and_the_cure() {
        use CommandProblem as P;
        let group = |name: &str, near: &[&str]| P::UnknownGroup {
            name: name.into(),
            near: near.iter().map(|name| (*name).to_owned()).collect(),
        };
        let hosts = |hosts: &str, count, near: &[&str]| P::UnknownHosts {
            hosts: hosts.into(),
            count,
            near: near.iter().map(|name| (*name).to_owned()).collect(),
            key: None,
        };
        let missing = |operator, after| P::MissingTerm { operator, after };
        for (set, problem, column) in [
            ("web01,web[01-", P::UnclosedBracket, 10),
            ("web[", P::UnclosedBracket, 4),
            ("web[01", P::UnclosedBracket, 4),
            ("web[01-02]]", P::UnopenedBracket, 11),
            ("web01]", P::UnopenedBracket, 6),
            ("web[]", P::NumberExpected, 5),
            ("web[1,]", P::NumberExpected, 7),
            ("web[1-x]", P::NumberExpected, 7),
            ("web[[1]]", P::NumberExpected, 5),
            ("web[-1]", P::NumberExpected, 5),
            ("web[01- 02]", P::NumberExpected, 9),
            ("web[1.5]", P::BadRange, 6),
            ("web[1-2-3]", P::BadRange, 8),
            ("web01,web[9-1]", P::ReversedRange("9-1".into()), 11),
            ("web[1-010]", P::UnevenPadding("1-010".into()), 5),
            ("web[01-100]", P::UnevenPadding("01-100".into()), 5),
            ("web[1-5/0]", P::ZeroStep, 9),
            ("web[1234567890123456789]", P::LongNumber(18), 5),
            ("(web01)", P::Parenthesis, 1),
            (",web01", missing(',', false), 1),
            ("!web01", missing('!', false), 1),
            ("web01,,web02", missing(',', true), 6),
            ("web01!", missing('!', true), 6),
            ("web01 &", missing('&', true), 7),
            ("web01,@wbe", group("wbe", &["web"]), 7),
            ("@", group("", &[]), 1),
            ("@rack:r[1-9]", group("rack:r3", &["rack:r1", "rack:r2"]), 1),
            ("@*", group("*", &[]), 1),
            ("web01,wbe02", hosts("wbe02", 1, &["web02"]), 7),
            ("@web!wbe[03-04]", hosts("wbe[03-04]", 2, &[]), 6),
            ("web[38-99]", hosts("web[41-60]", 59, &[]), 1),
            ("web01,b@d", P::BadHostName("b@d".into()), 7),
            ("*", P::BadHostName("*".into()), 1),
            ("wéb", P::BadHostName("wéb".into()), 1),
            ("web01!web01", P::EmptySet, 1),
            ("@db&@web", P::EmptySet, 1),
            ("\u{202e}web01", P::DirectionCharacter('\u{202e}'), 1),
        ] {
            assert_eq!(node_set(set, &rack(), 100), Err(problem.at(column)), "{set:?}");
        }
        for nothing in ["", "  ", "\"\""] {
            assert_eq!(node_set(nothing, &rack(), 100), Err(P::MissingHosts.nowhere()));
        }
    }

    #[test]
    fn the_limit_holds_before_anything_is_written_out() {
        let started = Instant::now();
        let too_many = |set: &str, most| match node_set(set, &Everything, most) {
            Err(CommandError { problem: CommandProblem::TooManyHosts { count, .. }, column }) => {
                (count, column)
            }
            other => panic!("{set}: {other:?}"),
        };
        assert_eq!(too_many("a[1-99999]b[1-99999]", 10_000), (99_999 * 99_999, Some(1)));
        assert_eq!(too_many("x,a[0-999999999999999999]", 10_000), (10u128.pow(18), Some(3)));
        assert_eq!(too_many(&"[0-999999999999999999]".repeat(40), 10_000), (u128::MAX, Some(1)));
        assert_eq!(too_many("@a[0-999999999]", 10_000).0, 1_000_000_000);
        let names = CommandProblem::TooManyNames { most: 100_000 }.at(111);
        assert_eq!(node_set(&["a[1-10000]"; 700].join(","), &Everything, 10_000), Err(names));
        assert_eq!(too_many("a[1-3],b[1-2]", 4), (5, Some(1)));
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());

        assert_eq!(node_set("a[1-3],b[1-2]!b1", &Everything, 4).unwrap().len(), 4);
        let groups = ["@web"; 65].join(",");
        assert_eq!(node_set(&groups, &rack(), 100), Err(CommandProblem::TooManyGroups(64).at(321)));
    }

    /// Generates a term, with the names that it must expand to.
    fn term() -> impl Strategy<Value = (String, BTreeSet<String>)> {
        (0u64..30, 0u64..12, 1u64..4, any::<bool>(), prop::sample::select(vec!["a", "b-", "c.x"]))
            .prop_map(|(first, more, step, padded, stem)| {
                let width = if padded { 3 } else { 0 };
                let last = first + more;
                let text = format!("{stem}[{first:0width$}-{last:0width$}/{step}]z");
                let names = (first..=last)
                    .step_by(step as usize)
                    .map(|n| format!("{stem}{n:0width$}z"))
                    .collect();
                (text, names)
            })
    }

    proptest! {
        #[test]
        fn sets_equal_naive_expansion(
            head in term(),
            tail in prop::collection::vec((prop::sample::select(vec![',', '!', '&', '^']), term()), 0..5),
        ) {
            let (mut text, mut expected) = head;
            for (operator, (term, names)) in tail {
                text = format!("{text}{operator}{term}");
                expected = match operator {
                    ',' => &expected | &names,
                    '!' => &expected - &names,
                    '&' => &expected & &names,
                    _ => &expected ^ &names,
                };
            }
            let found = node_set(&text, &Everything, 1000);
            if expected.is_empty() {
                prop_assert_eq!(found, Err(CommandProblem::EmptySet.at(1)));
            } else {
                let found = found.unwrap();
                let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
                prop_assert_eq!(names(&found), expected.clone());
                // Result of the crate `nodeset`, an independent implementation of ClusterShell's
                // grammar.
                let other: NodeSet<IdRangeList> = Parser::default().parse(&text).unwrap();
                let mut other: Vec<String> = other.iter().collect();
                other.sort();
                prop_assert_eq!(other, expected);
            }
        }

        #[test]
        fn a_folded_set_reads_back(
            list in prop::collection::btree_set("[a-c]{1,2}[0-9]{1,4}(-?[a-b]|\\.[a-b])?[0-9]{0,2}", 1..60),
        ) {
            let list: BTreeSet<HostName> = list.iter().map(|name| name.parse().unwrap()).collect();
            let text = fold(&list);
            let back = node_set(&text, &Everything, 1000);
            prop_assert_eq!(back, Ok(list.into_iter().collect()), "{}", text);
        }

        #[test]
        fn no_text_panics(text in ".{0,40}", odd in "[a@\\[\\]0-9,!&^/-]{0,30}") {
            let _ = node_set(&text, &Everything, 100);
            let _ = node_set(&odd, &Everything, 100);
        }
    }
}
