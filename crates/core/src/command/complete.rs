//! Completion of the text before the cursor.

use serde::Serialize;

use super::check::{COMMON_KEYS, normal_key};
use super::hosts::is_operator;
use super::notify;
use super::spec::{ActionSpec, ArgKind, Catalog};
use super::verbs::{self, VERBS};
use crate::domain::host::HostSource;

/// Largest number of completions in one answer.
const MOST: usize = 12;

/// Text that can replace the text before the cursor.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Completion {
    /// Start of the replaced text, in characters from 0; the end is the cursor.
    pub from: usize,
    pub insert: String,
    /// Text that a list of completions shows.
    pub label: String,
    pub help: String,
}

/// Completions at `cursor`, which counts characters from 0; at most 12, none inside quotes.
pub fn complete(
    text: &str,
    cursor: usize,
    catalog: &Catalog,
    inventory: &dyn HostSource,
) -> Vec<Completion> {
    let before: Vec<char> = text.chars().take(cursor).collect();
    if before.iter().filter(|c| matches!(c, '"' | '“' | '”')).count() % 2 == 1 {
        return Vec::new();
    }
    let start = before.iter().rposition(|c| c.is_whitespace()).map_or(0, |space| space + 1);
    let head: String = before[..start].iter().collect();
    let typed: String = before[start..].iter().collect();
    let mut words: Vec<&str> = head.split_whitespace().collect();
    if words.first().is_some_and(|word| word.eq_ignore_ascii_case("/metal")) {
        words.remove(0);
    }
    let mut list = List { typed: &typed, from: start, found: Vec::new() };
    match words.as_slice() {
        [] => list.names(catalog),
        [verb, rest @ ..] => {
            let name = normal_key(verb);
            match catalog.get(&name) {
                Some(action) => list.action(action, rest, inventory),
                None if verbs::find(&name).is_some() => list.verb(&name, rest, catalog, inventory),
                None => {}
            }
        }
    }
    list.found.truncate(MOST);
    list.found
}

struct List<'a> {
    typed: &'a str,
    from: usize,
    found: Vec<Completion>,
}

impl List<'_> {
    /// Adds `insert` if it begins with the typed text after the first `skip` characters.
    fn offer(&mut self, skip: usize, insert: &str, end: &str, help: &str) {
        let typed: String = self.typed.chars().skip(skip).collect::<String>().to_lowercase();
        if self.found.len() < MOST
            && insert.to_lowercase().starts_with(&typed)
            && self.found.iter().all(|found| found.label != insert)
        {
            self.found.push(Completion {
                from: self.from + skip,
                insert: format!("{insert}{end}"),
                label: insert.to_owned(),
                help: help.to_owned(),
            });
        }
    }

    fn names(&mut self, catalog: &Catalog) {
        for action in catalog.actions() {
            self.offer(0, &action.name, " ", &action.summary);
        }
        for verb in &VERBS {
            self.offer(0, verb.name, if verb.usage == verb.name { "" } else { " " }, verb.summary);
        }
    }

    fn action(&mut self, action: &ActionSpec, words: &[&str], inventory: &dyn HostSource) {
        if let Some((key, _)) = self.typed.split_once('=') {
            let skip = key.chars().count() + 1;
            let key = normal_key(key);
            let Some(spec) = action.args.get(&key) else {
                for common in COMMON_KEYS.iter().filter(|common| common.name == key) {
                    let samples = common.samples.iter();
                    samples.for_each(|sample| self.offer(skip, sample, " ", common.help));
                }
                return;
            };
            match spec.kind {
                ArgKind::Choice => {
                    spec.choices
                        .iter()
                        .for_each(|choice| self.offer(skip, choice, " ", &spec.help));
                }
                ArgKind::Flag => {
                    ["true", "false"]
                        .iter()
                        .for_each(|flag| self.offer(skip, flag, " ", &spec.help));
                }
                ArgKind::Duration | ArgKind::Count => {
                    if let Some(default) = &spec.default {
                        self.offer(skip, default, " ", &spec.help);
                    }
                }
            }
            return;
        }
        // Hosts are offered first, until the command names some.
        let has_hosts = words.iter().any(|word| !word.contains('='));
        if !has_hosts {
            self.hosts(inventory);
        }
        let given: Vec<String> = words
            .iter()
            .filter_map(|word| word.split_once('='))
            .map(|(key, _)| normal_key(key))
            .collect();
        let args = action.args.iter().map(|(name, spec)| (name.as_str(), spec.help.as_str()));
        for (name, help) in args.chain(COMMON_KEYS.iter().map(|key| (key.name, key.help))) {
            if !given.iter().any(|given| given == name) {
                self.offer(0, name, "=", help);
            }
        }
        if has_hosts {
            self.hosts(inventory);
        }
    }

    fn verb(&mut self, verb: &str, words: &[&str], catalog: &Catalog, inventory: &dyn HostSource) {
        match (verb, words) {
            ("help", []) => {
                for action in catalog.actions() {
                    self.offer(0, &action.name, "", &action.summary);
                }
                VERBS.iter().for_each(|verb| self.offer(0, verb.name, "", verb.summary));
            }
            ("dry-run", []) => {
                for action in catalog.actions() {
                    self.offer(0, &action.name, " ", &action.summary);
                }
            }
            ("dry-run", [action, rest @ ..]) => {
                if let Some(action) = catalog.get(&normal_key(action)) {
                    self.action(action, rest, inventory);
                }
            }
            ("notify", [first, ..]) if first.eq_ignore_ascii_case("here") => {
                notify::HERE.iter().for_each(|(key, help)| self.choices(key, help));
            }
            ("notify", words) => {
                if words.is_empty() {
                    self.offer(0, "here", " ", "what this channel is told");
                }
                notify::mine().for_each(|(key, help)| self.choices(key, help));
            }
            ("list", []) => self.offer(0, "mine", "", "only your own batches"),
            ("status", []) => {
                self.offer(0, "host", " ", "what is going on with hosts");
                if !self.typed.is_empty() {
                    self.hosts(inventory);
                }
            }
            ("status" | "drop", [_, ..]) | ("release" | "hosts", _) => self.hosts(inventory),
            _ => {}
        }
    }

    /// Offers a key, and after its `=` the words of `help`, such as `dm, thread or off`.
    fn choices(&mut self, key: &str, help: &str) {
        match self.typed.split_once('=') {
            None => self.offer(0, key, "=", help),
            Some((typed, _)) if normal_key(typed) == key && !help.contains("such as") => {
                let skip = typed.chars().count() + 1;
                let words = help.split(|c: char| !c.is_alphanumeric());
                words
                    .filter(|word| !word.is_empty() && *word != "or")
                    .for_each(|word| self.offer(skip, word, " ", key));
            }
            Some(_) => {}
        }
    }

    /// Offers groups and hosts that begin with the last term of a node set.
    fn hosts(&mut self, inventory: &dyn HostSource) {
        let chars: Vec<char> = self.typed.chars().collect();
        let skip = chars.iter().rposition(|c| is_operator(*c)).map_or(0, |at| at + 1);
        let term: String = chars[skip..].iter().collect();
        if term.contains('[') || self.typed.matches('[').count() > self.typed.matches(']').count() {
            return;
        }
        if term.is_empty() || term.starts_with('@') {
            for name in inventory.group_names() {
                if !name.contains(char::is_whitespace) {
                    self.offer(skip, &format!("@{name}"), "", "group");
                }
            }
        } else {
            let term = term.to_lowercase();
            let hosts = inventory.names().filter(|host| host.as_str().starts_with(&term));
            for host in hosts.take(MOST) {
                self.offer(skip, host.as_str(), "", "host");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::rack;
    use super::*;

    /// Completions at the `|` in the text, each with the text before it.
    fn at(text: &str) -> Vec<String> {
        let cursor = text.chars().position(|c| c == '|').unwrap();
        let text = text.replace('|', "");
        let before: Vec<char> = text.chars().take(cursor).collect();
        complete(&text, cursor, &Catalog::load(None).unwrap(), &rack())
            .into_iter()
            .map(|c| before[..c.from].iter().collect::<String>() + &c.insert)
            .collect()
    }

    #[test]
    fn it_goes_on_from_what_was_typed() {
        for (text, expected) in [
            ("re|", &["reboot ", "reject ", "resume ", "retry ", "release "][..]),
            ("/metal pow|", &["/metal power-off ", "/metal power-on "]),
            ("who|", &["whoami"]),
            (
                "reboot web0|1",
                &[
                    "reboot web01",
                    "reboot web02",
                    "reboot web03",
                    "reboot web04",
                    "reboot web05",
                    "reboot web06",
                    "reboot web07",
                    "reboot web08",
                    "reboot web09",
                ],
            ),
            ("reboot @d|", &["reboot @db", "reboot @dc:fra1"]),
            (
                "reboot @web!DB0|",
                &[
                    "reboot @web!db01",
                    "reboot @web!db02",
                    "reboot @web!db03",
                    "reboot @web!db04",
                    "reboot @web!db05",
                    "reboot @web!db06",
                    "reboot @web!db07",
                    "reboot @web!db08",
                ],
            ),
            (
                "reboot web01 m|",
                &["reboot web01 mode=", "reboot web01 max-concurrent=", "reboot web01 max-fail="],
            ),
            ("reboot web01 mode=h|", &["reboot web01 mode=hard "]),
            (
                "reboot web01 --force=|",
                &["reboot web01 --force=true ", "reboot web01 --force=false "],
            ),
            ("reboot web01 wait=|", &["reboot web01 wait=5m "]),
            ("reboot web01 at=|", &["reboot web01 at=2h ", "reboot web01 at=02:00 "]),
            ("reboot web01 wave-pause=m|", &["reboot web01 wave-pause=manual "]),
            ("reboot web01 n|", &["reboot web01 not-before="]),
            (
                "reboot wait=1m w|",
                &[
                    "reboot wait=1m web01",
                    "reboot wait=1m web02",
                    "reboot wait=1m web03",
                    "reboot wait=1m web04",
                    "reboot wait=1m web05",
                    "reboot wait=1m web06",
                    "reboot wait=1m web07",
                    "reboot wait=1m web08",
                    "reboot wait=1m web09",
                    "reboot wait=1m web10",
                    "reboot wait=1m web11",
                    "reboot wait=1m web12",
                ],
            ),
            ("reboot web[01-|", &[]),
            ("reboot reason=\"a |", &[]),
            ("list |", &["list mine"]),
            ("dry-run po|", &["dry-run power-off ", "dry-run power-on "]),
            (
                "dry-run reboot web01 mode=|",
                &["dry-run reboot web01 mode=hard ", "dry-run reboot web01 mode=soft "],
            ),
            ("notify h|", &["notify here "]),
            ("notify waves=|", &["notify waves=dm ", "notify waves=thread ", "notify waves=off "]),
            ("notify here v|", &["notify here verbosity="]),
            ("notify here verbosity=s|", &["notify here verbosity=summary "]),
            ("notify here actions=|", &[]),
            ("help id|", &["help identify"]),
            ("status h|", &["status host "]),
            ("drop 1 db08|", &["drop 1 db08"]),
            ("cancel |", &[]),
            ("nonsense |", &[]),
        ] {
            assert_eq!(at(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn it_never_panics(text in ".{0,40}", cursor in 0usize..50) {
            let catalog = Catalog::load(None).unwrap();
            let found = complete(&text, cursor, &catalog, &rack());
            prop_assert!(found.iter().all(|c| c.from <= cursor) && found.len() <= MOST);
        }
    }
}
