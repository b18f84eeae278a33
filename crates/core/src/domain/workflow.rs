//! Plan of a batch: the work on each of its hosts, fixed at submission.
//!
//! A [`Plan`] is stored with its batch: a later change of `commands/` does not change an approved
//! batch. Approvals are for its [`digest`].
//!
//! Invariant: a plan is understood as a whole or not at all. Its version says which releases know all
//! of its fields and steps; a plan that is newer, or that has a field which its version does not have,
//! is an error for its batch alone ([`PLAN_VERSION`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use super::host::HostName;
use super::report::ReportKind;
use super::rollout::Rollout;

/// Degree of harm that an action can do; approval rules depend on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Risk {
    Harmless,
    Disruptive,
    Destructive,
}

impl Risk {
    pub fn as_str(self) -> &'static str {
        match self {
            Risk::Harmless => "harmless",
            Risk::Disruptive => "disruptive",
            Risk::Destructive => "destructive",
        }
    }
}

impl fmt::Display for Risk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A power command, IPMI 2.0 section 28.3.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerTo {
    On,
    /// Cuts the power.
    Off,
    /// Asks the operating system to shut down (ACPI).
    Soft,
    /// Turns the power off and on again in one command. After a lost reply the effect cannot be
    /// known, so actions that must survive a crash use `off` and then `on`.
    Cycle,
    /// Hard reset without a power-down.
    Reset,
}

/// Power state that a step can wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerIs {
    On,
    Off,
}

/// Boot device selectors, IPMI 2.0 table 28-14, parameter 5.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BootDevice {
    None,
    Pxe,
    Disk,
    Safe,
    Diag,
    Cdrom,
    Bios,
}

/// Reaction when a wait reaches its deadline.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDeadline {
    #[default]
    Fail,
    /// Go on with the next step, which is expected to force the change.
    Continue,
}

/// Work of one step, with its parameters. `run` in `commands/*.toml` names the variant.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "run", rename_all = "snake_case", deny_unknown_fields)]
pub enum StepAction {
    /// Sends one power command; sends nothing when the host is already in that state.
    Power { to: PowerTo },
    /// Polls the BMC until the host is on or off.
    WaitPower {
        is: PowerIs,
        #[serde(default)]
        on_deadline: OnDeadline,
    },
    /// Lights the identify lamp. `seconds`: 0 (off) to 255.
    Identify { seconds: u8 },
    /// Sets the device of the next boot.
    BootDevice {
        device: BootDevice,
        #[serde(default)]
        efi: bool,
        #[serde(default)]
        persistent: bool,
    },
    /// Lets the machine itself work on, and waits for its report of this kind.
    WaitReport {
        report: ReportKind,
        /// A worker that takes the job over wants the machine to begin anew: what it was given to
        /// report with is good no longer.
        #[serde(default)]
        revoked_by_takeover: bool,
    },
}

impl StepAction {
    /// First version of plans that has the step.
    fn since(&self) -> u16 {
        match self {
            StepAction::Power { .. }
            | StepAction::WaitPower { .. }
            | StepAction::Identify { .. }
            | StepAction::BootDevice { .. } => 1,
            StepAction::WaitReport { .. } => 2,
        }
    }

    /// Name of the step in `run` of `commands/*.toml`.
    pub fn name(&self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        value["run"].as_str().unwrap_or_default().to_owned()
    }
}

/// Step with its limits.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedStep {
    /// Title for people, in the imperative: `cut the power`.
    pub title: String,
    pub action: StepAction,
    /// Longest time for all attempts of the step together, in seconds.
    pub deadline_secs: u64,
    /// Number of further attempts after a failed one, when the failure is transient.
    pub retry: u32,
    /// The step brings a host that was touched to a safe end: it is also done when the batch was
    /// cancelled meanwhile.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub finishing: bool,
}

impl PlannedStep {
    pub fn deadline(&self) -> Duration {
        Duration::from_secs(self.deadline_secs)
    }
}

/// Preflight check: a read-only look at a host before anybody is asked to approve. `checks` in
/// `commands/*.toml` names them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// The BMC opens a session with Metalbot's credentials and reports the power state.
    BmcConsole,
}

impl Check {
    /// Name of the check in `checks` of `commands/*.toml`.
    pub fn name(self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        value.as_str().unwrap_or_default().to_owned()
    }
}

/// Version of the plans that this release makes, and the newest that it understands. Raised with every
/// field, step and check that the release before does not know: processes of that release leave
/// batches with such plans to newer ones.
pub const PLAN_VERSION: u16 = 2;

/// Version of a plan with these steps: the first that has them all, so that older releases understand
/// what they can.
pub fn plan_version(steps: &[PlannedStep]) -> u16 {
    steps.iter().map(|step| step.action.since()).max().unwrap_or_else(first_version)
}

/// Version of a plan that says none.
fn first_version() -> u16 {
    1
}

fn is_first_version(version: &u16) -> bool {
    *version == first_version()
}

/// Plan: the work on every host of a batch, and its pace.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Plan {
    /// Version of the plan, at most [`PLAN_VERSION`]. The first one is not written, so that digests of
    /// plans from before there were versions stay what they are.
    #[serde(default = "first_version", skip_serializing_if = "is_first_version")]
    pub version: u16,
    pub action: String,
    pub risk: Risk,
    /// Arguments, given or default, by name, in the form that a person would type.
    pub params: BTreeMap<String, String>,
    /// Names of the arguments with default values, which views leave out. Not in the digest, which
    /// covers the work itself.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub at_default: BTreeSet<String>,
    /// Preflight checks. Hosts that fail one are left out before anybody is asked to approve.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub checks: BTreeSet<Check>,
    pub steps: Vec<PlannedStep>,
    pub rollout: Rollout,
}

/// Plan of a newer release.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("plan version {0} is newer than this process knows ({PLAN_VERSION})")]
pub struct NewerPlan(pub u64);

impl Serialize for Plan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Plan::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Plan {
    /// Looks at the version first: what a newer plan holds cannot be judged here.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let plan = serde_json::Value::deserialize(deserializer)?;
        match plan.get("version").and_then(serde_json::Value::as_u64) {
            Some(version) if version > u64::from(PLAN_VERSION) => {
                Err(D::Error::custom(NewerPlan(version)))
            }
            _ => Plan::deserialize(plan).map_err(D::Error::custom),
        }
    }
}

impl Plan {
    /// True if a host may be left without power when its job ends before step `next`: because that
    /// step failed, or because there is none and the work is done. Either an earlier step cut the
    /// power, or the step waited in vain for the host to be on.
    pub fn leaves_down(&self, next: usize) -> bool {
        let waited = self.steps.get(next).map(|step| &step.action);
        if let Some(StepAction::WaitPower { is: PowerIs::On, .. }) = waited {
            return true;
        }
        self.power_before(next) == Some(PowerIs::Off)
    }

    /// True if a host on which all steps succeeded is on: a plan that has nothing to do with the
    /// power does not tell.
    pub fn leaves_on(&self) -> bool {
        self.power_before(self.steps.len()) == Some(PowerIs::On)
    }

    /// The power state after the steps before `next`, as far as they tell.
    fn power_before(&self, next: usize) -> Option<PowerIs> {
        self.steps.iter().take(next).rev().find_map(|step| match step.action {
            StepAction::Power { to: PowerTo::Off } => Some(PowerIs::Off),
            StepAction::Power { to: PowerTo::On | PowerTo::Cycle | PowerTo::Reset } => {
                Some(PowerIs::On)
            }
            StepAction::WaitPower { is, on_deadline: OnDeadline::Fail } => Some(is),
            // A host may ignore a request to shut down.
            StepAction::Power { to: PowerTo::Soft }
            | StepAction::WaitPower { on_deadline: OnDeadline::Continue, .. }
            | StepAction::Identify { .. }
            | StepAction::BootDevice { .. }
            | StepAction::WaitReport { .. } => None,
        })
    }
}

/// SHA-256 over a plan and its sorted hosts. Approvals are for a digest, so that a change after the
/// approval makes it void.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// First 8 hexadecimal digits, enough for people to compare by eye.
    pub fn short(&self) -> String {
        self.to_string()[..8].to_owned()
    }

    /// Reads the 64 hexadecimal digits that [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = hex::decode(text).ok()?;
        Some(Digest(bytes.try_into().ok()?))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Digest of a plan over these hosts, independent of their order.
pub fn digest<'a>(plan: &Plan, hosts: impl IntoIterator<Item = &'a HostName>) -> Digest {
    let mut hosts: Vec<&HostName> = hosts.into_iter().collect();
    hosts.sort();
    // Field order in serde's JSON is the declaration order and maps are sorted, so that equal
    // plans have equal bytes.
    let done = Plan { at_default: BTreeSet::new(), ..plan.clone() };
    let canonical =
        serde_json::to_vec(&(done, hosts)).expect("a plan holds only strings and numbers");
    Digest(Sha256::digest(canonical).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            version: first_version(),
            action: "reboot".into(),
            risk: Risk::Disruptive,
            params: BTreeMap::from([("wait".into(), "5m".into())]),
            at_default: BTreeSet::new(),
            checks: BTreeSet::new(),
            steps: vec![PlannedStep {
                title: "cut the power".into(),
                action: StepAction::Power { to: PowerTo::Off },
                deadline_secs: 60,
                retry: 3,
                finishing: false,
            }],
            rollout: Rollout::default(),
        }
    }

    fn hosts(names: &[&str]) -> Vec<HostName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn a_host_is_left_down_between_off_and_on() {
        let steps = |actions: &[StepAction]| {
            let template = plan().steps.remove(0);
            let step =
                |action: &StepAction| PlannedStep { action: action.clone(), ..template.clone() };
            Plan { steps: actions.iter().map(step).collect(), ..plan() }
        };
        let power = |to| StepAction::Power { to };
        let wait = |is, on_deadline| StepAction::WaitPower { is, on_deadline };
        let is_down = |plan: &Plan| -> Vec<bool> {
            (0..=plan.steps.len()).map(|next| plan.leaves_down(next)).collect()
        };
        let (on, off) = (PowerIs::On, PowerIs::Off);
        let reboot = steps(&[
            power(PowerTo::Off),
            wait(off, OnDeadline::Fail),
            power(PowerTo::On),
            wait(on, OnDeadline::Fail),
        ]);
        assert_eq!(is_down(&reboot), [false, true, true, true, false]);
        assert!(reboot.leaves_on());
        let soft = steps(&[
            power(PowerTo::Soft),
            wait(off, OnDeadline::Continue),
            power(PowerTo::Off),
            wait(off, OnDeadline::Fail),
        ]);
        assert_eq!(is_down(&soft), [false, false, false, true, true]);
        assert!(!soft.leaves_on());
        let cycle = steps(&[power(PowerTo::Cycle), StepAction::Identify { seconds: 1 }]);
        assert_eq!(is_down(&cycle), [false, false, false]);
        assert!(cycle.leaves_on());
        let lamp = steps(&[StepAction::Identify { seconds: 1 }]);
        assert!(!lamp.leaves_on() && !lamp.leaves_down(1));
    }

    fn read(plan: serde_json::Value) -> Result<Plan, String> {
        // As the database hands it over.
        serde_json::from_slice(plan.to_string().as_bytes())
            .map_err(|error: serde_json::Error| error.to_string())
    }

    #[test]
    fn a_plan_is_understood_as_a_whole_or_not_at_all() {
        let stored = serde_json::to_value(plan()).unwrap();
        assert_eq!(read(stored.clone()), Ok(plan()));
        let mut first = stored.clone();
        first["version"] = 1.into();
        assert_eq!(read(first), Ok(plan()), "a plan that says no version is of the first one");
        let mut newer = stored.clone();
        newer["version"] = 7.into();
        newer["steps"][0]["action"] = serde_json::json!({ "run": "teleport" });
        let error = read(newer).unwrap_err();
        assert_eq!(error, "plan version 7 is newer than this process knows (2)");
        for place in ["", "/rollout", "/steps/0", "/steps/0/action"] {
            let mut other = stored.clone();
            other.pointer_mut(place).unwrap()["pause_before"] = "10m".into();
            let error = read(other).expect_err("a field that its version does not have");
            assert!(error.starts_with("unknown field `pause_before`"), "{place}: {error}");
        }
    }

    #[test]
    fn the_digest_of_a_plan_never_changes() {
        let stored = concat!(
            r#"[{"action":"reboot","risk":"disruptive","params":{"wait":"5m"},"steps":[{"title":"#,
            r#""cut the power","action":{"run":"power","to":"off"},"deadline_secs":60,"retry":3}],"#,
            r#""rollout":{"waves":[],"max_concurrent":null,"max_fail":null}},["a","b"]]"#
        );
        let expected = Digest(Sha256::digest(stored).into());
        assert_eq!(digest(&plan(), &hosts(&["a", "b"])), expected);
    }

    #[test]
    fn the_digest_ignores_order_and_sees_every_change() {
        let (ab, ba) = (hosts(&["a", "b"]), hosts(&["b", "a"]));
        let base = digest(&plan(), &ab);
        assert_eq!(digest(&plan(), &ba), base);
        assert_ne!(digest(&plan(), &hosts(&["a"])), base);
        let mut other = plan();
        other.params.insert("wait".into(), "6m".into());
        assert_ne!(digest(&other, &ab), base);
        let mut other = plan();
        other.steps[0].action = StepAction::Power { to: PowerTo::Cycle };
        assert_ne!(digest(&other, &ab), base);
        let mut other = plan();
        other.at_default.insert("wait".into());
        assert_eq!(digest(&other, &ab), base, "how it is shown changes nothing");
        assert_eq!(Digest::parse(&base.to_string()), Some(base));
    }
}
