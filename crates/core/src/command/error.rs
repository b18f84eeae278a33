//! Errors of commands, as data. The text says what is wrong, [`CommandError::hint`] says what would
//! be right. Both may quote the command: escape them before you show them.

use std::fmt;

/// Error of a command, with its position.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommandError {
    pub problem: CommandProblem,
    /// Position in the text, in characters from 1; `None` when something is missing.
    pub column: Option<usize>,
}

/// Kinds of errors in a command.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CommandProblem {
    #[error("the command has {bytes} bytes and may have {most}")]
    TextTooLong { bytes: usize, most: usize },
    #[error("the control character U+{:04X} is not allowed", *.0 as u32)]
    ControlCharacter(char),
    #[error("the character U+{:04X}, which changes the direction of text, is not allowed", *.0 as u32)]
    DirectionCharacter(char),
    #[error("the quote is never closed")]
    UnclosedQuote,
    #[error("there is nothing after the backslash")]
    TrailingBackslash,

    #[error("there is no command or action {:?}", short(.word))]
    UnknownVerb { word: String, near: Vec<String> },
    #[error("there is no action {:?}", short(.word))]
    UnknownAction { word: String, near: Vec<String> },
    #[error("the action is missing")]
    MissingAction { usage: &'static str },
    #[error("there is no help on {:?}", short(.word))]
    UnknownTopic { word: String, near: Vec<String> },
    #[error("{:?} does not belong here", short(.word))]
    Unexpected { word: String, usage: &'static str },
    #[error("the batch number is missing")]
    MissingBatch { usage: &'static str },
    #[error("{:?} is not a batch number", short(.word))]
    NotABatch { word: String },

    #[error("{action} has no parameter {:?}", short(.key))]
    UnknownKey { action: String, key: String, known: Vec<String>, near: Vec<String> },
    #[error("{key} is given twice")]
    DuplicateKey { key: String },
    #[error("{key} has no value")]
    MissingValue { key: String, expected: String },
    #[error("{key} cannot be {:?}", short(.value))]
    BadValue { key: String, value: String, expected: String },
    /// Start time before now. Both times are formatted for people.
    #[error("{key} is in the past: {time}, and it is {now} now")]
    PastTime { key: String, time: String, now: String },
    #[error("{key} cannot be {time}: the clocks of {zone} are put forward then and never show it")]
    SkippedTime { key: String, time: Box<str>, zone: Box<str>, right: Box<str> },
    #[error("{key} cannot be {time}: the clocks of {zone} are put back then and show it twice")]
    RepeatedTime { key: String, time: Box<str>, zone: Box<str>, right: Box<[String; 2]> },
    #[error("{key} is more than {most_days} days ahead")]
    FarTime { key: String, most_days: u64 },
    #[error("{key} cannot stand beside {other}")]
    Excluded { key: String, other: String },
    #[error("{key} says nothing without {needed}")]
    Alone { key: String, needed: &'static str, expected: &'static str },
    #[error("{key} is missing")]
    MissingArgument { key: String, expected: String },
    #[error("a reason is missing")]
    ReasonMissing,
    #[error("the reason has {chars} characters and may have {most}")]
    ReasonTooLong { chars: usize, most: usize },
    /// Action file that has no valid plan for these arguments: an error of the file, not of the
    /// person.
    #[error("{action} cannot be planned: {problem}")]
    Unplannable { action: String, problem: String },

    #[error("no hosts are named")]
    MissingHosts,
    #[error("no host is left of this set")]
    EmptySet,
    #[error("{}", unknown_hosts(.hosts, *.count))]
    UnknownHosts {
        /// First unknown hosts, folded.
        hosts: String,
        count: usize,
        near: Vec<String>,
        /// Parameter of the action with the same name as the unknown host, if there is one.
        key: Option<String>,
    },
    #[error("there is no group @{}", short(.name))]
    UnknownGroup { name: String, near: Vec<String> },
    #[error("{:?} is not a host name", short(.0))]
    BadHostName(String),
    #[error("the bracket is never closed")]
    UnclosedBracket,
    #[error("the bracket was never opened")]
    UnopenedBracket,
    #[error("parentheses are not supported")]
    Parenthesis,
    #[error("a number is expected here")]
    NumberExpected,
    #[error("the number has more than {0} digits")]
    LongNumber(usize),
    #[error("',', '-' or ']' is expected here")]
    BadRange,
    #[error("the range {0} runs backwards")]
    ReversedRange(String),
    #[error("the two ends of {0} are padded differently")]
    UnevenPadding(String),
    #[error("a step of 0 never ends")]
    ZeroStep,
    #[error("a host or a group is missing {}", beside(.after, *.operator))]
    MissingTerm { operator: char, after: bool },
    #[error("this names {count} hosts and a command may name {most}")]
    TooManyHosts { count: u128, most: usize },
    /// Node set that expands to too many names, even if few hosts remain after `!` and `&`.
    #[error("the terms of a set may write out {most} names together")]
    TooManyNames { most: u128 },
    #[error("a set may name at most {0} groups")]
    TooManyGroups(usize),
}

impl CommandProblem {
    pub(super) fn at(self, column: usize) -> CommandError {
        CommandError { problem: self, column: Some(column) }
    }

    pub(super) fn nowhere(self) -> CommandError {
        CommandError { problem: self, column: None }
    }
}

impl CommandError {
    /// Message of the error, without its position.
    pub fn message(&self) -> String {
        self.problem.to_string()
    }

    /// Position, in characters from 1 of the given text.
    pub fn column(&self) -> Option<usize> {
        self.column
    }

    /// Advice: what to type instead.
    pub fn hint(&self) -> Option<String> {
        use CommandProblem as P;
        match &self.problem {
            P::TextTooLong { .. } => Some("name the hosts by a group or by ranges".into()),
            P::ControlCharacter(_) | P::DirectionCharacter(_) => {
                Some("type the command instead of pasting it".into())
            }
            P::UnclosedQuote => Some("close it, or write \\ before a quote that is meant".into()),
            P::TrailingBackslash => Some("write \\\\ for a backslash".into()),
            P::UnknownVerb { near, .. }
            | P::UnknownAction { near, .. }
            | P::UnknownTopic { near, .. } => {
                did_you_mean(near, "").or_else(|| Some("try: help".into()))
            }
            P::Unexpected { usage, .. }
            | P::MissingBatch { usage }
            | P::MissingAction { usage } => Some(format!("write: {usage}")),
            P::NotABatch { .. } => Some("write for example 42 or #42".into()),
            P::UnknownKey { known, near, .. } => did_you_mean(near, "")
                .or_else(|| Some(format!("its parameters are {}", known.join(", ")))),
            P::MissingValue { expected, .. }
            | P::BadValue { expected, .. }
            | P::MissingArgument { expected, .. } => Some(format!("write {expected}")),
            P::PastTime { key, .. } => Some(format!("write a time to come, such as {key}=2h")),
            P::SkippedTime { key, right, .. } => Some(format!("write {key}={right}")),
            P::RepeatedTime { key, right, .. } => {
                let [first, second] = right.as_ref();
                Some(format!("write {key}={first} or {key}={second}"))
            }
            P::FarTime { .. } => Some("its hosts would be held until then".into()),
            P::Excluded { .. } => Some("give one of the two".into()),
            P::Alone { needed, expected, .. } => Some(format!("add {needed}= with {expected}")),
            P::ReasonMissing => Some("write reason=\"why it must be done\"".into()),
            P::MissingHosts => Some("write for example web[01-12] or @group".into()),
            P::UnknownHosts { key: Some(key), .. } => Some(format!("did you mean {key}=...?")),
            P::UnknownHosts { near, .. } => did_you_mean(near, ""),
            P::UnknownGroup { near, .. } => did_you_mean(near, "@"),
            P::BadHostName(_) => {
                Some("use letters, digits, '-', '_' and '.', and [01-12] for ranges".into())
            }
            P::UnclosedBracket | P::UnopenedBracket | P::NumberExpected | P::BadRange => {
                Some("write for example web[01-12,15]".into())
            }
            P::Parenthesis => Some("operators , ! & ^ work from left to right".into()),
            P::ReversedRange(_) => Some("write the smaller number first".into()),
            P::UnevenPadding(_) => Some("write for example [01-12] or [8-12]".into()),
            P::MissingTerm { .. } => {
                Some("write for example @web,db01 or @web!web03 (all of web but web03)".into())
            }
            P::TooManyHosts { .. } => Some("split it into several commands".into()),
            P::DuplicateKey { .. }
            | P::ReasonTooLong { .. }
            | P::Unplannable { .. }
            | P::EmptySet
            | P::LongNumber(_)
            | P::ZeroStep
            | P::TooManyNames { .. }
            | P::TooManyGroups(_) => None,
        }
    }
}

impl fmt::Display for CommandError {
    /// Formats the error in one line: `column 8: there is no group @wbe; did you mean @web?`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(column) = self.column {
            write!(f, "column {column}: ")?;
        }
        write!(f, "{}", self.problem)?;
        match self.hint() {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for CommandError {}

/// Candidates that are near `word`, nearest first, at most three.
pub(super) fn near<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let word = word.to_lowercase();
    let slips = 1.max(word.chars().count() / 3);
    let mut found: Vec<(usize, &str)> = known
        .into_iter()
        .filter_map(|candidate| {
            if word.chars().count() >= 3 && candidate.starts_with(&word) {
                return Some((1, candidate));
            }
            // The distance is at least the difference in length. Checking that first saves the
            // costly comparison.
            if candidate.len().abs_diff(word.len()) > slips {
                return None;
            }
            let distance = strsim::osa_distance(&word, candidate);
            (distance <= slips).then_some((distance, candidate))
        })
        .collect();
    found.sort_unstable();
    found.truncate(3);
    found.into_iter().map(|(_, candidate)| candidate.to_owned()).collect()
}

fn did_you_mean(near: &[String], before: &str) -> Option<String> {
    let names: Vec<String> = near.iter().map(|name| format!("{before}{name}")).collect();
    match names.as_slice() {
        [] => None,
        [one] => Some(format!("did you mean {one}?")),
        [first @ .., last] => Some(format!("did you mean {} or {last}?", first.join(", "))),
    }
}

/// First 60 characters of what was typed.
fn short(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn unknown_hosts(hosts: &str, count: usize) -> String {
    match count {
        1 => format!("the inventory has no host {}", short(hosts)),
        _ => format!("the inventory lacks {count} of these hosts: {}", short(hosts)),
    }
}

fn beside(after: &bool, operator: char) -> String {
    format!("{} {operator:?}", if *after { "after" } else { "before" })
}
