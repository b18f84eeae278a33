//! The grammar of commands.
//!
//! ```text
//! command = [ "/metal" ] [ verb | action ]                nothing at all asks for help
//! verb    = one of `verbs::VERBS`, each with its own usage
//!           `dry-run` is followed by an action
//! action  = name { host-words | key "=" value | "--" flag }
//! ```
//!
//! Names and keys are read in any case, with `_` for `-`, and keys also with `--` before them. A
//! value with spaces stands in quotes (`lex`). Words without `=` are one node set (`hosts`), joined
//! with `,` where no operator stands: `reboot web01 web02 wave=1,50%`. A flag may stand alone as
//! `--force`. The reason of `reject` is the rest of the line, quotes or not.

use time::OffsetDateTime;

use super::check::{self, Given};
use super::error::{CommandError, CommandProblem, near};
use super::lex::{self, Mark, Word};
use super::spec::{ActionSpec, ArgKind, Catalog};
use super::verbs::{self, VERBS, Verb};
use super::{Command, CommandLimits, MAX_REASON, Submit, hosts, notify, reply};
use crate::domain::host::{HostName, HostSource};
use crate::domain::ids::BatchId;

/// Reads a command; returns its first error. `now` is the time that the command's own times are
/// compared with.
pub fn understand(
    text: &str,
    catalog: &Catalog,
    inventory: &dyn HostSource,
    limits: &CommandLimits,
    now: OffsetDateTime,
) -> Result<Command, CommandError> {
    let marks = lex::marks(text, limits.max_text)?;
    let marks = match split_raw(&marks) {
        (first, rest) if lex::text(first).eq_ignore_ascii_case("/metal") => rest,
        _ => &marks,
    };
    // Before the text is split into words: an apostrophe in a reason is not a quote.
    let (first, rest) = split_raw(marks);
    if lex::text(first).eq_ignore_ascii_case("reject") {
        return reject(rest);
    }
    let words = lex::words(marks)?;
    let Some((name, rest)) = words.split_first() else {
        return Ok(Command::Help { topic: None });
    };
    let typed = name.text();
    let normal = check::normal_key(&typed);
    if let Some(verb) = verbs::find(&normal) {
        return Line { verb, rest, catalog, inventory, limits, now }.command();
    }
    match catalog.get(&normal) {
        Some(action) => submit(action, rest, inventory, limits, now).map(Command::Submit),
        None => {
            let near = near(&normal, names(catalog));
            Err(CommandProblem::UnknownVerb { word: typed, near }.at(name.column))
        }
    }
}

/// All words that can start a command.
pub(super) fn names(catalog: &Catalog) -> impl Iterator<Item = &str> {
    VERBS.iter().map(|verb| verb.name).chain(catalog.actions().map(|action| action.name.as_str()))
}

/// Text up to the first white space, and the rest.
fn split_raw(marks: &[Mark]) -> (&[Mark], &[Mark]) {
    let start = marks.iter().take_while(|(c, _)| c.is_whitespace()).count();
    let length = marks[start..].iter().take_while(|(c, _)| !c.is_whitespace()).count();
    marks[start..].split_at(length)
}

fn reject(marks: &[Mark]) -> Result<Command, CommandError> {
    let usage = verbs::find("reject").map_or("", |verb| verb.usage);
    let (first, rest) = split_raw(marks);
    let Some(&(_, column)) = first.first() else {
        return Err(CommandProblem::MissingBatch { usage }.nowhere());
    };
    let word = lex::text(first);
    let batch = word
        .trim_end_matches([':', ','])
        .parse()
        .map_err(|_| CommandProblem::NotABatch { word: word.clone() }.at(column))?;
    let reason = reply::reason(&lex::text(rest));
    let chars = reason.as_deref().map_or(0, |reason| reason.chars().count());
    if chars > MAX_REASON {
        let column = split_raw(rest).0.first().map(|&(_, column)| column);
        return Err(CommandError {
            problem: CommandProblem::ReasonTooLong { chars, most: MAX_REASON },
            column,
        });
    }
    Ok(Command::Reject { batch, reason })
}

fn submit(
    action: &ActionSpec,
    words: &[Word],
    inventory: &dyn HostSource,
    limits: &CommandLimits,
    now: OffsetDateTime,
) -> Result<Submit, CommandError> {
    let mut given = Vec::new();
    let mut set: Vec<&[Mark]> = Vec::new();
    for word in words {
        let column = Some(word.column);
        match word.equals {
            Some(0) => {
                let usage = "key=value, without spaces around =";
                return Err(CommandProblem::Unexpected { word: word.text(), usage }.at(word.column));
            }
            Some(at) => {
                let (key, value) = word.marks.split_at(at);
                given.push(Given { key: lex::text(key), value: lex::text(&value[1..]), column });
            }
            None if is_option(word) => {
                let key = word.text();
                let flag = action.args.get(&check::normal_key(&key));
                let flag = flag.is_some_and(|spec| spec.kind == ArgKind::Flag);
                let value = if flag { "true".to_owned() } else { String::new() };
                given.push(Given { key, value, column });
            }
            None => set.push(&word.marks),
        }
    }
    check::submit(action, &hosts::join(&set), given, inventory, limits, now)
}

fn is_option(word: &Word) -> bool {
    matches!(word.marks.as_slice(), [('—', _), ..] | [('-', _), ('-', _), ..])
}

/// Verb and the words after it.
struct Line<'a> {
    verb: &'static Verb,
    rest: &'a [Word],
    catalog: &'a Catalog,
    inventory: &'a dyn HostSource,
    limits: &'a CommandLimits,
    now: OffsetDateTime,
}

impl Line<'_> {
    fn command(&self) -> Result<Command, CommandError> {
        match self.verb.name {
            "help" => self.help(),
            "dry-run" => self.dry_run(),
            "notify" => notify::read(self.verb, self.rest, self.catalog).map(Command::Notify),
            "status" => self.status(),
            "list" => match self.rest {
                [] => Ok(Command::List { mine: false }),
                [word] if word.text().eq_ignore_ascii_case("mine") => {
                    Ok(Command::List { mine: true })
                }
                [word, ..] => Err(self.unexpected(word)),
            },
            "approve" => self.batch().map(Command::Approve),
            "cancel" | "stop" => self.batch().map(Command::Cancel),
            "pause" => self.batch().map(Command::Pause),
            "resume" => self.batch().map(Command::Resume),
            "retry" => self.batch().map(Command::Retry),
            "drop" => {
                let (batch, rest) = self.batch_and_rest()?;
                Ok(Command::Drop { batch, hosts: self.hosts(rest)? })
            }
            "release" => self.hosts(self.rest).map(Command::Release),
            "hosts" => {
                let hosts = self.hosts(self.rest)?;
                let words: Vec<&[Mark]> = self.rest.iter().map(|word| &*word.marks).collect();
                Ok(Command::Hosts { expression: lex::text(&hosts::join(&words)), hosts })
            }
            _ => match self.rest {
                [] => Ok(Command::Whoami),
                [word, ..] => Err(self.unexpected(word)),
            },
        }
    }

    fn help(&self) -> Result<Command, CommandError> {
        match self.rest {
            [] => Ok(Command::Help { topic: None }),
            [word] => {
                let topic = check::normal_key(&word.text());
                if names(self.catalog).any(|name| name == topic) {
                    return Ok(Command::Help { topic: Some(topic) });
                }
                let near = near(&topic, names(self.catalog));
                Err(CommandProblem::UnknownTopic { word: word.text(), near }.at(word.column))
            }
            [_, word, ..] => Err(self.unexpected(word)),
        }
    }

    fn dry_run(&self) -> Result<Command, CommandError> {
        let Some((name, rest)) = self.rest.split_first() else {
            return Err(CommandProblem::MissingAction { usage: self.verb.usage }.nowhere());
        };
        let normal = check::normal_key(&name.text());
        let Some(action) = self.catalog.get(&normal) else {
            let near = near(&normal, self.catalog.actions().map(|action| action.name.as_str()));
            return Err(CommandProblem::UnknownAction { word: name.text(), near }.at(name.column));
        };
        submit(action, rest, self.inventory, self.limits, self.now).map(Command::DryRun)
    }

    /// Reads the target of `status`: a number is a batch; anything else is a node set, with or
    /// without the word `host` before it.
    fn status(&self) -> Result<Command, CommandError> {
        match self.rest {
            [] => self.batch().map(Command::Status),
            [word, rest @ ..]
                if ["host", "hosts"].iter().any(|host| word.text().eq_ignore_ascii_case(host)) =>
            {
                self.hosts(rest).map(Command::HostStatus)
            }
            [word, ..]
                if word.text().starts_with(|c: char| c.is_ascii_alphabetic() || c == '@') =>
            {
                self.hosts(self.rest).map(Command::HostStatus)
            }
            _ => self.batch().map(Command::Status),
        }
    }

    fn batch(&self) -> Result<BatchId, CommandError> {
        match self.batch_and_rest()? {
            (batch, []) => Ok(batch),
            (_, [word, ..]) => Err(self.unexpected(word)),
        }
    }

    fn batch_and_rest(&self) -> Result<(BatchId, &[Word]), CommandError> {
        let Some((word, rest)) = self.rest.split_first() else {
            return Err(CommandProblem::MissingBatch { usage: self.verb.usage }.nowhere());
        };
        let text = word.text();
        match text.parse() {
            Ok(batch) => Ok((batch, rest)),
            Err(_) => Err(CommandProblem::NotABatch { word: text }.at(word.column)),
        }
    }

    fn hosts(&self, words: &[Word]) -> Result<Vec<HostName>, CommandError> {
        if let Some(word) = words.iter().find(|word| word.equals.is_some() || is_option(word)) {
            return Err(self.unexpected(word));
        }
        let words: Vec<&[Mark]> = words.iter().map(|word| &*word.marks).collect();
        hosts::resolve(&hosts::join(&words), self.inventory, self.limits.max_hosts)
    }

    fn unexpected(&self, word: &Word) -> CommandError {
        CommandProblem::Unexpected { word: word.text(), usage: self.verb.usage }.at(word.column)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::super::testing::rack;
    use super::super::{ActionRequest, Notify, submission};
    use super::*;
    use crate::domain::host::fold;
    use crate::domain::rollout::{Size, Start, WavePause};

    fn read(text: &str) -> Result<Command, CommandError> {
        understand(text, &Catalog::load(None).unwrap(), &rack(), &CommandLimits::default(), NOW)
    }

    fn asked(text: &str) -> Submit {
        match read(text) {
            Ok(Command::Submit(submit)) => submit,
            other => panic!("{text}: {other:?}"),
        }
    }

    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-23 18:40 UTC);

    fn hosts(names: &[&str]) -> Vec<HostName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn every_verb_is_understood() {
        use Command as C;
        let no = BatchId(42);
        let why = |text: &str| Some(text.to_owned());
        for (text, command) in [
            ("", C::Help { topic: None }),
            ("/metal", C::Help { topic: None }),
            ("help", C::Help { topic: None }),
            ("Help Power_Off", C::Help { topic: why("power-off") }),
            ("help status", C::Help { topic: why("status") }),
            ("/METAL status 42", C::Status(no)),
            ("status #42", C::Status(no)),
            ("status host web03", C::HostStatus(hosts(&["web03"]))),
            ("status WEB03", C::HostStatus(hosts(&["web03"]))),
            ("status @db & db01", C::HostStatus(hosts(&["db01"]))),
            ("list", C::List { mine: false }),
            ("list Mine", C::List { mine: true }),
            ("cancel 42", C::Cancel(no)),
            ("Stop #42", C::Cancel(no)),
            ("pause 42", C::Pause(no)),
            ("resume 42", C::Resume(no)),
            ("retry \"42\"", C::Retry(no)),
            ("approve 42", C::Approve(no)),
            ("drop 42 web02 web01", C::Drop { batch: no, hosts: hosts(&["web01", "web02"]) }),
            ("release db[01-02]", C::Release(hosts(&["db01", "db02"]))),
            (
                "hosts @db ! db[03-08]",
                C::Hosts { expression: "@db!db[03-08]".into(), hosts: hosts(&["db01", "db02"]) },
            ),
            ("whoami", C::Whoami),
            ("notify", C::Notify(Notify::Show)),
            ("dry-run Reboot web01", C::DryRun(asked("reboot web01"))),
            ("reject 42", C::Reject { batch: no, reason: None }),
            ("Reject #42 because it's late", C::Reject { batch: no, reason: why("it's late") }),
            ("reject 42: no", C::Reject { batch: no, reason: why("no") }),
            ("reject 42 reason=\"not now\"", C::Reject { batch: no, reason: why("not now") }),
        ] {
            assert_eq!(read(text), Ok(command), "{text:?}");
        }
        assert_eq!(VERBS.len(), 16, "each verb stands in the list above");
    }

    #[test]
    fn an_action_is_planned_in_full() {
        let submit = asked(
            "/metal Reboot web[01-02] web03 wave=1,10%,50% --max-fail=5% max_concurrent=20 \
             mode=SOFT --force wait=600s reason=“kernel\nCVE-2026-1, <b>now</b>”",
        );
        assert_eq!(fold(&submit.hosts), "web[01-03]");
        assert_eq!(submit.reason.as_deref(), Some("kernel CVE-2026-1, <b>now</b>"));
        let plan = submit.plan;
        assert_eq!(plan.action, "reboot");
        let params = [("force", "true"), ("mode", "soft"), ("wait", "10m")];
        let params = params.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(plan.params, BTreeMap::from(params));
        assert!(plan.at_default.is_empty());
        assert_eq!(plan.rollout.waves, [Size::Hosts(1), Size::Percent(10), Size::Percent(50)]);
        assert_eq!(plan.rollout.max_concurrent, Some(20));
        assert_eq!(plan.rollout.max_fail, Some(Size::Percent(5)));
        assert_eq!(plan.steps[1].deadline_secs, 600);

        let plain = asked("power-on @db");
        assert_eq!(plain.plan.params, BTreeMap::new());
        assert_eq!((plain.hosts.len(), plain.reason), (8, None));
        let some = asked("reboot db01 wait=10m mode=hard").plan;
        assert_eq!(some.at_default, BTreeSet::from(["force".to_owned(), "mode".to_owned()]));
        assert_eq!(asked("reboot —force db01").plan.params["force"], "true");
        assert_eq!(asked("reboot db01").plan, asked("reboot db01 mode=hard wait=300s").plan);
    }

    #[test]
    fn errors_name_the_column_and_the_cure() {
        for (text, message) in [
            (
                "rebot web01",
                "column 1: there is no command or action \"rebot\"; did you mean reboot?",
            ),
            (
                "/metal power web01",
                "column 8: there is no command or action \"power\"; \
                 did you mean power-off or power-on?",
            ),
            ("frobnicate", "column 1: there is no command or action \"frobnicate\"; try: help"),
            ("help rebot", "column 6: there is no help on \"rebot\"; did you mean reboot?"),
            ("help a b", "column 8: \"b\" does not belong here; write: help [TOPIC]"),
            ("cancel", "the batch number is missing; write: cancel BATCH"),
            ("reject", "the batch number is missing; write: reject BATCH [because REASON]"),
            ("status", "the batch number is missing; write: status BATCH, or status host HOSTS"),
            ("cancel web", "column 8: \"web\" is not a batch number; write for example 42 or #42"),
            ("reject it", "column 8: \"it\" is not a batch number; write for example 42 or #42"),
            ("cancel 0", "column 8: \"0\" is not a batch number; write for example 42 or #42"),
            ("cancel 1 2", "column 10: \"2\" does not belong here; write: cancel BATCH"),
            ("cancel 1 x=y", "column 10: \"x=y\" does not belong here; write: cancel BATCH"),
            ("release db01 x=y", "column 14: \"x=y\" does not belong here; write: release HOSTS"),
            ("list yours", "column 6: \"yours\" does not belong here; write: list [mine]"),
            ("whoami really", "column 8: \"really\" does not belong here; write: whoami"),
            ("dry-run", "the action is missing; write: dry-run ACTION HOSTS [name=value ...]"),
            ("dry-run rebot web01", "column 9: there is no action \"rebot\"; did you mean reboot?"),
            (
                "dry-run reboot web01 wait=5",
                "column 22: wait cannot be \"5\"; write a duration such as 5m, from 10s to 1h",
            ),
            ("drop 42", "no hosts are named; write for example web[01-12] or @group"),
            ("reboot", "no hosts are named; write for example web[01-12] or @group"),
            ("status host", "no hosts are named; write for example web[01-12] or @group"),
            (
                "reboot web01 wiat=5m",
                "column 14: reboot has no parameter \"wiat\"; did you mean wait?",
            ),
            (
                "power-on web01 colour=red",
                "column 16: power-on has no parameter \"colour\"; its parameters are reason, wave, \
                 wave-pause, max-concurrent, max-fail, at, not-before",
            ),
            ("reboot web01 wait=1m --WAIT=2m", "column 22: wait is given twice"),
            (
                "reboot web01 wait=",
                "column 14: wait has no value; write wait= with a duration such as 5m, from 10s to 1h",
            ),
            ("reboot web01 --mode", "column 14: mode has no value; write mode= with hard or soft"),
            (
                "reboot web01 reason=\"\"",
                "column 14: reason has no value; write reason= with text such as \
                 \"kernel CVE-2026-1\"",
            ),
            (
                "reboot web01 wait=5",
                "column 14: wait cannot be \"5\"; write a duration such as 5m, from 10s to 1h",
            ),
            (
                "reboot web01 mode=gentle",
                "column 14: mode cannot be \"gentle\"; write hard or soft",
            ),
            (
                "reboot web01 force=maybe",
                "column 14: force cannot be \"maybe\"; write true or false",
            ),
            (
                "reboot web01 wave=1,0%",
                "column 14: wave cannot be \"1,0%\"; write sizes such as 5, 10% or 1,10%,50%",
            ),
            (
                "reboot web01 max-concurrent=0",
                "column 14: max-concurrent cannot be \"0\"; write a whole number from 1, such as 20",
            ),
            (
                "reboot web01 max-fail=101%",
                "column 14: max-fail cannot be \"101%\"; write a number of hosts such as 2, or a \
                 share such as 5%",
            ),
            (
                "reboot web01 wait = 5m",
                "column 19: \"=\" does not belong here; write: key=value, without spaces around =",
            ),
            (
                "reboot web01 force",
                "column 14: the inventory has no host force; did you mean force=...?",
            ),
            (
                "reboot web01 wbe02",
                "column 14: the inventory has no host wbe02; did you mean web02?",
            ),
            (
                "reboot web[01-",
                "column 11: the bracket is never closed; write for example web[01-12,15]",
            ),
            ("reboot  @wbe", "column 9: there is no group @wbe; did you mean @web?"),
            ("reboot web01!web01", "column 8: no host is left of this set"),
            (
                "reboot a[1-99999]b[1-99999]",
                "column 8: this names 9999800001 hosts and a command may name 10000; \
                 split it into several commands",
            ),
            (
                "reboot web01 reason=\"a b",
                "column 21: the quote is never closed; close it, or write \\ before a quote that is \
                 meant",
            ),
            (
                "reboot web01\u{202e}",
                "column 13: the character U+202E, which changes the direction of text, is not \
                 allowed; type the command instead of pasting it",
            ),
            (
                "reject 1 \u{1b}[31m",
                "column 10: the control character U+001B is not allowed; type the command instead \
                 of pasting it",
            ),
        ] {
            assert_eq!(read(text).unwrap_err().to_string(), message, "{text:?}");
        }
    }

    #[test]
    fn the_start_and_the_waves_are_paced() {
        use time::macros::datetime;
        let start = |text: &str| asked(text).plan.rollout.start;
        let night = datetime!(2026-11-24 02:00 UTC);
        assert_eq!(start("reboot web01"), None);
        assert_eq!(start("reboot web01 at=02:00"), Some(Start::At(night)));
        assert_eq!(start("reboot web01 --Not_Before=02:00"), Some(Start::NotBefore(night)));
        assert_eq!(start("reboot web01 at=\"2026-11-24 02:00\""), Some(Start::At(night)));
        let soon = Start::NotBefore(datetime!(2026-11-23 20:40 UTC));
        assert_eq!(start("reboot web01 not-before='in 2h'"), Some(soon));
        let pause = |text: &str| asked(text).plan.rollout.wave_pause;
        assert_eq!(pause("reboot web01 wave=1"), None);
        assert_eq!(
            pause("reboot web01 wave-pause=10m wave=1"),
            Some(WavePause::Seconds(600)),
            "in any order"
        );
        assert_eq!(pause("reboot web01 wave=1 wave-pause=Manual"), Some(WavePause::Manual));
        let when = "write a time such as 2h, 02:00, 02:00+01:00 or \"2026-11-24 02:00\", at most \
                    30 days ahead";
        for (text, message) in [
            ("reboot web01 at=soon", format!("column 14: at cannot be \"soon\"; {when}")),
            (
                "reboot web01 at=2026-11-24 02:00",
                format!("column 14: at cannot be \"2026-11-24\"; {when}"),
            ),
            (
                "reboot web01 not-before=24:00",
                format!("column 14: not-before cannot be \"24:00\"; {when}"),
            ),
            (
                "reboot web01 at=2026-11-23T18:39Z",
                "column 14: at is in the past: 2026-11-23 18:39 UTC, and it is 2026-11-23 18:40 UTC \
                 now; write a time to come, such as at=2h"
                    .into(),
            ),
            (
                "reboot web01 at=31d",
                "column 14: at is more than 30 days ahead; its hosts would be held until then".into(),
            ),
            (
                "reboot web01 at=2h not-before=2h",
                "column 20: not-before cannot stand beside at; give one of the two".into(),
            ),
            (
                "reboot web01 wave-pause=10m",
                "column 14: wave-pause says nothing without wave; add wave= with sizes such as 5, \
                 10% or 1,10%,50%"
                    .into(),
            ),
            (
                "reboot web01 wave=1 wave-pause=25h",
                "column 21: wave-pause cannot be \"25h\"; write a duration such as 10m, from 1s to \
                 24h, or manual"
                    .into(),
            ),
        ] {
            assert_eq!(read(text).unwrap_err().to_string(), message, "{text}");
        }
    }

    #[test]
    fn the_countdown_is_part_of_what_is_approved() {
        let file = |risk: &str, more: &str| {
            let text = format!(
                "summary = \"s\"\nrisk = \"{risk}\"\n{more}\n\
                 [[steps]]\nrun = \"power\"\nto = \"off\"\ntitle = \"t\"\n"
            );
            ActionSpec::parse("site/wreck.toml", &text)
        };
        let seconds = |risk: &str, more: &str| {
            let action = file(risk, more).unwrap();
            let (set, limits) = (lex::marks("web01", 10).unwrap(), CommandLimits::default());
            let submit = check::submit(&action, &set, Vec::new(), &rack(), &limits, NOW).unwrap();
            submit.plan.rollout.countdown_secs
        };
        assert_eq!(seconds("disruptive", ""), 0);
        assert_eq!(seconds("destructive", ""), 30);
        assert_eq!(seconds("destructive", "countdown = \"2m\""), 120);
        assert_eq!(seconds("harmless", "countdown = \"5s\""), 5);
        for wrong in ["countdown = \"soon\"", "countdown = 30", "countdown = \"2h\""] {
            assert!(file("destructive", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn limits_are_kept() {
        let long = "x".repeat(501);
        let most = CommandProblem::ReasonTooLong { chars: 501, most: 500 };
        assert_eq!(read(&format!("reboot web01 reason={long}")), Err(most.clone().at(14)));
        assert_eq!(read(&format!("reject 1 because {long}")), Err(most.at(10)));
        assert!(read(&format!("reboot web01 reason={}", "ä".repeat(500))).is_ok());

        let flood = format!("reboot {}", "web01,".repeat(20_000));
        let most = CommandProblem::TextTooLong { bytes: 120_007, most: 8_000 };
        assert_eq!(read(&flood), Err(most.nowhere()));

        let strict = CommandLimits { reason_required: true, ..CommandLimits::default() };
        let catalog = Catalog::load(None).unwrap();
        let read = |text: &str| understand(text, &catalog, &rack(), &strict, NOW);
        assert_eq!(read("reboot web01"), Err(CommandProblem::ReasonMissing.nowhere()));
        assert!(read("reboot web01 reason=x").is_ok() && read("cancel 1").is_ok());
    }

    #[test]
    fn a_request_in_parts_equals_the_typed_one() {
        let catalog = Catalog::load(None).unwrap();
        let ask = |hosts: &str, params: &[(&str, &str)]| {
            let params: Vec<(String, String)> = params
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect();
            let request = ActionRequest { action: "reboot", hosts, params: &params };
            submission(&request, &catalog, &rack(), &CommandLimits::default(), NOW)
        };
        let parts = ask("web01, web02", &[("wait", "10m"), ("max_fail", "1"), ("reason", "a \"b")]);
        assert_eq!(parts, Ok(asked(r#"reboot web[01-02] wait=10m max-fail=1 reason="a \"b""#)));
        let bad = CommandProblem::DirectionCharacter('\u{202e}').nowhere();
        assert_eq!(ask("web01", &[("reason", "\u{202e}")]), Err(bad));
        assert_eq!(ask("web01]", &[]), Err(CommandProblem::UnopenedBracket.at(6)));
        let request = ActionRequest { action: "rebot", hosts: "web01", params: &[] };
        let error =
            submission(&request, &catalog, &rack(), &CommandLimits::default(), NOW).unwrap_err();
        assert_eq!(error.hint().as_deref(), Some("did you mean reboot?"));
    }

    proptest! {
        #[test]
        fn no_text_panics(
            text in ".{0,60}",
            verb in prop::sample::select(vec!["reboot", "reject", "status", "drop 1", "hosts", "help"]),
            odd in "[ a-c0-9@\\[\\],!&^=%\"'\\\\“—-]{0,40}",
        ) {
            let catalog = Catalog::load(None).unwrap();
            let limits = CommandLimits::default();
            for text in [text.clone(), format!("{verb} {text}"), format!("{verb} {odd}")] {
                let length = text.chars().count();
                if let Err(error) = understand(&text, &catalog, &rack(), &limits, NOW) {
                    prop_assert!(error.column.is_none_or(|column| (1..=length).contains(&column)));
                    prop_assert!(!error.to_string().is_empty());
                }
                let _ = reply::thread_reply(&text);
            }
        }
    }
}
