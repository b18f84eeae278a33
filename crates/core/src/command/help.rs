//! Help pages as data. Templates and the API render them.

use serde::{Deserialize, Serialize};

use super::check::COMMON_KEYS;
use super::plan;
use super::spec::{ActionSpec, ArgKind, ArgSpec, Catalog};
use super::verbs::{self, VERBS, Verb};
use crate::domain::workflow::{Check, Risk};

/// A page of help.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "page", rename_all = "snake_case")]
pub enum HelpPage {
    Overview {
        actions: Vec<ActionHelp>,
        verbs: Vec<VerbHelp>,
        common: Vec<ArgHelp>,
        /// Forms of node sets, with their meaning.
        sets: Vec<SetHelp>,
    },
    Action(ActionHelp),
    Verb(VerbHelp),
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct VerbHelp {
    pub name: String,
    pub usage: String,
    pub summary: String,
    pub examples: Vec<String>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ActionHelp {
    pub name: String,
    pub usage: String,
    pub summary: String,
    pub risk: Risk,
    /// Preflight checks, which run before anybody is asked to approve.
    pub checks: Vec<String>,
    pub args: Vec<ArgHelp>,
    pub common: Vec<ArgHelp>,
    /// Titles of the steps when only the required arguments are given.
    pub steps: Vec<String>,
    pub examples: Vec<String>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ArgHelp {
    pub name: String,
    /// Kind of the value; `None` for the parameters that all actions have.
    pub kind: Option<ArgKind>,
    pub required: bool,
    pub default: Option<String>,
    pub choices: Vec<String>,
    /// Allowed values in words, with an example.
    pub expected: String,
    pub help: String,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SetHelp {
    pub set: String,
    pub meaning: String,
}

/// Help page of a verb or an action, or the overview; `None` when there is no such name.
pub fn help(catalog: &Catalog, topic: Option<&str>) -> Option<HelpPage> {
    let Some(topic) = topic else {
        return Some(HelpPage::Overview {
            actions: catalog.actions().map(action_help).collect(),
            verbs: VERBS.iter().map(verb_help).collect(),
            common: common(),
            sets: sets(),
        });
    };
    match catalog.get(topic) {
        Some(action) => Some(HelpPage::Action(action_help(action))),
        None => verbs::find(topic).map(|verb| HelpPage::Verb(verb_help(verb))),
    }
}

/// Examples of node sets, with their meaning.
const SETS: [(&str, &str); 7] = [
    ("web01,db01", "these two hosts"),
    ("web[01-12,15]", "web01 to web12, and web15"),
    ("@web", "the group web of the inventory"),
    ("@dc:fra1", "a datacenter; also rack:, owner: and sku:"),
    ("@web!web03", "the group web without web03"),
    ("@web&@rack:r12", "hosts that are in both"),
    ("@web^@canary", "hosts that are in one but not in both"),
];

fn sets() -> Vec<SetHelp> {
    let help = |(set, meaning): &(&str, &str)| SetHelp {
        set: (*set).to_owned(),
        meaning: (*meaning).to_owned(),
    };
    SETS.iter().map(help).collect()
}

fn verb_help(verb: &Verb) -> VerbHelp {
    VerbHelp {
        name: verb.name.to_owned(),
        usage: verb.usage.to_owned(),
        summary: verb.summary.to_owned(),
        examples: verb.examples.iter().map(|&example| example.to_owned()).collect(),
    }
}

fn action_help(action: &ActionSpec) -> ActionHelp {
    let name = &action.name;
    let mut args = plan::Args::new();
    let mut required = String::new();
    let mut optional = String::new();
    let mut example = String::new();
    for (arg, spec) in &action.args {
        let sample = spec.samples().into_iter().next();
        match (spec.default_value(), sample) {
            (Some(default), _) => {
                optional += &format!(" [{arg}={}]", alternatives(spec));
                args.insert(arg.clone(), default);
            }
            (None, Some(sample)) => {
                required += &format!(" {arg}={}", alternatives(spec));
                example += &format!(" {arg}={}", sample.text());
                args.insert(arg.clone(), sample);
            }
            (None, None) => {}
        }
    }
    let steps = plan::steps(action, &args).unwrap_or_default();
    ActionHelp {
        name: name.clone(),
        usage: format!("{name} HOSTS{required}{optional} [reason=TEXT] [wave=SIZES]"),
        summary: action.summary.clone(),
        risk: action.risk,
        checks: action.checks.iter().map(|check| check_title(*check).to_owned()).collect(),
        args: action.args.iter().map(|(arg, spec)| arg_help(arg, spec)).collect(),
        common: common(),
        steps: steps.into_iter().map(|step| step.title).collect(),
        examples: vec![
            format!("{name} web03{example}"),
            format!("{name} web[01-12]{example} reason=\"kernel CVE-2026-1\""),
            format!("{name} @web!web03{example} wave=1,10%,50% max-fail=2"),
        ],
    }
}

fn check_title(check: Check) -> &'static str {
    match check {
        Check::BmcConsole => "its BMC answers and lets us in",
    }
}

/// Allowed values in short form: `soft|hard`, `true|false`, `DURATION`, `NUMBER`.
fn alternatives(spec: &ArgSpec) -> String {
    match spec.kind {
        ArgKind::Choice => spec.choices.join("|"),
        ArgKind::Flag => "true|false".into(),
        ArgKind::Duration => "DURATION".into(),
        ArgKind::Count => "NUMBER".into(),
    }
}

fn arg_help(name: &str, spec: &ArgSpec) -> ArgHelp {
    let default = spec.default_value();
    ArgHelp {
        name: name.to_owned(),
        kind: Some(spec.kind),
        required: default.is_none(),
        default: default.map(|value| value.text()),
        choices: spec.choices.clone(),
        expected: spec.expected(),
        help: spec.help.clone(),
    }
}

fn common() -> Vec<ArgHelp> {
    COMMON_KEYS
        .iter()
        .map(|key| ArgHelp {
            name: key.name.to_owned(),
            kind: None,
            required: false,
            default: None,
            choices: Vec::new(),
            expected: key.expected.to_owned(),
            help: key.help.to_owned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::rack;
    use super::super::{Command, CommandLimits, understand};
    use super::*;

    const NOW: time::OffsetDateTime = time::macros::datetime!(2026-11-23 18:40 UTC);

    #[test]
    fn every_example_is_understood() {
        let catalog = Catalog::load(None).unwrap();
        let Some(HelpPage::Overview { actions, verbs, sets, .. }) = help(&catalog, None) else {
            panic!("no overview");
        };
        let examples = actions
            .iter()
            .flat_map(|action| action.examples.iter().map(String::as_str))
            .chain(verbs.iter().flat_map(|verb| verb.examples.iter().map(String::as_str)));
        for example in examples {
            let understood = understand(example, &catalog, &rack(), &CommandLimits::default(), NOW);
            assert!(understood.is_ok(), "{example}: {understood:?}");
        }
        assert_eq!(sets.len(), SETS.len());
        for verb in &VERBS {
            assert!(matches!(help(&catalog, Some(verb.name)), Some(HelpPage::Verb(_))));
            let topic = format!("help {}", verb.name);
            let understood = understand(&topic, &catalog, &rack(), &CommandLimits::default(), NOW);
            assert_eq!(understood, Ok(Command::Help { topic: Some(verb.name.into()) }));
        }
        assert_eq!(help(&catalog, Some("nonsense")), None);
    }

    #[test]
    fn the_page_of_an_action() {
        let catalog = Catalog::load(None).unwrap();
        let page = help(&catalog, Some("power-off")).unwrap();
        let json = serde_json::to_value(page).unwrap();
        assert_eq!(
            json["usage"],
            "power-off HOSTS [force=true|false] [mode=soft|hard] [wait=DURATION] [reason=TEXT] \
             [wave=SIZES]"
        );
        assert_eq!(json["page"], "action");
        assert_eq!(json["steps"][0], "ask it to shut down");
        assert_eq!(json["args"][2]["default"], "5m");
    }
}
