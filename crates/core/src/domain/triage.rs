//! Triage: which ticket a failure becomes, by the failure's facts, the rules that route it, and what a second
//! failure does to a ticket that is there.
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

/// One host that something went wrong with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostFailure {
    pub host: HostName,
    pub owner: String,
    pub datacenter: String,
    pub rack: String,
    pub sku: String,
    pub bmc: BmcIdentity,
    /// Parts of that which most of the fleet has now.
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
    /// A step that was tried: what `run` calls it, and its title for people.
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

/// Words that a value has to match, one of them; `*` in a word stands for any text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Patterns(Vec<String>);

impl Patterns {
    pub fn match_any(&self, text: &str) -> bool {
        self.0.iter().any(|pattern| glob(pattern, text))
    }

    /// The first pattern that matches none of these names.
    fn matching_none(&self, names: &[&str]) -> Option<&str> {
        let matches_none =
            |pattern: &&String| !names.iter().any(|name| glob(pattern.as_str(), name));
        self.0.iter().find(matches_none).map(String::as_str)
    }

    /// Whether whatever `other` matches is certainly matched by this, too.
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

/// Reads patterns for the names of kinds. One that matches none is an error that names the near
/// ones.
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

/// Reads patterns for the names of classes. One that matches none is an error.
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

/// Whether `*` in the pattern can stand for something so that it is the text.
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
    /// For people.
    pub name: Option<String>,

    pub action: Option<Patterns>,
    /// Name of the step in `run`, or its title.
    pub step: Option<Patterns>,
    /// Name of the check that failed before anything was tried.
    pub check: Option<Patterns>,
    /// Names of [`ErrorClass`].
    #[serde(deserialize_with = "classes")]
    pub class: Option<Patterns>,
    /// Names of [`ErrorKind`].
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
    /// Beside those of the default route.
    pub labels: Vec<String>,
    pub priority: Option<String>,
    /// Account in that Jira.
    pub assignee: Option<String>,
    /// Other fields by their id, as Jira's REST API takes them.
    pub fields: BTreeMap<String, serde_json::Value>,
}

impl RouteRule {
    /// Conditions that the rule has, by name.
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

    /// Each condition with the value that meets it, or `None` when one is not met.
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

    /// Whether no failure that this rule does not take could be taken by the other.
    fn covers(&self, other: &RouteRule) -> bool {
        let others = other.conditions();
        self.conditions().into_iter().all(|(name, mine)| {
            let theirs = others.iter().find(|(other, _)| *other == name).map(|(_, theirs)| *theirs);
            theirs.is_some_and(|theirs| mine.covers(theirs))
        })
    }
}

/// Where a ticket is filed, and with what.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Target {
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
    /// Other fields by their id, each as the JSON that Jira takes.
    #[serde(default)]
    pub fields: BTreeMap<String, String>,
}

impl Target {
    /// For people: `HW (Bug)`, with the site where it is not the default one.
    pub fn name(&self, default_site: &str) -> String {
        match self.site == default_site {
            true => format!("{} ({})", self.project, self.issue_type),
            false => format!("{} ({}) at {}", self.project, self.issue_type, self.site),
        }
    }
}

/// Where a failure goes, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Routed {
    /// For people: the rule's name or its place.
    pub rule: String,
    /// The conditions that were met, for people; empty for the default route.
    pub met: Vec<String>,
    pub target: Target,
}

/// The rules in order, and where everything else goes.
#[derive(Clone, PartialEq, Debug)]
pub struct Routes {
    pub rules: Vec<RouteRule>,
    pub default: Target,
}

impl Routes {
    /// The first rule that matches takes the failure.
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

    /// Where a rule sends what it takes. A rule for another site than the default's inherits no
    /// components, priority or fields: they mean nothing there.
    pub fn target(&self, rule: &RouteRule) -> Target {
        let default = &self.default;
        let labels = default.labels.iter().chain(&rule.labels);
        let mut target = Target {
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

    /// Rules that can never take anything: `(index, index of the rule before that takes all)`.
    pub fn unreachable(rules: &[RouteRule]) -> Vec<(usize, usize)> {
        let before = |(index, rule): (usize, &RouteRule)| {
            let cover = rules[..index].iter().position(|earlier| earlier.covers(rule))?;
            Some((index, cover))
        };
        rules.iter().enumerate().filter_map(before).collect()
    }
}

/// Reaction to a failure whose ticket is not open any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Afterwards {
    /// Another ticket is filed.
    New,
    /// The old one gets a comment and stays closed.
    Comment,
    /// The old one covers it.
    Nothing,
}

/// `[tickets]`: what belongs into one ticket, where it is filed, and what a later failure does to it.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TicketPolicy {
    /// Failures of different batches that are this close in time may have one cause.
    #[serde(with = "human_duration")]
    pub group_window: Duration,
    /// Time after its end in which a ticket is opened again rather than followed by another one.
    #[serde(with = "human_duration")]
    pub reopen_within: Duration,
    /// Reaction to a failure later than that.
    pub after_reopen: Afterwards,
    /// Reaction to a failure whose ticket was closed as one that nobody will fix.
    pub after_wont_fix: Afterwards,
    /// Resolutions that mean that nobody will fix it.
    pub wont_fix: Vec<String>,
    /// Transitions that open a closed ticket; the first that Jira offers is taken.
    pub reopen_by: Vec<String>,
    /// Transitions that close a ticket whose hosts have succeeded since; none: it stays open.
    pub close_by: Vec<String>,
    /// Period in which the states of open tickets are read.
    #[serde(with = "human_duration")]
    pub poll_interval: Duration,
    /// Time after a lost answer in which the ticket may still appear in a search; only then is it
    /// filed again.
    #[serde(with = "human_duration")]
    pub create_confirm_timeout: Duration,
    /// Channel in which operators are notified of tickets that need them, as `platform/channel`;
    /// without it, the batch's thread.
    pub operators: Option<String>,
    /// Where failures go: the first rule that matches takes one, and `[jira]` itself the rest.
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

/// State of a ticket when another failure of its signature comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It waits to be filed, or is open.
    Open,
    /// Done, so long ago.
    Done { since: Duration },
    /// Closed as one that nobody will fix.
    Declined,
    /// Jira does not have it any more.
    Gone,
}

/// Change that a failure makes to the tickets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TicketUpdate {
    /// The open ticket takes the hosts in, and a comment says so.
    Join,
    /// The same for a closed one, which is opened again.
    Reopen,
    /// A closed ticket gets a comment and stays closed.
    Comment,
    /// The closed ticket says it all.
    Nothing,
    /// A new ticket.
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
        let default = Target {
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
