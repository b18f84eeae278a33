//! Actions, as `commands/*.toml` define them. The name of the file is the name of the action.
//!
//! ```text
//! summary = "Turn hosts off"
//! risk = "disruptive"                    # harmless | disruptive | destructive
//! countdown = "2m"                       # time to stop it after the last approval; without it
//!                                        # `[rollout]` says it for what is destructive
//! checks = ["bmc_console"]               # before anybody is asked; default none
//!
//! [args.wait]                            # kinds: duration, choice, flag, count
//! kind = "duration"
//! default = "5m"                         # without one it must be given; a flag defaults to false
//! min = "10s"
//! max = "1h"
//! help = "how long a shutdown may take"
//!
//! [[steps]]
//! run = "wait_power"                     # a `StepAction` and its parameters
//! is = "off"
//! title = "wait until it is off"
//! deadline = "{{ wait }}"                # default 1m
//! retry = 2                              # default 0
//! when = "mode == 'soft'"                # the step is left out when this is false
//! ```
//!
//! Text values may hold minijinja expressions over the arguments, with `-` in their names written
//! `_`; a value that is one expression alone keeps its type. `wait|seconds` is a duration's number
//! of seconds.
//!
//! Invariant: a [`Catalog`] holds only actions that can be planned with every argument a person can
//! give: each was, with every choice and with the ends of every range.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::check::COMMON_KEYS;
use super::{plan, verbs};
use crate::domain::workflow::{Check, Risk};

#[derive(rust_embed::Embed)]
#[folder = "../../commands/"]
struct BuiltIn;

/// Largest duration of an argument without `max`.
const MAX_DURATION: Duration = Duration::from_secs(7 * 24 * 3600);

/// Largest countdown.
const MAX_COUNTDOWN: Duration = Duration::from_secs(3600);

/// All actions, by name.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    actions: BTreeMap<String, ActionSpec>,
}

/// Action: work on hosts that a person can ask for.
#[derive(Clone, PartialEq, Debug)]
pub struct ActionSpec {
    pub name: String,
    pub summary: String,
    pub risk: Risk,
    pub checks: BTreeSet<Check>,
    /// Countdown in the file; see [`ActionSpec::countdown`].
    countdown: Option<Duration>,
    pub args: BTreeMap<String, ArgSpec>,
    pub steps: Vec<StepSpec>,
}

/// Argument of an action.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArgSpec {
    pub kind: ArgKind,
    #[serde(default, deserialize_with = "scalar")]
    pub default: Option<String>,
    /// Allowed words; for [`ArgKind::Choice`] only.
    #[serde(default)]
    pub choices: Vec<String>,
    pub help: String,
    /// Smallest value, for durations and counts.
    #[serde(default, deserialize_with = "scalar")]
    pub min: Option<String>,
    /// Largest value, for durations and counts.
    #[serde(default, deserialize_with = "scalar")]
    pub max: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArgKind {
    /// Duration in whole seconds, written `90s`, `5m`, `1h30m`.
    Duration,
    Choice,
    /// Truth value: `true` or `false`.
    Flag,
    /// Count: a whole number.
    Count,
}

/// Step before its expressions are rendered.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct StepSpec {
    pub title: String,
    pub deadline: Option<String>,
    #[serde(default)]
    pub retry: u32,
    /// Also done to hosts that were touched when the batch is cancelled.
    #[serde(default)]
    pub finishing: bool,
    pub when: Option<String>,
    /// Step's name (`run`) and parameters.
    #[serde(flatten)]
    pub action: toml::Table,
}

/// Value of an argument.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ArgValue {
    Duration(Duration),
    Choice(String),
    Flag(bool),
    Count(u64),
}

/// Error in an action's file.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{file}: {}{problem}", .key.as_ref().map(|key| format!("{key}: ")).unwrap_or_default())]
pub struct SpecError {
    pub file: String,
    /// Position in the file, if known: `args.wait.default`, `steps[2].deadline`.
    pub key: Option<String>,
    pub problem: String,
}

/// Content of the file. The action's name is not in it: it is the name of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    summary: String,
    risk: Risk,
    #[serde(default)]
    checks: BTreeSet<Check>,
    countdown: Option<String>,
    #[serde(default)]
    args: BTreeMap<String, ArgSpec>,
    steps: Vec<StepSpec>,
}

impl Catalog {
    /// Loads the built-in actions and those of a site's folder. A site's action adds to them, or
    /// replaces the one of the same name.
    pub fn load(site: Option<&Path>) -> Result<Self, SpecError> {
        let mut catalog = Catalog::default();
        for file in BuiltIn::iter().filter(|file| file.ends_with(".toml")) {
            let content = BuiltIn::get(&file).map(|found| found.data).unwrap_or_default();
            let text = String::from_utf8_lossy(&content);
            catalog.add(&format!("commands/{file}"), &text)?;
        }
        let Some(site) = site else { return Ok(catalog) };
        let unreadable = |path: &Path, cause: std::io::Error| SpecError {
            file: path.display().to_string(),
            key: None,
            problem: format!("cannot be read: {cause}"),
        };
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(site).map_err(|cause| unreadable(site, cause))? {
            let path = entry.map_err(|cause| unreadable(site, cause))?.path();
            if path.extension().is_some_and(|end| end == "toml") {
                paths.push(path);
            }
        }
        paths.sort();
        for path in paths {
            let text = std::fs::read_to_string(&path).map_err(|cause| unreadable(&path, cause))?;
            catalog.add(&path.display().to_string(), &text)?;
        }
        Ok(catalog)
    }

    pub fn get(&self, name: &str) -> Option<&ActionSpec> {
        self.actions.get(name)
    }

    /// All actions, sorted by name.
    pub fn actions(&self) -> impl ExactSizeIterator<Item = &ActionSpec> {
        self.actions.values()
    }

    fn add(&mut self, file: &str, text: &str) -> Result<(), SpecError> {
        let action = ActionSpec::parse(file, text)?;
        self.actions.insert(action.name.clone(), action);
        Ok(())
    }
}

impl ActionSpec {
    /// Reads and checks one action; its name is taken from `file`.
    pub fn parse(file: &str, text: &str) -> Result<Self, SpecError> {
        let fail = |key: Option<&str>, problem: String| SpecError {
            file: file.to_owned(),
            key: key.map(str::to_owned),
            problem,
        };
        let name = Path::new(file).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if !is_name(name) {
            let problem = "the file's name must be letters a-z, digits and '-'";
            return Err(fail(None, problem.to_owned()));
        }
        if verbs::find(name).is_some() {
            return Err(fail(None, format!("{name} is a command already")));
        }
        let content: File =
            toml::from_str(text).map_err(|cause| fail(None, one_line(&cause.to_string())))?;
        for (arg, spec) in &content.args {
            let key = format!("args.{arg}");
            if !is_name(arg) {
                let problem = "the name must be letters a-z, digits and '-'";
                return Err(fail(Some(&key), problem.to_owned()));
            }
            if COMMON_KEYS.iter().any(|common| common.name == arg) {
                return Err(fail(Some(&key), "every action has this parameter already".into()));
            }
            spec.check()
                .map_err(|(field, problem)| fail(Some(&format!("{key}.{field}")), problem))?;
        }
        let File { summary, risk, checks, countdown, args, steps } = content;
        let countdown = match countdown {
            Some(text) => {
                Some(duration(&text).filter(|value| *value <= MAX_COUNTDOWN).ok_or_else(|| {
                    fail(Some("countdown"), format!("{text:?} is not a duration of up to 1h"))
                })?)
            }
            None => None,
        };
        let name = name.to_owned();
        let action = ActionSpec { name, summary, risk, checks, countdown, args, steps };
        plan::try_all(&action).map_err(|(key, problem)| fail(key.as_deref(), problem))?;
        Ok(action)
    }

    /// Time between the last approval and the start, in which the batch can still be stopped: the
    /// one in the action's file, or else `usual` for a destructive action and zero for others.
    pub fn countdown(&self, usual: Duration) -> Duration {
        let usual = if self.risk == Risk::Destructive { usual } else { Duration::ZERO };
        self.countdown.unwrap_or(usual)
    }
}

/// Text that is no value of an argument.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("write {expected}")]
pub struct NotAValue {
    /// Describes the accepted values, with an example.
    pub expected: String,
}

impl ArgSpec {
    /// Reads a value; the error gives the allowed values, with an example.
    pub fn read(&self, text: &str) -> Result<ArgValue, NotAValue> {
        let wrong = || NotAValue { expected: self.expected() };
        match self.kind {
            ArgKind::Flag => match text.to_lowercase().as_str() {
                "true" | "yes" | "on" => Ok(ArgValue::Flag(true)),
                "false" | "no" | "off" => Ok(ArgValue::Flag(false)),
                _ => Err(wrong()),
            },
            ArgKind::Choice => self
                .choices
                .iter()
                .find(|choice| choice.eq_ignore_ascii_case(text))
                .map(|choice| ArgValue::Choice(choice.clone()))
                .ok_or_else(wrong),
            ArgKind::Duration => {
                let value = duration(text).ok_or_else(wrong)?;
                let (least, greatest) = self.duration_range();
                if (least..=greatest).contains(&value) {
                    Ok(ArgValue::Duration(value))
                } else {
                    Err(wrong())
                }
            }
            ArgKind::Count => {
                let value = count(text).ok_or_else(wrong)?;
                let (least, greatest) = self.count_range();
                if (least..=greatest).contains(&value) {
                    Ok(ArgValue::Count(value))
                } else {
                    Err(wrong())
                }
            }
        }
    }

    /// Allowed values in words: `a duration such as 5m, from 10s to 1h`.
    pub fn expected(&self) -> String {
        match self.kind {
            ArgKind::Flag => "true or false".into(),
            ArgKind::Choice => match self.choices.as_slice() {
                [first @ .., last] if !first.is_empty() => {
                    format!("{} or {last}", first.join(", "))
                }
                choices => choices.join(""),
            },
            ArgKind::Duration => {
                let (least, greatest) = self.duration_range();
                let example = self.default.as_deref().unwrap_or("5m");
                format!(
                    "a duration such as {example}, from {} to {}",
                    duration_text(least),
                    duration_text(greatest)
                )
            }
            ArgKind::Count => {
                let (least, greatest) = self.count_range();
                format!("a whole number from {least} to {greatest}")
            }
        }
    }

    /// Default value; `None` for a required argument.
    pub(super) fn default_value(&self) -> Option<ArgValue> {
        match (&self.default, self.kind) {
            (Some(text), _) => self.read(text).ok(),
            (None, ArgKind::Flag) => Some(ArgValue::Flag(false)),
            (None, _) => None,
        }
    }

    /// Sample values that represent all allowed ones: every choice, the ends of a range, the
    /// default.
    pub(super) fn samples(&self) -> Vec<ArgValue> {
        let mut samples: Vec<ArgValue> = match self.kind {
            ArgKind::Flag => vec![ArgValue::Flag(false), ArgValue::Flag(true)],
            ArgKind::Choice => self.choices.iter().cloned().map(ArgValue::Choice).collect(),
            ArgKind::Duration => {
                let (least, greatest) = self.duration_range();
                vec![ArgValue::Duration(least), ArgValue::Duration(greatest)]
            }
            ArgKind::Count => {
                let (least, greatest) = self.count_range();
                vec![ArgValue::Count(least), ArgValue::Count(greatest)]
            }
        };
        samples.extend(self.default_value().filter(|default| !samples.contains(default)));
        samples
    }

    fn duration_range(&self) -> (Duration, Duration) {
        let bound = |text: &Option<String>| text.as_deref().and_then(duration);
        (
            bound(&self.min).unwrap_or(Duration::from_secs(1)),
            bound(&self.max).unwrap_or(MAX_DURATION),
        )
    }

    fn count_range(&self) -> (u64, u64) {
        let bound = |text: &Option<String>| text.as_deref().and_then(count);
        (bound(&self.min).unwrap_or(0), bound(&self.max).unwrap_or(u64::from(u32::MAX)))
    }

    /// First invalid field, and the problem.
    fn check(&self) -> Result<(), (&'static str, String)> {
        let choice = self.kind == ArgKind::Choice;
        let ranged = matches!(self.kind, ArgKind::Duration | ArgKind::Count);
        if choice == self.choices.is_empty() {
            let problem = if choice { "a choice needs them" } else { "only a choice has them" };
            return Err(("choices", problem.into()));
        }
        if let Some(bad) = self.choices.iter().find(|choice| !is_name(choice)) {
            let problem = format!("{bad:?}: use letters a-z, digits, '-' and '.'");
            return Err(("choices", problem));
        }
        for (field, bound) in [("min", &self.min), ("max", &self.max)] {
            let Some(bound) = bound else { continue };
            if !ranged {
                return Err((field, "only a duration or a count has it".into()));
            }
            let readable = match self.kind {
                ArgKind::Duration => duration(bound).is_some(),
                _ => count(bound).is_some(),
            };
            if !readable {
                return Err((field, format!("{bound:?} is no {:?}", self.kind).to_lowercase()));
            }
        }
        if self.duration_range().0 > self.duration_range().1
            || self.count_range().0 > self.count_range().1
        {
            return Err(("min", "it is greater than max".into()));
        }
        match &self.default {
            Some(text) => {
                let wrong =
                    |wrong: NotAValue| ("default", format!("{text:?} is not {}", wrong.expected));
                self.read(text).map(|_| ()).map_err(wrong)
            }
            None => Ok(()),
        }
    }
}

impl ArgValue {
    /// Value as a person would type it.
    pub fn text(&self) -> String {
        match self {
            ArgValue::Duration(value) => duration_text(*value),
            ArgValue::Choice(value) => value.clone(),
            ArgValue::Flag(value) => value.to_string(),
            ArgValue::Count(value) => value.to_string(),
        }
    }
}

/// Reads whole seconds: `90s`, `5m`, `1h30m`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok().filter(|value| value.subsec_nanos() == 0)
}

/// Formats a duration as `1h30m`, which [`duration`] reads.
pub(super) fn duration_text(value: Duration) -> String {
    humantime::format_duration(value).to_string().replace(' ', "")
}

fn count(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
}

/// Reads a text, a number or a truth value, as text.
fn scalar<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    match toml::Value::deserialize(from)? {
        toml::Value::String(text) => Ok(Some(text)),
        toml::Value::Integer(number) => Ok(Some(number.to_string())),
        toml::Value::Boolean(truth) => Ok(Some(truth.to_string())),
        other => {
            let found = other.type_str();
            Err(serde::de::Error::custom(format!("text, a number or a truth value, not {found}")))
        }
    }
}

pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: &str = "[[steps]]\nrun = \"power\"\nto = \"on\"\ntitle = \"t\"\n";

    fn problem(text: &str) -> String {
        let text = format!("summary = \"s\"\nrisk = \"harmless\"\n{text}");
        ActionSpec::parse("site/x.toml", &text).unwrap_err().to_string()
    }

    #[test]
    fn the_built_in_actions_do_this() {
        let catalog = Catalog::load(None).unwrap();
        assert_eq!(catalog.actions().len(), 4);
        let mut page = String::new();
        for (name, given) in [
            ("power-on", ""),
            ("power-off", ""),
            ("power-off", "mode=hard"),
            ("reboot", ""),
            ("reboot", "mode=soft force=true wait=90s"),
            ("identify", ""),
            ("identify", "for=0s"),
        ] {
            let action = catalog.get(name).unwrap();
            let mut args = plan::Args::new();
            for (arg, spec) in &action.args {
                args.insert(arg.clone(), spec.default_value().unwrap());
            }
            for (arg, text) in given.split_whitespace().filter_map(|pair| pair.split_once('=')) {
                args.insert(arg.to_owned(), action.args[arg].read(text).unwrap());
            }
            page += format!("{name} {given}").trim_end();
            page += &format!(" ({})\n", action.risk);
            for step in plan::steps(action, &args).unwrap() {
                let does = serde_json::to_string(&step.action).unwrap();
                page +=
                    &format!("  {}: {does} {}s {}\n", step.title, step.deadline_secs, step.retry);
            }
        }
        insta::assert_snapshot!(page, @r#"
        power-on (disruptive)
          turn it on: {"run":"power","to":"on"} 60s 3
          wait until it is on: {"run":"wait_power","is":"on","on_deadline":"fail"} 120s 2
        power-off (disruptive)
          ask it to shut down: {"run":"power","to":"soft"} 60s 3
          wait until it has shut down: {"run":"wait_power","is":"off","on_deadline":"fail"} 300s 2
        power-off mode=hard (disruptive)
          cut the power: {"run":"power","to":"off"} 60s 3
          wait until it is off: {"run":"wait_power","is":"off","on_deadline":"fail"} 120s 2
        reboot (disruptive)
          cut the power: {"run":"power","to":"off"} 60s 3
          wait until it is off: {"run":"wait_power","is":"off","on_deadline":"fail"} 120s 2
          turn it on: {"run":"power","to":"on"} 60s 3
          wait until it is on: {"run":"wait_power","is":"on","on_deadline":"fail"} 120s 2
        reboot mode=soft force=true wait=90s (disruptive)
          ask it to shut down: {"run":"power","to":"soft"} 60s 3
          wait until it has shut down: {"run":"wait_power","is":"off","on_deadline":"continue"} 90s 2
          cut the power if it is still on: {"run":"power","to":"off"} 60s 3
          wait until it is off: {"run":"wait_power","is":"off","on_deadline":"fail"} 120s 2
          turn it on: {"run":"power","to":"on"} 60s 3
          wait until it is on: {"run":"wait_power","is":"on","on_deadline":"fail"} 120s 2
        identify (harmless)
          light the identify lamp: {"run":"identify","seconds":60} 60s 3
        identify for=0s (harmless)
          put out the identify lamp: {"run":"identify","seconds":0} 60s 3
        "#);
    }

    #[test]
    fn mistakes_name_file_and_key() {
        let args = |arg: &str| problem(&format!("[args.a]\nhelp = \"h\"\n{arg}\n{STEP}"));
        for (found, expected) in [
            (problem(&format!("colour = 1\n{STEP}")), "unknown field `colour`"),
            (problem("steps = 1"), "invalid type: integer `1`"),
            (problem("steps = []"), "site/x.toml: steps: no step is left to do"),
            (args("kind = \"text\""), "unknown variant `text`"),
            (args("kind = \"flag\"\nmini = 1"), "unknown field `mini`"),
            (args("kind = \"flag\"\nmin = 1"), "args.a.min: only a duration or a count has it"),
            (args("kind = \"flag\"\ndefault = 1"), "args.a.default: \"1\" is not true or false"),
            (args("kind = \"choice\""), "args.a.choices: a choice needs them"),
            (args("kind = \"count\"\nchoices = [\"x\"]"), "args.a.choices: only a choice"),
            (args("kind = \"choice\"\nchoices = [\"X y\"]"), "args.a.choices: \"X y\": use"),
            (args("kind = \"count\"\nmin = \"x\""), "args.a.min: \"x\" is no count"),
            (args("kind = \"count\"\nmin = 3\nmax = 2"), "args.a.min: it is greater than max"),
            (args("kind = \"duration\"\ndefault = \"8d\""), "from 1s to 7days"),
            (args("kind = \"flag\"\ndefault = []"), "text, a number or a truth value, not array"),
            (
                problem(&format!("[args.reason]\nkind = \"flag\"\nhelp = \"\"\n{STEP}")),
                "args.reason: every action has this parameter already",
            ),
            (
                problem(&format!("[args.a_b]\nkind = \"flag\"\nhelp = \"\"\n{STEP}")),
                "args.a_b: the name must be",
            ),
            (problem(&STEP.replace("power", "powre")), "steps[1]: unknown variant `powre`"),
            (problem(&STEP.replace("\"on\"", "\"onn\"")), "steps[1]: unknown variant `onn`"),
            (problem(&STEP.replace("to =", "too =")), "steps[1]: unknown field `too`"),
            (problem(&format!("{STEP}deadlin = \"1m\"")), "steps[1]: unknown field `deadlin`"),
            (problem(&format!("{STEP}deadline = \"soon\"")), "steps[1].deadline: \"soon\" is not"),
            (problem(&format!("{STEP}deadline = \"0s\"")), "steps[1].deadline: \"0s\" is not"),
            (problem(&format!("{STEP}when = \"mode ==\"")), "steps[1].when: syntax error"),
            (problem(&format!("{STEP}when = \"mode == 'x'\"")), "steps[1].when: undefined value"),
            (problem(&format!("{STEP}when = \"forse\"")), "steps[1].when: forse is undefined"),
            (problem(&format!("{STEP}when = \"false\"")), "steps: no step is left to do"),
            (
                problem(&format!("{STEP}deadline = \"{{{{ wiat }}}}\"")),
                "steps[1].deadline: wiat is undefined",
            ),
            (problem(&STEP.replace("\"t\"", "\"\"")), "steps[1].title: it is empty"),
        ] {
            assert!(found.starts_with("site/x.toml: "), "{found}");
            assert!(found.contains(expected), "{found}\n  lacks {expected}");
        }
        for (file, expected) in [
            ("Re boot.toml", "the file's name must be"),
            ("status.toml", "status is a command already"),
        ] {
            let error = ActionSpec::parse(file, "").unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn what_one_choice_in_many_breaks_is_found() {
        let identify = "[args.long]\nkind = \"flag\"\nhelp = \"h\"\n[[steps]]\nrun = \"identify\"\n\
            title = \"t\"\nseconds = \"{{ 256 if long else 1 }}\"\n";
        let found = problem(identify);
        assert!(found.contains("steps[1]") && found.contains("(with long=true)"), "{found}");
        let endless = "[args.wait]\nkind = \"duration\"\nhelp = \"h\"\n[[steps]]\n\
            run = \"identify\"\ntitle = \"t\"\nseconds = \"{{ wait|seconds }}\"\n";
        let found = problem(endless);
        assert!(found.contains("(with wait=7days)"), "{found}");
        let many: String =
            (0..13).map(|n| format!("[args.a{n}]\nkind = \"flag\"\nhelp = \"h\"\n")).collect();
        assert!(problem(&format!("{many}{STEP}")).contains("args: the choices make 8192"));
    }

    #[test]
    fn a_site_adds_and_overrides() {
        let site = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(site.path().join(name), text).unwrap();
        let head = "summary = \"ours\"\nrisk = \"destructive\"\n";
        write("reboot.toml", &format!("{head}{STEP}"));
        write("pxe-boot.toml", &format!("{head}{STEP}"));
        write("notes.txt", "not an action");
        let catalog = Catalog::load(Some(site.path())).unwrap();
        assert_eq!(catalog.get("reboot").unwrap().summary, "ours");
        assert!(catalog.get("pxe-boot").is_some() && catalog.get("power-on").is_some());

        write("bad.toml", "summary = 1");
        let error = Catalog::load(Some(site.path())).unwrap_err();
        assert!(error.file.ends_with("bad.toml"), "{error}");
        let missing = site.path().join("none");
        assert!(Catalog::load(Some(&missing)).unwrap_err().problem.starts_with("cannot be read"));
    }

    #[test]
    fn values_are_read_strictly_and_written_back() {
        let catalog = Catalog::load(None).unwrap();
        let wait = &catalog.get("reboot").unwrap().args["wait"];
        for (typed, text) in [("10m", "10m"), ("90s", "1m30s"), ("1h", "1h"), ("600s", "10m")] {
            let value = wait.read(typed).unwrap();
            assert_eq!(value.text(), text);
            assert_eq!(wait.read(text), Ok(value));
        }
        for wrong in ["", "5", "-5m", "5 parsecs", "9s", "61m", "5M", "1500ms", "1e3s"] {
            let expected = "a duration such as 5m, from 10s to 1h";
            assert_eq!(wait.read(wrong).unwrap_err().expected, expected, "{wrong:?}");
        }
        let long = Duration::from_secs(3 * 24 * 3600 + 60);
        assert_eq!(duration(&duration_text(long)), Some(long));
    }
}
