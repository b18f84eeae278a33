//! Checks a request against the definition of its action, and plans it.
//!
//! Invariant: a [`Submit`] is complete. Its plan has all arguments, in one spelling, and the steps
//! that follow from them; nothing about it is looked up again later.

use std::collections::BTreeMap;
use std::time::Duration;

use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime, UtcOffset};

use super::error::{CommandError, CommandProblem, near};
use super::lex::Mark;
use super::spec::{ActionSpec, ArgSpec, ArgValue, Catalog, duration};
use super::when::{self, Wrong};
use super::{CommandLimits, MAX_REASON, Submit, hosts, lex, plan};
use crate::domain::host::HostSource;
use crate::domain::rollout::{Rollout, Size, Start, WavePause};
use crate::domain::time_zone::Zone;
use crate::domain::workflow::{Plan, plan_version};

/// A parameter that every action has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommonKey {
    pub name: &'static str,
    /// Allowed values in words, with an example.
    pub expected: &'static str,
    pub help: &'static str,
    /// Values that completion offers.
    pub samples: &'static [&'static str],
}

/// The parameters of all actions.
pub const COMMON_KEYS: [CommonKey; 7] = [
    CommonKey {
        name: "reason",
        expected: "text such as \"kernel CVE-2026-1\"",
        help: "why it must be done, for those who approve",
        samples: &[],
    },
    CommonKey {
        name: "wave",
        expected: "sizes such as 5, 10% or 1,10%,50%",
        help: "how many hosts go at a time; the last size repeats",
        samples: &["1,10%,50%"],
    },
    CommonKey {
        name: "wave-pause",
        expected: "a duration such as 10m, from 1s to 24h, or manual",
        help: "how long to wait between waves; manual waits until somebody resumes",
        samples: &["10m", "manual"],
    },
    CommonKey {
        name: "max-concurrent",
        expected: "a whole number from 1, such as 20",
        help: "most hosts at work at the same time",
        samples: &[],
    },
    CommonKey {
        name: "max-fail",
        expected: "a number of hosts such as 2, or a share such as 5%",
        help: "pause when more hosts than this have failed, in this batch or in their last one",
        samples: &[],
    },
    CommonKey {
        name: "at",
        expected: WHEN,
        help: "start then or never: it expires if it is not approved by then; without a zone it is the site's",
        samples: &["2h", "02:00"],
    },
    CommonKey {
        name: "not-before",
        expected: WHEN,
        help: "start then, or when it is approved if that is later",
        samples: &["2h", "02:00"],
    },
];

const WHEN: &str =
    "a time such as 2h, 02:00, 02:00+01:00 or \"2026-11-24 02:00\", at most 30 days ahead";
/// Longest pause between two waves.
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 3600);

/// Request for an action, already split into its parts, as the API and forms have it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ActionRequest<'a> {
    pub action: &'a str,
    /// Node set, such as `web[01-12]`.
    pub hosts: &'a str,
    /// The action's arguments and the [`COMMON_KEYS`], as a person would type them.
    pub params: &'a [(String, String)],
}

/// Checks and plans a request. `now` is the time that its own times are compared with. Columns of
/// errors count in `hosts`; errors of parameters have no column.
pub fn submission(
    request: &ActionRequest<'_>,
    catalog: &Catalog,
    inventory: &dyn HostSource,
    limits: &CommandLimits,
    now: OffsetDateTime,
) -> Result<Submit, CommandError> {
    let Some(action) = catalog.get(request.action) else {
        let near = near(request.action, catalog.actions().map(|action| action.name.as_str()));
        return Err(CommandProblem::UnknownVerb { word: request.action.to_owned(), near }.nowhere());
    };
    let mut given = Vec::new();
    for (key, value) in request.params {
        let clean = lex::marks(value, limits.max_text)
            .map_err(|error| CommandError { column: None, ..error })?;
        given.push(Given { key: key.clone(), value: lex::text(&clean), column: None });
    }
    let marks = lex::marks(request.hosts, limits.max_text)?;
    let words = lex::words(&marks)?;
    let words: Vec<&[Mark]> = words.iter().map(|word| word.marks.as_slice()).collect();
    submit(action, &hosts::join(&words), given, inventory, limits, now)
}

/// Parameter as the person gave it.
pub(super) struct Given {
    pub key: String,
    pub value: String,
    pub column: Option<usize>,
}

/// Normal spelling of a parameter's name: `--Max_Fail` becomes `max-fail`. A leading `—` counts as
/// `--`, because some systems replace two hyphens by a dash.
pub(super) fn normal_key(key: &str) -> String {
    let bare = key.strip_prefix("--").or_else(|| key.strip_prefix('—')).unwrap_or(key);
    bare.to_lowercase().replace('_', "-")
}

/// Checks and plans an action.
pub(super) fn submit(
    action: &ActionSpec,
    set: &[Mark],
    given: Vec<Given>,
    inventory: &dyn HostSource,
    limits: &CommandLimits,
    now: OffsetDateTime,
) -> Result<Submit, CommandError> {
    let mut values: BTreeMap<String, Given> = BTreeMap::new();
    for mut one in given {
        let key = normal_key(&one.key);
        let column = one.column;
        one.key.clone_from(&key);
        let Some(expected) = expected(action, &key) else {
            return Err(CommandError { problem: unknown_key(action, &key), column });
        };
        if values.contains_key(&key) {
            return Err(CommandError { problem: CommandProblem::DuplicateKey { key }, column });
        }
        if one.value.trim().is_empty() {
            let expected = format!("{key}= with {expected}");
            return Err(CommandError {
                problem: CommandProblem::MissingValue { key, expected },
                column,
            });
        }
        values.insert(key, one);
    }
    let args = read_args(action, &values)?;
    let mut rollout = read_rollout(&values, now, &limits.zone)?;
    rollout.countdown_secs = action.countdown(limits.countdown).as_secs();
    let reason = read_reason(values.get("reason"), limits)?;
    // After the parameters, so that an error in a key is reported before the missing hosts that it
    // may have caused.
    let hosts = hosts::resolve(set, inventory, limits.max_hosts).map_err(|mut error| {
        if let CommandProblem::UnknownHosts { hosts, key, .. } = &mut error.problem {
            *key = expected(action, &normal_key(hosts)).map(|_| normal_key(hosts));
        }
        error
    })?;
    let steps = plan::steps(action, &args).map_err(|(_, problem)| {
        CommandProblem::Unplannable { action: action.name.clone(), problem }.nowhere()
    })?;
    let is_default = |name: &str, value: &ArgValue| {
        action.args.get(name).and_then(ArgSpec::default_value).as_ref() == Some(value)
    };
    let at_default =
        args.iter().filter(|(name, value)| is_default(name, value)).map(|(name, _)| name.clone());
    let at_default = at_default.collect();
    let params = args.into_iter().map(|(name, value)| (name, value.text())).collect();
    let (risk, checks, action) = (action.risk, action.checks.clone(), action.name.clone());
    let version = plan_version(&steps);
    let plan = Plan { version, action, risk, params, at_default, checks, steps, rollout };
    Ok(Submit { plan, hosts, reason })
}

fn read_args(
    action: &ActionSpec,
    values: &BTreeMap<String, Given>,
) -> Result<BTreeMap<String, ArgValue>, CommandError> {
    let mut args = BTreeMap::new();
    for (name, spec) in &action.args {
        let value = match values.get(name) {
            Some(given) => {
                spec.read(given.value.trim()).map_err(|wrong| bad(given, wrong.expected))?
            }
            None => spec.default_value().ok_or_else(|| {
                let expected = format!("{name}= with {}", spec.expected());
                CommandProblem::MissingArgument { key: name.clone(), expected }.nowhere()
            })?,
        };
        args.insert(name.clone(), value);
    }
    Ok(args)
}

fn read_rollout(
    values: &BTreeMap<String, Given>,
    now: OffsetDateTime,
    zone: &Zone,
) -> Result<Rollout, CommandError> {
    let mut rollout = Rollout::default();
    if let Some(given) = values.get("wave") {
        for part in given.value.split(',') {
            match part.trim().parse() {
                Ok(Size::Hosts(0) | Size::Percent(0)) | Err(_) => return Err(bad_common(given)),
                Ok(size) => rollout.waves.push(size),
            }
        }
    }
    if let Some(given) = values.get("max-concurrent") {
        let text = given.value.trim();
        let number = text.parse().ok().filter(|most: &u32| *most > 0 && !text.starts_with('+'));
        rollout.max_concurrent = Some(number.ok_or_else(|| bad_common(given))?);
    }
    if let Some(given) = values.get("max-fail") {
        let size = given.value.trim().parse().map_err(|_| bad_common(given))?;
        rollout.max_fail = Some(size);
    }
    if let Some(given) = values.get("wave-pause") {
        rollout.wave_pause = Some(read_wave_pause(given)?);
        if rollout.waves.is_empty() {
            let expected = common("wave").map(|wave| wave.expected).unwrap_or_default();
            let problem =
                CommandProblem::Alone { key: given.key.clone(), needed: "wave", expected };
            return Err(CommandError { problem, column: given.column });
        }
    }
    rollout.start = match (values.get("at"), values.get("not-before")) {
        (Some(at), Some(other)) => {
            // Points at the one that was written later.
            let (one, other) = if at.column > other.column { (at, other) } else { (other, at) };
            let problem =
                CommandProblem::Excluded { key: one.key.clone(), other: other.key.clone() };
            return Err(CommandError { problem, column: one.column });
        }
        (Some(at), None) => Some(Start::At(read_time(at, now, zone)?)),
        (None, Some(given)) => Some(Start::NotBefore(read_time(given, now, zone)?)),
        (None, None) => None,
    };
    Ok(rollout)
}

fn read_wave_pause(given: &Given) -> Result<WavePause, CommandError> {
    let text = given.value.trim();
    if text.eq_ignore_ascii_case("manual") {
        return Ok(WavePause::Manual);
    }
    let pause = duration(text).filter(|pause| !pause.is_zero() && *pause <= LONGEST_PAUSE);
    pause.map(|pause| WavePause::Seconds(pause.as_secs())).ok_or_else(|| bad_common(given))
}

fn read_time(
    given: &Given,
    now: OffsetDateTime,
    zone: &Zone,
) -> Result<OffsetDateTime, CommandError> {
    let key = given.key.clone();
    let problem = match when::read(&given.value, now, zone) {
        Ok(time) => return Ok(time),
        Err(Wrong::NotATime) => return Err(bad_common(given)),
        Err(Wrong::Past(time)) => {
            CommandProblem::PastTime { key, time: spoken(time, zone), now: spoken(now, zone) }
        }
        Err(Wrong::Skipped { time, right }) => CommandProblem::SkippedTime {
            key,
            time: civil(time).into(),
            zone: zone.name().into(),
            right: with_offset(right).into(),
        },
        Err(Wrong::Twice { first, second }) => CommandProblem::RepeatedTime {
            key,
            time: civil(PrimitiveDateTime::new(first.date(), first.time())).into(),
            zone: zone.name().into(),
            right: Box::new([with_offset(first), with_offset(second)]),
        },
        Err(Wrong::TooFar) => {
            CommandProblem::FarTime { key, most_days: when::MOST_AHEAD.as_secs() / (24 * 3600) }
        }
    };
    Err(CommandError { problem, column: given.column })
}

/// Formats a time in words: `2026-11-24 02:00 UTC`, or `2026-11-24T03:00+01:00` in other zones. The
/// parser reads both.
fn spoken(time: OffsetDateTime, zone: &Zone) -> String {
    let minute = format_description!("[year]-[month]-[day] [hour]:[minute] UTC");
    match *zone == Zone::default() {
        true => time.to_offset(UtcOffset::UTC).format(&minute).unwrap_or_else(|_| time.to_string()),
        false => with_offset(zone.local(time)),
    }
}

/// Formats a time without a zone: `2026-03-29 02:30`.
fn civil(time: PrimitiveDateTime) -> String {
    let minute = format_description!("[year]-[month]-[day] [hour]:[minute]");
    time.format(&minute).unwrap_or_else(|_| time.to_string())
}

/// Formats a time with its offset: `2026-03-29T03:30+02:00`. Needs no quotes in a command.
fn with_offset(time: OffsetDateTime) -> String {
    let minute = format_description!(
        "[year]-[month]-[day]T[hour]:[minute][offset_hour sign:mandatory]:[offset_minute]"
    );
    time.format(&minute).unwrap_or_else(|_| time.to_string())
}

fn read_reason(
    given: Option<&Given>,
    limits: &CommandLimits,
) -> Result<Option<String>, CommandError> {
    match given {
        Some(given) => {
            let reason = given.value.trim().to_owned();
            match reason.chars().count() {
                chars if chars > MAX_REASON => {
                    let problem = CommandProblem::ReasonTooLong { chars, most: MAX_REASON };
                    Err(CommandError { problem, column: given.column })
                }
                _ => Ok(Some(reason)),
            }
        }
        None if limits.reason_required => Err(CommandProblem::ReasonMissing.nowhere()),
        None => Ok(None),
    }
}

/// Allowed values of a parameter, in words; `None` when the action has no such parameter.
pub(super) fn expected(action: &ActionSpec, key: &str) -> Option<String> {
    match action.args.get(key) {
        Some(spec) => Some(spec.expected()),
        None => common(key).map(|common| common.expected.to_owned()),
    }
}

fn common(key: &str) -> Option<&'static CommonKey> {
    COMMON_KEYS.iter().find(|common| common.name == key)
}

fn unknown_key(action: &ActionSpec, key: &str) -> CommandProblem {
    let known: Vec<String> = action
        .args
        .keys()
        .cloned()
        .chain(COMMON_KEYS.iter().map(|common| common.name.to_owned()))
        .collect();
    let near = near(key, known.iter().map(String::as_str));
    CommandProblem::UnknownKey { action: action.name.clone(), key: key.to_owned(), known, near }
}

fn bad(given: &Given, expected: String) -> CommandError {
    let problem =
        CommandProblem::BadValue { key: given.key.clone(), value: given.value.clone(), expected };
    CommandError { problem, column: given.column }
}

fn bad_common(given: &Given) -> CommandError {
    bad(given, common(&given.key).map(|common| common.expected.to_owned()).unwrap_or_default())
}
