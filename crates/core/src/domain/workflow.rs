//! Plan of a batch: the work on each of its hosts, fixed at submission.
//!
//! A [`Plan`] is stored with its batch: a later change of `commands/` does not change an approved
//! batch. Approvals are for its [`digest`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::host::HostName;
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
}

impl StepAction {
    /// Name of the step in `run` of `commands/*.toml`.
    pub fn name(&self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        value["run"].as_str().unwrap_or_default().to_owned()
    }
}

/// Step with its limits.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
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

/// Plan: the work on every host of a batch, and its pace.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Plan {
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

impl Plan {
    /// True if a host may be left without power when its step number `failed` failed: an earlier
    /// step cut the power, or this step waited in vain for the host to be on.
    pub fn leaves_down(&self, failed: usize) -> bool {
        let waited = self.steps.get(failed).map(|step| &step.action);
        if let Some(StepAction::WaitPower { is: PowerIs::On, .. }) = waited {
            return true;
        }
        let done = self.steps.iter().take(failed).rev();
        let mut states = done.filter_map(|step| match step.action {
            StepAction::Power { to: PowerTo::Off } => Some(true),
            StepAction::Power { to: PowerTo::On | PowerTo::Cycle | PowerTo::Reset } => Some(false),
            StepAction::WaitPower { is, on_deadline: OnDeadline::Fail } => Some(is == PowerIs::Off),
            // A host may ignore a request to shut down.
            StepAction::Power { to: PowerTo::Soft }
            | StepAction::WaitPower { on_deadline: OnDeadline::Continue, .. }
            | StepAction::Identify { .. }
            | StepAction::BootDevice { .. } => None,
        });
        states.next().unwrap_or(false)
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
            (0..plan.steps.len()).map(|failed| plan.leaves_down(failed)).collect()
        };
        let (on, off) = (PowerIs::On, PowerIs::Off);
        let reboot = steps(&[
            power(PowerTo::Off),
            wait(off, OnDeadline::Fail),
            power(PowerTo::On),
            wait(on, OnDeadline::Fail),
        ]);
        assert_eq!(is_down(&reboot), [false, true, true, true]);
        let soft = steps(&[
            power(PowerTo::Soft),
            wait(off, OnDeadline::Continue),
            power(PowerTo::Off),
            wait(off, OnDeadline::Fail),
        ]);
        assert_eq!(is_down(&soft), [false, false, false, true]);
        let cycle = steps(&[power(PowerTo::Cycle), StepAction::Identify { seconds: 1 }]);
        assert_eq!(is_down(&cycle), [false, false]);
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
