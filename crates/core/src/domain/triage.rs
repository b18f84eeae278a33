//! Triage: chooses the ticket for a failure, by the failure's facts and the rules of routing, and
//! the change that a second failure makes to an existing ticket.
//!
//! Invariant: every failure has a route, because the last one takes everything.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::error_kind::{ErrorClass, ErrorKind};
use super::host::{BmcIdentity, HostName, UsualBmc};
use super::human_duration;

/// Failure of one host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostFailure {
    pub host: HostName,
    pub owner: String,
    pub datacenter: String,
    pub rack: String,
    pub sku: String,
    pub bmc: BmcIdentity,
    /// Parts of that identity that most of the fleet has now.
    pub usual: UsualBmc,
    /// Name of the action, such as `reboot`.
    pub action: String,
    pub source: Source,
    pub kind: ErrorKind,
    /// Message of the error.
    pub error: String,
}

/// Step or check in which a failure was seen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Step that was tried: its `run` name, and its title for people.
    Step { run: String, title: String },
    /// A preflight check of the host.
    Check { name: String },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Step { title, .. } => f.write_str(title),
            Source::Check { name } => write!(f, "check {name}"),
        }
    }
}

/// Patterns, of which a value must match one; `*` stands for any text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Patterns(Vec<String>);

impl Patterns {
    pub fn match_any(&self, text: &str) -> bool {
        self.0.iter().any(|pattern| glob(pattern, text))
    }

    /// First pattern that matches none of these names.
    fn matching_none(&self, names: &[&str]) -> Option<&str> {
        let matches_none =
            |pattern: &&String| !names.iter().any(|name| glob(pattern.as_str(), name));
        self.0.iter().find(matches_none).map(String::as_str)
    }

    /// True if this certainly matches everything that `other` matches.
    fn covers(&self, other: &Patterns) -> bool {
        let all = self.0.iter().any(|word| word.bytes().all(|b| b == b'*'));
        all || other.0.iter().all(|word| self.0.contains(word))
    }
}

impl fmt::Display for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" or "))
    }
}

impl<'de> Deserialize<'de> for Patterns {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Words;
        impl<'de> Visitor<'de> for Words {
            type Value = Vec<String>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a list of texts")
            }

            fn visit_str<E>(self, word: &str) -> Result<Self::Value, E> {
                Ok(vec![word.to_owned()])
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut words = Vec::new();
                while let Some(word) = seq.next_element()? {
                    words.push(word);
                }
                Ok(words)
            }
        }
        let words = from.deserialize_any(Words)?;
        if words.is_empty() || words.iter().any(String::is_empty) {
            return Err(D::Error::custom("it matches nothing; leave it out to match everything"));
        }
        Ok(Patterns(words))
    }
}

/// Reads patterns for the names of kinds. A pattern that matches no kind is an error, which names
/// similar ones.
fn kinds<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Patterns>, D::Error> {
    let names: Vec<&str> = ErrorKind::ALL.iter().map(|kind| kind.as_str()).collect();
    let patterns = Patterns::deserialize(from)?;
    if let Some(word) = patterns.matching_none(&names) {
        let near = ErrorKind::near(&word.replace('*', ""));
        let near: Vec<&str> = near.into_iter().map(ErrorKind::as_str).collect();
        return Err(D::Error::custom(match near.is_empty() {
            true => format!("{word:?} is no kind of error; there is {}", names.join(", ")),
            false => format!("{word:?} is no kind of error; did you mean {}?", near.join(" or ")),
        }));
    }
    Ok(Some(patterns))
}

/// Reads patterns for the names of classes. A pattern that matches no class is an error.
fn classes<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Patterns>, D::Error> {
    let names: Vec<&str> = ErrorClass::ALL.iter().map(|class| class.as_str()).collect();
    let patterns = Patterns::deserialize(from)?;
    match patterns.matching_none(&names) {
        Some(word) => {
            let known = names.join(", ");
            Err(D::Error::custom(format!("{word:?} is no class of errors; there is {known}")))
        }
        None => Ok(Some(patterns)),
    }
}

/// True if the pattern matches the text; `*` stands for any text.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// One `[[tickets.route]]` of the configuration. Conditions that are left out match everything; what is
/// left out of the rest is as in the default route.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RouteRule {
    /// Name of the rule, for people.
    pub name: Option<String>,

    pub action: Option<Patterns>,
    /// Condition: the step's `run` name, or its title.
    pub step: Option<Patterns>,
    /// Condition: name of the check that failed before any work.
    pub check: Option<Patterns>,
    /// Condition: name of an [`ErrorClass`].
    #[serde(deserialize_with = "classes")]
    pub class: Option<Patterns>,
    /// Condition: name of an [`ErrorKind`].
    #[serde(deserialize_with = "kinds")]
    pub kind: Option<Patterns>,
    pub datacenter: Option<Patterns>,
    pub rack: Option<Patterns>,
    pub sku: Option<Patterns>,
    pub owner: Option<Patterns>,

    pub site: Option<String>,
    pub project: Option<String>,
    pub issue_type: Option<String>,
    pub components: Vec<String>,
    /// Labels, added to those of the default route.
    pub labels: Vec<String>,
    pub priority: Option<String>,
    /// Account at that Jira site.
    pub assignee: Option<String>,
    /// Other fields by their id, in the form of Jira's REST API.
    pub fields: BTreeMap<String, serde_json::Value>,
}

impl RouteRule {
    /// Conditions that the rule sets, with their names.
    fn conditions(&self) -> Vec<(&'static str, &Patterns)> {
        let all = [
            ("action", &self.action),
            ("step", &self.step),
            ("check", &self.check),
            ("class", &self.class),
            ("kind", &self.kind),
            ("datacenter", &self.datacenter),
            ("rack", &self.rack),
            ("sku", &self.sku),
            ("owner", &self.owner),
        ];
        all.into_iter().filter_map(|(name, patterns)| Some((name, patterns.as_ref()?))).collect()
    }

    /// Conditions with the values that meet them; `None` when a condition is not met.
    fn matches(&self, failure: &HostFailure) -> Option<Vec<String>> {
        let mut met = Vec::new();
        for (name, patterns) in self.conditions() {
            let values: Vec<&str> = match (name, &failure.source) {
                ("action", _) => vec![&failure.action],
                ("step", Source::Step { run, title }) => vec![run, title],
                ("check", Source::Check { name }) => vec![name],
                ("class", _) => vec![failure.kind.class().as_str()],
                ("kind", _) => vec![failure.kind.as_str()],
                ("datacenter", _) => vec![&failure.datacenter],
                ("rack", _) => vec![&failure.rack],
                ("sku", _) => vec![&failure.sku],
                ("owner", _) => vec![&failure.owner],
                _ => Vec::new(),
            };
            let value = values.into_iter().find(|value| patterns.match_any(value))?;
            met.push(format!("{name} = {value}"));
        }
        Some(met)
    }

    /// True if this rule takes every failure that the other rule takes.
    fn covers(&self, other: &RouteRule) -> bool {
        let others = other.conditions();
        self.conditions().into_iter().all(|(name, mine)| {
            let theirs = others.iter().find(|(other, _)| *other == name).map(|(_, theirs)| *theirs);
            theirs.is_some_and(|theirs| mine.covers(theirs))
        })
    }
}

/// Destination of a ticket: its Jira site, project and fields.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct TicketTarget {
    /// Name of the Jira site.
    pub site: String,
    pub project: String,
    pub issue_type: String,
    #[serde(default)]
    pub components: Vec<String>,
    #[serde(default)]
    pub labels: Vec<String>,
    pub priority: Option<String>,
    pub assignee: Option<String>,
    /// Other fields by their id, each as JSON in the form that Jira accepts.
    #[serde(default)]
    pub fields: BTreeMap<String, String>,
}

impl TicketTarget {
    /// Name of the target for people: `HW (Bug)`, with the site if it is not the default one.
    pub fn name(&self, default_site: &str) -> String {
        match self.site == default_site {
            true => format!("{} ({})", self.project, self.issue_type),
            false => format!("{} ({}) at {}", self.project, self.issue_type, self.site),
        }
    }
}

/// Chosen target of a failure, with the reasons.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Routed {
    /// Name of the rule, or its position, for people.
    pub rule: String,
    /// Conditions that were met, for people; empty for the default route.
    pub met: Vec<String>,
    pub target: TicketTarget,
}

/// All routes: the rules in order, and the default route.
#[derive(Clone, PartialEq, Debug)]
pub struct Routes {
    pub rules: Vec<RouteRule>,
    pub default: TicketTarget,
}

impl Routes {
    /// Chooses the route of a failure: the first rule that matches, or the default route.
    pub fn route(&self, failure: &HostFailure) -> Routed {
        let first = self
            .rules
            .iter()
            .enumerate()
            .find_map(|(index, rule)| Some((index, rule, rule.matches(failure)?)));
        match first {
            Some((index, rule, met)) => Routed {
                rule: rule.name.clone().unwrap_or_else(|| format!("route {}", index + 1)),
                met,
                target: self.target(rule),
            },
            None => Routed {
                rule: "default route".into(),
                met: Vec::new(),
                target: self.default.clone(),
            },
        }
    }

    /// TicketTarget of a rule. A rule for another site than the default's inherits no components,
    /// priority or fields, because they mean nothing at another site.
    pub fn target(&self, rule: &RouteRule) -> TicketTarget {
        let default = &self.default;
        let labels = default.labels.iter().chain(&rule.labels);
        let mut target = TicketTarget {
            site: rule.site.clone().unwrap_or_else(|| default.site.clone()),
            project: rule.project.clone().unwrap_or_else(|| default.project.clone()),
            issue_type: rule.issue_type.clone().unwrap_or_else(|| default.issue_type.clone()),
            components: rule.components.clone(),
            labels: labels.cloned().collect(),
            priority: rule.priority.clone(),
            assignee: rule.assignee.clone(),
            fields: rule
                .fields
                .iter()
                .map(|(field, value)| (field.clone(), value.to_string()))
                .collect(),
        };
        target.labels.sort();
        target.labels.dedup();
        target
    }

    /// Rules that never apply: `(index, index of the earlier rule that takes all its failures)`.
    pub fn unreachable(rules: &[RouteRule]) -> Vec<(usize, usize)> {
        let before = |(index, rule): (usize, &RouteRule)| {
            let cover = rules[..index].iter().position(|earlier| earlier.covers(rule))?;
            Some((index, cover))
        };
        rules.iter().enumerate().filter_map(before).collect()
    }
}

/// Reaction to a failure whose ticket is no longer open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Afterwards {
    /// Another ticket is filed.
    New,
    /// The closed ticket gets a comment and stays closed.
    Comment,
    /// Nothing changes: the closed ticket covers the failure.
    Nothing,
}

/// `[tickets]`: what belongs into one ticket, where it is filed, and what a later failure does to it.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TicketPolicy {
    /// Largest time between failures of different batches that may have one cause.
    #[serde(with = "human_duration")]
    pub group_window: Duration,
    /// Time after its end in which a ticket is opened again rather than followed by another one.
    #[serde(with = "human_duration")]
    pub reopen_within: Duration,
    /// Reaction to a failure later than that.
    pub after_reopen: Afterwards,
    /// Reaction to a failure whose ticket was closed as one that nobody will fix.
    pub after_wont_fix: Afterwards,
    /// Resolutions in Jira that mean that nobody will fix the cause.
    pub wont_fix: Vec<String>,
    /// Transitions that reopen a closed ticket; the first one that Jira offers is used.
    pub reopen_by: Vec<String>,
    /// Transitions that close a ticket after its hosts succeeded; empty: it stays open.
    pub close_by: Vec<String>,
    /// Interval at which the states of open tickets are read.
    #[serde(with = "human_duration")]
    pub poll_interval: Duration,
    /// Time after a lost answer in which the ticket may still appear in a search; only then is it
    /// filed again.
    #[serde(with = "human_duration")]
    pub create_confirm_timeout: Duration,
    /// Channel in which operators are notified of tickets that need them, as `platform/channel`;
    /// without it, the batch's thread.
    pub operators: Option<String>,
    /// Routes of failures: the first rule that matches takes one, and `[jira]` itself the rest.
    pub route: Vec<RouteRule>,
}

impl Default for TicketPolicy {
    fn default() -> Self {
        let minutes = |count: u64| Duration::from_secs(count * 60);
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        TicketPolicy {
            group_window: minutes(30),
            reopen_within: minutes(60 * 24 * 7),
            after_reopen: Afterwards::New,
            after_wont_fix: Afterwards::Nothing,
            wont_fix: words(&["Won't Fix", "Won't Do", "Declined"]),
            reopen_by: words(&["Reopen Issue", "Reopen", "To Do"]),
            close_by: Vec::new(),
            poll_interval: minutes(1),
            create_confirm_timeout: minutes(2),
            operators: None,
            route: Vec::new(),
        }
    }
}

/// State of a ticket when another failure of its signature occurs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// The ticket waits to be filed, or is open.
    Open,
    /// Resolved, this long ago.
    Done { since: Duration },
    /// Closed as one that nobody will fix.
    Declined,
    /// The ticket no longer exists in Jira.
    Gone,
}

/// Change that a failure makes to the tickets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TicketUpdate {
    /// The hosts are added to the open ticket, with a comment.
    Join,
    /// The closed ticket is reopened, and the hosts are added with a comment.
    Reopen,
    /// A closed ticket gets a comment and stays closed.
    Comment,
    /// Nothing changes: the closed ticket covers the failure.
    Nothing,
    /// A new ticket is filed.
    New,
}

impl TicketPolicy {
    pub fn act(&self, standing: Standing) -> TicketUpdate {
        let after = |policy| match policy {
            Afterwards::New => TicketUpdate::New,
            Afterwards::Comment => TicketUpdate::Comment,
            Afterwards::Nothing => TicketUpdate::Nothing,
        };
        match standing {
            Standing::Open => TicketUpdate::Join,
            Standing::Done { since } if since <= self.reopen_within => TicketUpdate::Reopen,
            Standing::Done { .. } => after(self.after_reopen),
            Standing::Declined => after(self.after_wont_fix),
            Standing::Gone => TicketUpdate::New,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> HostFailure {
        HostFailure {
            host: "web07".parse().unwrap(),
            owner: "web-owners".into(),
            datacenter: "fra1".into(),
            rack: "r11".into(),
            sku: "c6-large".into(),
            bmc: BmcIdentity::default(),
            usual: UsualBmc::default(),
            action: "reboot".into(),
            source: Source::Step { run: "power".into(), title: "cut the power".into() },
            kind: ErrorKind::BmcUnreachable,
            error: "the BMC at 10.0.0.7 does not answer".into(),
        }
    }

    fn rules(toml: &str) -> Vec<RouteRule> {
        #[derive(Deserialize)]
        struct File {
            route: Vec<RouteRule>,
        }
        toml::from_str::<File>(toml).unwrap().route
    }

    fn routes(toml: &str) -> Routes {
        let default = TicketTarget {
            site: "main".into(),
            project: "OPS".into(),
            issue_type: "Task".into(),
            components: Vec::new(),
            labels: vec!["metalbot".into()],
            priority: None,
            assignee: None,
            fields: BTreeMap::new(),
        };
        Routes { rules: rules(toml), default }
    }

    #[test]
    fn globs() {
        for (pattern, text) in [
            ("*", ""),
            ("*", "a"),
            ("bmc_*", "bmc_busy"),
            ("*_busy", "bmc_busy"),
            ("a*b*c", "a1b2c"),
            ("a*b*c", "abc"),
            ("a**", "a"),
            ("fra1", "fra1"),
            ("*ab", "aab"),
        ] {
            assert!(glob(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("fra1", "fra12"),
            ("", "a"),
            ("a*a", "a"),
            ("bmc_*", "power"),
            ("*a", "ab"),
            ("F*", "fra"),
        ] {
            assert!(!glob(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn the_first_rule_that_matches_takes_it_and_the_default_takes_the_rest() {
        let routes = routes(
            "[[route]]\nname = \"network\"\nkind = [\"power_*\", \"bmc_unreachable\"]\ndatacenter = \"ams*\"\nproject = \"NET\"
             [[route]]\nstep = \"power\"\nclass = \"transient\"\nproject = \"HW\"\nissue_type = \"Bug\"\nlabels = [\"dc\"]\nfields = { customfield_1 = { value = \"x\" } }
             [[route]]\nstep = \"cut the power\"\nproject = \"LATE\"",
        );
        let routed = routes.route(&failure());
        assert_eq!(routed.rule, "route 2");
        assert_eq!(routed.met, ["step = power", "class = transient"]);
        assert_eq!((&routed.target.project[..], &routed.target.issue_type[..]), ("HW", "Bug"));
        assert_eq!(routed.target.labels, ["dc", "metalbot"]);
        assert_eq!(routed.target.fields["customfield_1"], "{\"value\":\"x\"}");
        let away = HostFailure { datacenter: "ams2".into(), ..failure() };
        assert_eq!(routes.route(&away).rule, "network");
        assert_eq!(routes.route(&away).target.project, "NET");
        let late = HostFailure { kind: ErrorKind::PowerState, ..failure() };
        assert_eq!(routes.route(&late).target.project, "LATE");
        let check = HostFailure { source: Source::Check { name: "bmc_console".into() }, ..late };
        let routed = routes.route(&check);
        assert_eq!((&routed.rule[..], routed.met.len()), ("default route", 0));
        assert_eq!(routed.target, routes.default);
    }

    #[test]
    fn checks_route_by_their_name() {
        let routes = routes("[[route]]\ncheck = \"bmc_*\"\nproject = \"HW\"");
        let check =
            HostFailure { source: Source::Check { name: "bmc_console".into() }, ..failure() };
        assert_eq!(routes.route(&check).met, ["check = bmc_console"]);
        assert_eq!(routes.route(&failure()).rule, "default route");
    }

    #[test]
    fn rules_behind_a_wider_one_are_found() {
        let found = |toml| Routes::unreachable(&rules(toml));
        assert_eq!(
            found("[[route]]\nrack = \"r1\"\n[[route]]\nproject = \"A\"\n[[route]]\nsku = \"c\""),
            [(2, 1)]
        );
        assert_eq!(
            found("[[route]]\nkind = \"*\"\n[[route]]\nkind = \"bmc_busy\"\nsku = \"c\""),
            [(1, 0)]
        );
        assert_eq!(
            found(
                "[[route]]\nkind = [\"bmc_busy\", \"boot_device\"]\n[[route]]\nkind = \"bmc_busy\"\nsku = \"c\""
            ),
            [(1, 0)]
        );
        assert_eq!(
            found("[[route]]\nkind = \"bmc_busy\"\nsku = \"c\"\n[[route]]\nkind = \"bmc_busy\""),
            []
        );
        // A rule with a condition on steps does not take checks.
        assert_eq!(found("[[route]]\nstep = \"*\"\n[[route]]\nkind = \"bmc_busy\""), []);
    }

    #[test]
    fn wrong_rules_are_refused() {
        for wrong in ["kind = []", "kind = \"\"", "kind = 1", "colour = \"x\"", "rack = [1]"] {
            assert!(toml::from_str::<RouteRule>(wrong).is_err(), "{wrong}");
        }
        for (wrong, expected) in [
            ("kind = \"bmc_bsy\"", "\"bmc_bsy\" is no kind of error; did you mean bmc_busy?"),
            ("kind = [\"bmc_*\", \"net_*\"]", "\"net_*\" is no kind of error; there is bmc_busy, "),
            ("class = \"fatal\"", "\"fatal\" is no class of errors; there is transient, "),
        ] {
            let error = toml::from_str::<RouteRule>(wrong).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn what_a_second_failure_does() {
        let policy = TicketPolicy::default();
        let days = |days: u64| Standing::Done { since: Duration::from_secs(days * 86_400) };
        assert_eq!(policy.act(Standing::Open), TicketUpdate::Join);
        assert_eq!(policy.act(days(7)), TicketUpdate::Reopen);
        assert_eq!(policy.act(days(8)), TicketUpdate::New);
        assert_eq!(policy.act(Standing::Declined), TicketUpdate::Nothing);
        let policy = TicketPolicy {
            after_reopen: Afterwards::Comment,
            after_wont_fix: Afterwards::New,
            ..policy
        };
        assert_eq!(policy.act(days(8)), TicketUpdate::Comment);
        assert_eq!(policy.act(Standing::Declined), TicketUpdate::New);
    }
}
