//! The command `notify`: sets the notices of a person, or with `here` those of a channel.
//!
//! ```text
//! notify                                        show both
//! notify { topic "=" dm|thread|off | digest=on|off }
//! notify here { actions=reboot,wipe|all | verbosity=all|failures|summary }
//! ```

use std::collections::BTreeSet;

use super::check::normal_key;
use super::error::{CommandError, CommandProblem, near};
use super::lex::{self, Word};
use super::spec::Catalog;
use super::verbs::Verb;
use crate::domain::notify::{
    ActionChoice, ChannelChange, DeliveryPreference, NoticeTopic, PreferenceChange, Verbosity,
};

/// Request about notices.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notify {
    Show,
    /// Changes of the person's own preferences; never empty.
    Mine(Vec<PreferenceChange>),
    /// Change of the channel's setting; never empty.
    Here(ChannelChange),
}

const DIGEST: &str = "digest";
const ON_OR_OFF: &str = "on or off";
/// Keys after `here`, with their allowed values.
pub(super) const HERE: [(&str, &str); 2] =
    [("actions", "actions such as reboot,power-off, or all"), ("verbosity", Verbosity::WORDS)];

/// Keys of a person's preferences, with their allowed values.
pub(super) fn mine() -> impl Iterator<Item = (&'static str, &'static str)> {
    let topics = NoticeTopic::ALL.iter().map(|topic| (topic.as_str(), DeliveryPreference::WORDS));
    topics.chain([(DIGEST, ON_OR_OFF)])
}

pub(super) fn read(
    verb: &'static Verb,
    words: &[Word],
    catalog: &Catalog,
) -> Result<Notify, CommandError> {
    match words.split_first() {
        Some((word, rest)) if word.text().eq_ignore_ascii_case("here") => {
            let mut change = ChannelChange::default();
            for (key, value, column) in pairs(verb, rest, &HERE)? {
                match key {
                    "actions" => change.actions = Some(actions(&value, catalog, column)?),
                    _ => change.verbosity = Some(one_of(&value, key, column, Verbosity::WORDS)?),
                }
            }
            let any = change != ChannelChange::default();
            Ok(if any { Notify::Here(change) } else { Notify::Show })
        }
        _ => {
            let known: Vec<(&str, &str)> = mine().collect();
            let mut changes = Vec::new();
            for (key, value, column) in pairs(verb, words, &known)? {
                let topic = NoticeTopic::ALL.into_iter().find(|topic| topic.as_str() == key);
                changes.push(match (topic, value.as_str()) {
                    (Some(topic), _) => PreferenceChange::Tell(
                        topic,
                        one_of(&value, key, column, DeliveryPreference::WORDS)?,
                    ),
                    (None, "on") => PreferenceChange::Digest(true),
                    (None, "off") => PreferenceChange::Digest(false),
                    (None, _) => return Err(bad(&value, key, column, ON_OR_OFF)),
                });
            }
            Ok(if changes.is_empty() { Notify::Show } else { Notify::Mine(changes) })
        }
    }
}

/// Reads the `key=value` words; a repeated or unknown key is an error.
fn pairs<'a>(
    verb: &'static Verb,
    words: &[Word],
    known: &[(&'a str, &'a str)],
) -> Result<Vec<(&'a str, String, usize)>, CommandError> {
    let mut pairs: Vec<(&str, String, usize)> = Vec::new();
    for word in words {
        let Some(at) = word.equals.filter(|at| *at > 0) else {
            let unexpected = CommandProblem::Unexpected { word: word.text(), usage: verb.usage };
            return Err(unexpected.at(word.column));
        };
        let (typed, value) = word.marks.split_at(at);
        let typed = normal_key(&lex::text(typed));
        let value = lex::text(&value[1..]).trim().to_lowercase();
        let Some((key, expected)) = known.iter().copied().find(|(key, _)| *key == typed) else {
            let near = near(&typed, known.iter().map(|(key, _)| *key));
            let known = known.iter().map(|(key, _)| (*key).to_owned()).collect();
            let action = verb.name.to_owned();
            return Err(
                CommandProblem::UnknownKey { action, key: typed, known, near }.at(word.column)
            );
        };
        if pairs.iter().any(|(given, ..)| *given == key) {
            return Err(CommandProblem::DuplicateKey { key: key.to_owned() }.at(word.column));
        }
        if value.is_empty() {
            let expected = format!("{key}= with {expected}");
            let missing = CommandProblem::MissingValue { key: key.to_owned(), expected };
            return Err(missing.at(word.column));
        }
        pairs.push((key, value, word.column));
    }
    Ok(pairs)
}

fn bad(value: &str, key: &str, column: usize, expected: &str) -> CommandError {
    let (key, value, expected) = (key.to_owned(), value.to_owned(), expected.to_owned());
    CommandProblem::BadValue { key, value, expected }.at(column)
}

fn one_of<T: std::str::FromStr>(
    value: &str,
    key: &str,
    column: usize,
    expected: &str,
) -> Result<T, CommandError> {
    value.parse().map_err(|_| bad(value, key, column, expected))
}

/// Reads `all`, or names of actions separated by commas.
fn actions(value: &str, catalog: &Catalog, column: usize) -> Result<ActionChoice, CommandError> {
    if ["all", "*"].contains(&value) {
        return Ok(ActionChoice::All);
    }
    let mut actions = BTreeSet::new();
    for name in value.split(',').map(|name| normal_key(name.trim())) {
        if catalog.get(&name).is_none() {
            let expected = match near(&name, catalog.actions().map(|one| one.name.as_str())) {
                near if near.is_empty() => HERE[0].1.to_owned(),
                near => near.join(" or "),
            };
            return Err(bad(&name, "actions", column, &expected));
        }
        actions.insert(name);
    }
    Ok(ActionChoice::Only(actions))
}

#[cfg(test)]
mod tests {
    use super::super::testing::rack;
    use super::super::{Command, CommandLimits, understand};
    use super::*;

    fn read(text: &str) -> Result<Notify, String> {
        let catalog = Catalog::load(None).unwrap();
        match understand(
            text,
            &catalog,
            &rack(),
            &CommandLimits::default(),
            time::OffsetDateTime::UNIX_EPOCH,
        ) {
            Ok(Command::Notify(notify)) => Ok(notify),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn what_is_asked_is_understood() {
        assert_eq!(read("notify"), Ok(Notify::Show));
        assert_eq!(read("notify here"), Ok(Notify::Show));
        assert_eq!(
            read("notify Complete=OFF --failures=dm digest=off"),
            Ok(Notify::Mine(vec![
                PreferenceChange::Tell(NoticeTopic::Complete, DeliveryPreference::Off),
                PreferenceChange::Tell(NoticeTopic::Failures, DeliveryPreference::Dm),
                PreferenceChange::Digest(false),
            ]))
        );
        let actions = ActionChoice::Only(["power-off".to_owned(), "reboot".to_owned()].into());
        assert_eq!(
            read("notify HERE actions=reboot,Power_Off verbosity=failures"),
            Ok(Notify::Here(ChannelChange {
                actions: Some(actions),
                verbosity: Some(Verbosity::Failures)
            }))
        );
        let all = ChannelChange { actions: Some(ActionChoice::All), verbosity: None };
        assert_eq!(read("notify here actions=all"), Ok(Notify::Here(all)));
    }

    #[test]
    fn errors_name_the_column_and_the_cure() {
        for (text, message) in [
            (
                "notify complete",
                "column 8: \"complete\" does not belong here; \
                 write: notify [TOPIC=dm|thread|off ...], or notify here [verbosity=...]",
            ),
            (
                "notify compete=dm",
                "column 8: notify has no parameter \"compete\"; did you mean complete?",
            ),
            (
                "notify colour=red",
                "column 8: notify has no parameter \"colour\"; its parameters are complete, \
                 failures, waves, approvals, digest",
            ),
            ("notify waves=dm waves=off", "column 17: waves is given twice"),
            ("notify waves=", "column 8: waves has no value; write waves= with dm, thread or off"),
            ("notify waves=mail", "column 8: waves cannot be \"mail\"; write dm, thread or off"),
            ("notify digest=1", "column 8: digest cannot be \"1\"; write on or off"),
            (
                "notify here waves=dm",
                "column 13: notify has no parameter \"waves\"; its parameters are actions, verbosity",
            ),
            (
                "notify here verbosity=loud",
                "column 13: verbosity cannot be \"loud\"; write all, failures or summary",
            ),
            (
                "notify here actions=reboot,power",
                "column 13: actions cannot be \"power\"; write power-off or power-on",
            ),
            (
                "notify here actions=x",
                "column 13: actions cannot be \"x\"; write actions such as reboot,power-off, or all",
            ),
        ] {
            assert_eq!(read(text), Err(message.to_owned()), "{text}");
        }
    }
}
